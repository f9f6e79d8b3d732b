"""Segments of a clip, one after the other: decoded, upscaled and encoded, the three at the same time."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from vsr.errors import OutputError, memory_explained
from vsr.imaging.motion import Codes, Motion, estimate_motion
from vsr.inference.engine import Engine
from vsr.inference.sequence import FrameSequence
from vsr.media.pixels import Plane
from vsr.media.reader import Damage, Frame
from vsr.pipeline.flow import Ahead, Behind
from vsr.pipeline.job_folder import seal
from vsr.pipeline.memory import LESS_MEMORY, queue_bytes
from vsr.pipeline.order import Order
from vsr.pipeline.outputs import FrameContext
from vsr.pipeline.plan import Conversion
from vsr.pipeline.segments import Finished, Segment
from vsr.pipeline.stopwatch import NoStopwatch, Stopwatch, each
from vsr.pipeline.upscaler import Upscaler, equal_planes, lr_codes
from vsr.signals import shielded

QUEUE_BYTES = 128 << 20
"""What may wait on either side of the network at most: about forty frames of 1080p."""

MOTION_THREADS = min(8, os.cpu_count() or 1)
"""That find the motion of frames to come, each between two of them."""


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
    computed again, be it the last of another segment; but where frames depend on those before, each segment begins
    anew, with its warm-up, so that no pixel of it depends on what was upscaled where.

    Args:
        order: of the clip.
        segments: in the order of time; taken from a thread of its own, as far ahead as memory allows.
        engine: what upscales.
        folder: where the folders are made.
        on_frames: called with the number of frames handed to the encoder since the last call; of a segment that is
            begun again, with what is lost.
        on_finished: called, in the encoder's thread, with each finished segment and its folder, safely on the disk.
        on_leave: called when no more segments are wanted, whatever the reason; wakes what waits for them.
        watch: is told how long each stage takes.

    Raises:
        VsrError: whatever ends the reading, the computing or the writing.
    """
    watch = watch or NoStopwatch()
    sequence = FrameSequence(engine, steadied=order.steadied) if order.in_order else None
    upscaler = Upscaler(engine, order.conversion, watch, sequence)
    items = _decoded(order, segments, watch)
    items = _with_motion(items, order.conversion) if order.in_order else items
    max_bytes = queue_bytes(order.options, QUEUE_BYTES)
    with (
        memory_explained(f"upscaling {_described(order)} on {engine.device}", LESS_MEMORY),
        _Sink(order, folder, on_finished, watch) as sink,
        Ahead(items, max_bytes=max_bytes, name="vsr-decode") as decoded,
        Behind(sink.take, max_bytes=max_bytes, name="vsr-encode") as encoded,
        ExitStack() as leaving,  # the first to be left
    ):
        leaving.callback(on_leave)
        batches = each(watch, "waiting", _batches(decoded, order.batch_size))
        for batch in _upscaled(batches, upscaler):
            with watch("waiting"):
                for item in batch:
                    if not item.warms_up:
                        encoded.put(item)
            if count := sum(item.frame is not None and not item.warms_up for item in batch) - batch[0].discarded:
                on_frames(count)


def _described(order: Order) -> str:
    video, conversion = order.clip.video, order.conversion
    return f"{order.clip.path}, {video.width}x{video.height} to {conversion.width}x{conversion.height},"


@dataclass(frozen=True)
class _Item:
    """On its way: a frame of a segment, or None at its end, with what is known by then.

    Attributes:
        begins: whether nothing that came before it may show in it: of frames that depend on those before, the first of
            their segment and its warm-up.
        motion: to the frame from the last that differed from it; None: it equals that, or there is none.
        discarded: at an end after which the same segment begins again: how many frames it had.
    """

    segment: Segment
    frame: Frame | None
    begins: bool = False
    motion: Motion | None = None
    damage: Damage = field(default_factory=Damage)
    repeated: int = 0
    overflowed: int = 0
    discarded: int = 0

    @property
    def nbytes(self) -> int:
        return sum(0 if part is None else part.nbytes for part in (self.frame, self.motion))

    @property
    def warms_up(self) -> bool:
        return self.frame is not None and self.segment.warms_up_at(self.frame.pts)


