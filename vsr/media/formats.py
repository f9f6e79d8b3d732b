"""The codecs and containers that vsr writes, HDR10 metadata, and decoding timestamps. Imports PyAV only when needed."""

from __future__ import annotations

import io
import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from vsr.errors import UsageError


@dataclass(frozen=True)
class HdrOptions:
    """How HDR10 metadata is passed to an encoder.

    Attributes:
        option: libav's option that passes parameters to the encoder's library.
        display: the parameter for the mastering display.
        light: the parameter for the light levels.
        decimal: whether it expects plain numbers instead of the units of ST 2086.
    """

    option: str
    display: str
    light: str
    decimal: bool = False

    def parameters(self, display: MasteringDisplay | None, light: LightLevels | None) -> str:
        """Return ``name=value`` pairs joined by colons; empty where there is no metadata."""
        pairs = [f"{self.display}={display.text(decimal=self.decimal)}"] if display else []
        return ":".join(pairs + ([f"{self.light}={light}"] if light else []))


@dataclass(frozen=True)
class Codec:
    """A video codec: its encoder, options and limits.

    Attributes:
        encoder: libav's encoder.
        crf_range: the least and greatest constant rate factor; None where the encoder has none.
        presets: the presets from fast to slow; empty where the encoder has none.
        preset_option: libav's name of the preset option.
        defaults: default values of libav options.
        alpha: whether it stores alpha in a way that players support.
        largest: the most pixels along an edge.
        narrowest: the least columns.
        sizes: ``chroma``: multiples of a chroma sample, ``even``: even for every pixel format, ``any``.
        hdr: how HDR10 metadata is passed to it; None where it has no option for that.
        most_threads: the most threads; more would reduce compression, or be refused.
        parameters: parameters that are always passed to the encoder's library, under ``hdr.option``.
        environment: environment variables that silence the encoder's library.
        side_data: libav's names of the frame side data that it writes.
        crf_options: the libav options for a constant rate factor, which replaces ``{crf}`` in their values; in encoders
            without one, those for constant quality. ``{quality}`` is that of Apple's encoders, which runs upwards.
        hardware: what the machine needs for it; empty for encoders that run on the CPU.
    """

    encoder: str
    crf_range: tuple[int, int] | None = None
    presets: tuple[str, ...] = ()
    preset_option: str = "preset"
    defaults: dict[str, str] = field(default_factory=dict)
    alpha: bool = False
    largest: int = 16384
    narrowest: int = 1
    sizes: Literal["chroma", "even", "any"] = "chroma"
    hdr: HdrOptions | None = None
    most_threads: int = 16
    parameters: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    side_data: frozenset[str] = frozenset()
    crf_options: Mapping[str, str] = field(default_factory=lambda: {"crf": "{crf}"})
    hardware: str = ""

    def preset_named(self, name: str) -> str | None:
        """Return the encoder's preset: ``name`` itself, or for one of x264 that at the same place of the order."""
        if name in self.presets:
            return name
        if name not in _X26_PRESETS or not self.presets or self.preset_option == "profile":
            return None
        return self.presets[round(_X26_PRESETS.index(name) * (len(self.presets) - 1) / (len(_X26_PRESETS) - 1))]

    def options(self, crf: int | None, preset: str | None) -> dict[str, str]:
        """Return the libav options for a constant rate factor and a preset."""
        values = {} if crf is None else {"crf": crf, "quality": APPLE_UNIT * max(1, round(100 - crf * 100 / 51))}
        chosen = {key: value.format(**values) for key, value in self.crf_options.items()} if values else {}
        named = None if preset is None else self.preset_named(preset)
        return chosen if named is None else {**chosen, self.preset_option: named}


APPLE_UNIT = 118
"""libav's ``FF_QP2LAMBDA``, its unit of the qualities 1 to 100 of Apple's encoders."""

_X26_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip

