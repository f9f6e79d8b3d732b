"""Options made from a dataclass, and that each value of a recipe arrives from the command line."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner, Result

from vsr.cli import main
from vsr.cli.options import FILE, SectionedCommand, SectionedOption, options_of
from vsr.cli.train import train as train_command
from vsr.comparison.options import CompareOptions
from vsr.evaluation.options import ImageEvalOptions, VideoEvalOptions
from vsr.options import described, option, option_of
from vsr.pipeline.options import BenchOptions, UpscaleOptions
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, STAGES, ClipDegradation, Labels, Recipe, Stage, VideoDegradation, override


@dataclass(frozen=True, kw_only=True)
class Oven:
    """Of each kind of field one."""

    heat: float = option(1e-4, "How hot, in kelvin. More is more.", metavar="KELVIN")
    trays: int = option(3, "Trays; two of them at the top.")
    mode: Literal["grill", "steam"] = option("grill", "grill: from above.")
    light: bool = option(True, "Light inside.")
    dirty: bool = option(False, "Not clean.")
    timer: bool | None = option(None, "Ring at the end.", default_text="with --minutes")
    span: tuple[float, float] = option((0.5, 2.0), "From and to.")
    shares: tuple[float, ...] = option((0.25, 0.5), "Shares of the time.")
    kinds: tuple[str, ...] = option(("bread", "cake"), "What is baked.")
    labels: Labels = option(Labels("uniform", 0.7, 1.0), "What is told.")
    manual: Path | None = option(None, "A file.")
    shelf: int | None = option(None, "Which one.", name="-s, --shelf-number", auto=True, at_least=1)
    fan: Literal["left", "right"] | None = option(None, "Which way.", default_text="left")
    guests: tuple[str, ...] = option((), "May be repeated.", name="--guest", repeated=True)
    extras: tuple[str, ...] = option(("a",), "May be repeated.", name="--extra", repeated=True, choices=("a", "b"))
    notes: Mapping[str, str] = field(default_factory=dict, metadata=described("One more.", name="-n"))
    brand: str = option("none", "")
    silent: int = 1


def run(name: str, *arguments: str, **keywords: Any) -> tuple[Result, list[Any]]:
    """Parse arguments with the option of one field; what it was, if parsing succeeded."""
    seen: list[Any] = []

    @click.command(cls=SectionedCommand)
    @options_of(Oven, name, section="The oven", types={"manual": FILE}, **keywords)
    def command(**values: Any) -> None:
        seen.append(values)

    return CliRunner().invoke(command, list(arguments)), seen


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("heat", ["--heat", "2e-3"], 2e-3),
        ("trays", ["--trays", "5"], 5),
        ("mode", ["--mode", "steam"], "steam"),
        ("light", ["--no-light"], False),
        ("light", ["--light"], True),
        ("timer", ["--no-timer"], False),
        ("dirty", ["--dirty"], True),
        ("span", ["--span", "0", "3"], (0.0, 3.0)),
        ("shares", ["--shares", "0.3, 0.6,0.9"], (0.3, 0.6, 0.9)),
        ("shares", ["--shares", "1"], (1.0,)),
        ("shares", ["--shares", ""], ()),
        ("kinds", ["--kinds", "cake,cake,pie"], ("cake", "cake", "pie")),
        ("labels", ["--labels", "normal:0.1:0.05"], Labels("normal", 0.1, 0.05)),
        ("manual", ["--manual", "oven.txt"], Path("oven.txt")),
        ("shelf", ["-s", "2"], 2),
        ("shelf", ["--shelf-number", "2"], 2),
        ("fan", ["--fan", "right"], "right"),
        ("guests", ["--guest", "Ann", "--guest", "Bob"], ("Ann", "Bob")),
        ("extras", ["--extra", "b"], ("b",)),
        ("notes", ["-n", "a=b=c", "-n", "d="], {"a": "b=c", "d": ""}),
        ("brand", ["--brand", "acme"], "acme"),
    ],
    ids=str,
)
def test_each_kind_of_field(name: str, arguments: list[str], value: Any) -> None:
    result, seen = run(name, *arguments)
    assert result.exit_code == 0, result.output
    assert seen == [{name: value}]
    assert type(seen[0][name]) is type(value)
    if isinstance(value, tuple):
        assert [type(item) for item in seen[0][name]] == [type(item) for item in value]


@pytest.mark.parametrize("name", [field.name for field in fields(Oven)])
def test_what_is_not_given_is_none(name: str) -> None:
    """So that a recipe's own value can be told from one that was asked for."""
    result, seen = run(name)
    assert (result.exit_code, seen) == (0, [{name: None}])


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("heat", ["--heat", "hot"], "Invalid value for '--heat': 'hot' is not a valid float."),
        ("trays", ["--trays", "2.5"], "Invalid value for '--trays': '2.5' is not a valid integer."),
        ("mode", ["--mode", "fry"], "Invalid value for '--mode': 'fry' is not one of 'grill', 'steam'."),
        ("span", ["--span", "1"], "Option '--span' requires 2 arguments."),
        ("span", ["--span", "1", "x"], "Invalid value for '--span': 'x' is not a valid float."),
        ("shares", ["--shares", "1,x"], "'1,x' is not a list of floats separated by commas"),
        ("labels", ["--labels", "soft"], "labels are written 0.9, uniform:0.7:1 or normal:0.1:0.05, got 'soft'"),
        ("labels", ["--labels", "2"], "labels lie in [0, 1], got 2"),
        ("manual", ["--manual", "."], "File '.' is a directory."),
        ("shelf", ["-s", "0"], "'0' is neither auto nor a whole number from 1 up."),
        ("extras", ["--extra", "c"], "'c' is not one of 'a', 'b'."),
        ("notes", ["-n", "a"], "'a' is not of the form KEY=VALUE."),
    ],
    ids=str,
)
def test_values_that_cannot_be(name: str, arguments: list[str], words: str) -> None:
    result, seen = run(name, *arguments)
    assert (result.exit_code, seen) == (2, [])
    assert words in result.stderr


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("heat", "--heat KELVIN How hot, in kelvin. More is more. [default: 0.0001]"),
        ("trays", "--trays INTEGER Trays; two of them at the top. [default: 3]"),
        ("mode", "--mode [grill|steam] grill: from above. [default: grill]"),
        ("light", "--light / --no-light Light inside. [default: yes]"),
        ("dirty", "--dirty Not clean."),
        ("timer", "--timer / --no-timer Ring at the end. [default: with --minutes]"),
        ("span", "--span FLOAT... From and to. [default: 0.5 2]"),
        ("shares", "--shares LIST Shares of the time. [default: 0.25,0.5]"),
        ("kinds", "--kinds LIST What is baked. [default: bread,cake]"),
        ("labels", "--labels LABELS What is told. [default: uniform:0.7:1]"),
        ("manual", "--manual FILE A file."),
        ("shelf", "-s, --shelf-number auto|N Which one."),
        ("fan", "--fan [left|right] Which way. [default: left]"),
        ("guests", "--guest TEXT May be repeated."),
        ("extras", "--extra [a|b] May be repeated. [default: a]"),
        ("notes", "-n KEY=VALUE One more."),
        ("brand", "--brand TEXT [default: none]"),
    ],
)
def test_the_help_of_each(name: str, shown: str) -> None:
    result, _ = run(name, "--help")
    section = result.output.partition("The oven:\n")[2].partition("\nOptions:\n")[0]
    assert " ".join(section.split()) == shown


