"""Segments of a clip, one after the other: decoded, upscaled and encoded, the three at the same time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vsr.errors import OutputError
from vsr.imaging.colour import alpha_of, alpha_to_plane, planes_to_rgb, rgb_to_planes
from vsr.imaging.resize import resize_bicubic
from vsr.inference.engine import Engine
from vsr.media.pixels import Plane
from vsr.media.reader import Damage, Frame
from vsr.pipeline.flow import Ahead, Behind
from vsr.pipeline.job_folder import RECORD, seal
from vsr.pipeline.order import Order
from vsr.pipeline.outputs import FrameContext
from vsr.pipeline.plan import Conversion
from vsr.pipeline.segments import Finished, Segment
from vsr.pipeline.stopwatch import NoStopwatch, Stopwatch, each

QUEUE_BYTES = 128 << 20
"""What may wait on either side of the network: about forty frames of 1080p."""


def upscale_segments(
    order: Order,
    segments: Iterable[Segment],
    engine: Engine,
    folder: Path,
    *,
    on_frames: Callable[[int], None],
    on_finished: Callable[[Finished, Path], None],
    on_leave: Callable[[], None] = lambda: None,
    watch: Stopwatch | None = None,
) -> None:
    """Upscale segments into folders of their own.

    The next segment is decoded while the encoder finishes the one before. A frame that equals the one before it is not
    computed again, be it the last of another segment.

    Args:
        order: of the clip.
        segments: in the order of time; taken from a thread of its own, as far ahead as memory allows.
        engine: what upscales.
        folder: where the folders are made.
        on_frames: called with the number of frames handed to the encoder since the last call.
        on_finished: called, in the encoder's thread, with each finished segment and its folder, safely on the disk.
        on_leave: called when no more segments are wanted, whatever the reason; wakes what waits for them.
        watch: is told how long each stage takes.

    Raises:
        VsrError: whatever ends the reading, the computing or the writing.
    """
    watch = watch or NoStopwatch()
    upscaler = _Upscaler(engine, order.conversion, watch)
    with (
        _Sink(order, folder, on_finished, watch) as sink,
        Ahead(_decoded(order, segments, watch), max_bytes=QUEUE_BYTES, name="vsr-decode") as decoded,
        Behind(sink.take, max_bytes=QUEUE_BYTES, name="vsr-encode") as encoded,
        ExitStack() as leaving,  # the first to be left
    ):
        leaving.callback(on_leave)
        for batch in each(watch, "waiting", _batches(decoded, order.batch_size)):
            if (frames := [item.frame for item in batch if item.frame is not None]) == []:
                encoded.put(replace(batch[0], repeated=upscaler.repeated))
                upscaler.repeated = 0
                continue
            results = upscaler.upscale(frames)
            with watch("waiting"):
                for item, planes in zip(batch, results, strict=True):
                    assert item.frame is not None
                    encoded.put(replace(item, frame=Frame(planes, item.frame.pts, item.frame.duration)))
            on_frames(len(batch))


@dataclass(frozen=True)
class _Item:
    """On its way: a frame of a segment, or None at its end, with what is known by then."""

    segment: Segment
    frame: Frame | None
    damage: Damage = field(default_factory=Damage)
    repeated: int = 0

    @property
    def nbytes(self) -> int:
        return 0 if self.frame is None else self.frame.nbytes


def _decoded(order: Order, segments: Iterable[Segment], watch: Stopwatch) -> Generator[_Item, None, None]:
    for segment in segments:
        damage = Damage()
        with closing(order.frames(segment, damage)) as frames:
            for frame in each(watch, "decode", frames):
                yield _Item(segment, frame)
        yield _Item(segment, None, damage)


def _batches(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    """Frames of one segment in batches; the end of a segment alone."""
    batch: list[_Item] = []
    for item in items:
        if batch and (item.frame is None or len(batch) == size):
            yield batch
            batch = []
        batch.append(item)
        if item.frame is None:
            yield batch
            batch = []


class _Sink:
    """Writes each segment to a folder, and hands it over when it is complete."""

    def __init__(
        self, order: Order, folder: Path, on_finished: Callable[[Finished, Path], None], watch: Stopwatch
    ) -> None:
        self._order, self._folder, self._on_finished, self._watch = order, folder, on_finished, watch
        self._writer: FrameContext | None = None
        self._frames = 0

    def take(self, item: _Item) -> None:
        """The next frame, or the end of a segment."""
        with self._watch("encode"):
            self._take(item)

    def _take(self, item: _Item) -> None:
        folder = self._folder / f".{item.segment.number:06}-{os.getpid()}"
        if self._writer is None:
            try:
                folder.mkdir()
            except OSError as exc:
                raise OutputError(f"cannot write to {self._folder}: {exc.strerror}.") from exc
            self._frames, self._writer = 0, self._order.output.writer(folder, self._order.threads)
            self._writer.__enter__()
        if item.frame is not None:
            self._writer.write(item.frame)
            self._frames += 1
            return
        writer, self._writer = self._writer, None
        writer.__exit__(None, None, None)
        done = Finished(item.segment.number, self._frames, item.repeated, item.damage, tuple(writer.packets))
        seal(folder, {RECORD: json.dumps(asdict(done)).encode()})
        self._on_finished(done, folder)

    def __enter__(self) -> _Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)


class _Upscaler:
    """Computes what differs from the frame before."""

    def __init__(self, engine: Engine, conversion: Conversion, watch: Stopwatch) -> None:
        self._engine, self._conversion, self._watch = engine, conversion, watch
        self._last: tuple[Plane, ...] = ()
        self._result: list[tuple[Plane, ...]] = []
        self.repeated = 0

    def upscale(self, frames: Sequence[Frame]) -> list[tuple[Plane, ...]]:
        """The planes of each frame's result; ``repeated`` counts those that were not computed."""
        fresh, places, before = [], [], self._last
        for frame in frames:
            if not _equal(frame.planes, before):
                fresh.append(frame)
            places.append(len(self._result) + len(fresh) - 1)
            before = frame.planes
        results = [*self._result, *_upscale_batch(fresh, self._engine, self._conversion, self._watch)]
        self._last, self._result = before, results[-1:]
        self.repeated += len(frames) - len(fresh)
        return [results[place] for place in places]


