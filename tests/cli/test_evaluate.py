"""``vsr eval`` through its runner: what it prints and writes, and every bad argument with its message."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from vsr.cli import main

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of two small pictures."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        rough = random.integers(0, 256, (8, 10, 3), np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(rough, (40, 32), interpolation=cv2.INTER_CUBIC))
    return folder


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *(str(argument) for argument in arguments)])


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One line on stderr that holds the words, the exit code, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == "" and "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: "), result.stderr
    assert len(lines) == 1 or lines[1:] == [lines[1]] and " --help lists the " in lines[1], result.stderr
    for word in words:
        assert word in lines[0], result.stderr


def test_help_costs_nothing() -> None:
    code = (
        "import sys\nfrom vsr.cli import main\n"
        "try:\n    main(['eval', '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'av', 'cv2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(heading in done.stdout for heading in ("Pictures:", "Clips:", "Both:"))


def test_pictures_as_a_table(photographs: Path, tiny_weights: Path) -> None:
    result = invoke("--model", tiny_weights, "--model", "bicubic", "--data", photographs, "--no-lpips")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert " ".join(lines[0].split()) == "data pictures model PSNR-Y [dB] SSIM-Y seconds [s] memory [MiB]"
    assert lines[2].split()[:3] == ["photographs", "2", str(tiny_weights)]
    assert lines[3].split()[:3] == ["photographs", "2", "bicubic"] and "*" in lines[3]
    assert "scale: 4" in lines and result.stderr == ""


def test_pictures_as_json_and_in_files(photographs: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"out.{ending}" for ending in ("json", "csv", "md")]
    wanted = [word for file in files for word in ("--output", file)]
    result = invoke("--model", "bicubic", "--data", photographs, "--no-lpips", "--per-picture", "--json", *wanted)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert [row["picture"] for row in content["rows"]] == ["a.png", "b.png", "mean of 2"]
    mean = sum(row["PSNR-Y"] for row in content["rows"][:2]) / 2
    assert content["rows"][2]["PSNR-Y"] == pytest.approx(mean)
    assert json.loads(files[0].read_text()) == content
    rows = list(csv.DictReader(line for line in files[1].read_text().splitlines() if not line.startswith("#")))
    assert [float(row["PSNR-Y"]) for row in rows] == [row["PSNR-Y"] for row in content["rows"]]
    assert f"| photographs | mean of 2 | bicubic | {mean:.2f} |" in files[2].read_text()


def test_the_options_arrive(photographs: Path) -> None:
    base = ["--model", "bicubic", "--data", photographs, "--no-lpips", "--json"]
    plain = json.loads(invoke(*base).stdout)
    other = json.loads(invoke(*base, "--scale", 2, "--border", 5, "--colour", "rgb", "--tile", 64).stdout)
    assert plain["about"]["scale"] == 4 and "border of 4 pixels" in plain["about"]["PSNR and SSIM"]
    assert other["about"]["scale"] == 2 and "border of 5 pixels" in other["about"]["PSNR and SSIM"]
    assert "PSNR-RGB" in other["rows"][0] and "PSNR-RGB" not in plain["rows"][0]
    twice = json.loads(invoke(*base, "--data", photographs).stdout)
    assert [row["PSNR-Y"] for row in twice["rows"]] == [plain["rows"][0]["PSNR-Y"]] * 2


def test_infinity_is_strict_json(photographs: Path) -> None:
    result = invoke("--model", "identity", "--data", photographs, "--no-lpips", "--json")
    rows = json.loads(result.stdout, parse_constant=pytest.fail)["rows"]
    assert rows[0]["PSNR-Y"] == "inf" and rows[0]["SSIM-Y"] == pytest.approx(1)


def test_quiet_says_nothing(photographs: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    result = invoke("--model", "bicubic", "--data", photographs, "--no-lpips", "-q", "-o", target)
    assert (result.exit_code, result.output) == (0, "")
    assert target.read_text().startswith("data,pictures,model,PSNR-Y,SSIM-Y,")


def test_lr_is_paired_by_name(photographs: Path, tmp_path: Path) -> None:
    lr = tmp_path / "lr"
    lr.mkdir()
    for name in ("a_LRx4", "bx4"):
        cv2.imwrite(str(lr / f"{name}.png"), np.zeros((8, 10, 3), np.uint8))
    arguments = ["--model", "bicubic", "--data", photographs, "--lr", lr, "--no-lpips"]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["about"]["LR"] == {str(photographs): str(lr)}
    (lr / "bx4.png").rename(lr / "bx3.png")
    assert_refused(invoke(*arguments), 1, "1 in", "without LR: b.png", "without HR: bx3.png")
    (lr / "bx3.png").rename(lr / "b.png")
    cv2.imwrite(str(lr / "b.png"), np.zeros((9, 10, 3), np.uint8))
    assert_refused(invoke(*arguments), 1, "b.png has 10x9 pixels", "b.png with its 40x32 has 10x8")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["name clips to measure, the original first, or pictures with --model and --data"]),
        (["--data", "hr"], 2, ["name a model to measure with --model"]),
        (["--model", "bicubic"], 2, ["name a folder of HR pictures with --data"]),
        (["--model", "bicubic", "--data", "nowhere"], 1, ["cannot read the folder", "nowhere"]),
        (["--model", "bicubic", "--data", "empty"], 1, ["no pictures in", "empty"]),
        (["--model", "nope", "--data", "hr"], 2, ["there is no model 'nope'"]),
        (["--model", "bicubic", "--data", "hr", "--lr", "hr", "--lr", "hr"], 2, ["1 of --data and 2 of --lr"]),
        (["--model", "bicubic", "--data", "hr", "--lr", "hr"], 1, ["a.png has 40x32 pixels, but a x4 LR of"]),
        (["--model", "bicubic", "--data", "hr", "--border", -1], 2, ["the border must not be negative"]),
        (["--model", "bicubic", "--data", "hr", "--border", 12], 1, ["at least 35 each way"]),
        (["--model", "bicubic", "--data", "hr", "--scale", 0], 2, ["the scale must be at least 1"]),
        (["--model", "bicubic", "--data", "hr", "--scale", 1.5], 2, ["'1.5' is not a valid integer"]),
        (["--model", "bicubic", "--data", "hr", "--tile", "big"], 2, ["neither auto nor a whole number"]),
        (["--model", "bicubic", "--data", "hr", "--tile", 8], 2, ["a tile of 8 is too small"]),
        (["--model", "bicubic", "--data", "hr", "--device", "tpu"], 2, ["no device is called 'tpu'"]),
        (["--model", "bicubic", "--data", "hr", "--colour", "cmyk"], 2, ["cmyk"]),
        (["--model", "bicubic", "--data", "hr", "--fid", "vgg"], 2, ["vgg"]),
        (["--model", "bicubic", "--data", "hr", "--fid", "squeezenet"], 2, ["one of 'none', 'inception'"]),
        (["--model", "bicubic", "--data", "hr", "--lpips-weights", "empty"], 1, ["cannot read the weights"]),
        (["--model", "bicubic", "--data", "hr", "--vmaf"], 2, ["--vmaf is for clips"]),
        (["--model", "bicubic", "--data", "hr", "--plot", "p.png"], 2, ["--plot is for clips"]),
        (["a.mp4", "b.mp4", "--data", "hr"], 2, ["clips and pictures exclude each other: a.mp4", "--data is for"]),
        (["a.mp4", "b.mp4", "--no-lpips"], 2, ["exclude each other", "--no-lpips is for the pictures"]),
        (["--model", "bicubic", "--data", "hr", "--lpips", "vgg"], 2, ["one of 'squeeze', 'alex', 'none'"]),
        (["a.mp4"], 2, ["a.mp4 alone cannot be measured"]),
        (["a.mp4", "b.mp4"], 1, ["a.mp4", "No such file"]),
        (
            ["a.mp4", "b.mp4", "--lr", "c.mp4", "--lr", "d.mp4"],
            2,
            ["with one LR clip: give --lr once, got 2 of them"],
        ),
        (["a.mp4", "b.mp4", "--plot", "p.pdf"], 2, ["p.pdf cannot be written: its name must end in .png"]),
        (["a.mp4", "b.mp4", "--per-frame", "f.txt"], 2, ["f.txt cannot be written", ".json or .csv or .md"]),
        (["a.mp4", "b.mp4", "--per-frame", "f.csv", "-o", "f.csv"], 2, ["f.csv is named twice as an output"]),
    ],
)
def test_requests_that_cannot_be(
    photographs: Path, tmp_path: Path, arguments: list[object], code: int, words: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    paths = {"hr": photographs, "nowhere": tmp_path / "nowhere", "empty": tmp_path / "empty"}
    assert_refused(invoke(*(paths.get(str(word), word) for word in arguments)), code, *words)


def test_outputs_are_looked_at_before_the_work(photographs: Path, tmp_path: Path) -> None:
    existing = tmp_path / "there.md"
    existing.write_text("precious")
    arguments = ["--model", "bicubic", "--data", photographs, "--no-lpips"]
    for target, code, words in [
        (existing, 1, "there.md exists already; --overwrite replaces it"),
        (tmp_path / "out.xlsx", 2, "its name must end in .json or .csv or .md"),
        (tmp_path / "no" / "out.md", 1, "does not exist; create it first"),
    ]:
        # A model that does not exist would be the next complaint.
        assert_refused(invoke("--model", "nope", "--data", photographs, "-o", target), code, words)
    assert existing.read_text() == "precious"
    assert invoke(*arguments, "-o", existing, "--overwrite", "-q").exit_code == 0
    assert existing.read_text().startswith("| data | pictures | model |")


def test_clips(make_clip: MakeClip, tmp_path: Path) -> None:
    reference = make_clip("reference.mkv", codec="ffv1", options={}, pix_fmt="yuv420p", size=(64, 48))
    worse = make_clip("worse.mp4", options={"crf": "40"}, size=(64, 48))
    frames, plot = tmp_path / "frames.csv", tmp_path / "plot.png"
    arguments = [reference, worse, reference, "--no-vmaf", "--align", "start", "--json"]
    result = invoke(*arguments, "--per-frame", frames, "--plot", plot)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout, parse_constant=pytest.fail)["rows"]
    assert [row["output"] for row in rows] == ["worse.mp4", "reference.mkv"]
    assert [row["frames"] for row in rows] == [8, 8]
    assert 20 < rows[0]["PSNR-Y"] < 60 and rows[1]["PSNR-Y"] == "inf"
    assert len([line for line in frames.read_text().splitlines() if not line.startswith("#")]) == 17
    assert cv2.imread(str(plot)) is not None
    assert_refused(invoke(*arguments, "--plot", plot), 1, "plot.png exists already; --overwrite replaces it")
