"""A stopped and resumed run equals an uninterrupted one bit for bit; others are refused in one sentence."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor

from vsr.errors import CheckpointError, OutputError, TrainingDataError, UnknownModelError, UsageError, WeightsError
from vsr.networks.discriminator import Discriminator
from vsr.networks.lpips import load_lpips
from vsr.networks.weights import read_info, save_discriminator
from vsr.training.checkpoint import _differing_settings, new_train_state, restore_checkpoint, settings_of
from vsr.training.log import COLUMNS, TEXTS, read_log
from vsr.training.options import TrainOptions
from vsr.training.recipes import STAGES, Recipe, override
from vsr.training.trainer import TrainProgress, TrainSummary, train

pytestmark = pytest.mark.usefixtures("quick")

ENDINGS = (3, 5, 8)
"""Updates behind which the stages of the tiny run end."""


class Interruption(Exception):
    pass


def run_until(options: TrainOptions, step: int) -> TrainSummary:
    """Stop a new run after an update that is not the last of its stage."""
    done = [0]

    def keep(at: TrainProgress) -> None:
        done.append(at.step)

    return train(options, progress=keep, should_stop=lambda: done[-1] + 1 >= step)


def kill_at(options: TrainOptions, step: int) -> None:
    """Break off a run after an update; nothing is written any more."""

    def break_off(at: TrainProgress) -> None:
        if at.step == step:
            raise Interruption

    with pytest.raises(Interruption):
        train(options, progress=break_off)


def checkpoint(output: Path) -> dict[str, Any]:
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert isinstance(state, dict)
    return state


def content(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def assert_same(one: Any, other: Any, where: str = "checkpoint") -> None:
    """Assert that two nested values are equal bit for bit."""
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


def assert_same_end(one: Path, other: Path) -> None:
    """Assert that checkpoints, weights and metadata are equal."""
    assert_same(checkpoint(one), checkpoint(other))
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names == sorted(path.name for path in other.glob("*.safetensors")) and "generator.safetensors" in names
    for name in names:
        assert_same(load_file(one / name), load_file(other / name), name)
        assert about(one / name) == about(other / name), name


def about(path: Path) -> dict[str, Any]:
    """Return the metadata of a weights file without the stages that were requested."""
    texts: dict[str, Any] = dict(read_info(path).about)
    return {**texts, "training": {**json.loads(texts["training"]), "stages": None}}


def assert_same_log(one: Path, other: Path) -> None:
    """Assert that two logs are equal except for the times."""
    first, second = read_log(one / "log.csv"), read_log(other / "log.csv")
    assert first.stages == second.stages and first.lpips_backbone == second.lpips_backbone
    for column in COLUMNS:
        if column not in (*TEXTS, "seconds", "crops_per_second"):
            assert [*map(repr, first[column].tolist())] == [*map(repr, second[column].tolist())], column


@pytest.mark.parametrize(
    ("degradation", "changes", "steps"),
    [
        ("bicubic", {"workers": 1, "cache": "none"}, range(1, 8)),
        ("bicubic", {"workers": 3, "cache": "ram"}, (2, 4, 7)),
        ("video", {"workers": 1, "cache": "ram"}, (3, 4, 7)),
        ("video", {"workers": 3, "cache": "none"}, range(1, 8)),
    ],
    ids=["bicubic, 1 worker", "bicubic, 3 workers", "video, 1 worker", "video, 3 workers"],
)
def test_a_run_stopped_at_any_update_resumes_as_if_uninterrupted(
    options: TrainOptions, tmp_path: Path, degradation: str, changes: dict[str, Any], steps: Sequence[int]
) -> None:
    """Threads and caches change nothing either: they differ in the uninterrupted run."""
    options = replace(options, recipe=override(options.recipe, degradation=degradation), validate_every=2)
    whole = train(replace(options, output=tmp_path / "whole"))
    assert (whole.steps, whole.stage, whole.stopped) == (8, "adversarial", False)
    names = {"generator", "pretrain", "best-pretrain", "best-adversarial", "discriminator"}
    assert {path.stem for path in (tmp_path / "whole").glob("*.safetensors")} == names
    for step in steps:
        part = replace(options, output=tmp_path / f"stopped-{step}", **changes)
        if step in ENDINGS:
            kill_at(part, step)
        else:
            stopped = run_until(part, step)
            assert stopped.stopped and stopped.steps == step
        assert checkpoint(part.output)["step"] == step
        resumed = train(replace(part, resume=True))
        assert (resumed.steps, resumed.stopped, resumed.quality) == (8, False, whole.quality)
        assert_same_end(part.output, whole.weights.parent)


def test_a_killed_run_resumes_from_an_older_checkpoint(options: TrainOptions, tmp_path: Path) -> None:
    """The rows of the log and the best measurements after it are discarded."""
    options = replace(options, checkpoint_every=4, log_every=1, validate_every=2)
    train(replace(options, output=tmp_path / "whole"))
    for step, saved in ((3, 3), (4, 4), (5, 5), (6, 5), (7, 5)):
        part = replace(options, output=tmp_path / f"killed-{step}")
        kill_at(part, step)
        assert checkpoint(part.output)["step"] == saved
        assert read_log(part.output / "log.csv")["step"].tolist() == [*range(1, step + 1)]
        seen: list[int] = []
        train(replace(part, resume=True), progress=lambda at, seen=seen: seen.append(at.step))  # type: ignore[misc]
        assert seen == [*range(saved + 1, 9)]
        assert_same_end(part.output, tmp_path / "whole")
        assert_same_log(part.output, tmp_path / "whole")
        assert (part.output / "card.md").read_text() == (tmp_path / "whole/card.md").read_text().replace(
            "## whole", f"## killed-{step}"
        )


def test_stage_by_stage_equals_all_in_one_go(options: TrainOptions, tmp_path: Path) -> None:
    train(replace(options, output=tmp_path / "whole"))
    steps = []
    for number, stage in enumerate(STAGES):
        summary = train(replace(options, stage=stage, resume=number > 0))
        steps.append((summary.stage, summary.steps))
    assert steps == [("pretrain", 3), ("discriminator", 5), ("adversarial", 8)]
    assert_same_end(options.output, tmp_path / "whole")
    assert_same_log(options.output, tmp_path / "whole")


def test_the_last_measurement_survives_a_resumption_without_one(options: TrainOptions, tmp_path: Path) -> None:
    """The discriminator's stage measures nothing, but its weights files contain the last measurement."""
    recipe = override(options.recipe, adversarial_length=0)
    options = replace(options, recipe=recipe)
    whole = train(replace(options, output=tmp_path / "whole"))
    assert whole.quality is not None
    kill_at(options, 3)
    resumed = train(replace(options, resume=True))
    assert resumed.quality == whole.quality
    assert_same_end(options.output, tmp_path / "whole")


