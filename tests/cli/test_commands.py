"""The commands through their runner: every bad argument with its message, its exit code, and nothing left behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from vsr.cli import main
from vsr.machine import SIZES
from vsr.networks.weights import load_generator, models_folder, read_info
from vsr.training.config import read_config

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One line on stderr that holds the words, the exit code, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert lines[0].startswith("error: "), result.stderr
    assert len(lines) == 1 or lines[1:] == [lines[1]] and " --help lists the " in lines[1], result.stderr
    for word in words:
        assert word in lines[0], result.stderr


def test_help_names_the_commands() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("upscale", "train", "models"))


@pytest.mark.parametrize("command", ["upscale", "train", "models", "models show", "models calibrate", "bench"])
def test_every_command_has_help(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_upscale_says_what_it_did(make_clip: MakeClip, tiny_weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    result = invoke("upscale", make_clip(), "-o", target, "--model", tiny_weights, "--tile", 0, "--batch", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{target}: 8 frames of 192x128 in ")
    assert target.exists()


def test_upscale_json_prints_one_object_and_nothing_else(make_clip: MakeClip, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    result = invoke("upscale", make_clip(audio=["aac"]), "-o", target, "--model", "bicubic", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["frames"], summary["width"], summary["height"]) == (8, 192, 128)
    assert summary["target"] == str(target)
    assert summary["streams"] == ["stream 1, aac audio: copied"]


def test_upscale_quiet_says_nothing(make_clip: MakeClip, tmp_path: Path) -> None:
    result = invoke("upscale", make_clip(), "-o", tmp_path / "out.mp4", "--model", "bicubic", "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_what_cannot_travel_is_said(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("two.mkv", audio=["libopus"])
    result = invoke("upscale", clip, "-o", tmp_path / "out.mov", "--model", "bicubic")
    assert result.exit_code == 0, result.output
    assert "stream 1, opus audio: converted to aac (mov cannot hold opus)" in result.stderr


@pytest.fixture
def damaged_clip(make_clip: MakeClip) -> Path:
    clip = make_clip("damaged.mkv", codec="ffv1", pts=range(0, 1600, 40), time_base=Fraction(1, 1000))
    with clip.open("r+b") as file:
        file.truncate(clip.stat().st_size // 2)
    return clip


@pytest.mark.parametrize(("tolerant", "code"), [([], 1), (["--tolerant"], 0)])
def test_damage_is_a_failure_whose_output_is_kept(
    damaged_clip: Path, tmp_path: Path, tolerant: list[str], code: int
) -> None:
    target = tmp_path / "out.mkv"
    result = invoke("upscale", damaged_clip, "-o", target, "--model", "identity", "--json", *tolerant)
    assert result.exit_code == code, result.output
    summary = json.loads(result.stdout)
    assert 5 < summary["frames"] < 40 and target.exists()
    assert "missing at the end: " in summary["damage"]
    assert f"{damaged_clip} is damaged: {summary['damage']}. {target} is kept." in result.stderr


def test_a_whole_clip_has_no_damage(make_clip: MakeClip, tmp_path: Path) -> None:
    result = invoke("upscale", make_clip(), "-o", tmp_path / "out.mp4", "--model", "identity", "--json")
    assert (result.exit_code, json.loads(result.stdout)["damage"], result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "frames", "size"),
    [
        (["--start", "0.08"], 6, (48, 32)),
        (["--start", "0:00:00.08", "--end", "00:0.2"], 3, (48, 32)),
        (["--end", "0.2"], 5, (48, 32)),
        (["--end", "1:0"], 8, (48, 32)),
        (["--size", "24x16"], 8, (24, 16)),
        (["--height", 16], 8, (24, 16)),
        (["--scale", 0.5], 8, (24, 16)),
        (
            ["--pix-fmt", "yuv444p", "--codec", "h264", "-x", "crf=3", "-x", "x264-params=keyint=2:bframes=0"],
            8,
            (48, 32),
        ),
        (["--codec", "libx264rgb", "-x", "qp=0"], 8, (48, 32)),
        (["--deinterlace", "yes"], 8, (48, 32)),
    ],
    ids=str,
)
def test_what_can_be_asked_for(
    make_clip: MakeClip, tmp_path: Path, arguments: list[object], frames: int, size: tuple[int, int]
) -> None:
    result = invoke("upscale", make_clip(), "-o", tmp_path / "out.mkv", "--model", "identity", "--json", *arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["frames"], (summary["width"], summary["height"])) == (frames, size)


def test_options_of_the_encoder_reach_it(make_clip: MakeClip, tmp_path: Path) -> None:
    sizes = []
    for crf in (0, 50):
        target = tmp_path / f"{crf}.mp4"
        assert invoke("upscale", make_clip(), "-o", target, "--model", "identity", "-x", f"crf={crf}").exit_code == 0
        sizes.append(target.stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize(
    ("rate", "expected"), [("10", Fraction(10)), ("30000/1001", Fraction(30000, 1001)), ("2.5", Fraction(5, 2))]
)
def test_frames_a_second_of_pictures(tmp_path: Path, rate: str, expected: Fraction) -> None:
    import av

    (tmp_path / "in").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), np.full((32, 48, 3), 40 * number, np.uint8))
    target = tmp_path / "out.mp4"
    result = invoke("upscale", tmp_path / "in", "-o", target, "--model", "identity", "--fps", rate)
    assert result.exit_code == 0, result.output
    with av.open(str(target)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [number / expected for number in range(5)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.mp4", ["cannot read", "missing.mp4", "No such file or directory"]),
        ("empty.mp4", ["empty.mp4 is empty"]),
        ("random.mp4", ["random.mp4 is not a video that can be read"]),
        ("sound.mp4", ["sound.mp4 holds no video, only audio"]),
        ("folder", ["the folder", "holds no pictures"]),
    ],
)
def test_inputs_that_are_no_video(make_clip: MakeClip, tmp_path: Path, name: str, words: list[str]) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "random.mp4").write_bytes(np.random.default_rng(0).bytes(4096))
    (tmp_path / "folder").mkdir()
    if name == "sound.mp4":
        write_sound(tmp_path / name)
    result = invoke("upscale", tmp_path / name, "-o", tmp_path / "out.mp4", "--model", "bicubic")
    assert_refused(result, 1, *words)
    assert not (tmp_path / "out.mp4").exists()


def write_sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "nope"], 2, ["there is no model 'nope'", "bicubic", "`vsr models` lists them"]),
        (["--model", "clip"], 1, ["is not a weights file"]),
        (["--model", "bicubic", "--scale", 0], 2, ["the scale must be positive"]),
        (["--model", "bicubic", "--scale", "inf"], 2, ["the scale must be positive and finite"]),
        (
            ["--model", "bicubic", "--scale", 1e9],
            2,
            ["would become 48000000000x32000000000; libx264 writes up to 16384 pixels"],
        ),
        (["--model", "bicubic", "--tile", "²"], 2, ["'²' is neither auto nor a whole number"]),
        (["--model", "bicubic", "--crf", 99], 2, ["the crf of h264 lies in 0..51, got 99"]),
        (["--model", "bicubic", "--preset", "warp"], 2, ["h264 has no preset 'warp'"]),
        (["--model", "bicubic", "--codec", "h263"], 2, [".mp4 cannot hold h263: take --codec h264 or hevc"]),
        (
            ["--model", "bicubic", "--codec", "h266"],
            2,
            ["no video encoder 'h266': use h264, hevc", "an encoder's name"],
        ),
        (
            ["--model", "bicubic", "--codec", "prores"],
            2,
            [".mp4 cannot hold prores: take --codec h264", "another ending"],
        ),
        (["--model", "bicubic", "--codec", "aac"], 2, ["no video encoder 'aac'"]),
        (["--model", "bicubic", "-x", "sharpness=9"], 2, ["libx264 has no option sharpness: use 8x8dct", "x264opts"]),
        (["--model", "bicubic", "-x", "bf=-7"], 1, ["the encoder libx264 refuses 192x128 yuv420p with {'bf': '-7'}"]),
        (["--model", "bicubic", "-x", "bf"], 2, ["'-x': 'bf' is not of the form KEY=VALUE."]),
        (["--model", "bicubic", "-x", "=3"], 2, ["'-x': '=3' is not of the form KEY=VALUE."]),
        (
            ["--model", "bicubic", "--pix-fmt", "gbrp"],
            2,
            ["the encoder libx264 does not accept gbrp: use gray, gray10le"],
        ),
        (
            ["--model", "bicubic", "--start", "soon"],
            2,
            ["'--start' / '-ss': 'soon' is not a time: write 90.5, 1:30.5 or 0:01:30.5."],
        ),
        (["--model", "bicubic", "--start", "1:2:3:4"], 2, ["'--start' / '-ss': '1:2:3:4' is not a time"]),
        (["--model", "bicubic", "--end", "-1"], 2, ["'--end' / '-to': '-1' is not a time"]),
        (["--model", "bicubic", "--end", "٣"], 2, ["'--end' / '-to': '٣' is not a time"]),
        (
            ["--model", "bicubic", "--start", "1:00", "--end", 60],
            2,
            ["the end must be after the start, got 60 to 60"],
        ),
        (["--model", "bicubic", "--start", "1:00"], 1, ["clip.mp4 has no frame in the requested part"]),
        (["--model", "bicubic", "--size", "64"], 2, ["'--size': '64' is not a size: write 1920x1080."]),
        (["--model", "bicubic", "--size", "64x"], 2, ["'--size': '64x' is not a size"]),
        (["--model", "bicubic", "--size", "64x0"], 2, ["sizes must be at least 1 pixel, got (64, 0)"]),
        (["--model", "bicubic", "--size", "64x48", "--scale", 2], 2, ["scale, size and height exclude each other"]),
        (["--model", "bicubic", "--fps", "1/0"], 2, ["'--fps': '1/0' is not a frame rate: write 25 or 30000/1001."]),
        (["--model", "bicubic", "--fps", "fast"], 2, ["'--fps': 'fast' is not a frame rate"]),
        (["--model", "bicubic", "--fps", "0"], 2, ["fps must be above 0 and at most 1000, as a ratio"]),
        (["--model", "bicubic", "--deinterlace", "maybe"], 2, ["maybe", "auto", "yes", "no"]),
        (["--model", "bicubic", "--max-pixels", "100"], 1, ["clip.mp4 has frames of 48x32, more than 100 pixels"]),
        (["--model", "bicubic", "--tile", 8], 2, ["a tile of 8 is too small"]),
        (["--model", "bicubic", "--tile", "big"], 2, ["'big' is neither auto nor a whole number from 0 up"]),
        (["--model", "bicubic", "--batch", 0], 2, ["'0' is neither auto nor a whole number from 1 up"]),
        (["--model", "bicubic", "--device", "tpu"], 2, ["no device is called 'tpu'"]),
        (["--model", "bicubic", "--device", "cuda:99"], 2, ["torch sees no device 'cuda:99'"]),
        (["--precision", "fp64"], 2, ["fp64"]),
        (["--frobnicate"], 2, ["--frobnicate"]),
    ],
)
def test_requests_that_cannot_be(
    make_clip: MakeClip, tiny_weights: Path, tmp_path: Path, arguments: list[object], code: int, words: list[str]
) -> None:
    clip, target = make_clip(), tmp_path / "out.mp4"
    names = {"tiny": str(tiny_weights), "clip": str(clip)}
    result = invoke("upscale", clip, "-o", target, *(names.get(str(word), word) for word in arguments))
    assert_refused(result, code, *words)
    assert not target.exists()


def test_outputs_that_cannot_be(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, existing = make_clip(), tmp_path / "there.mp4"
    existing.write_bytes(b"precious")
    for target, code, words in [
        (existing, 1, "there.mp4 exists already; --overwrite replaces it"),
        (tmp_path, 1, "clip.mp4 is one of the inputs"),
        (tmp_path / "out", 2, "its name must end in .mp4"),
        (tmp_path / ("x" * 300 + ".mp4"), 2, "is too long for this system; choose a shorter one"),
        (tmp_path / "o\udcff.mp4", 2, "is not valid UTF-8"),
        (Path("/proc/out.mp4"), 1, "cannot write to the folder /proc"),
    ]:
        assert_refused(invoke("upscale", clip, "-o", target, "--model", "bicubic"), code, words)
    assert existing.read_bytes() == b"precious"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No pretrained weights are at hand and none can be had; the addresses that were asked for."""
    asked: list[str] = []

    def fail(url: str, *arguments: object, **keywords: object) -> None:
        asked.append(url)
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    return asked


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of three small pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (40, 48, 3), np.uint8))
    return folder


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """One smooth picture to measure on."""
    folder = tmp_path / "held"
    folder.mkdir()
    blotches = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    cv2.imwrite(str(folder / "a.png"), cv2.resize(blotches, (48, 36)))
    return folder


