"""Centring moves the mean of each channel to that of HR by three biases, without an effect on the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vsr.networks.generator import Generator
from vsr.training.options import TrainOptions
from vsr.training.trainer import centre, train

SHIFT = torch.tensor([0.05, -0.02, 0.01])


def pairs(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Draw LR and HR well inside of [0, 1]."""
    random = torch.Generator().manual_seed(0)
    originals = [0.3 + 0.4 * torch.rand(2, 3, 32, 32, generator=random) for _ in range(count)]
    return [(torch.nn.functional.avg_pool2d(hr, 4), hr) for hr in originals]


@torch.no_grad()
def error(network: Generator, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([(network(lr).clamp(0, 1) - hr).mean((0, 2, 3)) for lr, hr in data]).mean(0)


def interpolating(**config: Any) -> Generator:
    """Build a generator close to interpolation, as at the start of training, with shifted means."""
    network = Generator(scale=4, blocks=1, channels=4, **config).eval()
    assert network.tail.bias is not None
    with torch.no_grad():
        network.tail.bias += SHIFT
    return network


def state(network: Generator) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("config", "left"),
    [({}, 1e-6), ({"normalisation": "imagenet"}, 1e-6), ({"tanh": True}, 0.01)],
    ids=["plain", "imagenet", "tanh"],
)
def test_a_shift_is_removed(config: dict[str, Any], left: float) -> None:
    network, data = interpolating(**config), pairs()
    before = state(network)
    assert error(network, data).abs().max() > 0.02
    centre(network, data)
    assert error(network, data).abs().max() < left
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"tail.bias"}


def test_the_step_is_never_too_large_where_whites_are_clipped() -> None:
    """Ink on white paper, which too large a step would darken."""
    network, random = interpolating(), torch.Generator().manual_seed(0)
    ink = (torch.rand(2, 3, 8, 8, generator=random) < 0.15).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    data = [(torch.nn.functional.avg_pool2d(1 - ink, 4), 1 - ink)]
    before = error(network, data)
    centre(network, data)
    after = error(network, data)
    assert bool((before.sign() == after.sign()).all()) and bool((after.abs() < before.abs()).all())


def test_weights_that_are_not_finite_do_not_change(tiny_generator: Callable[..., Generator]) -> None:
    network = tiny_generator()
    assert network.tail.bias is not None
    before = network.tail.bias.clone()
    centre(network, [(torch.full((1, 3, 8, 8), torch.nan), torch.zeros(1, 3, 32, 32))])
    assert torch.equal(network.tail.bias, before)


def average_of(run: Path) -> dict[str, Tensor]:
    state = torch.load(run / "checkpoint.pt", weights_only=True)["ema"]
    return {name.removeprefix("module."): tensor for name, tensor in state.items() if name.startswith("module.")}


@pytest.mark.usefixtures("quick")
def test_saved_weights_are_centred_but_the_run_is_not(options: TrainOptions, tmp_path: Path) -> None:
    train(options)
    average = average_of(options.output)
    written = load_file(options.output / "generator.safetensors")
    apart = {name for name, tensor in written.items() if not torch.equal(tensor, average[name].to(tensor.dtype))}
    assert apart == {"tail.bias"}

    # The run does not depend on how often weights are written.
    often = replace(options, output=tmp_path / "often", checkpoint_every=1)
    train(often)
    again = average_of(often.output)
    assert all(torch.equal(tensor, average[name]) for name, tensor in again.items())
