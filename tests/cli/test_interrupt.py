"""Ctrl-C and SIGTERM on the real program: exit code 130, what is finished kept, no process running."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from vsr.cli import main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vsr", *map(str, arguments)]
    # A session of its own, so that the signal can be sent to the whole group, as a terminal does. A program keeps to
    # ignore what is ignored here, as nohup does SIGHUP; a handler that is set here is not inherited.
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    try:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_upscale_half_way(make_clip: Callable[..., Path], tmp_path: Path, number: signal.Signals) -> None:
    clip = make_clip(size=(96, 64), pts=range(0, 2000 * 512, 512), audio=["aac"])
    command = ["upscale", clip, "-o", tmp_path / "out.mp4", "--model", "bicubic", "--no-resume"]
    process = start(*command)
    folder = tmp_path / "out.mp4.vsr-job"
    try:
        wait_for(folder / "000001", process)
        process.send_signal(signal.SIGSTOP)  # so that it is still half way when the other signal is sent
        assert not (folder / "000015").exists(), "it was faster than this test"
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, stdout) == (130, "")
    resuming = shlex.join(["vsr", *map(str, command[:-1])])
    said, interrupted = stderr.splitlines()[-2:]
    kept = re.fullmatch(r"vsr: (\d+) of 2000 frames are kept; to resume, run: (.*)", said)
    assert kept is not None and kept[2] == resuming and interrupted == "vsr: interrupted."
    assert "Traceback" not in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [clip.name, folder.name]
    finished = sorted(path.name for path in folder.iterdir())
    assert finished == [*(f"{number:06}" for number in range(len(finished) - 2)), "lock", "manifest.json"]
    result = CliRunner().invoke(main, [*map(str, command[:-1]), "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["frames"], summary["segments"]) == (2000, 16)
    assert 0 < summary["resumed"] < 2000 and summary["resumed"] == int(kept[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [clip.name, "out.mp4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_anything_is_finished_leaves_nothing(
    make_clip: Callable[..., Path], tmp_path: Path, number: signal.Signals
) -> None:
    clip = make_clip(size=(320, 240), pts=range(0, 100 * 512, 512))
    process = start("upscale", clip, "-o", tmp_path / "out.mp4", "--device", "cpu")
    try:
        wait_for(tmp_path / "out.mp4.vsr-job" / "manifest.json", process)
        time.sleep(0.3)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, stdout, stderr.splitlines()[-1]) == (130, "", "vsr: interrupted.")
    assert "to resume" not in stderr and "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == [clip.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_train_half_way_can_be_resumed(tmp_path: Path, number: signal.Signals) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8))
    options = ["--blocks", 1, "--channels", 4, "--batch-size", 1, "--crop-size", 16, "--device", "cpu"]
    run = ["train", "--data", tmp_path / "a.png", "-o", tmp_path / "run", "--stage", "pretrain", *options]
    process = start(*run, "--steps", 1_000_000, "--log-every", 1, "--checkpoint-every", 1_000_000)
    log = tmp_path / "run" / "log.csv"
    try:
        wait_for(log, process)
        while len(log.read_text().splitlines()) < 3:
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert f"to continue: vsr train -o {tmp_path / 'run'} --resume" in stderr
    assert "Traceback" not in stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "card.md",
        "checkpoint.pt",
        "config.toml",
        "generator.safetensors",
        "log.csv",
        "losses.png",
        "samples",
    ]
    steps = int(log.read_text().splitlines()[-1].split(",")[0])
    assert f"vsr: stopped after step {steps};" in stderr
    # Gone on with the stored options, for two updates more, to which the end of the stage is moved.
    more = [str(word) for word in ("train", "-o", tmp_path / "run", "--resume", "--steps", steps + 2, "--json")]
    result = CliRunner().invoke(main, more)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == steps + 2
    rows = [int(row.split(",")[0]) for row in log.read_text().splitlines()[1:]]
    assert rows == list(range(1, steps + 3))
