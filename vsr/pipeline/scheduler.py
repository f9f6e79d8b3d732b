"""Schedule the segments of a clip: the ``Executor`` protocol, and assignment and retries for executors with workers.

``Work`` assigns segments to workers and replaces workers that die. A ``Transport`` communicates with the workers: there
is one for processes on this machine and one for a Ray cluster. ``InProcess`` upscales in this process, without either.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from vsr.errors import VsrError
from vsr.inference.engine import Engine
from vsr.pipeline.journal import DEVICE_DIFFERENCE
from vsr.pipeline.segment import ClipJob, EngineCache, EngineSpec, upscale_segments
from vsr.pipeline.segments import FinishedSegment, Segment

logger = logging.getLogger(__name__)

Worker = TypeVar("Worker")

MAX_ATTEMPTS = 3
"""How often a segment is tried if its workers die."""


class Listener(Protocol):
    """Receives the events of the work; each method is called by one thread at a time."""

    def frames(self, count: int) -> None:
        """Frames were computed; a negative count if they have to be computed again."""

    def finished(self, done: FinishedSegment, folder: Path) -> None:
        """A segment is complete in a folder, and synced to the disk."""

    def smaller_tile(self, tile_size: int) -> None:
        """Memory ran out, and the work continues in tiles of so many LR pixels."""


class Executor(AbstractContextManager["Executor"], Protocol):
    """Upscales segments, one clip after the other. On devices of one kind, pixels do not depend on where a segment is
    upscaled."""

    def load(self, spec: EngineSpec) -> Engine:
        """Build an engine where the work is done, or return a proxy for one there, for planning.

        Raises:
            VsrError: it cannot be built.
        """

    def run(self, job: ClipJob, segments: Sequence[Segment], folder: Path, listener: Listener, engine: Engine) -> None:
        """Upscale segments of a clip into folders of their own.

        Args:
            job: the clip's work.
            segments: the segments to upscale.
            folder: where the folders are created.
            listener: receives the events of the work.
            engine: the engine that ``load`` returned for the job.

        Raises:
            VsrError: the work failed.
        """


class InProcess:
    """Upscales one segment after the other in this process.

    Args:
        engine: is used in place of those that are asked for; None: they are loaded.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        self._engines = EngineCache()
        self._engine = engine

    def load(self, spec: EngineSpec) -> Engine:
        """As ``Executor``."""
        if self._engine is None:
            return self._engines.load(spec)
        engine = self._engine.with_tile_size(spec.tile_size)  # so that the caller's own is not changed
        engine.record()
        return engine

    def run(self, job: ClipJob, segments: Sequence[Segment], folder: Path, listener: Listener, engine: Engine) -> None:
        """As ``Executor``."""

        def use_smaller_tile(tile_size: int) -> None:
            self._engines.forget()  # the next clip starts with the default tile size
            listener.smaller_tile(tile_size)

        engine.on_smaller_tile = use_smaller_tile
        upscale_segments(job, segments, engine, folder, on_frames=listener.frames, on_finished=listener.finished)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is open."""


class Transport(Protocol[Worker]):
    """Sends segments to workers, and receives their messages. Workers are distinguished by identity.

    Attributes:
        segments_per_worker: how many segments a worker has at once.
        busy: whether any worker has not yet finished with this clip.
    """

    segments_per_worker: int

    @property
    def busy(self) -> bool: ...

    def begin(self, worker: Worker, job: ClipJob) -> None:
        """Send the clip's job to a worker, which reports when it is ready for a segment."""

    def assign(self, worker: Worker, segment: Segment | None) -> None:
        """Send a segment to a worker that is ready; None: there is none left."""

    def listen(self, work: Work[Worker]) -> None:
        """Wait for a message of any worker, and call the corresponding method of ``work``.

        Raises:
            VsrError: a worker has failed, or no worker is available.
        """

    def replace(self, worker: Worker) -> Worker:
        """Start another worker in place of one that has died.

        Raises:
            VsrError: none can be started.
        """

    def loss_message(self, reason: str, segments: Sequence[Segment]) -> str:
        """Return a warning that a worker has died with these segments; empty: no warning."""

    def failure_message(self, reason: str, segment: Segment | None, attempts: int) -> str:
        """Return an error message: workers have died so many times, at a segment or before they had one."""


