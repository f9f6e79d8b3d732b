"""Full-reference quality measures under the protocol of the super-resolution literature.

Luma is MATLAB's ``rgb2ycbcr`` (BT.601, 16..235), a border of as many pixels as the scale is cropped, and pictures are
compared as 8-bit code values. Published figures differ by up to 2 dB where one of these three differs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def luma(rgb: Tensor) -> Tensor:
    """MATLAB's Y of RGB in [0, 1]: (..., 3, H, W) -> (..., H, W) in code values 16..235."""
    weights = rgb.new_tensor([65.481, 128.553, 24.966])
    return torch.einsum("c,...chw->...hw", weights, rgb) + 16


def psnr_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Peak signal-to-noise ratio on luma, in dB, one value for each picture.

    Args:
        sr: RGB (N, 3, H, W) float in [0, 1].
        hr: the reference, of the same shape.
        border: pixels left out at each side; by custom the scale.

    Returns:
        (N,) float64; infinite for equal pictures.

    Raises:
        ValueError: the shapes differ, or the border leaves nothing.
    """
    if sr.shape != hr.shape:
        raise ValueError(f"pictures of one size are compared, got {tuple(sr.shape)} and {tuple(hr.shape)}")
    if min(sr.shape[-2:]) <= 2 * border:
        raise ValueError(f"a border of {border} leaves nothing of {tuple(sr.shape)}")
    error = luma(sr.double()) - luma(hr.double())
    if border:
        error = error[..., border:-border, border:-border]
    return 10 * torch.log10(255**2 / error.square().mean((-2, -1)))
