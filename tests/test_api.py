from __future__ import annotations

import inspect
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from fractions import Fraction
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from mypy import api as mypy
from PIL import Image

import vsr
import vsr.api
from vsr.errors import OutputError, UsageError
from vsr.imaging.pictures import write_picture
from vsr.options import parse_rate, parse_time
from vsr.pipeline.journal import job_folder_of
from vsr.training.recipes import RECIPES, RecipeValues

TESTS = Path(__file__).parent

MakeClip = Callable[..., Path]

LONG = {"pts": range(0, 120 * 500, 500), "time_base": Fraction(1, 1000)}
"""A minute of two frames a second: thirteen segments."""

# Signatures

OWN = {
    "upscale": (vsr.UpscaleOptions, {"source", "target", "progress", "stop"}),
    "upscale_folder": (
        vsr.UpscaleOptions,
        {"sources", "folder", "recursive", "progress", "on_outcome", "stop"},
    ),
    "upscale_frames": (vsr.UpscaleOptions, {"frames"}),
    "train": (vsr.TrainOptions, {"steps", "progress", "stop"}),
    "compare": (vsr.CompareOptions, {"progress"}),
    "evaluate_images": (vsr.ImageEvalOptions, {"progress", "fid_extractor"}),
    "evaluate_videos": (vsr.VideoEvalOptions, {"progress"}),
}
"""Of each call its options, and its parameters that are none of them."""

FRAMES = {"model", "scale", "detail", "steady", "device", "engine", "precision", "tile_size"}
"""The options that have an effect on frames."""

SPELLED: dict[str, Any] = {"recipe": "srgan", "encoder": None, "fps": 25}
"""Defaults that are written in another way than in the dataclass, and mean the same."""


def members(hint: Any) -> set[Any]:
    return set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}


def accepted(hint: Any) -> set[Any]:
    """Return the types that a keyword accepts for a field of a type: at least its own, or those that become it."""
    found = set()
    for each in members(hint):
        if get_origin(each) is tuple and ... in get_args(each):
            found.add(Sequence)
        else:
            found.add(str if each is Path else each)
    return found


@pytest.mark.parametrize("name", OWN)
def test_the_keywords_are_the_fields_of_the_options(name: str) -> None:
    call, (options, own) = getattr(vsr, name), OWN[name]
    parameters = inspect.signature(call).parameters
    names = FRAMES if name == "upscale_frames" else {each.name for each in fields(options)}
    assert set(parameters) == names | own
    from vsr.evaluation.images import ImageProgress, ImageReport
    from vsr.evaluation.videos import VideoEvalProgress
    from vsr.imaging.arrays import Picture
    from vsr.training.trainer import TrainProgress

    known = {**vars(vsr.api), **{each: getattr(vsr, each) for each in vsr.__all__}, "torch": torch, "Picture": Picture}
    known |= {each.__name__: each for each in (ImageProgress, ImageReport, VideoEvalProgress, TrainProgress)}
    hints = get_type_hints(inspect.unwrap(call), known)
    of_fields = get_type_hints(options)
    for each in fields(options):
        if each.name not in names:
            continue
        default = each.default if each.default_factory is MISSING else each.default_factory()
        found = parameters[each.name].default
        if each.name in SPELLED:
            assert found == SPELLED[each.name]
        else:
            assert found == (inspect.Parameter.empty if default is MISSING else default), each.name
        kept = {get_origin(kind) if get_origin(kind) is Sequence else kind for kind in members(hints[each.name])}
        kept |= {Sequence for kind in kept if getattr(get_origin(kind), "__name__", "") == "Sequence"}
        assert accepted(of_fields[each.name]) <= kept, each.name
    assert {each.kind for each in parameters.values()} <= {
        inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY,
    }  # fmt: skip


