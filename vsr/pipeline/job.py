"""Upscale one clip: open the source, plan the job, run its segments by an executor, and publish the output."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, cast

import av
import torch

from vsr import __version__
from vsr.errors import InputError, OutputError, UnsupportedError, VsrError, setting
from vsr.files import GENERATOR_FILE, check_target, folder_made
from vsr.imaging.pictures import is_animated, still_kind
from vsr.inference import Precision, RuntimeName
from vsr.inference.device import choose_device, kind_of
from vsr.inference.engine import Engine
from vsr.media.clip import ClipInfo
from vsr.media.ffmpeg import check_names
from vsr.media.pictures import (
    ANIMATION_FORMAT,
    is_picture_name,
    missing_numbers,
    pictures_of,
    probe_animation,
    probe_pictures,
)
from vsr.media.probe import PacketIndex, index_packets, probe
from vsr.media.provenance import Provenance, read_provenance
from vsr.media.reader import Damage, resized_message
from vsr.networks.weights import load_calibration, model_covering
from vsr.pipeline.cluster import Cluster
from vsr.pipeline.frames import is_steadied
from vsr.pipeline.journal import (
    BATCH,
    DEVICES,
    HALVINGS,
    SMALLER_TILE,
    THREADS,
    TILE,
    Command,
    JobFolder,
    Manifest,
    Settings,
    SourceFingerprint,
    job_folder,
    read_job,
    remove_if_empty,
)
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.outputs import Output, SegmentResult, cut_of, output_for
from vsr.pipeline.plan import Conversion, check_frame_fits, explains_out_of_memory, factor_of
from vsr.pipeline.processes import Processes
from vsr.pipeline.scheduler import Executor, InProcess
from vsr.pipeline.segment import ClipJob, EngineSpec
from vsr.pipeline.segments import (
    FEWEST_FRAMES,
    LEAD_IN,
    MAX_SECONDS,
    MIN_SECONDS,
    PICTURES,
    STATE_WARM_UP,
    STEADY_WARM_UP,
    WARM_SECONDS,
    WARM_SHARE,
    FinishedSegment,
    Segment,
    cut_by_number,
    cut_by_time,
    halvings,
)
from vsr.signals import Stop as Stop

logger = logging.getLogger(__name__)

MOTION_JPEG = frozenset({".mjpeg", ".mjpg"})
"""Endings of Motion JPEG videos, which begin with the same bytes as a JPEG picture."""

SEGMENT_SECONDS = 60.0
"""Target for the computing time of a segment, which is what an interrupt costs at most."""


@dataclass(frozen=True)
class UpscaleProgress:
    """The progress of a job, passed to the caller's callback after each batch.

    Attributes:
        frames: frames upscaled, including those of an earlier run.
        num_frames: frames in all; None if that is unknown before decoding.
        resumed: frames of an earlier run.
        frames_per_second: of this run; None until its first frame is done.
        seconds_left: None as long as it is unknown.
    """

    frames: int
    num_frames: int | None
    resumed: int = 0
    frames_per_second: float | None = None
    seconds_left: float | None = None


def speed(frames: int, seconds: float, remaining: int | None) -> tuple[float | None, float | None]:
    """Return frames per second, and the seconds for the remaining frames; None where it is unknown.

    Args:
        frames: frames that were computed, without resumed ones.
        seconds: time that they took.
        remaining: frames that are left; None: unknown.
    """
    if frames <= 0 or seconds <= 0:
        return None, None
    rate = frames / seconds
    return rate, None if remaining is None else max(0, remaining) / rate


class StopRequested(Exception):  # noqa: N818 - no error
    """Ends the work on a clip, after the caller's ``stop`` was set or its ``progress`` returned False."""


