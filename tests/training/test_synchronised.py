"""Batch normalisation over processes, with a single process; two processes are tested in test_launch.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import distributed, nn

from vsr.networks.discriminator import Discriminator
from vsr.networks.generator import Generator
from vsr.training.launch import SynchronisedBatchNorm2d, joined, synchronise

CPU = torch.device("cpu")


@pytest.fixture
def alone() -> Iterator[None]:
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_joining_without_processes() -> None:
    part = torch.rand(3)
    assert joined(part) is part


@pytest.mark.usefixtures("alone")
def test_joining_with_one_process() -> None:
    part = torch.rand(3)
    assert joined(part) is part


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_it_equals_torchs_batch_normalisation(momentum: float) -> None:
    """Output, all gradients and the running statistics, over several batches."""
    plain = nn.BatchNorm2d(5, eps=1e-3, momentum=momentum).double()
    ours = SynchronisedBatchNorm2d(5, eps=1e-3, momentum=momentum).double()
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
        plain.bias.uniform_(-1, 1)
    ours.load_state_dict(plain.state_dict())
    for _ in range(3):
        x = torch.randn(4, 5, 6, 7, dtype=torch.float64) * 3 + 2
        results = []
        for norm in (plain, ours):
            given = x.clone().requires_grad_()
            norm.zero_grad()
            y = norm(given)
            (y**3).sum().backward()
            results.append((y, given.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert ours.state_dict()["num_batches_tracked"] == 3 and plain.state_dict()["running_var"].mean() > 2
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


@pytest.mark.usefixtures("alone")
def test_the_variance_of_one_pixel_is_zero() -> None:
    """The unbiased variance would divide by zero."""
    norm = SynchronisedBatchNorm2d(2)
    norm(torch.rand(1, 2, 1, 1))
    assert torch.isfinite(norm.state_dict()["running_var"]).all()


@pytest.mark.parametrize(
    "build",
    [lambda: Generator(blocks=2, channels=4, norm_momentum=0.5), lambda: Discriminator(channels=4, crop_size=32)],
)
def test_all_normalisations_of_a_network_are_replaced(build: Callable[[], nn.Module]) -> None:
    network = build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    norms = [name for name, module in network.named_modules() if type(module) is nn.BatchNorm2d]
    momenta = {name: network.get_submodule(name).momentum for name in norms}
    network.train()
    assert synchronise(network, CPU) is network
    assert len(norms) >= 5
    for name in norms:
        module = network.get_submodule(name)
        assert isinstance(module, SynchronisedBatchNorm2d) and module.momentum == momenta[name] and module.training
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_on_a_gpu_they_are_torchs_own() -> None:
    network = synchronise(Discriminator(channels=4, crop_size=32), torch.device("cuda"))
    kinds = {type(module) for module in network.modules()}
    assert nn.SyncBatchNorm in kinds and not {nn.BatchNorm2d, SynchronisedBatchNorm2d} & kinds
