"""The generator of SRGAN, which is also SRResNet (the same network, trained with another loss), bicubic and identity.

Ledig et al. 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network",
https://arxiv.org/abs/1609.04802, figure 4.
"""

from __future__ import annotations

import math
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from vsr.imaging.resize import resize_bicubic
from vsr.networks import Normalisation, Upsampling
from vsr.networks.vgg import TORCHVISION

SLOPE = 0.2
"""Negative slope of LeakyReLU after the convolutions of ``nearest`` upsampling."""

MAX_BLOCKS = 1000
"""Far more than any use needs; more in a file or a command is an error."""

TANH_GAIN = 1.25
"""(tanh(gain * (2c - 1)) + 1) / 2 is near c on [0, 1]: 0.03 off in the mean square, 0.08 at black and at white."""


class ResidualBlock(nn.Module):
    """conv - batch norm - PReLU - conv - batch norm, added to its input. Keeps the shape (N, C, H, W)."""

    def __init__(self, channels: int, norm_momentum: float = 0.1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1: nn.Module = nn.BatchNorm2d(channels, momentum=norm_momentum)
        self.activation = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2: nn.Module = _zero_norm(channels, norm_momentum)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm1(self.conv1(x)))
        return cast(Tensor, x + self.norm2(self.conv2(y)))


class Generator(nn.Module):
    """SRGAN's generator: (N, 3, H, W) RGB in [0, 1] -> (N, 3, scale*H, scale*W), not clipped.

    Args:
        scale: 2, 4 or 8: one stage of doubling for each factor of two.
        blocks: residual blocks; 16 in the paper.
        channels: width of all layers; 64 in the paper.
        upsampling: how a stage doubles. ``shuffle``, as in the paper: convolution, PixelShuffle, PReLU. ``nearest``, as
            in several Keras implementations: repeated pixels, convolution to four times the channels (256), LeakyReLU;
            the tail has the same width.
        tanh: end in (tanh + 1) / 2, which is in [0, 1].
        normalisation: ``imagenet``: inputs are normalised by ImageNet's mean and standard deviation, and outputs
            converted back, unless the network ends in tanh. ``none``: it works on pixels in [0, 1].
        norm_momentum: weight of the newest batch in the running statistics of batch normalisation (Keras counts the
            rest).

    A new network computes linear interpolation: three channels pass the colours through, and the last normalisation of
    each residual branch is zero (Goyal et al. 2017, https://arxiv.org/abs/1706.02677). From there 250 updates get
    further than some thousand from random weights, where the branches hide the picture under noise. With ``tanh`` it
    starts as interpolation of slightly less contrast (see ``TANH_GAIN``).

    Raises:
        ValueError: a scale that is no power of two from 2 to 8, no block or more than ``MAX_BLOCKS``, fewer than three
            channels, an unknown upsampling or normalisation, or a momentum outside (0, 1].
    """

    wants_unit_range = True
    """Trained on [0, 1] only: the engine clips other values."""

    mean: Tensor
    deviation: Tensor

    replaceable = ("upsample.", "tail.")
    """Layers that depend on the scale or the upsampling; the rest is the body."""

    def __init__(
        self,
        *,
        scale: int = 4,
        blocks: int = 16,
        channels: int = 64,
        upsampling: Upsampling = "shuffle",
        tanh: bool = False,
        normalisation: Normalisation = "none",
        norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if scale not in (2, 4, 8):
            raise ValueError(f"the generator's scale is 2, 4 or 8, got {scale}")
        if not 1 <= blocks <= MAX_BLOCKS or channels < 3:
            needed = f"1 to {MAX_BLOCKS} blocks and at least three channels are needed"
            raise ValueError(f"{needed}, got {blocks} and {channels}")
        if upsampling not in get_args(Upsampling):
            raise ValueError(f"the upsampling is shuffle or nearest, got {upsampling!r}")
        if normalisation not in get_args(Normalisation):
            raise ValueError(f"the normalisation is none or imagenet, got {normalisation!r}")
        if not 0 < norm_momentum <= 1:
            raise ValueError(f"the momentum of batch normalisation must be in (0, 1], got {norm_momentum}")
        self.scale, self.blocks, self.channels = scale, blocks, channels
        self.upsampling, self.tanh = upsampling, tanh
        self.normalisation, self.norm_momentum = normalisation, norm_momentum
        if normalisation == "imagenet":
            self.register_buffer("mean", torch.tensor(TORCHVISION.mean).view(3, 1, 1), persistent=False)
            self.register_buffer("deviation", torch.tensor(TORCHVISION.deviation).view(3, 1, 1), persistent=False)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(*(ResidualBlock(channels, norm_momentum) for _ in range(blocks)))
        self.body_conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.body_norm: nn.Module = _zero_norm(channels, norm_momentum)
        width = channels if upsampling == "shuffle" else 4 * channels
        inputs = [channels, width, width][: int(math.log2(scale))]
        self.upsample = nn.Sequential(*(_doubling_stage(upsampling, channels_in, width) for channels_in in inputs))
        self.tail = nn.Conv2d(width, 3, 9, padding=4)
        if not self.tail.weight.is_meta:  # meta tensors have no values, and initialising them takes seconds
            self._start_as_interpolation()

    @torch.no_grad()
    def _start_as_interpolation(self) -> None:
        colours = list(range(3))
        # Up to the tail the mean is added back, since activations pass only non-negative values unchanged.
        mean, deviation = torch.zeros(3), torch.ones(3)
        if self.normalisation == "imagenet":
            mean, deviation = self.mean.flatten(), self.deviation.flatten()
        weight, bias = _parameters(self.head[0])
        weight[:3], bias[:3] = 0, mean / deviation
        weight[colours, colours, 4, 4] = 1
        position, phases = (0, 4) if self.upsampling == "shuffle" else (1, 1)
        for stage in self.upsample:
            weight, bias = _parameters(cast(nn.Sequential, stage)[position])
            # (4C, C, 3, 3) -> (C, 4, C, 3, 3): the four pixels that PixelShuffle makes of one are equal at first.
            weight, bias = weight.view(-1, phases, *weight.shape[1:]), bias.view(-1, phases)
            weight[:] = weight[:, :1].clone()
            bias[:] = bias[:, :1].clone()
            weight[:3], bias[:3] = 0, 0
            weight[colours, :, colours, 1, 1] = 1
        # Repeated pixels and a box as wide as the scale make linear interpolation; other channels get small weights.
        box = torch.zeros(9)
        reach = self.scale // 2
        box[4 - reach : 5 + reach] = 1
        box[[4 - reach, 4 + reach]] = 0.5
        box /= box.sum()
        weight, bias = _parameters(self.tail)
        weight *= 0.1
        weight[:, :3], bias[:] = 0, -mean / deviation
        weight[colours, colours] = torch.outer(box, box)
        if self.tanh:
            weight *= 2 * TANH_GAIN
            weight[colours, colours] *= deviation.view(3, 1, 1)
            bias[:] = -TANH_GAIN

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""
        return {
            "scale": self.scale,
            "blocks": self.blocks,
            "channels": self.channels,
            "upsampling": self.upsampling,
            "tanh": self.tanh,
            "normalisation": self.normalisation,
            "norm_momentum": self.norm_momentum,
        }

    @property
    def peak_floats_per_pixel(self) -> int:
        """Floats in memory at once per LR pixel, in the last doubling: inputs and outputs of its layers, its input, and
        the three maps of the skip connection. No map holds more than half of them."""
        area = self.scale**2
        before = area // 4 if self.scale > 2 else 0  # the stage's input; in the first stage it is that of the skip
        if self.upsampling == "shuffle":
            return self.channels * (2 * area + before + 3)  # input and output of PixelShuffle
        # Input and output of the convolution. Rewritten for inference it is half of that, in one map.
        return self.channels * (8 * area + 4 * before + 3)

    def forward(self, lr: Tensor) -> Tensor:
        normalised = self.normalisation == "imagenet"
        shallow = self.head((lr - self.mean) / self.deviation if normalised else lr)
        deep = self.body_norm(self.body_conv(self.body(shallow)))
        features = self.upsample(shallow + deep)  # (N, C, H, W) -> (N, C or 4C, scale*H, scale*W)
        sr = cast(Tensor, self.tail(features))
        if self.tanh:
            return (sr.tanh() + 1) / 2
        return sr * self.deviation + self.mean if normalised else sr


def _zero_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=momentum)
    nn.init.zeros_(norm.weight)
    return norm