@dataclass(frozen=True)
class UpscaleSummary:
    """The result of a job.

    Attributes:
        source: the input.
        target: the output.
        frames: frames read and written.
        width: of the output, in pixels as coded.
        height: of the output, in pixels as coded.
        seconds: wall time in all.
        streams: what became of each of the other streams, as text.
        damage: damage of the source and streams that were lost, as text; empty if there was none.
        repeated: frames that were equal to the one before, and so were not computed again.
        segments: number of segments.
        resumed: frames of an earlier run.
        overflowed: frames that overflowed in half precision, and were computed again in float32.
        ffmpeg: version and path of the program that assembled the file; empty for pictures.
        stopped: whether ``stop`` or ``progress`` ended the job early: there is no output, ``frames`` are kept beside
            it, and the same call resumes.
    """

    source: Path
    target: Path
    frames: int
    width: int
    height: int
    seconds: float
    streams: tuple[str, ...]
    damage: str = ""
    repeated: int = 0
    segments: int = 1
    resumed: int = 0
    overflowed: int = 0
    ffmpeg: str = ""
    stopped: bool = False


EXECUTORS: dict[str, Callable[[UpscaleOptions], Executor]] = {
    "in-process": lambda options: InProcess(),
    "processes": Processes,
    "cluster": Cluster,
}
"""The executors, by where segments are upscaled."""


def executor_for(options: UpscaleOptions) -> Executor:
    """Return the executor for the options, to be opened by ``with``."""
    chosen = "cluster" if options.cluster else "processes" if options.num_workers > 1 else "in-process"
    return EXECUTORS[chosen](options)


@explains_out_of_memory
def upscale_clip(
    source: Path,
    target: Path,
    options: UpscaleOptions,
    progress: Callable[[UpscaleProgress], object] | None = None,
    executor: Executor | None = None,
    command: Command | None = None,
    on_plan: Callable[[ClipPlan], None] | None = None,
    stop: Stop | None = None,
) -> UpscaleSummary:
    """Upscale a clip; its other streams, its metadata and every timestamp stay as they are.

    The output gets its name when it is complete. If the work ends early, only the finished segments are kept, in a
    folder beside the output, and the same call resumes from there. A damaged source is no error as long as one frame
    can be decoded: the summary describes the damage.

    Args:
        source: as in ``vsr.upscale``.
        target: as in ``vsr.upscale``.
        options: how to upscale.
        progress: called before the first frame and after each batch; the work stops if it returns False.
        executor: an open executor; None: one is opened for this clip.
        command: the command that this clip is part of; None: one for this clip only.
        on_plan: called with the plan, before the first frame.
        stop: the work stops once it is set.

    Raises:
        UsageError: invalid options, or an unknown model or ending.
        InputError: the source is missing, damaged or holds no video.
        OutputError: the target exists, or cannot be written.
        VsrError: any other failure.
    """
    started = time.monotonic()
    check_names(source, target)
    earlier = read_job(target)
    publishing = earlier is not None and earlier.is_publishing
    if not publishing:
        try:
            check_target(target, overwrite=options.overwrite, inputs=(source,), makes_folder=True)
        except OutputError:
            remove_if_empty(target)
            raise
    clip = open_source(source, options)
    fingerprint = SourceFingerprint(clip)
    output = output_for(clip, target, options)
    if not publishing:
        output.check()
    plan, report = None, None
    try:
        with folder_made(target.parent), job_folder(target) as folder, ExitStack() as resources:
            if executor is None:
                executor = resources.enter_context(executor_for(options))
            plan = plan_clip(clip, output, options, folder.earlier_settings() if options.resume else {}, executor)
            manifest = _manifest(plan, source, target, options, command or Command.of((source,), target))
            before = folder.summary_of(manifest, output.is_published) if options.resume else None
            if before is not None:
                return _finished_before(before, source, target, time.monotonic() - started)
            if not options.resume or folder.is_done:
                folder.clear()
            if publishing and not folder.is_publishing:
                output.check()
            folder.adopt(manifest, output.published)
            report = _Report(folder, plan.segments, fingerprint, progress, stop)
            done, lost = _run_job(plan, folder, fingerprint, options, report, executor, resources, on_plan)
            found = _total_damage(done)
            if found.resized:
                logger.warning("%s", resized_message(source, clip.video, found.resized))
            damage = "; ".join(filter(None, [str(found), *lost]))
            summary = _summary(plan, source, target, done, report.resumed, damage, time.monotonic() - started)
            folder.end_publishing({name: value for name, value in vars(summary).items() if name not in NOT_KEPT})
    except StopRequested:
        assert plan is not None and report is not None
        kept = _summary(plan, source, target, report.kept, report.resumed, "", time.monotonic() - started)
        return replace(kept, stopped=True)
    if damage:
        logger.warning("%s is damaged: %s. %s is kept.", source, damage, target)
    return summary


