"""The generator of SRGAN, which is also SRResNet: the same network, trained on another loss.

Ledig et al. 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network",
https://arxiv.org/abs/1609.04802, figure 4.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ResidualBlock(nn.Module):
    """conv - batch norm - PReLU - conv - batch norm, added to its input. Keeps the shape (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1: nn.Module = nn.BatchNorm2d(channels)
        self.activation = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2: nn.Module = _silent_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm1(self.conv1(x)))
        return cast(Tensor, x + self.norm2(self.conv2(y)))


class Generator(nn.Module):
    """SRGAN's generator: (N, 3, H, W) RGB in [0, 1] -> (N, 3, scale*H, scale*W), not clipped.

    Args:
        scale: 2, 4 or 8: one stage of doubling for each factor of two.
        blocks: residual blocks; 16 in the paper.
        channels: width of all layers; 64 in the paper.

    A new network starts as linear interpolation: three channels carry the colours through, and the last normalisation
    of each residual branch starts at zero (Goyal et al. 2017, https://arxiv.org/abs/1706.02677). From there 250 updates
    come further than some thousand from random weights, where the branches bury the picture under noise.

    Raises:
        ValueError: a scale that is no power of two from 2 to 8, no block, or fewer than three channels.
    """

    wants_unit_range = True
    """Trained on [0, 1] alone: the engine clips what lies outside."""

    def __init__(self, *, scale: int = 4, blocks: int = 16, channels: int = 64) -> None:
        super().__init__()
        if scale not in (2, 4, 8):
            raise ValueError(f"the generator's scale is 2, 4 or 8, got {scale}")
        if blocks < 1 or channels < 3:
            raise ValueError(f"at least one block and three channels are needed, got {blocks} and {channels}")
        self.scale, self.blocks, self.channels = scale, blocks, channels
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.body_conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.body_norm: nn.Module = _silent_norm(channels)
        self.upsample = nn.Sequential(*(_doubling(channels) for _ in range(int(math.log2(scale)))))
        self.tail = nn.Conv2d(channels, 3, 9, padding=4)
        self._start_as_interpolation()

    @torch.no_grad()
    def _start_as_interpolation(self) -> None:
        colours = list(range(3))
        weight, bias = _parameters(self.head[0])
        weight[:3], bias[:3] = 0, 0
        weight[colours, colours, 4, 4] = 1
        for stage in self.upsample:
            weight, bias = _parameters(cast(nn.Sequential, stage)[0])
            # (4C, C, 3, 3) -> (C, 4, C, 3, 3): the four pixels that PixelShuffle makes of one start equal.
            weight, bias = weight.view(self.channels, 4, self.channels, 3, 3), bias.view(self.channels, 4)
            weight[:] = weight[:, :1].clone()
            bias[:] = bias[:, :1].clone()
            weight[:3], bias[:3] = 0, 0
            weight[colours, :, colours, 1, 1] = 1
        # Repeated pixels and a box as wide as the scale make linear interpolation; the other channels start quiet.
        box = torch.zeros(9)
        reach = self.scale // 2
        box[4 - reach : 5 + reach] = 1
        box[[4 - reach, 4 + reach]] = 0.5
        box /= box.sum()
        weight, bias = _parameters(self.tail)
        weight *= 0.1
        weight[:, :3], bias[:] = 0, 0
        weight[colours, colours] = torch.outer(box, box)

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""
        return {"scale": self.scale, "blocks": self.blocks, "channels": self.channels}

    @property
    def peak_floats_per_pixel(self) -> int:
        """Floats alive at once for each LR pixel: the input of the last PixelShuffle and its output, and the skip."""
        return self.channels * (2 * self.scale**2 + 2)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.head(lr)
        deep = self.body_norm(self.body_conv(self.body(shallow)))
        features = self.upsample(shallow + deep)  # (N, C, H, W) -> (N, C, scale*H, scale*W)
        return cast(Tensor, self.tail(features))

    @torch.no_grad()
    def fold_batch_norm(self) -> None:
        """Fold each batch normalisation into the convolution before it, in place. Exact; for inference only.

        Raises:
            ValueError: the network is in training mode, where the statistics are those of the batch.
        """
        if self.training:
            raise ValueError("batch normalisation folds in eval mode only")
        for block in self.body:
            assert isinstance(block, ResidualBlock)
            block.conv1, block.norm1 = _folded(block.conv1, block.norm1)
            block.conv2, block.norm2 = _folded(block.conv2, block.norm2)
        self.body_conv, self.body_norm = _folded(self.body_conv, self.body_norm)


def _silent_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.zeros_(norm.weight)
    return norm


def _doubling(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 4 * channels, 3, padding=1),  # (N, C, H, W) -> (N, 4C, H, W)
        nn.PixelShuffle(2),  # -> (N, C, 2H, 2W)
        nn.PReLU(),
    )


def _folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    if not isinstance(norm, nn.BatchNorm2d):
        return conv, norm  # folded before
    return fuse_conv_bn_eval(conv, norm), nn.Identity()


def _parameters(conv: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight, conv.bias
