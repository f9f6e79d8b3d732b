"""Upscale segments of a clip, in any process: decode, compute and encode in a thread each.

``EngineSpec`` and ``ClipJob`` describe the work and can be sent to another process; ``upscale_segments`` does it, and
``Upscaler`` computes the frames.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vsr.errors import OutputError, memory_explained
from vsr.imaging.colour import alpha_of, alpha_to_plane, fill_invisible, planes_to_rgb, rgb_to_codes, rgb_to_planes
from vsr.imaging.motion import Codes, Motion, estimate_motion
from vsr.imaging.resize import resize_bicubic
from vsr.inference import Precision, RuntimeName
from vsr.inference.engine import Engine, FrameSequence, load_model
from vsr.inference.torch_backend import Array, DeviceTransfer, PendingDownload
from vsr.media.clip import ClipInfo, Plane
from vsr.media.pictures import ANIMATION_FORMAT, read_animation, read_pictures
from vsr.media.reader import Damage, Frame, read_frames
from vsr.pipeline.flow import ThreadedConsumer, ThreadedIterator
from vsr.pipeline.journal import seal
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.outputs import FrameWriter, Output
from vsr.pipeline.plan import Conversion, less_memory, queue_bytes
from vsr.pipeline.segments import FinishedSegment, Segment
from vsr.signals import shielded


@dataclass(frozen=True)
class EngineSpec:
    """How to build the engine: the arguments of ``load_model``."""

    model: str
    scale: float | None
    device: str
    engine: RuntimeName
    precision: Precision
    tile_size: int | None
    detail: float
    sharing: int = 1

    def load(self) -> Engine:
        """Build the engine on its device."""
        engine = load_model(
            self.model, scale=self.scale, device=self.device, engine=self.engine, precision=self.precision,
            tile_size=self.tile_size, detail=self.detail, sharing=self.sharing,
        )  # fmt: skip
        engine.record()
        return engine


class EngineCache:
    """Loads engines and keeps the last one, so that the clips of one command share it."""

    def __init__(self) -> None:
        self._kept: tuple[EngineSpec, Engine] | None = None

    def load(self, spec: EngineSpec) -> Engine:
        """Return the kept engine if it was built by the same arguments; else build a new one in its place."""
        if self._kept is None or self._kept[0] != spec:
            self._kept = None  # frees its memory first
            self._kept = spec, spec.load()
        return self._kept[1]

    def forget(self) -> None:
        """Drop the engine, since this clip has changed it in a way that must not affect the next one."""
        self._kept = None


@dataclass(frozen=True)
class ClipJob:
    """One clip's work. It can be pickled.

    Attributes:
        clip: the source.
        options: the user's options.
        output: the planned output.
        conversion: layouts, colours and sizes of the source and the output.
        engine: how to build the engine.
        batch_size: frames per batch.
        threads: threads of the encoder.
        steadied: whether the frames of a frame-wise generator are steadied.
        in_order: whether a frame's result depends on the frames before it.
    """

    clip: ClipInfo
    options: UpscaleOptions
    output: Output
    conversion: Conversion
    engine: EngineSpec
    batch_size: int
    threads: int
    steadied: bool = False
    in_order: bool = False

    def frames(self, segment: Segment, damage: Damage) -> Generator[Frame, None, None]:
        """Decode the frames of a segment, its warm-up first; the damage of its own frames is added to ``damage``."""
        clip, part = self.clip, {"start": segment.first, "end": segment.end}
        if clip.format == ANIMATION_FORMAT:
            return read_animation(clip, **part)
        if clip.pictures:
            return read_pictures(clip, max_pixels=self.options.max_pixels, **part)
        return read_frames(
            clip.path, clip.video, entry=segment.entry, deinterlace=self.options.deinterlace,
            max_pixels=self.options.max_pixels, damage=damage, damage_start=segment.start, **part,
        )  # fmt: skip


Timer = Callable[[str], AbstractContextManager[None]]
"""Measures the duration of its context, for the named stage."""


def untimed(stage: str) -> AbstractContextManager[None]:
    """Measure nothing."""
    return nullcontext()


QUEUE_BYTES = 128 << 20
"""Bytes that may wait on each side of the network at most: about forty frames of 1080p."""

MOTION_THREADS = min(8, os.cpu_count() or 1)
"""Threads that estimate the motion between following frames."""


def upscale_segments(
    job: ClipJob,
    segments: Iterable[Segment],
    engine: Engine,
    folder: Path,
    *,
    on_frames: Callable[[int], None],
    on_finished: Callable[[FinishedSegment, Path], None],
    on_leave: Callable[[], None] = lambda: None,
    timer: Timer = untimed,
) -> None:
    """Upscale segments into folders of their own: decode, compute and encode in a thread each.

    The next segment is decoded while the encoder finishes the one before. A frame that equals the one before is not
    computed again, even across segments. But if frames depend on those before, each segment starts from its warm-up, so
    that its pixels do not depend on which segments were upscaled before it.

    Args:
        job: the clip's work.
        segments: in temporal order; iterated in the decoder's thread, as far ahead as memory allows.
        engine: the engine.
        folder: where the folders are created.
        on_frames: called with the number of frames passed to the encoder since the last call; negative for frames of a
            segment that starts over.
        on_finished: called in the encoder's thread with each finished segment and its folder, synced to the disk.
        on_leave: called when no more segments are needed, for any reason; must end the iteration of ``segments``.
        timer: measures the duration of each stage.

    Raises:
        VsrError: reading, computing or writing failed.
    """
    sequence = FrameSequence(engine, steadied=job.steadied) if job.in_order else None
    upscaler = Upscaler(engine, job.conversion, timer, sequence)
    items = _decoded(job, segments, timer)
    items = _with_motion(items, job.conversion) if job.in_order else items
    max_bytes = queue_bytes(job.options, QUEUE_BYTES)
    with (
        memory_explained(f"upscaling {_describe(job)} on {engine.device}", less_memory()),
        _SegmentWriter(job, folder, on_finished, timer) as writer,
        ThreadedIterator(items, max_bytes=max_bytes, name="vsr-decode") as decoded,
        ThreadedConsumer(writer.write, max_bytes=max_bytes, name="vsr-encode") as encoded,
        ExitStack() as leaving,  # left first
    ):
        leaving.callback(on_leave)
        for batch in _upscaled(_batches(decoded, job.batch_size), upscaler, job.in_order, timer):
            with timer("waiting"):
                for item in batch.items:
                    encoded.put(item)
            if batch.computed:
                on_frames(batch.computed)


def _describe(job: ClipJob) -> str:
    video, conversion = job.clip.video, job.conversion
    return f"{job.clip.path}, {video.width}x{video.height} to {conversion.width}x{conversion.height},"


@dataclass(frozen=True)
class _Start:
    """Marks the start of a segment, before its warm-up."""

    segment: Segment
    nbytes = 0


@dataclass(frozen=True)
class _End:
    """Marks the end of a segment.

    Attributes:
        damage: the damage of its frames.
        discarded: number of frames to discard, since the segment starts over; None: it is complete.
        repeated: number of frames that equalled the one before.
        overflowed: number of frames that overflowed in half precision.
    """

    segment: Segment
    damage: Damage
    discarded: int | None = None
    repeated: int = 0
    overflowed: int = 0
    nbytes = 0


_Item = Frame | _Start | _End


def _decoded(job: ClipJob, segments: Iterable[Segment], timer: Timer) -> Generator[_Item, None, None]:
    """Yield the frames of segments, each between a start and an end. A segment that turns out to be damaged is decoded
    again from an earlier keyframe."""
    with memory_explained(f"decoding {_describe(job)}", less_memory()):
        for segment in segments:
            if segment.earlier_entry is not None:
                yield _Start(segment)
                count, damage = yield from _frames_of(job, segment, timer, until_damage=True)
                discarded = count if _is_visible(damage) else None
                yield _End(segment, damage, discarded)
                if discarded is None:
                    continue
            yield _Start(segment)
            earlier = segment if segment.earlier_entry is None else replace(segment, entry=segment.earlier_entry)
            _, damage = yield from _frames_of(job, earlier, timer)
            yield _End(segment, damage)


def _frames_of(
    job: ClipJob, segment: Segment, timer: Timer, *, until_damage: bool = False
) -> Generator[_Item, None, tuple[int, Damage]]:
    """Yield the frames of a segment; return their number without the warm-up, and their damage."""
    damage, count = Damage(), 0
    with closing(job.frames(segment, damage)) as frames:
        while True:
            with timer("decode"):
                frame = next(frames, None)
            if frame is None or (until_damage and _is_visible(damage)):
                return count, damage
            yield frame
            count += not segment.warms_up_at(frame.pts)


def _with_motion(items: Generator[_Item, None, None], conversion: Conversion) -> Generator[_Item, None, None]:
    """Yield the items with the motion to each frame, which is estimated several frames ahead."""
    ahead: deque[tuple[_Item, Future[Motion] | None]] = deque()
    last: tuple[Plane, ...] = ()
    codes: Codes | None = None

    def take() -> _Item:
        item, motion = ahead.popleft()
        return replace(item, motion=motion.result()) if motion is not None and isinstance(item, Frame) else item

    with closing(items), ThreadPoolExecutor(MOTION_THREADS, "vsr-motion") as pool:
        try:
            for item in items:
                motion = None
                if isinstance(item, _Start):
                    last, codes = (), None
                elif isinstance(item, Frame) and not equal_planes(item.planes, last):
                    before, codes, last = codes, lr_codes(item.planes, conversion), item.planes
                    motion = None if before is None else pool.submit(estimate_motion, before, codes)
                ahead.append((item, motion))
                if len(ahead) > MOTION_THREADS:
                    yield take()
            while ahead:
                yield take()
        finally:
            pool.shutdown(cancel_futures=True)


def _is_visible(damage: Damage) -> bool:
    """Whether frames are lost or concealed, rather than only missing at the end."""
    return bool(damage.concealed or damage.undecodable)


@dataclass(frozen=True)
class _Batch:
    """Frames of a segment, or of its warm-up; or only its start or end.

    Attributes:
        frames: at most ``batch_size`` frames.
        marker: the start or the end.
        warms_up: whether the frames only prepare the state, and are dropped.
    """

    frames: Sequence[Frame] = ()
    marker: _Start | _End | None = None
    warms_up: bool = False

    @property
    def items(self) -> Sequence[_Item]:
        """The items for the encoder."""
        if self.marker is not None:
            return [self.marker]
        return () if self.warms_up else self.frames

    @property
    def computed(self) -> int:
        """Number of frames for the encoder, negative for those that it discards."""
        if isinstance(self.marker, _End):
            return -(self.marker.discarded or 0)
        return 0 if self.warms_up else len(self.frames)


def _batches(items: Iterator[_Item], size: int) -> Iterator[_Batch]:
    frames: list[Frame] = []
    warms_up = False
    for item in items:
        if not isinstance(item, Frame):
            if frames:
                yield _Batch(frames, warms_up=warms_up)
            frames, segment = [], item.segment
            yield _Batch(marker=item)
            continue
        before, warms_up = warms_up, segment.warms_up_at(item.pts)
        if frames and (len(frames) == size or warms_up != before):
            yield _Batch(frames, warms_up=before)
            frames = []
        frames.append(item)


def _upscaled(batches: Iterator[_Batch], upscaler: Upscaler, in_order: bool, timer: Timer) -> Iterator[_Batch]:
    """Yield the batches with results instead of frames; several are in flight if the device works asynchronously."""
    in_flight: deque[_Batch] = deque()

    def finished() -> _Batch:
        batch = in_flight.popleft()
        if batch.frames:
            return replace(batch, frames=upscaler.finish(batch.frames))
        if isinstance(batch.marker, _End):
            return replace(batch, marker=replace(batch.marker, overflowed=upscaler.take_overflowed()))
        return batch

    while True:
        with timer("waiting"):
            batch = next(batches, None)
        if batch is None:
            break
        if batch.frames:
            upscaler.begin(batch.frames)
            if batch.warms_up:
                upscaler.take_repeated()
        elif isinstance(batch.marker, _End):
            batch = replace(batch, marker=replace(batch.marker, repeated=upscaler.take_repeated()))
        elif in_order:
            upscaler.forget()
        in_flight.append(batch)
        while len(in_flight) > upscaler.depth:
            yield finished()
    while in_flight:
        yield finished()


class _SegmentWriter:
    """Writes each segment to a folder, and calls ``on_finished`` when it is complete."""

    def __init__(
        self, job: ClipJob, folder: Path, on_finished: Callable[[FinishedSegment, Path], None], timer: Timer
    ) -> None:
        self._job, self._folder, self._on_finished, self._timer = job, folder, on_finished, timer
        self._segment_folder = folder
        self._writer: FrameWriter | None = None
        self._frames = 0

    def write(self, item: _Item) -> None:
        """Handle the start of a segment, its next frame, or its end."""
        with memory_explained(f"encoding {_describe(self._job)}", less_memory()), self._timer("encode"):
            if isinstance(item, Frame):
                self._open_writer().write(item)
                self._frames += 1
            elif isinstance(item, _Start):
                self._segment_folder = self._folder / f".{item.segment.number:06}-{os.getpid()}"
                self._frames = 0
            elif item.discarded is None:
                self._finish(item, self._open_writer())
            elif self._frames:
                self._discard(self._open_writer())

    def _open_writer(self) -> FrameWriter:
        """Return the segment's writer; the first call creates it and the folder."""
        if self._writer is None:
            try:
                self._segment_folder.mkdir()
            except OSError as exc:
                raise OutputError(f"cannot write to {self._folder}: {exc.strerror}.") from exc
            self._writer = self._job.output.writer(self._segment_folder, self._job.threads)
            self._writer.__enter__()
        return self._writer

    def _discard(self, writer: FrameWriter) -> None:
        self._writer = None
        writer.__exit__(None, None, None)
        try:
            shutil.rmtree(self._segment_folder)
        except OSError as exc:
            raise OutputError(f"cannot remove {self._segment_folder}: {exc.strerror}.") from exc

    def _finish(self, end: _End, writer: FrameWriter) -> None:
        self._writer = None
        writer.__exit__(None, None, None)
        done = FinishedSegment(
            end.segment.number, self._frames, end.repeated, end.damage, tuple(writer.packets), end.overflowed
        )
        self._on_finished(seal(self._segment_folder, done), self._segment_folder)

    def __enter__(self) -> _SegmentWriter:
        return self

    @shielded
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)


