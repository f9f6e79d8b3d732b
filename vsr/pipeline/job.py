"""One clip, from the input to the output."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, cast

import av
import torch

from vsr import __version__
from vsr.errors import InputError, OutputError, UsageError, VsrError
from vsr.files import check_target
from vsr.imaging.pictures import is_animated, still_kind
from vsr.inference import RuntimeName
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
from vsr.media.reader import Damage, resized_message
from vsr.networks.weights import is_adversarial, model_covering
from vsr.pipeline.cluster import Cluster
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
from vsr.pipeline.plan import check_frame_fits, explains_out_of_memory, factor_of
from vsr.pipeline.processes import Processes
from vsr.pipeline.scheduler import Executor, InProcess
from vsr.pipeline.segment import ClipJob, EngineSpec
from vsr.pipeline.segments import (
    FEWEST_FRAMES,
    LEAD_IN,
    MIN_SECONDS,
    MOST_SECONDS,
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

logger = logging.getLogger(__name__)

MOTION_JPEG = frozenset({".mjpeg", ".mjpg"})
"""Endings of videos that begin as one JPEG does."""

SEGMENT_SECONDS = 60.0
"""Of computing, for a segment, about: what an interrupt costs at most."""


@dataclass(frozen=True)
class UpscaleProgress:
    """Where a job stands, given to the caller's callback after each batch.

    Attributes:
        frames: frames upscaled, those of an earlier run included.
        num_frames: frames in all; None where only decoding tells.
        resumed: how many of them an earlier run had done.
    """

    frames: int
    num_frames: int | None
    resumed: int = 0


@dataclass(frozen=True)
class UpscaleSummary:
    """The end of a job.

    Attributes:
        source: the input.
        target: the output.
        frames: frames read and written.
        width: of the output, in pixels as coded.
        height: of the output, in pixels as coded.
        seconds: wall time in all.
        streams: what became of each of the other streams, in words.
        damage: what was wrong with the source, or what of its streams was lost, in words; empty where nothing was.
        repeated: frames that were equal to the one before, and so were not computed again.
        segments: in how many parts the clip was upscaled.
        resumed: frames that an earlier run had done.
        overflowed: frames that half precision could not hold, and that were computed in float32.
        ffmpeg: the program that assembled the file, its version and path; empty of pictures.
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


EXECUTORS: dict[str, Callable[[UpscaleOptions], Executor]] = {
    "in-process": lambda options: InProcess(),
    "processes": Processes,
    "cluster": Cluster,
}
"""Where segments are upscaled."""


def executor_for(options: UpscaleOptions) -> Executor:
    """The executor that the options ask for; opened by ``with``."""
    chosen = "cluster" if options.cluster else "processes" if options.num_workers > 1 else "in-process"
    return EXECUTORS[chosen](options)


def upscale(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    progress: Callable[[UpscaleProgress], None] | None = None,
    **options: Any,
) -> UpscaleSummary:
    """Upscale a clip; its other streams, its metadata and every timestamp stay as they are.

    The output appears under its name when it is complete. What ends the work early leaves nothing but the finished
    segments, in a folder beside the output: the same call goes on from there. A damaged source raises nothing as long
    as one frame can be decoded: the summary says what was wrong.

    Args:
        source: a video, a picture, a folder of pictures, or a pattern such as ``frames/*.png`` or ``frames/%04d.png``.
        target: the output: a name with an ending of ``vsr.media.formats.CONTAINERS``, a picture, or a pattern of
            pictures such as ``frames/%06d.png``.
        progress: called after each batch of frames.
        **options: the fields of ``UpscaleOptions``.

    Raises:
        UsageError: options that cannot be, an unknown model or ending.
        InputError: the source is missing, damaged or holds no video.
        OutputError: the target exists, or cannot be written.
        VsrError: anything else that a user can meet.
    """
    return upscale_clip(Path(source), Path(target), UpscaleOptions(**options), progress)


