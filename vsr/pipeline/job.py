"""One clip, from the input to the output."""

from __future__ import annotations

import glob
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import IO, Any

from vsr.errors import InputError, OutputError
from vsr.files import check_target
from vsr.inference.engine import Engine, load_model
from vsr.media import animation
from vsr.media.clip import ClipInfo
from vsr.media.ffmpeg import check_names
from vsr.media.pictures import find_pictures, is_picture_name, natural_order, probe_pictures, read_pictures
from vsr.media.probe import probe
from vsr.media.reader import Damage, Frame, read_frames
from vsr.media.stills import is_animated
from vsr.networks.weights import model_covering
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.outputs import cut_of, output_for
from vsr.pipeline.plan import factor_of
from vsr.pipeline.segment import upscale_frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpscaleProgress:
    """Where a job stands, given to the caller's callback after each batch.

    Attributes:
        frames: frames upscaled.
        num_frames_estimated: frames in all as the header tells; None where it does not.
    """

    frames: int
    num_frames_estimated: int | None


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
        damage: what was wrong with the source, in words; empty where nothing was.
        repeated: frames that were equal to the one before, and so were not computed again.
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


def upscale(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    progress: Callable[[UpscaleProgress], None] | None = None,
    **options: Any,
) -> UpscaleSummary:
    """Upscale a clip; its other streams, its metadata and every timestamp stay as they are.

    The output appears under its name when it is complete. An exception leaves nothing behind but finished work: where
    the other streams cannot be joined, or the target has appeared meanwhile, the video is kept beside it, as the
    message says. A damaged source raises nothing as long as one frame can be decoded: the summary says what was wrong.

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


def upscale_clip(
    source: Path,
    target: Path,
    options: UpscaleOptions,
    progress: Callable[[UpscaleProgress], None] | None = None,
) -> UpscaleSummary:
    """As ``upscale``, with the options built."""
    started = time.monotonic()
    check_names(source, target)
    check_target(target, overwrite=options.overwrite, inputs=(source,))
    clip = open_source(source, options)
    output = output_for(clip, target, options)
    engine = _engine_for(clip, options)
    conversion = output.plan(engine.scale)

    def report(frames: int) -> None:
        if progress is not None:
            progress(UpscaleProgress(frames, clip.video.num_frames_estimated))

    damage = Damage()
    with _job_folder(target) as folder:
        with output.writer(folder) as writer:
            work = upscale_frames(
                _frames_of(clip, options, damage), writer, engine, conversion, progress=report,
                batch_size=options.batch_size or engine.batch_size(clip.video.height, clip.video.width),
            )  # fmt: skip
            if not work.frames:
                raise InputError(f"{source} has no frame in the part that was asked for.")
        output.complete(folder)
    if damage:
        logger.warning("%s is damaged: %s. %s is kept.", source, damage, target)
    return UpscaleSummary(
        source, target, work.frames, conversion.width, conversion.height, time.monotonic() - started,
        tuple(map(str, output.streams)), str(damage), work.repeated,
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


def _engine_for(clip: ClipInfo, options: UpscaleOptions) -> Engine:
    factor = factor_of(clip.video, options)
    return load_model(
        model_covering(options.model, factor),
        scale=factor if options.model == "bicubic" else None,
        device=options.device,
        precision=options.precision,
        tile_size=options.tile_size,
        detail=options.detail,
    )


def _frames_of(clip: ClipInfo, options: UpscaleOptions, damage: Damage) -> Generator[Frame, None, None]:
    cut = cut_of(clip, options)
    start, end = (None if at is None else ceil(at / clip.video.time_base) for at in (cut.start, cut.end))
    if clip.format == animation.FORMAT:
        return animation.read_animation(clip, start=start, end=end)
    if clip.pictures:
        return read_pictures(clip, start=start, end=end, max_pixels=options.max_pixels)
    video = clip.video
    if video.interlaced:
        fate = "upscaled as it lies, combing and all" if options.deinterlace == "no" else "deinterlaced"
        logger.log(logging.WARNING if options.deinterlace == "no" else logging.INFO, "%s is %s.", clip.path, fate)
    return read_frames(
        clip.path, video, start=start, end=end, deinterlace=options.deinterlace, max_pixels=options.max_pixels,
        damage=damage,
    )  # fmt: skip


@contextmanager
def _job_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target for what is not complete yet; it goes, whatever happens."""
    folder = target.with_name(target.name + ".vsr-job")
    try:
        folder.mkdir(exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115 - closed below, apart from what else may raise an OSError
    except OSError as exc:
        raise OutputError(f"cannot write to the folder {target.parent}: {exc.strerror}.") from exc
    with lock:
        _lock(lock, target)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[str], target: Path) -> None:
    """Refuse to write what another process is writing; where the system knows no such locks, hope for the best."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise OutputError(f"another vsr is writing {target}; wait for it, or name another output.") from exc
