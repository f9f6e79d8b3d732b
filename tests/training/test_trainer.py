from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vsr.errors import CheckpointError, OutputError, TrainingDataError, TrainingError, UnknownModelError, UsageError
from vsr.imaging.metrics import psnr_y
from vsr.imaging.resize import resize_bicubic
from vsr.inference.engine import load_model
from vsr.networks.resampling import Bicubic
from vsr.networks.srgan import Generator
from vsr.networks.weights import read_info
from vsr.training.options import TrainOptions
from vsr.training.pictures import PictureSet, find_pictures
from vsr.training.schedules import constant, one_cycle
from vsr.training.trainer import TrainProgress, reduce, train, validate

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve smooth pictures of 28 to 40 pixels; one of them is held out."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for index in range(12):
        blotches = random.integers(0, 256, (7 + index % 4, 10 - index % 3, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{index:02}.png"), cv2.resize(blotches, None, fx=4, fy=4))
    return folder


@pytest.fixture
def options(tmp_path: Path, photographs: Path) -> TrainOptions:
    """Six updates of a tiny generator, each of two crops of 16 pixels."""
    return TrainOptions(
        data=(photographs,),
        output=tmp_path / "run",
        blocks=1,
        channels=4,
        steps=6,
        batch_size=2,
        crop_size=16,
        learning_rate=1e-3,
        schedule="one-cycle",
        ema_decay=0.5,
        device="cpu",
        validate_every=4,
    )


def checkpoint(output: Path) -> dict[str, Any]:
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert isinstance(state, dict)
    return state


def log(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def first_weights(options: TrainOptions) -> Generator:
    torch.manual_seed(options.seed)
    return Generator(scale=options.scale, blocks=options.blocks, channels=options.channels)


def assert_same(one: Any, other: Any, where: str = "checkpoint") -> None:
    """Equal to the last bit, whatever is nested in whatever."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    else:
        assert one == other, where


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(1, 1000))
    return lambda: next(asked) == steps


class Interruption(Exception):
    pass


def test_updates_change_the_weights_and_nothing_is_lost_to_nan(options: TrainOptions) -> None:
    before = first_weights(options).state_dict()
    losses: list[float] = []
    summary = train(replace(options, steps=2), progress=lambda at: losses.append(at.loss))
    state = checkpoint(options.output)
    assert (summary.steps, summary.stopped, summary.weights) == (2, False, options.output / "generator.safetensors")
    assert state["step"] == 2 and len(losses) == 2 and all(0 < loss < 1 for loss in losses)
    assert summary.psnr_y is not None and 5 < summary.psnr_y < 60
    changed = {name for name, tensor in state["generator"].items() if not torch.equal(tensor, before[name])}
    assert {"head.0.weight", "body_norm.weight", "upsample.0.0.weight", "tail.weight", "tail.bias"} <= changed
    assert all(torch.isfinite(tensor).all() for part in ("generator", "ema") for tensor in state[part].values())


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_the_first_update_by_hand(options: TrainOptions, photographs: Path, loss: str) -> None:
    """Adam's first step is the rate in the direction of each gradient's sign."""
    wanted = replace(options, steps=1, schedule="constant", loss=loss, hold_out=0)
    generator = first_weights(wanted).train()
    hr = PictureSet(find_pictures([photographs]), min_size=16).crops(2, 16, seed=0, step=0) / 255
    error = generator(reduce(hr, 4)) - hr
    value = error.square().mean() if loss == "mse" else error.abs().mean()
    value.backward()
    reported: list[float] = []
    train(wanted, progress=lambda at: reported.append(at.loss))
    assert reported == [pytest.approx(float(value.detach()), rel=1e-5)]
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None
        clear = parameter.grad.abs() > 1e-5
        expected = parameter.detach() - 1e-3 * parameter.grad.sign()
        trained = checkpoint(wanted.output)["generator"][name]
        torch.testing.assert_close(trained[clear], expected[clear], rtol=0, atol=2e-6)


def test_training_brings_the_loss_down(options: TrainOptions) -> None:
    losses: list[float] = []
    train(replace(options, steps=60, batch_size=4, schedule="constant"), progress=lambda at: losses.append(at.loss))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_moving_average_by_hand(options: TrainOptions) -> None:
    """The first average is a copy of the first updated network; then it moves by one less the decay. Buffers follow."""
    states = []

    def keep(at: TrainProgress) -> None:
        states.append(checkpoint(options.output))

    train(replace(options, steps=3, checkpoint_every=1, ema_decay=0.75), progress=keep)
    for name, first in states[0]["generator"].items():
        second, third = (state["generator"][name] for state in states[1:])
        averages = [state["ema"][f"module.{name}"] for state in states]
        assert torch.equal(averages[0], first), name
        if name.endswith("num_batches_tracked"):
            continue  # a whole number that nothing reads
        expected = 0.75 * first + 0.25 * second
        torch.testing.assert_close(averages[1], expected, rtol=1e-5, atol=1e-7, msg=name)
        torch.testing.assert_close(averages[2], 0.75 * expected + 0.25 * third, rtol=1e-5, atol=1e-7, msg=name)
    running = [state["ema"]["module.body_norm.running_mean"] for state in states]
    assert not torch.equal(running[0], running[1]) and not torch.equal(running[1], running[2])
    assert [int(state["ema"]["n_averaged"]) for state in states] == [1, 2, 3]


def test_the_moving_average_is_what_is_kept_and_measured(options: TrainOptions, photographs: Path) -> None:
    summary = train(options)
    state = checkpoint(options.output)
    average = {name.removeprefix("module."): value for name, value in state["ema"].items() if name != "n_averaged"}
    kept = load_file(summary.weights)
    assert kept.keys() == average.keys() == state["generator"].keys()
    assert all(torch.equal(kept[name], average[name].to(kept[name].dtype)) for name in kept)
    assert not torch.equal(kept["tail.bias"], state["generator"]["tail.bias"])

    network = first_weights(options)
    network.load_state_dict(average)
    held_out = torch.from_numpy(cv2.imread(str(photographs / "00.png"))[..., ::-1].copy()).permute(2, 0, 1)
    assert validate(network, [held_out], 4, CPU) == pytest.approx(summary.psnr_y, abs=1e-4)


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
def test_one_cycle_of_a_hundred_steps_by_hand(step: int, factor: float) -> None:
    assert one_cycle(step, 100) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 12, 1000])
def test_schedules_stay_within_zero_and_one(steps: int) -> None:
    factors = [one_cycle(step, steps) for step in range(steps)]
    assert max(factors) == 1 and min(factors) > 0
    assert {constant(step, steps) for step in range(steps)} == {1.0}


def test_the_schedule_rules_the_rate_of_each_update(options: TrainOptions) -> None:
    rates = []

    def keep(at: TrainProgress) -> None:
        rates.append(checkpoint(options.output)["optimizer"]["param_groups"][0]["lr"])

    train(replace(options, steps=5, checkpoint_every=1, validate_every=1), progress=keep)
    # One step of warming up, then a cosine over the other four.
    factors = [1, 1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]
    assert rates == pytest.approx([1e-3 * factor for factor in factors], abs=1e-12)
    assert [entry["learning_rate"] for entry in log(options.output)] == rates


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_lr_are_8_bit_pictures_by_bicubic(scale: int) -> None:
    hr = torch.randint(0, 2, (2, 3, 32, 48), generator=torch.Generator().manual_seed(0)).float()
    before = hr.clone()
    lr = reduce(hr, scale)
    assert lr.shape == (2, 3, 32 // scale, 48 // scale)
    codes = lr * 255
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    assert float(lr.min()) >= 0 and float(lr.max()) <= 1
    exact = resize_bicubic(hr, 32 // scale, 48 // scale)
    assert (lr - exact.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    assert scale > 2 or exact.min() < 0, "noise of black and white overshoots, so the clipping is seen"
    assert torch.equal(hr, before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("how", ["asked to stop", "broken off after a checkpoint", "stopped twice"])
def test_a_stopped_run_goes_on_as_if_uninterrupted(options: TrainOptions, how: str, precision: str) -> None:
    options = replace(options, precision=precision, checkpoint_every=100 if how == "asked to stop" else 2)
    whole = train(replace(options, output=options.output.with_name("whole")))

    def break_off(at: TrainProgress) -> None:
        if at.step == 3:
            raise Interruption

    if how == "broken off after a checkpoint":
        with pytest.raises(Interruption):
            train(options, progress=break_off)
        assert checkpoint(options.output)["step"] == 2
    else:
        stopped = train(options, should_stop=stop_after(3))
        assert stopped.stopped and stopped.steps == checkpoint(options.output)["step"] == 3
    options = replace(options, resume=True)
    if how == "stopped twice":
        assert train(options, should_stop=stop_after(1)).steps == 4
    resumed = train(options)

    assert (resumed.steps, resumed.stopped, resumed.psnr_y) == (6, False, whole.psnr_y)
    assert_same(checkpoint(options.output), checkpoint(whole.weights.parent))
    assert_same(load_file(resumed.weights), load_file(whole.weights))


def test_bf16_differs_and_stays_in_float32(options: TrainOptions) -> None:
    train(replace(options, steps=2))
    train(replace(options, steps=2, precision="bf16", output=options.output.with_name("half")))
    full, half = (checkpoint(options.output.with_name(name))["generator"] for name in ("run", "half"))
    assert all(not half[name].is_floating_point() or half[name].dtype == torch.float32 for name in half)
    difference = (full["tail.weight"] - half["tail.weight"]).abs().max()
    assert 0 < difference <= 4e-3, "two updates of 1e-3, at worst in opposite directions"


def test_the_seed_decides(options: TrainOptions) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(options, steps=2, seed=seed, output=options.output.with_name(name), workers=1 + seed))
    a, b, c = (checkpoint(options.output.with_name(name))["generator"] for name in "abc")
    assert_same(a, b)
    assert not torch.equal(a["tail.weight"], c["tail.weight"])


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 7},
        {"seed": 1},
        {"crop_size": 20},
        {"loss": "l1"},
        {"blocks": 2},
        {"learning_rate": 2e-3},
        {"hold_out": 3},
        {"precision": "bf16"},
        {"ema_decay": 0.9},
    ],
    ids=str,
)
def test_resuming_with_other_options_is_refused(options: TrainOptions, change: dict[str, Any]) -> None:
    train(replace(options, steps=2))
    before = (options.output / "checkpoint.pt").read_bytes()
    (name, value), old = next(iter(change.items())), getattr(replace(options, steps=2), next(iter(change)))
    with pytest.raises(CheckpointError, match="was trained with other options") as caught:
        train(replace(replace(options, steps=2), resume=True, **change))
    assert f"({name} {old!r} -> {value!r})" in str(caught.value)
    assert (options.output / "checkpoint.pt").read_bytes() == before


def test_resuming_with_other_ways_of_running_is_allowed(options: TrainOptions) -> None:
    train(options, should_stop=stop_after(2))
    summary = train(replace(options, resume=True, workers=1, validate_every=1, checkpoint_every=1))
    assert summary.steps == 6
    assert [entry["step"] for entry in log(options.output)] == [3, 4, 5, 6]


def test_resuming_a_finished_run_changes_nothing(options: TrainOptions) -> None:
    done = train(options)
    before = {path.name: path.read_bytes() for path in options.output.iterdir()}
    assert train(replace(options, resume=True)) == done
    assert {path.name: path.read_bytes() for path in options.output.iterdir()} == before


def test_resuming_without_a_checkpoint(options: TrainOptions) -> None:
    with pytest.raises(CheckpointError, match=r"nothing to resume: .*checkpoint\.pt does not exist"):
        train(replace(options, resume=True))
    assert not options.output.exists()


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x80]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"hello world",
        *(lambda content, at=at: flip(content, content.index(b"body_norm.weight") + at) for at in (-3, 0, 5)),
    ],
    ids=["empty", "100 bytes", "half", "a byte less", "text", *(f"flip {index}" for index in range(3))],
)
def test_resuming_from_a_damaged_checkpoint(options: TrainOptions, damage: Callable[[bytes], bytes]) -> None:
    train(replace(options, steps=1))
    path = options.output / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        train(replace(options, steps=1, resume=True))


@pytest.mark.parametrize("content", [[1, 2], {"format": "vsr-checkpoint-0"}, {"step": 1}], ids=str)
def test_resuming_from_another_kind_of_file(options: TrainOptions, content: Any) -> None:
    options.output.mkdir()
    torch.save(content, options.output / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is not a checkpoint of this version"):
        train(replace(options, resume=True))


def test_an_existing_run_is_not_overwritten_unasked(options: TrainOptions) -> None:
    train(replace(options, steps=1))
    before = {path.name: path.read_bytes() for path in options.output.iterdir()}
    with pytest.raises(OutputError, match="holds a training run. Continue it with --resume, or .* --overwrite"):
        train(replace(options, steps=1))
    assert {path.name: path.read_bytes() for path in options.output.iterdir()} == before


def test_overwriting_starts_anew(options: TrainOptions) -> None:
    fresh = train(replace(options, output=options.output.with_name("fresh")))
    train(replace(options, steps=9, seed=5))
    summary = train(replace(options, overwrite=True))
    assert summary.psnr_y == fresh.psnr_y
    assert_same(checkpoint(options.output), checkpoint(fresh.weights.parent))
    assert [entry["step"] for entry in log(options.output)] == [4, 6]


@pytest.mark.parametrize("wrong", ["data", "init"])
def test_overwriting_keeps_the_old_run_until_all_else_is_in_order(
    options: TrainOptions, tmp_path: Path, wrong: str
) -> None:
    train(replace(options, steps=1))
    before = {path.name: path.read_bytes() for path in options.output.iterdir()}
    mistyped = {"data": {"data": (tmp_path / "mistyped",)}, "init": {"init": tmp_path / "mistyped"}}[wrong]
    with pytest.raises((TrainingDataError, UnknownModelError), match="mistyped"):
        train(replace(options, overwrite=True, **mistyped))
    assert {path.name: path.read_bytes() for path in options.output.iterdir()} == before


def test_an_output_below_a_file(options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for output in (tmp_path / "file", tmp_path / "file/run", tmp_path / "file/a/b"):
        with pytest.raises(OutputError, match=f"cannot write to {output}"):
            train(replace(options, output=output))
    assert (tmp_path / "file").read_text() == "kept"


def test_an_output_that_vanishes_meanwhile(options: TrainOptions) -> None:
    """A file takes the place of the folder between two checkpoints."""

    def replace_folder(at: TrainProgress) -> None:
        if at.step == 1:
            shutil.rmtree(options.output)
            options.output.write_text("in the way")

    with pytest.raises(OutputError, match=r"cannot write the weights .*generator\.safetensors"):
        train(replace(options, checkpoint_every=2), progress=replace_folder)
    options.output.unlink()
    with pytest.raises(OutputError, match=r"cannot write .*log\.jsonl"):
        train(replace(options, validate_every=2), progress=replace_folder)
    assert options.output.read_text() == "in the way"


def test_nothing_is_left_beside_the_run(options: TrainOptions) -> None:
    train(replace(options, steps=2))
    assert sorted(path.name for path in options.output.iterdir()) == [
        "checkpoint.pt",
        "generator.safetensors",
        "log.jsonl",
    ]


def test_the_weights_are_a_model(options: TrainOptions) -> None:
    summary = train(options)
    info = read_info(summary.weights)
    assert (info.architecture, info.config) == ("srgan", {"scale": 4, "blocks": 1, "channels": 4})
    recorded = json.loads(info.about["training"])
    assert (recorded["step"], recorded["pictures"], recorded["held_out_psnr_y"]) == (6, 11, summary.psnr_y)
    assert (recorded["loss"], recorded["seed"], recorded["ema_decay"]) == ("mse", 0, 0.5)
    engine = load_model(str(summary.weights), device="cpu")
    assert engine.upscale(np.zeros((5, 7, 3), np.uint8)).shape == (20, 28, 3)


def test_log_and_progress(options: TrainOptions) -> None:
    seen: list[TrainProgress] = []
    summary = train(replace(options, validate_every=2, steps=5), progress=seen.append)
    assert [(at.step, at.steps) for at in seen] == [(step, 5) for step in range(1, 6)]
    assert seen[0].psnr_y is None and seen[1].psnr_y is not None
    assert seen[2].psnr_y == seen[1].psnr_y and seen[4].psnr_y == summary.psnr_y
    entries = log(options.output)
    assert [entry["step"] for entry in entries] == [2, 4, 5]
    assert [entry["loss"] for entry in entries] == pytest.approx([seen[at].loss for at in (1, 3, 4)], abs=1e-7)
    assert [entry["psnr_y"] for entry in entries] == pytest.approx([seen[at].psnr_y for at in (1, 3, 4)], abs=1e-4)
    assert all(entry["steps_per_second"] > 0 for entry in entries)


def test_progress_of_a_resumed_run_goes_on(options: TrainOptions) -> None:
    train(options, should_stop=stop_after(4))
    measured = checkpoint(options.output)["psnr_y"]
    seen: list[TrainProgress] = []
    summary = train(replace(options, resume=True), progress=seen.append)
    assert [at.step for at in seen] == [5, 6]
    assert [at.psnr_y for at in seen] == [measured, summary.psnr_y] and measured is not None
    assert [entry["step"] for entry in log(options.output)] == [4, 6]


def test_the_last_step_is_no_stop(options: TrainOptions) -> None:
    summary = train(replace(options, steps=2), should_stop=stop_after(2))
    assert not summary.stopped and summary.steps == 2


def test_training_from_other_weights(options: TrainOptions) -> None:
    start = train(options)
    # So small a rate moves nothing, and the first average is a copy.
    wanted = replace(options, steps=1, seed=3, learning_rate=1e-30, init=start.weights)
    continued = train(replace(wanted, output=options.output.with_name("continued")))
    first, second = load_file(start.weights), load_file(continued.weights)
    learned = [name for name, _ in first_weights(options).named_parameters()]
    assert all(torch.equal(first[name], second[name]) for name in learned)
    assert not torch.equal(first["tail.weight"], first_weights(wanted).tail.weight.half())
    # Loaded for inference, but trained in training mode.
    assert not torch.equal(first["body_norm.running_mean"], second["body_norm.running_mean"])


@pytest.mark.parametrize("change", [{"blocks": 2}, {"channels": 5}, {"scale": 2}])
def test_starting_from_another_network_is_refused(options: TrainOptions, tiny_weights: Path, change: Any) -> None:
    with pytest.raises(UsageError, match=f"--init {tiny_weights} is another network than the options describe"):
        train(replace(options, init=tiny_weights, **change))
    with pytest.raises(UsageError, match="--init bicubic is another network"):
        train(replace(options, init=Path("bicubic")))


def test_measuring_on_pictures_of_their_own(options: TrainOptions, photographs: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("03.png", "08.png"):
        shutil.copy(photographs / name, own)
    summary = train(replace(options, steps=1, validation=(own,)))
    recorded = json.loads(read_info(summary.weights).about["training"])
    assert recorded["pictures"] == 12, "none is held out"
    average = {
        name.removeprefix("module."): value
        for name, value in checkpoint(options.output)["ema"].items()
        if name != "n_averaged"
    }
    network = first_weights(options)
    network.load_state_dict(average)
    pictures = [
        torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1) for path in sorted(own.iterdir())
    ]
    assert summary.psnr_y == pytest.approx(validate(network, pictures, 4, CPU), abs=1e-4)


def test_nothing_to_measure_on(options: TrainOptions) -> None:
    summary = train(replace(options, steps=1, hold_out=0))
    assert summary.psnr_y is None and log(options.output)[0]["psnr_y"] is None
    assert json.loads(read_info(summary.weights).about["training"])["pictures"] == 12


@pytest.mark.parametrize("scale", [2, 4])
def test_validation_by_hand(scale: int) -> None:
    """Cropped to a multiple of the scale, reduced, upscaled, rounded, and compared inside a border of the scale."""
    random = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (3, 35, 41), generator=random, dtype=torch.uint8) for _ in range(2)]
    values = []
    for picture in pictures:
        height, width = 35 // scale * scale, 41 // scale * scale
        hr = picture[None, :, :height, :width] / 255
        sr = resize_bicubic(reduce(hr, scale), height, width).mul(255).round().clamp(0, 255) / 255
        values.append(float(psnr_y(sr, hr, border=scale)))
    assert validate(Bicubic(scale=scale), pictures, scale, CPU) == pytest.approx(sum(values) / 2, abs=1e-9)
    assert validate(Bicubic(scale=scale), [], scale, CPU) is None


def test_validation_uses_the_statistics_and_leaves_the_mode() -> None:
    class Watch(nn.Module):
        modes: list[bool] = []

        def forward(self, lr: Tensor) -> Tensor:
            self.modes.append(self.training)
            return resize_bicubic(lr, 4 * lr.shape[-2], 4 * lr.shape[-1])

    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    for training in (True, False):
        network = Watch().train(training)
        validate(network, [picture], 4, CPU)
        assert network.training is training
    assert Watch.modes == [False, False]


def test_data_that_cannot_be_used(options: TrainOptions, tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(TrainingDataError, match="does not exist"):
        train(replace(options, data=(tmp_path / "missing",)))
    with pytest.raises(TrainingDataError, match="none of the 12 pictures"):
        train(replace(options, crop_size=64))
    with pytest.raises(UsageError, match="no device is called 'tpu'"):
        train(replace(options, device="tpu"))


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "a.png"), np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8))
    options = TrainOptions(
        data=(pictures,), output=tmp_path / "run", steps=50, batch_size=2, crop_size=16, blocks=1, channels=4,
        learning_rate=1e30, checkpoint_every=1, device="cpu",
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+"):
        train(options)
    assert torch.load(options.output / "checkpoint.pt", weights_only=True)["step"] >= 1


@pytest.mark.parametrize("name", ["checkpoint.pt", "generator.safetensors", "log.jsonl"])
def test_nothing_of_a_run_is_replaced_without_being_asked_to(options: TrainOptions, name: str) -> None:
    options.output.mkdir(parents=True)
    (options.output / name).write_bytes(b"precious")
    with pytest.raises(OutputError, match="holds a training run"):
        train(options)
    assert (options.output / name).read_bytes() == b"precious"
