"""LPIPS, a perceptual distance of pictures. It measures, and no loss of ours uses it: a judge must not be trained for.

Zhang et al. 2018, https://arxiv.org/abs/1801.03924, version 0.1, on SqueezeNet 1.1. The backbone's weights are
torchvision's for ImageNet; those of the linear heads travel in the wheel of torchmetrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from vsr.errors import WeightsError
from vsr.networks.rewrites import float32_products
from vsr.networks.vgg import find_pretrained, read_weights

TAPS = (1, 4, 7, 9, 10, 11, 12)
"""The layers of SqueezeNet behind which pictures are compared."""

MIN_SIZE = 17
"""Pixels each way below which SqueezeNet's poolings leave nothing."""

HEADS = "functional/image/lpips_models/squeeze.pth"
"""In the package torchmetrics."""


class Lpips(nn.Module):
    """Two pictures (N, 3, H, W) RGB in [0, 1] -> (N,) distances, 0 for equal ones. Frozen, and always in eval mode.

    Our own lines rather than torchmetrics': its public class takes no file but downloads the backbone, the private one
    under it would tie us to its inner names, and either takes two seconds to import. Tests hold ours equal to it.

    Args:
        backbone: torchvision's state dict of SqueezeNet 1.1.
        heads: ``lin0.model.1.weight`` (1, C, 1, 1) to ``lin6``: the weights of the layers' channels.

    Raises:
        WeightsError: the weights are of other networks.
    """

    def __init__(self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_1  # type: ignore[import-untyped]

        prefix = "features."
        with torch.device("meta"):  # no random weights: measuring must not move the seeds of a training run
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
        """Stays in eval mode, whatever the network around it does."""
        return super().train(False)

    @float32_products(tf32=False)
    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The distance of each pair, in float32 on any device.

        Raises:
            ValueError: the shapes differ, or the pictures are smaller than 17 pixels.
        """
        if sr.shape != hr.shape:
            raise ValueError(f"pictures of one size are compared, got {tuple(sr.shape)} and {tuple(hr.shape)}")
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
    """LPIPS with its published weights.

    Args:
        path: a file of SqueezeNet 1.1 as torchvision names it; None: torchvision's (5 MB), downloaded on first use.

    Raises:
        WeightsError: the file is missing, damaged or of another network, the download fails, or torchmetrics, which
            carries the heads, is not installed.
    """
    from torchvision.models import SqueezeNet1_1_Weights

    found = find_spec("torchmetrics")
    if found is None or found.origin is None:
        raise WeightsError('LPIPS needs the package torchmetrics, which carries its heads: pip install "vsr[eval]".')
    url = SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    backbone = find_pretrained("the weights of SqueezeNet for LPIPS", url, path, "--lpips-weights")
    return Lpips(backbone, read_weights(Path(found.origin).parent / HEADS))


def _unit(features: Tensor) -> Tensor:
    """Each place's vector of channels, scaled to length 1."""
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
