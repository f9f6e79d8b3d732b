"""The gradients of the adversarial and the other terms at SR, and the warning where one of them has no effect."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vsr.training import trainer
from vsr.training.log import read_log
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, override
from vsr.training.step import _gradient_norms
from vsr.training.trainer import GradientBalance, train

WEIGHTS = RECIPES["srgan"].adversarial


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "gradient" in record.getMessage()]


def test_the_norms_by_hand() -> None:
    frames = [torch.rand(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    terms = {
        "mse": 3 * frames[0].square().sum(),
        "l1": frames[1].sum(),
        "adversarial": 1e-6 * frames[1].sum(),
    }
    found = _gradient_norms(terms, frames)
    squares = (6 * frames[0]).square().sum() + 2 * 3 * 4 * 4
    assert float(found["content_gradient"]) == pytest.approx(float(squares.detach()) ** 0.5, rel=1e-5)
    assert float(found["adversarial_gradient"]) == pytest.approx(1e-6 * 96**0.5, rel=1e-5)
    assert _gradient_norms({"mse": terms["mse"]}, frames) == _gradient_norms({"adversarial": terms["l1"]}, frames) == {}


@pytest.mark.parametrize(
    ("pairs", "first", "number"),
    [
        ([(5.0, 0.004)] * 9, 100, 1),
        ([(0.001, 2.0)] * 9, 100, 1),
        ([(5.0, 0.0)] * 9, 100, 1),
        ([(5.0, 0.006)] * 9, 100, 0),
        ([(5.0, 0.004)] * 9, 0, 0),
        ([(5.0, 0.004), (5.0, 0.004), (1.0, 0.004)] * 3, 100, 0),
        ([(5.0, 0.004), (5.0, 0.004), (0.001, 2.0)] * 3, 100, 0),
    ],
    ids=["content", "adversarial", "none at all", "833fold", "too early", "not always", "to and fro"],
)
def test_a_lasting_imbalance_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, pairs: Sequence[tuple[float, float]], first: int, number: int
) -> None:
    balance = GradientBalance()
    for step, pair in enumerate(pairs, first):
        balance.add(*pair, step, WEIGHTS)
    assert len(warned(caplog)) == number


def test_the_warning_has_both_numbers_and_the_weights(caplog: pytest.LogCaptureFixture) -> None:
    for pair in ((5.0, 0.0025), (0.0025, 5.0)):
        balance = GradientBalance()
        for step in (150, 200, 250):
            balance.add(*pair, step, WEIGHTS)
    assert warned(caplog) == [
        "the gradient of the adversarial term at the generator's output is 0.0025, that of content 5: a ratio of 2000 "
        "at update 250 of the stage. The smaller one has no effect: raise adversarial_adversarial (0.001), or lower "
        "adversarial_content (1).",
        "the gradient of the adversarial term at the generator's output is 5, that of content 0.0025: a ratio of 2000 "
        "at update 250 of the stage. The smaller one has no effect: raise adversarial_content (1), or lower "
        "adversarial_adversarial (0.001).",
    ]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("weight", "number"), [(0.01, 0), (1e-9, 1), (1e9, 1)])
def test_a_run_measures_at_the_rows_of_its_log(
    options: TrainOptions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    weight: float,
    number: int,
) -> None:
    monkeypatch.setattr(trainer, "SETTLED", 0)
    recipe = override(options.recipe, adversarial_adversarial=weight, adversarial_length=10)
    with caplog.at_level(logging.WARNING, "vsr"):
        train(replace(options, recipe=recipe, log_every=2))
    rows = read_log(options.output / "log.csv")
    measured = np.isfinite(rows["content_gradient"])
    assert rows["step"][measured].tolist() == [6, 8, 10, 12, 14] and rows["step"].tolist()[-1] == 15
    assert (measured == np.isfinite(rows["adversarial_gradient"])).all()
    assert len(warned(caplog)) == number


@pytest.mark.usefixtures("quick")
def test_measuring_does_not_change_the_run(options: TrainOptions) -> None:
    weights = []
    for every in (1, 100):
        summary = train(replace(options, log_every=every, output=options.output.with_name(f"run-{every}")))
        weights.append(load_file(summary.weights))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
