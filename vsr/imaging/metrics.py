"""Full-reference quality measures under the protocol of the super-resolution literature.

Pictures are compared as 8-bit code values, on luma, which most papers report, or on RGB. Luma is MATLAB's ``rgb2ycbcr``
(BT.601, 16..235), and a border of as many pixels as the scale is cropped. Published figures differ by up to 2 dB where
one of these differs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SSIM_WINDOW = 11
"""Width of the Gaussian window, in pixels."""


def luma(rgb: Tensor) -> Tensor:
    """Return MATLAB's Y of RGB in [0, 1]: (..., 3, H, W) -> (..., H, W) in code values 16..235."""
    weights = rgb.new_tensor([65.481, 128.553, 24.966])
    return torch.einsum("c,...chw->...hw", weights, rgb) + 16


def psnr_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Return the peak signal-to-noise ratio on luma, in dB, one value for each picture.

    Args:
        sr: RGB (N, 3, H, W) float in [0, 1].
        hr: the reference, of the same shape.
        border: pixels left out at each side; usually the scale.

    Returns:
        (N,) float64; infinite for equal pictures. On the pictures' device where that has float64, else on the CPU.

    Raises:
        ValueError: the shapes differ, or the border leaves no pixel.
    """
    x, y = _crop_border(sr, hr, border, least=1)
    return _psnr(luma(x), luma(y))


def psnr_rgb(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Return the peak signal-to-noise ratio on RGB, in dB; otherwise like :func:`psnr_y`."""
    x, y = _crop_border(sr, hr, border, least=1)
    return _psnr(255 * x.flatten(-3, -2), 255 * y.flatten(-3, -2))


def ssim_y(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Return the structural similarity on luma, one value for each picture.

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, as in their ``ssim_index.m``: a Gaussian window of 11x11
    with a standard deviation of 1.5, where it is inside the picture, K1 = 0.01, K2 = 0.03, L = 255.

    Args:
        sr: RGB (N, 3, H, W) float in [0, 1].
        hr: the reference, of the same shape.
        border: pixels left out at each side; usually the scale.

    Returns:
        (N,) float64; 1 for equal pictures. On the pictures' device where that has float64, else on the CPU.

    Raises:
        ValueError: the shapes differ, or the border leaves less than the window.
    """
    x, y = _crop_border(sr, hr, border, least=SSIM_WINDOW)
    return _ssim(luma(x), luma(y)).mean((-2, -1))


def ssim_rgb(sr: Tensor, hr: Tensor, *, border: int) -> Tensor:
    """Return the mean structural similarity of red, green and blue; otherwise like :func:`ssim_y`."""
    x, y = _crop_border(sr, hr, border, least=SSIM_WINDOW)
    return _ssim(255 * x, 255 * y).mean((-3, -2, -1))


def _psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the PSNR of code values (N, H, W): (N,) in dB."""
    return 10 * torch.log10(255**2 / (x - y).square().mean((-2, -1)))


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the SSIM map (..., H - 10, W - 10) of code values (..., H, W)."""
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x.square() + y.square()) - mean_x.square() - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    brightness = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return brightness * structure


def _crop_border(sr: Tensor, hr: Tensor, border: int, *, least: int) -> tuple[Tensor, Tensor]:
    """Return both pictures (N, 3, H, W) in float64 without the border; ``least`` pixels per axis must be left."""
    if sr.shape != hr.shape:
        raise ValueError(f"expected pictures of the same size, got {tuple(sr.shape)} and {tuple(hr.shape)}")
    height, width = sr.shape[-2:]
    if min(height, width) - 2 * border < least:
        left = "nothing" if least == 1 else f"less than {least} pixels"
        raise ValueError(f"a border of {border} leaves {left} of {tuple(sr.shape)}")
    inside = (..., slice(border, height - border), slice(border, width - border))
    return _in_float64(sr[inside]), _in_float64(hr[inside])


def _in_float64(image: Tensor) -> Tensor:
    """Convert to float64, on the CPU where the image's device lacks float64, as MPS does."""
    return image.double() if image.device.type in ("cpu", "cuda") else image.cpu().double()


def _blur(image: Tensor) -> Tensor:
    """Return the Gaussian-weighted mean where the window fits: (..., H, W) -> (..., H - 10, W - 10)."""
    reach = SSIM_WINDOW // 2
    weights = [math.exp(-((offset / 1.5) ** 2) / 2) for offset in range(-reach, reach + 1)]
    total = sum(weights)
    for axis in (-2, -1):
        length = image.shape[axis] - 2 * reach
        # Shifted sums: a convolution in float64 would unfold the picture to eleven times its size.
        mean = torch.zeros_like(image.narrow(axis, 0, length))
        for start, weight in enumerate(weights):
            mean.add_(image.narrow(axis, start, length), alpha=weight / total)
        image = mean
    return image
