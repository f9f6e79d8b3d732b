"""The networks of a run: how they are built and initialised, and how a stage begins."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor, nn

from vsr.errors import UnknownModelError, UsageError, WeightsError
from vsr.networks.discriminator import Discriminator
from vsr.networks.generator import Generator
from vsr.networks.vgg import CONVOLUTIONS, SLIM, ContentFeatures
from vsr.networks.weights import save_discriminator, save_network
from vsr.training.checkpoint import begin_stage, new_train_state, prepare_stage
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, Stage, override
from vsr.training.step import TrainState, update

TINY = {"blocks": 1, "channels": 4, "discriminator_channels": 4, "crop_size": 32, "batch_size": 2}
LOSSES = {"adversarial_content": 0.0, "adversarial_mse": 1.0}


def options(recipe: str = "srgan", values: Mapping[str, Any] = LOSSES, **run: Any) -> TrainOptions:
    chosen = override(RECIPES[recipe], **{**TINY, "discriminator": Stage(length=1), **values})
    return TrainOptions(data=(Path("data"),), output=Path("run"), recipe=chosen, **run)


def start(chosen: TrainOptions, stage: Any = None) -> TrainState:
    state = new_train_state(Fabric(accelerator="cpu", devices=1), chosen)
    if stage is not None:
        begin_stage(state, stage, chosen)
    return state


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def learn(state: TrainState, updates: int = 1) -> None:
    for _ in range(updates):
        update(state, torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32), 1e-3)


def discriminator_of(state: TrainState) -> nn.Module:
    assert state.discriminator is not None
    return state.discriminator.plain


def test_a_new_state() -> None:
    chosen = options(values={**LOSSES, "betas": (0.5, 0.9)})
    state = start(chosen)
    assert (state.step, state.stage_step, state.stage, state.best) == (0, 0, "pretrain", {})
    assert state.discriminator is None and state.features is None
    assert same(state.ema.module.state_dict(), state.generator.plain.state_dict())
    assert state.ema.module is not state.generator.plain
    prepare_stage(state, "adversarial", chosen)
    for model in (state.generator, state.discriminator):
        assert model is not None
        held = [parameter for group in model.optimizer.param_groups for parameter in group["params"]]
        assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.plain.parameters()}
        assert isinstance(model.optimizer.optimizer, torch.optim.Adam)
        assert [group["betas"] for group in model.optimizer.param_groups] == [(0.5, 0.9)]


def test_the_networks_follow_the_recipe() -> None:
    values = {
        **{"scale": 2, "blocks": 2, "channels": 6, "upsampling": "nearest", "tanh": True, "normalisation": "imagenet"},
        **{"norm_momentum": 0.3, "discriminator_channels": 5, "discriminator_head": "pooled", "crop_size": 48},
    }
    state = start(options(values=LOSSES | values), "adversarial")
    keys = ("scale", "blocks", "channels", "upsampling", "tanh", "normalisation", "norm_momentum")
    assert cast(Generator, state.generator.plain).config == {key: values[key] for key in keys}
    config = cast(Discriminator, discriminator_of(state)).config
    assert (config["channels"], config["head"], config["crop_size"]) == (5, "pooled", 48)


def test_first_weights_depend_on_the_seed_alone() -> None:
    first = start(options(seed=5), "adversarial")
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = start(options(seed=5))
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers go on as they would have"
    torch.rand(7)
    before = torch.get_rng_state()
    begin_stage(again, "adversarial", options(seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    other = start(options(seed=6), "adversarial")
    assert same(copied_state(first.generator.plain), copied_state(again.generator.plain))
    assert same(copied_state(discriminator_of(first)), copied_state(discriminator_of(again)))
    assert not torch.equal(first.generator.plain.tail.weight, other.generator.plain.tail.weight)  # type: ignore[union-attr, arg-type]
    assert not same(copied_state(discriminator_of(first)), copied_state(discriminator_of(other)))


def test_the_greatest_seed_is_accepted() -> None:
    learn(start(options(seed=2**63 - 1), "adversarial"))


def test_a_stage_begins_from_the_average_with_clean_optimisers() -> None:
    chosen = options()
    state = start(chosen, "pretrain")
    learn(state, 3)
    average = copied_state(state.ema.module)
    assert not same(average, copied_state(state.generator.plain))
    for stage in ("discriminator", "adversarial"):
        begin_stage(state, stage, chosen)  # type: ignore[arg-type]
        assert (state.stage, state.stage_step, state.step) == (stage, 0, 3 if stage == "discriminator" else 4)
        assert same(copied_state(state.generator.plain), average), "the discriminator's stage changes nothing of it"
        assert same(copied_state(state.ema.module), average) and int(state.ema.n_averaged) == 0
        assert state.discriminator is not None
        for model in (state.generator, state.discriminator):
            assert not model.optimizer.optimizer.state, stage
        discriminator = copied_state(discriminator_of(state))
        learn(state)
    learn(state)
    assert not same(copied_state(discriminator_of(state)), discriminator)
    counts = [moments["step"] for moments in state.generator.optimizer.optimizer.state.values()]
    assert counts and all(int(count) == 2 for count in counts), "Adam counts from the stage's start"
    assert int(state.ema.n_averaged) == 2


def test_the_discriminator_is_kept_in_the_next_stage() -> None:
    chosen = options()
    state = start(chosen, "discriminator")
    learn(state, 2)
    model, learnt = state.discriminator, copied_state(discriminator_of(state))
    begin_stage(state, "adversarial", chosen)
    assert state.discriminator is model
    assert same(copied_state(discriminator_of(state)), learnt)


def slim_weights(network: str) -> dict[str, Tensor]:
    """Random weights of VGG in the slim layout."""
    weights = {"conv0.weight": torch.eye(3).view(3, 3, 1, 1), "conv0.bias": torch.zeros(3)}
    inputs = 3
    for stage, (count, width) in enumerate(zip(CONVOLUTIONS[network], SLIM.widths, strict=True), 1):
        for number in range(1, count + 1):
            weights[f"conv{stage}{number}.weight"] = torch.randn(width, inputs, 3, 3) * 0.1
            weights[f"conv{stage}{number}.bias"] = torch.zeros(width)
            inputs = width
    return weights


def test_content_networks_come_with_the_stage_that_needs_them(tmp_path: Path) -> None:
    file = tmp_path / "vgg16.safetensors"
    save_file(slim_weights("vgg16"), file)
    values = {"content_activation": "before", "discriminator": Stage(length=1, content=1.0)}
    chosen = options("vgg16-tv", values=values, content_weights=file)
    state = start(chosen)
    for stage, layer in (("pretrain", "conv2_2"), ("discriminator", None), ("adversarial", "conv5_3")):
        prepare_stage(state, stage, chosen)  # type: ignore[arg-type]
        if layer is None:
            assert state.features is None, "the discriminator alone needs no content network"
            continue
        assert isinstance(state.features, ContentFeatures)
        assert list(state.features.convolutions)[-1] == layer
        assert not state.features.after_activation
        assert not any(parameter.requires_grad for parameter in state.features.parameters())


def test_no_content_network_without_a_content_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(network: str, path: Path | None) -> dict[str, Tensor]:
        raise AssertionError("not needed")

    monkeypatch.setattr("vsr.training.checkpoint.find_content_weights", find)
    chosen = options()
    for stage in ("pretrain", "discriminator", "adversarial"):
        assert start(chosen, stage).features is None
    with pytest.raises(AssertionError, match="not needed"):
        start(options(values={}))
    start(options(values={}, stage="pretrain"))  # what is not run needs nothing


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"adversarial_content_layer": "conv9_9"}, "adversarial: vgg19 has no layer 'conv9_9'; it has conv1_1, "),
        (
            {"content_network": "vgg16", "adversarial_content_layer": "conv5_4"},
            "adversarial: vgg16 has no layer 'conv5_4'; it has conv1_1, ",
        ),
        (
            {"pretrain_content": 1.0, "pretrain_content_layer": "relu5"},
            "pretrain: vgg19 has no layer 'relu5'; it has conv1_1, ",
        ),
    ],
    ids=str,
)
def test_missing_layers_are_reported_at_once(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        start(options(values=values))
    assert str(caught.value).startswith(words)
    assert caught.value.exit_code == 2


def test_missing_content_weights_are_reported_before_the_first_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str, *arguments: Any, **keywords: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(WeightsError) as caught:
        start(options(values={}))
    where = tmp_path / "hub/checkpoints/vgg19-dcbb9e9d.pth"
    assert str(caught.value) == (
        "cannot download VGG19's weights from https://download.pytorch.org/models/vgg19-dcbb9e9d.pth (no network): "
        f"put the file at {where}, or give a file with content_weights."
    )


@pytest.fixture
def trained(tmp_path: Path, tiny_generator: Callable[..., Generator]) -> Callable[..., Path]:
    """Return a function that writes a weights file of a tiny generator."""

    def write(generator: Generator | None = None, **config: Any) -> Path:
        path = tmp_path / "other.safetensors"
        network = tiny_generator(**config) if generator is None else generator
        save_network(path, network, {"purpose": "tests"})
        return path

    return write


def test_init_takes_all_of_the_same_network(
    trained: Callable[..., Path], tiny_generator: Callable[..., Generator], caplog: pytest.LogCaptureFixture
) -> None:
    state = start(options(init=trained()), "pretrain")
    expected = copied_state(tiny_generator())
    for part in (state.generator.plain, state.ema.module):
        for name, tensor in part.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)  # stored in half precision
    assert caplog.records == []


def test_init_of_another_scale_starts_all_but_the_upsampling(
    trained: Callable[..., Path], tiny_generator: Callable[..., Generator], caplog: pytest.LogCaptureFixture
) -> None:
    values = LOSSES | {"scale": 2}
    fresh, taken = start(options(values=values)), start(options(values=values, init=trained(scale=4)))
    x4 = copied_state(tiny_generator(scale=4))
    for part in (taken.generator.plain, taken.ema.module):
        for name, tensor in part.state_dict().items():
            # The first doubling and the tail of x4 have the shapes of x2's, and are taken as well.
            torch.testing.assert_close(tensor, x4[name], rtol=1e-3, atol=1e-4)
    assert not same(copied_state(fresh.generator.plain), copied_state(taken.generator.plain))
    assert caplog.records == [], "nothing of x2 was left as it was"

    x2 = tiny_generator(scale=2)
    grown = start(options(init=trained(x2)))
    own = copied_state(start(options()).generator.plain)
    for name, tensor in grown.generator.plain.state_dict().items():
        expected = own[name] if name.startswith("upsample.1.") else x2.state_dict()[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-4, msg=name)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    left = ", ".join(sorted(name for name in own if name.startswith("upsample.1.")))
    assert record.getMessage().endswith(f"other.safetensors initialises the generator except for {left}.")


@pytest.mark.parametrize(
    ("config", "apart"),
    [
        ({"tanh": True}, "tanh differ"),
        ({"normalisation": "imagenet"}, "normalisation differ"),
        ({"tanh": True, "normalisation": "imagenet"}, "tanh and normalisation differ"),
    ],
    ids=str,
)
def test_init_of_another_kind_is_refused(trained: Callable[..., Path], config: dict[str, Any], apart: str) -> None:
    path = trained(Generator(blocks=1, channels=4, **config))
    with pytest.raises(UsageError) as caught:
        start(options(init=path))
    assert str(caught.value) == f"init={str(path)!r} is a different kind of network: its {apart}."
    start(options(init=path, values=LOSSES | config))


def test_unusable_init_is_refused(trained: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="nowhere.safetensors"):
        start(options(init=tmp_path / "nowhere.safetensors"))
    with pytest.raises(WeightsError, match="the numbers of blocks and channels must agree"):
        start(options(init=trained(), values=LOSSES | {"blocks": 2}))
    discriminator = tmp_path / "discriminator.safetensors"
    save_discriminator(discriminator, Discriminator(channels=4, crop_size=32), {})
    with pytest.raises(WeightsError, match="is a discriminator, which judges pictures in training"):
        start(options(init=discriminator))


def test_the_discriminator_starts_from_given_weights(tmp_path: Path, trained: Callable[..., Path]) -> None:
    given = Discriminator(channels=4, crop_size=32)
    path = tmp_path / "discriminator.safetensors"
    save_discriminator(path, given, {})
    chosen = options(init_discriminator=path)
    state = start(chosen, "adversarial")
    for name, tensor in discriminator_of(state).state_dict().items():
        torch.testing.assert_close(tensor, given.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)
    assert discriminator_of(state).training
    # Reported at the start of the run, not after the previous stage.
    with pytest.raises(WeightsError, match="is a generator"):
        start(replace(chosen, init_discriminator=trained()))
    with pytest.raises(WeightsError, match="nowhere.safetensors"):
        start(replace(chosen, init_discriminator=tmp_path / "nowhere.safetensors"))


def test_the_average_shares_no_tensors_with_the_network() -> None:
    """A change of one does not change the other."""
    state = start(options(), "pretrain")
    network = copy.deepcopy(state.ema.module)
    with torch.no_grad():
        state.generator.plain.tail.bias += 1  # type: ignore[union-attr, operator]
    assert same(copied_state(state.ema.module), copied_state(network))
