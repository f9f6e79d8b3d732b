"""Pictures moved along optical flow."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

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
