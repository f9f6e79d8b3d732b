"""One clip, from the input file to the output file."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from vsr.errors import FFmpegError, OutputError, UsageError
from vsr.files import check_target
from vsr.inference.engine import Engine, load_model
from vsr.media.assemble import StreamPlan, assemble, container_of, plan_streams
from vsr.media.codecs import CODECS, Container
from vsr.media.encoder import VideoFormat, encoded_format
from vsr.media.ffmpeg import check_names, find_program
from vsr.media.pixels import layout_of
from vsr.media.probe import ClipInfo, colour_of, probe
from vsr.media.reader import decoded_format
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.segment import Conversion, upscale_segment

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
        width: of the output, in pixels.
        height: of the output, in pixels.
        seconds: wall time in all.
        streams: what became of each of the other streams, in words.
    """

    source: Path
    target: Path
    frames: int
    width: int
    height: int
    seconds: float
    streams: tuple[str, ...]


def upscale(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    progress: Callable[[UpscaleProgress], None] | None = None,
    **options: Any,
) -> UpscaleSummary:
    """Upscale a clip; its other streams, its metadata and every timestamp stay as they are.

    The output appears under its name when it is complete. An exception leaves nothing behind, with one exception: where
    the other streams cannot be joined, the upscaled video alone is kept beside the target, as the message says.

    Args:
        source: the clip.
        target: the output, ``*.mp4``, ``*.mov``, ``*.m4v`` or ``*.mkv``.
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
    _check_target(source, target, options.overwrite)
    container = container_of(target)
    find_program()  # needed last, missed first
    clip = probe(source)
    streams = plan_streams(clip, container, audio=options.audio == "copy")
    for plan in streams:
        logger.log(logging.INFO if plan.action == "copy" else logging.WARNING, "%s: %s", source.name, plan)
    engine = load_model(
        options.model,
        scale=options.scale,
        device=options.device,
        precision=options.precision,
        tile_size=options.tile_size,
    )
    video, conversion = _plan_video(clip, engine, options)

    def report(frames: int) -> None:
        if progress is not None:
            progress(UpscaleProgress(frames, clip.video.num_frames_estimated))

    with _job_folder(target) as folder:
        encoded, assembled = folder / "video.mp4", folder / f"assembled{target.suffix}"
        frames = upscale_segment(
            clip, encoded, engine, conversion, CODECS[options.codec], options.encoder_options, video,
            batch_size=options.batch_size or engine.batch_size(clip.video.height, clip.video.width), progress=report,
        )  # fmt: skip
        _assemble_or_keep(encoded, clip, streams, assembled, target, container)
        _check_target(source, target, options.overwrite)  # hours may have passed
        try:
            assembled.replace(target)
        except OSError as exc:
            raise OutputError(f"cannot write {target}: {exc.strerror}.") from exc
    seconds = time.monotonic() - started
    return UpscaleSummary(source, target, frames, video.width, video.height, seconds, tuple(map(str, streams)))


def _assemble_or_keep(
    encoded: Path, clip: ClipInfo, streams: Sequence[StreamPlan], assembled: Path, target: Path, container: Container
) -> None:
    """Assemble; where that fails, the frames that were computed are kept beside the target."""
    try:
        assemble(encoded, clip, streams, assembled, container)
    except FFmpegError as exc:
        kept = target.with_name(f"{target.stem}.video-only.mp4")
        encoded.replace(kept)
        raise FFmpegError(f"{exc}. The upscaled video alone is kept as {kept}.") from exc


def _plan_video(clip: ClipInfo, engine: Engine, options: UpscaleOptions) -> tuple[VideoFormat, Conversion]:
    video, codec = clip.video, CODECS[options.codec]
    width, height = round(video.width * engine.scale), round(video.height * engine.scale)
    decoded, source_layout = decoded_format(video)
    encoded = encoded_format(codec, decoded)
    target_layout = layout_of(encoded)
    assert target_layout is not None
    if not 1 <= min(width, height) <= max(width, height) <= codec.largest:
        raise UsageError(
            f"{clip.path} x{engine.scale:g} is {width}x{height}; 1 to {codec.largest} pixels can be written."
        )
    if (width & 1 and target_layout.subsampling_x) or (height & 1 and target_layout.subsampling_y):
        raise UsageError(
            f"{options.codec} in {encoded} cannot hold the odd size {width}x{height} of {clip.path} x{engine.scale:g}; "
            "take another scale."
        )
    source_colour = colour_of(video, video.height)
    # What vsr writes has its chroma where MPEG-2 and later have it.
    target_colour = replace(colour_of(video, height), chroma_x="cosited", chroma_y="centred")
    tags = replace(video.tags, range=2) if target_colour.full_range else video.tags
    if source_layout.kind == "rgb" and target_layout.kind != "rgb":
        target_colour = replace(target_colour, matrix="bt709", full_range=False)
        tags = replace(tags, matrix=1, range=1)
    return (
        VideoFormat(
            width=width,
            height=height,
            pix_fmt=encoded,
            time_base=video.time_base,
            rate=video.average_rate,
            sample_aspect_ratio=video.sample_aspect_ratio,
            tags=tags,
        ),
        Conversion(source_layout, source_colour, target_layout, target_colour),
    )


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    check_names(source, target)
    check_target(target, overwrite=overwrite, inputs=(source,))


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
