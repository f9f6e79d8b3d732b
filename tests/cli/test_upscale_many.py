"""``vsr upscale`` on many inputs and long ones: tables, events, estimates, and the words for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import without_plan

from vsr.cli import main
from vsr.cli.upscale import _duration, _size

MakeClip = Callable[..., Path]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def clips(make_clip: MakeClip, tmp_path: Path) -> Path:
    """Two clips, and a file that is none."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "c.mp4"):
        make_clip(name).rename(folder / name)
    (folder / "b.mp4").write_bytes(b"no clip")
    return folder


def test_a_folder(clips: Path, tmp_path: Path) -> None:
    result = invoke("upscale", clips, "-o", tmp_path / "out", "--model", "bicubic", "--scale", "2")
    assert result.exit_code == 1
    rows = [line.split()[:2] for line in result.stdout.splitlines()[2:]]
    assert rows == [["a.mp4", "done"], ["b.mp4", "failed"], ["c.mp4", "done"]]
    said = without_plan(result.stderr)
    assert "b.mp4 is not a video that can be read" in said and len(said.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "c.mp4"]
    again = invoke("upscale", clips, "-o", tmp_path / "out", "--model", "bicubic", "--scale", "2", "--json")
    found = json.loads(again.stdout)
    assert again.exit_code == 1
    assert {name: found[name] for name in ("done", "damaged", "there", "failed")} == {
        "done": 0, "damaged": 0, "there": 2, "failed": 1,
    }  # fmt: skip
    events = [json.loads(line) for line in again.stderr.splitlines()]
    assert [(event["event"], event["state"]) for event in events] == [
        ("clip", "there"), ("clip", "failed"), ("clip", "there"),
    ]  # fmt: skip


def test_all_done(clips: Path, tmp_path: Path) -> None:
    (clips / "b.mp4").unlink()
    result = invoke("upscale", clips, "-o", tmp_path / "out", "--model", "bicubic", "-q")
    assert (result.exit_code, result.output) == (0, "")
    result = invoke("upscale", clips / "a.mp4", clips / "c.mp4", "-o", tmp_path / "out", "--model", "bicubic")
    assert result.exit_code == 0 and result.stdout.count("exists already; --overwrite replaces it") == 2


def test_one_file_into_a_folder(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    result = invoke("upscale", clips / "a.mp4", "-o", tmp_path / "out", "--model", "bicubic", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["target"] == str(tmp_path / "out" / "a.mp4")
    result = invoke("upscale", clips / "a.mp4", "-o", tmp_path / "out", "--model", "bicubic")
    assert result.exit_code == 1 and "exists already" in result.stderr


def test_events(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.cli.terminal.EVENT_SECONDS", 0)
    result = invoke("upscale", clips / "a.mp4", "-o", tmp_path / "a.mp4", "--model", "bicubic", "--json")
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [event["frames"] for event in events] == list(range(9))
    assert {(event["event"], event["num_frames"]) for event in events} == {("progress", 8)}
    assert events[-1]["seconds_left"] == 0 and all(event["frames_per_second"] > 0 for event in events[1:])


def test_dry_run(clips: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    result = invoke("upscale", clips / "a.mp4", "-o", target, "--model", "bicubic", "--scale", "2", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{target}: 8 frames of 96x64 in 1 segment; about ")
    assert "estimated from 8 frames" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["clips"], "nothing is written"


def test_dry_run_of_a_folder(clips: Path, tmp_path: Path) -> None:
    arguments = ("upscale", clips, "-o", tmp_path / "out", "--model", "bicubic", "--dry-run")
    result = invoke(*arguments)
    assert result.exit_code == 1 and "b.mp4 is not a video" in result.stderr
    assert result.stdout.splitlines()[-1].startswith("2 clips: about ")
    found = json.loads(invoke(*arguments, "--json").stdout)
    assert (len(found["clips"]), len(found["errors"]), found["frames"]) == (2, 1, 16)
    assert found["output_bytes"] == sum(clip["output_bytes"] for clip in found["clips"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["clips"], "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--device", "cpu,cuda:0", "--jobs", "1"], "jobs must be at least 1, and one for each device, got 1"),
        (["--device", "cpu,cpu"], "devices are named once each"),
        (["--device", "cpu,"], "devices are named once each"),
    ],
)
def test_what_cannot_be(clips: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    result = invoke("upscale", clips, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2 and words in result.stderr
    assert not (tmp_path / "out").exists()


def test_many_into_one(clips: Path, tmp_path: Path) -> None:
    result = invoke("upscale", clips, "-o", tmp_path / "out.mp4")
    assert result.exit_code == 2 and "clips holds clips, and" in result.stderr


def test_words_for_amounts() -> None:
    assert [_duration(seconds) for seconds in (0.5, 12, 200, 7500, 266400)] == [
        "0.5 s", "12.0 s", "3 min 20 s", "2 h 5 min", "3 days 2 h",
    ]  # fmt: skip
    assert [_size(count) for count in (500, 2_500_000, 3_000_000_000)] == ["0 kB", "2.5 MB", "3.0 GB"]
