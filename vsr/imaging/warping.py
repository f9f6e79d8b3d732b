"""Pictures moved along optical flow, and the output of frame-wise networks steadied by it.

To steady is to blend each frame with the last one, moved along the motion of LR.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vsr.imaging.motion import Motion

WITHOUT_SAMPLING = {"mps"}
"""Types of devices on which torch may lack these modes, as it did at first; there the CPU samples."""


def enlarge_flow(flow: Tensor, scale: int) -> Tensor:
    """Flow in LR pixels -> flow in HR pixels, (N, H, W, 2) -> (N, scale*H, scale*W, 2), by bilinear interpolation."""
    enlarged = functional.interpolate(flow.permute(0, 3, 1, 2) * scale, scale_factor=scale, mode="bilinear")
    return enlarged.permute(0, 2, 3, 1)


def warp(image: Tensor, flow: Tensor, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """Take each pixel p from p + flow[p]; beyond the image its edge is repeated. Differentiable in the image.

    Args:
        image: (N, C, H, W) of float32 or float64.
        flow: (N, H, W, 2) of the same dtype, in pixels, columns before rows.
        mode: of the interpolation.
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
"""Of the last output, in detail that LR does not show, and in what it does."""

LOW_SIGMA = 0.87
"""LR pixels. With the mean over an LR pixel before it and the linear interpolation after it, the Gaussian that parts
the bands has a standard deviation of one LR pixel."""


def motion_to_device(motion: Motion, device: torch.device) -> Tensor:
    """All that :func:`steady` needs of a motion, in one copy that CUDA does not wait for.

    Returns:
        (1, 4, H, W) float32 on the device: the flow's x and y, and the trust in the high and in the low band.
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
    """Blend a frame with the last output, each of two bands as far as the motion is trusted there.

    Args:
        sr: (1, 3, scale*H, scale*W) float32 RGB, what the network made.
        previous: of the same shape and device: what this function returned for the frame before, not rounded; at a
            cut and for the first frame there is none, and ``sr`` is the output.
        motion: (1, 4, H, W) of ``motion_to_device``, on the same device.
        scale: of the network.
        high: share of ``previous`` in the high band where trust is 1.
        low: the same in the low band, which is coarser than an LR pixel.

    Returns:
        (1, 3, scale*H, scale*W) float32.
    """
    flow = enlarge_flow(motion[:, :2].permute(0, 2, 3, 1), scale)
    trust = functional.interpolate(motion[:, 2:], scale_factor=scale, mode="bilinear")
    # Cubic: linear interpolation would blur more with each frame that it passes through.
    difference = warp(previous, flow, "bicubic") - sr
    coarse = _low_band(difference, scale)
    trust_high, trust_low = high * trust[:, :1], low * trust[:, 1:]
    # sr + trust_high * (difference - coarse) + trust_low * coarse
    return sr + trust_high * difference + (trust_low - trust_high) * coarse


def _low_band(image: Tensor, scale: int) -> Tensor:
    """What is coarser than an LR pixel, computed at the size of LR."""
    small = functional.avg_pool2d(image, scale)
    reach = math.ceil(3 * LOW_SIGMA)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=image.device).div_(LOW_SIGMA).square_()
    kernel = taps.mul_(-0.5).softmax(0).expand(image.shape[1], 1, 1, -1)
    padded = functional.pad(small, (reach, reach, reach, reach), mode="replicate")
    blurred = functional.conv2d(padded, kernel, groups=image.shape[1])
    blurred = functional.conv2d(blurred, kernel.transpose(-1, -2), groups=image.shape[1])
    return functional.interpolate(blurred, scale_factor=scale, mode="bilinear", align_corners=False)