@explains_out_of_memory
def upscale_clip(
    source: Path,
    target: Path,
    options: UpscaleOptions,
    progress: Callable[[UpscaleProgress], None] | None = None,
    executor: Executor | None = None,
    command: Command | None = None,
) -> UpscaleSummary:
    """As ``upscale``, with the options built.

    Args:
        source: as ``upscale``.
        target: as ``upscale``.
        options: as ``upscale``.
        progress: as ``upscale``.
        executor: one that is open already; None: one for this clip alone.
        command: that this clip is part of; None: it is all of it.
    """
    started = time.monotonic()
    check_names(source, target)
    earlier = read_job(target)
    publishing = earlier is not None and earlier.is_publishing
    if not publishing:
        try:
            check_target(target, overwrite=options.overwrite, inputs=(source,))
        except OutputError:
            remove_if_empty(target)
            raise
    clip = open_source(source, options)
    watch = SourceFingerprint(clip)
    output = output_for(clip, target, options)
    if not publishing:
        output.check()
    with job_folder(target) as folder, ExitStack() as working:
        if executor is None:
            executor = working.enter_context(executor_for(options))
        plan = plan_clip(clip, output, options, folder.earlier() if options.resume else {}, executor)
        manifest = _manifest(plan, source, target, options, command or Command.of((source,), target))
        before = folder.summary_of(manifest, output.is_published) if options.resume else None
        if before is not None:
            return _done_before(before, source, target, time.monotonic() - started)
        if not options.resume or folder.is_done:
            folder.clear()
        if publishing and not folder.is_publishing:
            output.check()
        folder.adopt(manifest, output.published)
        done, resumed, lost = _work(plan, folder, watch, options, progress, executor, working)
        found = _in_all(done)
        if found.resized:
            logger.warning("%s", resized_message(source, clip.video, found.resized))
        damage = "; ".join(filter(None, [str(found), *lost]))
        summary = UpscaleSummary(
            source, target, sum(part.frames for part in done), plan.job.conversion.width,
            plan.job.conversion.height, time.monotonic() - started, tuple(map(str, output.streams)),
            damage, sum(part.repeated for part in done), len(plan.segments), resumed,
            sum(part.overflowed for part in done), output.program,
        )  # fmt: skip
        folder.end_publishing({name: value for name, value in vars(summary).items() if name not in NOT_KEPT})
    if damage:
        logger.warning("%s is damaged: %s. %s is kept.", source, damage, target)
    return summary


def _work(
    plan: ClipPlan, folder: JobFolder, watch: SourceFingerprint, options: UpscaleOptions,
    progress: Callable[[UpscaleProgress], None] | None, executor: Executor, working: ExitStack,
) -> tuple[list[FinishedSegment], int, list[str]]:  # fmt: skip
    """Upscale what is left to do, close what is open for that, and give the output its name.

    Returns:
        what became of each segment, frames done before, and what of the source was lost on the way.
    """
    report = _Report(folder, plan.segments, watch, progress)
    left = [segment for segment in plan.segments if segment.number not in folder.finished]
    try:
        if left:
            plan.job.output.assemble_sample(folder.assembly())
            executor.run(plan.job, left, folder.path, report, plan.engine)
        working.close()
        results = [SegmentResult(folder.finished[segment.number], folder.segment(segment.number))
                   for segment in plan.segments]  # fmt: skip
        if not any(done.frames for done, _ in results):
            raise _no_frame(plan.job.clip, options)
        watch.check()
        lost = plan.job.output.complete(folder.assembly(), results, _Publication(folder, watch))
    except VsrError as exc:
        watch.check()  # a file that somebody writes to fails in many ways
        if kept := sum(part.frames for part in folder.finished.values()):
            said = str(exc).rstrip(".")
            raise type(exc)(f"{said}. {kept} frames are kept in {folder.path}; run again to go on.") from exc
        raise
    return [result.done for result in results], report.resumed, lost


def _manifest(plan: ClipPlan, source: Path, target: Path, options: UpscaleOptions, command: Command) -> Manifest:
    counts = [segment.num_frames for segment in plan.segments]
    num_frames = None if None in counts else sum(count or 0 for count in counts)
    return Manifest(
        os.path.abspath(source), os.path.abspath(target), command, options.to_dict(), plan.settings, num_frames
    )


NOT_KEPT = frozenset({"source", "target", "seconds", "resumed"})
"""Of a summary, what belongs to one run."""


