"""What the commands print fits a terminal of 80 columns; a pipe gets whole lines."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vsr.cli import main, terminal
from vsr.machine import STAGES, Speed
from vsr.training.log import COLUMNS, Statistics, summary_table

WIDTH = 80


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(inner, (*path, name))


def too_long(text: str) -> list[str]:
    """Return the lines that do not fit, unless they are one word, which is not cut: a path."""
    words = [line for line in text.splitlines() if len(line) > WIDTH]
    return [line for line in words if max(map(len, line.split())) < WIDTH - 40]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "terminal_width", lambda: WIDTH)


def printed(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_every_help(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert not [line for line in printed(*path, "--help").splitlines() if len(line) > WIDTH]


@pytest.mark.parametrize("words", ["models", "models show video-x4", "doctor"])
def test_records(narrow: None, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    shown = printed(*words.split())
    assert not too_long(shown)
    monkeypatch.setattr(terminal, "terminal_width", lambda: None)
    whole = printed(*words.split())
    free = re.compile(r"[\d.]+\sGiB")
    assert free.sub("", shown).split() == free.sub("", whole).split()
    assert len(shown.splitlines()) > len(whole.splitlines())


def test_the_table_of_a_folder(narrow: None, tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    make_clip("a_clip_with_a_name_that_is_longer_than_most_of_the_names_of_clips_from_a_camera.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    shown = printed("upscale", *sorted(tmp_path.glob("*.mp4")), "-o", tmp_path / "out", "--model", "bicubic", code=1)
    assert not [line for line in shown.splitlines() if len(line) > WIDTH], shown
    assert "failed" in shown and "is not a video" in " ".join(shown.split())


def test_the_table_of_bench(narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = Speed("video-x4", 320, 180, "OpenVINO 2026.4.1", "fp32", "cpu", 1234.5, 0.5, 1234.5, 0.5,
                  dict.fromkeys(STAGES, 1234.5), 10**10, 100)  # fmt: skip
    monkeypatch.setattr("vsr.machine.bench", lambda options: iter([speed, speed]))
    shown = printed("bench")
    assert not [line for line in shown.splitlines() if len(line) > WIDTH], shown
    assert all(stage in shown for stage in STAGES)


def test_the_table_of_eval(narrow: None, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name)
    words = ["--model", "bicubic", "--data", tmp_path, "--no-lpips", "--per-picture"]
    shown = printed("eval", *words)
    assert not [line for line in shown.splitlines() if len(line) > WIDTH], shown


def test_the_summary_of_a_training() -> None:
    least = Statistics(-1.2345e-05, 1.2345e-05, -1.2345e-05, -1.2345e-05)
    assert max(map(len, summary_table({"discriminator": dict.fromkeys(COLUMNS, least)}).splitlines())) <= WIDTH


@pytest.mark.parametrize(("is_terminal", "width"), [(True, 97), (False, None)])
def test_only_a_terminal_has_a_width(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, width: int | None
) -> None:
    monkeypatch.setenv("COLUMNS", "97")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    assert terminal.terminal_width() == width