def _doubling_stage(upsampling: str, inputs: int, outputs: int) -> nn.Sequential:
    if upsampling == "shuffle":
        return nn.Sequential(
            nn.Conv2d(inputs, 4 * outputs, 3, padding=1),  # (N, C, H, W) -> (N, 4 * outputs, H, W)
            nn.PixelShuffle(2),  # -> (N, outputs, 2H, 2W)
            nn.PReLU(),
        )
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),  # (N, C, H, W) -> (N, C, 2H, 2W)
        nn.Conv2d(inputs, outputs, 3, padding=1),  # -> (N, outputs, 2H, 2W)
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def _parameters(conv: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight, conv.bias


class Bicubic(nn.Module):
    """MATLAB's bicubic: (N, 3, H, W) -> (N, 3, round(scale*H), round(scale*W)), antialiased below 1, not clipped.

    Raises:
        ValueError: a scale that is not positive.
    """

    wants_unit_range = False
    peak_floats_per_pixel = 64

    def __init__(self, *, scale: float = 4) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"the scale must be positive, got {scale}")
        self.scale = scale

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""
        return {"scale": self.scale}

    def forward(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        return resize_bicubic(lr, max(1, round(height * self.scale)), max(1, round(width * self.scale)))


class Identity(nn.Module):
    """Returns its input, to test decoding, conversion and encoding alone."""

    wants_unit_range = False
    peak_floats_per_pixel = 8
    scale = 1

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""
        return {}

    def forward(self, lr: Tensor) -> Tensor:
        return lr
