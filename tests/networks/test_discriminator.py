"""The discriminator: both heads, sizes, and the paper's count of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vsr.networks.discriminator import Discriminator


def small(**keywords: object) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(channels=4, dense_size=8, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("crop_size", [16, 96, 100, 176])
def test_a_dense_head_accepts_crops_of_its_size(crop_size: int) -> None:
    assert small(crop_size=crop_size)(torch.rand(3, 3, crop_size, crop_size)).shape == (3,)


@pytest.mark.parametrize("size", [(16, 16), (33, 70), (96, 96)])
def test_a_pooled_head_accepts_crops_of_any_size(size: tuple[int, int]) -> None:
    assert small(head="pooled", crop_size=None)(torch.rand(2, 3, *size)).shape == (2,)


def test_a_dense_head_refuses_other_sizes() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        small(crop_size=96)(torch.rand(1, 3, 64, 64))


def test_the_paper_has_this_many_parameters() -> None:
    widths = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    convolutions = 3 * 64 * 9 + 64 + sum(inputs * outputs * 9 + 2 * outputs for inputs, outputs in widths)
    dense = 512 * 6 * 6 * 1024 + 1024 + 1024 + 1
    assert sum(parameter.numel() for parameter in Discriminator().parameters()) == convolutions + dense


def test_strides_and_widths_alternate() -> None:
    layers = [layer for layer in Discriminator().features if isinstance(layer, nn.Conv2d)]
    assert [layer.stride[0] for layer in layers] == [1, 2, 1, 2, 1, 2, 1, 2]
    assert [layer.out_channels for layer in layers] == [64, 64, 128, 128, 256, 256, 512, 512]


def test_config_builds_the_same_network() -> None:
    first = small(head="pooled", crop_size=None).eval()
    second = Discriminator(**first.config)
    second.load_state_dict(first.state_dict())
    image = torch.rand(2, 3, 40, 40)
    assert torch.equal(first(image), second.eval()(image))


def test_gradients_reach_every_parameter() -> None:
    network = small(crop_size=32)
    network(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="the head is dense or pooled, got 'flat'"):
        small(head="flat")
    with pytest.raises(ValueError, match="needs the crop size, at least 16 pixels, got None"):
        small(crop_size=None)
    with pytest.raises(ValueError, match="got 8"):
        small(crop_size=8)


def test_several_frames_are_judged_together() -> None:
    network = Discriminator(channels=4, head="pooled", crop_size=None, frames=3)
    assert network(torch.rand(2, 9, 20, 24)).shape == (2,)
    assert Discriminator(**network.config).config == network.config
    with pytest.raises(ValueError, match="at least one frame is needed, got 0"):
        Discriminator(frames=0)
