"""Each recipe against its documented values, and one update of each of its stages on small networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vsr.networks.discriminator import Discriminator
from vsr.networks.generator import Generator
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.vgg import CONVOLUTIONS, SLIM
from vsr.training.checkpoint import begin_stage, new_train_state
from vsr.training.options import TrainOptions
from vsr.training.recipes import LOSSES, RECIPES, STAGES, Recipe, override
from vsr.training.step import ClipBatch, Shift, update, update_clips

TABLE: dict[str, dict[str, Any]] = {
    # Ledig et al. 2017, sections 2 and 3.2: labels are 1 and 0, flips and turns are ours.
    "srgan": {
        "unit": "steps",
        "lengths": (1_000_000, 0, 200_000),
        "pretrain": {"mse": 1.0},
        "adversarial": {"content": 1.0, "adversarial": 1e-3},
        "layers": {"adversarial": "conv5_4"},
        "content_network": "vgg19",
        "labels": ("1", "0"),
        "networks": ("shuffle", False, "none", 0.1, "dense"),
        "crops": (96, "random", 1, 16, "by-area"),
        "turned": (True, True, False),
    },
    "coco-200": {
        "unit": "epochs",
        "lengths": (0, 0, 1000),
        "adversarial": {"content": 1.0, "adversarial": 1e-3},
        "layers": {"adversarial": "conv5_4"},
        "content_network": "vgg19",
        "labels": ("uniform:0.8:1", "uniform:0:0.2"),
        "networks": ("nearest", True, "none", 0.5, "dense"),
        "crops": (200, "centre", 1, 64, "by-picture"),
        "turned": (False, False, False),
    },
    "coco-176": {
        "unit": "epochs",
        "lengths": (0, 0, 2500),
        "adversarial": {"content": 1.0, "adversarial": 1e-3},
        "layers": {"adversarial": "conv5_4"},
        "content_network": "vgg19",
        "labels": ("normal:0.9:0.05", "normal:0.1:0.05"),
        "networks": ("nearest", True, "none", 0.5, "dense"),
        "crops": (176, "centre", 1, 32, "by-picture"),
        "turned": (False, False, False),
    },
    "vgg16-tv": {
        "unit": "epochs",
        "lengths": (1, 1, 5),
        "pretrain": {"content": 1.0, "total_variation": 0.1},
        "adversarial": {"content": 1.0, "total_variation": 0.1, "adversarial": 1e-3},
        "layers": {"pretrain": "conv2_2", "adversarial": "conv5_3"},
        "content_network": "vgg16",
        "labels": ("uniform:0.7:1", "uniform:0:0.3"),
        "networks": ("shuffle", False, "none", 0.1, "dense"),
        "crops": (128, "random", 1, 16, "by-picture"),
        "turned": (False, False, True),
    },
    "div2k-256": {
        "unit": "epochs",
        "lengths": (3, 0, 240),
        "pretrain": {"mse": 1.0},
        "adversarial": {"content": 0.006, "adversarial": 1e-3},
        "layers": {"adversarial": "conv3_4"},
        "content_network": "vgg19",
        "labels": ("uniform:0.7:1", "uniform:0:0.3"),
        "networks": ("shuffle", False, "imagenet", 0.1, "pooled"),
        "crops": (256, "random", 4, 4, "by-picture"),
        "turned": (False, False, False),
    },
}


RECURRENT: dict[str, dict[str, Any]] = {
    "video-recurrent": {
        "lengths": (300_000, 0, 100_000),
        "pretrain": {"charbonnier": 1.0},
        "adversarial": {"charbonnier": 0.05, "content": 2.5e-5, "ping_pong": 0.1, "adversarial": 0.006},
        "generator": (10, 64, True),
        "clips": (10, 15, 192, 16),
    },
    "fast-recurrent": {
        "lengths": (400_000, 0, 0),
        "pretrain": {"charbonnier": 1.0},
        "generator": (2, 64, True),
        "clips": (10, 15, 192, 16),
    },
}


def test_the_tables_are_complete() -> None:
    assert TABLE.keys() | RECURRENT.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", RECURRENT)
def test_the_documented_values_of_recurrent_generators(name: str) -> None:
    recipe, expected_values = RECIPES[name], RECURRENT[name]
    assert tuple(recipe.stage(stage).length for stage in STAGES) == expected_values["lengths"]
    for stage in STAGES:
        weights = {loss: getattr(recipe.stage(stage), loss) for loss in LOSSES}
        assert {loss: weight for loss, weight in weights.items() if weight} == expected_values.get(stage, {}), stage
    assert (recipe.blocks, recipe.channels, recipe.aligned) == expected_values["generator"]
    assert (recipe.frames, recipe.long_frames, recipe.crop_size, recipe.batch_size) == expected_values["clips"]
    assert (recipe.generator, recipe.scale, recipe.discriminator_head) == ("recurrent", 4, "pooled")


@pytest.mark.parametrize("name", RECURRENT)
def test_one_update_of_each_stage_on_clips(name: str, requested: list[str]) -> None:
    recipe = override(cut_down(name), frames=3, long_frames=0)
    options = TrainOptions(data=(Path("data"),), output=Path("run"), recipe=recipe)
    state = new_train_state(Fabric(accelerator="cpu", devices=1), options)
    hr = torch.rand(2, 3, 3, 32, 32)
    shift = Shift(torch.rand(2, 2, 8, 8, 2), torch.rand(2, 2, 8, 8))
    clips = ClipBatch(nn.functional.avg_pool3d(hr, (1, 4, 4)), hr, shift, shift)
    for stage in options.stages:
        begin_stage(state, stage, options)
        reported = update_clips(state, clips, 1e-4)
        discriminator_terms = DISCRIMINATOR_TERMS if stage == "adversarial" else set()
        assert set(reported) == {"generator_loss", *RECURRENT[name][stage]} | discriminator_terms
        total = sum(float(reported[term]) for term in RECURRENT[name][stage])
        assert float(reported["generator_loss"]) == pytest.approx(total, rel=1e-5)
    assert isinstance(state.generator.plain, RecurrentGenerator) and state.generator.plain.aligned
    if state.discriminator is not None:
        config = cast(Discriminator, state.discriminator.plain).config
        assert (config["frames"], config["head"]) == (3, "pooled")


@pytest.mark.parametrize("name", TABLE)
def test_the_documented_values(name: str) -> None:
    recipe, expected_values = RECIPES[name], TABLE[name]
    assert recipe.unit == expected_values["unit"]
    assert tuple(recipe.stage(stage).length for stage in STAGES) == expected_values["lengths"]
    for stage in STAGES:
        weights = {loss: getattr(recipe.stage(stage), loss) for loss in LOSSES}
        assert {loss: weight for loss, weight in weights.items() if weight} == expected_values.get(stage, {}), stage
        assert recipe.stage(stage).learning_rate == 1e-4
    for stage, layer in expected_values["layers"].items():
        assert getattr(recipe, stage).content_layer == layer
    assert (recipe.content_network, recipe.content_activation) == (expected_values["content_network"], "after")
    assert (str(recipe.real_labels), str(recipe.fake_labels)) == expected_values["labels"]
    assert recipe.adversarial_form == "bce"
    networks = (recipe.upsampling, recipe.tanh, recipe.normalisation, recipe.norm_momentum, recipe.discriminator_head)
    assert networks == expected_values["networks"]
    crops = (recipe.crop_size, recipe.crop, recipe.crops_per_picture, recipe.batch_size, recipe.sampling)
    assert crops == expected_values["crops"]
    assert (recipe.flips, recipe.rotations, recipe.transposes) == expected_values["turned"]
    # The same for all of them.
    assert (recipe.scale, recipe.blocks, recipe.channels, recipe.discriminator_channels) == (4, 16, 64, 64)
    assert (recipe.betas, recipe.gradient_clip, recipe.degradation) == ((0.9, 0.999), 0.0, "bicubic")
    assert recipe.follows


def test_which_learning_rates_fall() -> None:
    falling = {
        (name, stage): recipe.stage(stage).milestones
        for name, recipe in RECIPES.items()
        for stage in STAGES
        if recipe.stage(stage).schedule != "constant"
    }
    assert {place: falling[place] for place in falling if RECIPES[place[0]].generator == "srgan"} == {
        ("srgan", "adversarial"): (0.5,),
        ("div2k-256", "adversarial"): (200 / 240,),
    }
    assert falling["video-recurrent", "adversarial"] == (0.5, 0.8)
    assert {recipe.adversarial.schedule for recipe in RECIPES.values()} == {"constant", "multi-step"}
    assert {RECIPES[name].pretrain.schedule for name in RECURRENT} == {"one-cycle"}


def slim_weights(network: str) -> dict[str, Tensor]:
    """Random weights in the layout of the slim VGG, which is small."""
    weights = {"conv0.weight": torch.eye(3).view(3, 3, 1, 1), "conv0.bias": torch.zeros(3)}
    inputs = 3
    for stage, (count, width) in enumerate(zip(CONVOLUTIONS[network], SLIM.widths, strict=True), 1):
        for number in range(1, count + 1):
            weights[f"conv{stage}{number}.weight"] = torch.randn(width, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
            weights[f"conv{stage}{number}.bias"] = torch.full((width,), 0.1)
            inputs = width
    return weights


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The content networks that were requested; each gets random weights."""
    networks: list[str] = []

    def find(network: str, path: Path | None) -> Mapping[str, Tensor]:
        networks.append(network)
        return slim_weights(network)

    monkeypatch.setattr("vsr.training.checkpoint.find_content_weights", find)
    return networks


