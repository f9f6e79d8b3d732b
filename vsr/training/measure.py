"""What a generator is worth on held-out pictures: PSNR-Y, SSIM-Y, LPIPS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vsr.imaging.metrics import psnr_y, ssim_y
from vsr.networks.arithmetic import float32_products
from vsr.networks.recurrent import RecurrentGenerator
from vsr.training.sequence import ClipBatch, upscale_clips

LARGEST = 320
"""Edge of the middle part of a picture that is measured, in pixels: enough to see the trend, and quick."""


@dataclass(frozen=True)
class HeldOut:
    """One picture to measure on, or the last frame of a clip.

    Attributes:
        lr: (3, h, w) uint8 RGB.
        hr: (3, scale*h, scale*w) uint8 RGB.
        clip: the clip, a batch of one, for a recurrent generator; None: a picture by itself.
    """

    lr: Tensor
    hr: Tensor
    clip: ClipBatch | None = None


@dataclass(frozen=True)
class Quality:
    """Means over the held-out pictures.

    Attributes:
        psnr_y: in dB; greater is better.
        ssim_y: at most 1; greater is better.
        lpips: 0 for equal pictures; smaller is better. None where it is not measured.
    """

    psnr_y: float
    ssim_y: float
    lpips: float | None


def least_size(scale: int) -> int:
    """Pixels each way below which a picture cannot be measured: SSIM's window inside the border, and LPIPS."""
    return -(-max(17, 11 + 2 * scale) // scale) * scale


def middle(picture: Tensor, scale: int) -> Tensor:
    """The middle of (3, H, W), at most ``LARGEST`` on an edge, and a multiple of the scale."""
    height, width = (min(size, LARGEST) // scale * scale for size in picture.shape[-2:])
    top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
    return picture[:, top : top + height, left : left + width].contiguous()


@float32_products(tf32=False)
@torch.inference_mode()
def measure(
    generator: nn.Module, held_out: Sequence[HeldOut], lpips: nn.Module | None, *, scale: int, device: torch.device
) -> tuple[Quality | None, list[Tensor]]:
    """Upscale the held-out pictures and compare them with their originals, in float32 whatever the run computes in.

    Args:
        generator: (N, 3, h, w) RGB in [0, 1] -> (N, 3, scale*h, scale*w); or a recurrent one.
        held_out: the pictures.
        lpips: two batches of RGB in [0, 1] -> distances; None leaves it out.
        scale: of the generator, and by custom the border that PSNR and SSIM leave out.
        device: of the generator and of ``lpips``.

    Returns:
        The means, None without pictures, and the upscaled pictures, (3, H, W) uint8 each on the CPU.
    """
    was_training = generator.training
    generator.eval()
    values: list[tuple[float, float, float]] = []
    upscaled = []
    for pair in held_out:
        sr, hr = _upscaled(generator, pair, device), pair.hr[None].to(device).float() / 255
        sr = sr.mul(255).round().clamp(0, 255) / 255
        distance = float("nan") if lpips is None else float(lpips(sr, hr))
        values.append((float(psnr_y(sr, hr, border=scale)), float(ssim_y(sr, hr, border=scale)), distance))
        upscaled.append(sr[0].mul(255).round().byte().cpu())
    generator.train(was_training)
    if not values:
        return None, []
    psnr, ssim, distance = (sum(column) / len(values) for column in zip(*values, strict=True))
    return Quality(psnr, ssim, None if lpips is None else distance), upscaled


def _upscaled(generator: nn.Module, pair: HeldOut, device: torch.device) -> Tensor:
    """(1, 3, scale*h, scale*w)."""
    if pair.clip is not None:
        assert isinstance(generator, RecurrentGenerator)
        return upscale_clips(generator, generator, pair.clip.to(device))[-1]
    lr = pair.lr[None].to(device).float() / 255
    sr: Tensor = generator(lr.contiguous(memory_format=torch.channels_last))
    return sr
