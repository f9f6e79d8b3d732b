"""Options of ``vsr upscale`` and ``vsr bench``. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from vsr.errors import UsageError, closest, setting
from vsr.files import GENERATOR_FILE, MAX_PIXELS
from vsr.inference import Precision, RuntimeName
from vsr.media.formats import CODECS, Codec, known_codec
from vsr.options import contradictions, convert, described, documented, option, parse_rate, parse_time

COMMON, PICTURE, PART, OUTPUT, MACHINE, JOB = (
    "Common options", "Picture", "Part of the clip", "Output", "Machine", "Job",
)  # fmt: skip
"""Headings of the help of ``vsr upscale``."""

AutoYesNo = Literal["auto", "yes", "no"]


@documented
@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """One run of ``vsr upscale``.

    Raises:
        UsageError: values out of their range; all of them are reported at once.
    """

    model: str = option(
        "video", "A model of `vsr models`, a family of them such as srgan, or a weights file.",
        note="Of a family, the next larger scale is used; bicubic and identity are models too.", metavar="NAME|PATH",
        section=COMMON,
    )  # fmt: skip
    scale: float | None = option(
        None, "Output size over input size, such as 4 or 1.5.", default_text="the model's own", above=0,
        subject="the scale", section=COMMON,
    )  # fmt: skip
    size: tuple[int, int] | None = option(
        None, "Size of the output.", note="Display size; the aspect ratio of the input is not kept.", metavar="WxH",
        section=PICTURE,
    )
    height: int | None = option(None, "Height of the output; keeps the aspect ratio.", section=COMMON)
    detail: float = option(
        1.0, "Texture of an adversarial model: 0 is faithful and soft, 1 sharp.",
        note="0 uses the matching model trained on pixel losses.", default_text="1.0", at_least=0, at_most=1,
        subject="the detail", section=COMMON,
    )  # fmt: skip
    start: Fraction | None = option(
        None, "Skip frames before this time: seconds, or 1:30.5.", name="--start, -ss",
        note="Counted from the start of the clip.", metavar="T", at_least=0, subject="the start", section=PART,
    )  # fmt: skip
    end: Fraction | None = option(None, "Skip frames from this time on.", name="--end, -to", metavar="T", section=PART)
    steady: AutoYesNo = option(
        "auto", "Reduce flicker; auto: for adversarial single-frame models.",
        note="Blends each frame with the one before along the motion, so that texture does not flicker.",
        section=PICTURE,
    )  # fmt: skip
    deinterlace: AutoYesNo = option(
        "auto", "Deinterlace; auto: frames flagged as interlaced.",
        note="yes: all frames. no: none, fields are upscaled interlaced.", section=PICTURE,
    )  # fmt: skip
    codec: str | None = option(
        None, f"{', '.join(CODECS)}, nvenc, qsv, videotoolbox, or any libav encoder.",
        default_text="h264; vp9 in .webm", metavar="NAME", section=COMMON,
    )  # fmt: skip
    crf: int | None = option(
        None, "Quality; lower is better, with larger files.", default_text="18 for h264", section=COMMON,
        note="Encoders of GPUs take it as their own constant quality.",
    )  # fmt: skip
    preset: str | None = option(
        None, "Encoder preset, speed against compression.", default_text="medium for h264", section=OUTPUT,
        note="Those of x264, such as slow, mean for each encoder its own at the same place of the order.",
    )  # fmt: skip
    pix_fmt: str | None = option(
        None, "Pixel format to encode.", default_text="closest to the input", section=OUTPUT
    )
    encoder: Mapping[str, str] = field(default_factory=dict, metadata=described(
        "Further option of the encoder; may be repeated.", name="-x", metavar="KEY=VALUE", section=OUTPUT,
    ))  # fmt: skip
    audio: str = option(
        "copy", "copy, none, or the encoder to convert with.",
        note="copy converts only what the container cannot hold.", metavar="copy|none|CODEC", section=OUTPUT,
    )  # fmt: skip
    subtitles: Literal["copy", "none"] = option(
        "copy", "copy, or none to drop them.", note="copy converts only what the container cannot hold.",
        section=OUTPUT,
    )
    fps: Fraction = option(Fraction(25), "Frame rate of a folder of pictures.", metavar="N", section=PICTURE)
    max_pixels: int = option(
        MAX_PIXELS, "Refuse inputs with larger frames.", note="Checked before decoding.", at_least=1, below=2**31,
        rule=f"lies in 1..{2**31 - 1}", section=PICTURE,
    )  # fmt: skip
    device: str = option(
        "auto", "auto, cpu, cuda, cuda:N or mps; several such as cuda:0,cuda:1 share the work.",
        note="Or any device of torch.", section=MACHINE,
    )  # fmt: skip
    engine: RuntimeName = option(
        "auto", "auto: OpenVINO on the CPU, else torch.",
        note="inductor is torch with its compiler, for long jobs on GPUs.", section=MACHINE,
    )  # fmt: skip
    precision: Precision = option(
        "auto", "auto: fp16 on CUDA, else fp32 (never TF32); int8 is fastest on CPUs.", section=COMMON,
    )
    tile_size: int | None = option(
        None, "Largest edge of a tile, in input pixels; 0: no tiles.", note="None: as large as memory allows.",
        name="--tile", default_text="auto", auto=True, at_least=0, subject="the tile size", section=MACHINE,
    )  # fmt: skip
    batch_size: int | None = option(
        None, "Frames per batch.", note="None: chosen by device and size.", name="--batch",
        default_text="auto", auto=True, at_least=1, subject="the batch size", section=MACHINE,
    )  # fmt: skip
    jobs: int | None = option(
        None, "Processes that share the work.", note="On a cluster: workers.", default_text="one per device",
        metavar="N", section=MACHINE,
    )  # fmt: skip
    cluster: str | None = option(
        None, "Run on a Ray cluster; auto: that of this machine.", note="None: run on this machine.",
        metavar="auto|ADDRESS", section=MACHINE,
    )  # fmt: skip
    tolerant: bool = option(False, "Exit with 0 even if the input is damaged.", section=JOB)
    overwrite: bool = option(False, "Replace an existing output.", name="-y, --overwrite", section=COMMON)
    resume: bool = option(True, "Resume from the finished part of an earlier run.", default_text="resume", section=JOB)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = convert(self, start=parse_time, end=parse_time, fps=parse_rate)
        wrong += contradictions(self) + self._wrong_sizes() + self._wrong_encoding()
        if self.end is not None and self.end <= (self.start or 0):
            wrong.append(f"the end must be after the start, got {float(self.start or 0):g} to {float(self.end):g}")
        if self.jobs is not None and self.jobs < len(self.devices):
            wrong.append(f"jobs must be at least 1, and one for each device, got {self.jobs}")
        if "" in self.devices or len(set(self.devices)) < len(self.devices):
            wrong.append(f"devices are named once each, between commas, got {self.device!r}")
        if not (0 < self.fps <= 1000 and max(self.fps.as_integer_ratio()) <= 10**6):
            wrong.append("fps must be above 0 and at most 1000, as a ratio of numbers up to a million")
        if max(self.start or 0, self.end or 0) > 10**9:
            wrong.append("start and end must be at most 1000000000 seconds")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices as a tuple."""
        return tuple(self.device.split(","))

    @property
    def num_workers(self) -> int:
        """Number of processes that share the work on this machine."""
        return self.jobs or len(self.devices)

    def workers_sharing(self, kind: str) -> int:
        """Return how many workers of this machine share the memory of a device.

        Args:
            kind: kind of the device; a GPU's memory is shared by the workers on it, main memory by all.
        """
        if self.cluster:
            return 1  # each actor has its own node or GPU where there are enough
        return math.ceil(self.num_workers / len(self.devices)) if kind == "cuda" else self.num_workers

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types; relative paths become absolute."""
        values = vars(self) | {"size": self.size and list(self.size), "encoder": dict(self.encoder)}
        if Path(self.model).is_file() or Path(self.model, GENERATOR_FILE).is_file():
            values["model"] = os.path.abspath(self.model)
        return {name: str(value) if isinstance(value, Fraction) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UpscaleOptions:
        """Return the options of a dict made by ``to_dict``.

        Raises:
            TypeError, ValueError: the dict is malformed.
            UsageError: its values are out of their range.
        """
        times = {name: values[name] and Fraction(values[name]) for name in ("start", "end", "fps") if name in values}
        size = values.get("size")
        return cls(**{**values, **times, "size": size and tuple(size)})

    def _wrong_sizes(self) -> list[str]:
        wrong = []
        if sum(chosen is not None for chosen in (self.scale, self.size, self.height)) > 1:
            wrong.append("scale, size and height exclude each other")
        if min((1 if self.height is None else self.height, *(self.size or ()))) < 1:
            wrong.append(f"sizes must be at least 1 pixel, got {self.size or self.height}")
        return wrong

    def _wrong_encoding(self) -> list[str]:
        wrong = []
        own = setting("encoder", flag="-x KEY=VALUE")
        name, codec = self.codec or "h264", known_codec(self.codec or "h264")
        if self.crf is not None:
            if codec is None or codec.crf_range is None:
                wrong.append(f"{name} has no crf; set its own options with {own}")
            elif self.codec is not None and not codec.crf_range[0] <= self.crf <= codec.crf_range[1]:
                wrong.append(f"the crf of {name} lies in {codec.crf_range[0]}..{codec.crf_range[1]}, got {self.crf}")
        if self.preset is not None:
            if codec is None or not codec.presets:
                wrong.append(f"{name} has no preset; set its own options with {own}")
            elif self.codec is not None and codec.preset_named(self.preset) is None:
                alike = closest(self.preset, codec.presets)
                meant = f" (did you mean {alike}?)" if alike else ""
                wrong.append(f"{name} has no preset {self.preset!r}{meant}: use {', '.join(codec.presets)}")
        return wrong

    def encoder_options(self, codec: Codec) -> dict[str, str]:
        """Return the chosen options of the encoder by their names in libav."""
        return codec.options(self.crf, self.preset) | dict(self.encoder)


@documented
@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """One run of ``vsr bench``.

    Raises:
        UsageError: values out of their range; all of them are reported at once.
    """

    models: tuple[str, ...] = option(
        ("video-x4",), "Model to measure; may be repeated.", name="--model", metavar="NAME|PATH", repeated=True
    )
    sizes: tuple[tuple[int, int], ...] = option(
        ((160, 90), (320, 180)), "Size of the clip; may be repeated.", name="--size", metavar="WxH", repeated=True
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", note="Or any device of torch.")
    engine: RuntimeName = option("auto", "auto: all available.")
    precisions: tuple[str, ...] = option(
        (), "Precision to measure; may be repeated.", name="--precision", default_text="all available", repeated=True,
        choices=get_args(Precision)[1:],
    )  # fmt: skip
    codec: str = option("h264", "Codec to encode with; none discards the frames.", metavar="NAME|none")
    seconds: float = option(
        10.0, "Approximate time to run each pipeline.", default_text="10.0", above=0, at_most=3600,
        subject="the seconds", rule="must be above 0 and at most 3600",
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = convert(self) + contradictions(self)
        if not self.models or not self.sizes:
            wrong.append("name a model and a size to measure")
        if min((edge for size in self.sizes for edge in size), default=1) < 1:
            wrong.append("sizes must be at least 1 pixel")
        if self.codec != "none" and known_codec(self.codec) is None:
            wrong.append(f"the codec is none or one of {', '.join(CODECS)}, got {self.codec!r}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")
