from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vsr.errors import UsageError
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, Recipe, Stage, override


def options(**values: Any) -> TrainOptions:
    return TrainOptions(data=(Path("data"),), output=Path("run"), **values)


def recipe(**values: Any) -> Recipe:
    return override(RECIPES["srgan"], **values)


def test_the_defaults() -> None:
    chosen = options()
    assert chosen.recipe is RECIPES["srgan"]
    assert (chosen.stage, chosen.stages) == ("all", ["pretrain", "adversarial"])
    assert (chosen.seed, chosen.init, chosen.init_discriminator, chosen.content_weights) == (0, None, None, None)
    assert (chosen.device, chosen.devices, chosen.nodes, chosen.precision) == ("auto", 1, 1, "auto")
    assert not any((chosen.resume, chosen.overwrite, chosen.compile, chosen.tensorboard))


def test_data_and_output_have_no_default() -> None:
    required = {field.name for field in dataclasses.fields(TrainOptions) if field.default is dataclasses.MISSING}
    assert required == {"data", "output"}


@pytest.mark.parametrize(
    ("stage", "stages"),
    [
        ("all", ["pretrain", "discriminator", "adversarial"]),
        ("pretrain", ["pretrain"]),
        ("discriminator", ["discriminator"]),
        ("adversarial", ["adversarial"]),
    ],
)
def test_the_stages_of_a_run(stage: Any, stages: list[str]) -> None:
    assert options(recipe=RECIPES["vgg16-tv"], stage=stage).stages == stages


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0."),
        ({"validate_every": 0}, "validate_every must be at least 1, got 0."),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0."),
        ({"log_every": -1}, "log_every must be at least 1, got -1."),
        ({"devices": 0}, "devices must be at least 1, got 0."),
        ({"nodes": 0}, "nodes must be at least 1, got 0."),
        ({"time_limit": 0.0}, "the time limit must be positive and finite, got 0.0."),
        ({"lpips": "vgg"}, "lpips is one of squeeze, alex, none, got 'vgg'."),
        ({"recipe": recipe(accumulate=1), "devices": 3}, "a batch of 16 does not divide among 3 processes."),
        (
            {"recipe": override(RECIPES["fast-recurrent"], crop_size=24), "lpips": "alex"},
            "LPIPS on AlexNet needs 31 pixels each way, but crop_size is 24.",
        ),
        ({"hold_out": -1}, "hold_out must not be negative, got -1."),
        ({"seed": -1}, "seed must lie in [0, 2**63), got -1."),
        ({"seed": 2**63}, f"seed must lie in [0, 2**63), got {2**63}."),
        ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other."),
        ({"stage": "discriminator"}, "the recipe gives the stage discriminator no length."),
        ({"recipe": recipe(pretrain_length=0, adversarial_length=0)}, "the recipe gives the stage all no length."),
        ({"devices": 3}, "a batch of 16 does not divide among 3 processes."),
        ({"devices": 8, "nodes": 4}, "a batch of 16 does not divide among 32 processes."),
        ({"devices": 2, "recipe": RECIPES["div2k-256"]}, "a batch of 4 does not divide among 2 processes."),
        (
            {"cache": "gpu", "recipe": recipe(degradation="video")},
            "the video degradation works on pictures in main memory: leave out cache gpu.",
        ),
        (
            {"cache": "gpu", "recipe": RECIPES["video-recurrent"]},
            "clips are made of pictures in main memory: leave out cache gpu.",
        ),
        (
            {"recipe": recipe(batch_size=1, crop_size=16)},
            "batch_size must be at least 2 for crops of 16 pixels: normalisation needs two values.",
        ),
        ({"precision": "fp64"}, "precision is one of auto, fp32, tf32, bf16, fp16, got 'fp64'."),
        ({"cache": "disk"}, "cache is one of auto, ram, gpu, none, got 'disk'."),
    ],
    ids=str,
)
def test_each_contradiction(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(**values)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_all_contradictions_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        options(
            stage="last",
            workers=0,
            validate_every=0,
            checkpoint_every=0,
            log_every=0,
            devices=0,
            nodes=0,
            hold_out=-2,
            seed=-3,
            resume=True,
            overwrite=True,
        )
    complaints = str(caught.value).removesuffix(".").split("; ")
    assert [complaint.split()[0] for complaint in complaints] == [
        "stage",
        "seed",
        "hold_out",
        "validate_every",
        "checkpoint_every",
        "log_every",
        "devices",
        "nodes",
        "workers",
        "resume",
        "the",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"devices": 4, "nodes": 4},
        {"devices": 1, "recipe": RECIPES["div2k-256"]},
        {"hold_out": 0, "seed": 2**63 - 1, "workers": 1, "validate_every": 1, "checkpoint_every": 1, "log_every": 1},
        {"stage": "pretrain", "recipe": recipe(batch_size=1, crop_size=16)},
        {"recipe": recipe(batch_size=1, crop_size=20)},
        {"recipe": recipe(batch_size=2, crop_size=16)},
        {"stage": "adversarial", "recipe": recipe(pretrain=Stage())},
        {"cache": "ram", "recipe": recipe(degradation="video")},
        {"cache": "gpu"},
        {"resume": True},
        {"overwrite": True},
    ],
    ids=str,
)
def test_the_extremes_that_are_allowed(values: dict[str, Any]) -> None:
    chosen = options(**values)
    assert {name: getattr(chosen, name) for name in values} == values


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().seed = 5  # type: ignore[misc]
