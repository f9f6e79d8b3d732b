"""A run from end to end: it learns, reports, is decided by its seed, and ends in one sentence if it cannot continue."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor

from vsr.errors import OutputError, TrainingDataError, TrainingError, UsageError, WeightsError
from vsr.inference.engine import load_model
from vsr.networks.lpips import load_lpips
from vsr.networks.weights import read_info
from vsr.training.batches import Batches
from vsr.training.log import read_log
from vsr.training.options import TrainOptions
from vsr.training.recipes import override
from vsr.training.step import TrainState, update
from vsr.training.trainer import CROPS, TrainProgress, train

pytestmark = pytest.mark.usefixtures("quick")


def checkpoint(output: Path) -> dict[str, Any]:
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert isinstance(state, dict)
    return state


def on_device(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Let runs use a device that Fabric does not know."""

    def fabric(options: TrainOptions) -> Fabric:
        made = Fabric(accelerator="cpu", devices=1)
        made.strategy._root_device = device
        monkeypatch.setattr(made.accelerator, "setup_device", lambda device: None)
        return made

    monkeypatch.setattr("vsr.training.launch._fabric", fabric)


def test_a_run_on_a_device_without_float64(
    options: TrainOptions, limited_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Apple's MPS: the same weights as on the CPU, in all stages."""
    cpu = train(options)
    options = replace(options, cache="ram")  # the stand-in does not reach into the threads that pack pictures
    on_device(monkeypatch, limited_device)
    there = train(replace(options, output=options.output.with_name("there")))
    assert cpu.quality is not None and there.quality == cpu.quality
    assert equal_files(there.weights, cpu.weights)


def equal_files(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def tensors(state: Any) -> list[Tensor]:
    """Return all tensors nested in a checkpoint."""
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def test_a_run_of_three_stages(options: TrainOptions) -> None:
    seen: list[TrainProgress] = []
    summary = train(replace(options, log_every=2), progress=seen.append)
    assert (summary.stage, summary.steps, summary.stopped) == ("adversarial", 8, False)
    assert summary.weights == options.output / "generator.safetensors"
    assert summary.quality is not None and 5 < summary.quality.psnr_y < 60 and summary.quality.lpips is not None
    assert set(summary.losses) == {"pretrain", "discriminator", "adversarial"}
    assert set(summary.losses["discriminator"]) == {"discriminator_loss", "d_real", "d_fake"}
    assert set(summary.losses["adversarial"]) == {
        *("generator_loss", "mse", "adversarial", "discriminator_loss", "d_real", "d_fake")
    }
    assert [(at.step, at.steps, at.stage) for at in seen] == [
        *((step, 8, "pretrain") for step in (1, 2, 3)),
        *((step, 8, "discriminator") for step in (4, 5)),
        *((step, 8, "adversarial") for step in (6, 7, 8)),
    ]
    assert not seen[0].losses and set(seen[1].losses) == {"generator_loss", "mse"}
    assert seen[1].quality is None and seen[2].quality is not None and seen[7].quality == summary.quality
    state = checkpoint(options.output)
    assert (state["step"], state["stage"], state["stage_step"]) == (8, "adversarial", 3)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(state))


def test_each_stage_changes_its_networks_and_no_other(options: TrainOptions) -> None:
    states = []
    train(replace(options, checkpoint_every=1), progress=lambda at: states.append(checkpoint(options.output)))
    pretrained, after_discriminator, after_adversarial = states[2], states[4], states[7]
    assert "discriminator" not in pretrained

    def changed(one: dict[str, Any], other: dict[str, Any], network: str) -> set[str]:
        return {name for name, tensor in one[network].items() if not torch.equal(tensor, other[network][name])}

    assert {"head.0.weight", "tail.bias", "body_norm.running_mean"} <= changed(states[0], states[1], "generator")
    assert "module.tail.bias" in changed(states[0], states[1], "ema")
    # The discriminator's stage uses the average as its generator, in eval mode.
    average = {name.removeprefix("module."): value for name, value in pretrained["ema"].items()}
    for state in states[3:5]:
        assert all(torch.equal(state["generator"][name], average[name]) for name in state["generator"])
        assert changed(state, pretrained, "ema") == {"n_averaged"}
    assert len(changed(states[3], after_discriminator, "discriminator")) > 5
    for network in ("generator", "discriminator", "ema"):
        assert len(changed(states[6], after_adversarial, network)) > 5, network


def test_each_stage_draws_batches_of_its_own(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[range] = []
    stream = Batches.stream
    centring = range(CROPS // options.recipe.batch_size)

    def record(self: Batches, steps: range) -> Any:
        if steps != centring:
            asked.append(steps)
        return stream(self, steps)

    monkeypatch.setattr(Batches, "stream", record)
    train(options)
    train(replace(options, recipe=override(options.recipe, adversarial_length=5), resume=True))
    assert asked == [range(0, 3), range(3, 5), range(5, 8), range(8, 10)]


def test_training_brings_the_loss_down(options: TrainOptions) -> None:
    recipe = override(options.recipe, pretrain_length=60, batch_size=4)
    losses: list[float] = []
    train(
        replace(options, recipe=recipe, stage="pretrain", log_every=1),
        progress=lambda at: losses.append(at.losses["mse"]),
    )
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_weights_depend_on_the_seed(options: TrainOptions) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(options, seed=seed, output=options.output.with_name(name)))
    a, b, c = (tensors(checkpoint(options.output.with_name(name))) for name in "abc")
    assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(a, c, strict=True))
    for name in ("generator", "discriminator"):
        one, other = (load_file(options.output.with_name(run) / f"{name}.safetensors") for run in "ac")
        assert all(not torch.equal(one[key], other[key]) for key in one if key.endswith("0.weight")), name


def test_the_callers_random_state_is_left_alone(options: TrainOptions) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(replace(options, stage="pretrain"))
    assert torch.equal(torch.get_rng_state(), before)


def test_schedules_go_over_a_stage(options: TrainOptions) -> None:
    recipe = override(
        options.recipe, pretrain_schedule="cosine", adversarial_schedule="multi-step", adversarial_milestones=(0.5,)
    )
    rates = []

    def keep(at: TrainProgress) -> None:
        rates.append(checkpoint(options.output)["generator_optimizer"]["param_groups"][0]["lr"])

    train(replace(options, recipe=recipe, checkpoint_every=1, log_every=1), progress=keep)
    expected = [1e-3, 0.75e-3, 0.25e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-4]
    assert read_log(options.output / "log.csv")["learning_rate"].tolist() == pytest.approx(expected, rel=1e-6)
    assert rates[:3] == pytest.approx(expected[:3]) and rates[5:] == pytest.approx(expected[5:])


def test_epochs_count_the_pictures(options: TrainOptions) -> None:
    """Eleven of them, of which two are drawn in each update."""
    recipe = override(options.recipe, unit="epochs", pretrain_length=2)
    assert train(replace(options, recipe=recipe, stage="pretrain")).steps == 12


def test_bf16_differs_and_stays_in_float32(options: TrainOptions) -> None:
    names: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    for name in names:
        train(replace(options, precision=name, output=options.output.with_name(name), stage="pretrain"))
    full, half = (checkpoint(options.output.with_name(name))["generator"] for name in ("fp32", "bf16"))
    assert all(not tensor.is_floating_point() or tensor.dtype == torch.float32 for tensor in half.values())
    difference = (full["tail.weight"] - half["tail.weight"]).abs().max()
    assert 0 < difference <= 6e-3, "three updates of 1e-3, at worst in opposite directions"


def test_the_weights_are_a_model_with_the_metadata_of_the_run(options: TrainOptions) -> None:
    summary = train(replace(options, licence="CC0", command="vsr train --data photographs"))
    info = read_info(summary.weights)
    assert info.architecture == "srgan" and (info.config["scale"], info.config["blocks"]) == (4, 1)
    recorded = json.loads(info.about["training"])
    assert (recorded["stage"], recorded["step"], recorded["seed"]) == ("adversarial", 8, 0)
    assert (recorded["pictures"], recorded["held_out"], recorded["precision"]) == (11, 1, "auto")
    assert summary.quality is not None and recorded["quality"]["psnr_y"] == summary.quality.psnr_y
    assert info.about["licence"] == "CC0" and info.about["recipe"] == "nobody"
    assert info.about["data"].startswith("photographs") and info.about["data"].endswith("(pictures, 11 pictures)")
    discriminator = read_info(options.output / "discriminator.safetensors")
    assert discriminator.architecture == "discriminator" and discriminator.about == info.about
    engine = load_model(str(summary.weights), device="cpu")
    assert engine.upscale(np.zeros((5, 7, 3), np.uint8)).shape == (20, 28, 3)


def test_a_stop_at_the_last_update_does_not_count(options: TrainOptions) -> None:
    summary = train(replace(options, stage="pretrain"), should_stop=lambda: False)
    asked = iter([False, False, True])
    again = train(replace(options, stage="pretrain", overwrite=True), should_stop=lambda: next(asked))
    assert not summary.stopped and not again.stopped and again.steps == 3


def test_a_stop_writes_everything(options: TrainOptions) -> None:
    """Even if nothing was due."""
    summary = train(options, should_stop=lambda: True)
    assert (summary.stopped, summary.steps, summary.stage) == (True, 1, "pretrain")
    assert sorted(path.name for path in options.output.iterdir()) == [
        *("card.md", "checkpoint.pt", "config.toml", "generator.safetensors", "log.csv", "samples"),
    ]
    assert read_log(options.output / "log.csv")["step"].tolist() == [1]
    assert summary.losses["pretrain"]["mse"].mean > 0


def test_nothing_to_measure_on(options: TrainOptions) -> None:
    summary = train(replace(options, hold_out=0))
    assert summary.quality is None and np.isnan(read_log(options.output / "log.csv")["psnr_y"]).all()
    recorded = json.loads(read_info(summary.weights).about["training"])
    assert (recorded["pictures"], recorded["held_out"], recorded["quality"]) == (12, 0, None)
    assert not [*options.output.glob("best-*")] and not [*(options.output / "samples").iterdir()]


def test_data_that_cannot_be_used(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="does not exist"):
        train(replace(options, data=(tmp_path / "missing",)))
    with pytest.raises(TrainingDataError, match="none of the 12 pictures"):
        train(replace(options, recipe=override(options.recipe, crop_size=64)))
    with pytest.raises(TrainingDataError, match="does not exist"):
        train(replace(options, validation=(tmp_path / "missing",)))
    with pytest.raises(UsageError, match="no device is called 'tpu'"):
        train(replace(options, device="tpu"))


def test_without_lpips_the_run_goes_on(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: Path | None, kind: str) -> Any:
        raise WeightsError("no network")

    monkeypatch.setattr("vsr.training.trainer.load_lpips", fail)
    with caplog.at_level(logging.WARNING, "vsr"):
        summary = train(options)
    assert [record.getMessage() for record in caplog.records] == [
        "LPIPS is not measured, and no best weights of the adversarial stage are kept: no network"
    ]
    assert summary.quality is not None and summary.quality.lpips is None and summary.steps == 8
    assert [path.name for path in options.output.glob("best-*")] == ["best-pretrain.safetensors"]
    assert np.isnan(read_log(options.output / "log.csv")["lpips"]).all()


def test_missing_lpips_weights_that_were_given_are_an_error(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsr.training.trainer.load_lpips", load_lpips)
    with pytest.raises(WeightsError, match="mistyped"):
        train(replace(options, lpips_weights=tmp_path / "mistyped"))


Spoil = Callable[[TrainState, dict[str, Tensor]], None]


def spoil_loss(state: TrainState, seen: dict[str, Tensor]) -> None:
    seen["mse"] = torch.tensor(float("nan"))


def spoil_discriminator_loss(state: TrainState, seen: dict[str, Tensor]) -> None:
    seen["discriminator_loss"] = torch.tensor(float("inf"))


@torch.no_grad()
def spoil_weights(state: TrainState, seen: dict[str, Tensor]) -> None:
    next(state.generator.plain.parameters())[0] = float("nan")


@torch.no_grad()
def spoil_average(state: TrainState, seen: dict[str, Tensor]) -> None:
    next(state.ema.module.parameters())[0] = 1e5  # finite, but not in half precision


@torch.no_grad()
def spoil_discriminator(state: TrainState, seen: dict[str, Tensor]) -> None:
    assert state.discriminator is not None
    next(state.discriminator.plain.parameters())[0] = float("-inf")


def spoil_moments(state: TrainState, seen: dict[str, Tensor]) -> None:
    saved = next(iter(state.generator.optimizer.optimizer.state.values()))
    saved["exp_avg_sq"][0] = float("inf")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_loss, "the loss mse became nan"),
        (spoil_discriminator_loss, "the loss discriminator_loss became inf"),
        (spoil_weights, "the weights became too large"),
        (spoil_average, "the weights became too large"),
        (spoil_discriminator, "the weights became too large"),
        (spoil_moments, "the weights became too large"),
    ],
)
@pytest.mark.parametrize("due", ["checkpoint_every", "validate_every", "stop"])
def test_what_is_not_finite_ends_the_run_and_is_never_written(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, words: str, due: str
) -> None:
    def spoiled(state: TrainState, *batch: Any) -> dict[str, Tensor]:
        seen = update(state, *batch)
        if state.step == 7:
            spoil(state, seen)
        return seen

    monkeypatch.setattr("vsr.training.trainer.update", spoiled)
    if due != "stop":
        options = replace(options, **{due: 7})  # type: ignore[arg-type]
    step = [0]
    with pytest.raises(TrainingError) as caught:
        train(
            options,
            progress=lambda at: step.append(at.step),
            should_stop=lambda: due == "stop" and step[-1] == 6,
        )
    path = options.output / "checkpoint.pt"
    assert str(caught.value) == (
        f"{words} at or before step 7; {path} holds the last good state. "
        "Use a smaller learning rate, gradient_clip=1, or precision='fp32'."
    )
    assert checkpoint(options.output)["step"] == 5
    assert all(torch.isfinite(tensor).all() for tensor in tensors(checkpoint(options.output)))
    written = [*options.output.glob("*.safetensors")]
    assert len(written) == 4, "generator, pretrain, best-pretrain, discriminator"
    assert all(torch.isfinite(tensor).all() for path in written for tensor in load_file(path).values())