def cut_down(name: str) -> Recipe:
    crops = RECIPES[name].crops_per_picture
    return override(
        RECIPES[name], blocks=1, channels=4, discriminator_channels=4, crop_size=32, batch_size=max(2, crops)
    )


DISCRIMINATOR_TERMS = {"discriminator_loss", "d_real", "d_fake"}


@pytest.mark.parametrize("name", TABLE)
def test_one_update_of_each_stage(name: str, requested: list[str]) -> None:
    recipe = cut_down(name)
    options = TrainOptions(data=(Path("data"),), output=Path("run"), recipe=recipe)
    state = new_train_state(Fabric(accelerator="cpu", devices=1), options)
    hr = torch.rand(recipe.batch_size, 3, 32, 32)
    lr = nn.functional.avg_pool2d(hr, 4)
    for stage in options.stages:
        begin_stage(state, stage, options)
        reported = update(state, lr, hr, 1e-4)
        expected = {"discriminator": DISCRIMINATOR_TERMS}.get(stage) or {"generator_loss", *TABLE[name][stage]}
        assert set(reported) == (expected | DISCRIMINATOR_TERMS if stage == "adversarial" else expected), stage
        assert all(value.ndim == 0 and torch.isfinite(value) and not value.requires_grad for value in reported.values())
        if stage != "discriminator":
            total = sum(float(reported[term]) for term in TABLE[name][stage])
            assert float(reported["generator_loss"]) == pytest.approx(total, rel=1e-5)
        layer = TABLE[name]["layers"].get(stage)
        reached = None if state.features is None else list(state.features.convolutions)[-1]  # type: ignore[arg-type]
        assert reached == layer, stage
    assert set(requested) == {recipe.content_network}
    assert (state.step, state.stage, state.stage_step) == (len(options.stages), "adversarial", 1)


