"""The video codecs that vsr writes, and the containers: one entry each."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Codec:
    """How a codec is asked for.

    Attributes:
        encoder: libav's encoder.
        crf_range: the least and greatest constant rate factor.
        presets: from fast to slow.
        defaults: libav options that hold unless the user says otherwise.
        largest: pixels along an edge that the encoder takes; most stop where H.264 does.
    """

    encoder: str
    crf_range: tuple[int, int]
    presets: tuple[str, ...]
    defaults: dict[str, str] = field(default_factory=dict)
    largest: int = 16384


_X264_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip

CODECS = {
    # CRF 18 is visually lossless for most material, by the guide of x264's wiki.
    "h264": Codec("libx264", (0, 51), _X264_PRESETS, {"crf": "18", "preset": "medium"}),
}


@dataclass(frozen=True)
class Container:
    """A file format to write.

    Attributes:
        muxer: libav's name.
        audio: codec that audio is converted to where the format cannot hold it as it is.
        subtitle: the same for text subtitles; None where they cannot be held.
        attachments: whether files such as fonts can be held.
        refused: codecs that the muxer says it takes, but turns down when it writes the header.
    """

    muxer: str
    audio: str
    subtitle: str | None
    attachments: bool = False
    refused: frozenset[str] = frozenset()


CONTAINERS = {
    ".mp4": Container("mp4", "aac", "mov_text", refused=frozenset({"truehd"})),
    ".m4v": Container("mp4", "aac", "mov_text", refused=frozenset({"truehd"})),
    ".mov": Container("mov", "aac", "mov_text", refused=frozenset({"flac", "opus", "truehd"})),
    ".mkv": Container("matroska", "flac", "srt", attachments=True),
}
"""By the ending of the output's name."""

TEXT_SUBTITLES = frozenset({"subrip", "ass", "ssa", "mov_text", "webvtt", "text"})
