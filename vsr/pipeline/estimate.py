"""Estimate the time and disk space of a job by decoding, upscaling and encoding a few of its frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from vsr.errors import InputError
from vsr.files import check_target
from vsr.media.ffmpeg import check_names
from vsr.media.reader import Damage, Frame
from vsr.pipeline.job import ClipPlan, open_source, plan_clip
from vsr.pipeline.journal import RECORD
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.outputs import output_for
from vsr.pipeline.plan import explains_out_of_memory
from vsr.pipeline.scheduler import Executor
from vsr.pipeline.segment import ClipJob, upscale_segments
from vsr.pipeline.segments import FinishedSegment, Segment

PLACES = (0.1, 0.5, 0.9)
"""Where samples are taken, as fractions of the clip."""

MIN_SECONDS = 3.0
"""Samples grow until they take this long, so that costs that arise once weigh little."""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a job.

    Attributes:
        source: the input.
        target: the output.
        frames: number of frames in the clip, or in the requested part.
        segments: number of segments.
        width: of the output, in pixels as coded.
        height: of the output, in pixels as coded.
        seconds: wall time; several devices are assumed to be like the first.
        measured_frames: number of frames that were upscaled for the estimate.
        output_bytes: size of the output.
        disk_bytes: disk space needed at most, the output included.
        streams: what would become of each of the other streams, as text.
    """

    source: Path
    target: Path
    frames: int
    segments: int
    width: int
    height: int
    seconds: float
    measured_frames: int
    output_bytes: int
    disk_bytes: int
    streams: tuple[str, ...]


@explains_out_of_memory
def estimate_clip(
    source: Path, target: Path, options: UpscaleOptions, *, executor: Executor | None = None,
    on_plan: Callable[[ClipPlan], None] | None = None,
) -> Estimate:  # fmt: skip
    """Estimate a job by upscaling a few frames of the clip; write nothing.

    Args:
        source: the input.
        target: the output.
        options: the job's options.
        executor: builds the engine, or reuses that of the clip before; None: one for this clip.
        on_plan: called with the plan, before anything is measured.

    Raises:
        VsrError: ``upscale`` would refuse the job.
    """
    started = time.monotonic()
    check_names(source, target)
    check_target(target, overwrite=options.overwrite, inputs=(source,), makes_folder=True)
    clip = open_source(source, options)
    output = output_for(clip, target, options)
    output.check()
    plan = plan_clip(clip, output, options, {}, executor)
    with TemporaryDirectory(prefix="vsr-") as folder:
        output.assemble_sample(Path(folder))
    plan.warn()
    if on_plan is not None:
        on_plan(plan)
    planned = time.monotonic() - started
    frames = sum(_length(segment, clip.video.num_frames_estimated) for segment in plan.segments)
    computed = frames + sum(segment.num_warm_up for segment in plan.segments)
    sample = _measure(plan, frames)
    video_bytes = round(sample.num_bytes * frames / sample.frames)
    others = 0 if clip.pictures else max(0, source.stat().st_size - plan.video_bytes)
    shares = len(options.devices)  # processes on one device share what it can do
    return Estimate(
        source, target, frames, len(plan.segments), plan.job.conversion.width, plan.job.conversion.height,
        planned + sample.seconds * computed / sample.frames / shares, sample.frames, video_bytes + others,
        video_bytes * (2 if len(plan.segments) == 1 else 3) + others, tuple(map(str, output.streams)),
    )  # fmt: skip


def _length(segment: Segment, default: int | None) -> int:
    return default or 1 if segment.num_frames is None else segment.num_frames


@dataclass(frozen=True)
class _Shortened(ClipJob):
    """A job of the first frames of each segment only, without its warm-up.

    Attributes:
        counts: how many frames, by the segment's number.
    """

    counts: Mapping[int, int] = field(default_factory=dict)

    def frames(self, segment: Segment, damage: Damage) -> Generator[Frame, None, None]:
        cold = replace(segment, first=segment.start)
        with closing(super().frames(cold, damage)) as frames:
            yield from islice(frames, self.counts[segment.number])


@dataclass(frozen=True)
class _Sample:
    frames: int
    seconds: float
    num_bytes: int


def _measure(plan: ClipPlan, frames: int) -> _Sample:
    """Upscale a few frames, then more until it takes ``MIN_SECONDS``."""
    _run(plan, _samples(plan.segments, 1)[:1])  # warm up: memory, kernels, threads
    count = 2
    while True:
        sample = _run(plan, _samples(plan.segments, count))
        if sample.seconds >= MIN_SECONDS or count * len(PLACES) >= frames:
            return sample
        count = min(8 * count, ceil(count * 1.5 * MIN_SECONDS / sample.seconds))


def _samples(segments: Sequence[Segment], count: int) -> list[tuple[Segment, int]]:
    """Return the segments at ``PLACES``, and how many frames of each to upscale."""
    chosen: dict[int, int] = {}
    for place in PLACES:
        number = int(place * len(segments))
        chosen[number] = chosen.get(number, 0) + count
    return [(segments[number], frames) for number, frames in chosen.items()]


def _run(plan: ClipPlan, samples: Sequence[tuple[Segment, int]]) -> _Sample:
    """Upscale the first frames of some segments."""
    done: list[tuple[int, int]] = []

    def take(finished: FinishedSegment, folder: Path) -> None:
        size = sum(path.stat().st_size for path in folder.iterdir() if path.name != RECORD)
        done.append((finished.frames, size))

    with TemporaryDirectory(prefix="vsr-") as folder:
        started = time.monotonic()
        job = _Shortened(**vars(plan.job), counts={segment.number: count for segment, count in samples})
        upscale_segments(
            job, [segment for segment, _ in samples], plan.engine, Path(folder),
            on_frames=lambda count: None, on_finished=take,
        )  # fmt: skip
        seconds = time.monotonic() - started
    if not (frames := sum(frames for frames, _ in done)):
        raise InputError(f"{plan.job.clip.path} has no frame in the samples; --dry-run cannot estimate it.")
    return _Sample(frames, seconds, sum(size for _, size in done))