@pytest.mark.parametrize("name", TABLE)
def test_the_networks_of_each(name: str, requested: list[str]) -> None:
    recipe, expected_values = cut_down(name), TABLE[name]["networks"]
    options = TrainOptions(data=(Path("data"),), output=Path("run"), recipe=recipe)
    state = new_train_state(Fabric(accelerator="cpu", devices=1), options)
    begin_stage(state, "adversarial", options)
    assert state.discriminator is not None
    generator, discriminator = state.generator.plain, state.discriminator.plain
    assert isinstance(generator, Generator) and isinstance(discriminator, Discriminator)
    assert generator.config == {
        "scale": 4,
        "blocks": 1,
        "channels": 4,
        "upsampling": expected_values[0],
        "tanh": expected_values[1],
        "normalisation": expected_values[2],
        "norm_momentum": expected_values[3],
    }
    assert {norm.momentum for norm in generator.modules() if isinstance(norm, nn.BatchNorm2d)} == {expected_values[3]}
    first = next(layer for layer in generator.upsample[0] if isinstance(layer, nn.Conv2d))  # type: ignore[union-attr]
    # Into PixelShuffle go four times the channels; after repeated pixels they are the width of the next layer.
    assert (first.in_channels, first.out_channels) == (4, 16)
    assert generator.tail.in_channels == (16 if expected_values[0] == "nearest" else 4)
    slopes = {layer.negative_slope for layer in generator.modules() if isinstance(layer, nn.LeakyReLU)}
    assert slopes == ({0.2} if expected_values[0] == "nearest" else set())
    dark = generator.eval()(torch.full((1, 3, 8, 8), -9.0))
    assert (float(dark.detach().min()) >= 0) is expected_values[1], "tanh alone keeps to [0, 1]"
    assert (discriminator.config["channels"], discriminator.config["head"]) == (4, expected_values[4])
    larger = torch.rand(2, 3, 48, 48)
    if expected_values[4] == "pooled":
        assert discriminator(larger).shape == (2,)
    else:
        with pytest.raises(RuntimeError):
            discriminator(larger)
