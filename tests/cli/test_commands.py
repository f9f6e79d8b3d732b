"""The commands through their runner: every bad argument with its message, its exit code, and nothing left behind."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from vsr.cli import main

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The commands set the handlers of vsr's logger; other tests want them as they were."""
    logger = logging.getLogger("vsr")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One line on stderr that holds the words, the exit code, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert len(lines) == 1 or lines[0].startswith("Usage:"), result.stderr
    for word in words:
        assert word in lines[-1], result.stderr


def test_help_names_the_commands() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("upscale", "train", "models"))


@pytest.mark.parametrize("command", [["upscale"], ["train"], ["models"], ["models", "show"]])
def test_every_command_has_help(command: list[str]) -> None:
    result = invoke(*command, "--help")
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.mp4", ["cannot read", "missing.mp4", "No such file or directory"]),
        ("empty.mp4", ["empty.mp4 is empty"]),
        ("random.mp4", ["random.mp4 is not a video that can be read"]),
        ("sound.mp4", ["sound.mp4 holds no video, only audio"]),
        ("folder", ["is a folder, not a video"]),
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
        (["--model", "tiny", "--scale", 2], 2, ["upscales by 4, not by 2", "Models for x2", "bicubic"]),
        (["--model", "clip"], 1, ["is not a weights file"]),
        (["--model", "bicubic", "--scale", 0], 2, ["the scale must be positive"]),
        (["--model", "bicubic", "--scale", "inf"], 2, ["the scale must be positive and finite"]),
        (["--model", "bicubic", "--scale", 1e9], 2, ["pixels can be written"]),
        (["--model", "bicubic", "--scale", 0.001], 2, ["0x0; 1 to 16384 pixels can be written"]),
        (["--model", "bicubic", "--tile", "²"], 2, ["'²' is neither auto nor a whole number"]),
        (["--model", "bicubic", "--crf", 99], 2, ["the crf of h264 lies in 0..51, got 99"]),
        (["--model", "bicubic", "--preset", "warp"], 2, ["h264 has no preset 'warp'"]),
        (["--model", "bicubic", "--codec", "h263"], 2, ["no codec is called 'h263'"]),
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
        (tmp_path, 1, "is a folder"),
        (tmp_path / "no" / "out.mp4", 1, "does not exist; create it first"),
        (tmp_path / "out", 2, "its name must end in .mp4"),
        (tmp_path / ("x" * 300 + ".mp4"), 1, "File name too long"),
        (tmp_path / "o\udcff.mp4", 2, "is no valid UTF-8"),
        (Path("/proc/out.mp4"), 1, "cannot write to the folder /proc"),
    ]:
        assert_refused(invoke("upscale", clip, "-o", target, "--model", "bicubic"), code, words)
    assert existing.read_bytes() == b"precious"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of four small pictures, one of which is broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (40, 48, 3), np.uint8))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return folder


TINY = ["--blocks", 1, "--channels", 4, "--batch-size", 2, "--crop-size", 16, "--workers", 1, "--device", "cpu"]


def test_train_writes_weights_that_upscale_takes(photographs: Path, make_clip: MakeClip, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = invoke("train", "--data", photographs, "-o", run, "--steps", 2, *TINY)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{run / 'generator.safetensors'}: 2 steps")
    assert result.stderr.count("broken.jpg") == 1
    target = tmp_path / "out.mp4"
    assert invoke("upscale", make_clip(), "-o", target, "--model", run / "generator.safetensors").exit_code == 0
    assert target.exists()


def test_train_goes_on_where_it_stopped(photographs: Path, tmp_path: Path) -> None:
    run = ["train", "--data", photographs, "-o", tmp_path / "run", *TINY]
    assert invoke(*run, "--steps", 2).exit_code == 0
    assert_refused(invoke(*run, "--steps", 2), 1, "holds a training run", "--resume", "--overwrite")
    refused = invoke(*run, "--steps", 4, "--resume")
    assert refused.exit_code == 1
    assert "steps 2 -> 4" in refused.stderr
    summary = json.loads(invoke(*run, "--steps", 3, "--overwrite", "--json").stdout)
    assert (summary["steps"], summary["stopped"]) == (3, False)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "nowhere"], 1, ["nowhere does not exist"]),
        (["--data", "nothing"], 1, ["no pictures in", "nothing"]),
        (["--data", "pictures", "--resume"], 1, ["nothing to resume"]),
        (["--data", "pictures", "--steps", 0], 2, ["steps must be at least 1"]),
        (["--data", "pictures", "--crop-size", 15], 2, ["crop_size must be a multiple of 4, at least 16, got 15"]),
        (["--data", "pictures", "--resume", "--overwrite"], 2, ["exclude each other"]),
        (["--data", "pictures", "--scale", 3], 2, ["3"]),
        (["--data", "pictures", "--device", "tpu"], 2, ["no device is called 'tpu'"]),
        ([], 2, ["--data"]),
    ],
)
def test_training_that_cannot_be(
    photographs: Path, tmp_path: Path, arguments: list[object], code: int, words: list[str]
) -> None:
    (tmp_path / "nothing").mkdir()
    named = [tmp_path / str(word) if word in ("nowhere", "nothing", "pictures") else word for word in arguments]
    result = invoke("train", "-o", tmp_path / "run", *named)
    assert_refused(result, code, *words)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_crops_larger_than_every_picture(photographs: Path, tmp_path: Path) -> None:
    result = invoke("train", "--data", photographs, "-o", tmp_path / "run", "--crop-size", 64)
    assert result.exit_code == 1
    assert "none of the 4 pictures can be used" in result.stderr.splitlines()[-1]
    assert "--crop-size" in result.stderr.splitlines()[-1]


def test_models_lists_what_ships() -> None:
    result = invoke("models")
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert names == ["srresnet-x4", "bicubic", "identity"]
    listed = json.loads(invoke("models", "--json").stdout)["models"]
    assert [model["name"] for model in listed] == names


def test_models_show_prints_the_card() -> None:
    result = invoke("models", "show", "srresnet-x4")
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("srgan", "licence", "data", "command", "figures"))
    assert invoke("models", "show", "identity").stdout.startswith("identity: returns its input")
    assert_refused(invoke("models", "show", "nope"), 2, "there is no model 'nope'")