TINY: list[object] = ["--blocks", 1, "--channels", 4, "--discriminator-channels", 4, "--batch-size", 2]
TINY += ["--crop-size", 16, "--workers", 1, "--device", "cpu", "--adversarial-mse", 1, "--adversarial-content", 0]
THREE = ["--pretrain-length", 2, "--discriminator-length", 2, "--adversarial-length", 2, "--steps", 6]
PRETRAIN = [*TINY, "--stage", "pretrain"]


def test_three_stages_and_what_they_leave(
    photographs: Path, held_out: Path, make_clip: MakeClip, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (photographs / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    result = invoke("train", "--data", photographs, "-o", run, "--validation", held_out, *TINY, *THREE)
    assert result.exit_code == 0, result.output
    table, _, last = result.stdout.rstrip("\n").rpartition("\n")
    assert table.split()[:6] == ["stage", "quantity", "mean", "std", "min", "last"]
    stages = [line.split()[0] for line in table.splitlines()[1:] if not line.startswith(" ")]
    assert stages == ["pretrain", "discriminator", "adversarial"]
    assert re.fullmatch(
        rf"{re.escape(str(run / 'generator.safetensors'))}: 6 steps, PSNR-Y \d+\.\d\d dB on held-out pictures", last
    )
    assert result.stderr.count("broken.jpg") == 1
    assert {path.name for path in run.iterdir()} == {
        "best-pretrain.safetensors",
        "card.md",
        "checkpoint.pt",
        "config.toml",
        "discriminator.safetensors",
        "generator.safetensors",
        "log.csv",
        "losses.png",
        "pretrain.safetensors",
        "samples",
    }
    rows = (run / "log.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [row.split(",")[:3] for row in rows] == [
        ["2", "pretrain", "2"],
        ["4", "discriminator", "2"],
        ["6", "adversarial", "2"],
    ]
    target = tmp_path / "out.mp4"
    done = invoke("upscale", make_clip(), "-o", target, "--model", run / "generator.safetensors")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{target}: 8 frames of 192x128 in ")
    judge = run / "discriminator.safetensors"
    refused = invoke("upscale", make_clip("b.mp4"), "-o", tmp_path / "b-out.mp4", "--model", judge)
    assert_refused(refused, 1, "is a discriminator, which judges pictures in training")


def test_train_json_prints_one_object_and_nothing_else(photographs: Path, held_out: Path, tmp_path: Path) -> None:
    run = ["train", "--data", photographs, "-o", tmp_path / "run", "--validation", held_out, *TINY, *THREE]
    result = invoke(*run, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["weights"] == str(tmp_path / "run" / "generator.safetensors")
    assert (summary["stage"], summary["steps"], summary["stopped"]) == ("adversarial", 6, False)
    assert 1 < summary["quality"]["psnr_y"] < 60 and summary["quality"]["lpips"] is None
    assert list(summary["losses"]) == ["pretrain", "discriminator", "adversarial"]
    assert {"mse", "adversarial", "generator_loss", "d_real"} <= summary["losses"]["adversarial"].keys()
    assert "content" not in summary["losses"]["adversarial"]
    assert summary["losses"]["pretrain"]["mse"].keys() == {"mean", "standard_deviation", "minimum", "last"}


def test_train_quiet_says_nothing(photographs: Path, tmp_path: Path) -> None:
    result = invoke("train", "--data", photographs, "-o", tmp_path / "run", *PRETRAIN, "--steps", 1, "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_train_says_when_quality_cannot_be_measured_in_full(
    photographs: Path, held_out: Path, tmp_path: Path, offline: list[str]
) -> None:
    run = ["train", "--data", photographs, "-o", tmp_path / "run", *PRETRAIN, "--steps", 1]
    result = invoke(*run)
    assert (result.exit_code, result.stderr, offline) == (0, "", [])
    assert result.stdout.endswith("generator.safetensors: 1 steps\n"), "nothing was held out of three pictures"
    result = invoke(*run, "--overwrite", "--validation", held_out)
    assert result.exit_code == 0, result.output
    assert "LPIPS is not measured" in result.stderr and "--lpips-weights" in result.stderr
    assert "downloading the weights of SqueezeNet for LPIPS, 4.7 MiB, from https://" in result.stderr
    assert [url.rpartition("/")[2].partition("-")[0] for url in offline] == ["squeezenet1_1"]


def test_train_goes_on_where_it_stopped(photographs: Path, tmp_path: Path) -> None:
    run = ["train", "--data", photographs, "-o", tmp_path / "run", *PRETRAIN]
    assert invoke(*run, "--steps", 2).exit_code == 0
    assert_refused(invoke(*run, "--steps", 2), 1, "holds a training run", "--resume", "--overwrite")
    refused = invoke(*run, "--steps", 2, "--resume", "--batch-size", 4)
    assert_refused(refused, 1, "belongs to another run (batch_size was 2 and is now 4)", "--init")
    longer = json.loads(invoke(*run, "--steps", 4, "--resume", "--json").stdout)
    assert (longer["stage"], longer["steps"], longer["stopped"]) == ("pretrain", 4, False)
    summary = json.loads(invoke(*run, "--steps", 3, "--overwrite", "--json").stdout)
    assert (summary["steps"], summary["stopped"]) == (3, False)
    rows = (tmp_path / "run" / "log.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["3"], "nothing of the run before is left"


def test_resume_alone_goes_on_with_the_stored_options(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder; and the weights are those of a run that was not stopped."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    asked = ["train", "--data", "pictures", *PRETRAIN, "--seed", 3, "--steps", 4, "--log-every", 1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["vsr", *map(str, asked), "-o", "part"])
    assert invoke(*asked, "-o", whole).exit_code == 0
    stopped = invoke(*asked, "-o", part, "--time-limit", "0.000001s")
    assert stopped.exit_code == 0, stopped.output
    assert stopped.stderr == (
        f"vsr: the time limit is reached after step 1; to continue: vsr train -o {part} --resume\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("sys.argv", ["vsr", "train", "-o", "part", "--resume"])
    resumed = invoke("train", "-o", part, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert (json.loads(resumed.stdout)["steps"], json.loads(resumed.stdout)["stopped"]) == (4, False)
    one, other = (load_file(run / "generator.safetensors") for run in (whole, part))
    assert all(torch.equal(one[name], other[name]) for name in one)
    command = "vsr " + " ".join(map(str, asked)) + " -o part"
    assert command in (part / "card.md").read_text(encoding="utf-8"), "the one that began the run"


def test_a_time_limit_is_quiet_with_q(photographs: Path, tmp_path: Path) -> None:
    run = ["train", "--data", photographs, "-o", tmp_path / "run", *PRETRAIN, "--steps", 9, "--time-limit", "1e-9"]
    assert invoke(*run, "-q").exit_code == 2
    result = invoke(*run[:-1], "0.000001", "-q")
    assert (result.exit_code, result.output) == (0, "") and (tmp_path / "run" / "checkpoint.pt").exists()


def test_options_given_along_with_resume(photographs: Path, tmp_path: Path) -> None:
    """What would change the training is refused with both values; what does not is accepted."""
    run = ["train", "-o", tmp_path / "run", "--resume"]
    assert invoke("train", "--data", photographs, *run[1:3], *PRETRAIN, "--steps", 1).exit_code == 0
    more = tmp_path / "more"
    shutil.copytree(photographs, more)
    cv2.imwrite(str(more / "new.png"), np.zeros((40, 40, 3), np.uint8))
    before = (tmp_path / "run" / "config.toml").read_bytes()
    init = models_folder() / "srgan-x4.safetensors"
    for words, sentence in [
        (["--batch-size", 4], "batch_size was 2 and is now 4"),
        (["--accumulate", 2], "accumulate was 1 and is now 2"),
        (["--seed", 5], "the seed was 0 and is now 5"),
        (["--data", more], "the pictures differ"),
        (["--init", init], f"init was not set and is now {init}"),
        (["--lpips", "alex"], "lpips was squeeze and is now alex"),
    ]:
        assert_refused(invoke(*run, *words), 1, f"belongs to another run ({sentence})")
    refused = invoke(*run, "--recipe", "coco-176")
    assert_refused(refused, 2, "--recipe coco-176 differs from the recipe srgan in", "config.toml: leave it out")
    assert (tmp_path / "run" / "config.toml").read_bytes() == before
    moved = tmp_path / "moved"
    photographs.rename(moved)
    again = ["--data", moved, "--recipe", "srgan", "--steps", 3, "--workers", 2, "--log-every", 1, "--no-tensorboard"]
    result = invoke(*run, *again, "--checkpoint-every", 2, "--device", "cpu", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["steps"] == 3, result.output
    assert read_config(tmp_path / "run")["data"] == (moved,)


def test_the_options_of_a_run_begin_another(photographs: Path, tmp_path: Path) -> None:
    """From the folder or the file, edited, and with options that take precedence."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert invoke("train", "--data", photographs, "-o", one, *PRETRAIN, "--steps", 2).exit_code == 0
    assert invoke("train", "--config", one, "-o", two).exit_code == 0
    first, second = (load_file(run / "generator.safetensors") for run in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_config(one) | {"command": ""} == read_config(two) | {"command": ""}
    mine = tmp_path / "mine.toml"
    mine.write_text((one / "config.toml").read_text(encoding="utf-8").replace("seed = 0", "seed = 4"), encoding="utf-8")
    assert invoke("train", "--config", mine, "-o", three, "--steps", 3).exit_code == 0
    changed = read_config(three)
    assert (changed["seed"], changed["pretrain_length"], changed["blocks"]) == (4, 3, 1)
    wrong = invoke("train", "--config", mine, "-o", tmp_path / "four", "--recipe", "coco-176")
    assert_refused(wrong, 2, f"--recipe coco-176 differs from the recipe srgan in {mine}: leave it out")
    mine.write_text("batch_size = 0", encoding="utf-8")
    assert_refused(invoke("train", "--config", mine, "-o", tmp_path / "four"), 2, "name the pictures", "--data")
    refused = invoke("train", "--config", mine, "--data", photographs, "-o", tmp_path / "four")
    assert_refused(refused, 2, "batch_size must be at least 1, got 0")
    assert not (tmp_path / "four").exists()


def test_a_run_without_a_file_of_options_is_resumed_with_its_options(photographs: Path, tmp_path: Path) -> None:
    run = ["train", "-o", tmp_path / "run", *PRETRAIN, "--resume", "--steps", 2]
    assert invoke("train", "--data", photographs, "-o", tmp_path / "run", *PRETRAIN, "--steps", 1).exit_code == 0
    (tmp_path / "run" / "config.toml").unlink()
    assert_refused(invoke(*run), 2, "--data, and all other options of the run", "holds no config.toml")
    assert invoke(*run, "--data", photographs).exit_code == 0
    assert (tmp_path / "run" / "config.toml").exists()


def test_stage_by_stage(photographs: Path, tmp_path: Path) -> None:
    run = ["train", "--data", photographs, "-o", tmp_path / "run", *TINY, "--json"]
    first = json.loads(invoke(*run, "--stage", "pretrain", "--steps", 2).stdout)
    assert (first["stage"], first["steps"]) == ("pretrain", 2)
    assert not (tmp_path / "run" / "discriminator.safetensors").exists()
    second = json.loads(invoke(*run, "--stage", "adversarial", "--steps", 3, "--resume").stdout)
    assert (second["stage"], second["steps"]) == ("adversarial", 5)
    assert (tmp_path / "run" / "discriminator.safetensors").exists()
    back = invoke(*run, "--stage", "pretrain", "--steps", 9, "--resume")
    assert_refused(back, 1, "is past the stage pretrain: it is in adversarial")


def test_another_run_from_the_weights_of_one(photographs: Path, tmp_path: Path) -> None:
    data = ["train", "--data", photographs, *TINY, "--json"]
    assert invoke(*data, "-o", tmp_path / "a", "--stage", "pretrain", "--steps", 1).exit_code == 0
    start = tmp_path / "a" / "generator.safetensors"
    alone = ["-o", tmp_path / "b", "--stage", "adversarial", "--steps", 1]
    assert_refused(invoke(*data, *alone), 2, "the stage adversarial starts from a generator: give one with --init")
    summary = json.loads(invoke(*data, *alone, "--init", start).stdout)
    assert (summary["stage"], summary["steps"]) == ("adversarial", 1)
    other = invoke(*data, *alone, "--init", start, "--tanh", "--overwrite")
    assert_refused(other, 2, "is a different kind of network: its tanh differ.")
    assert (tmp_path / "b" / "generator.safetensors").exists(), "what cannot start replaces nothing"


def test_no_content_weights_and_no_network(photographs: Path, tmp_path: Path, offline: list[str]) -> None:
    """Said at the start, though a stage without VGG comes first."""
    run = ["train", "--data", photographs, "-o", tmp_path / "run", *TINY, "--adversarial-content", 1, "--steps", 2]
    result = invoke(*run)
    assert result.exit_code == 1 and result.stdout == ""
    url = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
    assert offline == [url]
    assert "downloading VGG19's weights, 548 MiB, from https://" in result.stderr.splitlines()[0]
    assert result.stderr.splitlines()[-1] == (
        f"error: cannot download VGG19's weights from {url} (no network): put the file at "
        f"{tmp_path / 'torch/hub/checkpoints/vgg19-dcbb9e9d.pth'}, or give a file with --content-weights."
    )
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    missing = invoke(*run, "--content-weights", tmp_path / "vgg.pth")
    assert missing.exit_code == 1
    assert f"cannot read the weights {tmp_path / 'vgg.pth'}: No such file or directory." in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "nowhere"], 1, ["nowhere does not exist"]),
        (["--data", "nothing"], 1, ["no pictures in", "nothing"]),
        (["--data", "pictures", "--resume"], 1, ["nothing to resume"]),
        (["--data", "pictures", "--steps", 0], 2, ["'--steps': 0 is not in the range x>=1"]),
        (["--data", "pictures", "--steps", 1], 2, ["steps must be at least 2, one for each stage, got 1"]),
        (["--data", "pictures", "--crop-size", 18], 2, ["crop_size must be a multiple of 4, at least 16, got 18"]),
        (["--data", "pictures", "--crop-size", 12], 2, ["crop_size must be a multiple of 4, at least 16, got 12"]),
        (["--data", "pictures", "--resume", "--overwrite"], 2, ["exclude each other"]),
        (["--data", "pictures", "--scale", 3], 2, ["scale must be 2, 4 or 8, got 3"]),
        (["--data", "pictures", "--device", "tpu"], 2, ["no device is called 'tpu'"]),
        (["--data", "pictures", "--recipe", "esrgan"], 2, ["'--recipe'", "'esrgan'", "'div2k-256'"]),
        (["--data", "pictures", "--stage", "last"], 2, ["'--stage'", "'last'", "'adversarial'"]),
        (["--data", "pictures", "--recipe", "coco-200", "--stage", "pretrain"], 2, ["pretrain: a loss is needed"]),
        (["--data", "pictures", "--fake-labels", "2"], 2, ["'--fake-labels'", "labels lie in [0, 1], got 2"]),
        (["--data", "pictures", "--real-labels", "soft"], 2, ["labels are written 0.9, uniform:0.7:1 or normal:0.1"]),
        (["--data", "pictures", "--adversarial-milestones", "0.3,x"], 2, ["'0.3,x' is not a list of floats"]),
        (["--data", "pictures", "--adversarial-milestones", "0.3,6"], 2, ["adversarial: milestones are shares of"]),
        (["--data", "pictures", "--video-noise", "3"], 2, ["'--video-noise' requires 2 arguments"]),
        (
            ["--data", "pictures", "--video-noise", "3", "1"],
            2,
            ["noise is a range of values from 0 up, got 3.0 to 1.0"],
        ),
        (["--data", "pictures", "--video-codecs", "av1"], 2, ["codecs are of h264, h265, mpeg2, none, got av1"]),
        (["--data", "pictures", "--pretrain-schedule", "linear"], 2, ["'--pretrain-schedule'", "'one-cycle'"]),
        (["--data", "pictures", "--pretrain-mse", 0], 2, ["pretrain: a loss is needed"]),
        (["--data", "pictures", "--pretrain-mse", -1], 2, ["pretrain: weights of losses must be finite and not"]),
        (["--data", "pictures", "--pretrain-adversarial", 1], 2, ["belongs to the adversarial stage"]),
        (["--data", "pictures", "--discriminator-mse", 1], 2, ["--discriminator-mse"]),
        (["--data", "pictures", "--devices", 0], 2, ["devices must be at least 1, got 0"]),
        (["--data", "pictures", "--devices", 3], 2, ["a batch of 16 does not divide among 3 processes"]),
        (
            ["--data", "pictures", "--crop-size", 16, "--adversarial-content-layer", "conv9_9"],
            2,
            ["adversarial: vgg19 has no layer 'conv9_9'; it has conv1_1"],
        ),
        (["--data", "pictures", "--crop-size", 16, "--cache", "gpu", *PRETRAIN], 2, ["--cache gpu needs a GPU"]),
        (["--data", "pictures", "--precision", "fp16", "--device", "cpu"], 2, ["--precision fp16 needs a GPU"]),
        (["--data", "pictures", "--no-cache"], 2, ["--no-cache"]),
        ([], 2, ["--data"]),
    ],
    ids=str,
)
def test_training_that_cannot_be(
    photographs: Path, tmp_path: Path, arguments: list[object], code: int, words: list[str]
) -> None:
    (tmp_path / "nothing").mkdir()
    named = [tmp_path / str(word) if word in ("nowhere", "nothing", "pictures") else word for word in arguments]
    result = invoke("train", "-o", tmp_path / "run", "--steps", 3, *named)  # few, should it be accepted after all
    assert_refused(result, code, *words)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_crops_larger_than_every_picture(photographs: Path, tmp_path: Path) -> None:
    result = invoke("train", "--data", photographs, "-o", tmp_path / "run", "--crop-size", 64, "--device", "cpu")
    assert result.exit_code == 1
    assert "none of the 3 pictures can be used" in result.stderr.splitlines()[-1]
    assert "--crop-size" in result.stderr.splitlines()[-1]


def test_the_help_of_train_is_in_sections() -> None:
    lines = invoke("train", "--help").output.splitlines()
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == [
        "Options:",
        "The run:",
        "The recipe, with the defaults of srgan:",
        "The stage pretrain:",
        "The stage discriminator:",
        "The stage adversarial:",
        "The degradation of clips, a value drawn for each:",
        "The video degradation, a value drawn for each crop:",
    ]
    text = " ".join(" ".join(lines).split())
    assert "--adversarial-milestones LIST Of multi-step: shares of the stage's length. [default: 0.5]" in text
    assert "--flips / --no-flips Mirror half of the crops, each way. [default: yes]" in text
    assert "--resume Continue the run in output, with its options" in text and "--no-resume" not in text


def test_models_lists_what_ships() -> None:
    result = invoke("models")
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert names == [*sorted(path.stem for path in models_folder().glob("*.safetensors")), "bicubic", "identity"]
    assert {"srresnet-x4", "srgan-x4"} <= set(names)
    listed = json.loads(invoke("models", "--json").stdout)["models"]
    assert [model["name"] for model in listed] == names


def test_models_show_prints_the_card() -> None:
    result = invoke("models", "show", "srresnet-x4")
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("srgan", "licence", "data", "command", "figures"))
    assert invoke("models", "show", "identity").stdout.startswith("identity: returns its input")
    assert_refused(invoke("models", "show", "nope"), 2, "there is no model 'nope'")


def test_models_calibrate_writes_into_the_file_alone(tiny_weights: Path, tmp_path: Path) -> None:
    weights, data = tmp_path / "own.safetensors", tmp_path / "data"
    weights.write_bytes(tiny_weights.read_bytes())
    data.mkdir()
    for number in range(3):
        random = np.random.default_rng(number)
        cv2.imwrite(str(data / f"{number}.png"), random.integers(0, 256, (40, 48, 3), np.uint8))
    clip = ["--model", str(weights), "--precision", "int8", "--device", "cpu", "-o", str(tmp_path / "out.png")]
    assert_refused(invoke("upscale", str(data / "0.png"), *clip), 2, "int8 needs a calibration", "vsr models calibrate")
    before, other = read_info(weights), load_generator(weights).state_dict()
    result = invoke("models", "calibrate", str(weights), "--data", str(data))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{weights}: calibrated on 3 pictures of {data}; use it with --precision int8.\n"
    after = read_info(weights)
    assert after.about == before.about and before.calibration is None
    assert after.calibration is not None and 0.5 < after.calibration.ranges["head.0"][1] <= 1
    assert all(torch.equal(tensor, other[name]) for name, tensor in load_generator(weights).state_dict().items())
    assert invoke("upscale", str(data / "0.png"), *clip).exit_code == 0
    assert cv2.imread(str(tmp_path / "out.png")).shape == (160, 192, 3)


def test_models_calibrate_refuses(tiny_weights: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_weights.read_bytes()[:-5])
    assert_refused(invoke("models", "calibrate", str(broken), "--data", str(tmp_path)), 1, "is not a weights file")
    assert_refused(invoke("models", "calibrate", str(tiny_weights), "--data", str(tmp_path)), 1, "no pictures in")
    assert read_info(tiny_weights).calibration is None


def test_bench_prints_a_table_and_writes_it(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "cpu", 64)
    asked = ("bench", "--model", tiny_weights, "--size", "32x16", "--seconds", 0.01, "--device", "cpu")
    result = invoke(*asked, "--engine", "torch", "-o", tmp_path / "speed.csv")
    assert result.exit_code == 0, result.output
    assert all(word in result.stdout for word in ("32x16", "torch", "fp32", "of peak", "efficiency", "from RGB"))
    assert "frames/s bare" in result.stderr
    assert (tmp_path / "speed.csv").read_text().count(",32x16,") == 1
    assert_refused(invoke(*asked, "-o", tmp_path / "speed.csv"), 1, "exists already")
    (speed,) = json.loads(invoke(*asked, "--precision", "fp32", "--engine", "openvino", "--json").stdout)["speeds"]
    assert speed["efficiency"] > 0 and speed["share_of_peak"] > 0 and speed["milliseconds"]["network"] > 0
    assert (speed["width"], speed["precision"], speed["frames"]) == (32, "fp32", speed["frames"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--size", "big"], 2, "big"),
        (["--precision", "fp64"], 2, "fp64"),
        (["--model", "nope"], 2, "there is no model 'nope'"),
        (["--codec", "dirac"], 2, "got 'dirac'"),
        (["-o", "table.xlsx"], 2, ".xlsx"),
    ],
    ids=str,
)
def test_bench_refuses(arguments: list[str], code: int, words: str) -> None:
    assert_refused(invoke("bench", *arguments), code, words)
