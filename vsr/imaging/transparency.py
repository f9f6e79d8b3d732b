"""Colour where a picture is transparent: what nobody sees must not reach what is seen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

OPAQUE_ENOUGH = 1 / 8
"""The alpha from which a pixel keeps its colour whole. Below it the colour is little seen, and often worth little:
files that were stored multiplied by alpha have lost more than three of its bits there."""


def fill_invisible(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Replace the colour of transparent pixels by that of the visible ones around them.

    Push and pull over a pyramid (Gortler, Grzeszczuk, Szeliski and Cohen, "The Lumigraph", 1996): each level averages
    2 x 2 of the finer one, weighted by how visible they are, and is interpolated where the finer one has too little.

    Args:
        rgb: (N, 3, H, W) float32.
        alpha: (N, 1, H, W) float32 in [0, 1], on the same device.

    Returns:
        (N, 3, H, W) float32. Pixels of an alpha of ``OPAQUE_ENOUGH`` or more are equal bit for bit; below it the own
        colour fades into the neighbours', and at alpha 0 it has no influence on any pixel. A frame without a visible
        pixel becomes black.
    """
    weight = (alpha / OPAQUE_ENOUGH).clamp_(0, 1)
    return torch.where(weight >= 1, rgb, _filled(rgb, weight))


def _filled(colour: Tensor, weight: Tensor) -> Tensor:
    """The colour, to the part that its weight (N, 1, H, W) in [0, 1] says, and that of its surroundings."""
    height, width = colour.shape[-2:]
    if height == width == 1:
        return torch.where(weight > 0, colour, 0)
    coarser = functional.avg_pool2d(weight, 2, ceil_mode=True)
    mean = functional.avg_pool2d(colour * weight, 2, ceil_mode=True) / coarser.clamp(min=torch.finfo().tiny)
    around = _filled(mean, (4 * coarser).clamp_(max=1))
    return torch.lerp(functional.interpolate(around, (height, width), mode="bilinear"), colour, weight)