def test_a_run_in_reduced_precision_resumes(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, precision="bf16")
    train(replace(options, output=tmp_path / "whole"))
    assert run_until(options, 7).steps == 7
    train(replace(options, resume=True))
    assert_same_end(options.output, tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(options: TrainOptions) -> None:
    done = train(options)
    before = content(options.output)
    assert train(replace(options, resume=True)) == done
    assert content(options.output) == before


@pytest.mark.parametrize("length", [2, 5])
def test_the_length_of_a_running_stage_may_change(options: TrainOptions, tmp_path: Path, length: int) -> None:
    changed = replace(options, recipe=override(options.recipe, pretrain_length=length, follows="somebody"))
    train(replace(changed, output=tmp_path / "whole", checkpoint_every=1))
    run_until(options, 2)
    summary = train(replace(changed, resume=True))
    assert summary.steps == length + 5
    one, other = checkpoint(options.output), checkpoint(tmp_path / "whole")
    assert_same(one["generator"], other["generator"])
    assert one["lengths"] == {"pretrain": length, "discriminator": 2, "adversarial": 3}


def test_a_finished_stage_may_be_made_longer(options: TrainOptions, tmp_path: Path) -> None:
    longer = replace(options, recipe=override(options.recipe, pretrain_length=4), stage="pretrain")
    train(replace(longer, output=tmp_path / "whole"))
    train(replace(options, stage="pretrain"))
    assert train(replace(longer, resume=True)).steps == 4
    assert_same(checkpoint(options.output)["generator"], checkpoint(tmp_path / "whole")["generator"])


def test_a_shortened_stage_is_done(options: TrainOptions) -> None:
    run_until(options, 2)
    shorter = replace(options, recipe=override(options.recipe, pretrain_length=2), resume=True)
    assert train(replace(shorter, stage="pretrain")).steps == 2
    assert train(replace(shorter, stage="discriminator")).steps == 4


def test_a_value_missing_in_an_older_checkpoint_is_the_default(options: TrainOptions) -> None:
    run_until(options, 2)
    path = options.output / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    for name in ("generator", "frames", "real_motion", "clip"):
        del state["recipe"][name]
    torch.save(state, path)
    other = override(options.recipe, real_motion=0.5)
    refused(replace(options, recipe=other, resume=True), "real_motion was 0.3 and is now 0.5")
    assert train(replace(options, resume=True)).steps == 8


def test_options_that_do_not_affect_the_result_may_change(options: TrainOptions) -> None:
    run_until(options, 2)
    other = replace(options, resume=True, workers=1, cache="none", log_every=1, checkpoint_every=1, licence="CC0")
    assert train(other).steps == 8
    assert read_log(options.output / "log.csv")["step"].tolist() == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"crop_size": 20}, "crop_size was 16 and is now 20"),
        ({"pretrain_l1": 0.5}, "pretrain.l1 was 0 and is now 0.5"),
        ({"degradation": "video"}, "degradation was bicubic and is now video"),
        ({"flips": False}, "flips was yes and is now no"),
        ({"video_noise": (0.0, 3.0)}, "video.noise was 0, 6 and is now 0, 3"),
        (
            {"adversarial_learning_rate": 1e-5, "blocks": 2},
            "adversarial.learning_rate was 0.001 and is now 1e-05; blocks was 1 and is now 2",
        ),
    ],
    ids=["one value", "of a stage", "a word", "a flag", "of the degradation", "several"],
)
def test_another_recipe_is_refused(options: TrainOptions, changes: dict[str, Any], sentence: str) -> None:
    train(replace(options, stage="pretrain"))
    refused(replace(options, recipe=override(options.recipe, **changes), resume=True), sentence)


