"""LPIPS, a perceptual distance between pictures. It is a metric only: no loss uses it, so that it stays independent.

Zhang et al. 2018, https://arxiv.org/abs/1801.03924, version 0.1, on SqueezeNet 1.1. The backbone's weights are
torchvision's for ImageNet; those of the linear heads are in the wheel of torchmetrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from vsr.errors import DISTRIBUTION, WeightsError
from vsr.networks.rewrites import float32_products
from vsr.networks.vgg import find_pretrained, read_weights

TAPS = (1, 4, 7, 9, 10, 11, 12)
"""The layers of SqueezeNet whose outputs are compared."""

MIN_SIZE = 17
"""Smallest width and height in pixels that SqueezeNet's poolings allow."""

HEADS = "functional/image/lpips_models/squeeze.pth"
"""In the package torchmetrics."""


class Lpips(nn.Module):
    """Two pictures (N, 3, H, W) RGB in [0, 1] -> (N,) distances, 0 for equal ones. Frozen, and always in eval mode.

    It is our own implementation, since torchmetrics' public class cannot load the backbone from a file, its private one
    may change, and either takes two seconds to import. Tests compare both.

    Args:
        backbone: torchvision's state dict of SqueezeNet 1.1.
        heads: ``lin0.model.1.weight`` (1, C, 1, 1) to ``lin6``: the weights of the layers' channels.

    Raises:
        WeightsError: the weights are of another network.
    """

    def __init__(self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_1  # type: ignore[import-untyped]

        prefix = "features."
        with torch.device("meta"):  # no random weights: measuring must not change the random state of a training run
            self.features = squeezenet1_1(weights=None).features
        try:
            own = {name.removeprefix(prefix): backbone[name] for name in backbone if name.startswith(prefix)}
            self.features.load_state_dict(own, assign=True)
        except RuntimeError as exc:
            raise WeightsError("the weights for LPIPS are not those of SqueezeNet 1.1.") from exc
        try:
            self.heads = nn.ParameterList(heads[f"lin{index}.model.1.weight"].flatten() for index in range(len(TAPS)))
        except KeyError as exc:
            raise WeightsError(f"the heads of LPIPS lack {exc}") from exc
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("spread", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Lpips:
        """Stay in eval mode."""
        return super().train(False)

    @float32_products(tf32=False)
    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the distance of each pair, in float32 on any device.

        Raises:
            ValueError: the shapes differ, or the pictures are smaller than 17 pixels.
        """
        if sr.shape != hr.shape:
            raise ValueError(f"the pictures must have one size, got {tuple(sr.shape)} and {tuple(hr.shape)}")
        if min(sr.shape[-2:]) < MIN_SIZE:
            raise ValueError(f"LPIPS needs pictures of at least {MIN_SIZE} pixels each way, got {tuple(sr.shape)}")
        shift, spread = cast(Tensor, self.shift), cast(Tensor, self.spread)
        x, y = (2 * sr - 1 - shift) / spread, (2 * hr - 1 - shift) / spread
        heads = iter(self.heads)
        distance = sr.new_zeros(len(sr))
        for index, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if index in TAPS:
                difference = (_unit(x) - _unit(y)).square()  # (N, C, h, w)
                distance = distance + torch.einsum("nchw,c->nhw", difference, next(heads)).mean((1, 2))
        return distance


def load_lpips(path: Path | None = None) -> Lpips:
    """Load LPIPS with its published weights.

    Args:
        path: torchvision's file of SqueezeNet 1.1; None: it is downloaded on first use (5 MB).

    Raises:
        WeightsError: the file is missing, damaged or of another network, the download fails, or torchmetrics, which
            contains the heads, is not installed.
    """
    from torchvision.models import SqueezeNet1_1_Weights

    found = find_spec("torchmetrics")
    if found is None or found.origin is None:
        advice = f'pip install "{DISTRIBUTION}[eval]"'
        raise WeightsError(f"LPIPS needs the package torchmetrics, which contains its heads: {advice}.")
    url = SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    backbone = find_pretrained("the weights of SqueezeNet for LPIPS", url, path, "lpips_weights")
    return Lpips(backbone, read_weights(Path(found.origin).parent / HEADS))


def _unit(features: Tensor) -> Tensor:
    """Normalise the vector of channels at each position to length 1."""
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