CODECS = {
    # CRF 18 is visually lossless for most material, according to the x264 wiki.
    "h264": Codec(
        "libx264", (0, 51), _X26_PRESETS, defaults={"crf": "18", "preset": "medium"},
        hdr=HdrOptions("x264-params", "mastering-display", "cll"), side_data=frozenset({"A53_CC", "STEREO3D"}),
    ),
    "hevc": Codec(
        "libx265", (0, 51), _X26_PRESETS, defaults={"crf": "20", "preset": "medium", "a53cc": "1"}, sizes="even",
        hdr=HdrOptions("x265-params", "master-display", "max-cll"), parameters="log-level=error",
        side_data=frozenset({"A53_CC"}),
        most_threads=4,  # frames in parallel; the rows of a frame use all cores in any case
        narrowest=64,  # it writes beyond its memory for frames of 48 columns or fewer
    ),
    "av1": Codec(
        "libsvtav1", (1, 63), tuple(map(str, range(13, -1, -1))), defaults={"crf": "24", "preset": "8"}, sizes="even",
        hdr=HdrOptions("svtav1-params", "mastering-display", "content-light", decimal=True),
        environment={"SVT_LOG": "1"},
    ),
    "vp9": Codec(
        "libvpx-vp9", (0, 63), tuple(map(str, range(8, -1, -1))), "cpu-used",
        {"crf": "24", "b": "0", "cpu-used": "4", "row-mt": "1"},  # its alpha is packet side data, which MP4 loses
        sizes="any",
    ),
    "prores": Codec(
        "prores_ks", presets=("proxy", "lt", "standard", "hq", "4444", "4444xq"), preset_option="profile", alpha=True,
    ),
    "ffv1": Codec(
        "ffv1", defaults={"level": "3", "slicecrc": "1"}, alpha=True, sizes="any", largest=65535,
    ),
}  # fmt: skip

_NVIDIA, _INTEL, _APPLE = "an NVIDIA GPU and its driver", "an Intel GPU and its driver", "a Mac"


def _nvenc(encoder: str) -> Codec:
    return Codec(
        encoder, (1, 51), tuple(f"p{number}" for number in range(1, 8)), sizes="even", largest=8192, hardware=_NVIDIA,
        defaults={"preset": "p5", "rc": "vbr", "cq": "19", "b": "0"},
        crf_options={"rc": "vbr", "cq": "{crf}", "b": "0"},
    )  # fmt: skip


def _qsv(encoder: str) -> Codec:
    return Codec(
        encoder, (1, 51), _X26_PRESETS[2:9], sizes="even", largest=8192, hardware=_INTEL,
        defaults={"preset": "medium", "global_quality": "19"}, crf_options={"global_quality": "{crf}"},
    )  # fmt: skip


HARDWARE_CODECS = {
    **{f"{name}_nvenc": _nvenc(f"{name}_nvenc") for name in ("h264", "hevc", "av1")},
    **{f"{name}_qsv": _qsv(f"{name}_qsv") for name in ("h264", "hevc", "av1")},
    **{
        f"{name}_videotoolbox": Codec(
            f"{name}_videotoolbox", (0, 51), sizes="even", hardware=_APPLE,
            defaults={"global_quality": str(65 * APPLE_UNIT), "flags": "+qscale"},
            crf_options={"global_quality": "{quality}", "flags": "+qscale"},
        )
        for name in ("h264", "hevc")
    },
    **{
        f"{name}_vaapi": Codec(
            f"{name}_vaapi", (1, 51), sizes="even", hardware="a build of PyAV with VA-API, which its wheels lack",
            crf_options={"rc_mode": "CQP", "qp": "{crf}"},
        )
        for name in ("h264", "hevc", "av1")
    },
}  # fmt: skip
"""Encoders of GPUs, by libav's names; a CRF is taken as their own constant quality."""

ALIASES = {
    "avc": "h264", "x264": "h264", "h.264": "h264", "h265": "hevc", "x265": "hevc", "h.265": "hevc",
    "nvenc": "h264_nvenc", "qsv": "h264_qsv", "videotoolbox": "h264_videotoolbox", "vaapi": "h264_vaapi",
    **{f"h265_{kind}": f"hevc_{kind}" for kind in ("nvenc", "qsv", "videotoolbox", "vaapi")},
}  # fmt: skip
"""Other names that people use for entries of ``CODECS`` and ``HARDWARE_CODECS``."""