def test_a_prefix_and_a_negative_form_of_what_is_off() -> None:
    assert run("light", "--stove-light", prefix="stove_")[1] == [{"stove_light": True}]
    assert run("dirty", "--no-dirty", negatable=True)[1] == [{"dirty": False}]
    assert run("dirty", "--no-dirty")[0].exit_code == 2


def test_values_of_an_instance_are_shown_and_names_chosen() -> None:
    @click.command(cls=SectionedCommand)
    @options_of(Oven(trays=7), without=("heat", "mode"))
    def command(**values: Any) -> None: ...

    assert {param.name for param in command.params} == {each.name for each in fields(Oven)} - {"heat", "mode"}
    assert "two of them at the top.  [default: 7]" in CliRunner().invoke(command, ["--help"]).output


@pytest.mark.parametrize(("required", "code"), [(True, 2), (False, 0)])
def test_a_field_without_a_default_is_required(required: bool, code: int) -> None:
    @dataclass
    class Cake:
        flour: str = field(metadata=described("Which."))

    @click.command(cls=SectionedCommand)
    @options_of(Cake, required=required)
    def command(**values: Any) -> None: ...

    assert CliRunner().invoke(command, []).exit_code == code


def test_sections_stand_in_the_order_of_their_options() -> None:
    @click.command(cls=SectionedCommand)
    @click.option("--plain", help="No section.")
    @options_of(Oven, "heat", section="Second")
    @options_of(Oven, "trays", section="Third")
    @options_of(Oven, "mode", section="Second")
    def command(**values: Any) -> None: ...

    lines = CliRunner().invoke(command, ["--help"]).output.splitlines()
    words = [line.split()[0] for line in lines if line and not line.startswith("   ") and "Usage" not in line]
    assert words == ["Options:", "--plain", "--help", "Second:", "--heat", "--mode", "Third:", "--trays"]


