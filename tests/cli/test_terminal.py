"""Names of files and what files say of themselves, on their way to a terminal: they steer nothing, forge no line."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from vsr.cli import main, terminal
from vsr.cli.terminal import echo, echo_error, echo_lines, show_progress, start_logging
from vsr.errors import InputError
from vsr.networks.generator import Generator
from vsr.networks.weights import save_network

NASTY = "\x1b[2J\x9b31m\u202e\x07a\nvsr: all is done\r"
"""Clears the screen, recolours it, turns the direction of writing, rings, and adds a line of ours."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_clean(text: str) -> None:
    """Nothing but letters and line ends, and no forged line."""
    assert text
    strange = [each for each in text if unicodedata.category(each) == "Cc" and each != "\n" or each == "\u202e"]
    assert not strange, repr(text)
    assert not [line for line in text.splitlines() if line.startswith("vsr: all is done")], text


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two pictures of such names."""
    folder = tmp_path / f"pictures{NASTY}"
    folder.mkdir()
    for number in range(2):
        _, encoded = cv2.imencode(".png", np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8))
        (folder / f"{number}{NASTY}.png").write_bytes(encoded.tobytes())
    return folder


@pytest.fixture
def weights(tmp_path: Path, tiny_generator: Callable[..., Generator]) -> Path:
    path = tmp_path / f"tiny{NASTY}.safetensors"
    save_network(path, tiny_generator(), {"purpose": NASTY, NASTY: f"free text{NASTY}"})
    return path


def test_errors_of_all_commands(tmp_path: Path, pictures: Path) -> None:
    nowhere = tmp_path / f"nowhere{NASTY}"
    for words in (
        ["upscale", nowhere, "-o", tmp_path / "out.mp4"],
        ["upscale", next(pictures.iterdir()), "-o", tmp_path / f"out{NASTY}.xyz", "--model", "identity"],
        ["upscale", next(pictures.iterdir()), "-o", tmp_path / "out.png", "--model", nowhere],
        ["train", "--data", nowhere, "-o", tmp_path / "run"],
        ["train", "--data", pictures, "-o", tmp_path / "run", "--init", nowhere, "--crop-size", 16],
        ["eval", "--model", "bicubic", "--data", nowhere],
        ["eval", nowhere, nowhere],
        ["compare", nowhere, nowhere, "-o", tmp_path / "strip.png"],
        ["models", "show", nowhere],
        ["resume", nowhere],
        ["upscale", f"--nonsense{NASTY}"],
        ["upscale", "a.mp4", "-o", "b.mp4", "--device", NASTY],
        ["upscale", "a.mp4", "-o", "b.mp4", "--engine", NASTY],
        [f"command{NASTY}"],
        [f"--option{NASTY}"],
        ["compare", "a.png", "b.png", "-o", "c.png", "--region", NASTY],
    ):
        result = run(*words)
        assert result.exit_code in (1, 2), (words, result.output)
        assert_clean(result.stderr)
        assert not result.stdout and "bug" not in result.stderr
        first, *others = result.stderr.splitlines()
        assert first.startswith("error: "), result.stderr
        assert not others or result.exit_code == 2 and re.fullmatch(r"vsr( \w+)? --help lists the \w+\.", *others)


@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_warnings_and_tracebacks(tmp_path: Path, pictures: Path, verbose: list[str]) -> None:
    """Of pictures that are too small, and of an error behind them."""
    result = run("train", "--data", pictures, "-o", tmp_path / "run", "--crop-size", 64, *verbose)
    assert result.exit_code == 1
    assert_clean(result.stderr)
    lines = result.stderr.splitlines()
    assert sum(line.startswith("warning: left out: ") for line in lines) == 2
    assert lines[-1].startswith("error: none of the 2 pictures can be used")
    assert all(line.startswith(("warning: ", "error: ", "vsr: ", "  ")) for line in lines)
    assert any("Traceback" in line for line in lines) == bool(verbose)


def test_results(tmp_path: Path, pictures: Path, weights: Path) -> None:
    picture = next(pictures.iterdir())
    for words, where in (
        (["models", "show", weights], "stdout"),
        (["eval", "--model", weights, "--data", pictures, "--no-lpips", "--per-picture"], "stdout"),
        (["upscale", pictures, "-o", tmp_path / f"out{NASTY}", "--model", "identity", "--dry-run"], "stdout"),
        (["upscale", picture, "-o", tmp_path / f"out{NASTY}.png", "--model", "identity"], "stdout"),
        (["upscale", pictures, "-o", tmp_path / f"many{NASTY}", "--model", "identity"], "stdout"),
        (["compare", picture, picture, "-o", tmp_path / f"strip{NASTY}.png"], "stdout"),
    ):
        result = run(*words)
        assert result.exit_code == 0, (words, result.output)
        assert_clean(getattr(result, where))
        if result.stderr:
            assert_clean(result.stderr)


@pytest.mark.parametrize("command", ["eval", "upscale", "compare", "models"])
def test_json_escapes_by_itself(tmp_path: Path, pictures: Path, command: str) -> None:
    picture = next(pictures.iterdir())
    words = {
        "eval": ["eval", "--model", "bicubic", "--data", pictures, "--no-lpips", "--per-picture"],
        "upscale": ["upscale", picture, "-o", tmp_path / f"out{NASTY}.png", "--model", "identity"],
        "compare": ["compare", picture, picture, "-o", tmp_path / f"strip{NASTY}.png"],
        "models": ["models"],
    }[command]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1 and result.stdout.isascii() and result.stdout[:-1].isprintable()
    json.loads(result.stdout)


def test_a_name_that_is_no_text(pictures: Path) -> None:
    """Bytes of a file's name that are no UTF-8."""
    next(pictures.iterdir()).rename(pictures / "a\udcff.png")
    words = ["eval", "--model", "bicubic", "--data", pictures, "--no-lpips", "--per-picture"]
    assert "a?.png" in run(*words).stdout and "a?.png" in run(*words, "--json").stdout


