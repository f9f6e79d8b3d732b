"""The discriminator of SRGAN, which distinguishes real HR crops from upscaled ones.

Ledig et al. 2017, https://arxiv.org/abs/1609.04802, figure 4, with either of the two heads in use.
"""

from __future__ import annotations

from typing import Any, cast, get_args

from torch import Tensor, nn

from vsr.networks import Head

SLOPE = 0.2
"""Negative slope of LeakyReLU, as in the paper."""


class Discriminator(nn.Module):
    """(N, 3*frames, H, W) RGB in [0, 1] -> (N,) logits, greater for real crops.

    Eight 3x3 convolutions; every second one halves the size, and the width doubles after it.

    Args:
        channels: width of the first convolution; 64 in the paper.
        head: ``dense``: the paper's layer of 1024, only for crops of ``crop_size``. ``pooled``: fully convolutional
            with average pooling, for crops of any size from 16.
        crop_size: edge of the crops in pixels, for the dense head.
        dense_size: width of the layer before the logit; 1024 in the paper.
        frames: number of pictures that are judged together, concatenated along the channels.

    Raises:
        ValueError: an unknown head, a dense head without a crop size of at least 16, or no frame.
    """

    replaceable = ("head.",)
    """Layers that depend on the crop size or the head; the rest is the body."""

    def __init__(
        self,
        *,
        channels: int = 64,
        head: Head = "dense",
        crop_size: int | None = 96,
        dense_size: int = 1024,
        frames: int = 1,
    ) -> None:
        super().__init__()
        if head not in get_args(Head):
            raise ValueError(f"the head is dense or pooled, got {head!r}")
        if head == "dense" and (crop_size is None or crop_size < 16):
            raise ValueError(f"a dense head needs the crop size, at least 16 pixels, got {crop_size}")
        if frames < 1:
            raise ValueError(f"at least one frame is needed, got {frames}")
        self.channels, self.head_kind, self.crop_size, self.dense_size = channels, head, crop_size, dense_size
        self.frames = frames
        layers: list[nn.Module] = [nn.Conv2d(3 * frames, channels, 3, padding=1), nn.LeakyReLU(SLOPE, inplace=True)]
        width = channels
        for stage in range(4):
            if stage:
                layers += _convolution(width, 2 * width, stride=1)
                width *= 2
            layers += _convolution(width, width, stride=2)  # (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))
        self.features = nn.Sequential(*layers)
        if head == "dense":
            assert crop_size is not None
            edge = -(-crop_size // 16)
            self.head = nn.Sequential(
                nn.Flatten(),  # (N, 8C, H/16, W/16) -> (N, 8C * H/16 * W/16)
                nn.Linear(width * edge**2, dense_size),
                nn.LeakyReLU(SLOPE, inplace=True),
                nn.Linear(dense_size, 1),
            )
        else:
            self.head = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),  # (N, 8C, h, w) -> (N, 8C, 1, 1)
                nn.Conv2d(width, dense_size, 1),
                nn.LeakyReLU(SLOPE, inplace=True),
                nn.Conv2d(dense_size, 1, 1),
                nn.Flatten(),
            )

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""
        return {
            "channels": self.channels,
            "head": self.head_kind,
            "crop_size": self.crop_size,
            "dense_size": self.dense_size,
            "frames": self.frames,
        }

    def forward(self, image: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(image * 2 - 1))).squeeze(1)


def _convolution(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(SLOPE, inplace=True),
    ]