OPTIONS = [
    *(UpscaleOptions, BenchOptions, CompareOptions, ImageEvalOptions, VideoEvalOptions),
    *(TrainOptions, Recipe, Stage, VideoDegradation, ClipDegradation),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_field_says_what_it_is(options: type) -> None:
    known = {each.name: option_of(each) for each in fields(options)}
    assert [name for name, said in known.items() if not said.help and not said.note] == []


@pytest.mark.parametrize("options", OPTIONS)
def test_a_default_in_words_is_the_value_where_both_are_there(options: type) -> None:
    for each in fields(options):
        text = option_of(each).default_text
        if text and isinstance(each.default, (int, float)) and not isinstance(each.default, bool):
            assert type(each.default)(text) == each.default, each.name


# What follows is `vsr train`: each value given, and where it has to arrive.

RECIPE: dict[str, tuple[list[str], Any]] = {
    "unit": (["epochs"], "epochs"),
    "scale": (["2"], 2),
    "blocks": (["3"], 3),
    "channels": (["5"], 5),
    "upsampling": (["nearest"], "nearest"),
    "tanh": ([], True),
    "normalisation": (["imagenet"], "imagenet"),
    "norm_momentum": (["0.5"], 0.5),
    "discriminator_head": (["pooled"], "pooled"),
    "discriminator_channels": (["6"], 6),
    "content_network": (["vgg16"], "vgg16"),
    "content_activation": (["before"], "before"),
    "adversarial_form": (["relativistic"], "relativistic"),
    "real_labels": (["0.9"], Labels("fixed", 0.9)),
    "fake_labels": (["normal:0.1:0.05"], Labels("normal", 0.1, 0.05)),
    "betas": (["0.5", "0.99"], (0.5, 0.99)),
    "gradient_clip": (["1"], 1.0),
    "ema_decay": (["0.9"], 0.9),
    "batch_size": (["8"], 8),
    "accumulate": (["3"], 3),
    "crop_size": (["48"], 48),
    "crop": (["centre"], "centre"),
    "crops_per_picture": (["4"], 4),
    "sampling": (["by-picture"], "by-picture"),
    "flips": ([], False),
    "rotations": ([], False),
    "transposes": ([], True),
    "degradation": (["video"], "video"),
    "aligned": ([], False),
    "frames": (["8"], 8),
    "long_frames": (["12"], 12),
    "long_share": (["0.5"], 0.5),
    "backprop_frames": (["5"], 5),
    "rising_frames": (["2"], 2),
    "content_frames": (["3"], 3),
    "judged_frames": (["2"], 2),
    "real_motion": (["0.5"], 0.5),
}
STAGE: dict[str, tuple[list[str], Any]] = {
    "length": (["7"], 7),
    "learning_rate": (["2e-4"], 2e-4),
    "schedule": (["one-cycle"], "one-cycle"),
    "milestones": (["0.3,0.6"], (0.3, 0.6)),
    "mse": (["0.25"], 0.25),
    "l1": (["0.5"], 0.5),
    "charbonnier": (["0.75"], 0.75),
    "content": (["0.1"], 0.1),
    "content_layer": (["conv2_2"], "conv2_2"),
    "total_variation": (["0.01"], 0.01),
    "ping_pong": (["0.5"], 0.5),
    "teacher": (["0.3"], 0.3),
    "artefacts": (["0.2"], 0.2),
    "adversarial": (["0.002"], 0.002),
}
VIDEO: dict[str, tuple[list[str], Any]] = {
    "clean": (["0.5"], 0.5),
    "blur": (["0", "1.5"], (0.0, 1.5)),
    "reductions": (["area"], ("area",)),
    "noise": (["0", "3"], (0.0, 3.0)),
    "motion": (["2"], 2.0),
    "still": (["0.9"], 0.9),
    "frames": (["2"], 2),
    "context": (["4"], 4),
    "chroma": (["yuv444p,yuv420p"], ("yuv444p", "yuv420p")),
    "codecs": (["h265,none"], ("h265", "none")),
    "h264_crf": (["20", "25"], (20, 25)),
    "h265_crf": (["21", "26"], (21, 26)),
    "mpeg2_quantiser": (["3", "4"], (3, 4)),
}
CLIP: dict[str, tuple[list[str], Any]] = {
    "clean": (["0.5"], 0.5),
    "gaussian": (["0.5"], 0.5),
    "blur": (["0", "1.5"], (0.0, 1.5)),
    "reductions": (["area"], ("area",)),
    "sharpened": (["0.5"], 0.5),
    "sharpening": (["1", "1.5"], (1.0, 1.5)),
    "sharpening_radius": (["1.5", "2"], (1.5, 2.0)),
    "noise": (["0", "3"], (0.0, 3.0)),
    "interlaced": (["0.5"], 0.5),
    "context": (["4"], 4),
    "lead": (["2"], 2),
    "chroma": (["yuv444p,yuv420p"], ("yuv444p", "yuv420p")),
    "codecs": (["mpeg4,none"], ("mpeg4", "none")),
    "h264_crf": (["20", "25"], (20, 25)),
    "h265_crf": (["21", "26"], (21, 26)),
    "mpeg2_quantiser": (["3", "4"], (3, 4)),
    "mpeg4_quantiser": (["3", "4"], (3, 4)),
    "worst": (["0.5"], 0.5),
    "worst_crf": (["45"], 45),
    "keyframes": (["5", "50"], (5, 50)),
    "again": (["0.5"], 0.5),
    "again_size": (["0.8", "1.2"], (0.8, 1.2)),
}
LEARNS = ("length", "learning_rate", "schedule", "milestones")
"""What the discriminator's own stage has; it minimises no loss of the generator's."""


OF_CLIPS = (
    *("aligned", "frames", "long_frames", "long_share", "backprop_frames"),
    *("rising_frames", "content_frames", "judged_frames", "ping_pong", "teacher", "artefacts"),
)
"""What the recipe of a recurrent generator alone takes."""


def every_value() -> Iterator[Any]:
    for name, (words, value) in RECIPE.items():
        flag = f"no-{name}" if value is False else name
        yield pytest.param(flag, words, name, value, id=name)
    for stage in STAGES:
        for name, (words, value) in STAGE.items():
            if stage == "discriminator" and name not in LEARNS or (stage, name) == ("pretrain", "adversarial"):
                continue
            yield pytest.param(f"{stage}_{name}", words, f"{stage}.{name}", value, id=f"{stage}_{name}")
    for name, (words, value) in VIDEO.items():
        yield pytest.param(f"video_{name}", words, f"video.{name}", value, id=f"video_{name}")
    for name, (words, value) in CLIP.items():
        yield pytest.param(f"clip_{name}", words, f"clip.{name}", value, id=f"clip_{name}")


def flat(recipe: Recipe) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for each in fields(recipe):
        value = getattr(recipe, each.name)
        if isinstance(value, (Stage, VideoDegradation, ClipDegradation)):
            values |= {f"{each.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)}
        else:
            values[each.name] = value
    return values


@pytest.fixture(autouse=True)
def a_run_to_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of an older version, which has no file of options."""
    monkeypatch.setattr(sys.modules["vsr.cli.train"], "stored_config", lambda output: {})


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TrainOptions]]:
    """The options that the library is called with, in its place."""
    from vsr.training.trainer import TrainSummary

    seen: list[TrainOptions] = []

    def instead(options: TrainOptions, **callbacks: Any) -> TrainSummary:
        seen.append(options)
        return TrainSummary(options.output / "generator.safetensors", "adversarial", 3, None, {}, False)

    monkeypatch.setattr("vsr.training.trainer.train", instead)
    logger = logging.getLogger("vsr")
    before = (logger.handlers[:], logger.level)
    yield seen
    logger.handlers[:], logger.level = before


def train(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", "--data", "pictures", "-o", "run", *map(str, arguments)])


def test_no_value_of_a_recipe_is_left_out() -> None:
    own = {"follows", "generator", *STAGES, "video", "clip"}
    assert {*RECIPE} | own == {field.name for field in fields(Recipe)}
    assert STAGE.keys() == {field.name for field in fields(Stage)}
    assert VIDEO.keys() == {field.name for field in fields(VideoDegradation)}
    assert CLIP.keys() == {field.name for field in fields(ClipDegradation)}
    flags = {param.name for param in train_command.params if isinstance(param, SectionedOption)}
    expected = {field.name for field in fields(TrainOptions)} - {"recipe", "command"}
    expected |= RECIPE.keys() | {"generator"} | {f"video_{name}" for name in VIDEO} | {f"clip_{name}" for name in CLIP}
    expected |= {f"{stage}_{name}" for stage in ("pretrain", "adversarial") for name in STAGE}
    expected |= {f"discriminator_{name}" for name in LEARNS}
    assert flags == expected


@pytest.mark.parametrize(("flag", "words", "where", "value"), list(every_value()))
def test_a_value_arrives_and_moves_no_other(
    arrived: list[TrainOptions], flag: str, words: list[str], where: str, value: Any
) -> None:
    name = where.rpartition(".")[2]
    recipe = "video-recurrent" if name in OF_CLIPS and not where.startswith("video.") else "srgan"
    extra = ["--teacher", "a.safetensors"] if name == "teacher" else []
    result = train("--recipe", recipe, f"--{flag.replace('_', '-')}", *words, *extra)
    assert result.exit_code == 0, result.output
    before, after = flat(RECIPES[recipe]), flat(arrived[0].recipe)
    assert before[where] != value, "a value that is the default shows nothing"
    assert after == before | {where: value}
    assert type(after[where]) is type(value)


def test_the_kind_of_generator(arrived: list[TrainOptions]) -> None:
    """Which is nothing by itself: a recurrent one wants clips."""
    refused = train("--generator", "recurrent")
    assert refused.exit_code == 2 and "frames must be at least 3, got 1" in refused.output
    assert train("--generator", "recurrent", "--frames", 7).exit_code == 0
    assert arrived[0].recipe == override(RECIPES["srgan"], generator="recurrent", frames=7)


def test_an_override_is_of_the_recipe_that_was_named(arrived: list[TrainOptions]) -> None:
    assert train("--recipe", "div2k-256", "--flips", "--pretrain-length", 9, "--no-tanh").exit_code == 0
    assert arrived[0].recipe == override(RECIPES["div2k-256"], flips=True, pretrain_length=9)
    assert train("--recipe", "coco-176", "--no-tanh").exit_code == 0
    assert arrived[1].recipe == override(RECIPES["coco-176"], tanh=False)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_as_it_is(arrived: list[TrainOptions], name: str) -> None:
    assert train("--recipe", name).exit_code == 0
    assert arrived[0].recipe == RECIPES[name]


RUN: dict[str, tuple[list[str], Any]] = {
    "seed": (["9"], 9),
    "init": (["a.safetensors"], Path("a.safetensors")),
    "init_discriminator": (["b.safetensors"], Path("b.safetensors")),
    "content_weights": (["c.pth"], Path("c.pth")),
    "teacher": (["e.safetensors"], Path("e.safetensors")),
    "lpips_weights": (["d.pth"], Path("d.pth")),
    "licence": (["CC0"], "CC0"),
    "hold_out": (["3"], 3),
    "validate_every": (["4"], 4),
    "checkpoint_every": (["5"], 5),
    "log_every": (["6"], 6),
    "tensorboard": ([], True),
    "device": (["cpu"], "cpu"),
    "devices": (["2"], 2),
    "nodes": (["2"], 2),
    "precision": (["bf16"], "bf16"),
    "compile": ([], True),
    "cache": (["none"], "none"),
    "workers": (["1"], 1),
    "resume": ([], True),
    "overwrite": ([], True),
    "time_limit": (["1h30m"], 5400.0),
    "lpips": (["alex"], "alex"),
    "stage": (["adversarial"], "adversarial"),
    "validation": (["held"], (Path("held"),)),
}


@pytest.mark.parametrize("name", RUN)
def test_the_run_arrives(arrived: list[TrainOptions], name: str) -> None:
    words, value = RUN[name]
    follows = name == "teacher"
    recipe = override(RECIPES["fast-recurrent"], pretrain_teacher=1.0) if follows else RECIPES["srgan"]
    context = ["--recipe", "fast-recurrent", "--pretrain-teacher", "1"] if follows else []
    assert train(f"--{name.replace('_', '-')}", *words, *context).exit_code == 0
    before = TrainOptions(
        data=(Path("pictures"),), output=Path("run"), recipe=recipe, teacher=Path("other") if follows else None
    )
    assert getattr(before, name) != value
    assert dataclasses.replace(arrived[0], command="") == dataclasses.replace(before, **{name: value})


def test_no_choice_of_the_run_is_left_out() -> None:
    assert {*RUN, "data", "output", "recipe", "command"} == {field.name for field in fields(TrainOptions)}


def test_data_may_be_repeated_and_the_command_is_kept(
    arrived: list[TrainOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/vsr", "train", "--data", "two words"])
    assert train("--data", "more.zip", "--validation", "a", "--validation", "b").exit_code == 0
    assert arrived[0].data == (Path("pictures"), Path("more.zip"))
    assert arrived[0].validation == (Path("a"), Path("b"))
    assert arrived[0].command == "vsr train --data 'two words'"


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [
        (["--steps", 6], [5, 0, 1]),
        (["--steps", 6, "--stage", "pretrain"], [6, 0, 200_000]),
        (["--steps", 6, "--stage", "discriminator"], [1_000_000, 6, 200_000]),
        (["--steps", 6, "--stage", "adversarial"], [1_000_000, 0, 6]),
        (["--steps", 6, "--stage", "all", "--pretrain-length", 0], [0, 0, 6]),
        (["--steps", 8, "--pretrain-length", 1, "--discriminator-length", 1, "--adversarial-length", 2], [2, 2, 4]),
        (["--recipe", "vgg16-tv", "--steps", 7], [1, 1, 5]),
    ],
    ids=str,
)
def test_steps(arrived: list[TrainOptions], arguments: list[object], lengths: list[int]) -> None:
    result = train(*arguments)
    assert result.exit_code == 0, result.output
    assert [arrived[0].recipe.stage(name).length for name in STAGES] == lengths
    assert arrived[0].recipe.unit == "steps"


def test_an_epoch_stays_one_without_steps(arrived: list[TrainOptions]) -> None:
    assert train("--recipe", "vgg16-tv", "--adversarial-length", 9).exit_code == 0
    assert (arrived[0].recipe.unit, arrived[0].recipe.adversarial.length) == ("epochs", 9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h", 28800), ("90m", 5400), ("3600s", 3600), ("3600", 3600), ("1h30m", 5400), ("1:30:00", 5400), ("1:30", 90),
     ("0.5h", 1800), ("1h0m1.5s", 3601.5)],
)  # fmt: skip
def test_a_duration(arrived: list[TrainOptions], text: str, seconds: float) -> None:
    assert train("--time-limit", text).exit_code == 0
    assert arrived[0].time_limit == seconds


@pytest.mark.parametrize("text", ["", "8 h", "h", "1m30h", "-5m", "eight", "1:2:3:4", "1e3", "8d", "0s"])
def test_no_duration(arrived: list[TrainOptions], text: str) -> None:
    result = train("--time-limit", text)
    assert result.exit_code == 2 and ("is not a duration" in result.output or "must be positive" in result.output)
    assert not arrived


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("name", RECIPES)
def test_the_help_shows_the_defaults_of_the_named_recipe(name: str, order: int) -> None:
    words = [["--recipe", name], ["--help"]]
    result = CliRunner().invoke(main, ["train", *words[order], *words[1 - order]])
    text = " ".join(result.output.split())
    assert result.exit_code == 0 and f"The recipe, with the defaults of {name}:" in text
    for flag, value in (("crop-size", RECIPES[name].crop_size), ("pretrain-length", RECIPES[name].pretrain.length)):
        described = text.partition(f"--{flag} INTEGER")[2].partition("[default: ")[2]
        assert described.startswith(f"{value:d}]"), flag
    again = CliRunner().invoke(main, ["train", "--help"])
    assert "The recipe, with the defaults of srgan:" in again.output


def test_the_bar_keeps_its_figures_at_80_columns() -> None:
    from tqdm import tqdm

    from vsr.cli.train import BAR, figures
    from vsr.training.step import Quality
    from vsr.training.trainer import TrainProgress

    losses = dict.fromkeys(("generator_loss", "mse", "content", "adversarial", "discriminator_loss"), 0.000123456)
    at = TrainProgress("discriminator", 123_456, 1_200_000, losses, Quality(28.1234, 0.8, 0.1))
    line = tqdm.format_meter(
        n=at.step, total=at.steps, elapsed=45_678.0, initial=1000, ncols=80, prefix=at.stage, postfix=figures(at),
        bar_format=BAR,
    )  # fmt: skip
    assert len(line) == 80
    assert line.startswith("discriminator 123456/1200000 |") and line.endswith(" left, loss 0.000123, 28.12 dB")
    assert figures(TrainProgress("discriminator", 1, 2, {"discriminator_loss": 0.5}, None)) == "loss 0.5"
    assert figures(TrainProgress("pretrain", 1, 2, {}, None)) == ""