def _summary(
    plan: ClipPlan, source: Path, target: Path, done: Sequence[FinishedSegment], resumed: int, damage: str,
    seconds: float,
) -> UpscaleSummary:  # fmt: skip
    job = plan.job
    return UpscaleSummary(
        source, target, sum(part.frames for part in done), job.conversion.width, job.conversion.height, seconds,
        tuple(map(str, job.output.streams)), damage, sum(part.repeated for part in done), len(plan.segments), resumed,
        sum(part.overflowed for part in done), job.output.program,
    )  # fmt: skip


def _run_job(
    plan: ClipPlan, folder: JobFolder, fingerprint: SourceFingerprint, options: UpscaleOptions, report: _Report,
    executor: Executor, resources: ExitStack, on_plan: Callable[[ClipPlan], None] | None,
) -> tuple[list[FinishedSegment], list[str]]:  # fmt: skip
    """Upscale the remaining segments, close ``resources``, and publish the output.

    Returns:
        the finished segments, and a description of each loss.

    Raises:
        StopRequested: the caller has stopped the work; finished segments are kept.
    """
    remaining = [segment for segment in plan.segments if segment.number not in folder.finished]
    try:
        if remaining:
            plan.job.output.assemble_sample(folder.assembly())
        plan.warn()
        if on_plan is not None:
            on_plan(plan)
        report.frames(0)
        if remaining:
            executor.run(plan.job, remaining, folder.path, report, plan.engine)
        resources.close()
        results = [SegmentResult(folder.finished[segment.number], folder.segment(segment.number))
                   for segment in plan.segments]  # fmt: skip
        if not any(done.frames for done, _ in results):
            raise _no_frame_error(plan.job.clip, options)
        fingerprint.check()
        lost = plan.job.output.complete(folder.assembly(), results, _Publication(folder, fingerprint))
    except VsrError as exc:
        fingerprint.check()  # a source that is being written to fails in many ways
        if kept := sum(part.frames for part in folder.finished.values()):
            message = str(exc).rstrip(".")
            raise type(exc)(f"{message}. {kept} frames are kept in {folder.path}; run again to resume.") from exc
        raise
    return [result.done for result in results], lost


def _manifest(plan: ClipPlan, source: Path, target: Path, options: UpscaleOptions, command: Command) -> Manifest:
    counts = [segment.num_frames for segment in plan.segments]
    num_frames = None if None in counts else sum(count or 0 for count in counts)
    return Manifest(
        os.path.abspath(source), os.path.abspath(target), command, options.to_dict(), plan.settings, num_frames
    )


NOT_KEPT = frozenset({"source", "target", "seconds", "resumed", "stopped"})
"""Fields of a summary that belong to a single run."""


def _finished_before(summary: Mapping[str, Any], source: Path, target: Path, seconds: float) -> UpscaleSummary:
    """Return the summary of a job that was killed when all was done except removing its folder."""
    kept = {**summary, "streams": tuple(summary["streams"])}
    return UpscaleSummary(source, target, **kept, seconds=seconds, resumed=kept["frames"])


