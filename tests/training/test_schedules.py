"""The learning rate's factor at single updates, computed by hand."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest

from vsr.training.losses import SCHEDULES, constant, cosine, multi_step, one_cycle
from vsr.training.recipes import RECIPES, Stage


def test_every_schedule_of_a_stage_is_registered() -> None:
    assert set(get_args(get_type_hints(Stage)["schedule"])) == SCHEDULES.keys()
    assert SCHEDULES["multi-step"] is multi_step and SCHEDULES["one-cycle"] is one_cycle
    assert SCHEDULES["cosine"] is cosine and SCHEDULES["constant"] is constant


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.25),
        (1, 0.5),
        (2, 0.75),
        (3, 1.0),
        (4, 1.0),
        (28, 0.5 + 0.5 * math.sqrt(0.5)),
        (52, 0.5),
        (76, 0.5 - 0.5 * math.sqrt(0.5)),
        (99, 0.5 - 0.5 * math.cos(math.pi / 96)),
        (100, 0.0),
    ],
)
def test_one_cycle_of_a_hundred_steps(step: int, factor: float) -> None:
    assert one_cycle(step, 100) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1.0), (25, 0.5 + 0.5 * math.sqrt(0.5)), (50, 0.5), (75, 0.5 - 0.5 * math.sqrt(0.5))]
)
def test_cosine_of_a_hundred_steps(step: int, factor: float) -> None:
    assert cosine(step, 100) == pytest.approx(factor, abs=1e-12)
    assert cosine(100, 100) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("step", "factor"), [(0, 1), (29, 1), (30, 0.1), (59, 0.1), (60, 0.01), (99, 0.01)], ids=str)
def test_multi_step_of_a_hundred_steps(step: int, factor: float) -> None:
    assert multi_step(step, 100, (0.3, 0.6)) == pytest.approx(factor, rel=1e-12)


def test_multi_step_at_the_edges() -> None:
    assert [multi_step(step, 4) for step in range(4)] == [1, 1, 1, 1], "no milestone, no fall"
    assert [multi_step(step, 2, (0.0, 1.0)) for step in range(2)] == pytest.approx([0.1, 0.1])
    assert multi_step(5, 10, (0.6, 0.5)) == pytest.approx(0.1), "in any order"


def test_the_papers_rate_falls_after_a_hundred_thousand_updates() -> None:
    """Ledig et al. 2017, section 3.2: 1e5 updates at 1e-4, and another 1e5 at 1e-5."""
    stage = RECIPES["srgan"].adversarial
    rates = [
        stage.learning_rate * SCHEDULES[stage.schedule](step, 200_000, stage.milestones)
        for step in (0, 99_999, 100_000, 199_999)
    ]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])


@pytest.mark.parametrize("pictures", [1, 7, 800])
def test_div2k_falls_after_epoch_200(pictures: int) -> None:
    stage = RECIPES["div2k-256"].adversarial
    factors = [multi_step(epoch * pictures - 1, 240 * pictures, stage.milestones) for epoch in (1, 200, 201, 240)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1])
    assert multi_step(200 * pictures, 240 * pictures, stage.milestones) == pytest.approx(0.1)


@pytest.mark.parametrize("steps", [1, 2, 3, 12, 1000])
def test_schedules_stay_above_zero_and_reach_one(steps: int) -> None:
    for schedule in SCHEDULES.values():
        factors = [schedule(step, steps, (0.5,)) for step in range(steps)]
        assert min(factors) > 0 and max(factors) <= 1
        assert max(factors) == (0.1 if steps == 1 and schedule is multi_step else 1)
    assert {constant(step, steps) for step in range(steps)} == {1.0}
