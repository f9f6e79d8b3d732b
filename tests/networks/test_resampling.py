from __future__ import annotations

import pytest
import torch

from vsr.imaging.resize import resize_bicubic
from vsr.networks.generator import Bicubic, Identity


def noise(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("scale", "size", "expected"),
    [
        (4, (5, 7), (20, 28)),
        (3, (5, 7), (15, 21)),
        (1.5, (5, 7), (8, 10)),  # 7.5 and 10.5, halves to even
        (2.4, (5, 7), (12, 17)),
        (0.5, (5, 7), (2, 4)),
        (0.01, (5, 7), (1, 1)),
        (1, (5, 7), (5, 7)),
    ],
)
def test_bicubic_at_any_scale(scale: float, size: tuple[int, int], expected: tuple[int, int]) -> None:
    lr = noise(*size)
    sr = Bicubic(scale=scale)(lr)
    assert sr.shape == (2, 3, *expected)
    assert torch.equal(sr, resize_bicubic(lr, *expected))


def test_bicubic_does_not_clip() -> None:
    assert not Bicubic().wants_unit_range
    lr = torch.full((1, 3, 4, 4), 1.25)
    torch.testing.assert_close(Bicubic()(lr), torch.full((1, 3, 16, 16), 1.25))


@pytest.mark.parametrize("scale", [0, -2, float("nan")])
def test_invalid_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=f"must be positive, got {scale}"):
        Bicubic(scale=scale)


def test_identity_returns_its_input() -> None:
    lr = noise(5, 7) * 3 - 1
    assert torch.equal(Identity()(lr), lr)
    assert Identity().scale == 1 and not Identity().wants_unit_range


@pytest.mark.parametrize("network", [Bicubic(scale=2.5), Bicubic(), Identity()])
def test_config_builds_the_network_again(network: Bicubic | Identity) -> None:
    again = type(network)(**network.config)
    assert again.config == network.config and again.scale == network.scale
    assert torch.equal(again(noise(6, 4)), network(noise(6, 4)))
    assert network.peak_floats_per_pixel >= 1
    assert not list(network.parameters()) and not network.state_dict()
