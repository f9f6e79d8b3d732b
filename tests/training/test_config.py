"""The options of a run as TOML: written, read by Python's own reader, edited, and refused in one sentence."""

from __future__ import annotations

import math
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vsr
from vsr.errors import CheckpointError, OutputError, UsageError
from vsr.training.config import CONFIG, OF_ONE_CALL, _toml, read_config, stored_config, write_config
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, Labels, override


def options_of(values: dict[str, Any], output: Path) -> TrainOptions:
    names = {each.name for each in fields(TrainOptions)}
    run = {name: value for name, value in values.items() if name in names and name != "recipe"}
    rest = {name: value for name, value in values.items() if name not in names}
    recipe = override(RECIPES[values.get("recipe", "srgan")], **rest)
    return TrainOptions(output=output, recipe=recipe, **run)


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    """Every value, and any text."""
    recipe = override(RECIPES[name], real_labels=Labels("uniform", 0.1234567891, 1.0), adversarial_milestones=())
    options = TrainOptions(
        data=(tmp_path / 'a"b\\c\x7f\n', Path("/é😀"), Path("/not-utf8-\udcff")), output=tmp_path, recipe=recipe,
        validation=(tmp_path / "held",), content_weights=Path("/vgg.pth"), licence="", device="cuda:1",
        tensorboard=True, command="vsr train", seed=7,
    )  # fmt: skip
    write_config(tmp_path / CONFIG, options)
    for path in (tmp_path, tmp_path / CONFIG):
        values = read_config(path)
        assert values["recipe"] == name and options_of(values, tmp_path) == options


def test_scalars_of_numpy_and_lists_are_written_as_any_other(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "pretrain_learning_rate": np.float64(1e-4), "ema_decay": np.float32(0.5), "batch_size": np.int64(8),
        "flips": np.bool_(False), "adversarial_milestones": [0.25, np.float64(0.5)], "video_noise": [0, 3],
        "real_labels": Labels("uniform", np.float64(0.7), np.float64(1)),
    }  # fmt: skip
    options = TrainOptions(data=(tmp_path,), output=tmp_path, recipe=override(RECIPES["srgan"], **values))
    write_config(tmp_path / CONFIG, options)
    assert "np." not in (tmp_path / CONFIG).read_text(encoding="utf-8")
    assert options_of(read_config(tmp_path), tmp_path) == options


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e16, 1e-5, -3, True, "a\"", (), (1, 2.5), ((1, 2), ("a",))])
def test_any_value_is_read_again(value: Any) -> None:
    def listed(each: Any) -> Any:
        return list(map(listed, each)) if isinstance(each, tuple) else each

    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    assert tomllib.loads(f"a = {_toml(value)}")["a"] == listed(value)
    assert tomllib.loads(f"a = {_toml(listed(value))}")["a"] == listed(value)
    assert math.isnan(tomllib.loads(f"a = {_toml(np.float32(math.nan))}")["a"])


def test_a_recipe_that_has_no_name(options: TrainOptions, tmp_path: Path) -> None:
    write_config(tmp_path / CONFIG, options)
    values = read_config(tmp_path)
    assert "recipe" not in values and options_of(values, options.output) == options


def test_paths_are_absolute_and_options_of_one_call_are_left_out(options: TrainOptions, tmp_path: Path) -> None:
    changed = replace(options, data=(Path("pictures"),), overwrite=True, time_limit=60.0)
    write_config(tmp_path / CONFIG, changed)
    values = read_config(tmp_path)
    assert values["data"] == (Path.cwd() / "pictures",)
    assert not set(OF_ONE_CALL) & set(values)


