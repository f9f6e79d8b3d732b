"""The containers that vsr writes: one entry each, by the ending of the output's name."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import av
from av.codec.codec import UnknownCodecError

from vsr.errors import UsageError


@dataclass(frozen=True)
class Container:
    """A file format to write.

    Attributes:
        muxer: libav's name.
        codec: the video codec that it gets unless the user says otherwise.
        audio: encoder for audio that the format cannot hold as it is; empty where it holds no sound.
        subtitle: the same for text subtitles; None where they cannot be held.
        attachments: whether files such as fonts can be held.
        cover_art: whether it holds pictures of what the file is about.
        turns: whether it holds a display matrix; where not, the pixels are turned instead.
        chapters: whether it holds chapters.
        one_rate: it has no timestamps: all frames last equally long, and all streams begin together.
        timecode: whether it keeps a time code that the metadata tell.
        stereo_mode: its metadata say how the pictures of the two eyes are arranged.
        refused: codecs that the muxer says it takes, but turns down when it writes the header.
        held: the codecs that it holds, where its muxer does not tell.
        options: libav's options of the muxer.
    """

    muxer: str
    codec: str
    audio: str
    subtitle: str | None
    attachments: bool = False
    cover_art: bool = False
    turns: bool = True
    chapters: bool = True
    one_rate: bool = False
    timecode: bool = False
    stereo_mode: bool = False
    refused: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    options: tuple[tuple[str, str], ...] = ()


# There is a standard for PCM in MP4 (ISO/IEC 23003-5), but few players know it.
_PCM = frozenset(name for name in av.codecs_available if name.startswith("pcm_"))
_MP4 = Container("mp4", "h264", "aac", "mov_text", cover_art=True, timecode=True, refused=_PCM | {"truehd"})
# The standard of MPEG-2 systems and its registrations, as players of broadcasts know them.
_TS = frozenset({
    "h264", "hevc", "mpeg1video", "mpeg2video", "aac", "mp2", "mp3", "ac3", "eac3", "dts", "opus", "truehd",
    "dvb_subtitle", "dvb_teletext",
})  # fmt: skip

CONTAINERS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": Container(
        "mov", "h264", "aac", "mov_text", timecode=True,
        refused=frozenset({"flac", "opus", "truehd", "vp8", "vp9", "av1"}),
    ),
    ".mkv": Container("matroska", "h264", "flac", "srt", attachments=True, stereo_mode=True, timecode=True),
    ".webm": Container("webm", "vp9", "libopus", "webvtt", stereo_mode=True, timecode=True),
    ".ts": Container(
        "mpegts", "h264", "aac", None, turns=False, chapters=False, held=_TS,
        options=(("muxdelay", "0"), ("muxpreload", "0")),  # else everything comes 1.4 s later
    ),
    ".avi": Container("avi", "h264", "libmp3lame", None, turns=False, chapters=False, one_rate=True),
    ".gif": Container("gif", "ffv1", "", None, turns=False, chapters=False),
}  # fmt: skip
"""By the ending of the output's name."""

CONTAINERS[".mts"] = CONTAINERS[".ts"]
CONTAINERS[".m2ts"] = replace(CONTAINERS[".ts"], held=_TS | {"hdmv_pgs_subtitle", "pcm_bluray"})  # Blu-ray's own

VIDEO_ENDINGS = frozenset(CONTAINERS) | {
    ".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".flv", ".h264", ".hevc", ".m1v", ".m2v", ".mj2", ".mjpeg", ".mpeg",
    ".mpg", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".vob", ".wmv", ".wtv", ".y4m",
}  # fmt: skip
"""What a folder is searched for: the endings that vsr writes, and others that libav reads."""

TEXT_SUBTITLES = frozenset({"subrip", "ass", "ssa", "mov_text", "webvtt", "text"})


def container_of(path: Path) -> Container:
    """The container that the output's name asks for.

    Raises:
        UsageError: no known ending.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError as exc:
        raise UsageError(f"cannot tell the format of {path}: its name must end in {', '.join(CONTAINERS)}.") from exc


def holds(container: Container, codec: str) -> bool:
    """Whether a container holds a codec, by libav's name of its format."""
    return bool(codec) and codec in (container.held or _held_codecs(container.muxer)) - container.refused


@lru_cache(maxsize=16)
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