def test_another_seed_and_other_pictures_are_refused(options: TrainOptions) -> None:
    train(replace(options, stage="pretrain"))
    refused(replace(options, seed=5, resume=True), "the seed was 0 and is now 5")
    refused(replace(options, hold_out=0, resume=True), "the pictures differ")


@pytest.mark.parametrize("name", ["init_discriminator", "content_weights", "init"])
def test_another_file_that_decides_the_weights_is_refused(options: TrainOptions, tmp_path: Path, name: str) -> None:
    """By its content, so that it may be moved."""
    files = [tmp_path / f"{number}.bin" for number in range(3)]
    for path, content_ in zip(files, (b"a", b"b", b"a"), strict=True):
        path.write_bytes(content_)
    one, other, moved = (replace(options, **{name: path}) for path in files)
    recorded = settings_of(one)
    assert list(_differing_settings(recorded, settings_of(moved))) == []
    assert list(_differing_settings(recorded, settings_of(other))) == [f"{name} was {files[0]} and is now {files[1]}"]
    assert list(_differing_settings(settings_of(options), recorded)) == [f"{name} was not set and is now {files[0]}"]
    absent = list(_differing_settings(recorded, settings_of(options)))
    files[0].unlink()
    gone = list(_differing_settings(recorded, settings_of(one)))
    if name == "init":
        assert absent == gone == [], "it has no effect any more"
    else:
        assert absent == [f"{name} was {files[0]} and is now not set"]
        assert gone == [f"{name} was {files[0]} and is now another file there"]


def test_a_run_goes_on_without_its_initial_weights(options: TrainOptions, tmp_path: Path) -> None:
    first = replace(options, output=tmp_path / "first", stage="pretrain")
    weights = train(first).weights
    again = replace(options, init=weights)
    train(again, should_stop=lambda: True)
    weights.unlink()
    assert train(replace(again, resume=True)).steps == 8


def test_lpips_keeps_its_backbone(options: TrainOptions) -> None:
    """The best weights are chosen by it; but it may be left out."""
    run_until(options, 2)
    refused(replace(options, lpips="alex", resume=True), "lpips was squeeze and is now alex")
    assert train(replace(options, lpips="none", resume=True)).steps == 8


