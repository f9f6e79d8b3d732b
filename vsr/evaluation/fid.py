"""The Frechet distance between the features of two sets of pictures: FID.

Heusel et al. 2017, https://arxiv.org/abs/1706.08500. Features are assumed to be normal, and the distance between two
Gaussians is ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``. The estimate from few pictures is too large, the more so
the fewer they are: figures compare only at equal numbers, and sets of a hundred tell an order of magnitude.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vsr.errors import WeightsError, needs_extra, setting
from vsr.networks.rewrites import float32_products


class FrechetDistance:
    """Collects the features of both sets, picture by picture; torchmetrics computes the distance in float64 on the CPU.

    Args:
        extractor: (1, 3, H, W) uint8 RGB -> (1, D) features; called on the device of its pictures.
    """

    def __init__(self, extractor: nn.Module) -> None:
        self._extractor = extractor
        self._real: list[Tensor] = []
        self._fake: dict[str, list[Tensor]] = {}

    def add(self, hr: Tensor, sr: dict[str, Tensor]) -> None:
        """Add a picture and what each model made of it.

        Args:
            hr: (1, 3, H, W) uint8 RGB.
            sr: the upscaled picture of each model, of the same shape.

        Raises:
            ValueError: the extractor does not return one row of floats.
        """
        self._real.append(self._features(hr))
        for model, picture in sr.items():
            self._fake.setdefault(model, []).append(self._features(picture))

    def compute(self, model: str) -> float:
        """Return the distance of a model's pictures from the originals.

        Raises:
            ValueError: fewer than two pictures were added.
        """
        from torchmetrics.image.fid import FrechetInceptionDistance

        if len(self._real) < 2:
            raise ValueError(f"the spread of features is that of at least two pictures, got {len(self._real)}")
        real, fake = torch.cat(self._real), torch.cat(self._fake[model])
        metric = FrechetInceptionDistance(_PassThrough(real.shape[1]))
        metric.set_dtype(torch.float64)
        metric.update(real, real=True)
        metric.update(fake, real=False)
        return float(metric.compute())

    @float32_products(tf32=False)
    def _features(self, picture: Tensor) -> Tensor:
        features = cast(Tensor, self._extractor(picture))
        if features.dim() != 2 or len(features) != 1 or not features.is_floating_point():
            shape = tuple(features.shape)
            raise ValueError(f"an extractor for FID returns (1, D) floats of a picture, got {features.dtype} {shape}")
        return features.detach().cpu().double()  # in this order: MPS has no float64


class _PassThrough(nn.Module):
    """Extractor for torchmetrics that returns precomputed features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def load_inception() -> nn.Module:
    """Load Inception v3 as the paper has it, in the form of torch-fidelity: (N, 3, H, W) uint8 RGB -> (N, 2048).

    Its weights (91 MB) are downloaded on first use.

    Raises:
        UsageError: the package torch-fidelity is not installed.
        WeightsError: the download fails.
    """
    with needs_extra("eval", "FID"):
        import torch_fidelity  # noqa: F401 - torchmetrics would report it in its own words
        from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        return FrechetInceptionDistance(feature=2048).inception
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        raise WeightsError(
            f"cannot download the weights of Inception for FID ({reason}): put the file that the line above names "
            f"there by hand, or leave {setting('fid')} out."
        ) from exc
