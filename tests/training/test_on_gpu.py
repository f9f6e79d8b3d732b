"""What is to be checked on a GPU; the same tests run on the CPU show that they are sound."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from torch import Tensor, nn

from vsr.training.checkpoint import begin_stage, new_train_state
from vsr.training.options import TrainOptions
from vsr.training.recipes import Recipe, override
from vsr.training.step import TrainState, update

HERE = Path(__file__).parent
SECONDS = 400
"""That processes may take which import torch and compile."""

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])


def gradients(folder: Path, device: str, processes: int, compiled: bool, form: str) -> tuple[dict[str, Tensor], ...]:
    """Return the gradients of one update on a batch that the processes share, on one device."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
        own = {"WORLD_SIZE": str(processes), "RANK": str(rank), "GROUP_RANK": str(rank), "LOCAL_RANK": "0"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(shared | own if processes > 1 else {})}
        command = [sys.executable, str(HERE / "on_one_device.py"), device, str(compiled), form, str(folder)]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, errors
    found: tuple[dict[str, Tensor], ...] = torch.load(folder / f"{processes}-{compiled}.pt")
    return found


@pytest.mark.parametrize("form", ["relativistic", "clips"])
@pytest.mark.parametrize(
    ("device", "compiled"),
    [
        ("cpu", True),  # not compiled, that is among the tests of what starts processes
        pytest.param("cuda", False, marks=needs_cuda),
        pytest.param("cuda", True, marks=needs_cuda),
    ],
)
def test_two_processes_share_a_device(device: str, compiled: bool, form: str, tmp_path: Path) -> None:
    """The discriminator passes twice, over upscaled crops and real ones, before its gradients are averaged; batch
    normalisation is over the joined batch; compiled or not. The result equals that of a single, uncompiled process.
    """
    one, seen = gradients(tmp_path, device, 1, False, form)
    two, also_seen = gradients(tmp_path, device, 2, compiled, form)
    assert one.keys() == two.keys() and len([name for name in one if "running" in name]) > 10
    for name, gradient in one.items():
        tolerance = 1e-6 * max(float(gradient.abs().max()), 1e-7)
        torch.testing.assert_close(two[name], gradient, rtol=0, atol=tolerance, msg=name)
    for name in ("discriminator_loss", "d_real", "d_fake", "adversarial"):
        torch.testing.assert_close(also_seen[name], seen[name], rtol=1e-9, atol=0)


@pytest.fixture
def build_state(tiny_recipe: Recipe) -> Callable[..., TrainState]:
    """Return a function that builds a tiny state in the adversarial stage, in float16, with one scaler for both."""

    def build(device: str, **values: Any) -> TrainState:
        scaler = torch.amp.GradScaler(device, init_scale=1024.0)  # type: ignore[attr-defined]
        precision = MixedPrecision("16-mixed", device, scaler)
        fabric = Fabric(accelerator=device, devices=1, plugins=precision)
        fabric.launch()
        recipe = override(tiny_recipe, adversarial_adversarial=1.0, **values)
        options = TrainOptions(data=(Path("data"),), output=Path("run"), recipe=recipe, device=device)
        state = new_train_state(fabric, options)
        begin_stage(state, "adversarial", options)
        return state

    return build


def step(state: TrainState) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(state.step)
    lr, hr = (torch.rand(2, 3, size, size, generator=random).to(state.fabric.device) for size in (4, 16))
    return update(state, lr, hr, 1e-3)


def weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def moved(network: nn.Module, before: list[Tensor]) -> bool:
    return any(not torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))


def scale_of(state: TrainState) -> float:
    return float(state.fabric.strategy.precision.state_dict()["scale"])


@DEVICES
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_one_scaler_serves_both_networks(device: str, clip: float, build_state: Callable[..., TrainState]) -> None:
    state = build_state(device, gradient_clip=clip)
    assert state.discriminator is not None
    networks = (state.generator.plain, state.discriminator.plain)
    for _ in range(3):
        before = [weights(network) for network in networks]
        assert all(bool(value.isfinite()) for value in step(state).values())
        assert all(moved(network, old) for network, old in zip(networks, before, strict=True))
    assert scale_of(state) == 1024


@DEVICES
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("which", ["generator", "discriminator"])
def test_an_overflow_in_one_network_skips_the_step_of_that_network_only(
    device: str, which: str, clip: float, build_state: Callable[..., TrainState]
) -> None:
    state = build_state(device, gradient_clip=clip)
    assert state.discriminator is not None
    networks = {"generator": state.generator.plain, "discriminator": state.discriminator.plain}
    first = next(networks[which].parameters())
    hook = first.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    before = {name: weights(network) for name, network in networks.items()}
    step(state)
    assert {name: moved(network, before[name]) for name, network in networks.items()} == {
        name: name != which for name in networks
    }
    assert scale_of(state) == 512
    hook.remove()
    step(state)
    assert moved(networks[which], before[which]) and scale_of(state) == 512
    assert all(bool(parameter.isfinite().all()) for network in networks.values() for parameter in network.parameters())
