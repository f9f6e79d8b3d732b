"""One update against the same computed in plain torch: losses, labels, gradients, Adam's step, the moving average."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from vsr.training import step as update_module
from vsr.training.checkpoint import begin_stage, new_train_state
from vsr.training.losses import Adversarial
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, Labels, Stage, override
from vsr.training.step import TrainState, update

RATE = 1e-3
REAL, FAKE = Labels("uniform", 0.7, 1.0), Labels("normal", 0.1, 0.05)


class Pooled(nn.Module):
    """Replaces VGG: features that can be computed by hand."""

    def forward(self, image: Tensor) -> Tensor:
        return functional.avg_pool2d(image, 4).square()


@pytest.fixture
def build_state(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainState]:
    """Return a function that builds a tiny state in a stage, with every parameter random."""
    monkeypatch.setattr("vsr.training.checkpoint.find_content_weights", lambda network, path: {})
    monkeypatch.setattr("vsr.training.checkpoint.ContentFeatures", lambda *arguments, **keywords: Pooled())

    def build(stage: Any = "adversarial", *, precision: Any = "32-true", seed: int = 3, **values: Any) -> TrainState:
        recipe = override(
            RECIPES["srgan"],
            **{
                **{"blocks": 1, "channels": 4, "discriminator_channels": 4, "crop_size": 32, "batch_size": 2},
                **{"real_labels": REAL, "fake_labels": FAKE, "discriminator": Stage(length=1), "ema_decay": 0.75},
                **values,
            },
        )
        options = TrainOptions(data=(Path("data"),), output=Path("run"), recipe=recipe, seed=seed)
        state = new_train_state(Fabric(accelerator="cpu", devices=1, precision=precision), options)
        with torch.no_grad():
            for parameter in state.generator.plain.parameters():
                parameter += torch.randn_like(parameter) * 0.1
        state.ema.module.load_state_dict(state.generator.plain.state_dict())
        begin_stage(state, stage, options)
        return state

    return build


def batch(size: int = 2) -> tuple[Tensor, Tensor]:
    return torch.rand(size, 3, 8, 8), torch.rand(size, 3, 32, 32)


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def discriminator_of(state: TrainState) -> nn.Module:
    assert state.discriminator is not None
    return state.discriminator.plain


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def cross_entropy(logits: Tensor, labels: Tensor | float) -> Tensor:
    """-y log s(x) - (1 - y) log(1 - s(x)), since log s(x) = x - softplus(x) and log(1 - s(x)) = -softplus(x)."""
    return (softplus(logits) - labels * logits).mean()


def discriminator_loss(form: str, fake: Tensor, real: Tensor, fake_labels: Tensor, real_labels: Tensor) -> Tensor:
    if form == "bce":
        return cross_entropy(real, real_labels) + cross_entropy(fake, fake_labels)
    if form == "relativistic":
        to_real, to_fake = real - fake.mean(), fake - real.mean()
        return (cross_entropy(to_real, real_labels) + cross_entropy(to_fake, fake_labels)) / 2
    return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()


def generator_loss(form: str, fake: Tensor, real: Tensor) -> Tensor:
    if form == "bce":
        return cross_entropy(fake, 1.0)
    if form == "relativistic":
        return (cross_entropy(real - fake.mean(), 0.0) + cross_entropy(fake - real.mean(), 1.0)) / 2
    return -fake.mean()


def drawn_by_hand(seed: int, step: int, count: int) -> tuple[Tensor, Tensor]:
    """Labels of fake around 0.1, then labels of real from 0.7 to 1."""
    random = np.random.default_rng([seed, step, 1])
    fake = np.clip(random.normal(0.1, 0.05, count), 0, 1)
    real = random.uniform(0.7, 1.0, count)
    return torch.from_numpy(fake).float(), torch.from_numpy(real).float()


def assert_adams_first_step(before: dict[str, Tensor], network: nn.Module, gradients: dict[str, Tensor]) -> None:
    """Adam's first step is the rate times g / (|g| + 1e-8)."""
    moved = 0
    for name, parameter in network.named_parameters():
        gradient = gradients[name]
        clear = gradient.abs() > 1e-5  # below, rounding decides the sign
        expected = before[name] - RATE * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach()[clear], expected[clear], rtol=0, atol=2e-6, msg=name)
        moved += int(clear.sum())
    assert moved > 0.5 * sum(parameter.numel() for parameter in network.parameters())