def test_the_keywords_of_override_are_the_fields_of_recipes() -> None:
    recipe = RECIPES["srgan"]
    expected = {each.name: each.type for each in fields(recipe)}
    for part in ("pretrain", "discriminator", "adversarial", "video", "clip"):
        expected |= {f"{part}_{each.name}": each.type for each in fields(getattr(recipe, part))}
    assert {name: hint.__forward_arg__ for name, hint in RecipeValues.__annotations__.items()} == expected


def test_type_checkers_find_every_mistake_and_nothing_else() -> None:
    mistakes, right = TESTS / "typing_mistakes.py", TESTS / "typing_right.py"
    cache = TESTS.parent / ".mypy_cache"
    report, errors, _ = mypy.run(["--strict", "--cache-dir", str(cache), "--no-pretty", str(mistakes), str(right)])
    assert errors == ""
    found = {(name, int(line)) for name, line in re.findall(r"^.*?(\w+)\.py:(\d+): error:", report, re.MULTILINE)}
    lines = mistakes.read_text(encoding="utf-8").splitlines()
    expected = {("typing_mistakes", number) for number, line in enumerate(lines, 1) if line.endswith("# expect")}
    assert len(expected) > 60
    assert found == expected, report
    called = set(re.findall(r"vsr\.(\w+)\(", mistakes.read_text(encoding="utf-8")))
    public = {name for name in vsr.__all__ if inspect.isfunction(getattr(vsr, name))}
    assert public <= called


# Values


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        (25, 25), (25.0, 25), ("25", 25), (12.5, Fraction(25, 2)), (Fraction(30000, 1001), Fraction(30000, 1001)),
        ("30000/1001", Fraction(30000, 1001)), (29.97, Fraction(30000, 1001)), ("29.97", Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)), (23.98, Fraction(24000, 1001)), (59.94, Fraction(60000, 1001)),
        (119.88, Fraction(120000, 1001)), (30000 / 1001, Fraction(30000, 1001)), (29.9, Fraction(299, 10)),
        (Fraction(2997, 100), Fraction(2997, 100)), (0.1, Fraction(1, 10)),
    ],
)  # fmt: skip
def test_frame_rates(written: Any, rate: Any) -> None:
    assert parse_rate(written) == rate
    assert vsr.UpscaleOptions(fps=written).fps == rate


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(1, 1), (1.5, Fraction(3, 2)), (0.1, Fraction(1, 10)), (29.97, Fraction(2997, 100)), ("1:30.5", Fraction(181, 2))],
)
def test_times(written: Any, seconds: Any) -> None:
    assert parse_time(written) == seconds
    assert vsr.UpscaleOptions(end=written).end == seconds


