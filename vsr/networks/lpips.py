"""LPIPS, a perceptual distance between pictures. It is a metric only: no loss uses it, so that it stays independent.

Zhang et al. 2018, https://arxiv.org/abs/1801.03924, version 0.1, on SqueezeNet 1.1 or on AlexNet. The backbone's
weights are torchvision's for ImageNet; those of the linear heads are in the wheel of torchmetrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from vsr.errors import DISTRIBUTION, WeightsError, setting
from vsr.networks import LPIPS_MIN_SIZES, LPIPS_NAMES, LpipsBackbone
from vsr.networks.rewrites import float32_products
from vsr.networks.vgg import find_pretrained, read_weights


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision whose features LPIPS compares.

    Attributes:
        model: name of the function of ``torchvision.models`` that builds it.
        weights: name of the class of ``torchvision.models`` that lists its weights.
        taps: the layers whose outputs are compared.
        heads: the file of the linear heads, in the package torchmetrics.
        mebibytes: size of the file of weights.
    """

    model: str
    weights: str
    taps: tuple[int, ...]
    heads: str
    mebibytes: float


BACKBONES: dict[LpipsBackbone, Backbone] = {
    "squeeze": Backbone(
        "squeezenet1_1",
        "SqueezeNet1_1_Weights",
        (1, 4, 7, 9, 10, 11, 12),
        "functional/image/lpips_models/squeeze.pth",
        4.7,
    ),
    "alex": Backbone(
        "alexnet", "AlexNet_Weights", (1, 4, 7, 9, 11), "functional/image/lpips_models/alex.pth", 233
    ),
}


class Lpips(nn.Module):
    """Two pictures (N, 3, H, W) RGB in [0, 1] -> (N,) distances, 0 for equal ones. Frozen, and always in eval mode.

    It is our own implementation, since torchmetrics' public class cannot load the backbone from a file, its private one
    may change, and either takes two seconds to import. Tests compare both.

    Args:
        backbone: torchvision's state dict of the backbone.
        heads: ``lin0.model.1.weight`` (1, C, 1, 1) and so on, one for each tap: the weights of the layers' channels.
        kind: the backbone.

    Raises:
        WeightsError: the weights are of another network.
    """

    def __init__(
        self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor], kind: LpipsBackbone = "squeeze"
    ) -> None:
        super().__init__()
        self.kind = kind
        self._taps = BACKBONES[kind].taps
        with torch.device("meta"):  # no random weights: measuring must not change the random state of a training run
            self.features = _features(kind)
        prefix = "features."
        try:
            own = {name.removeprefix(prefix): backbone[name] for name in backbone if name.startswith(prefix)}
            self.features.load_state_dict(own, assign=True)
        except RuntimeError as exc:
            raise WeightsError(f"the weights for LPIPS are not those of torchvision's {LPIPS_NAMES[kind]}.") from exc
        try:
            self.heads = nn.ParameterList(
                heads[f"lin{index}.model.1.weight"].flatten() for index in range(len(self._taps))
            )
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
            ValueError: the shapes differ, or the pictures are smaller than the backbone allows.
        """
        if sr.shape != hr.shape:
            raise ValueError(f"the pictures must have one size, got {tuple(sr.shape)} and {tuple(hr.shape)}")
        if min(sr.shape[-2:]) < (least := LPIPS_MIN_SIZES[self.kind]):
            raise ValueError(f"LPIPS needs pictures of at least {least} pixels each way, got {tuple(sr.shape)}")
        shift, spread = cast(Tensor, self.shift), cast(Tensor, self.spread)
        x, y = (2 * sr - 1 - shift) / spread, (2 * hr - 1 - shift) / spread
        heads = iter(self.heads)
        distance = sr.new_zeros(len(sr))
        for index, layer in enumerate(self.features[: self._taps[-1] + 1]):
            x, y = layer(x), layer(y)
            if index in self._taps:
                difference = (_unit(x) - _unit(y)).square()  # (N, C, h, w)
                distance = distance + torch.einsum("nchw,c->nhw", difference, next(heads)).mean((1, 2))
        return distance


def load_lpips(path: Path | None = None, kind: LpipsBackbone = "squeeze") -> Lpips:
    """Load LPIPS with its published weights.

    Args:
        path: torchvision's file of the backbone; None: it is downloaded on first use (SqueezeNet 5, AlexNet 233 MiB).
        kind: the backbone.

    Raises:
        WeightsError: the file is missing, damaged or of another network, the download fails, or torchmetrics, which
            contains the heads, is not installed.
    """
    import torchvision.models  # type: ignore[import-untyped]

    known = BACKBONES[kind]
    found = find_spec("torchmetrics")
    if found is None or found.origin is None:
        advice = f'pip install "{DISTRIBUTION}[eval]"'
        raise WeightsError(f"LPIPS needs the package torchmetrics, which contains its heads: {advice}.")
    url = getattr(torchvision.models, known.weights).IMAGENET1K_V1.url
    what = f"the weights of {LPIPS_NAMES[kind]} for LPIPS"
    weights = find_pretrained(what, url, path, "lpips_weights", mebibytes=known.mebibytes)
    other = _kind_of(weights)
    if path is not None and other not in (None, kind):
        held, needed = LPIPS_NAMES[str(other)], setting("lpips", other)
        raise WeightsError(f"{path} holds the weights of {held}: use it with {needed}.")
    return Lpips(weights, read_weights(Path(found.origin).parent / known.heads), kind)


def _features(kind: LpipsBackbone) -> nn.Sequential:
    """Build the part of a backbone before its classifier."""
    import torchvision.models

    return cast(nn.Sequential, getattr(torchvision.models, BACKBONES[kind].model)(weights=None).features)


def _kind_of(weights: Mapping[str, Tensor]) -> LpipsBackbone | None:
    """Return the backbone that weights are of, by their shapes; None if of none."""
    for kind in BACKBONES:
        with torch.device("meta"):
            wanted = {f"features.{name}": tensor.shape for name, tensor in _features(kind).state_dict().items()}
        if wanted == {name: weights[name].shape for name in wanted if name in weights}:
            return kind
    return None


def _unit(features: Tensor) -> Tensor:
    """Normalise the vector of channels at each position to length 1."""
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
