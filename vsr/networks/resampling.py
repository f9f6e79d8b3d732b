"""Two models without weights: bicubic interpolation, the baseline of all figures, and the identity, for tests."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vsr.imaging.resize import resize_bicubic


class Bicubic(nn.Module):
    """MATLAB's bicubic: (N, 3, H, W) -> (N, 3, round(scale*H), round(scale*W)), antialiased below 1, not clipped.

    Raises:
        ValueError: a scale that is not positive.
    """

    wants_unit_range = False
    peak_floats_per_pixel = 64

    def __init__(self, *, scale: float = 4) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"the scale must be positive, got {scale}")
        self.scale = scale

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""
        return {"scale": self.scale}

    def forward(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        return resize_bicubic(lr, max(1, round(height * self.scale)), max(1, round(width * self.scale)))


class Identity(nn.Module):
    """Returns its input: what is left of a clip after decoding, conversion and encoding alone."""

    wants_unit_range = False
    peak_floats_per_pixel = 8
    scale = 1

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""
        return {}

    def forward(self, lr: Tensor) -> Tensor:
        return lr