def test_wrong_values_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        vsr.UpscaleOptions(fps="fast", start="1:x", end=float("nan"), detail=2)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "'1:x' is not a time: write 90.5, 1:30.5 or 0:01:30.5; nan is not a time: write 90.5, 1:30.5 or 0:01:30.5; "
        "'fast' is not a frame rate: write 25 or 30000/1001; the detail must lie in [0, 1], got 2."
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"codec": "av1", "preset": 8}, "preset takes a text, got 8."),
        ({"codec": 5}, "codec takes a text, got 5."),
        ({"audio": None}, "audio takes a text, got None."),
        ({"model": 4}, "model takes a name, a path, or a model from load_model, got int."),
        ({"encoder": [("crf", "18")]}, "encoder takes texts or numbers by their names, got [('crf', '18')]."),
        ({"encoder": {"bf": [0]}}, "encoder takes texts or numbers by their names, got {'bf': [0]}."),
        ({"size": 320}, "size takes 2 whole numbers, got 320."),
        ({"size": (320, 180, 3)}, "size takes 2 whole numbers, got (320, 180, 3)."),
        ({"size": "320x180"}, "size takes 2 whole numbers, got '320x180'."),
        ({"size": (320.5, 180)}, "size takes 2 whole numbers, got (320.5, 180)."),
        ({"height": "1080p"}, "height takes a whole number, got '1080p'."),
        ({"height": math.inf}, "height takes a whole number, got inf."),
        ({"scale": "2"}, "scale takes a number, got '2'."),
        ({"scale": 10**400}, "scale takes a number, got 1000000000"),
        ({"scale": np.zeros(2)}, "scale takes a number, got array([0., 0.])."),
        ({"jobs": "2", "crf": "18"}, "crf takes a whole number, got '18'; jobs takes a whole number, got '2'."),
        ({"jobs": True}, "jobs takes a whole number, got True."),
        ({"fps": None}, "'None' is not a frame rate: write 25 or 30000/1001."),
        ({"start": [1]}, "[1] is not a time: write 90.5, 1:30.5 or 0:01:30.5."),
        ({"overwrite": "no"}, "overwrite takes True or False, got 'no'."),
        ({"steady": True}, "steady is one of auto, yes, no, got True."),
        ({"steady": np.zeros(2)}, "steady is one of auto, yes, no, got array([0., 0.])."),
        ({"source": 5}, "source takes a path, got 5."),
        ({"height": "1080p", "detail": 2}, "height takes a whole number, got '1080p'; the detail must lie in [0, 1]"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_a_wrong_kind_is_refused_by_name(values: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    call: Any = vsr.upscale
    with pytest.raises(UsageError) as caught:
        call(**{"source": "a.mp4", "target": tmp_path / "b.mp4", **values})
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("call", "values", "sentence"),
    [
        ("compare", {"inputs": 5, "target": 6}, "inputs takes paths, got 5; target takes a path, got 6."),
        ("compare", {"times": "0:01"}, "times takes numbers, got '0:01'."),
        ("compare", {"frames": [1.5]}, "frames takes whole numbers, got [1.5]."),
        ("compare", {"regions": (1, 2, 3)}, "regions takes one or more Region of x, y, width, height, got (1, 2, 3)."),
        ("compare", {"quality": "high"}, "quality takes a whole number or 'lossless', got 'high'."),
        ("compare", {"labels": 1}, "labels takes texts, got 1."),
        ("upscale_folder", {"sources": ["a.mp4", 2]}, "sources takes paths, got ['a.mp4', 2]."),
        ("train", {"seed": "0"}, "seed takes a whole number, got '0'."),
        ("train", {"steps": "10"}, "steps takes a whole number, got '10'."),
        ("train", {"recipe": ["srgan"]}, "there is no recipe ['srgan']"),
        ("train", {"init": 3, "time_limit": "8h"}, "init takes a path, got 3; time_limit takes a number, got '8h'."),
        ("train", {"data": []}, "name the pictures to train on with data."),
        ("TrainOptions", {"recipe": "srgan"}, "recipe takes a Recipe, got 'srgan'."),
        ("evaluate_images", {"scale": "4"}, "scale takes a whole number, got '4'."),
        ("evaluate_videos", {"vmaf_model": 1}, "vmaf_model takes a text, got 1."),
    ],
    ids=str,
)
def test_every_call_refuses_them(call: str, values: dict[str, Any], sentence: str) -> None:
    needed: dict[str, dict[str, Any]] = {
        "compare": {"inputs": ["a.png", "b.png"], "target": "c.png"},
        "upscale_folder": {"folder": "out"},
        "train": {"data": "a", "output": "b"},
        "TrainOptions": {"data": "a", "output": "b"},
        "evaluate_images": {"models": "bicubic", "data": "a"},
        "evaluate_videos": {"reference": "a", "outputs": "b"},
    }
    with pytest.raises(UsageError) as caught:
        getattr(vsr, call)(**{**needed.get(call, {}), **values})
    assert str(caught.value).startswith(sentence)


def test_a_recipe_refuses_them() -> None:
    override: Any = vsr.override
    for values, sentence in [
        ({"batch_size": "8"}, "batch_size takes a whole number, got '8'."),
        ({"pretrain_learning_rate": "1e-4"}, "learning_rate takes a number, got '1e-4'."),
        ({"video_noise": 3}, "noise takes 2 numbers, got 3."),
        ({"real_labels": 0.9}, "real_labels takes a Labels of kind, low, high, got 0.9."),
    ]:
        with pytest.raises(UsageError) as caught:
            override(RECIPES["srgan"], **values)
        assert str(caught.value) == sentence


def test_scalars_of_numpy_and_single_values_become_those_of_python() -> None:
    given: Any = {
        "scale": None, "size": np.array([320, 180]), "detail": np.float32(0.5), "crf": np.int64(18), "tile_size": 64.0,
        "codec": np.str_("h264"), "steady": np.str_("yes"), "overwrite": np.bool_(True), "batch_size": torch.tensor(2),
        "encoder": {"bf": 0, "x": np.float64(0.5)}, "fps": np.float64(12.5), "end": np.int64(3), "model": Path("m"),
    }  # fmt: skip
    options = vsr.UpscaleOptions(**given)
    assert options == vsr.UpscaleOptions(
        size=(320, 180), detail=0.5, crf=18, tile_size=64, codec="h264", steady="yes", overwrite=True, batch_size=2,
        encoder={"bf": "0", "x": "0.5"}, fps=Fraction(25, 2), end=Fraction(3), model="m",
    )  # fmt: skip
    assert vsr.UpscaleOptions.from_dict(json.loads(json.dumps(options.to_dict()))).size == (320, 180)
    region: Any = (1, 2, 30.0, np.int64(30))
    made: Any = {"inputs": "a.png", "hr": "b.png", "target": "c.png", "regions": region}
    for regions in (region, [region], vsr.Region(1, 2, 30, 30)):
        assert vsr.CompareOptions(**{**made, "regions": regions}).regions == (vsr.Region(1, 2, 30, 30),)
    call: Any = vsr.CompareOptions
    assert call(**{**made, "regions": (), "times": 1.5}).times == (1.5,)


def test_a_single_picture_is_not_taken_for_frames() -> None:
    call: Any = vsr.upscale_frames
    for single in (np.zeros((8, 8, 3), np.uint8), torch.zeros(8, 8), Image.new("L", (8, 8))):
        with pytest.raises(UsageError, match=r"frames takes pictures in order, got a single \w+: write \[frame\]\."):
            call(single, model="bicubic")
    assert len(list(call(np.zeros((2, 8, 8, 3), np.uint8), model="bicubic"))) == 2


def pictures(folder: Path, count: int = 2) -> Path:
    folder.mkdir()
    for number in range(count):
        write_picture(folder / f"{number:02}.png", np.full((8, 8, 3), 100 * number, np.uint8))
    return folder


def test_paths_may_be_text_everywhere(tmp_path: Path) -> None:
    lr = pictures(tmp_path / "lr")
    assert vsr.upscale(str(lr / "00.png"), str(tmp_path / "a.png"), model="bicubic").frames == 1
    outcomes = vsr.upscale_folder(str(lr), str(tmp_path / "sr"), model="bicubic", scale=2)
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    one, other = (str(tmp_path / "sr" / f"{number:02}.png") for number in range(2))
    shown = vsr.compare([one, other], str(tmp_path / "strip.png"), regions=[(0, 0, 8, 8)], labels=["one", "other"])
    assert shown.target == tmp_path / "strip.png"
    hr = tmp_path / "hr"
    hr.mkdir()
    write_picture(hr / "a.png", np.zeros((48, 48, 3), np.uint8))
    assert len(vsr.evaluate_images("bicubic", str(hr), lpips=False, device=torch.device("cpu")).scores) == 1
    with pytest.raises(OutputError, match="overwrite=True"):
        vsr.compare(one, str(tmp_path / "strip.png"), hr=other)


def test_options_objects_work_in_place_of_the_keywords(tmp_path: Path) -> None:
    lr = pictures(tmp_path / "lr")
    options = vsr.CompareOptions(inputs=(lr / "00.png", lr / "01.png"), target=tmp_path / "strip.png")
    seen: list[Any] = []
    call: Any = vsr.compare
    assert call(options, seen.append).target == options.target and seen
    call = vsr.train
    with pytest.raises(vsr.VsrError, match="none of the 2 pictures can be used"):
        call(vsr.TrainOptions(data=(lr,), output=tmp_path / "run", device="cpu"))


def test_an_unknown_recipe() -> None:
    with pytest.raises(UsageError, match="there is no recipe 'srgun'; there are srgan, "):
        vsr.train("data", "run", recipe="srgun")


# A loaded model


def test_a_loaded_model_upscales_as_a_named_one(make_clip: MakeClip, tiny_weights: Path, tmp_path: Path) -> None:
    clip = make_clip()
    asked: dict[str, Any] = {"codec": "ffv1", "pix_fmt": "yuv444p"}
    model = vsr.load_model(tiny_weights, device="cpu", tile_size=40)
    named = vsr.upscale(clip, tmp_path / "named.mp4", model=tiny_weights, tile_size=40, device="cpu", **asked)
    loaded = vsr.upscale(clip, tmp_path / "loaded.mp4", model=model, **asked)
    assert loaded.target.read_bytes() == named.target.read_bytes()
    again = vsr.upscale_folder([clip], tmp_path / "folder", model=model)
    assert [outcome.state for outcome in again] == ["done"]


def test_a_loaded_model_is_not_loaded_again(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vsr.load_model(tiny_weights, device="cpu")
    monkeypatch.setattr("vsr.inference.engine.load_network", lambda *args, **keywords: pytest.fail("loaded again"))
    lr = pictures(tmp_path / "lr")
    for target in ("a.png", "b.png"):
        assert vsr.upscale(lr / "00.png", tmp_path / target, model=model).frames == 1
    assert len(vsr.upscale_folder(lr, tmp_path / "sr", model=model)) == 2
    assert len(list(vsr.upscale_frames([np.zeros((8, 8, 3), np.uint8)], model=model))) == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"device": "cuda"}, "is loaded already: leave out device='cuda', or pass it to load_model"),
        ({"precision": "int8"}, "leave out precision='int8'"),
        ({"engine": "inductor"}, "leave out engine='inductor'"),
        ({"tile_size": 64}, "leave out tile_size=64"),
        ({"detail": 0.5}, "leave out detail=0.5"),
        ({"jobs": 2}, "a loaded model works in this process: leave out jobs and cluster"),
        ({"cluster": "auto"}, "leave out jobs and cluster"),
    ],
)
def test_a_loaded_model_is_used_as_it_is(asked: dict[str, Any], words: str, tiny_weights: Path) -> None:
    model = vsr.load_model(tiny_weights, device="cpu", engine="torch")
    with pytest.raises(UsageError, match=re.escape(words)):
        vsr.upscale("a.mp4", "b.mp4", model=model, **asked)


