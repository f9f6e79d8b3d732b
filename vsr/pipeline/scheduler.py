"""Where segments are upscaled: here, in processes of this machine, or on a cluster. A new place is one entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from vsr.inference.engine import Engine
from vsr.pipeline.cluster import Cluster
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.processes import Processes
from vsr.pipeline.segment import ClipJob, EngineCache, EngineSpec, upscale_segments
from vsr.pipeline.segments import FinishedSegment, Segment


class Report(Protocol):
    """What is told while the work goes on; from one thread at a time for each of them."""

    def frames(self, count: int) -> None:
        """So many more frames have been computed, or fewer, where they are done again."""

    def finished(self, done: FinishedSegment, folder: Path) -> None:
        """A segment stands in a folder, safely on the disk."""

    def smaller_tile(self, tile_size: int) -> None:
        """Memory ran out, and the work goes on in tiles of so many LR pixels."""


class Executor(AbstractContextManager["Executor"], Protocol):
    """Upscales segments, those of one clip after those of another. Which segment runs where, on devices of one kind,
    changes no pixel."""

    def load(self, spec: EngineSpec) -> Engine:
        """Build an engine where the work is done, or what answers there for one before the work begins.

        Raises:
            VsrError: it cannot be built there.
        """

    def run(self, job: ClipJob, segments: Sequence[Segment], folder: Path, report: Report, engine: Engine) -> None:
        """Upscale segments of a clip into folders of their own.

        Args:
            order: of the clip.
            segments: to be done.
            folder: where the folders are made.
            report: is told.
            engine: what ``load`` has built for the order, for those who can use it.

        Raises:
            VsrError: what ended the work.
        """


class InProcess:
    """One segment after the other, here."""

    def __init__(self) -> None:
        self._engines = EngineCache()

    def load(self, spec: EngineSpec) -> Engine:
        """As ``Executor``."""
        return self._engines.load(spec)

    def run(self, job: ClipJob, segments: Sequence[Segment], folder: Path, report: Report, engine: Engine) -> None:
        """As ``Executor``."""

        def use_smaller_tile(tile_size: int) -> None:
            self._engines.forget()  # another clip finds out for itself
            report.smaller_tile(tile_size)

        engine.on_smaller_tile = use_smaller_tile
        upscale_segments(job, segments, engine, folder, on_frames=report.frames, on_finished=report.finished)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open."""


EXECUTORS: dict[str, Callable[[UpscaleOptions], Executor]] = {
    "in-process": lambda options: InProcess(),
    "processes": Processes,
    "cluster": Cluster,
}


def executor_for(options: UpscaleOptions) -> Executor:
    """The one that the options ask for; opened by ``with``."""
    chosen = "cluster" if options.cluster else "processes" if options.num_workers > 1 else "in-process"
    return EXECUTORS[chosen](options)
