"""Bicubic resizing as MATLAB's ``imresize`` does it, the reference of the super-resolution literature.

The kernel is the cubic convolution of Keys (1981) with a = -0.5. When an axis shrinks, the kernel is stretched by the
reduction factor, for antialiasing. The pixels outside the border depend on the MATLAB version: earlier ones repeat the
edge pixel (https://www.mathworks.com/matlabcentral/answers/1628, 2011), later ones (R2019a among them) mirror the
picture, including the edge pixel. The published LR files of Set5 and Set14 were made with a repeated edge.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

Border = Literal["mirror", "repeat"]
"""The pixels outside the picture: the mirrored picture, including the edge pixel, or the repeated edge pixel."""


def resize_bicubic(
    image: Tensor, height: int, width: int, *, antialias: bool = True, border: Border = "mirror"
) -> Tensor:
    """Resize an image to ``height`` x ``width`` with MATLAB's bicubic kernel.

    Args:
        image: float tensor (..., H, W) of any range, on any device.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.
        antialias: stretch the kernel where an axis shrinks, as MATLAB does by default.
        border: pixels outside the picture: ``mirror`` as in later versions of MATLAB, ``repeat`` as in earlier ones.

    Returns:
        float tensor (..., height, width) of the same dtype and device. Nothing is clipped: cubic interpolation
        overshoots at edges.

    Raises:
        ValueError: a size is below 1, the image has integers, or the border is unknown.
    """
    if not image.is_floating_point():
        raise ValueError(f"expected a floating-point image, got {image.dtype}")
    for axis, size in _axes(image, height, width, border):
        image = _resize_axis(image, axis, size, antialias, border)
    return image


def resize_as_matlab(picture: Tensor, height: int, width: int, *, border: Border = "repeat") -> Tensor:
    """Resize 8-bit pictures exactly as MATLAB's ``imresize(picture, [height width])`` does.

    MATLAB rounds an 8-bit picture to 8 bits after each axis, and rounds halves up. With ``repeat`` the LR files of Set5
    and Set14 (x2, x4) are reproduced in every pixel; with ``mirror`` 0.6 % of the values at x2 and 1.4 % at x4 differ,
    all at the border.

    Args:
        picture: uint8 (..., H, W), on a device with float64.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.
        border: pixels outside the picture: ``repeat`` as in earlier versions of MATLAB, ``mirror`` as in later ones.

    Returns:
        uint8 (..., height, width).

    Raises:
        ValueError: a size is below 1, the picture is not uint8, or the border is unknown.
    """
    if picture.dtype != torch.uint8:
        raise ValueError(f"expected a picture of 8 bits, got {picture.dtype}")
    for axis, size in _axes(picture, height, width, border):
        resized = _resize_axis(picture.double(), axis, size, True, border)
        picture = resized.add(0.5).floor_().clamp_(0, 255).to(torch.uint8)
    return picture


def _axes(image: Tensor, height: int, width: int, border: Border) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return each axis with its target size, in MATLAB's order: the smaller factor first, rows first if equal."""
    if height < 1 or width < 1:
        raise ValueError(f"the target size must be at least 1x1, got {width}x{height}")
    if border not in get_args(Border):
        raise ValueError(f"the border is one of {', '.join(get_args(Border))}, got {border!r}")
    rows, columns = image.shape[-2:]
    rows_first = height / rows <= width / columns
    return ((-2, height), (-1, width)) if rows_first else ((-1, width), (-2, height))


def _resize_axis(image: Tensor, axis: int, size: int, antialias: bool, border: Border) -> Tensor:
    length = image.shape[axis]
    if length == size:
        return image
    indices, weights = _contributions(length, size, antialias, border)
    indices = indices.to(image.device)
    weights = weights.to(image.device, image.dtype)
    if axis == -2:
        weights = weights.unsqueeze(-1)
    result = image.index_select(axis, indices[0]) * weights[0]
    for tap in range(1, len(indices)):
        result.addcmul_(image.index_select(axis, indices[tap]), weights[tap])
    return result


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cached tensors must also work in a later call under autograd
def _contributions(length: int, size: int, antialias: bool, border: Border) -> tuple[Tensor, Tensor]:
    """Return the source pixels of each target pixel and their weights: (taps, size) int64 and float64."""
    scale = size / length
    stretch = min(scale, 1.0) if antialias else 1.0
    support = 4.0 / stretch
    # Pixel centres: target u (0-based) is at (u + 0.5) / scale - 0.5 in the source.
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - support / 2)
    positions = first + torch.arange(math.ceil(support) + 2, dtype=torch.float64).unsqueeze(1)
    weights = _cubic((centre - positions) * stretch)
    weights /= weights.sum(0)
    used = weights.abs().amax(1) > 0
    if border == "repeat":
        return positions.long().clamp(0, length - 1)[used], weights[used]
    mirror = torch.cat([torch.arange(length), torch.arange(length).flip(0)])
    return mirror[positions.long() % (2 * length)][used], weights[used]


def _cubic(x: Tensor) -> Tensor:
    """Evaluate Keys' cubic convolution kernel, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
