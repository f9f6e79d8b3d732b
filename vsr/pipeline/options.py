"""What can be chosen about upscaling a clip. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vsr.errors import UsageError, unknown_choices
from vsr.media.codecs import CODECS


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """One run of ``vsr upscale``.

    Raises:
        UsageError: values out of their range; all of them are reported at once.
    """

    model: str = "srresnet-x4"
    """A shipped model, ``bicubic``, ``identity``, or the path of a weights file."""
    scale: float | None = None
    """Output size over input size; None takes the model's own."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Arithmetic of the network; ``auto`` is fp16 on CUDA and fp32 elsewhere."""
    tile_size: int | None = None
    """Largest edge of a tile in LR pixels; None: what fits into memory; 0: never tile."""
    batch_size: int | None = None
    """Frames at once; None: what pays."""
    codec: str = "h264"
    """A key of ``vsr.media.codecs.CODECS``."""
    crf: int | None = None
    """Constant rate factor: lower is better and larger; None takes the codec's default."""
    preset: str | None = None
    """The encoder's effort; None takes the codec's default."""
    audio: Literal["copy", "none"] = "copy"
    """``none`` leaves all audio out."""
    overwrite: bool = False
    """Replace an existing output."""

    def __post_init__(self) -> None:
        wrong = unknown_choices(self)
        if self.scale is not None and not 0 < self.scale < math.inf:
            wrong.append(f"the scale must be positive and finite, got {self.scale}")
        if self.tile_size is not None and self.tile_size < 0:
            wrong.append(f"the tile size must not be negative, got {self.tile_size}")
        if self.batch_size is not None and self.batch_size < 1:
            wrong.append(f"the batch size must be at least 1, got {self.batch_size}")
        codec = CODECS.get(self.codec)
        if codec is None:
            wrong.append(f"no codec is called {self.codec!r}: take {', '.join(CODECS)}")
        else:
            least, most = codec.crf_range
            if self.crf is not None and not least <= self.crf <= most:
                wrong.append(f"the crf of {self.codec} lies in {least}..{most}, got {self.crf}")
            if self.preset is not None and self.preset not in codec.presets:
                wrong.append(f"{self.codec} has no preset {self.preset!r}: take {', '.join(codec.presets)}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    @property
    def encoder_options(self) -> dict[str, str]:
        """What was chosen for the encoder, by libav's names."""
        chosen = {"crf": self.crf, "preset": self.preset}
        return {name: str(value) for name, value in chosen.items() if value is not None}
