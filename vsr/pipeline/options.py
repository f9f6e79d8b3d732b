"""What can be chosen about upscaling a clip, and about measuring how fast that is. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from vsr.errors import UsageError
from vsr.files import MAX_PIXELS
from vsr.inference import Precision, RuntimeName
from vsr.media.formats import CODECS
from vsr.options import contradictions, described, documented, option

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
        note="Of a family the next scale above is taken; bicubic and identity are models too.", metavar="NAME|PATH",
    )  # fmt: skip
    scale: float | None = option(
        None, "Output size over input size, 1.5 as well as 4.", default_text="the model's own", above=0,
        called="the scale",
    )  # fmt: skip
    size: tuple[int, int] | None = option(
        None, "Size of the output.", note="As it is shown, whatever the input's proportions.", metavar="WxH"
    )
    height: int | None = option(None, "Height of the output; the width follows.")
    detail: float = option(
        1.0, "Texture of an adversarial model: 0 faithful and soft, 1 sharp.",
        note="0 is its partner that was trained on pixels.", default_text="1.0", at_least=0, at_most=1,
        called="the detail",
    )  # fmt: skip
    start: Fraction | None = option(
        None, "Leave out what is shown earlier: seconds, or 1:30.5.", note="From the clip's beginning.", metavar="T",
        at_least=0, called="the start",
    )  # fmt: skip
    end: Fraction | None = option(None, "Leave out what is shown then or later.", metavar="T")
    steady: AutoYesNo = option(
        "auto", "auto: where a model makes texture of one frame at a time.",
        note="Blends each frame with the one before along the motion, so that texture does not flicker.",
    )  # fmt: skip
    deinterlace: AutoYesNo = option(
        "auto", "auto: frames that are flagged as interlaced.",
        note="yes: all frames. no: none, fields are upscaled as they lie.",
    )  # fmt: skip
    device: str = option(
        "auto", "auto, cpu, cuda, cuda:N or mps; several, as cuda:0,cuda:1, share the work.",
        note="Or a device of torch's.",
    )  # fmt: skip
    engine: RuntimeName = option(
        "auto", "auto: OpenVINO on the CPU, else torch.",
        note="inductor is torch with its compiler, for long jobs on GPUs.",
    )  # fmt: skip
    precision: Precision = option(
        "auto", "auto: fp16 on CUDA, else fp32, which is never TF32; int8 is the CPU's fastest."
    )
    tile_size: int | None = option(
        None, "Largest edge of a tile, in input pixels; 0: none.", note="None: what fits into memory.", name="--tile",
        default_text="auto", auto=True, at_least=0, called="the tile size",
    )  # fmt: skip
    batch_size: int | None = option(
        None, "Frames at once.", note="None: what pays.", name="--batch", default_text="auto", auto=True, at_least=1,
        called="the batch size",
    )  # fmt: skip
    codec: str | None = option(
        None, "h264, hevc, av1, vp9, prores, ffv1, or any encoder of libav.", default_text="h264; vp9 in .webm",
        metavar="NAME",
    )  # fmt: skip
    crf: int | None = option(None, "Quality: lower is better and larger.", default_text="18 for h264")
    preset: str | None = option(None, "The encoder's effort.", default_text="medium for h264")
    pix_fmt: str | None = option(None, "Pixel format to encode.", default_text="what loses least")
    encoder: Mapping[str, str] = field(default_factory=dict, metadata=described(
        "One more option of the encoder; may be repeated.", name="-x", metavar="KEY=VALUE",
    ))  # fmt: skip
    audio: str = option(
        "copy", "copy, none, or the encoder to convert it by.",
        note="copy converts only where the container cannot hold it.", metavar="copy|none|CODEC",
    )  # fmt: skip
    subtitles: Literal["copy", "none"] = option(
        "copy", "copy, or none to leave them out.", note="copy converts only where the container demands it."
    )
    fps: Fraction = option(Fraction(25), "Frames a second of a folder of pictures.", metavar="N")
    max_pixels: int = option(
        MAX_PIXELS, "Refuse frames that say they are larger.", note="They are not read.", at_least=1, below=2**31,
        rule=f"lies in 1..{2**31 - 1}",
    )  # fmt: skip
    tolerant: bool = option(False, "Damage to the input is no failure.")
    overwrite: bool = option(False, "Replace an existing output.")
    resume: bool = option(True, "Go on from what an earlier run of the same job finished.", default_text="resume")
    jobs: int | None = option(
        None, "Processes that share the work.", note="On a cluster: workers.", default_text="one for each device",
        metavar="N",
    )  # fmt: skip
    cluster: str | None = option(
        None, "Work on a Ray cluster; auto: the one that this machine belongs to.", note="None: work on this machine.",
        metavar="auto|ADDRESS",
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = contradictions(self) + self._wrong_sizes() + self._wrong_encoding()
        if self.end is not None and self.end <= (self.start or 0):
            wrong.append(f"the end must lie behind the start, got {float(self.start or 0):g} to {float(self.end):g}")
        if self.jobs is not None and self.jobs < len(self.devices):
            wrong.append(f"jobs must be at least 1, and one for each device, got {self.jobs}")
        if "" in self.devices or len(set(self.devices)) < len(self.devices):
            wrong.append(f"devices are named once each, between commas, got {self.device!r}")
        if not (0 < self.fps <= 1000 and max(self.fps.as_integer_ratio()) <= 10**6):
            wrong.append("frames a second lie above 0 and up to 1000, as a ratio of numbers up to a million")
        if max(self.start or 0, self.end or 0) > 10**9:
            wrong.append("start and end lie within a thousand million seconds")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one by one."""
        return tuple(self.device.split(","))

    @property
    def num_workers(self) -> int:
        """Processes that share the work on this machine."""
        return self.jobs or len(self.devices)

    def workers_sharing(self, kind: str) -> int:
        """How many workers of this machine share the memory of a device.

        Args:
            kind: of the device: a GPU's memory is shared by the workers on it, main memory by all.
        """
        if self.cluster:
            return 1  # each actor has a node or a GPU, if there are as many
        return math.ceil(self.num_workers / len(self.devices)) if kind == "cuda" else self.num_workers

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; relative paths are made absolute."""
        values = vars(self) | {"size": self.size and list(self.size), "encoder": dict(self.encoder)}
        if Path(self.model).is_file():
            values["model"] = os.path.abspath(self.model)
        return {name: str(value) if isinstance(value, Fraction) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UpscaleOptions:
        """What ``to_dict`` made.

        Raises:
            TypeError, ValueError: it is something else.
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
        name, codec = self.codec or "h264", CODECS.get(self.codec or "h264")
        if self.crf is not None:
            if codec is None or codec.crf_range is None:
                wrong.append(f"{name} takes no crf; its own options go by -x KEY=VALUE")
            elif self.codec is not None and not codec.crf_range[0] <= self.crf <= codec.crf_range[1]:
                wrong.append(f"the crf of {name} lies in {codec.crf_range[0]}..{codec.crf_range[1]}, got {self.crf}")
        if self.preset is not None:
            if codec is None or not codec.presets:
                wrong.append(f"{name} takes no preset; its own options go by -x KEY=VALUE")
            elif self.codec is not None and self.preset not in codec.presets:
                wrong.append(f"{name} has no preset {self.preset!r}: take {', '.join(codec.presets)}")
        return wrong

    def encoder_options(self, preset_option: str) -> dict[str, str]:
        """What was chosen for the encoder, by libav's names."""
        chosen = {"crf": self.crf, preset_option: self.preset}
        return {name: str(value) for name, value in chosen.items() if value is not None} | dict(self.encoder)