def test_what_the_model_has_may_be_said_again(tiny_weights: Path, tmp_path: Path) -> None:
    model = vsr.load_model(tiny_weights, device="cpu", engine="torch")
    lr = pictures(tmp_path / "lr")
    summary = vsr.upscale(lr / "00.png", tmp_path / "a.png", model=model, device=torch.device("cpu"), engine="torch")
    assert summary.frames == 1


# Progress, and stopping


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("by", ["event", "progress"])
def test_a_stopped_job_is_resumed(
    by: str, jobs: int, make_clip: MakeClip, tmp_path: Path
) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    asked: dict[str, Any] = {"model": "bicubic", "scale": 2, "jobs": jobs, "codec": "ffv1", "pix_fmt": "yuv420p"}
    whole = vsr.upscale(clip, tmp_path / "whole.mp4", **asked)
    event = threading.Event()

    def show(at: vsr.UpscaleProgress) -> bool | None:
        def finished() -> bool:
            return any(job_folder_of(target).glob("[0-9]*"))

        deadline = time.monotonic() + 30
        while jobs == 1 and at.frames >= 40 and not finished() and time.monotonic() < deadline:
            time.sleep(0.01)  # the encoder's thread finishes the first segments
        enough = finished()
        if by == "progress":
            return not enough
        if enough:
            event.set()
        return None

    stopped = vsr.upscale(clip, target, **asked, progress=show, stop=event)
    assert stopped.stopped and not target.exists()
    assert 0 < stopped.frames < 120 and (stopped.width, stopped.height) == (96, 64)
    seen: list[vsr.UpscaleProgress] = []
    resumed = vsr.upscale(clip, target, **asked, progress=seen.append)
    assert not resumed.stopped and resumed.resumed == stopped.frames and resumed.frames == 120
    assert target.read_bytes() == whole.target.read_bytes()
    assert seen[0].frames_per_second is None and seen[0].frames == stopped.frames
    rates = [at.frames_per_second for at in seen if at.frames_per_second is not None]
    assert rates and min(rates) > 0
    assert seen[-1].seconds_left == 0


