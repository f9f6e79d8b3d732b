"""``vsr doctor``: whatever is missing, it says so and goes on."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest
import torch
from click.testing import CliRunner

import vsr
from vsr.cli import main
from vsr.errors import FFmpegError
from vsr.media.ffmpeg import ffmpeg_program
from vsr.media.formats import CODECS


def told(*words: str) -> str:
    result = CliRunner().invoke(main, ["doctor", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_screen() -> None:
    rows = dict(line.split(maxsplit=1) for line in told().splitlines())
    assert rows["vsr"] == vsr.__version__
    assert rows["ffmpeg"] == str(ffmpeg_program())
    assert rows["torch"] == metadata.version("torch")
    assert rows["av"] == metadata.version("av")
    assert set(rows["codecs"].split(", ")) == set(CODECS)
    assert len(told().splitlines()) <= 30


def test_json() -> None:
    found = json.loads(told("--json"))
    assert found["takes"] in ("cpu", "mps") or found["takes"].startswith("cuda")
    assert found["codecs"] == dict.fromkeys(CODECS, True)
    assert found["packages"]["numpy"] == metadata.version("numpy")
    assert "fp32" in found["precisions"]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise FFmpegError("no ffmpeg program: none.")

    monkeypatch.setattr("vsr.machine.ffmpeg_program", missing)
    monkeypatch.setattr("vsr.machine.codecs_available", frozenset({"libx264"}))
    monkeypatch.setattr("vsr.machine.PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setitem(sys.modules, "vsr.inference.openvino_backend", None)
    rows = dict(line.split(maxsplit=1) for line in told().splitlines())
    assert rows["ffmpeg"] == "no ffmpeg program: none."
    assert rows["codecs"] == "h264"
    assert rows["missing"] == "hevc, av1, vp9, prores, ffv1"
    assert rows["CPU"].startswith("fp32 by torch only, since OpenVINO cannot be used: ")
    assert "no-such-package" not in rows


@pytest.mark.parametrize("count", [0, 2])
def test_devices(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        name, total_memory = "NVIDIA H100", 80 << 30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Gpu)
    found = json.loads(told("--json"))
    assert found["devices"][:-1] == [f"cuda:{number} NVIDIA H100, 80 GiB" for number in range(count)]
    assert found["devices"][-1].startswith("cpu (torch is built for " if count else "cpu (this torch is built for ")
    assert found["takes"] == ("cuda" if count else "cpu")
