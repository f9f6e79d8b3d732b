"""What the monitor does after each update, and what it writes into the folder of the run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vsr.imaging.pictures import read_picture
from vsr.training import step as measuring
from vsr.training.log import read_log
from vsr.training.options import TrainOptions
from vsr.training.recipes import override
from vsr.training.step import Quality, TrainState, update
from vsr.training.trainer import TrainProgress, train


def steps_with(output: Path, column: str) -> list[int]:
    rows = read_log(output / "log.csv")
    return [int(step) for step in rows["step"][np.isfinite(rows[column])]]


def average(output: Path) -> dict[str, Tensor]:
    """Return the generator's moving average as weights files store it."""
    state = torch.load(output / "checkpoint.pt", weights_only=True)["ema"]
    plain = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
    return {name: value.half() if value.dim() > 1 else value for name, value in plain.items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def uncentred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the moving average without centring, which has tests of its own."""
    monkeypatch.setattr("vsr.training.trainer.centred", lambda state, batches: copy.deepcopy(state.ema.module))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("every", "rows", "measured", "saved"),
    [
        ({}, [3, 5, 8], [3, 8], [3, 5, 8]),
        ({"log_every": 2}, [2, 3, 4, 5, 6, 8], [3, 8], [3, 5, 8]),
        ({"validate_every": 2}, [2, 3, 4, 5, 6, 8], [2, 3, 6, 8], [3, 5, 8]),
        ({"checkpoint_every": 4}, [3, 4, 5, 8], [3, 8], [3, 4, 5, 8]),
        ({"log_every": 3, "checkpoint_every": 1}, [*range(1, 9)], [3, 8], [*range(1, 9)]),
    ],
    ids=str,
)
def test_each_thing_when_it_is_due(
    options: TrainOptions, every: dict[str, int], rows: list[int], measured: list[int], saved: list[int]
) -> None:
    """At its interval and at the end of each stage; a save or a measurement also writes a row."""
    kept = []

    def look(at: TrainProgress) -> None:
        path = options.output / "checkpoint.pt"
        if path.exists() and torch.load(path, weights_only=True)["step"] == at.step:
            kept.append(at.step)
            assert_equal(load_file(options.output / "generator.safetensors"), average(options.output))

    train(replace(options, **every), progress=look)  # type: ignore[arg-type]
    assert steps_with(options.output, "learning_rate") == rows
    assert steps_with(options.output, "psnr_y") == steps_with(options.output, "lpips") == measured
    assert kept == saved
    samples = sorted(path.name for path in (options.output / "samples").iterdir())
    assert samples == [f"step-{step:07}.png" for step in measured]


@pytest.mark.usefixtures("quick")
def test_rows_are_means_over_the_updates_since_the_previous_row(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbered(state: TrainState, *batch: Any) -> dict[str, Tensor]:
        update(state, *batch)
        return {"mse": torch.tensor(float(state.step))}

    monkeypatch.setattr("vsr.training.trainer.update", numbered)
    seen: list[float | None] = []
    train(replace(options, log_every=2), progress=lambda at: seen.append(at.losses.get("mse")))
    rows = read_log(options.output / "log.csv")
    assert rows["mse"].tolist() == [1.5, 3, 4, 5, 6, 7.5]  # of the updates 1 2, 3, 4, 5, 6, 7 8
    assert seen == [None, 1.5, 3, 4, 5, 6, 6, 7.5]
    assert rows.stages == ("pretrain",) * 2 + ("discriminator",) * 2 + ("adversarial",) * 2
    assert rows["stage_step"].tolist() == [2, 3, 1, 2, 1, 3]
    assert (rows["crops_per_second"] > 0).all() and (np.diff(rows["seconds"]) > 0).all()


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[Quality]:
    """The results of the next measurements, whatever the pictures."""
    found: list[Quality] = []

    def choose(*arguments: Any, **keywords: Any) -> tuple[Quality | None, Sequence[Tensor]]:
        _, upscaled = measuring.measure(*arguments, **keywords)
        return found.pop(0), upscaled

    monkeypatch.setattr("vsr.training.trainer.measure", choose)
    return found


def averages_of(options: TrainOptions) -> Iterator[dict[str, Tensor]]:
    """Run the training and yield the moving average after each update."""
    kept: list[dict[str, Tensor]] = []
    train(replace(options, checkpoint_every=1), progress=lambda at: kept.append(average(options.output)))
    yield from kept


@pytest.mark.usefixtures("quick")
def test_the_best_by_psnr_and_the_best_by_lpips(options: TrainOptions, chosen: list[Quality]) -> None:
    chosen += [Quality(20, 0.5, 0.1), Quality(22, 0.4, 0.9), Quality(21, 0.6, 0.0)]
    chosen += [Quality(30, 0.5, 0.5), Quality(10, 0.5, 0.3), Quality(40, 0.9, 0.4)]
    averages = [*averages_of(replace(options, validate_every=1))]
    assert_equal(load_file(options.output / "best-pretrain.safetensors"), averages[1])
    assert_equal(load_file(options.output / "best-adversarial.safetensors"), averages[6])
    assert_equal(load_file(options.output / "pretrain.safetensors"), averages[2])
    assert_equal(load_file(options.output / "generator.safetensors"), averages[7])
    assert not torch.equal(averages[1]["tail.weight"], averages[2]["tail.weight"])
    assert not torch.equal(averages[6]["tail.weight"], averages[7]["tail.weight"])


@pytest.mark.usefixtures("quick")
def test_the_best_survives_a_resumption(options: TrainOptions, chosen: list[Quality]) -> None:
    options = replace(options, validate_every=1, stage="pretrain")
    chosen += [Quality(20, 0.5, None), Quality(22, 0.5, None), Quality(21, 0.5, None), Quality(23, 0.5, None)]
    done: list[int] = []
    train(options, progress=lambda at: done.append(at.step), should_stop=lambda: len(done) == 1)
    best = load_file(options.output / "best-pretrain.safetensors")
    longer = replace(options, recipe=override(options.recipe, pretrain_length=3), resume=True)
    train(longer)
    assert_equal(load_file(options.output / "best-pretrain.safetensors"), best)
    train(replace(longer, recipe=override(options.recipe, pretrain_length=4)))
    assert_equal(load_file(options.output / "best-pretrain.safetensors"), average(options.output))
    assert not chosen


@pytest.mark.usefixtures("quick")
def test_samples_show_four_pictures_at_most(options: TrainOptions, photographs: Path) -> None:
    train(replace(options, stage="pretrain"))
    one = read_picture(options.output / "samples/step-0000003.png")
    train(replace(options, stage="pretrain", validation=(photographs,), overwrite=True))
    four = read_picture(options.output / "samples/step-0000003.png")
    # 00.png is 28 pixels high; two lines are above the strip, and one under each picture.
    assert one.shape[0] < 28 + 80 and 28 + 32 + 36 + 40 <= four.shape[0] < 28 + 32 + 36 + 40 + 160


def test_the_files_of_a_run(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Including the figure, which is really drawn."""
    monkeypatch.setattr("vsr.training.trainer.load_lpips", lambda *_: nn.L1Loss())
    train(replace(options, stage="pretrain", log_every=1))
    assert sorted(path.name for path in options.output.iterdir()) == [
        "best-pretrain.safetensors",
        "card.md",
        "checkpoint.pt",
        "config.toml",
        "generator.safetensors",
        "log.csv",
        "losses.png",
        "pretrain.safetensors",
        "samples",
    ]
    assert read_picture(options.output / "losses.png").std() > 10