@documented
@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """One run of ``vsr bench``.

    Raises:
        UsageError: values out of their range; all of them are reported at once.
    """

    models: tuple[str, ...] = option(
        ("video-x4",), "", note="Models to measure.", name="--model", metavar="NAME|PATH", repeated=True
    )
    sizes: tuple[tuple[int, int], ...] = option(
        ((160, 90), (320, 180)), "Of the clip; may be repeated.", name="--size", metavar="WxH", repeated=True
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", note="Or a device of torch's.")
    engine: RuntimeName = option("auto", "auto: all there are.")
    precisions: tuple[str, ...] = option(
        (), "May be repeated.", name="--precision", default_text="all there are", repeated=True,
        choices=get_args(Precision)[1:],
    )  # fmt: skip
    codec: str = option("h264", "To encode with; none throws frames away.", metavar="NAME|none")
    seconds: float = option(
        10.0, "How long to run each pipeline, about.", default_text="10.0", above=0, at_most=3600, called="the seconds",
        rule="lie above 0 and up to 3600",
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = contradictions(self)
        if not self.models or not self.sizes:
            wrong.append("name a model and a size to measure")
        if min((edge for size in self.sizes for edge in size), default=1) < 1:
            wrong.append("sizes must be at least 1 pixel")
        if self.codec != "none" and self.codec not in CODECS:
            wrong.append(f"the codec is none or one of {', '.join(CODECS)}, got {self.codec!r}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")
