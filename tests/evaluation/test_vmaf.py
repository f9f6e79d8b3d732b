"""VMAF through the pipe: compared with ffmpeg's scores of files, and failures of the program."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vsr.errors import FFmpegError
from vsr.evaluation import vmaf
from vsr.evaluation.vmaf import VmafScorer, find_program_with_vmaf, harmonic_mean
from vsr.media.clip import Plane

MODEL = "vmaf_v0.6.1"


@pytest.fixture(autouse=True)
def nothing_temporary_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves_nothing: None) -> Iterator[None]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    find_program_with_vmaf.cache_clear()
    yield
    find_program_with_vmaf.cache_clear()
    assert list(folder.iterdir()) == []


def moving(count: int, width: int, height: int, bit_depth: int = 8) -> list[Plane]:
    generator = np.random.default_rng(0)
    wide = generator.integers(40, 200, (height // 4 + 1, width // 4 + count), np.uint8).repeat(4, 0).repeat(4, 1)
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    frames = [wide[:height, 2 * number : 2 * number + width].astype(dtype) for number in range(count)]
    return [frame << (bit_depth - 8) for frame in frames]


def blurred(frame: Plane) -> Plane:
    around = np.stack([np.roll(frame, step, axis) for axis in (0, 1) for step in range(-3, 4)])
    return around.mean(0).astype(frame.dtype)


def score(references: list[Plane], outputs: list[Plane], bit_depth: int = 8) -> list[float]:
    height, width = references[0].shape
    with VmafScorer(width, height, bit_depth, MODEL) as scorer:
        for reference, output in zip(references, outputs, strict=True):
            scorer.add(reference, output)
        return scorer.finish()


def by_files(folder: Path, references: list[Plane], outputs: list[Plane]) -> list[float]:
    """Return ffmpeg's scores of two raw files, its two inputs."""
    height, width = references[0].shape
    sources = []
    for name, frames in (("out", outputs), ("ref", references)):
        neutral = bytes([128]) * (2 * ((width + 1) // 2) * ((height + 1) // 2))
        (folder / name).write_bytes(b"".join(frame.tobytes() + neutral for frame in frames))
        sources += ["-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", f"{width}x{height}", "-i", name]
    subprocess.run(
        [find_program_with_vmaf(), "-nostdin", "-loglevel", "error", *sources,
         "-lavfi", "[0][1]libvmaf=log_fmt=json:log_path=log.json", "-f", "null", "-"],
        cwd=folder, check=True,
    )  # fmt: skip
    return [frame["metrics"]["vmaf"] for frame in json.loads((folder / "log.json").read_bytes())["frames"]]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (67, 49)])
def test_the_scores_are_ffmpegs_own(tmp_path: Path, width: int, height: int) -> None:
    references = moving(6, width, height)
    outputs = [blurred(frame) if number % 2 else frame for number, frame in enumerate(references)]
    scores = score(references, outputs)
    assert scores == pytest.approx(by_files(tmp_path, references, outputs), abs=1e-4)
    # Each frame has its own score: swapped or shifted pairs would mix them.
    assert min(scores[0::2]) > max(scores[1::2]) + 5


def test_equal_frames_score_high_and_noise_low() -> None:
    frames = moving(5, 64, 64)
    assert 95 < min(score(frames, frames)) <= max(score(frames, frames)) <= 100
    noise = [
        np.random.default_rng(number).integers(0, 255, frame.shape, np.uint8) for number, frame in enumerate(frames)
    ]
    assert max(score(frames, noise)) < 40


@pytest.mark.parametrize("bit_depth", [10, 12, 16])
def test_deeper_planes_score_like_8_bits(bit_depth: int) -> None:
    shallow, deep = moving(3, 64, 48), moving(3, 64, 48, bit_depth)
    expected = score(shallow, [blurred(frame) for frame in shallow])
    scaled = [blurred(frame).astype(np.uint16) << (bit_depth - 8) for frame in shallow]
    assert score(deep, scaled, bit_depth) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize(("width", "height", "bit_depth"), [(31, 64, 8), (64, 16, 8), (64, 64, 9)])
