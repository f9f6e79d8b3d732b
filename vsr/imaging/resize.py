"""Bicubic resizing as MATLAB's ``imresize`` does it, the reference of the super-resolution literature.

The kernel is the cubic convolution of Keys (1981) with a = -0.5. When an axis shrinks, the kernel is stretched by the
factor of reduction, which is the antialiasing; beyond the border the picture is mirrored with the edge pixel repeated.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def resize_bicubic(image: Tensor, height: int, width: int, *, antialias: bool = True) -> Tensor:
    """Resize to ``height`` x ``width``.

    Args:
        image: float tensor (..., H, W) of any range, on any device.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.
        antialias: stretch the kernel where an axis shrinks, as MATLAB does by default.

    Returns:
        float tensor (..., height, width) of the same dtype and device. Nothing is clipped: cubic interpolation
        overshoots at edges.

    Raises:
        ValueError: a size below 1, or an integer image.
    """
    if height < 1 or width < 1:
        raise ValueError(f"the target size must be at least 1x1, got {width}x{height}")
    if not image.is_floating_point():
        raise ValueError(f"expected a floating-point image, got {image.dtype}")
    rows, columns = image.shape[-2:]
    # MATLAB treats the axis with the smaller factor first, rows first when they are equal.
    if height / rows <= width / columns:
        return _resize_axis(_resize_axis(image, -2, height, antialias), -1, width, antialias)
    return _resize_axis(_resize_axis(image, -1, width, antialias), -2, height, antialias)


def _resize_axis(image: Tensor, axis: int, size: int, antialias: bool) -> Tensor:
    length = image.shape[axis]
    if length == size:
        return image
    indices, weights = _contributions(length, size, antialias)
    indices = indices.to(image.device)
    weights = weights.to(image.device, image.dtype)
    if axis == -2:
        weights = weights.unsqueeze(-1)
    result = image.index_select(axis, indices[0]) * weights[0]
    for tap in range(1, len(indices)):
        result.addcmul_(image.index_select(axis, indices[tap]), weights[tap])
    return result


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must also serve a later call under autograd
def _contributions(length: int, size: int, antialias: bool) -> tuple[Tensor, Tensor]:
    """Which source pixels make each target pixel, and how much of each: (taps, size) int64 and float64."""
    scale = size / length
    stretch = min(scale, 1.0) if antialias else 1.0
    support = 4.0 / stretch
    # Pixel centres: target u (0-based) lies at (u + 0.5) / scale - 0.5 in the source.
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - support / 2)
    positions = first + torch.arange(math.ceil(support) + 2, dtype=torch.float64).unsqueeze(1)
    weights = _cubic((centre - positions) * stretch)
    weights /= weights.sum(0)
    used = weights.abs().amax(1) > 0
    mirror = torch.cat([torch.arange(length), torch.arange(length).flip(0)])
    indices = mirror[positions.long() % (2 * length)]
    return indices[used], weights[used]


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