def _equal(planes: Sequence[Plane], others: Sequence[Plane]) -> bool:
    """Whether two frames are equal byte for byte; of most that are not, one row tells it."""
    if len(planes) != len(others) or not np.array_equal(planes[0][len(planes[0]) // 2], others[0][len(planes[0]) // 2]):
        return False
    return all(np.array_equal(plane, other) for plane, other in zip(planes, others, strict=True))


@torch.inference_mode()
def _upscale_batch(
    batch: Sequence[Frame], engine: Engine, conversion: Conversion, watch: Stopwatch
) -> list[tuple[Plane, ...]]:
    """The planes of a batch, upscaled; they cross to the device and back once, as they are stored."""
    if not batch:
        return []
    with watch("upload"):
        stacked = (np.stack(planes) for planes in zip(*(frame.planes for frame in batch), strict=True))
        decoded = [torch.from_numpy(planes).to(engine.device) for planes in stacked]
    with watch("to RGB"):
        lr = conversion.orientation.upright(planes_to_rgb(decoded, conversion.source, conversion.source_colour))
    with watch("network"):
        sr = engine(lr)
    with watch("from RGB"):
        sr = _fit(sr, conversion)
        upscaled = rgb_to_planes(sr, conversion.target, conversion.target_colour)
        if conversion.target.alpha:
            upscaled.append(_alpha(decoded, sr, conversion))
    with watch("download"):
        planes = [plane.cpu().numpy() for plane in upscaled]
    return [tuple(plane[index] for plane in planes) for index in range(len(batch))]


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
    """The alpha plane, by bicubic: no network has learnt what it means. Opaque where the source has none."""
    alpha = alpha_of(decoded, conversion.source)
    if alpha is None:
        alpha = sr.new_ones((len(sr), 1, conversion.height, conversion.width))
    else:
        alpha = resize_bicubic(conversion.orientation.upright(alpha), conversion.height, conversion.width)
    return alpha_to_plane(alpha.clamp_(0, 1), conversion.target)