def test_unsupported_sizes_and_depths_are_refused(width: int, height: int, bit_depth: int) -> None:
    with pytest.raises(ValueError, match="libvmaf does not support"):
        VmafScorer(width, height, bit_depth, MODEL)


def test_a_plane_of_another_shape_is_refused() -> None:
    frame = moving(1, 64, 64)[0]
    with VmafScorer(64, 64, 8, MODEL) as scorer, pytest.raises(ValueError, match="expected a plane of"):
        scorer.add(frame, frame[:-2])


def test_an_exception_ends_the_program() -> None:
    frames = moving(3, 64, 64)
    with pytest.raises(KeyboardInterrupt), VmafScorer(64, 64, 8, MODEL) as scorer:
        scorer.add(frames[0], frames[1])
        raise KeyboardInterrupt


def test_an_unknown_model_is_reported_with_ffmpegs_message() -> None:
    frames = moving(40, 256, 256)  # more than a pipe holds, so that writing fails when the program ends
    with (
        VmafScorer(256, 256, 8, "vmaf_v9") as scorer,
        pytest.raises(FFmpegError, match=r"^VMAF failed, ffmpeg ended with code .*model.*vmaf=False"),
    ):
        for frame in frames:
            scorer.add(frame, frame)
        scorer.finish()


def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> Path:
    if os.name == "nt":
        pytest.skip("a shell script replaces the program")
    program = tmp_path / "ffmpeg"
    program.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    program.chmod(0o755)
    monkeypatch.setattr(vmaf, "find_program", lambda: str(program))
    monkeypatch.setattr(vmaf, "bundled_program", lambda: None)
    return program


def test_a_program_without_libvmaf_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path, monkeypatch, "echo ' .. vmafmotion        V->V       Calculate the VMAF Motion score.'")
    with pytest.raises(FFmpegError) as caught:
        VmafScorer(64, 64, 8, MODEL)
    assert str(caught.value) == (
        f"{program} is built without libvmaf; vmaf=False leaves VMAF out, or VSR_FFMPEG can name an ffmpeg "
        "that has it."
    )


def test_the_bundled_program_replaces_one_without_libvmaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = find_program_with_vmaf()
    find_program_with_vmaf.cache_clear()
    script(tmp_path, monkeypatch, "exit 0")
    monkeypatch.setattr(vmaf, "bundled_program", lambda: bundled)
    assert find_program_with_vmaf() == bundled


def test_a_program_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmaf, "find_program", lambda: "/nowhere/ffmpeg")
    with pytest.raises(FFmpegError, match=r"^cannot start /nowhere/ffmpeg: No such file.*vmaf=False"):
        VmafScorer(64, 64, 8, MODEL)


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("echo out of luck >&2; exit 3", r"^VMAF failed, ffmpeg ended with code 3: out of luck; vmaf=False"),
        ("cat >/dev/null", r"^ffmpeg wrote no readable log of VMAF"),
        (
            """cat >/dev/null; echo '{"version":"1","frames":[{"frameNum":0,"metrics":{"vmaf":9}}]}' >vmaf.json""",
            r"^libvmaf scored 1 of 2 frames",
        ),
    ],
)
def test_a_failing_program_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, message: str
) -> None:
    script(tmp_path, monkeypatch, "case \"$*\" in *-filters*) echo ' .. libvmaf  VV->V '; exit;; esac", ending)
    frames = moving(2, 64, 64)
    with pytest.raises(FFmpegError, match=message):
        score(frames, frames)


def test_the_harmonic_mean_is_that_of_the_scores_plus_one() -> None:
    assert harmonic_mean([49, 99]) == pytest.approx(2 / (1 / 50 + 1 / 100) - 1)
    assert harmonic_mean([0, 100]) < 1.1
