"""The video codecs that vsr writes: one entry each. Imports no libav."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vsr.media.hdr import LightLevels, MasteringDisplay


@dataclass(frozen=True)
class HdrOptions:
    """How an encoder is told of HDR10's metadata.

    Attributes:
        option: libav's option that passes parameters on to the encoder's library.
        display: the parameter for the mastering display.
        light: the parameter for the light levels.
        decimal: it takes plain numbers, not the units of ST 2086.
    """

    option: str
    display: str
    light: str
    decimal: bool = False

    def parameters(self, display: MasteringDisplay | None, light: LightLevels | None) -> str:
        """``name=value`` pairs, empty where there is nothing to tell."""
        pairs = [f"{self.display}={display.text(decimal=self.decimal)}"] if display else []
        return ":".join(pairs + ([f"{self.light}={light}"] if light else []))


@dataclass(frozen=True)
class Codec:
    """How a codec is asked for.

    Attributes:
        encoder: libav's encoder.
        crf_range: the least and greatest constant rate factor; None where it has none.
        presets: from fast to slow; empty where it has none.
        preset_option: libav's name of the option that takes a preset.
        defaults: libav options that hold unless the user says otherwise.
        alpha: it carries alpha in a way that players know.
        largest: pixels along an edge that the encoder takes.
        narrowest: columns that it needs.
        sizes: ``chroma``: whole chroma samples, ``even``: even ones whatever the pixel format, ``any``.
        hdr: how it is told of HDR10's metadata; None where it cannot be.
        most_threads: more would cost compression, or be refused.
        parameters: what is passed on to the encoder's library in any case, under ``hdr.option``.
        environment: variables by which the encoder's library is told to keep silent.
        side_data: what it writes of the frames' side data, by libav's names.
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


_X26_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip

CODECS = {
    # CRF 18 is visually lossless for most material, by the guide of x264's wiki.
    "h264": Codec(
        "libx264", (0, 51), _X26_PRESETS, defaults={"crf": "18", "preset": "medium"},
        hdr=HdrOptions("x264-params", "mastering-display", "cll"), side_data=frozenset({"A53_CC", "STEREO3D"}),
    ),
    "hevc": Codec(
        "libx265", (0, 51), _X26_PRESETS, defaults={"crf": "20", "preset": "medium", "a53cc": "1"}, sizes="even",
        hdr=HdrOptions("x265-params", "master-display", "max-cll"), parameters="log-level=error",
        side_data=frozenset({"A53_CC"}),
        most_threads=4,  # frames at a time; what is in a frame takes all cores in any case
        narrowest=64,  # of frames of 48 columns or less it writes beyond its memory
    ),
    "av1": Codec(
        "libsvtav1", (1, 63), tuple(map(str, range(13, -1, -1))), defaults={"crf": "24", "preset": "8"}, sizes="even",
        hdr=HdrOptions("svtav1-params", "mastering-display", "content-light", decimal=True),
        environment={"SVT_LOG": "1"},
    ),
    "vp9": Codec(
        "libvpx-vp9", (0, 63), tuple(map(str, range(8, -1, -1))), "cpu-used",
        {"crf": "24", "b": "0", "cpu-used": "4", "row-mt": "1"},  # its alpha lies beside the packets: MP4 loses it
        sizes="any",
    ),
    "prores": Codec(
        "prores_ks", presets=("proxy", "lt", "standard", "hq", "4444", "4444xq"), preset_option="profile", alpha=True,
    ),
    "ffv1": Codec(
        "ffv1", defaults={"level": "3", "slicecrc": "1"}, alpha=True, sizes="any", largest=65535,
    ),
}  # fmt: skip