def known_codec(name: str) -> Codec | None:
    """Return the codec of a name, an alias, or libav's name of its encoder; None where vsr has no entry."""
    name = ALIASES.get(name.lower(), name.lower())
    every = CODECS | HARDWARE_CODECS
    return every.get(name) or next((codec for codec in every.values() if codec.encoder == name), None)


CHROMATICITY = 50000
"""Units per 1 of a chromaticity coordinate in ST 2086."""

LUMINANCE = 10000
"""Units per cd/m2 of a luminance in ST 2086."""


@dataclass(frozen=True)
class MasteringDisplay:
    """The display that a clip was graded on, in the units of ST 2086.

    Attributes:
        chromaticities: x and y of green, blue, red and the white point, in 1/50000.
        luminances: the greatest and the least luminance, in 1/10000 cd/m2.
    """

    chromaticities: tuple[int, int, int, int, int, int, int, int]
    luminances: tuple[int, int]

    @classmethod
    def from_bytes(cls, content: bytes) -> MasteringDisplay | None:
        """Parse libav's ``AVMasteringDisplayMetadata``; return None where the primaries or luminances are missing."""
        numbers = struct.unpack("=22i", content[:88])
        ratios = [top / (bottom or 1) for top, bottom in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
        if not all(numbers[20:]):
            return None
        red, green, blue, white = (tuple(ratios[at : at + 2]) for at in (0, 2, 4, 6))
        scaled = [round(value * CHROMATICITY) for value in (*green, *blue, *red, *white)]
        return cls(tuple(scaled), (round(ratios[9] * LUMINANCE), round(ratios[8] * LUMINANCE)))

    def text(self, *, decimal: bool = False) -> str:
        """Return ``G(x,y)B(x,y)R(x,y)WP(x,y)L(greatest,least)`` for encoders, in units or in plain numbers."""
        numbers: list[str] = []
        for values, unit in ((self.chromaticities, CHROMATICITY), (self.luminances, LUMINANCE)):
            numbers += [f"{value / unit:.6g}" if decimal else str(value) for value in values]
        return "G({},{})B({},{})R({},{})WP({},{})L({},{})".format(*numbers)


@dataclass(frozen=True)
class LightLevels:
    """Luminance of the brightest pixel, and the greatest average luminance of a frame, in cd/m2."""

    max_content: int
    max_frame_average: int

    @classmethod
    def from_bytes(cls, content: bytes) -> LightLevels:
        """Parse libav's ``AVContentLightMetadata``."""
        return cls(*struct.unpack("=2I", content[:8]))

    def __str__(self) -> str:
        return f"{self.max_content},{self.max_frame_average}"


@dataclass(frozen=True)
class Container:
    """A file format to write.

    Attributes:
        muxer: libav's name of the muxer.
        codec: the default video codec.
        audio: encoder for audio that the format cannot contain as it is; empty where it contains no sound.
        subtitle: the same for text subtitles; None where it contains none.
        attachments: whether it can contain files such as fonts.
        cover_art: whether it can contain cover pictures.
        turns: whether it can contain a display matrix; where not, the pixels are turned instead.
        chapters: whether it can contain chapters.
        one_rate: whether it has no timestamps, so that all frames last equally long and all streams begin together.
        timecode: whether it keeps a time code in the metadata.
        stereo_mode: whether its metadata describe the arrangement of a stereoscopic picture.
        refused: codecs, with wildcards, that the muxer lists but refuses when it writes the header.
        held: the codecs that it can contain, where its muxer does not list them.
        options: libav options of the muxer.
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
    refused: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    options: tuple[tuple[str, str], ...] = ()


# There is a standard for PCM in MP4 (ISO/IEC 23003-5), but few players support it.
_MP4 = Container("mp4", "h264", "aac", "mov_text", cover_art=True, timecode=True, refused=("pcm_*", "truehd"))
# The codecs of MPEG-2 Systems and its registrations that players of broadcasts support.
_TS = frozenset({
    "h264", "hevc", "mpeg1video", "mpeg2video", "aac", "mp2", "mp3", "ac3", "eac3", "dts", "opus", "truehd",
    "dvb_subtitle", "dvb_teletext",
})  # fmt: skip

CONTAINERS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": Container(
        "mov", "h264", "aac", "mov_text", timecode=True,
        refused=("flac", "opus", "truehd", "vp8", "vp9", "av1"),
    ),
    ".mkv": Container("matroska", "h264", "flac", "srt", attachments=True, stereo_mode=True, timecode=True),
    ".webm": Container("webm", "vp9", "libopus", "webvtt", stereo_mode=True, timecode=True),
    ".ts": Container(
        "mpegts", "h264", "aac", None, turns=False, chapters=False, held=_TS,
        options=(("muxdelay", "0"), ("muxpreload", "0")),  # else everything is delayed by 1.4 s
    ),
    ".avi": Container("avi", "h264", "libmp3lame", None, turns=False, chapters=False, one_rate=True),
    ".gif": Container("gif", "ffv1", "", None, turns=False, chapters=False),
}  # fmt: skip
"""The containers by the suffix of the output's name."""

CONTAINERS[".mts"] = CONTAINERS[".ts"]
CONTAINERS[".m2ts"] = replace(CONTAINERS[".ts"], held=_TS | {"hdmv_pgs_subtitle", "pcm_bluray"})  # Blu-ray's own

VIDEO_ENDINGS = frozenset(CONTAINERS) | {
    ".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".flv", ".h264", ".hevc", ".m1v", ".m2v", ".mj2", ".mjpeg", ".mpeg",
    ".mpg", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".vob", ".wmv", ".wtv", ".y4m",
}  # fmt: skip
"""The suffixes of video files in a folder: those that vsr writes, and others that libav reads."""

TEXT_SUBTITLES = frozenset({"subrip", "ass", "ssa", "mov_text", "webvtt", "text"})


def container_of(path: Path) -> Container:
    """Return the container for the suffix of the output's name.

    Raises:
        UsageError: the suffix is unknown.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError as exc:
        endings = ", ".join(CONTAINERS)
        raise UsageError(f"cannot determine the format of {path}: its name must end in {endings}.") from exc


def holds(container: Container, codec: str) -> bool:
    """Whether a container can contain a codec, given by libav's name of its format."""
    if any(fnmatchcase(codec, refused) for refused in container.refused):
        return False
    return bool(codec) and codec in (container.held or _held_codecs(container.muxer))


@lru_cache(maxsize=16)
def _held_codecs(muxer: str) -> frozenset[str]:
    """Return the names of the codecs that libav lists for a muxer."""
    import av

    with av.open(io.BytesIO(), "w", format=muxer) as probe:
        names = probe.supported_codecs
    return frozenset(names) | {_format_name(name) for name in names}


def _format_name(coder: str) -> str:
    """Return the format of a coder: ``dts`` for ``dca``, ``subrip`` for ``srt``."""
    import av
    from av.codec.codec import UnknownCodecError

    for mode in ("r", "w"):
        with suppress(UnknownCodecError):
            return av.Codec(coder, mode).canonical_name
    return coder


class Timing(NamedTuple):
    """The times of one packet, in ticks of the stream's time base.

    Attributes:
        pts: presentation timestamp, including ``VideoFormat.shift``.
        duration: duration; 0 where unknown.
    """

    pts: int
    duration: int


def decoding_times(shown: Sequence[int]) -> list[int]:
    """Compute decoding timestamps from presentation timestamps.

    Muxers shift a file whose first decoding timestamp is negative, and the decoding timestamps of two parts overlap
    where they are joined, so they are computed anew for the whole stream. With the timestamps sorted as S and D the
    smallest depth with ``S[i - D] <= pts[i]`` for all i in decoding order, they are ``S[i - D]``; the first
    D are before S[0].

    Args:
        shown: presentation timestamps in the order of decoding, all different.

    Returns:
        One decoding timestamp per packet, increasing, and none greater than the presentation timestamp.
    """
    ordered = sorted(shown)
    depth = max((index - bisect_left(ordered, pts) for index, pts in enumerate(shown)), default=0)
    step = min((later - earlier for earlier, later in pairwise(ordered)), default=1)
    early = [ordered[0] - step * (depth - index) for index in range(depth)]
    return (early + ordered)[: len(shown)]