def test_a_file_written_by_hand(tmp_path: Path) -> None:
    """Few options, in any of the ways that the command's option is written."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'recipe = "video-recurrent"  # a comment\ndata = "clips"\nsteps = 20000\nbatch-size = 8\npretrain_l1 = 1\n'
        'fake_labels = 0.1\n[pretrain]\nlearning-rate = 1e-4\nmilestones = [0.3, 1]\n[clip]\nblur = [0, 1.5]\n',
        encoding="utf-8",
    )
    assert read_config(path) == {
        "recipe": "video-recurrent",
        "data": (Path("clips"),),
        "steps": 20000,
        "batch_size": 8,
        "pretrain_l1": 1.0,
        "fake_labels": Labels("fixed", 0.1),
        "pretrain_learning_rate": 1e-4,
        "pretrain_milestones": (0.3, 1.0),
        "clip_blur": (0.0, 1.5),
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("batchsize = 8", "there is no option 'batchsize'; did you mean batch_size?"),
        ("[pretrain]\nlenght = 8", "there is no option 'pretrain_lenght'; did you mean pretrain_length?"),
        ("zzz = 1", "there is no option 'zzz'."),
        ("[other]\nx = 1", "there is no option 'other'"),
        ('batch_size = "8"', "batch_size is a whole number, got '8'."),
        ("batch_size = 8.5", "batch_size is a whole number, got 8.5."),
        ("batch_size = true", "batch_size is a whole number, got yes."),
        ("ema_decay = false", "ema_decay is a number, got no."),
        ("flips = 1", "flips is true or false, got 1."),
        ("betas = [0.9]", "betas takes 2 values, got 0.9."),
        ("licence = 4", "licence is a text, got 4."),
        ('data = ["a\\u0000"]', "data is a text, got"),
        ("pretrain = 5", "there is no option 'pretrain'"),
        ('real_labels = "uniform:0.7"', "labels are written 0.9, uniform:0.7:1 or normal:0.1:0.05, got 'uniform:0.7'."),
        ("real_labels = 3", "real_labels is no label: labels lie in [0, 1], got 3."),
        ('real_labels = "soft"', "real_labels is no label: labels are written"),
        ('recipe = "esrgan"', "recipe is one of srgan, coco-200"),
        ('time_limit = "8h"', "time_limit is of one call; give it as an option, time_limit."),
        ("a = ", "is not TOML: Invalid value"),
        ("[" * 3000, "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path)) and sentence in str(caught.value)
    assert str(caught.value).count(", got ") <= 1


def test_files_that_cannot_be_read_or_written(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the options .*mine\.toml: No such file"):
        read_config(tmp_path / "mine.toml")
    (tmp_path / "bytes.toml").write_bytes(b"a = \xff\xfe")
    with pytest.raises(UsageError, match=r"bytes\.toml is not TOML"):
        read_config(tmp_path / "bytes.toml")
    with pytest.raises(OutputError, match="cannot write"):
        write_config(tmp_path / "missing" / CONFIG, options)


def test_the_options_of_a_run_that_is_continued(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing to resume: .*checkpoint\.pt does not exist"):
        stored_config(tmp_path)
    (tmp_path / "checkpoint.pt").touch()
    assert stored_config(tmp_path) == {}, "a run of an older version"
    write_config(tmp_path / CONFIG, options)
    assert stored_config(tmp_path)["seed"] == options.seed


@pytest.mark.parametrize("before", [{"devices": 2}, {}], ids=["by itself", "torchrun"])
def test_torchrun_continues_with_another_number_of_processes(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, int]
) -> None:
    (tmp_path / "checkpoint.pt").touch()
    if before:
        write_config(tmp_path / CONFIG, replace(options, **before))
        assert stored_config(tmp_path)["devices"] == 2
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    if not before:
        write_config(tmp_path / CONFIG, replace(options, nodes=2))
    stored = stored_config(tmp_path)
    assert not {"devices", "nodes"} & set(stored) and stored["seed"] == options.seed
    monkeypatch.delenv("LOCAL_RANK")
    assert stored_config(tmp_path)["nodes"] == 1


def test_python_continues_a_run_with_its_options(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainOptions] = []
    monkeypatch.setattr("vsr.training.trainer.train", lambda found, **callbacks: seen.append(found))
    run = replace(options, output=tmp_path, seed=3, log_every=7, validation=(tmp_path,), licence="CC0")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        vsr.train([], tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").touch()
    vsr.train("pictures", tmp_path, resume=True, seed=1)
    assert seen.pop() == TrainOptions(data=(Path("pictures"),), output=tmp_path, resume=True, seed=1), "an older run"
    write_config(tmp_path / CONFIG, run)
    vsr.train([], tmp_path, resume=True)
    assert seen.pop() == replace(run, resume=True)
    named = vsr.override(options.recipe, blocks=2)
    vsr.train("pictures", tmp_path, resume=True, recipe=named, log_every=9, time_limit=60)
    given = {"data": (Path("pictures"),), "recipe": named, "log_every": 9, "time_limit": 60}
    assert seen.pop() == replace(run, resume=True, **given)
    vsr.train("pictures", tmp_path, overwrite=True)
    assert seen.pop() == TrainOptions(data=(Path("pictures"),), output=tmp_path, overwrite=True)