def _decoded(order: Order, segments: Iterable[Segment], watch: Stopwatch) -> Generator[_Item, None, None]:
    with memory_explained(f"decoding {_described(order)}", LESS_MEMORY):
        for segment in segments:
            begins_again = segment.earlier_entry is not None
            frames, damage = yield from _frames_of(order, segment, watch, until_damage=begins_again)
            if _is_visible(damage) and begins_again:
                if frames:
                    yield _Item(segment, None, discarded=frames)
                _, damage = yield from _frames_of(order, replace(segment, entry=segment.earlier_entry), watch)
            yield _Item(segment, None, damage=damage)


def _frames_of(
    order: Order, segment: Segment, watch: Stopwatch, *, until_damage: bool = False
) -> Generator[_Item, None, tuple[int, Damage]]:
    """Returns how many there were, and what was wrong with them."""
    damage, count, begins = Damage(), 0, order.in_order
    with closing(order.frames(segment, damage)) as frames:
        for frame in each(watch, "decode", frames):
            if until_damage and _is_visible(damage):
                break
            item = _Item(segment, frame, begins)
            yield item
            begins = False
            count += not item.warms_up
    return count, damage


def _with_motion(items: Generator[_Item, None, None], conversion: Conversion) -> Generator[_Item, None, None]:
    """The same with the motion to each frame, which is found several frames ahead."""
    ahead: deque[tuple[_Item, Future[Motion] | None]] = deque()
    last: tuple[Plane, ...] = ()
    codes: Codes | None = None

    def found() -> _Item:
        item, motion = ahead.popleft()
        return item if motion is None else replace(item, motion=motion.result())

    with closing(items), ThreadPoolExecutor(MOTION_THREADS, "vsr-motion") as pool:
        try:
            for item in items:
                motion = None
                if item.begins:
                    last, codes = (), None
                if item.frame is not None and not equal_planes(item.frame.planes, last):
                    before, codes, last = codes, lr_codes(item.frame.planes, conversion), item.frame.planes
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


def _batches(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    """Frames of one segment, or of its warm-up, in batches; the end of a segment alone."""
    batch: list[_Item] = []
    for item in items:
        if batch and (item.frame is None or len(batch) == size or item.warms_up != batch[0].warms_up):
            yield batch
            batch = []
        batch.append(item)
        if item.frame is None:
            yield batch
            batch = []


def _upscaled(batches: Iterable[list[_Item]], upscaler: Upscaler) -> Iterator[list[_Item]]:
    """The same with the results in place of the frames; several are on their way where the device works apart."""
    under_way: deque[list[_Item]] = deque()

    def landed() -> list[_Item]:
        batch = under_way.popleft()
        if batch[0].frame is None:
            return [replace(batch[0], overflowed=upscaler.take_overflowed())]
        return [
            replace(item, frame=replace(item.frame, planes=planes))
            for item, planes in zip(batch, upscaler.finish(), strict=True)
            if item.frame is not None
        ]

    for batch in batches:
        if batch[0].begins:
            upscaler.forget()
        if frames := [item.frame for item in batch if item.frame is not None]:
            upscaler.begin(frames, [item.motion for item in batch])
            if batch[0].warms_up:
                upscaler.take_repeated()
        else:
            batch = [replace(batch[0], repeated=upscaler.take_repeated())]
        under_way.append(batch)
        while len(under_way) > upscaler.depth:
            yield landed()
    while under_way:
        yield landed()


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
        with memory_explained(f"encoding {_described(self._order)}", LESS_MEMORY), self._watch("encode"):
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
        if item.discarded:
            try:
                shutil.rmtree(folder)
            except OSError as exc:
                raise OutputError(f"cannot remove {folder}: {exc.strerror}.") from exc
            return
        done = Finished(
            item.segment.number, self._frames, item.repeated, item.damage, tuple(writer.packets), item.overflowed
        )
        self._on_finished(seal(folder, done), folder)

    def __enter__(self) -> _Sink:
        return self

    @shielded
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)