def _done_before(summary: Mapping[str, Any], source: Path, target: Path, seconds: float) -> UpscaleSummary:
    """Of a job that was killed when all was done but the removal of its folder."""
    kept = {**summary, "streams": tuple(summary["streams"])}
    return UpscaleSummary(source, target, **kept, seconds=seconds, resumed=kept["frames"])


def open_source(source: Path, options: UpscaleOptions) -> ClipInfo:
    """A video, or pictures as one. Pictures and animations are known by their content, whatever their names.

    Raises:
        InputError: it cannot be read, or holds neither.
    """
    pictures = pictures_of(source)
    if pictures is None:
        kind = still_kind(source)
        if kind and is_animated(source):
            prober = probe_animation if kind == "WEBP" else probe
            return prober(source, max_pixels=options.max_pixels)
        if not (kind or is_picture_name(source)) or (kind == "JPEG" and source.suffix.lower() in MOTION_JPEG):
            return probe(source, max_pixels=options.max_pixels)
        pictures = [source]
    if said := missing_numbers(pictures):
        logger.warning("%s: %s The pictures that are there follow one another.", source, said)
    return probe_pictures(pictures, source, fps=options.fps, max_pixels=options.max_pixels)


@dataclass(frozen=True)
class ClipPlan:
    """All that is decided before the first frame.

    Attributes:
        order: for those who do the work.
        segments: what there is to do.
        settings: all that changes a pixel of it, by what to call it.
        engine: built already, on the first device.
        video_bytes: of the source's video packets; 0 of pictures.
    """

    job: ClipJob
    segments: list[Segment]
    settings: Settings
    engine: Engine
    video_bytes: int


def plan_clip(
    clip: ClipInfo, output: Output, options: UpscaleOptions, earlier: Settings, executor: Executor | None = None
) -> ClipPlan:
    """Decide everything.

    Args:
        clip: the source.
        output: what is made of it; it is planned here.
        options: what was chosen.
        earlier: settings of another run: if all else is alike, what follows from the machine is taken from there.
        executor: builds the engine where the work is done; None: here.
    """
    video, factor = clip.video, factor_of(clip.video, options)
    if video.interlaced:
        fate = "upscaled as it lies, combing and all" if options.deinterlace == "no" else "deinterlaced"
        logger.log(logging.WARNING if options.deinterlace == "no" else logging.INFO, "%s is %s.", clip.path, fate)
    spec = _engine_spec(options, factor)
    load = (executor or InProcess()).load
    engine = load(spec)
    conversion = output.plan(engine.scale)
    if not options.cluster:  # whose nodes know their memory
        check_frame_fits(clip, engine, conversion, 1 if clip.video.num_frames_estimated == 1 else spec.sharing)
    if engine.precision == "int8" and conversion.source.bit_depth > 8:
        logger.warning("%s: int8 keeps about 8 of its %d bits.", clip.path.name, conversion.source.bit_depth)
    index, digest = _index(clip, options)
    steadied = _is_steadied(clip, spec.model, engine, options)
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
        "the part": _part_in_words(options),
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
    spec = replace(spec, engine=cast(RuntimeName, engine.runtime), precision=engine.precision, tile_size=tile)
    job = ClipJob(clip, options, output, conversion, spec, batch, threads, steadied, warm_up > 0)
    return ClipPlan(job, segments, settings, engine, index.num_bytes if index else 0)


def _engine_spec(options: UpscaleOptions, factor: float | None) -> EngineSpec:
    return EngineSpec(
        model_covering(options.model, factor), factor if options.model == "bicubic" else None, options.devices[0],
        _engine_of_all(options), options.precision, options.tile_size, options.detail,
        1 if options.cluster else options.workers_sharing(choose_device(options.devices[0]).type),
    )  # fmt: skip


def _is_steadied(clip: ClipInfo, model: str, engine: Engine, options: UpscaleOptions) -> bool:
    if clip.pictures and len(clip.pictures) == 1:
        return False
    if options.steady == "auto":
        return not engine.in_order and is_adversarial(model, options.detail)
    if options.steady == "yes" and not engine.has_weights:
        raise UsageError(f"model {model!r} adds no detail that could flicker: leave out --steady.")
    return options.steady == "yes"