def open_source(source: Path, options: UpscaleOptions) -> ClipInfo:
    """Open a video, or pictures as one. Pictures and animations are recognised by content, not by name.

    Raises:
        InputError: it cannot be read, or is neither a video nor a picture.
    """
    if (address := re.match(r"([a-z][a-z0-9+.-]*):/+", str(source), re.IGNORECASE)) and not source.exists():
        shown = f"{address[1]}://{str(source)[address.end() :]}"  # a path has lost one of the slashes
        raise InputError(f"{shown} is an address, and vsr reads files only: download it first.")
    pictures = pictures_of(source)
    if pictures is None:
        kind = still_kind(source)
        if kind and is_animated(source):
            prober = probe_animation if kind == "WEBP" else probe
            return prober(source, max_pixels=options.max_pixels)
        if not (kind or is_picture_name(source)) or (kind == "JPEG" and source.suffix.lower() in MOTION_JPEG):
            return probe(source, max_pixels=options.max_pixels)
        pictures = [source]
    return probe_pictures(pictures, source, fps=options.fps, max_pixels=options.max_pixels)


@dataclass(frozen=True)
class ClipPlan:
    """Everything that is decided before the first frame.

    Attributes:
        job: the clip's work.
        segments: the segments of the clip.
        settings: everything that affects pixels, by a name for messages.
        engine: the engine on the first device.
        video_bytes: size of the source's video packets; 0 for pictures.
        warnings: a sentence for each thing that is not as the user may expect, besides those of the output.
    """

    job: ClipJob
    segments: list[Segment]
    settings: Settings
    engine: Engine
    video_bytes: int
    warnings: tuple[str, ...] = ()

    def warn(self) -> None:
        """Log all warnings; called when nothing refuses the job any more, so that an error stands alone."""
        for sentence in (*self.warnings, *self.job.output.warnings):
            logger.warning("%s", sentence)

    def __str__(self) -> str:
        """What will be done, on one line."""
        job, engine, clip = self.job, self.engine, self.job.clip
        video, frames = clip.video, [segment.num_frames for segment in self.segments]
        before = sum(segment.num_warm_up for segment in self.segments)
        warm_up = f" and {before} to warm up" if before else ""
        count = "" if None in frames else f", {sum(filter(None, frames))} frames{warm_up}"
        made = job.output.made
        assert made is not None
        beyond = made.scale / engine.scale
        rest = f" and bicubic x{beyond:.3g}" if beyond > 1 + 1e-9 else ""
        version = re.search(r"\d+(\.\d+)*", job.output.program)
        program = f"; ffmpeg {version[0]}" if version else ""
        return (
            f"{clip.path.name}: {video.width}x{video.height} to {job.conversion.width}x{job.conversion.height}{count}; "
            f"{made.model}{rest} on {engine.device} in {engine.precision}, {engine.version.partition('+')[0]}{program}"
        )

    @property
    def faster(self) -> Precision | None:
        """A precision that makes the job two to three times as fast, where the user has chosen none."""
        chosen, job = self.job.options, self.job
        if self.engine.device.type != "cpu" or chosen.precision != "auto" or chosen.engine not in ("auto", "openvino"):
            return None
        with suppress(VsrError):  # a partner that is not calibrated
            return "int8" if load_calibration(job.engine.model, job.engine.detail) is not None else None
        return None


