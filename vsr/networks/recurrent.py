"""A recurrent generator for clips: each frame is computed from its LR frame and a state from the frames before.

It follows RLSP (Fuoli, Gu and Timofte 2019, https://arxiv.org/abs/1909.08080): hidden features at LR size are an input
of the next step. The last output is not, since moving it is costly and adds nothing if the features are moved
(docs/video-generator.md). The layers are SRGAN's residual blocks without normalisation, since batch statistics do not
suit a state that is passed from frame to frame. ``move_state`` moves a state along the motion.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vsr.imaging.resize import resize_bicubic
from vsr.imaging.warping import warp
from vsr.networks.generator import MAX_BLOCKS

REACH = 2
"""LR pixels on each side that bicubic interpolation uses for the HR pixels of one LR pixel."""

INITIAL_GAIN = 0.1
"""Factor of the initial weights of the last convolution of a block."""


class RecurrentBlock(nn.Module):
    """conv - PReLU - conv, added to its input. Keeps the shape (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.activation = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight *= INITIAL_GAIN

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.conv2(self.activation(self.conv1(x))))


class Enlargement(nn.Module):
    """Bicubic interpolation as input channels of PixelShuffle: (N, 3, H, W) -> (N, 3*scale*scale, H, W).

    Beyond the frame its edge is repeated.
    """

    weight: Tensor

    def __init__(self, scale: int) -> None:
        super().__init__()
        size = 2 * REACH + 1
        with torch.device("cpu"):  # even if the network is built on the device meta
            impulses = torch.eye(size * size).view(size * size, 1, size, size)
            enlarged = resize_bicubic(impulses, size * scale, size * scale)
        middle = slice(REACH * scale, (REACH + 1) * scale)
        # (taps, 1, scale, scale) of the pixel in the middle -> (3*scale*scale, taps): flat, since torch's
        # DistributedDataParallel cannot broadcast the channels-last strides of a single channel.
        taps = enlarged[:, 0, middle, middle].flatten(1).t()
        self.register_buffer("weight", taps.repeat(3, 1), persistent=False)

    def forward(self, lr: Tensor) -> Tensor:
        padded = functional.pad(lr, (REACH, REACH, REACH, REACH), mode="replicate")
        return functional.conv2d(padded, self.weight.view(-1, 1, 2 * REACH + 1, 2 * REACH + 1), groups=3)


class RecurrentGenerator(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] and a state -> (N, 3, scale*H, scale*W), not clipped, and the next state.

    The state is (N, ``state_channels``, H, W): the LR frame, and hidden features in [-1, 1]; zeros for the first frame.

    Args:
        scale: 2 or 4.
        blocks: residual blocks.
        channels: width of all layers, and number of hidden features.
        aligned: whether the caller has to move the state along the motion between the frames before each step (see
            ``move_state``).

    A new network computes bicubic interpolation: the last layer is zero, and the blocks have small weights.

    Raises:
        ValueError: a scale other than 2 or 4, no block or more than ``MAX_BLOCKS``, or no channel.
    """

    wants_unit_range = True

    def __init__(self, *, scale: int = 4, blocks: int = 10, channels: int = 64, aligned: bool = False) -> None:
        super().__init__()
        if scale not in (2, 4):
            raise ValueError(f"the recurrent generator's scale is 2 or 4, got {scale}")
        if not 1 <= blocks <= MAX_BLOCKS or channels < 1:
            raise ValueError(f"1 to {MAX_BLOCKS} blocks and a channel are needed, got {blocks} and {channels}")
        self.scale, self.blocks, self.channels, self.aligned = scale, blocks, channels, aligned
        self.state_channels = 3 + channels
        self.enlarge = Enlargement(scale)
        self.head = nn.Sequential(nn.Conv2d(3 + self.state_channels, channels, 3, padding=1), nn.PReLU())
        self.body = nn.Sequential(*(RecurrentBlock(channels) for _ in range(blocks)))
        self.tail = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(cast(Tensor, self.tail.bias))

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""
        return {"scale": self.scale, "blocks": self.blocks, "channels": self.channels, "aligned": self.aligned}

    @property
    def peak_floats_per_pixel(self) -> int:
        """Floats in memory at once per LR pixel: both states, the features of a block, and the result."""
        return 2 * self.state_channels + 3 * self.channels + 6 * self.scale**2

    def initial_state(self, lr: Tensor) -> Tensor:
        """Return the state before the first frame: zeros (N, state_channels, H, W), on the device of ``lr``."""
        return lr.new_zeros(lr.shape[0], self.state_channels, *lr.shape[2:])

    def forward(self, lr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(self.head(torch.cat((lr, state), 1)))  # (N, channels, H, W)
        detail = self.tail(features)  # (N, 3*scale*scale, H, W)
        sr = self.shuffle(self.enlarge(lr) + detail)  # (N, 3, scale*H, scale*W)
        return sr, torch.cat((lr, features.tanh()), 1)


def move_state(state: Tensor, flow: Tensor, trust: Tensor) -> Tensor:
    """Move a state along the motion between its frame and the next one, by bilinear interpolation.

    Beyond the frame its edge is repeated. Differentiable in the state.

    Args:
        state: (N, C, H, W), see :class:`RecurrentGenerator`.
        flow: (N, H, W, 2) float, columns before rows, in LR pixels: the pixel p of the next frame was at p + flow[p].
        trust: (N, H, W) in [0, 1], a factor for the moved state: 0 where the motion is unknown.

    Returns:
        The moved state, of the shape and dtype of ``state``.
    """
    exact = torch.promote_types(state.dtype, torch.float32)  # half precision has no room for a fraction of a pixel
    moved = warp(state.to(exact), flow.to(exact), "bilinear")
    moved *= trust.to(exact)[:, None]
    return moved.to(state.dtype)