class _BatchInFlight(NamedTuple):
    """A batch that is being computed.

    Attributes:
        indices: for each frame the index of its result: 0 is the last result of the batch before, its own follow.
        decoded: the planes of the frames that are computed, on the device.
        download: their results, and which of them are finite; None: there was nothing to compute.
    """

    indices: list[int]
    decoded: list[Tensor]
    download: PendingDownload | None


class Upscaler:
    """Upscales the frames that differ from the one before.

    If the output keeps alpha, transparent pixels get the colour of the visible pixels around them before the network,
    whose filters would otherwise mix hidden colours into visible edges; so the output's invisible pixels have that
    colour. Without alpha in the output, hidden colours are shown as they are stored.

    Args:
        engine: the engine.
        conversion: from decoded planes to planes to encode.
        timer: measures the duration of each stage.
        sequence: upscales frames in order, if they depend on those before.

    Attributes:
        depth: number of batches that may be begun before the first of them has to be finished.
    """

    def __init__(
        self, engine: Engine, conversion: Conversion, timer: Timer, sequence: FrameSequence | None = None
    ) -> None:
        self._engine, self._conversion, self._timer, self._sequence = engine, conversion, timer, sequence
        self._transfer = DeviceTransfer(engine.device)
        self._in_flight: deque[_BatchInFlight] = deque()
        self._last: tuple[Plane, ...] = ()
        self._result: tuple[Plane, ...] = ()
        self.depth = self._transfer.depth
        self._repeated, self._overflowed = 0, engine.overflowed
        # Without filters between pixels nothing is filled: such a job returns every code value.
        pixelwise = engine.scale == 1 and not engine.has_weights and conversion.padded
        self._fills_invisible = conversion.source.alpha and conversion.target.alpha and not pixelwise

    def forget(self) -> None:
        """Treat the next frame as the first of a clip."""
        self._last = ()

    @torch.inference_mode()
    def begin(self, frames: Sequence[Frame]) -> None:
        """Send a batch of frames of one size to the device, and start to compute it."""
        changed: list[Frame] = []
        indices, before = [], self._last
        for frame in frames:
            if not equal_planes(frame.planes, before):
                changed.append(frame)
            indices.append(len(changed))
            before = frame.planes
        self._last = before
        self._repeated += len(frames) - len(changed)
        if not changed:
            self._in_flight.append(_BatchInFlight(indices, [], None))
            return
        with self._timer("upload"):
            decoded = self._transfer.upload([frame.planes for frame in changed])
        upscaled, finite = self._compute(decoded, [frame.motion for frame in changed])
        with self._timer("download"):
            self._in_flight.append(_BatchInFlight(indices, decoded, self._transfer.download([*upscaled, finite])))

    def finish(self, frames: Sequence[Frame]) -> list[Frame]:
        """Return the frames of the batch that was begun first, with the planes of their results."""
        indices, decoded, download = self._in_flight.popleft()
        results = [self._result]
        if download is not None:
            with self._timer("download"):
                *planes, finite = download.wait()
            if not finite.all():
                planes = self._recompute_overflowed(planes, decoded, np.logical_not(finite))
            results += [tuple(plane[index] for plane in planes) for index in range(len(finite))]
        self._result = results[-1]
        return [
            replace(frame, planes=results[index], motion=None) for frame, index in zip(frames, indices, strict=True)
        ]

    def take_repeated(self) -> int:
        """Return how many frames that were begun since the last call equalled the one before."""
        taken, self._repeated = self._repeated, 0
        return taken

    def take_overflowed(self) -> int:
        """Return how many frames that were finished since the last call overflowed in half precision."""
        before, self._overflowed = self._overflowed, self._engine.overflowed
        return self._overflowed - before

    def _compute(
        self, decoded: list[Tensor], motions: Sequence[Motion | None] = (), overflowed: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the planes of a batch's results, and (N,) whether all their values are finite.

        Args:
            decoded: the planes of the batch.
            motions: the motion from the frame before to each frame.
            overflowed: (N,) bool: compute only those frames, in float32; None: all.
        """
        conversion, engine = self._conversion, self._engine
        with self._timer("to RGB"):
            lr = lr_of(decoded, conversion, filled=self._fills_invisible)
        with self._timer("network"):
            if self._sequence is not None:
                sr = self._sequence.step(lr, motions)
            else:
                sr = engine.run(lr) if overflowed is None else engine.run_exactly(lr[overflowed])
            finite = engine.finite(sr)
        with self._timer("from RGB"):
            sr = _fit(sr, conversion)
            upscaled = rgb_to_planes(sr, conversion.target, conversion.target_colour)
            if conversion.target.alpha:
                alpha = _alpha(decoded, sr, conversion)
                upscaled.append(alpha_to_plane(alpha if overflowed is None else alpha[overflowed], conversion.target))
        return upscaled, finite

    @torch.inference_mode()
    def _recompute_overflowed(self, planes: list[Array], decoded: list[Tensor], overflowed: Array) -> list[Array]:
        """Return a batch's planes with the overflowed frames computed again in float32."""
        upscaled, _ = self._compute(decoded, (), torch.from_numpy(overflowed).to(self._engine.device))
        repaired = [plane.copy() for plane in planes]
        for plane, exact in zip(repaired, self._transfer.download(upscaled).wait(), strict=True):
            plane[overflowed] = exact
        return repaired


def lr_of(decoded: list[Tensor], conversion: Conversion, *, filled: bool = False) -> Tensor:
    """Convert decoded planes to the input of the network: (N, 3, H, W) RGB, upright.

    Args:
        decoded: the planes, (N, rows, columns) each.
        conversion: holds their layout and colour.
        filled: give transparent pixels the colour of the visible ones around them.
    """
    lr = planes_to_rgb(decoded, conversion.source, conversion.source_colour)
    if filled and (seen := alpha_of(decoded, conversion.source)) is not None:
        lr = fill_invisible(lr, seen)
    return conversion.orientation.upright(lr)


def lr_codes(planes: Sequence[Plane], conversion: Conversion) -> Codes:
    """Convert a frame's planes to (H, W, 3) uint8 RGB, upright, for motion estimation on the CPU."""
    lr = lr_of([torch.from_numpy(np.ascontiguousarray(plane))[None] for plane in planes], conversion)
    return cast(Codes, rgb_to_codes(lr)[0])


def equal_planes(planes: Sequence[Plane], others: Sequence[Plane]) -> bool:
    """Whether two frames are equal byte for byte; most that differ do so in the middle row, which is compared first."""
    if len(planes) != len(others) or not np.array_equal(planes[0][len(planes[0]) // 2], others[0][len(planes[0]) // 2]):
        return False
    return all(np.array_equal(plane, other) for plane, other in zip(planes, others, strict=True))


def _fit(sr: Tensor, conversion: Conversion) -> Tensor:
    """Pad or resize (N, 3, H, W) from the engine's size to the size to encode."""
    height, width = conversion.height, conversion.width
    rows, columns = height - sr.shape[-2], width - sr.shape[-1]
    if not rows and not columns:
        return sr
    if conversion.padded:
        return functional.pad(sr, (0, columns, 0, rows), mode="replicate")
    return resize_bicubic(sr, height, width)


def _alpha(decoded: Sequence[Tensor], sr: Tensor, conversion: Conversion) -> Tensor:
    """Return alpha, (N, 1, H, W) in [0, 1], by bicubic, since no network is trained on it; 1 if the source has none."""
    alpha = alpha_of(decoded, conversion.source)
    if alpha is None:
        return sr.new_ones((len(decoded[0]), 1, conversion.height, conversion.width))
    return resize_bicubic(conversion.orientation.upright(alpha), conversion.height, conversion.width).clamp_(0, 1)