def _part_in_words(options: UpscaleOptions) -> str:
    if options.start is None and options.end is None:
        return "all of it"
    return f"{options.start or 0} s to {'the end' if options.end is None else f'{options.end} s'}"


def _engine_of_all(options: UpscaleOptions) -> RuntimeName:
    """One that all devices have: which of them does a segment shall not show."""
    kinds = {device.partition(":")[0] for device in options.devices}
    return "torch" if len(kinds) > 1 and options.engine == "auto" and options.precision != "int8" else options.engine


def _index(clip: ClipInfo, options: UpscaleOptions) -> tuple[PacketIndex | None, str]:
    """The packets of a video, None of pictures; and a digest of the source."""
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
    """How often segments have to be halved so that one is computed in about ``SEGMENT_SECONDS``.

    The network is timed on a batch or two, unless it has no weights or there would be nothing to cut. Where segments
    have to be warmed up it is not: as each of them begins anew, where they begin shows in the pixels, and follows from
    the clip and the kind of device alone.
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
    # Processes on one device share what it can do; a worker of a cluster has its own.
    sharing = 1 if options.cluster else max(1, options.num_workers // len(options.devices))
    frame_seconds = sharing * engine.seconds_of(batch, video.height, video.width) / batch  # with all that is done once
    if total * frame_seconds <= SEGMENT_SECONDS:
        return 0
    frame_seconds = sharing * engine.seconds_of(batch, video.height, video.width) / batch
    return halvings(frames, frame_seconds, SEGMENT_SECONDS, fewest)


def _bounds(warm_up: int) -> tuple[int, int]:
    """How many seconds a segment has at least and at most before it is halved."""
    return WARM_SECONDS if warm_up else (MIN_SECONDS, MOST_SECONDS)


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
    """Keeps what is finished, and tells the caller how far the work is."""

    def __init__(
        self, folder: JobFolder, segments: Sequence[Segment], watch: SourceFingerprint,
        progress: Callable[[UpscaleProgress], None] | None,
    ) -> None:  # fmt: skip
        self._folder, self._watch, self._progress = folder, watch, progress
        self._segments = {segment.number: segment for segment in segments}
        self._total = None if folder.manifest is None else folder.manifest.num_frames
        self.resumed = self._frames = sum(done.frames for done in folder.finished.values())
        self.frames(0)

    def frames(self, count: int) -> None:
        """So many more are on their way to the encoder; fewer, where they are done again."""
        self._frames += count
        if self._progress is not None and (count or self.resumed):
            self._progress(UpscaleProgress(self._frames, self._total, self.resumed))

    def smaller_tile(self, tile_size: int) -> None:
        """Memory ran out, and the work goes on in tiles of so many LR pixels."""
        self._folder.note_smaller_tile(tile_size)

    def finished(self, done: FinishedSegment, folder: Path) -> None:
        """A segment stands in a folder, safely on the disk."""
        self._watch.check(self._segments[done.number])
        self._folder.commit(done, folder)


class _Publication:
    """As ``outputs.Publication``, kept in the job's folder."""

    def __init__(self, folder: JobFolder, watch: SourceFingerprint) -> None:
        assert folder.manifest is not None
        self.begun = folder.manifest.publishing
        self._folder, self._watch = folder, watch

    def begin(self, what: Mapping[str, Any]) -> None:
        """As ``outputs.Publication``."""
        self._watch.check()  # its sound has been read until now
        self._folder.begin_publishing(what)


def _in_all(segments: Sequence[FinishedSegment]) -> Damage:
    return Damage(
        sum(done.damage.undecodable for done in segments),
        sum(done.damage.concealed for done in segments),
        max((done.damage.missing_seconds for done in segments), default=0.0),
        sum(done.damage.resized for done in segments),
    )


def _no_frame(clip: ClipInfo, options: UpscaleOptions) -> VsrError:
    if options.start is None and options.end is None:
        return InputError(f"{clip.path} is damaged: not one frame of its video can be decoded.")
    return InputError(f"{clip.path} has no frame in the part that was asked for.")