def test_a_terminal_that_knows_few_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, speak, label in (("stdout", echo, ""), ("stderr", echo_error, "error: ")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, name, stream)
        speak("clip \u00fc\u6620.mp4")
        stream.flush()
        written = stream.buffer.getvalue()  # type: ignore[attr-defined]
        assert written == f"{label}clip \\xfc\\u6620.mp4\n".encode()


def test_lines_of_a_table_are_kept_apart(capsys: pytest.CaptureFixture[str]) -> None:
    echo_lines("name  size\n\x1b[1ma  1")
    assert capsys.readouterr().out == "name  size\n\\x1b[1ma  1\n"


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The description of a bar, and what is written above it."""

    class At:
        frames = num_frames = resumed = number = count = 1
        pair = type("Pair", (), {"source": Path(f"clip{NASTY}.mp4")})
        clip = type("Clip", (), {"frames": 1, "num_frames": 1, "resumed": 0})

    class Outcome:
        state, error = "failed", f"clip{NASTY}.mp4 is damaged"

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with show_progress(as_json=False, quiet=False, num_inputs=2) as display:
        display.folder(At())  # type: ignore[arg-type]
        display.outcome(Outcome())  # type: ignore[arg-type]
    text = capsys.readouterr().err
    assert "clip\\x1b[2J" in text and "\u202e" not in text and "\x07" not in text and "\nvsr: all" not in text


def test_a_log_record(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(0, quiet=False)
    try:
        raise InputError(f"a{NASTY}")
    except InputError:
        logging.getLogger("vsr.somewhere").warning("look at %s", NASTY, exc_info=True)
    assert_clean(capsys.readouterr().err)
    assert terminal.one_line(NASTY) == "\\x1b[2J\\x9b31m\\u202e\\x07a vsr: all is done "


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("upscal in.mp4", "no such command 'upscal'; did you mean upscale?"),
        ("Train", "no such command 'Train'; did you mean train?"),
        ("xyzzy", "no such command 'xyzzy'."),
        ("models shwo", "no such command 'shwo'; did you mean show?"),
        ("--vers", "no such option '--vers'; did you mean --version?"),
        ("upscale in.mp4 --sclae 2", "no such option '--sclae'; did you mean --scale?"),
        ("train --xyzzy", "no such option '--xyzzy'."),
        ("upscale -o out.mp4", "missing argument 'INPUT... [OUT]'."),
    ],
)
def test_a_usage_error_is_a_sentence_and_the_way_to_the_help(words: str, said: str) -> None:
    result = run(*words.split())
    path = {"upscale": "vsr upscale", "models": "vsr models", "train": "vsr train"}.get(words.split()[0], "vsr")
    listed = "options" if path in ("vsr upscale", "vsr train") else "commands"
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.splitlines() == [f"error: {said}", f"{path} --help lists the {listed}."]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--engine trch", "'openvino'; did you mean torch?"),
        ("--precision xyz", "'int8'."),
        ("--codec hevc --preset slwo", "hevc has no preset 'slwo' (did you mean slow?): use ultrafast"),
        ("--codec h266", "or an encoder's name; did you mean h265?"),
        ("--codec libx256", "or an encoder's name; did you mean libx265?"),
        ("--codec xyz", "or an encoder's name."),
        ("--pix-fmt yuv420", "; did you mean yuv420p?"),
        ("-x crff=2", "; did you mean crf?"),
        ("--audio libopsu", "; did you mean libopus?"),
    ],
)
def test_a_mistyped_value_gets_a_suggestion(make_clip: Callable[..., Path], words: str, said: str) -> None:
    clip = make_clip()
    result = run("upscale", clip, "-o", clip.with_name("out.mp4"), "--model", "bicubic", *words.split())
    assert result.exit_code == 2 and said in result.stderr.splitlines()[0], result.stderr


def test_a_mistyped_recipe_gets_a_suggestion() -> None:
    assert "; did you mean srgan?" in run("train", "--recipe", "srgn").stderr


def test_vsr_alone_prints_the_help() -> None:
    result = run()
    assert (result.exit_code, result.stdout, result.stderr) == (0, run("--help").stdout, "")


@pytest.mark.parametrize(
    ("variables", "is_terminal", "coloured"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False), ({}, False, False)],
    ids=str,
)
def test_only_a_terminal_gets_colours(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_terminal: bool, coloured: bool
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.setattr(sys, "stderr", stream := Stream())
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    start_logging(1, quiet=False)
    logger = logging.getLogger("vsr.somewhere")
    logger.warning("of \x1b[2Jnote")
    logger.info("as it is")
    echo_error("wrong \x1b[2J")
    red, yellow, reset = ("\x1b[31m\x1b[1m", "\x1b[33m\x1b[1m", "\x1b[0m") if coloured else ("", "", "")
    assert stream.getvalue().splitlines() == [
        f"{yellow}warning:{reset} of \\x1b[2Jnote", "vsr: as it is", f"{red}error:{reset} wrong \\x1b[2J",
    ]  # fmt: skip