def test_resumed_frames_do_not_count_in_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    from vsr.pipeline.job import speed

    assert speed(0, 5, 10) == (None, None)
    assert speed(20, 5, 10) == (4, 2.5)
    assert speed(20, 5, None) == (4, None)


def test_a_stop_before_the_first_frame_leaves_nothing(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target, event = make_clip(), tmp_path / "out.mp4", threading.Event()
    event.set()
    summary = vsr.upscale(clip, target, model="bicubic", stop=event)
    assert summary.stopped and summary.frames == 0
    assert not target.exists() and not job_folder_of(target).exists()


def test_a_stopped_folder(make_clip: MakeClip, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        make_clip(f"clips/{name}")
    seen: list[vsr.FolderProgress] = []

    def show(at: vsr.FolderProgress) -> bool:
        seen.append(at)
        return at.number < 2

    found: list[str] = []
    outcomes = vsr.upscale_folder(
        tmp_path / "clips", tmp_path / "out", model="bicubic", progress=show,
        on_outcome=lambda outcome: found.append(outcome.state),
    )  # fmt: skip
    assert [outcome.state for outcome in outcomes] == found == ["done", "stopped"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]
    assert seen[-1].frames_per_second is not None and seen[-1].seconds_left is not None
    again = vsr.upscale_folder(tmp_path / "clips", tmp_path / "out", model="bicubic")
    assert [outcome.state for outcome in again] == ["there", "done", "done"]


@pytest.mark.parametrize("by", ["event", "progress", "should_stop"])
def test_training_stops_the_same_way(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def train(options: Any, *, progress: Callable[[Any], None], should_stop: Callable[[], bool]) -> Any:
        asked.append(should_stop())
        progress("an update")
        asked.append(should_stop())

    monkeypatch.setattr("vsr.training.trainer.train", train)
    event = threading.Event()
    if by == "should_stop":
        call: Any = vsr.train
        answers = iter([False, True])
        call(vsr.TrainOptions(data=(Path("a"),), output=Path("b")), should_stop=lambda: next(answers))
    elif by == "event":
        vsr.train("a", "b", stop=event, progress=lambda at: event.set())
    else:
        vsr.train("a", "b", progress=lambda at: False)
    assert asked == [False, True]


# Quiet


def test_nothing_is_printed_and_messages_are_logged_by_name(
    make_clip: MakeClip, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("vsr").setLevel(logging.NOTSET)
    vsr.upscale(make_clip(), tmp_path / "out.mp4", model="bicubic")
    list(vsr.upscale_frames([np.zeros((8, 8, 3), np.uint8)], model="bicubic"))
    assert capfd.readouterr() == ("", "")
    assert {record.name.partition(".")[0] for record in caplog.records} <= {"vsr"}
