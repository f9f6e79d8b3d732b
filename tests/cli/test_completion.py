"""What shells complete, asked as they ask."""

from __future__ import annotations

import pytest
from click.shell_completion import BashComplete

from vsr.cli import main
from vsr.networks import BUILT_IN_DESCRIPTIONS
from vsr.networks.weights import shipped_models


def completed(*words: str) -> list[tuple[str, str]]:
    """Return (type, value) of what completes the last word."""
    shell = BashComplete(main, {}, "vsr", "_VSR_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(list(words[:-1]), words[-1])]


def plain(*words: str) -> list[str]:
    return [value for kind, value in completed(*words) if kind == "plain"]


def test_commands_and_options() -> None:
    assert plain("") == list(main.commands) and plain("up") == ["upscale"]
    assert plain("upscale", "--si") == ["--size"]
    assert plain("models", "s") == ["show"]


def test_choices_and_recipes() -> None:
    assert plain("upscale", "--precision", "b") == ["bf16"]
    assert plain("train", "--recipe", "coco") == ["coco-200", "coco-176"]


@pytest.mark.parametrize(
    "words",
    [("upscale", "--model"), ("bench", "--model"), ("eval", "--model"), ("models", "show"), ("models", "calibrate")],
    ids=" ".join,
)
def test_models_then_files(words: tuple[str, ...]) -> None:
    offered = plain(*words, "")
    assert {info.name for info in shipped_models()} < set(offered) and {"video", "srgan", "bicubic"} < set(offered)
    assert plain(*words, "vid") == [name for name in offered if name.startswith("vid")]
    assert completed(*words, "run/gen") == [("file", "run/gen")]


def test_models_without_a_file_are_named() -> None:
    assert BUILT_IN_DESCRIPTIONS.keys() <= set(plain("upscale", "--model", ""))


def test_inputs_are_files() -> None:
    assert completed("upscale", "in") == [("file", "in")]
    assert completed("upscale", "in.mp4", "-o", "out") == [("file", "out")]
