"""What can be chosen about upscaling a clip. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from vsr.errors import UsageError, unknown_choices
from vsr.files import MAX_PIXELS
from vsr.media.formats import CODECS


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """One run of ``vsr upscale``.

    Raises:
        UsageError: values out of their range; all of them are reported at once.
    """

    model: str = "video"
    """A shipped model, or a family of them, of which the next scale above is taken; ``bicubic``, ``identity``, or the
    path of a weights file."""
    scale: float | None = None
    """Output size over input size; None takes the model's own."""
    size: tuple[int, int] | None = None
    """Width and height of the output as it is shown, whatever the input's proportions."""
    height: int | None = None
    """Height of the output as it is shown; the width follows."""
    detail: float = 1.0
    """How much of an adversarial model's texture: 0 is its pixel-trained partner, faithful and soft."""
    steady: Literal["auto", "yes", "no"] = "auto"
    """Blend each frame with the one before along the motion, so that texture does not flicker. ``auto``: the frames of
    a clip by a generator that was trained against a discriminator and looks at one frame at a time."""
    start: Fraction | None = None
    """Seconds from the clip's beginning; what is shown earlier is left out."""
    end: Fraction | None = None
    """Seconds from the clip's beginning; what is shown then or later is left out."""
    deinterlace: Literal["auto", "yes", "no"] = "auto"
    """``auto``: frames that the clip flags as interlaced. ``yes``: all frames. ``no``: none, fields are upscaled as
    they lie."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or a device of torch's; several between commas share the
    segments of a clip."""
    engine: Literal["auto", "torch", "inductor", "openvino"] = "auto"
    """What runs the network; ``auto`` is OpenVINO on the CPU, where it can, and torch elsewhere. ``inductor`` is torch
    with its compiler, for long jobs on GPUs."""
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    """Arithmetic of the network; ``auto`` is fp16 on CUDA and fp32 elsewhere; fp32 is never rounded to TF32; int8 is
    for the CPU."""
    tile_size: int | None = None
    """Largest edge of a tile in LR pixels; None: what fits into memory; 0: never tile."""
    batch_size: int | None = None
    """Frames at once; None: what pays."""
    codec: str | None = None
    """A key of ``vsr.media.formats.CODECS``, or any video encoder of libav; None takes the container's usual one."""
    crf: int | None = None
    """Constant rate factor: lower is better and larger; None takes the codec's default."""
    preset: str | None = None
    """The encoder's effort; None takes the codec's default."""
    pix_fmt: str | None = None
    """libav's pixel format to encode; None: the one of the encoder's that loses least."""
    encoder: Mapping[str, str] = field(default_factory=dict)
    """More options of the encoder, by libav's names."""
    audio: str = "copy"
    """``copy``: as it is, converted only where the container cannot hold it; ``none``: left out; else the encoder of
    libav's to convert it by, such as ``aac``."""
    subtitles: Literal["copy", "none"] = "copy"
    """``copy``: as they are, converted only where the container demands it; ``none``: left out."""
    fps: Fraction = Fraction(25)
    """Frames a second of a folder of pictures."""
    max_pixels: int = MAX_PIXELS
    """Of an input frame: what says that it is larger is refused unread."""
    tolerant: bool = False
    """Damage to the input does not count as a failure."""
    overwrite: bool = False
    """Replace an existing output."""
    resume: bool = True
    """Go on from the segments that an earlier run finished."""
    jobs: int | None = None
    """Processes that share the segments of a clip; None: one for each device. On a cluster: workers."""
    cluster: str | None = None
    """Address of a Ray cluster, ``auto`` for the one that this machine belongs to; None: work on this machine."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = unknown_choices(self) + self._wrong_sizes() + self._wrong_encoding()
        if not 0 <= self.detail <= 1:
            wrong.append(f"the detail lies in [0, 1], got {self.detail:g}")
        if self.start is not None and self.start < 0:
            wrong.append(f"the start must not be negative, got {float(self.start):g}")
        if self.end is not None and self.end <= (self.start or 0):
            wrong.append(f"the end must lie behind the start, got {float(self.start or 0):g} to {float(self.end):g}")
        if self.tile_size is not None and self.tile_size < 0:
            wrong.append(f"the tile size must not be negative, got {self.tile_size}")
        if self.batch_size is not None and self.batch_size < 1:
            wrong.append(f"the batch size must be at least 1, got {self.batch_size}")
        if self.jobs is not None and self.jobs < len(self.devices):
            wrong.append(f"jobs must be at least 1, and one for each device, got {self.jobs}")
        if "" in self.devices or len(set(self.devices)) < len(self.devices):
            wrong.append(f"devices are named once each, between commas, got {self.device!r}")
        if not (0 < self.fps <= 1000 and max(self.fps.as_integer_ratio()) <= 10**6):
            wrong.append("frames a second lie above 0 and up to 1000, as a ratio of numbers up to a million")
        if not 1 <= self.max_pixels < 2**31:
            wrong.append(f"max_pixels lies in 1..{2**31 - 1}, got {self.max_pixels}")
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
        if self.scale is not None and not 0 < self.scale < math.inf:
            wrong.append(f"the scale must be positive and finite, got {self.scale}")
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
