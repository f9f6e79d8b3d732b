"""One update on clips against the same computed in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from vsr.imaging.warping import enlarge_flow, warp
from vsr.networks.recurrent import RecurrentGenerator, move_state
from vsr.networks.weights import save_network
from vsr.training.checkpoint import begin_stage, new_train_state
from vsr.training.losses import artefacts
from vsr.training.options import TrainOptions
from vsr.training.recipes import LOSSES, RECIPES, Stage, override
from vsr.training.step import ClipBatch, Shift, TrainState, update_clips

RATE = 1e-3
FRAMES = 4
TINY = {
    **{"blocks": 1, "channels": 4, "discriminator_channels": 4, "crop_size": 32, "batch_size": 2, "ema_decay": 0.75},
    **{"frames": FRAMES, "long_frames": 0, "gradient_clip": 0.0, "discriminator": Stage(length=1)},
}


class Pooled(nn.Module):
    """Replaces VGG: features that can be computed by hand."""

    def forward(self, image: Tensor) -> Tensor:
        return functional.avg_pool2d(image, 4).square()


def shake(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter) * 0.1


@pytest.fixture
def build_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., TrainState]:
    """Return a function that builds a tiny state on clips in a stage, with random parameters and given weights only."""
    monkeypatch.setattr("vsr.training.checkpoint.find_content_weights", lambda network, path: {})
    monkeypatch.setattr("vsr.training.checkpoint.ContentFeatures", lambda *arguments, **keywords: Pooled())

    def build(stage: Any, weights: dict[str, float], *, precision: Any = "32-true", **values: Any) -> TrainState:
        none = dict.fromkeys(LOSSES, 0.0)
        parts = {"adversarial": Stage(length=1, l1=1.0), stage: Stage(length=1, **{**none, **weights})}
        recipe = override(RECIPES["video-recurrent"], **{**TINY, **parts, **values})
        teacher = tmp_path / "teacher.safetensors" if weights.get("teacher") else None
        if teacher is not None:
            network = RecurrentGenerator(blocks=1, channels=3)
            shake(network)
            save_network(teacher, network, {})
        options = TrainOptions(data=(Path("data"),), output=Path("run"), recipe=recipe, seed=3, teacher=teacher)
        state = new_train_state(Fabric(accelerator="cpu", devices=1, precision=precision), options)
        shake(state.generator.plain)
        state.ema.module.load_state_dict(state.generator.plain.state_dict())
        begin_stage(state, stage, options)
        return state

    return build


def batch(frames: int = FRAMES) -> ClipBatch:
    def shift() -> Shift:
        return Shift(torch.randn(2, frames - 1, 8, 8, 2), torch.rand(2, frames - 1, 8, 8))

    return ClipBatch(torch.rand(2, frames, 3, 8, 8), torch.rand(2, frames, 3, 32, 32), shift(), shift())


def by_hand(generator: nn.Module, clips: ClipBatch) -> list[Tensor]:
    """Upscale clips with an aligned generator."""
    network, before = cast(RecurrentGenerator, generator), clips.before
    state = network.initial_state(clips.lr[:, 0])
    upscaled = []
    for number in range(clips.lr.shape[1]):
        if number and network.aligned:
            assert before is not None
            flow, trust = before.flow[:, number - 1], before.trust[:, number - 1]
            state = move_state(state, flow, trust)
        sr, state = network(clips.lr[:, number], state)
        upscaled.append(sr)
    return upscaled


def mean_over_frames(loss: Callable[[Tensor], Tensor], sr: list[Tensor], other: list[Tensor]) -> Tensor:
    shares = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0][: len(sr)]
    values = [share * loss(one - two) for share, one, two in zip(shares, sr, other, strict=True)]
    return torch.stack(values).sum() / sum(shares)


@pytest.mark.parametrize("name", ["mse", "l1", "charbonnier", "content", "total_variation", "teacher", "artefacts"])
@pytest.mark.parametrize("aligned", [True, False])
def test_a_pretraining_update_by_hand(build_state: Callable[..., TrainState], name: str, aligned: bool) -> None:
    state = build_state("pretrain", {name: 3.0}, aligned=aligned, content_frames=9)
    clips = batch()
    generator, average = copy.deepcopy(state.generator.plain), copy.deepcopy(state.ema.module)
    shake(cast(nn.Module, state.ema.module))
    average.load_state_dict(state.ema.module.state_dict())
    sr, hr = by_hand(generator, clips), list(clips.hr.unbind(1))
    with torch.no_grad():
        taught = by_hand(state.teacher, clips) if state.teacher is not None else []
        averaged = by_hand(average, clips)
    expected = {
        "mse": lambda: mean_over_frames(lambda error: error.square().mean(), sr, hr),
        "l1": lambda: mean_over_frames(lambda error: error.abs().mean(), sr, hr),
        "charbonnier": lambda: mean_over_frames(lambda error: (error.square() + 1e-6).sqrt().mean(), sr, hr),
        "content": lambda: torch.stack(
            [(functional.avg_pool2d(s, 4) ** 2 - functional.avg_pool2d(h, 4) ** 2).square().mean() for s, h in pairs]
        ).mean(),
        "total_variation": lambda: torch.stack(
            [one.diff(dim=2).square().mean() + one.diff(dim=3).square().mean() for one in sr]
        ).mean(),
        "teacher": lambda: mean_over_frames(lambda error: error.abs().mean(), sr, taught),
        "artefacts": lambda: torch.stack([artefacts(*each) for each in zip(sr, hr, averaged, strict=True)]).mean(),
    }
    pairs = list(zip(sr, hr, strict=True))
    loss = 3 * expected[name]()
    gradients = torch.autograd.grad(loss, list(generator.parameters()))
    reported = update_clips(state, clips, 0.0)
    assert reported.keys() == {"generator_loss", name}
    assert float(reported[name]) == float(reported["generator_loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    for parameter, gradient in zip(state.generator.plain.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    assert (state.step, state.stage_step) == (1, 1)


def test_ping_pong_by_hand(build_state: Callable[..., TrainState]) -> None:
    state = build_state("pretrain", {"ping_pong": 2.0, "l1": 1.0})
    clips = batch()
    sr = by_hand(copy.deepcopy(state.generator.plain), clips.round_trip())
    hr = clips.hr[:, [0, 1, 2, 3, 2, 1, 0]].unbind(1)
    reported = update_clips(state, clips, RATE)
    apart = torch.stack([(sr[there] - sr[back]).square().mean() for there, back in ((0, 6), (1, 5), (2, 4))]).mean()
    assert float(reported["ping_pong"]) == pytest.approx(2 * float(apart.detach()), rel=1e-5)
    assert float(reported["l1"]) == pytest.approx(
        float(mean_over_frames(lambda error: error.abs().mean(), sr, list(hr)).detach()), rel=1e-5
    )


def discriminator_input_by_hand(frames: list[Tensor], clips: ClipBatch, middle: int) -> Tensor:
    assert clips.before is not None and clips.after is not None
    earlier = warp(frames[middle - 1], enlarge_flow(clips.before.flow[:, middle - 1], 4), "bicubic")
    later = warp(frames[middle + 1], enlarge_flow(clips.after.flow[:, middle], 4), "bicubic")
    moving = torch.cat((earlier, frames[middle], later), 1)
    return torch.stack((moving, frames[middle].repeat(1, 3, 1, 1)), 1).flatten(0, 1)


def test_an_adversarial_update_by_hand(build_state: Callable[..., TrainState]) -> None:
    state = build_state("adversarial", {"l1": 1.0, "adversarial": 0.5})
    assert state.discriminator is not None
    clips = batch()
    generator, discriminator = copy.deepcopy(state.generator.plain), copy.deepcopy(state.discriminator.plain)
    sr, hr = by_hand(generator, clips), list(clips.hr.unbind(1))
    middle = int(np.random.default_rng([3, 0, 3]).choice(range(1, FRAMES - 1), 1, replace=False)[0])
    fake, real = discriminator_input_by_hand(sr, clips, middle), discriminator_input_by_hand(hr, clips, middle)

    reported = update_clips(state, clips, RATE)

    verdicts = discriminator(fake.detach()), discriminator(real)
    loss = functional.softplus(verdicts[0]).mean() + functional.softplus(-verdicts[1]).mean()
    assert float(reported["discriminator_loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    for parameter, gradient in zip(
        state.discriminator.plain.parameters(), torch.autograd.grad(loss, list(discriminator.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        assert parameter.requires_grad
    discriminator.load_state_dict(state.discriminator.plain.state_dict())
    adversarial = 0.5 * functional.softplus(-discriminator(fake)).mean()
    pixels = mean_over_frames(lambda error: error.abs().mean(), sr, hr)
    assert float(reported["adversarial"]) == pytest.approx(float(adversarial.detach()), rel=1e-4)
    gradients = torch.autograd.grad(pixels + adversarial, list(generator.parameters()))
    for parameter, gradient in zip(state.generator.plain.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
    assert reported.keys() == {"generator_loss", "l1", "adversarial", "discriminator_loss", "d_real", "d_fake"}


def test_the_discriminators_stage_leaves_the_generator_alone(build_state: Callable[..., TrainState]) -> None:
    state = build_state("discriminator", {"ping_pong": 1.0})
    before = {name: tensor.clone() for name, tensor in state.generator.plain.state_dict().items()}
    reported = update_clips(state, batch(), RATE)
    assert reported.keys() == {"discriminator_loss", "d_real", "d_fake"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.generator.plain.state_dict().items())


def test_frames_are_drawn_by_seed_and_update(
    build_state: Callable[..., TrainState], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []

    def triplets(frames: list[Tensor], clips: ClipBatch, middles: list[int]) -> Tensor:
        drawn.append(middles)
        return torch.cat([frames[0].repeat(1, 3, 1, 1)] * 2)

    monkeypatch.setattr("vsr.training.step.triplets", triplets)
    for step in (0, 0, 1, 2, 3, 4, 5):
        state = build_state("discriminator", {}, judged_frames=2, frames=8)
        state.step = step
        update_clips(state, batch(8), RATE)
    assert drawn[0::2] == drawn[1::2], "the same frames of SR and of HR"
    assert drawn[0] == drawn[2] and len({tuple(one) for one in drawn}) > 2
    assert all(len(set(one)) == 2 and {*one} <= {*range(1, 7)} for one in drawn)


def test_half_precision_ends_before_the_losses(build_state: Callable[..., TrainState]) -> None:
    weights = dict.fromkeys(("l1", "content", "ping_pong", "teacher", "artefacts", "adversarial"), 1.0)
    state = build_state("adversarial", weights, precision="bf16-mixed")
    reported = update_clips(state, batch(), RATE)
    assert {value.dtype for value in reported.values()} == {torch.float32}
    assert all(torch.isfinite(value) for value in reported.values())
    assert {tensor.dtype for tensor in state.generator.plain.parameters()} == {torch.float32}


def test_updates_bring_the_loss_down(build_state: Callable[..., TrainState]) -> None:
    state = build_state("pretrain", {"charbonnier": 1.0})
    clips = batch()
    hr = torch.stack([functional.interpolate(lr, scale_factor=4.0) for lr in clips.lr.unbind(1)], 1)
    clips = ClipBatch(clips.lr, hr, clips.before, clips.after)
    losses = [float(update_clips(state, clips, 3e-3)["generator_loss"]) for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_device_without_float64(limited_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Apple's MPS."""
    stage = Stage(length=1, charbonnier=1.0, ping_pong=0.1, artefacts=0.5, adversarial=0.1)
    options = TrainOptions(
        data=(Path("data"),), output=Path("run"), recipe=override(RECIPES["video-recurrent"], **TINY, adversarial=stage)
    )
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.strategy._root_device = limited_device
    monkeypatch.setattr(fabric.accelerator, "setup_device", lambda device: None)
    state = new_train_state(fabric, options)
    for name in options.stages:
        begin_stage(state, name, options)
        reported = update_clips(state, batch().to(limited_device), RATE)
        assert all(value.device == limited_device and bool(value.isfinite()) for value in reported.values())
