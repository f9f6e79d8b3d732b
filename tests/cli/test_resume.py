"""``vsr resume``: the manifest alone tells how a job goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from vsr.cli import main
from vsr.pipeline.journal import JobFolder, job_folder_of
from vsr.pipeline.options import UpscaleOptions

MakeClip = Callable[..., Path]

LONG = {"pts": range(0, 24_000, 500), "time_base": Fraction(1, 1000)}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command that is interrupted when some segments are finished."""

    def run(*arguments: object, after: int = 2) -> Result:
        commit, count = JobFolder.commit, [0]

        def stopping(self: JobFolder, *given: object) -> None:
            commit(self, *given)  # type: ignore[arg-type]
            count[0] += 1
            if count[0] == after:
                raise KeyboardInterrupt

        with monkeypatch.context() as context:
            context.setattr("vsr.pipeline.segment.QUEUE_BYTES", 1)
            context.setattr(JobFolder, "commit", stopping)
            context.setattr("sys.argv", ["vsr", *map(str, arguments)])
            return invoke(*arguments)

    return run


def content(path: Path) -> list[tuple[Fraction, str]]:
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, hashlib.md5(frame.to_ndarray().tobytes()).hexdigest())
            for frame in container.decode(video=0)
        ]


WORDS = ("--model", "bicubic", "--size", "80x60", "--start", "1", "--crf", "30", "-x", "g=7", "--audio", "none")