def plan_clip(
    clip: ClipInfo, output: Output, options: UpscaleOptions, earlier: Settings, executor: Executor | None = None
) -> ClipPlan:
    """Plan a clip's job.

    Args:
        clip: the source.
        output: the output; it is planned here too.
        options: the user's options.
        earlier: settings of an earlier run: if all others are equal, those that depend on the machine are kept.
        executor: builds the engine where the work is done; None: in this process.
    """
    video, factor = clip.video, factor_of(clip.video, options)
    if video.interlaced and options.deinterlace != "no":
        logger.info("%s is deinterlaced.", clip.path)
    spec = _engine_spec(options, factor)
    if options.precision == "fp16" and not options.cluster and choose_device(spec.device).type == "cpu":
        precisions = setting("precision", ("int8", "bf16", "fp32"))
        raise UnsupportedError(f"the CPU does not compute in fp16: use {precisions}.")
    load = (executor or InProcess()).load
    engine = load(spec)
    conversion = output.plan(engine.scale)
    output.made = _provenance(clip, spec, conversion, options)
    if not options.cluster:  # its nodes check their own memory
        check_frame_fits(clip, engine, conversion, 1 if clip.video.num_frames_estimated == 1 else spec.sharing)
    index, digest = _index(clip, options)
    steadied = _is_steadied(clip, engine, options)
    warm_up = STATE_WARM_UP if engine.in_order else STEADY_WARM_UP if steadied else 0
    settings: Settings = {
        "the version of vsr": __version__,
        "the version of torch": str(torch.__version__),
        "the version of PyAV": av.__version__,
        "the source": digest,
        "the model": Path(options.model).name,
        "the network's weights": engine.digest(),
        "the engine": engine.version,
        "the precision": engine.precision,
        "the steadying": steadied,
        "the part": _describe_part(options),
        "the deinterlacing": options.deinterlace,
        **output.settings(),
        "the colours": str(conversion),
    }
    kept = earlier if settings.items() <= earlier.items() else {}
    batch = options.batch_size or kept.get(BATCH) or engine.batch_size(video.height, video.width)
    batch = 1 if engine.in_order else batch
    if options.tile_size is None and TILE in kept:
        engine = load(replace(spec, tile_size=kept[TILE]))
    tile = engine.tile_for(batch, video.height, video.width)
    tile = 0 if tile >= max(video.height, video.width) else tile
    threads = kept.get(THREADS, os.cpu_count() or 1)
    halved = kept.get(HALVINGS)
    if halved is None:
        halved = _halvings(engine, batch, clip, index, options, warm_up)
    settings |= {TILE: tile, BATCH: batch, THREADS: threads, HALVINGS: halved}
    others = () if options.cluster else options.devices[1:]
    settings[DEVICES] = sorted({engine.kind, *(kind_of(choose_device(device)) for device in others)})
    if kept.get(TILE) == tile and SMALLER_TILE in kept:
        settings[SMALLER_TILE] = tile = kept[SMALLER_TILE]
        engine = load(replace(spec, tile_size=tile))
    segments = _cut(clip, index, options, halved, warm_up)
    if all(segment.num_frames == 0 for segment in segments):
        raise _no_frame_error(clip, options)
    spec = replace(spec, engine=cast(RuntimeName, engine.runtime), precision=engine.precision, tile_size=tile)
    job = ClipJob(clip, options, output, conversion, spec, batch, threads, steadied, warm_up > 0)
    return ClipPlan(job, segments, settings, engine, index.num_bytes if index else 0, tuple(_warnings(job, engine)))


def _warnings(job: ClipJob, engine: Engine) -> Iterator[str]:
    """Yield a sentence for each thing that is not as the user may expect, besides those of the output."""
    clip, bits = job.clip, job.conversion.source.bit_depth
    if clip.pictures and (gaps := missing_numbers(clip.pictures)):
        yield f"{clip.path}: {gaps} The pictures that are there follow one another."
    if clip.video.interlaced and job.options.deinterlace == "no":
        yield f"{clip.path} is upscaled without deinterlacing, with its combing."
    if engine.precision == "int8" and bits > 8:
        yield f"{clip.path.name}: int8 keeps about 8 of its {bits} bits."


