"""What a worker has to know to upscale any segment of a clip, wherever it runs."""

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
from vsr.pipeline.outputs import FrameContext, Output
from vsr.pipeline.plan import LESS_MEMORY, Conversion, queue_bytes
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
        """The engine, on its device."""
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
        """The engine that is kept, if it was built by the same arguments; else a new one in its place."""
        if self._kept is None or self._kept[0] != spec:
            self._kept = None  # first, as its memory may be needed
            self._kept = spec, spec.load()
        return self._kept[1]

    def forget(self) -> None:
        """Keep none, as what this clip has made of it is nothing for another."""
        self._kept = None


@dataclass(frozen=True)
class ClipJob:
    """One clip's work. It can be pickled.

    Attributes:
        clip: the source.
        options: what was chosen.
        output: planned already; its ``writer`` takes the frames of a segment.
        conversion: layouts, colours and sizes of both ends.
        engine: what upscales.
        batch_size: frames at once.
        threads: of the encoder.
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
        """The decoded frames of a segment, those of its warm-up first; what is wrong with its own is counted."""
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
"""Measures what its context takes, for a stage by its name."""


def untimed(stage: str) -> AbstractContextManager[None]:
    """Measure nothing."""
    return nullcontext()


QUEUE_BYTES = 128 << 20
"""What may wait on either side of the network at most: about forty frames of 1080p."""

MOTION_THREADS = min(8, os.cpu_count() or 1)
"""That find the motion of frames to come, each between two of them."""


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
    """Upscale segments into folders of their own: decode, compute and encode, each in a thread of its own.

    The next segment is decoded while the encoder finishes the one before. A frame that equals the one before it is not
    computed again, be it the last of another segment; but where frames depend on those before, each segment begins
    anew, with its warm-up, so that no pixel of it depends on what was upscaled where.

    Args:
        job: of the clip.
        segments: in the order of time; taken from a thread of its own, as far ahead as memory allows.
        engine: what upscales.
        folder: where the folders are made.
        on_frames: called with the number of frames handed to the encoder since the last call; of a segment that is
            begun again, with what is lost.
        on_finished: called, in the encoder's thread, with each finished segment and its folder, safely on the disk.
        on_leave: called when no more segments are wanted, whatever the reason; wakes what waits for them.
        timer: measures how long each stage takes.

    Raises:
        VsrError: whatever ends the reading, the computing or the writing.
    """
    sequence = FrameSequence(engine, steadied=job.steadied) if job.in_order else None
    upscaler = Upscaler(engine, job.conversion, timer, sequence)
    items = _decoded(job, segments, timer)
    items = _with_motion(items, job.conversion) if job.in_order else items
    max_bytes = queue_bytes(job.options, QUEUE_BYTES)
    with (
        memory_explained(f"upscaling {_described(job)} on {engine.device}", LESS_MEMORY),
        _SegmentWriter(job, folder, on_finished, timer) as writer,
        ThreadedIterator(items, max_bytes=max_bytes, name="vsr-decode") as decoded,
        ThreadedConsumer(writer.write, max_bytes=max_bytes, name="vsr-encode") as encoded,
        ExitStack() as leaving,  # the first to be left
    ):
        leaving.callback(on_leave)
        for batch in _upscaled(_batches(decoded, job.batch_size), upscaler, job.in_order, timer):
            with timer("waiting"):
                for item in batch.items:
                    encoded.put(item)
            if batch.computed:
                on_frames(batch.computed)


def _described(job: ClipJob) -> str:
    video, conversion = job.clip.video, job.conversion
    return f"{job.clip.path}, {video.width}x{video.height} to {conversion.width}x{conversion.height},"


@dataclass(frozen=True)
class _Start:
    """Before the first frame of a segment and its warm-up."""

    segment: Segment
    nbytes = 0


@dataclass(frozen=True)
class _End:
    """After the last frame of a segment.

    Attributes:
        damage: what was wrong with its frames.
        discarded: how many frames it had, where the same segment begins again; None: it is complete.
        repeated: of its frames those that equalled the one before.
        overflowed: of its frames those that half precision could not hold.
    """

    segment: Segment
    damage: Damage
    discarded: int | None = None
    repeated: int = 0
    overflowed: int = 0
    nbytes = 0


_Item = Frame | _Start | _End


def _decoded(job: ClipJob, segments: Iterable[Segment], timer: Timer) -> Generator[_Item, None, None]:
    """The frames of segments between a start and an end each. One that is damaged where its decoding begins is decoded
    again from an earlier keyframe."""
    with memory_explained(f"decoding {_described(job)}", LESS_MEMORY):
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
    """Returns how many there were after the warm-up, and what was wrong with them."""
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
    """The same with the motion to each frame, which is found several frames ahead."""
    ahead: deque[tuple[_Item, Future[Motion] | None]] = deque()
    last: tuple[Plane, ...] = ()
    codes: Codes | None = None

    def found() -> _Item:
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
                    yield found()
            while ahead:
                yield found()
        finally:
            pool.shutdown(cancel_futures=True)


def _is_visible(damage: Damage) -> bool:
    """Whether frames are lost or made up, and the video does not only end too soon."""
    return bool(damage.concealed or damage.undecodable)


@dataclass(frozen=True)
class _Batch:
    """Frames of one segment, or of its warm-up; or its start or end alone.

    Attributes:
        frames: at most as many as are computed at once.
        marker: the start or the end.
        warms_up: whether the frames only prepare the state: they are computed and dropped.
    """

    frames: Sequence[Frame] = ()
    marker: _Start | _End | None = None
    warms_up: bool = False

    @property
    def items(self) -> Sequence[_Item]:
        """What the encoder gets."""
        if self.marker is not None:
            return [self.marker]
        return () if self.warms_up else self.frames

    @property
    def computed(self) -> int:
        """Frames that the encoder gets, less those that it has to forget."""
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
    """The same with the results in place of the frames; several are in flight where the device works asynchronously."""
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
    """Writes each segment to a folder, and hands it over when it is complete."""

    def __init__(
        self, job: ClipJob, folder: Path, on_finished: Callable[[FinishedSegment, Path], None], timer: Timer
    ) -> None:
        self._job, self._folder, self._on_finished, self._timer = job, folder, on_finished, timer
        self._at = folder
        self._writer: FrameContext | None = None
        self._frames = 0

    def write(self, item: _Item) -> None:
        """Take the start of a segment, its next frame, or its end."""
        with memory_explained(f"encoding {_described(self._job)}", LESS_MEMORY), self._timer("encode"):
            if isinstance(item, Frame):
                self._opened().write(item)
                self._frames += 1
            elif isinstance(item, _Start):
                self._at = self._folder / f".{item.segment.number:06}-{os.getpid()}"
                self._frames = 0
            elif item.discarded is None:
                self._finish(item, self._opened())
            elif self._frames:
                self._discard(self._opened())

    def _opened(self) -> FrameContext:
        """The writer of the segment, whose folder is made for its first frame, or for its end if it has none."""
        if self._writer is None:
            try:
                self._at.mkdir()
            except OSError as exc:
                raise OutputError(f"cannot write to {self._folder}: {exc.strerror}.") from exc
            self._writer = self._job.output.writer(self._at, self._job.threads)
            self._writer.__enter__()
        return self._writer

    def _discard(self, writer: FrameContext) -> None:
        self._writer = None
        writer.__exit__(None, None, None)
        try:
            shutil.rmtree(self._at)
        except OSError as exc:
            raise OutputError(f"cannot remove {self._at}: {exc.strerror}.") from exc

    def _finish(self, end: _End, writer: FrameContext) -> None:
        self._writer = None
        writer.__exit__(None, None, None)
        done = FinishedSegment(
            end.segment.number, self._frames, end.repeated, end.damage, tuple(writer.packets), end.overflowed
        )
        self._on_finished(seal(self._at, done), self._at)

    def __enter__(self) -> _SegmentWriter:
        return self

    @shielded
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)


class _BatchInFlight(NamedTuple):
    """A batch on its way.

    Attributes:
        places: for each of its frames, where its result is among the last of the batch before, at 0, and its own.
        decoded: the planes of the frames that are computed, on the device.
        landing: their results, and which of them are finite; None: nothing was to be computed.
    """

    places: list[int]
    decoded: list[Tensor]
    landing: PendingDownload | None


class Upscaler:
    """Computes what differs from the frame before.

    Where the output keeps alpha, transparent pixels take the colour of the visible ones around them before the network,
    whose filters would else draw hidden colours into visible edges; so invisible pixels of the output hold that colour.
    Without alpha in the output, what was hidden is shown as it is stored.

    Args:
        engine: what upscales.
        conversion: of the planes on both sides of it.
        timer: measures how long each stage takes.
        sequence: what upscales frames in their order, where they depend on those before.

    Attributes:
        depth: batches that may be begun before the first of them has to be finished.
    """

    def __init__(
        self, engine: Engine, conversion: Conversion, timer: Timer, sequence: FrameSequence | None = None
    ) -> None:
        self._engine, self._conversion, self._timer, self._sequence = engine, conversion, timer, sequence
        self._lanes = DeviceTransfer(engine.device)
        self._flights: deque[_BatchInFlight] = deque()
        self._last: tuple[Plane, ...] = ()
        self._result: tuple[Plane, ...] = ()
        self.depth = self._lanes.depth
        self._repeated, self._overflowed = 0, engine.overflowed
        # Nothing to fill where each pixel comes from one alone: such a job returns every code value.
        pixelwise = engine.scale == 1 and not engine.has_weights and conversion.padded
        self._fills = conversion.source.alpha and conversion.target.alpha and not pixelwise

    def forget(self) -> None:
        """What comes next is upscaled as if nothing had come before."""
        self._last = ()

    @torch.inference_mode()
    def begin(self, frames: Sequence[Frame]) -> None:
        """Send a batch of frames of one size to the device."""
        fresh: list[Frame] = []
        places, before = [], self._last
        for frame in frames:
            if not equal_planes(frame.planes, before):
                fresh.append(frame)
            places.append(len(fresh))
            before = frame.planes
        self._last = before
        self._repeated += len(frames) - len(fresh)
        if not fresh:
            self._flights.append(_BatchInFlight(places, [], None))
            return
        with self._timer("upload"):
            decoded = self._lanes.upload([frame.planes for frame in fresh])
        upscaled, finite = self._compute(decoded, [frame.motion for frame in fresh])
        with self._timer("download"):
            self._flights.append(_BatchInFlight(places, decoded, self._lanes.download([*upscaled, finite])))

    def finish(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames of the batch that was begun first, with the planes of their results."""
        places, decoded, landing = self._flights.popleft()
        results = [self._result]
        if landing is not None:
            with self._timer("download"):
                *planes, finite = landing.wait()
            if not finite.all():
                planes = self._repaired(planes, decoded, np.logical_not(finite))
            results += [tuple(plane[index] for plane in planes) for index in range(len(finite))]
        self._result = results[-1]
        return [
            replace(frame, planes=results[place], motion=None) for frame, place in zip(frames, places, strict=True)
        ]

    def take_repeated(self) -> int:
        """How many frames, of those begun since the last call, equalled the one before and were not computed."""
        taken, self._repeated = self._repeated, 0
        return taken

    def take_overflowed(self) -> int:
        """How many frames, of those finished since the last call, half precision could not hold."""
        before, self._overflowed = self._overflowed, self._engine.overflowed
        return self._overflowed - before

    def _compute(
        self, decoded: list[Tensor], motions: Sequence[Motion | None] = (), over: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The planes of a batch's results, and (N,) whether half precision could hold them.

        Args:
            decoded: the planes of the batch.
            motions: as ``begin``.
            over: (N,) bool: to compute those frames alone, in float32; None: all.
        """
        conversion, engine = self._conversion, self._engine
        with self._timer("to RGB"):
            lr = lr_of(decoded, conversion, filled=self._fills)
        with self._timer("network"):
            if self._sequence is not None:
                sr = self._sequence.step(lr, motions)
            else:
                sr = engine.run(lr) if over is None else engine.run_exactly(lr[over])
            finite = engine.finite(sr)
        with self._timer("from RGB"):
            sr = _fit(sr, conversion)
            upscaled = rgb_to_planes(sr, conversion.target, conversion.target_colour)
            if conversion.target.alpha:
                alpha = _alpha(decoded, sr, conversion)
                upscaled.append(alpha_to_plane(alpha if over is None else alpha[over], conversion.target))
        return upscaled, finite

    @torch.inference_mode()
    def _repaired(self, planes: list[Array], decoded: list[Tensor], over: Array) -> list[Array]:
        """A batch with those frames done again in float32 that half precision could not hold, and no others."""
        upscaled, _ = self._compute(decoded, (), torch.from_numpy(over).to(self._engine.device))
        repaired = [plane.copy() for plane in planes]
        for plane, exact in zip(repaired, self._lanes.download(upscaled).wait(), strict=True):
            plane[over] = exact
        return repaired


def lr_of(decoded: list[Tensor], conversion: Conversion, *, filled: bool = False) -> Tensor:
    """What the network is given of decoded planes: (N, 3, H, W) RGB, upright.

    Args:
        decoded: as they were decoded, (N, rows, columns) each.
        conversion: what they mean.
        filled: give transparent pixels the colour of the visible ones around them.
    """
    lr = planes_to_rgb(decoded, conversion.source, conversion.source_colour)
    if filled and (seen := alpha_of(decoded, conversion.source)) is not None:
        lr = fill_invisible(lr, seen)
    return conversion.orientation.upright(lr)


def lr_codes(planes: Sequence[Plane], conversion: Conversion) -> Codes:
    """(H, W, 3) uint8 RGB of a frame's planes, upright, by which its motion is found on the CPU."""
    lr = lr_of([torch.from_numpy(np.ascontiguousarray(plane))[None] for plane in planes], conversion)
    return cast(Codes, rgb_to_codes(lr)[0])


def equal_planes(planes: Sequence[Plane], others: Sequence[Plane]) -> bool:
    """Whether two frames are equal byte for byte; of most that are not, one row tells it."""
    if len(planes) != len(others) or not np.array_equal(planes[0][len(planes[0]) // 2], others[0][len(planes[0]) // 2]):
        return False
    return all(np.array_equal(plane, other) for plane, other in zip(planes, others, strict=True))


def _fit(sr: Tensor, conversion: Conversion) -> Tensor:
    """(N, 3, H, W) at the engine's size -> at the size to encode."""
    height, width = conversion.height, conversion.width
    rows, columns = height - sr.shape[-2], width - sr.shape[-1]
    if not rows and not columns:
        return sr
    if conversion.padded:
        return functional.pad(sr, (0, columns, 0, rows), mode="replicate")
    return resize_bicubic(sr, height, width)


def _alpha(decoded: Sequence[Tensor], sr: Tensor, conversion: Conversion) -> Tensor:
    """(N, 1, H, W) in [0, 1], by bicubic: no network has learnt what it means. Opaque where the source has none."""
    alpha = alpha_of(decoded, conversion.source)
    if alpha is None:
        return sr.new_ones((len(decoded[0]), 1, conversion.height, conversion.width))
    return resize_bicubic(conversion.orientation.upright(alpha), conversion.height, conversion.width).clamp_(0, 1)