def test_an_enormous_learning_rate(options: TrainOptions) -> None:
    options = replace(
        options,
        recipe=override(options.recipe, pretrain_learning_rate=1e30),
        checkpoint_every=1,
        validate_every=1,
        stage="pretrain",
    )
    sentence = r"at or before step \d; no checkpoint was written before\. Use a smaller learning rate"
    with pytest.raises(TrainingError, match=sentence):
        train(options)
    assert not [*options.output.glob("*.safetensors")]


@pytest.mark.parametrize("how", ["gpu", "cpu", "numpy"])
def test_out_of_memory_is_explained(options: TrainOptions, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def exhaust(*arguments: Any) -> Any:
        if how == "gpu":
            raise torch.OutOfMemoryError("Tried to allocate 2 GiB.")
        return torch.empty(1 << 52) if how == "cpu" else np.empty(1 << 52)

    monkeypatch.setattr("vsr.training.trainer.update", exhaust)
    with pytest.raises(TrainingError) as caught:
        train(options)
    assert str(caught.value) == (
        "cpu has not enough memory for batches of 2 crops of 16: use a smaller batch_size or crop_size, "
        "or precision='bf16'."
    )


def test_out_of_memory_at_the_start_is_explained(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks themselves may be what is too large, beside another program on the GPU."""

    def exhaust(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("vsr.training.trainer.new_train_state", exhaust)
    with pytest.raises(TrainingError, match="has not enough memory for batches"):
        train(options)


def test_other_errors_are_not_translated(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr("vsr.training.trainer.update", fail)
    with pytest.raises(RuntimeError, match="^a bug$"):
        train(options)


def test_a_picture_that_turns_out_damaged_changes_nothing_else(options: TrainOptions, tmp_path: Path) -> None:
    """A thread finds damage after the header in the middle of the run."""
    photographs = tmp_path / "photographs"
    shutil.copytree(options.data[0], photographs)
    damaged = photographs / "03.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert train(replace(options, data=(photographs,))).steps == 8


def test_a_jpeg_that_is_cut_short_does_not_end_a_run(options: TrainOptions, tmp_path: Path) -> None:
    photographs = tmp_path / "some"
    shutil.copytree(options.data[0], photographs)
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))[1].tobytes()
    for number in range(6):
        (photographs / f"cut{number}.jpg").write_bytes(whole[: len(whole) // 2])
    assert train(replace(options, data=(photographs,))).steps == 8


def test_a_run_leaves_no_thread_and_no_open_file(options: TrainOptions, leaves_nothing: None) -> None:
    train(options, should_stop=lambda: True)
    train(replace(options, resume=True, tensorboard=False))


def test_two_runs_into_one_folder(options: TrainOptions) -> None:
    """The second is refused with any options and disturbs nothing; afterwards the lock is gone."""
    refusals: list[str] = []

    def begin_another(at: TrainProgress) -> None:
        if at.step == 4:
            for changes in ({}, {"overwrite": True}, {"resume": True}):
                with pytest.raises(OutputError) as caught:
                    train(replace(options, **changes))
                refusals.append(str(caught.value))

    train(replace(options, checkpoint_every=1), progress=begin_another)
    assert refusals == [f"another vsr is writing {options.output}; wait for it, or name another output."] * 3
    assert read_log(options.output / "log.csv")["step"][-1] == 8 and not (options.output / ".lock").exists()


def test_the_lock_of_a_killed_run_is_ignored(options: TrainOptions) -> None:
    options.output.mkdir()
    (options.output / ".lock").touch()
    assert train(options).steps == 8


def test_a_lock_that_is_not_a_file_is_refused(options: TrainOptions) -> None:
    options.output.mkdir()
    os.mkfifo(options.output / ".lock")
    with pytest.raises(OutputError, match="is not a regular file; move .*run away"):
        train(options)


def test_a_run_that_cannot_begin_leaves_no_folder(options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingDataError):
        train(replace(options, data=(tmp_path / "empty",)))
    assert not options.output.exists()
    options.output.mkdir()
    (options.output / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(TrainingDataError):
        train(replace(options, data=(tmp_path / "empty",)))
    assert (options.output / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_without_tensorboard_an_old_run_stays(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    train(replace(options, stage="pretrain"))
    before = (options.output / "checkpoint.pt").read_bytes()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r'pip install "vsr-srgan.tensorboard."'):
        train(replace(options, stage="pretrain", tensorboard=True, overwrite=True))
    assert (options.output / "checkpoint.pt").read_bytes() == before