def test_a_checkpoint_from_before_the_settings_is_resumed(options: TrainOptions) -> None:
    """LPIPS was on SqueezeNet then."""
    run_until(replace(options, validate_every=1), 2)
    path = options.output / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["settings"], state["quality"]["lpips_backbone"]
    torch.save(state, path)
    summary = train(replace(options, resume=True, stage="pretrain", recipe=override(options.recipe, pretrain_length=2)))
    assert summary.quality is not None and summary.quality.lpips_backbone == "SqueezeNet"


def test_a_time_limit_ends_a_run_with_a_checkpoint(options: TrainOptions) -> None:
    summary = train(replace(options, time_limit=1e-6))
    assert (summary.stopped, summary.steps) == (True, 1)
    assert train(replace(options, resume=True)).steps == 8


def refused(options: TrainOptions, sentence: str) -> None:
    before = content(options.output)
    with pytest.raises(CheckpointError) as caught:
        train(options)
    path = options.output / "checkpoint.pt"
    assert str(caught.value) == (
        f"{path} belongs to another run ({sentence}). Use the same values, or start a new run from its weights: "
        f"init={str(options.output / 'generator.safetensors')!r}."
    )
    assert content(options.output) == before


def flip(whole: bytes, position: int) -> bytes:
    return whole[:position] + bytes([whole[position] ^ 0x80]) + whole[position + 1 :]


def body_bias(whole: bytes) -> bytes:
    """Return the bytes of some weights."""
    weights = torch.load(BytesIO(whole), weights_only=True)["generator"]["body_norm.bias"]
    return bytes(weights.numpy().tobytes())


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:100],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: b"hello world",
        lambda whole: flip(whole, whole.index(body_bias(whole)) + 5),
        *(lambda whole, at=at: flip(whole, whole.index(b"body_norm.weight") + at) for at in (-3, 0, 5)),
    ],
    ids=["empty", "100 bytes", "half", "a byte less", "text", "flipped weight", *(f"flip {at}" for at in range(3))],
)
def test_a_damaged_checkpoint_is_refused(options: TrainOptions, damage: Callable[[bytes], bytes]) -> None:
    options = replace(options, stage="pretrain")
    train(options)
    path = options.output / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} cannot be read: it is damaged or not"):
        train(replace(options, resume=True))