def _provenance(clip: ClipInfo, spec: EngineSpec, conversion: Conversion, options: UpscaleOptions) -> Provenance:
    path, video = Path(spec.model), clip.video
    name = path.parent.name if path.name == GENERATOR_FILE else path.name if path.is_dir() else path.stem
    size = (conversion.width, conversion.height)
    across, down = reversed(size) if conversion.orientation.transposed else size
    scale = max(across / video.width, down / video.height)
    start, end = options.start, options.end
    if not clip.pictures and (former := read_provenance(clip.path)) is not None:  # a part of a part
        begins = former.start or 0
        end = former.end if end is None else begins + end
        start = former.start if start is None else begins + start
    return Provenance(__version__, name, spec.detail, round(scale, 6), start, end)


def _engine_spec(options: UpscaleOptions, factor: float | None) -> EngineSpec:
    return EngineSpec(
        model_covering(options.model, factor), factor if options.model == "bicubic" else None, options.devices[0],
        _common_engine(options), options.precision, options.tile_size, options.detail,
        1 if options.cluster else options.workers_sharing(choose_device(options.devices[0]).type),
    )  # fmt: skip


def _is_steadied(clip: ClipInfo, engine: Engine, options: UpscaleOptions) -> bool:
    if clip.pictures and len(clip.pictures) == 1:
        return False
    return is_steadied(engine, options)


def _describe_part(options: UpscaleOptions) -> str:
    if options.start is None and options.end is None:
        return "all of it"
    return f"{options.start or 0} s to {'the end' if options.end is None else f'{options.end} s'}"


def _common_engine(options: UpscaleOptions) -> RuntimeName:
    """Return an engine that all devices have, so that a segment has the same pixels on each of them."""
    kinds = {device.partition(":")[0] for device in options.devices}
    return "torch" if len(kinds) > 1 and options.engine == "auto" and options.precision != "int8" else options.engine


def _index(clip: ClipInfo, options: UpscaleOptions) -> tuple[PacketIndex | None, str]:
    """Return the packets of a video, or None for pictures, and a digest of the source."""
    if not clip.pictures:
        index = index_packets(clip.path, clip.video, max_pixels=options.max_pixels)
        return index, index.digest
    digest = hashlib.blake2b(digest_size=16)
    for path in clip.pictures:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return None, digest.hexdigest()