def test_a_clip(
    make_clip: MakeClip, tmp_path: Path, interrupted: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder, under relative names, with all options of the command."""
    make_clip(**LONG, audio=["aac"])
    monkeypatch.chdir(tmp_path)
    result = interrupted("upscale", "clip.mp4", "-o", "out.mp4", *WORDS)
    assert result.exit_code == 130
    assert "vsr: 18 of 46 frames are kept; to resume, run: vsr upscale clip.mp4 -o out.mp4 --model" in result.stderr
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = interrupted("resume", "../out.mp4", after=1)
    assert result.exit_code == 130
    assert "vsr: 27 of 46 frames are kept; to resume, run: vsr resume ../out.mp4\n" in result.stderr
    result = invoke("resume", "../out.mp4", "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["frames"], summary["resumed"], summary["width"]) == (46, 27, 80)
    assert invoke("upscale", tmp_path / "clip.mp4", "-o", "whole.mp4", *WORDS).exit_code == 0
    assert content(tmp_path / "out.mp4") == content(Path("whole.mp4"))
    assert (tmp_path / "out.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    result = invoke("resume", "../out.mp4")
    assert (result.exit_code, result.stderr) == (
        2, "error: there is nothing to resume for ../out.mp4: its job is done, or no segment of it was finished.\n",
    )  # fmt: skip


def test_numbered_pictures_as_input(
    tmp_path: Path, interrupted: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(1, 13):
        cv2.imwrite(str(tmp_path / "in" / f"f_{number:04}.png"), np.full((6, 8, 3), number, np.uint8))
    monkeypatch.setattr("vsr.pipeline.job.PICTURES", 4)
    monkeypatch.setattr("vsr.pipeline.segments.PICTURES", 4)
    monkeypatch.chdir(tmp_path)
    words = ("--model", "bicubic", "--scale", "2")
    assert interrupted("upscale", "in/f_%04d.png", "-o", "out.mkv", *words, after=1).exit_code == 130
    result = invoke("resume", tmp_path / "out.mkv", "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["frames"] == 12 and summary["resumed"] > 0
    assert invoke("upscale", "in/f_%04d.png", "-o", "each", *words).exit_code == 0
    assert len(list((tmp_path / "each").iterdir())) == 12
    result = invoke("upscale", "in/g_%04d.png", "-o", "none.mkv", *words)
    assert (result.exit_code, result.stderr) == (1, "error: no file matches in/g_%04d.png.\n")


def test_pictures(make_clip: MakeClip, tmp_path: Path, interrupted: Callable[..., Result]) -> None:
    target = tmp_path / "frames" / "%03d.png"
    target.parent.mkdir()
    words = ("upscale", make_clip(**LONG), "-o", target, "--model", "identity")
    for name in (target, target.parent):
        assert interrupted(*words).exit_code == 130
        result = invoke("resume", name, "-q")
        assert (result.exit_code, result.output) == (0, "")
        assert len(list(target.parent.iterdir())) == 48
        for path in target.parent.iterdir():
            path.unlink()


def test_a_folder(make_clip: MakeClip, tmp_path: Path, interrupted: Callable[..., Result]) -> None:
    """All of the command, not only the clip that was at hand."""
    for number in range(3):
        path = tmp_path / "clips" / "deeper" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_clip(**LONG).rename(path)
    out = tmp_path / "out"
    result = interrupted("upscale", tmp_path / "clips", "-o", out, "--recursive", "--model", "identity", after=7)
    assert result.exit_code == 130
    assert "vsr: 1 of 3 clips are done, 18 of 48 frames of 1.mp4 are kept; to resume, run: vsr" in result.stderr
    result = invoke("resume", out)
    assert result.exit_code == 0, result.output
    assert [line.split()[:2] for line in result.stdout.splitlines()[2:]] == [
        ["0.mp4", "there"], ["1.mp4", "done"], ["2.mp4", "done"],
    ]  # fmt: skip
    assert sorted(path.name for path in (out / "deeper").iterdir()) == ["0.mp4", "1.mp4", "2.mp4"]


def test_a_folder_run_says_done_of_what_was_killed_while_it_tidied_up(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips").mkdir()
    make_clip(**LONG).rename(tmp_path / "clips" / "a.mp4")
    words = ("upscale", tmp_path / "clips", "-o", tmp_path / "out", "--model", "identity")
    with monkeypatch.context() as context:
        context.setattr(JobFolder, "clear", lambda self: None)
        assert invoke(*words).exit_code == 0
    assert job_folder_of(tmp_path / "out" / "a.mp4").is_dir()
    result = invoke(*words)
    assert result.exit_code == 0 and result.stdout.splitlines()[2].split()[:2] == ["a.mp4", "done"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]


def test_options_survive_json() -> None:
    options = UpscaleOptions(
        model="identity", size=(80, 60), start=Fraction(1, 3), fps=Fraction(30000, 1001), encoder={"bf": "0"}, jobs=2
    )
    assert UpscaleOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    assert UpscaleOptions.from_dict(json.loads(json.dumps(UpscaleOptions().to_dict()))) == UpscaleOptions()


def test_a_job_of_another_version(
    make_clip: MakeClip, tmp_path: Path, interrupted: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    to_dict = UpscaleOptions.to_dict
    with monkeypatch.context() as context:
        context.setattr(UpscaleOptions, "to_dict", lambda self: to_dict(self) | {"fashion": 1})
        interrupted("upscale", make_clip(**LONG), "-o", tmp_path / "out.mp4", "--model", "identity")
    result = invoke("resume", tmp_path / "out.mp4")
    assert result.exit_code == 2
    assert result.stderr.endswith("is from another version of vsr; repeat the command that started it.\n")
    with monkeypatch.context() as context:
        context.setattr(UpscaleOptions, "to_dict", lambda self: to_dict(self) | {"detail": 3.0})
        interrupted("upscale", make_clip(**LONG), "-o", tmp_path / "out.mkv", "--model", "identity")
    result = invoke("resume", tmp_path / "out.mkv")
    assert (result.exit_code, result.stderr) == (2, "error: the detail must lie in [0, 1], got 3.0.\n")


# Names


@pytest.mark.parametrize("length", [247, 248, 251, 255])
def test_long_names(length: int, make_clip: MakeClip, tmp_path: Path, interrupted: Callable[..., Result]) -> None:
    clip, target = make_clip(**LONG), tmp_path / ("x" * (length - 4) + ".mp4")
    assert interrupted("upscale", clip, "-o", target, "--model", "identity").exit_code == 130
    result = invoke("resume", target)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([clip.name, target.name])


@pytest.mark.parametrize("what", ["output", "input", "path", "pattern"])
def test_names_that_are_too_long(what: str, make_clip: MakeClip, tmp_path: Path) -> None:
    long, path = "x" * 252 + ".mp4", tmp_path / Path(*["d" * 200] * 21) / "out.mp4"
    words = {
        "output": (make_clip(), tmp_path / long),
        "input": (tmp_path / long, tmp_path / "out.mp4"),
        "path": (make_clip(), path),
        "pattern": (make_clip(), tmp_path / ("x" * 250 + "%02d.png")),
    }[what]
    result = invoke("upscale", words[0], "-o", words[1], "--model", "identity")
    assert result.exit_code in (1, 2) and len(result.stderr.splitlines()) == 1, result.output
    assert "too long" in result.stderr and "bug" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_name_too_long_does_not_stop_the_rest(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a" * 252 + ".rm", "a" * 252 + ".ts", "c.mp4"):  # the first would become .mkv
        make_clip().rename(folder / name)
    result = invoke("upscale", folder, "-o", tmp_path / "out", "--model", "identity", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [(Path(clip["target"]).name[-4:], clip["state"]) for clip in found["clips"]] == [
        (".mkv", "failed"), ("a.ts", "done"), (".mp4", "done"),
    ]  # fmt: skip
    assert found["clips"][0]["error"].endswith("File name too long.")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a" * 252 + ".ts", "c.mp4"}