class Work(Generic[Worker]):
    """Assigns the segments of one clip to workers, and repeats those of workers that die.

    Args:
        transport: communicates with the workers.
        job: the clip's work.
        segments: the segments to upscale.
        listener: receives the events of the work.
    """

    def __init__(
        self, transport: Transport[Worker], job: ClipJob, segments: Sequence[Segment], listener: Listener
    ) -> None:
        self._transport, self._job, self._listener = transport, job, listener
        self._left = deque(segments)
        self._attempts: Counter[int] = Counter()
        self._early_deaths = 0  # of workers without a segment, since a segment was last finished
        self._assigned: dict[Worker, dict[int, Segment]] = {}
        self._computed: Counter[Worker] = Counter()
        self._ready: set[Worker] = set()

    def run(self, workers: Sequence[Worker]) -> None:
        """Assign segments until all are finished.

        Raises:
            VsrError: a worker has failed, or workers have died too often.
        """
        for worker in workers:
            self._begin(worker)
        while self._left or self._transport.busy:
            self._transport.listen(self)

    def ready(self, worker: Worker) -> None:
        """Handle that a worker requests a segment."""
        self._ready.add(worker)
        self._assign_next(worker)

    def frames(self, worker: Worker, count: int) -> None:
        """Handle that a worker has computed frames."""
        self._computed[worker] += count
        self._listener.frames(count)

    def finished(self, worker: Worker, done: FinishedSegment, folder: Path) -> None:
        """Handle that a worker has finished a segment, which is complete in a folder."""
        self._listener.finished(done, folder)
        self._computed[worker] -= done.frames
        del self._assigned[worker][done.number]
        self._early_deaths = 0
        self._assign_next(worker)

    def smaller_tile(self, tile_size: int) -> None:
        """Handle that a worker ran out of memory; workers that begin later start with its tile."""
        self._listener.smaller_tile(tile_size)
        self._job = replace(self._job, engine=replace(self._job.engine, tile_size=tile_size))

    def died(self, worker: Worker, reason: str, cause: Exception | None = None) -> None:
        """Handle that a worker has died: queue its segments again, and start another worker.

        Raises:
            VsrError: that has happened too often.
        """
        segments = list(self._assigned.pop(worker).values())
        self._early_deaths += not segments
        tried = max(segments, key=lambda segment: self._attempts[segment.number], default=None)
        if (self._early_deaths if tried is None else self._attempts[tried.number]) >= MAX_ATTEMPTS:
            raise VsrError(self._transport.failure_message(reason, tried, MAX_ATTEMPTS)) from cause
        if message := self._transport.loss_message(reason, segments):
            logger.warning("%s", message)
        self._left.extendleft(reversed(segments))
        self._listener.frames(-self._computed.pop(worker, 0))
        self._ready.discard(worker)
        self._begin(self._transport.replace(worker))

    def _begin(self, worker: Worker) -> None:
        self._assigned[worker] = {}
        self._transport.begin(worker, self._job)

    def _assign_next(self, worker: Worker) -> None:
        assigned = self._assigned[worker]
        if worker not in self._ready or (self._left and len(assigned) >= self._transport.segments_per_worker):
            return
        self._ready.discard(worker)
        segment = self._left.popleft() if self._left else None
        if segment is not None:
            assigned[segment.number] = segment
            self._attempts[segment.number] += 1
        self._transport.assign(worker, segment)


def warn_of_different(kinds: Iterable[str]) -> None:
    """Warn if the parts of a clip are computed by several kinds of device."""
    if len(different := sorted(set(kinds))) > 1:
        logger.warning("%s share the work: %s.", " and ".join(different), DEVICE_DIFFERENCE)
