from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from vsr.errors import UsageError, WeightsError
from vsr.evaluation.fid import FrechetDistance, load_inception


class Corner(nn.Module):
    """The first row's first values of red, as they are."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, picture: Tensor) -> Tensor:
        assert picture.dtype == torch.uint8 and picture.shape[:2] == (1, 3)
        return picture[:, 0, 0, : self.count].float()


def pictures(*values: list[int]) -> list[Tensor]:
    result = []
    for each in values:
        picture = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
        picture[0, 0, 0, : len(each)] = torch.tensor(each, dtype=torch.uint8)
        result.append(picture)
    return result


def distance(extractor: nn.Module, real: list[Tensor], fake: list[Tensor]) -> float:
    gathered = FrechetDistance(extractor)
    for hr, sr in zip(real, fake, strict=True):
        gathered.add(hr, {"model": sr, "itself": hr})
    assert gathered.compute("itself") == pytest.approx(0, abs=1e-9)
    return gathered.compute("model")


def test_one_feature_by_hand() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2, the deviations with N - 1."""
    real, fake = [[10], [20], [30]], [[50], [52], [60]]
    expected = (54 - 20) ** 2 + (10 - math.sqrt(28)) ** 2
    assert distance(Corner(1), pictures(*real), pictures(*fake)) == pytest.approx(expected, abs=1e-9)


def test_two_independent_features_by_hand() -> None:
    """Four points on a cross have no covariance: the deviations are compared one by one."""
    real = [[100 + 30, 100], [100 - 30, 100], [100, 100 + 6], [100, 100 - 6]]
    fake = [[110 + 15, 90], [110 - 15, 90], [110, 90 + 12], [110, 90 - 12]]
    deviations = [(30, 15), (6, 12)]
    expected = 10**2 + 10**2 + sum((a - b) ** 2 * 2 / 3 for a, b in deviations)
    assert distance(Corner(2), pictures(*real), pictures(*fake)) == pytest.approx(expected, rel=1e-9)


def test_covariance_counts_by_hand() -> None:
    """Perfectly correlated against perfectly anticorrelated: the product of the matrices is nought, the means agree."""
    real = [[100, 100], [120, 120], [140, 140]]
    fake = [[100, 140], [120, 120], [140, 100]]
    # tr(C1) = tr(C2) = 400 + 400, and C1 C2 = 0.
    assert distance(Corner(2), pictures(*real), pictures(*fake)) == pytest.approx(1600, rel=1e-6)


def test_pictures_on_a_device_without_float64(limited_device: torch.device) -> None:
    real, fake = pictures([0], [2], [4]), pictures([1], [5], [6])
    there = ([picture.to(limited_device) for picture in each] for each in (real, fake))
    assert distance(Corner(1), *there) == distance(Corner(1), real, fake)


def test_features_are_not_rounded_to_tf32() -> None:
    seen: list[bool] = []

    class Watching(Corner):
        def forward(self, picture: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().forward(picture)

    distance(Watching(1), pictures([0], [2]), pictures([1], [5]))
    assert set(seen) == {False} and torch.backends.cudnn.allow_tf32


def test_a_single_picture_has_no_spread() -> None:
    gathered = FrechetDistance(Corner(1))
    gathered.add(*[(one, {"model": one}) for one in pictures([1])][0])
    with pytest.raises(ValueError, match="at least two pictures, got 1"):
        gathered.compute("model")


@pytest.mark.parametrize(
    ("extractor", "words"),
    [
        (nn.Flatten(), r"got torch.uint8 \(1, 48\)"),
        (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 12))), r"got torch.uint8 \(1, 4, 12\)"),
    ],
)
def test_extractors_that_are_none(extractor: nn.Module, words: str) -> None:
    (one,) = pictures([1])
    with pytest.raises(ValueError, match=rf"returns \(1, D\) floats of a picture, {words}"):
        FrechetDistance(extractor).add(one, {})


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_inception_without_its_package() -> None:
    with pytest.raises(UsageError, match=r'^FID needs the package torch_fidelity: pip install "vsr-srgan\[eval\]"\.$'):
        load_inception()


def test_inception_is_that_of_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image import fid as torchmetrics_fid

    class Stand(nn.Module):
        def __init__(self, name: str, features_list: list[str], **rest: object) -> None:
            super().__init__()
            assert (name, features_list) == ("inception-v3-compat", ["2048"])

        num_features = 2048

    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setattr(torchmetrics_fid, "_TORCH_FIDELITY_AVAILABLE", True)
    monkeypatch.setattr(torchmetrics_fid, "NoTrainInceptionV3", Stand)
    assert isinstance(load_inception(), Stand)


def test_inception_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image import fid as torchmetrics_fid

    def fail(**keywords: object) -> None:
        raise URLError("no network")

    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setattr(torchmetrics_fid, "_TORCH_FIDELITY_AVAILABLE", True)
    monkeypatch.setattr(torchmetrics_fid, "NoTrainInceptionV3", fail)
    words = r"cannot download the weights of Inception for FID \(no network\): put .* leave fid out"
    with pytest.raises(WeightsError, match=words):
        load_inception()