@pytest.mark.parametrize("other", [[1, 2], {"format": "vsr-checkpoint-1"}, {"step": 1}], ids=str)
def test_another_kind_of_file_is_refused(options: TrainOptions, other: Any) -> None:
    options.output.mkdir()
    torch.save(other, options.output / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is not a checkpoint of this version of vsr\.$"):
        train(replace(options, resume=True))


NAN = float("nan")
SPOILS: dict[str, Callable[[Any], Any]] = {
    "a part is missing": lambda state: state.pop("ema"),
    "no recipe": lambda state: state.pop("recipe"),
    "a recipe of another type": lambda state: state.update(recipe=7),
    "a tensor in the recipe": lambda state: state["recipe"].update(blocks=torch.ones(2)),
    "no such stage": lambda state: state.update(stage="dessert"),
    "a stage of another type": lambda state: state.update(stage=["pretrain"]),
    "no lengths": lambda state: state.update(lengths={}),
    "a length of another type": lambda state: state["lengths"].update(pretrain="long"),
    "a step of another type": lambda state: state.update(step="3"),
    "a step that is no whole number": lambda state: state.update(step=3.5),
    "a negative step": lambda state: state.update(step=-1),
    "an absurd step": lambda state: state.update(step=10**300),
    "more in the stage than in all": lambda state: state.update(stage_step=4),
    "best of another type": lambda state: state.update(best=[1]),
    "best is no number": lambda state: state["best"].update(pretrain=NAN),
    "quality of another type": lambda state: state.update(quality={"psnr_y": "good", "ssim_y": 1.0, "lpips": None}),
    "quality without a measurement": lambda state: state["quality"].update(psnr_y=None),
    "another quality": lambda state: state.update(quality={"beauty": 1.0}),
    "a scaler of another type": lambda state: state.update(scaler={"scale": "much"}),
    "another shape": lambda state: state["generator"].update({"tail.bias": torch.zeros(7)}),
    "another type": lambda state: state["generator"].update({"tail.bias": "bias"}),
    "whole numbers": lambda state: state["generator"].update({"tail.bias": torch.zeros(3, dtype=torch.int8)}),
    "weights that are not finite": lambda state: state["generator"]["tail.bias"].fill_(NAN),
    "an average that is not finite": lambda state: state["ema"]["module.tail.bias"].fill_(float("inf")),
    "generator of another type": lambda state: state.update(generator=[1, 2]),
    "an optimiser of another type": lambda state: state.update(generator_optimizer=3),
    "moments of another shape": lambda state: state["generator_optimizer"]["state"][0].update(exp_avg=torch.zeros(5)),
    "moments that are not finite": lambda state: state["generator_optimizer"]["state"][0]["exp_avg"].fill_(NAN),
    "negative squares": lambda state: state["generator_optimizer"]["state"][0]["exp_avg_sq"].fill_(-1),
    "a missing moment": lambda state: state["generator_optimizer"]["state"][0].pop("exp_avg"),
    "moments of other parameters": lambda state: state["generator_optimizer"]["state"].pop(0),
    "other groups": lambda state: state["generator_optimizer"].update(param_groups=[]),
    "other decays": lambda state: state["generator_optimizer"]["param_groups"][0].update(betas=(2.0, "x")),
    "a rate of another type": lambda state: state["generator_optimizer"]["param_groups"][0].update(lr="fast"),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_checkpoint_that_does_not_fit_is_refused(
    options: TrainOptions, trained: Path, spoil: Callable[[Any], Any]
) -> None:
    shutil.copytree(trained, options.output)
    state = checkpoint(options.output)
    spoil(state)
    torch.save(state, options.output / "checkpoint.pt")
    before = content(options.output)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt (is damaged: |belongs to another run)") as caught:
        train(replace(options, stage="pretrain", resume=True))
    sentence = str(caught.value)
    assert "\n" not in sentence and "tensor(" not in sentence and "Error" not in sentence
    assert sentence.endswith(f"init={str(options.output / 'generator.safetensors')!r}.")
    assert content(options.output) == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photographs: Path, tiny_recipe: Recipe) -> Path:
    """A run whose first stage is done."""
    output = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vsr.training.trainer.plot_losses", lambda log, figure: None)
        patch.setattr("vsr.training.trainer.load_lpips", lambda *_: torch.nn.MSELoss())
        train(TrainOptions(data=(photographs,), output=output, recipe=tiny_recipe, stage="pretrain", device="cpu"))
    return output


class Bomb:
    """An object whose unpickling creates a file."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.crater), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cannot_execute_code(options: TrainOptions, trained: Path, zipped: bool) -> None:
    shutil.copytree(trained, options.output)
    crater = options.output.with_name("crater")
    state = {**checkpoint(trained), "best": Bomb(crater)}
    torch.save(state, options.output / "checkpoint.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read: it is damaged or not a checkpoint of"):
        train(replace(options, stage="pretrain", resume=True))
    assert not crater.exists()


def test_any_change_of_the_pickle_is_refused_in_a_sentence_or_harmless(options: TrainOptions, trained: Path) -> None:
    """Bytes are changed at random, with valid checksums."""
    shutil.copytree(trained, options.output)
    path = options.output / "checkpoint.pt"
    with ZipFile(trained / "checkpoint.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    random = Random(0)
    state = new_train_state(Fabric(accelerator="cpu", devices=1), replace(options, stage="pretrain"))
    fingerprint = checkpoint(trained)["pictures"]
    refused = 0
    for _ in range(200):
        content = bytearray(members[pickled])
        for _ in range(random.choice([1, 1, 4])):
            content[random.randrange(len(content))] = random.randrange(256)
        with ZipFile(path, "w") as archive:
            for name, member in members.items():
                archive.writestr(name, bytes(content) if name == pickled else member)
        try:
            restore_checkpoint(state, replace(options, stage="pretrain"), fingerprint=fingerprint)
        except CheckpointError as exc:
            refused += 1
            assert "\n" not in str(exc)
    assert refused > 100


def test_a_run_resumes_in_another_precision(options: TrainOptions) -> None:
    train(replace(options, stage="pretrain", precision="bf16"))
    assert train(replace(options, resume=True, precision="fp32")).steps == 8


def test_resuming_without_a_checkpoint_is_refused(options: TrainOptions) -> None:
    with pytest.raises(CheckpointError, match=r"^nothing to resume: .*run/checkpoint\.pt does not exist\.$"):
        train(replace(options, resume=True))
    assert not options.output.exists()


def test_past_and_future_stages_are_refused(options: TrainOptions) -> None:
    run_until(options, 2)
    resumed = replace(options, resume=True)
    sentence = r"run is at update 2 of 3 of the stage pretrain: finish it first \(stage='pretrain', resume=True\)\.$"
    for stage in STAGES[1:]:
        with pytest.raises(CheckpointError, match=sentence):
            train(replace(resumed, stage=stage))
    train(replace(resumed, stage="pretrain"))
    train(replace(resumed, stage="discriminator"))
    with pytest.raises(CheckpointError, match="run is past the stage pretrain: it is in discriminator"):
        train(replace(resumed, stage="pretrain"))
    assert checkpoint(options.output)["step"] == 5


@pytest.mark.parametrize("stage", ["discriminator", "adversarial"])
def test_a_later_stage_needs_a_generator(options: TrainOptions, tmp_path: Path, tiny_weights: Path, stage: Any) -> None:
    with pytest.raises(UsageError, match=f"the stage {stage} starts from a generator: give one with init, or run"):
        train(replace(options, stage=stage))
    assert train(replace(options, stage=stage, init=tiny_weights)).stage == stage


@pytest.mark.parametrize("name", ["checkpoint.pt", "generator.safetensors", "log.csv", "card.md"])
def test_an_existing_run_is_not_replaced_without_overwrite(options: TrainOptions, name: str) -> None:
    options.output.mkdir()
    (options.output / name).write_bytes(b"precious")
    words = r"run holds a training run\. Continue it with resume=True, or .* overwrite=True\."
    with pytest.raises(OutputError, match=words):
        train(options)
    assert content(options.output) == {name: b"precious"}


def test_overwriting_starts_anew_and_removes_the_old_run_only(options: TrainOptions, tmp_path: Path) -> None:
    train(replace(options, output=tmp_path / "fresh", stage="pretrain"))
    train(replace(options, seed=5))
    for kept in ("notes.txt", "checkpoint-of-mine.pt", "samples-of-mine/a.png"):
        (options.output / kept).parent.mkdir(exist_ok=True)
        (options.output / kept).write_bytes(b"kept")
    (options.output / "tensorboard").mkdir()
    (options.output / "tensorboard/old").touch()
    (options.output / "losses.png").touch()
    train(replace(options, stage="pretrain", overwrite=True))
    assert_same_end(options.output, tmp_path / "fresh")
    assert_same_log(options.output, tmp_path / "fresh")
    assert sorted(content(options.output)) == [
        "best-pretrain.safetensors",
        "card.md",
        "checkpoint-of-mine.pt",
        "checkpoint.pt",
        "config.toml",
        "generator.safetensors",
        "log.csv",
        "notes.txt",
        "pretrain.safetensors",
        "samples-of-mine/a.png",
        "samples/step-0000003.png",
    ]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("data", TrainingDataError),
        ("init", UnknownModelError),
        ("content_weights", WeightsError),
        ("init_discriminator", WeightsError),
        ("lpips_weights", WeightsError),
    ],
)
def test_a_mistyped_file_is_reported_at_once_and_keeps_the_old_run(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, error: type[Exception]
) -> None:
    """Even files that only a later stage needs."""
    if wrong == "lpips_weights":
        monkeypatch.setattr("vsr.training.trainer.load_lpips", load_lpips)
    if wrong == "content_weights":
        options = replace(options, recipe=override(options.recipe, adversarial_content=1.0))
    train(replace(options, stage="pretrain", hold_out=0))
    before = content(options.output)
    missing = tmp_path / "mistyped"
    mistyped: dict[str, Any] = {wrong: (missing,) if wrong == "data" else missing}
    ways: list[dict[str, Any]] = [{"overwrite": True}, {"resume": True, "hold_out": 0}]
    for how in ways:
        steps: list[int] = []
        # A run that goes on has weights of its own, and does not read any others.
        expected = CheckpointError if wrong == "init" and "resume" in how else error
        with pytest.raises(expected, match="mistyped"):
            train(
                replace(options, **mistyped, **how),
                progress=lambda at, steps=steps: steps.append(at.step),  # type: ignore[misc]
            )
        assert not steps and content(options.output) == before


def test_a_discriminator_of_another_size_is_reported_at_once(options: TrainOptions, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_discriminator(other, Discriminator(channels=8, crop_size=16), {})
    with pytest.raises(WeightsError, match="of another network"):
        train(replace(options, init_discriminator=other, stage="pretrain"))
    assert not (options.output / "log.csv").exists()


def test_an_output_that_cannot_be_written_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for output in (tmp_path / "file", tmp_path / "file/run", tmp_path / "file/a/b", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match=f"^cannot write to {output}: .*"):
            train(replace(options, output=output))
    assert (tmp_path / "file").read_text() == "kept"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def test_the_disk_has_a_checkpoint_before_it_gets_its_name(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is on the disk before the next update: a power cut loses no more than a kill."""
    calls: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(file: int) -> None:
        calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        sync(file)

    def renamed(self: Path, to: Path) -> Path:
        calls.append(f"rename {self.name} {to.name}")
        return rename(self, to)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    run_until(options, 2)
    temporary = f".vsr-{os.getpid()}-checkpoint.pt"
    at = calls.index(f"rename {temporary} checkpoint.pt")
    assert calls[at - 1] == f"sync {temporary}" and calls[at + 1] == f"sync {options.output.name}"


def test_a_checkpoint_on_a_full_disk_keeps_the_previous_one(options: TrainOptions) -> None:
    """The system really refuses; the previous checkpoint stays, and the run continues from it."""
    options = replace(options, hold_out=0)
    run_until(options, 2)
    before = content(options.output)
    sentence = r"^cannot write the checkpoint .*\.pt: .*space, then continue from the previous one with resume=True\.$"
    with largest_file(20_000), pytest.raises(OutputError, match=sentence):
        train(replace(options, resume=True))
    after = content(options.output)
    assert after["checkpoint.pt"] == before["checkpoint.pt"] and not [name for name in after if ".vsr-" in name]
    assert train(replace(options, resume=True)).steps == 8


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("file write failed")])
def test_any_error_of_a_full_disk_while_writing_the_checkpoint_is_an_output_error(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run_until(options, 2)
    before = content(options.output)

    def fill(state: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(OutputError, match=f"cannot write the checkpoint .*{re.escape(str(error))}"):
        train(replace(options, resume=True))
    after = content(options.output)
    assert after["checkpoint.pt"] == before["checkpoint.pt"] and not [name for name in after if ".vsr-" in name]


@pytest.mark.parametrize(
    "name",
    ["best-pretrain.safetensors", "generator.safetensors", "pretrain.safetensors", "card.md", "step-0000003.png"],
)
def test_a_full_disk_while_writing_another_file_is_an_output_error(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write = Path.write_bytes

    def fill(path: Path, data: bytes) -> int:
        if path.name.endswith(name) and (name != "generator.safetensors" or "best" not in path.name):
            write(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OutputError, match=f"cannot write .*{name}.*: No space left on device"):
        train(options)
    assert not [path for path in content(options.output) if ".vsr-" in path or path.endswith(name)]
    monkeypatch.undo()
    monkeypatch.setattr("vsr.training.trainer.plot_losses", lambda log, figure: None)
    if (options.output / "checkpoint.pt").exists():  # it is written first, and good
        assert train(replace(options, resume=True, lpips_weights=None, hold_out=16)).steps == 8


def test_an_output_that_vanishes_during_a_run_is_an_output_error(options: TrainOptions) -> None:
    """A file takes the place of the folder between two updates."""

    def replace_folder(at: TrainProgress) -> None:
        if at.step == 1:
            for path in [*options.output.rglob("*")][::-1]:
                path.rmdir() if path.is_dir() else path.unlink()
            options.output.rmdir()
            options.output.write_text("in the way")

    with pytest.raises(OutputError, match=r"cannot write the log .*log\.csv"):
        train(replace(options, checkpoint_every=2), progress=replace_folder)
    assert options.output.read_text() == "in the way"
