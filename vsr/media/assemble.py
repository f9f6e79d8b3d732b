"""The new video and the other streams of the source -> the output file, by the ffmpeg program."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import av
import ffmpeg
from av.codec.codec import UnknownCodecError

from vsr.errors import OutputError, UsageError
from vsr.media.codecs import CONTAINERS, TEXT_SUBTITLES, Container
from vsr.media.ffmpeg import run
from vsr.media.probe import ClipInfo, StreamInfo


@dataclass(frozen=True)
class StreamPlan:
    """What becomes of one of the source's other streams.

    Attributes:
        stream: the stream.
        action: ``copy`` leaves every packet as it is.
        codec: what it is converted to, empty unless ``action`` is ``convert``.
        reason: why it is not copied, for the user.
    """

    stream: StreamInfo
    action: Literal["copy", "convert", "drop"]
    codec: str = ""
    reason: str = ""

    def __str__(self) -> str:
        what = {"copy": "copied", "convert": f"converted to {self.codec}", "drop": "left out"}[self.action]
        return f"{self.stream}: {what}{f' ({self.reason})' if self.reason else ''}"


def container_of(path: Path) -> Container:
    """The container that the output's name asks for.

    Raises:
        UsageError: no known ending.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError as exc:
        raise UsageError(f"cannot tell the format of {path}: its name must end in {', '.join(CONTAINERS)}.") from exc


def plan_streams(clip: ClipInfo, container: Container, *, audio: bool = True) -> list[StreamPlan]:
    """Decide, before any frame is computed, what becomes of each of the source's other streams.

    Args:
        clip: the source.
        container: what the output can hold.
        audio: False leaves all audio out.
    """
    return [_plan(stream, container, audio) for stream in clip.others]


def _plan(stream: StreamInfo, container: Container, audio: bool) -> StreamPlan:
    held = stream.codec in _held_codecs(container.muxer) - container.refused
    cannot = f"{container.muxer} cannot hold {stream.codec or 'it'}"
    match stream.kind:
        case "audio" if not audio:
            return StreamPlan(stream, "drop", reason="as asked")
        case "audio" if not stream.codec:
            return StreamPlan(stream, "drop", reason="it cannot be decoded")
        case "audio":
            return StreamPlan(stream, "copy") if held else StreamPlan(stream, "convert", container.audio, cannot)
        case "subtitle" if held:
            return StreamPlan(stream, "copy")
        case "subtitle" if container.subtitle is not None and stream.codec in TEXT_SUBTITLES:
            return StreamPlan(stream, "convert", container.subtitle, cannot)
        case "attachment" if container.attachments:
            return StreamPlan(stream, "copy")
        case "video":
            return StreamPlan(stream, "drop", reason="one video stream is upscaled")
        case _:
            return StreamPlan(stream, "drop", reason=cannot)


@lru_cache(maxsize=8)
def _held_codecs(muxer: str) -> frozenset[str]:
    """Names of the codecs that a muxer takes, as libav's own query answers."""
    with av.open(io.BytesIO(), "w", format=muxer) as probe:
        names = probe.supported_codecs
    return frozenset(names) | {_format_name(name) for name in names}


def _format_name(coder: str) -> str:
    """The format that a coder is for: ``dts`` for ``dca``, ``subrip`` for ``srt``."""
    for mode in ("r", "w"):
        with suppress(UnknownCodecError):
            return av.Codec(coder, mode).canonical_name
    return coder


def assemble(video: Path, clip: ClipInfo, streams: Sequence[StreamPlan], target: Path, container: Container) -> None:
    """Join the encoded video with the planned streams of the source, its metadata and chapters.

    Packets are copied with their own timestamps, so that sound and picture stay apart by what they were apart.

    Args:
        video: file with the new video stream.
        clip: the source.
        streams: what becomes of the source's other streams.
        target: the file to write; an existing one is replaced.
        container: the target's format.

    Raises:
        FFmpegError: the program failed.
        OutputError: it left no file.
    """
    new, source = ffmpeg.input(f"file:{video}"), ffmpeg.input(f"file:{clip.path}", protocol_whitelist="file")
    kept = [plan for plan in streams if plan.action != "drop"]
    options: dict[str, str | int] = {
        "c": "copy",
        "map_metadata": 1,
        # One such option turns off what ffmpeg does by itself, so each stream gets its own.
        "map_metadata:s:0": f"1:s:{clip.video.index}",
        "map_chapters": 1,
        "f": container.muxer,
    }
    for number, plan in enumerate(kept, start=1):  # output stream 0 is the video
        options[f"map_metadata:s:{number}"] = f"1:s:{plan.stream.index}"
        if plan.action == "convert":
            options[f"c:{number}"] = plan.codec
        if plan.stream.kind == "attachment" and plan.stream.mimetype is None:
            options[f"metadata:s:{number}"] = "mimetype=application/octet-stream"  # Matroska demands one
    if container.muxer in ("mp4", "mov"):
        # One clock for track and edit list, so that no timestamp is rounded.
        ticks = clip.video.time_base.denominator
        options |= {"video_track_timescale": ticks, "movie_timescale": ticks}
    # ffmpeg-python passes on only inputs that are mapped, and the metadata need the source even where no stream does:
    # the question mark lets a stream be missing, and there is none of that number.
    mapped = [new["v:0"], *(source[str(plan.stream.index)] for plan in kept), source[f"{len(clip.others) + 1}?"]]
    run(ffmpeg.output(*mapped, f"file:{target}", **options).global_args("-copyts").overwrite_output())
    if not target.is_file():
        raise OutputError(f"ffmpeg left no file at {target}.")