def gradients_by_hand(network: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True))


@pytest.mark.parametrize("form", ["bce", "relativistic", "hinge"])
def test_an_adversarial_update_by_hand(build_state: Callable[..., TrainState], form: str) -> None:
    weights = {"mse": 0.5, "l1": 0.25, "content": 2.0, "total_variation": 0.125, "adversarial": 0.05}
    state = build_state(adversarial_form=form, **{f"adversarial_{name}": weight for name, weight in weights.items()})
    state.step = 7
    lr, hr = batch()
    generator, discriminator = copy.deepcopy(state.generator.plain), copy.deepcopy(discriminator_of(state))
    generator_before, discriminator_before = copied_state(generator), copied_state(discriminator)

    reported = update(state, lr, hr, RATE)

    sr = generator(lr)
    fake, real = discriminator(sr.detach()), discriminator(hr)
    loss = discriminator_loss(form, fake, real, *drawn_by_hand(3, 7, 2))
    assert float(reported["discriminator_loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(reported["d_real"]) == pytest.approx(float((1 / (1 + torch.exp(-real))).mean().detach()), rel=1e-5)
    assert float(reported["d_fake"]) == pytest.approx(float((1 / (1 + torch.exp(-fake))).mean().detach()), rel=1e-5)
    discriminator_gradients = gradients_by_hand(discriminator, loss)
    assert_adams_first_step(discriminator_before, discriminator_of(state), discriminator_gradients)
    for name, parameter in discriminator_of(state).named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None
        # The generator's step must not have changed them.
        torch.testing.assert_close(parameter.grad, discriminator_gradients[name], rtol=1e-4, atol=1e-6, msg=name)

    # The generator trains against the updated discriminator.
    discriminator.load_state_dict(discriminator_of(state).state_dict())
    fake, real = discriminator(sr), discriminator(hr).detach()
    terms = {
        "mse": 0.5 * (sr - hr).square().mean(),
        "l1": 0.25 * (sr - hr).abs().mean(),
        "content": 2.0 * (functional.avg_pool2d(sr, 4) ** 2 - functional.avg_pool2d(hr, 4) ** 2).square().mean(),
        "total_variation": 0.125 * (sr.diff(dim=2).square().mean() + sr.diff(dim=3).square().mean()),
        "adversarial": 0.05 * generator_loss(form, fake, real),
    }
    for name, term in terms.items():
        assert float(reported[name]) == pytest.approx(float(term.detach()), rel=1e-5), name
    total = torch.stack(list(terms.values())).sum()
    assert float(reported["generator_loss"]) == pytest.approx(float(total.detach()), rel=1e-5)
    assert_adams_first_step(generator_before, state.generator.plain, gradients_by_hand(generator, total))
    assert reported.keys() == {*terms, "generator_loss", "discriminator_loss", "d_real", "d_fake"}
    assert (state.step, state.stage_step) == (8, 1)


@pytest.mark.parametrize("name", ["mse", "l1", "content", "total_variation"])
def test_a_pretraining_update_by_hand(build_state: Callable[..., TrainState], name: str) -> None:
    state = build_state("pretrain", **{"pretrain_mse": 0.0, f"pretrain_{name}": 3.0})
    assert state.discriminator is None
    lr, hr = batch()
    generator = copy.deepcopy(state.generator.plain)
    before = copied_state(generator)
    reported = update(state, lr, hr, RATE)
    sr = generator(lr)
    loss = {
        "mse": (sr - hr).square().mean(),
        "l1": (sr - hr).abs().mean(),
        "content": (functional.avg_pool2d(sr, 4) ** 2 - functional.avg_pool2d(hr, 4) ** 2).square().mean(),
        "total_variation": sr.diff(dim=2).square().mean() + sr.diff(dim=3).square().mean(),
    }[name] * 3
    assert reported.keys() == {"generator_loss", name}
    assert float(reported[name]) == float(reported["generator_loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_adams_first_step(before, state.generator.plain, gradients_by_hand(generator, loss))
    assert state.discriminator is None, "pretraining needs none"


def test_each_update_uses_its_learning_rate(build_state: Callable[..., TrainState]) -> None:
    state = build_state()
    assert state.discriminator is not None
    update(state, *batch(), RATE)
    for rate in (2e-4, 0.0):
        before = copied_state(state.generator.plain), copied_state(discriminator_of(state))
        update(state, *batch(), rate)
        for model, old in zip((state.generator, state.discriminator), before, strict=True):
            assert {group["lr"] for group in model.optimizer.param_groups} == {rate}
            steps = [float((value.detach() - old[name]).abs().max()) for name, value in model.plain.named_parameters()]
            assert max(steps) <= 1.5 * rate and (max(steps) > 0) is (rate > 0)


def test_the_discriminators_stage_leaves_the_generator_alone(build_state: Callable[..., TrainState]) -> None:
    state = build_state("discriminator")
    parts = {"generator": state.generator.plain, "ema": state.ema}
    before = {name: copied_state(part) for name, part in parts.items()}
    discriminator = copied_state(discriminator_of(state))
    for _ in range(2):
        reported = update(state, *batch(), RATE)
    assert reported.keys() == {"discriminator_loss", "d_real", "d_fake"}
    for name, part in parts.items():
        assert changed(before[name], copied_state(part)) == set(), name
    assert not state.generator.optimizer.optimizer.state, "Adam has no moments"
    assert all(parameter.grad is None for parameter in state.generator.plain.parameters())
    assert {"features.0.weight", "features.3.running_mean", "head.3.bias"} <= changed(
        discriminator, copied_state(discriminator_of(state))
    )
    assert (state.step, state.stage_step) == (2, 2)


def test_the_discriminators_stage_by_hand(build_state: Callable[..., TrainState]) -> None:
    """The generator upscales in eval mode, so that its statistics do not change."""
    state = build_state("discriminator")
    lr, hr = batch()
    generator, discriminator = copy.deepcopy(state.generator.plain).eval(), copy.deepcopy(discriminator_of(state))
    before = copied_state(discriminator)
    reported = update(state, lr, hr, RATE)
    loss = discriminator_loss("bce", discriminator(generator(lr).detach()), discriminator(hr), *drawn_by_hand(3, 0, 2))
    assert float(reported["discriminator_loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert_adams_first_step(before, discriminator_of(state), gradients_by_hand(discriminator, loss))


def test_the_generator_learns_in_training_mode_again(build_state: Callable[..., TrainState]) -> None:
    state = build_state("discriminator", adversarial_content=0.0)
    update(state, *batch(), RATE)
    state.stage = "adversarial"
    before = copied_state(state.generator.plain)
    update(state, *batch(), RATE)
    assert {"body_norm.running_mean", "body_norm.num_batches_tracked"} <= changed(
        before, copied_state(state.generator.plain)
    )


@pytest.mark.parametrize(("form", "looks_at_real"), [("bce", False), ("hinge", False), ("relativistic", True)])
def test_the_discriminator_gets_the_inputs_and_gradients_it_needs(
    build_state: Callable[..., TrainState], form: str, looks_at_real: bool
) -> None:
    state = build_state(adversarial_form=form)
    lr, hr = batch()
    calls: list[tuple[str, bool, bool]] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kind = "real" if torch.equal(inputs[0].detach(), hr) else "fake"
        calls.append((kind, inputs[0].requires_grad, torch.is_grad_enabled()))

    discriminator_of(state).register_forward_pre_hook(remember)
    update(state, lr, hr, RATE)
    own = [("fake", False, True), ("real", False, True)]
    assert calls == [*own, ("fake", True, True), *([("real", False, False)] if looks_at_real else [])]


def test_the_generators_loss_without_an_adversarial_term_skips_the_discriminator(
    build_state: Callable[..., TrainState],
) -> None:
    state = build_state(adversarial_adversarial=0.0)
    calls: list[int] = []
    discriminator_of(state).register_forward_pre_hook(lambda module, inputs: calls.append(1))
    assert "adversarial" not in update(state, *batch(), RATE)
    assert len(calls) == 2


def test_no_gradient_from_the_discriminators_loss_reaches_the_generator(build_state: Callable[..., TrainState]) -> None:
    state = build_state(adversarial_adversarial=0.0, adversarial_content=0.0, adversarial_mse=1.0)
    lr, hr = batch()
    generator = copy.deepcopy(state.generator.plain)
    update(state, lr, hr, RATE)
    expected = gradients_by_hand(generator, (generator(lr) - hr).square().mean())
    for name, parameter in state.generator.plain.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7, msg=name)


def test_each_update_has_its_own_gradients(build_state: Callable[..., TrainState]) -> None:
    """At a rate of 0 and with fixed labels the second update is the first again, and not the sum of both."""
    state = build_state(real_labels=Labels("fixed", 0.9), fake_labels=Labels("fixed", 0.1))
    lr, hr = batch()
    found = []
    for _ in range(2):
        update(state, lr, hr, 0.0)
        networks = (state.generator.plain, discriminator_of(state))
        found.append([parameter.grad.clone() for network in networks for parameter in network.parameters()])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-8)
    assert norm(found[0]) > 0


def norm(gradients: list[Tensor]) -> float:
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_gradients_are_clipped_network_by_network(build_state: Callable[..., TrainState], clip: float) -> None:
    lr, hr = batch()
    free, clipped = build_state(), build_state(gradient_clip=clip)
    clipped.generator.plain.load_state_dict(free.generator.plain.state_dict())
    update(free, lr, hr, 0.0)
    update(clipped, lr, hr, 0.0)
    assert free.discriminator is not None and clipped.discriminator is not None
    for one, other in ((free.generator, clipped.generator), (free.discriminator, clipped.discriminator)):
        pairs = list(zip(one.plain.parameters(), other.plain.parameters(), strict=True))
        whole, cut = ([pair[side].grad for pair in pairs] for side in (0, 1))
        assert all(gradient is not None for gradient in (*whole, *cut))
        length = norm(whole)  # type: ignore[arg-type]
        assert 1e-3 < length < 1e6
        assert norm(cut) == pytest.approx(min(clip, length), rel=1e-4)  # type: ignore[arg-type]
        for before, after in zip(whole, cut, strict=True):
            assert before is not None
            torch.testing.assert_close(after, before * min(1, clip / length), rtol=1e-3, atol=1e-9)


def test_the_moving_average_by_hand(build_state: Callable[..., TrainState]) -> None:
    """The first average is a copy of the first updated network; then it moves by one less the decay. Buffers follow."""
    state = build_state("pretrain", ema_decay=0.75)
    networks, averages = [], []
    for _ in range(3):
        update(state, *batch(), RATE)
        networks.append(copied_state(state.generator.plain))
        averages.append(copied_state(state.ema.module))
    for name, first in networks[0].items():
        assert torch.equal(averages[0][name], first), name
        if name.endswith("num_batches_tracked"):
            continue  # a whole number that nothing reads
        second = 0.75 * first + 0.25 * networks[1][name]
        torch.testing.assert_close(averages[1][name], second, rtol=1e-5, atol=1e-7, msg=name)
        third = 0.75 * second + 0.25 * networks[2][name]
        torch.testing.assert_close(averages[2][name], third, rtol=1e-5, atol=1e-7, msg=name)
    running = [average["body_norm.running_mean"] for average in averages]
    assert not torch.equal(running[0], running[1]) and not torch.equal(running[1], running[2])
    assert int(state.ema.n_averaged) == 3


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """The labels of fake and of real crops of each update."""
    labels: list[tuple[Tensor, Tensor]] = []
    bce = update_module.ADVERSARIAL["bce"]

    def remember(fake: Tensor, real: Tensor, fake_labels: Tensor, real_labels: Tensor) -> Tensor:
        labels.append((fake_labels, real_labels))
        return bce.discriminator(fake, real, fake_labels, real_labels)

    forms: dict[str, Adversarial] = {"bce": replace(bce, discriminator=remember)}
    monkeypatch.setattr(update_module, "ADVERSARIAL", forms)
    return labels


def test_labels_are_a_function_of_seed_and_step(
    build_state: Callable[..., TrainState], labels: list[tuple[Tensor, Tensor]]
) -> None:
    for seed, step, updates in ((3, 0, 2), (3, 1, 1), (4, 0, 1)):
        state = build_state("discriminator", seed=seed)
        state.step = step
        for _ in range(updates):
            torch.rand(5)  # whatever else is drawn
            update(state, *batch(size=4), RATE)
    (first, second, resumed, other) = labels
    for fake, real in labels:
        assert fake.shape == real.shape == (4,) and fake.dtype == torch.float32
        assert len(set(fake.tolist())) == len(set(real.tolist())) == 4, "one for each crop"
        assert (real >= 0.7).all() and (real <= 1).all() and (fake < 0.4).all() and (fake >= 0).all()
    for side in (0, 1):
        assert torch.equal(second[side], resumed[side]), "a continued run draws the same labels"
        assert not torch.equal(first[side], second[side])
        assert not torch.equal(first[side], other[side])


def test_half_precision_ends_before_the_losses(build_state: Callable[..., TrainState]) -> None:
    state = build_state(precision="bf16-mixed", adversarial_form="relativistic", adversarial_mse=1.0)
    reported = update(state, *batch(), RATE)
    assert {value.dtype for value in reported.values()} == {torch.float32}
    assert all(torch.isfinite(value) for value in reported.values())
    for network in (state.generator.plain, discriminator_of(state), state.ema.module):
        assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


def test_updates_bring_the_loss_down(build_state: Callable[..., TrainState]) -> None:
    state = build_state("pretrain")
    lr, hr = batch()
    hr = functional.interpolate(lr, scale_factor=4.0)
    losses = [float(update(state, lr, hr, RATE)["generator_loss"]) for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def slim_weights() -> dict[str, Tensor]:
    """Random weights in the smallest layout of VGG."""
    names = [("conv0", 3, 3, 1)]
    inputs = 3
    for stage, (width, count) in enumerate(zip((16, 32, 64, 128, 128), (2, 2, 4, 4, 4), strict=True), start=1):
        for number in range(1, count + 1):
            names.append((f"conv{stage}{number}", width, inputs, 3))
            inputs = width
    weights = {}
    for name, outputs, given, size in names:
        weights[f"{name}.weight"] = torch.randn(outputs, given, size, size) / (size * given**0.5)
        weights[f"{name}.bias"] = torch.zeros(outputs)
    return weights


@pytest.mark.parametrize(
    "name",
    [name for name, recipe in RECIPES.items() if (recipe.content_network, recipe.generator) == ("vgg19", "srgan")],
)
def test_each_recipe_on_a_device_without_float64(
    name: str, limited_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Apple's MPS."""
    weights = slim_weights()
    monkeypatch.setattr("vsr.training.checkpoint.find_content_weights", lambda network, path: weights)
    small = {"blocks": 1, "channels": 4, "discriminator_channels": 4, "crop_size": 32, "batch_size": 4}
    recipe = override(RECIPES[name], **small)
    options = TrainOptions(data=(Path("data"),), output=Path("run"), recipe=recipe)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.strategy._root_device = limited_device
    monkeypatch.setattr(fabric.accelerator, "setup_device", lambda device: None)
    state = new_train_state(fabric, options)
    for stage in options.stages:
        begin_stage(state, stage, options)
        lr, hr = (torch.rand(4, 3, size, size).to(limited_device) for size in (8, 32))
        reported = update(state, lr, hr, RATE)
        assert all(value.device == limited_device and bool(value.isfinite()) for value in reported.values())
