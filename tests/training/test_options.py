from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vsr.errors import UsageError
from vsr.training.options import TrainOptions


def options(**values: Any) -> TrainOptions:
    return TrainOptions(data=(Path("data"),), output=Path("run"), **values)


def test_the_defaults_are_those_of_the_paper() -> None:
    """Ledig et al. 2017, section 3.2: sixteen crops of 96 x 96, Adam at 1e-4, a million updates, MSE, x4."""
    chosen = options()
    assert (chosen.scale, chosen.blocks, chosen.channels) == (4, 16, 64)
    assert (chosen.batch_size, chosen.crop_size) == (16, 96)
    assert (chosen.learning_rate, chosen.schedule, chosen.steps) == (1e-4, "constant", 1_000_000)
    assert (chosen.loss, chosen.precision, chosen.init) == ("mse", "fp32", None)
    assert not chosen.resume and not chosen.overwrite


def test_data_and_output_have_no_default() -> None:
    required = {field.name for field in dataclasses.fields(TrainOptions) if field.default is dataclasses.MISSING}
    assert required == {"data", "output"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blocks": 0}, "blocks must be at least 1, got 0."),
        ({"channels": 2}, "channels must be at least 3, got 2."),
        ({"steps": 0}, "steps must be at least 1, got 0."),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1."),
        ({"workers": 0}, "workers must be at least 1, got 0."),
        ({"validate_every": 0}, "validate_every must be at least 1, got 0."),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0."),
        ({"scale": 3}, "scale must be 2, 4 or 8, got 3."),
        ({"scale": 8, "crop_size": 100}, "crop_size must be a multiple of 8, at least 32, got 100."),
        ({"crop_size": 0}, "crop_size must be a multiple of 4, at least 16, got 0."),
        ({"crop_size": -4}, "crop_size must be a multiple of 4, at least 16, got -4."),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0."),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan."),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, got inf."),
        ({"ema_decay": 1.0}, "ema_decay must lie in [0, 1), got 1.0."),
        ({"ema_decay": -0.1}, "ema_decay must lie in [0, 1), got -0.1."),
        ({"ema_decay": float("nan")}, "ema_decay must lie in [0, 1), got nan."),
        ({"hold_out": -1}, "hold_out must not be negative, got -1."),
        ({"seed": -1}, "seed must lie in [0, 2**64), got -1."),
        ({"seed": 2**64}, f"seed must lie in [0, 2**64), got {2**64}."),
        ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other."),
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
            blocks=0,
            channels=0,
            steps=0,
            batch_size=0,
            workers=0,
            validate_every=0,
            checkpoint_every=0,
            scale=5,
            learning_rate=-1.0,
            ema_decay=2.0,
            hold_out=-2,
            seed=-3,
            resume=True,
            overwrite=True,
        )
    complaints = str(caught.value).removesuffix(".").split("; ")
    assert [complaint.split()[0] for complaint in complaints] == [
        "blocks",
        "steps",
        "batch_size",
        "workers",
        "validate_every",
        "checkpoint_every",
        "channels",
        "scale",
        "learning_rate",
        "ema_decay",
        "hold_out",
        "seed",
        "resume",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"blocks": 1, "channels": 3, "steps": 1, "batch_size": 1, "workers": 1},
        {"crop_size": 32, "scale": 8},
        {"ema_decay": 0.0, "hold_out": 0, "seed": 2**64 - 1},
        {"learning_rate": 1e-12},
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
        options().steps = 5  # type: ignore[misc]
