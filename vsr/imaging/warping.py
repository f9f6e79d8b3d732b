"""Warp pictures along optical flow, and reduce the flicker of frame-wise networks with it.

Each output is blended with the previous one, which is warped along the motion of LR.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vsr.imaging.motion import Motion

WITHOUT_SAMPLING = {"mps"}
"""Device types on which some versions of torch lack these modes; the CPU is used instead."""


def enlarge_flow(flow: Tensor, scale: int) -> Tensor:
    """Enlarge flow from LR to HR pixels, (N, H, W, 2) -> (N, scale*H, scale*W, 2), by bilinear interpolation."""
    enlarged = functional.interpolate(flow.permute(0, 3, 1, 2) * scale, scale_factor=scale, mode="bilinear")
    return enlarged.permute(0, 2, 3, 1)


def warp(image: Tensor, flow: Tensor, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """Take each pixel p from p + flow[p], repeating edge pixels. Differentiable with respect to the image.

    Args:
        image: (N, C, H, W) float32 or float64.
        flow: (N, H, W, 2) of the same dtype, in pixels, columns before rows.
        mode: the interpolation.

    Returns:
        (N, C, H, W).
    """
    if image.device.type in WITHOUT_SAMPLING:
        return warp(image.cpu(), flow.cpu(), mode).to(image.device)
    height, width = image.shape[2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    # Pixel centres to [-1, 1], whose ends are the outer edges of the outermost pixels.
    x = (columns + flow[..., 0] + 0.5) * (2 / width) - 1
    y = (rows[:, None] + flow[..., 1] + 0.5) * (2 / height) - 1
    return functional.grid_sample(image, torch.stack((x, y), -1), mode, "border", align_corners=False)


HIGH_SHARE, LOW_SHARE = 0.9, 0.85
"""Weights of the previous output, for detail that LR does not show, and for detail that it does."""

LOW_SIGMA = 0.87
"""Standard deviation of the blur in LR pixels. Together with the mean over an LR pixel before and the linear
interpolation after, the bands are separated by a Gaussian with a standard deviation of one LR pixel."""


def motion_to_device(motion: Motion, device: torch.device) -> Tensor:
    """Pack what :func:`steady` needs of a motion, and copy it to the device, on CUDA without waiting.

    Returns:
        (1, 4, H, W) float32 on the device: the flow's x and y, and the trust in the high and the low band.
    """
    pinned = device.type == "cuda"
    packed = torch.empty((1, 4, *motion.trust_high.shape), pin_memory=pinned)
    for plane, array in zip(
        packed[0], (motion.flow[..., 0], motion.flow[..., 1], motion.trust_high, motion.trust_low), strict=True
    ):
        plane.numpy()[:] = array
    return packed.to(device, non_blocking=pinned)


def steady(
    sr: Tensor, previous: Tensor, motion: Tensor, *, scale: int, high: float = HIGH_SHARE, low: float = LOW_SHARE
) -> Tensor:
    """Blend a frame with the previous output in two frequency bands, weighted by the trust in the motion.

    Args:
        sr: (1, 3, scale*H, scale*W) float32 RGB, the output of the network.
        previous: the unrounded result of this function for the previous frame, of the same shape and device. For the
            first frame and after a cut do not call this function; ``sr`` is the output.
        motion: (1, 4, H, W) from ``motion_to_device``, on the same device.
        scale: the scale of the network.
        high: weight of ``previous`` in the high band where trust is 1.
        low: the same for the low band, which is coarser than an LR pixel.

    Returns:
        (1, 3, scale*H, scale*W) float32.
    """
    flow = enlarge_flow(motion[:, :2].permute(0, 2, 3, 1), scale)
    trust = functional.interpolate(motion[:, 2:], scale_factor=scale, mode="bilinear")
    # Cubic: linear interpolation would blur more with each frame.
    difference = warp(previous, flow, "bicubic") - sr
    coarse = _low_band(difference, scale)
    trust_high, trust_low = high * trust[:, :1], low * trust[:, 1:]
    # sr + trust_high * (difference - coarse) + trust_low * coarse
    return sr + trust_high * difference + (trust_low - trust_high) * coarse


def _low_band(image: Tensor, scale: int) -> Tensor:
    """Return the detail coarser than an LR pixel, computed at the size of LR."""
    small = functional.avg_pool2d(image, scale)
    reach = math.ceil(3 * LOW_SIGMA)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device).div_(LOW_SIGMA).square_()
    kernel = taps.mul_(-0.5).softmax(0).expand(image.shape[1], 1, 1, -1)
    padded = functional.pad(small, (reach, reach, reach, reach), mode="replicate")
    blurred = functional.conv2d(padded, kernel, groups=image.shape[1])
    blurred = functional.conv2d(blurred, kernel.transpose(-1, -2), groups=image.shape[1])
    return functional.interpolate(blurred, scale_factor=scale, mode="bilinear", align_corners=False)
