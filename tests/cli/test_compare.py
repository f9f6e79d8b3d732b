"""``vsr compare`` through its runner: what it prints, and every bad argument with its message."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from vsr.cli import main
from vsr.imaging.pictures import write_picture

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *(str(argument) for argument in arguments)])


def assert_refused(result: Result, code: int, words: str) -> None:
    """One line on stderr that holds the words, the exit code, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert lines[0].startswith("error: "), result.stderr
    assert len(lines) == 1 or lines[1:] == [lines[1]] and " --help lists the " in lines[1], result.stderr
    assert words in lines[0], result.stderr


@pytest.fixture
def files(tmp_path: Path, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of pictures and clips that the commands run in."""
    sizes = {"a.png": (40, 60), "b.png": (40, 60), "lr.png": (10, 15), "hr.png": (40, 60), "odd.png": (33, 60)}
    for seed, (name, (height, width)) in enumerate(sizes.items()):
        write_picture(tmp_path / name, np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    (tmp_path / "notes.png").write_text("not a picture")
    (tmp_path / "empty.mp4").touch()
    make_clip("a.mp4", audio=["aac"])
    make_clip("small.mp4", size=(24, 16))
    make_clip("short.mp4", pts=range(0, 4 * 512, 512))
    make_clip("late.mp4", pts=range(5120, 5120 + 8 * 512, 512))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_strip_is_told(files: Path) -> None:
    result = invoke("a.png", "b.png", "--lr", "lr.png", "--hr", "hr.png", "-o", "s.png", "--region", "5,6,20,10")
    assert result.exit_code == 0, result.output
    size = (files / "s.png").stat().st_size / 1e6
    labels = "LR, 15x10 | bicubic, 60x40 | a.png, 60x40 | b.png, 60x40 | HR, 60x40"
    assert result.stdout == f"s.png: a strip of {labels}, 196x151, {size:.1f} MB\n"


def test_a_video_as_json(files: Path) -> None:
    arguments = ["a.mp4", "a.mp4", "-o", "v.mkv", "--layout", "side-by-side", "--label", "1", "--label", "2"]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary.pop("seconds") > 0
    assert summary.pop("num_bytes") == (files / "v.mkv").stat().st_size
    assert summary == {
        "target": "v.mkv", "kind": "video", "labels": ["1", "2"], "width": 100, "height": 32, "frames": 8,
    }  # fmt: skip


def test_a_page_in_silence(files: Path) -> None:
    result = invoke("a.mp4", "--lr", "small.mp4", "--no-bicubic", "-o", "p.html", "--frames", 2, "--quality", 90, "-q")
    assert (result.exit_code, result.output) == (0, "")
    page = (files / "p.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2 + 6 == page.count("data:image/png"), "two, and six to play"


def test_an_existing_output_is_replaced_only_on_demand(files: Path) -> None:
    (files / "s.png").write_bytes(b"before")
    assert_refused(invoke("a.png", "b.png", "-o", "s.png"), 1, "s.png exists already; --overwrite replaces it.")
    assert (files / "s.png").read_bytes() == b"before"
    assert invoke("a.png", "b.png", "-o", "s.png", "--overwrite").exit_code == 0
    assert (files / "s.png").read_bytes().startswith(b"\x89PNG")


USAGE = {
    "-o s.png": "nothing to compare with",
    "a.png -o s.png": "there is nothing to compare with: name a second candidate, --lr or --hr.",
    "a.png b.png -o s.gif": "cannot tell what to write to s.gif: its name must end in .png, .jpg",
    "a.png b.png -o s": "cannot tell what to write to s",
    "a.png b.png -o s.png --label x": "2 candidates need as many labels, got 1.",
    "a.png b.png -o s.png --bicubic": "--bicubic needs the picture to interpolate: name it with --lr.",
    "a.png a.mp4 -o s.png": "a.png is a picture and a.mp4 is not: compare files of one kind.",
    "a.png --lr a.mp4 -o s.png": "a.png is a picture and a.mp4 is not",
    "a.png b.png -o v.mp4": "pictures cannot become the video v.mp4: name a .png or a .html.",
    "a.png b.png -o s.png --region 50,0,20,10": "the region 50,0,20,10 (x, y, width, height) is outside of the 60x40",
    "a.png b.png -o s.png --region 0,0,0,9": "the region 0,0,0,9 (x, y, width, height) is outside",
    "a.png b.png -o s.png --region 1,2,3": "'1,2,3' is not X,Y,W,H, four whole numbers separated by commas",
    "a.png b.png -o s.png --region a,2,3,4": "'a,2,3,4' is not X,Y,W,H",
    "a.png b.png -o s.png --region 0,0,9,9 --regions 3": "--region gives the regions to magnify, so --regions",
    "a.png b.png -o s.png --regions -1": "the number of regions must not be negative, got -1.",
    "a.png b.png -o s.png --align start": "--align is for clips, and these are pictures.",
    "a.mp4 a.mp4 -o s.png --align end": "'end' is not one of 'time', 'start'",
    "a.mp4 a.mp4 -o s.png --play 1": "--play is for a page, and s.png is a strip.",
    "a.mp4 a.mp4 -o p.html --play -1": "the time to play must be finite and not negative, got -1.0.",
    "a.png b.png -o s.png --time 0": "--time, --frame and --frames are for clips, and these are pictures.",
    "a.png b.png -o p.html --region 0,0,9,9": "--region is for a strip, and p.html is a page.",
    "a.mp4 a.mp4 -o v.mp4 --time 1": "--time is for a strip or a page, and v.mp4 is a video.",
    "a.png b.png -o s.png --layout grid": "--layout is for a video, and s.png is a strip.",
    "a.mp4 a.mp4 -o s.png --frames 3": "--frames is for a page, and s.png is a strip.",
    "a.mp4 a.mp4 -o s.png --time 0 --frame 1": "--time, --frame and --frames exclude each other.",
    "a.mp4 a.mp4 -o p.html --frames 0": "the number of frames must be at least 1, got 0.",
    "a.mp4 a.mp4 -o s.png --frame -1": "frames are counted from 0, got -1.",
    "a.mp4 a.mp4 -o s.png --frame 8": "there is no frame 8: the clip has 8 frames, counted from 0.",
    "a.mp4 a.mp4 -o s.png --time 0.5": "0.500 s is after the end of the clip, at 0.320 s.",
    "late.mp4 late.mp4 -o s.png --time 0.1": "0.100 s is before the start of the clip, at 0.400 s.",
    "a.mp4 a.mp4 -o s.png --time nan": "the time must be a number of seconds, got nan.",
    "a.mp4 a.mp4 -o s.png --time soon": "'soon' is not a valid float",
    "a.png b.png -o s.png --quality 90": "a .png is lossless, so --quality has no effect.",
    "a.png b.png -o s.jpg --quality lossless": "a JPEG is not lossless: name a .png.",
    "a.png b.png -o s.jpg --quality 101": "the quality lies in 1..100, got 101.",
    "a.png b.png -o s.jpg --quality best": "'best' is neither a whole number nor lossless",
    "a.mp4 a.mp4 -o v.mp4 --layout pile": "'pile' is not one of 'split', 'side-by-side', 'grid'",
}

FILES = {
    "a.png gone.png -o s.png": "cannot read gone.png: No such file or directory",
    "a.mp4 gone.mp4 -o v.mp4": "cannot read gone.mp4: No such file or directory",
    "a.png --lr gone.png -o s.png": "cannot read gone.png",
    "a.png notes.png -o s.png": "notes.png is not a picture that can be decoded",
    "a.mp4 empty.mp4 -o v.mp4": "empty.mp4 is empty",
    "a.png odd.png -o s.png": "odd.png is 60x33 and a.png is 60x40: nothing is rescaled",
    "a.png --lr odd.png -o s.png": "LR odd.png is 60x33 and a.png is 60x40, which is not a multiple of it.",
    "a.mp4 small.mp4 -o v.mp4": "small.mp4 is 24x16 and a.mp4 is 48x32: nothing is rescaled",
    "a.mp4 late.mp4 -o v.mp4": "late.mp4 and a.mp4 are not in step: frame 0 is at 0.400 s and at 0.000 s;",
    "a.mp4 short.mp4 -o v.mp4": "short.mp4 lasts 0.160 s and a.mp4 0.320 s, and nothing in them says which part of the",
    "a.png b.png -o a.png": "a.png is one of the inputs; give the output another name.",
    "a.png b.png -o nowhere/s.png": "the folder nowhere does not exist; create it first.",
    "a.png b.png -o here.png": "here.png is a folder; name a file in it.",
}


@pytest.mark.parametrize(("arguments", "code", "words"), [
    *((arguments, 2, words) for arguments, words in USAGE.items()),
    *((arguments, 1, words) for arguments, words in FILES.items()),
])  # fmt: skip
def test_what_is_refused(files: Path, arguments: str, code: int, words: str) -> None:
    (files / "here.png").mkdir()
    before = sorted(files.iterdir())
    assert_refused(invoke(*arguments.split()), code, words)
    assert sorted(files.iterdir()) == before, "nothing is left behind"


def test_all_contradictions_are_told_at_once(files: Path) -> None:
    result = invoke("a.png", "-o", "s.png", "--regions", -2, "--layout", "grid", "--bicubic")
    assert result.stderr == (
        "error: --bicubic needs the picture to interpolate: name it with --lr; "
        "--layout is for a video, and s.png is a strip; "
        "there is nothing to compare with: name a second candidate, --lr or --hr; "
        "the number of regions must not be negative, got -2.\n"
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom vsr.cli import main\n"
        "assert CliRunner().invoke(main, ['compare', '--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'cv2', 'av', 'numpy', 'matplotlib', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_labels_need_no_matplotlib(files: Path) -> None:
    code = (
        "import sys\nsys.modules['matplotlib'] = None\nfrom vsr.cli import main\n"
        "main(['compare', 'a.png', 'b.png', '-o', 's.png'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=files)
    assert (done.returncode, done.stderr) == (0, "") and (files / "s.png").is_file()