def _halvings(
    engine: Engine, batch: int, clip: ClipInfo, index: PacketIndex | None, options: UpscaleOptions, warm_up: int
) -> int:
    """Return how often to halve the segments so that one is computed in about ``SEGMENT_SECONDS``.

    The network is timed on a batch or two, unless it has no weights or there is nothing to cut. It is not timed if
    segments need a warm-up: their start affects pixels then, and so may depend on the clip and the kind of device only.
    """
    video, total = clip.video, index.num_frames if index else len(clip.pictures)
    uncut = clip.format == ANIMATION_FORMAT or (index is not None and not len(index.timestamps))
    fewest = WARM_SHARE * warm_up or FEWEST_FRAMES
    if uncut or total < 2 * fewest or not engine.has_weights:
        return 0
    frames = PICTURES
    if index is not None:
        duration = float((index.timestamps[-1] - index.timestamps[0]) * video.time_base)
        frames = round(total * _bounds(warm_up)[1] / duration)
    if warm_up:
        return halvings(frames, engine.usual_seconds_of(video.height, video.width), SEGMENT_SECONDS, fewest)
    # Processes on one device share its speed; each worker of a cluster has a device of its own.
    sharing = 1 if options.cluster else max(1, options.num_workers // len(options.devices))
    frame_seconds = sharing * engine.seconds_of(batch, video.height, video.width) / batch  # includes one-time costs
    if total * frame_seconds <= SEGMENT_SECONDS:
        return 0
    frame_seconds = sharing * engine.seconds_of(batch, video.height, video.width) / batch
    return halvings(frames, frame_seconds, SEGMENT_SECONDS, fewest)


def _bounds(warm_up: int) -> tuple[int, int]:
    """Return the shortest and the longest duration of a segment before halving, in seconds."""
    return WARM_SECONDS if warm_up else (MIN_SECONDS, MAX_SECONDS)


def _cut(
    clip: ClipInfo, index: PacketIndex | None, options: UpscaleOptions, halved: int, warm_up: int
) -> list[Segment]:
    cut = cut_of(clip, options)
    start, end = (None if at is None else ceil(at / clip.video.time_base) for at in (cut.start, cut.end))
    if clip.format == ANIMATION_FORMAT:
        return [Segment(0, None if warm_up else start, start, end)]
    if index is None:
        return cut_by_number(len(clip.pictures), start=start, end=end, warm_up=warm_up, halved=halved)
    lead_in = LEAD_IN if clip.video.interlaced or options.deinterlace == "yes" else 0
    least, most = _bounds(warm_up)
    seconds = (Fraction(least, 2**halved), Fraction(most, 2**halved))
    return cut_by_time(
        index, clip.video.time_base, start=start, end=end, lead_in=lead_in, warm_up=warm_up, seconds=seconds
    )


class _Report:
    """A ``Listener`` that keeps finished segments, reports progress to the caller, and ends the work where it asks to.

    Attributes:
        resumed: frames of an earlier run.
    """

    def __init__(
        self, folder: JobFolder, segments: Sequence[Segment], fingerprint: SourceFingerprint,
        progress: Callable[[UpscaleProgress], object] | None, stop: Stop | None,
    ) -> None:  # fmt: skip
        self._folder, self._fingerprint, self._progress, self._stop = folder, fingerprint, progress, stop
        self._segments = {segment.number: segment for segment in segments}
        self._total = None if folder.manifest is None else folder.manifest.num_frames
        self.resumed = self._frames = sum(done.frames for done in folder.finished.values())
        self._started = time.monotonic()

    @property
    def kept(self) -> list[FinishedSegment]:
        """The finished segments, of earlier runs too."""
        return list(self._folder.finished.values())

    def frames(self, count: int) -> None:
        """Add to the number of frames that were passed to the encoder; negative if they are computed again.

        Raises:
            StopRequested: the caller stops the work.
        """
        self._frames += count
        go_on: object = None
        if self._progress is not None:
            remaining = None if self._total is None else self._total - self._frames
            rate, left = speed(self._frames - self.resumed, time.monotonic() - self._started, remaining)
            go_on = self._progress(UpscaleProgress(self._frames, self._total, self.resumed, rate, left))
        if go_on is False or (self._stop is not None and self._stop.is_set()):
            raise StopRequested

    def smaller_tile(self, tile_size: int) -> None:
        """Record that memory ran out, and that the work continues in tiles of so many LR pixels."""
        self._folder.note_smaller_tile(tile_size)

    def finished(self, done: FinishedSegment, folder: Path) -> None:
        """Keep a segment that is complete in a folder and synced to the disk."""
        self._fingerprint.check(self._segments[done.number])
        self._folder.commit(done, folder)


class _Publication:
    """An ``outputs.Publication`` that is kept in the job's folder."""

    def __init__(self, folder: JobFolder, fingerprint: SourceFingerprint) -> None:
        assert folder.manifest is not None
        self.begun = folder.manifest.publishing
        self._folder, self._fingerprint = folder, fingerprint

    def begin(self, what: Mapping[str, Any]) -> None:
        """As ``outputs.Publication``."""
        self._fingerprint.check()  # its other streams were read until now
        self._folder.begin_publishing(what)


def _total_damage(segments: Sequence[FinishedSegment]) -> Damage:
    return Damage(
        sum(done.damage.undecodable for done in segments),
        sum(done.damage.concealed for done in segments),
        max((done.damage.missing_seconds for done in segments), default=0.0),
        sum(done.damage.resized for done in segments),
    )


def _no_frame_error(clip: ClipInfo, options: UpscaleOptions) -> VsrError:
    if options.start is None and options.end is None:
        return InputError(f"{clip.path} is damaged: not one frame of its video can be decoded.")
    return InputError(f"{clip.path} has no frame in the requested part.")
