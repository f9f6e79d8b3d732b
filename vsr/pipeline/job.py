"""One clip, from the input to the output."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, cast

import av
import torch

from vsr import __version__
from vsr.errors import InputError, VsrError
from vsr.files import check_target
from vsr.inference.device import choose_device
from vsr.inference.engine import Engine
from vsr.inference.runtimes import RuntimeName
from vsr.media import animation
from vsr.media.clip import ClipInfo
from vsr.media.ffmpeg import check_names
from vsr.media.index import index_packets
from vsr.media.pictures import find_pictures, is_picture_name, natural_order, probe_pictures
from vsr.media.probe import probe
from vsr.media.reader import Damage
from vsr.media.stills import is_animated
from vsr.networks.models import model_covering
from vsr.pipeline.executors import Executor, executor_for
from vsr.pipeline.job_folder import JobFolder, Settings, job_folder, remove_remains
from vsr.pipeline.memory import check_frame_fits, names_what_lacks_memory
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.order import EngineSpec, Order
from vsr.pipeline.outputs import Output, SegmentResult, cut_of, output_for
from vsr.pipeline.plan import factor_of
from vsr.pipeline.segments import LEAD_IN, Finished, Segment, cut_by_number, cut_by_time

logger = logging.getLogger(__name__)

TILE, BATCH, THREADS = "the tile size", "the batch size", "the encoder's threads"
"""Settings that follow from the machine unless they are chosen; a job that goes on keeps those that it had."""


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
        source: a video, a picture, a folder of pictures, or a pattern such as ``frames/*.png``.
        target: the output: a name with an ending of ``vsr.media.containers.CONTAINERS``, a picture, or a pattern of
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


@names_what_lacks_memory
def upscale_clip(
    source: Path,
    target: Path,
    options: UpscaleOptions,
    progress: Callable[[UpscaleProgress], None] | None = None,
    executor: Executor | None = None,
) -> UpscaleSummary:
    """As ``upscale``, with the options built, and where wanted an executor that is open already."""
    started = time.monotonic()
    check_names(source, target)
    remove_remains(target)
    check_target(target, overwrite=options.overwrite, inputs=(source,))
    clip = open_source(source, options)
    output = output_for(clip, target, options)
    with job_folder(target) as folder:
        plan = plan_clip(clip, output, options, folder.earlier() if options.resume else {})
        if not options.resume:
            folder.clear()
        if differing := folder.adopt(plan.settings):
            logger.warning("%s was begun otherwise: %s. It begins anew.", folder.path, "; ".join(differing))
        output.rehearse(folder.path)
        report = _Report(folder, plan.segments, progress)
        left = [segment for segment in plan.segments if segment.number not in folder.finished]
        try:
            if left:
                with executor_for(options) if executor is None else nullcontext(executor) as open_executor:
                    open_executor.run(plan.order, left, folder.path, report, plan.engine)
            results = [SegmentResult(folder.finished[segment.number], folder.segment(segment.number))
                       for segment in plan.segments]  # fmt: skip
            if not any(done.frames for done, _ in results):
                raise _no_frame(clip, options)
            lost = output.complete(folder.path, results)
        except VsrError as exc:
            if kept := sum(part.frames for part in folder.finished.values()):
                said = str(exc).rstrip(".")
                raise type(exc)(f"{said}. {kept} frames are kept in {folder.path}; run again to go on.") from exc
            raise
    done = [result.done for result in results]
    damage = "; ".join(filter(None, [str(_in_all(done)), *lost]))
    if damage:
        logger.warning("%s is damaged: %s. %s is kept.", source, damage, target)
    return UpscaleSummary(
        source, target, sum(part.frames for part in done), plan.order.conversion.width, plan.order.conversion.height,
        time.monotonic() - started, tuple(map(str, output.streams)), damage, sum(part.repeated for part in done),
        len(plan.segments), report.resumed, sum(part.overflowed for part in done),
        output.program,
    )  # fmt: skip


def open_source(source: Path, options: UpscaleOptions) -> ClipInfo:
    """A video, or pictures as one.

    Raises:
        InputError: it cannot be read, or holds neither.
    """
    if source.is_dir():
        pictures = find_pictures(source)
        if not pictures:
            raise InputError(f"the folder {source} holds no pictures.")
    elif not source.exists() and glob.has_magic(str(source)):
        pictures = sorted((path for path in map(Path, glob.glob(str(source)))), key=natural_order)
        if not pictures:
            raise InputError(f"no file is called {source}.")
    elif is_picture_name(source):
        if source.suffix.lower() == ".webp" and is_animated(source):
            return animation.probe_animation(source, max_pixels=options.max_pixels)
        if is_animated(source):
            return probe(source, max_pixels=options.max_pixels)
        pictures = [source]
    else:
        return probe(source, max_pixels=options.max_pixels)
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

    order: Order
    segments: list[Segment]
    settings: Settings
    engine: Engine
    video_bytes: int


def plan_clip(clip: ClipInfo, output: Output, options: UpscaleOptions, earlier: Settings) -> ClipPlan:
    """Decide everything.

    Args:
        clip: the source.
        output: what is made of it; it is planned here.
        options: what was chosen.
        earlier: settings of another run: if all else is alike, what follows from the machine is taken from there.
    """
    video, factor = clip.video, factor_of(clip.video, options)
    if video.interlaced:
        fate = "upscaled as it lies, combing and all" if options.deinterlace == "no" else "deinterlaced"
        logger.log(logging.WARNING if options.deinterlace == "no" else logging.INFO, "%s is %s.", clip.path, fate)
    spec = EngineSpec(
        model_covering(options.model, factor), factor if options.model == "bicubic" else None, options.devices[0],
        _engine_of_all(options), options.precision, options.tile_size, options.detail,
        options.workers_sharing(choose_device(options.devices[0]).type),
    )  # fmt: skip
    engine = spec.load()
    conversion = output.plan(engine.scale)
    check_frame_fits(clip, engine, conversion, 1 if clip.video.num_frames_estimated == 1 else spec.sharing)
    if engine.precision == "int8" and conversion.source.bit_depth > 8:
        logger.warning("%s: int8 keeps about 8 of its %d bits.", clip.path.name, conversion.source.bit_depth)
    segments, digest, video_bytes = _cut(clip, options)
    settings: Settings = {
        "the version": f"vsr {__version__}, torch {torch.__version__}, libav by av {av.__version__}",
        "the source": digest,
        "the model": f"{options.model} ({engine.digest()})",
        "the engine": engine.version,
        "the precision": engine.precision,
        "the part": f"{options.start} to {options.end}",
        "the deinterlacing": options.deinterlace,
        **output.settings(),
        "the conversion": str(conversion),
    }
    kept = earlier if settings.items() <= earlier.items() else {}
    batch = options.batch_size or kept.get(BATCH) or engine.batch_size(video.height, video.width)
    if options.tile_size is None and TILE in kept:
        engine = replace(spec, tile_size=kept[TILE]).load()
    tile = engine.tile_for(batch, video.height, video.width)
    tile = 0 if tile >= max(video.height, video.width) else tile
    threads = kept.get(THREADS, os.cpu_count() or 1)
    settings |= {TILE: tile, BATCH: batch, THREADS: threads}
    spec = replace(spec, engine=cast(RuntimeName, engine.runtime), precision=engine.precision, tile_size=tile)
    order = Order(clip, options, output, conversion, spec, batch, threads)
    return ClipPlan(order, segments, settings, engine, video_bytes)


def _engine_of_all(options: UpscaleOptions) -> RuntimeName:
    """One that all devices have: which of them does a segment shall not show."""
    kinds = {device.partition(":")[0] for device in options.devices}
    return "torch" if len(kinds) > 1 and options.engine == "auto" and options.precision != "int8" else options.engine


def _cut(clip: ClipInfo, options: UpscaleOptions) -> tuple[list[Segment], str, int]:
    """The segments, a digest of the source, and the bytes of its video."""
    cut = cut_of(clip, options)
    start, end = (None if at is None else ceil(at / clip.video.time_base) for at in (cut.start, cut.end))
    if clip.pictures:
        digest = hashlib.blake2b(digest_size=16)
        for path in clip.pictures:
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        if clip.format == animation.FORMAT:
            return [Segment(0, start, end)], digest.hexdigest(), 0
        return cut_by_number(len(clip.pictures), start=start, end=end), digest.hexdigest(), 0
    index = index_packets(clip.path, clip.video, max_pixels=options.max_pixels)
    lead_in = LEAD_IN if clip.video.interlaced or options.deinterlace == "yes" else 0
    segments = cut_by_time(index, clip.video.time_base, start=start, end=end, lead_in=lead_in)
    return segments, index.digest, index.num_bytes


class _Report:
    """Keeps what is finished, and tells the caller how far the work is."""

    def __init__(
        self, folder: JobFolder, segments: Sequence[Segment], progress: Callable[[UpscaleProgress], None] | None
    ) -> None:
        self._folder, self._progress = folder, progress
        counts = [segment.num_frames for segment in segments]
        self._total = None if None in counts else sum(count or 0 for count in counts)
        self.resumed = self._frames = sum(done.frames for done in folder.finished.values())
        self.frames(0)

    def frames(self, count: int) -> None:
        """So many more are on their way to the encoder; fewer, where they are done again."""
        self._frames += count
        if self._progress is not None and (count or self.resumed):
            self._progress(UpscaleProgress(self._frames, self._total, self.resumed))

    def finished(self, done: Finished, folder: Path) -> None:
        """A segment stands in a folder, safely on the disk."""
        self._folder.commit(done, folder)


def _in_all(segments: Sequence[Finished]) -> Damage:
    return Damage(
        sum(done.damage.undecodable for done in segments),
        sum(done.damage.concealed for done in segments),
        max((done.damage.missing_seconds for done in segments), default=0.0),
    )


def _no_frame(clip: ClipInfo, options: UpscaleOptions) -> VsrError:
    if options.start is None and options.end is None:
        return InputError(f"{clip.path} is damaged: not one frame of its video can be decoded.")
    return InputError(f"{clip.path} has no frame in the part that was asked for.")
