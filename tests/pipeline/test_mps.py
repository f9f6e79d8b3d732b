"""Apple's device, simulated, from decoded planes to planes to encode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import vsr
from vsr.imaging import colour
from vsr.inference import engine, torch_backend
from vsr.inference.engine import Engine, load_model
from vsr.networks.generator import Generator
from vsr.pipeline import job

MPS = torch.device("meta")
MISSING = (torch.float64, torch.uint16)
pytestmark = pytest.mark.usefixtures("leaves_nothing")


@pytest.fixture
def mps(limited_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limited_device == MPS
    assert "mps" in colour.WITHOUT_UINT16
    monkeypatch.setattr(colour, "WITHOUT_UINT16", {MPS.type})
    monkeypatch.setattr(torch_backend, "WITHOUT_UINT16", {MPS.type})
    for module in (engine, job):
        monkeypatch.setattr(module, "choose_device", torch.device)
    # It builds a network on the device by whose name MPS goes here.
    monkeypatch.setattr("vsr.networks.weights._check_shapes", lambda *_: None)


def content(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [b"".join(map(bytes, frame.planes)) for frame in container.decode(video=0)]


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_the_simulation_refuses_what_mps_lacks(missing: torch.dtype) -> None:
    for make in (
        lambda: torch.zeros(2, dtype=missing, device=MPS),
        lambda: torch.zeros(2, dtype=missing).to(MPS),
        lambda: torch.zeros(2, device=MPS).to(missing),
    ):
        with pytest.raises(TypeError, match="the device has no"):
            make()
    with pytest.raises(RuntimeError, match="two devices"):
        torch.ones(2, device=MPS).add_(torch.ones(2))
    assert torch.ones(2, device=MPS).add_(1).cpu().tolist() == [2, 2]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p16le", "gbrp16le", "yuva444p16le", "gray16le"])
@pytest.mark.parametrize("way", ["whole", "tiled", "resized"])
def test_a_clip_of_any_depth_needs_neither_float64_nor_uint16(
    pix_fmt: str, way: str, make_clip: Callable[..., Path], tmp_path: Path, tiny_weights: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    clip = make_clip("in.mkv", pix_fmt=pix_fmt, codec="ffv1", pts=range(0, 160, 40))
    asked: dict[str, Any] = {"model": str(tiny_weights), "engine": "torch", "codec": "ffv1", "batch_size": 3}
    asked |= {"whole": {}, "tiled": {"tile_size": 32}, "resized": {"scale": 2.5}}[way]
    here = vsr.upscale(clip, tmp_path / "cpu.mkv", device="cpu", **asked).target
    request.getfixturevalue("mps")
    there = vsr.upscale(clip, tmp_path / "mps.mkv", device=MPS, **asked).target
    assert content(here) == content(there) and len(content(there)) == 4


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_frames_that_overflow_in_half_precision(precision: Any, tiny_generator: Callable[..., Generator]) -> None:
    halved = Engine(tiny_generator(), device=MPS, precision=precision)
    lr = torch.rand(2, 3, 8, 8)
    lr[1] = float("nan")
    assert halved(lr.to(MPS)).cpu().isfinite().flatten(1).all(1).tolist() == [True, False]
    assert halved.overflowed == 1


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize("model", ["bicubic", "identity"])
def test_pictures_on_mps(model: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    there = load_model(model, device=MPS).upscale(picture)
    assert np.array_equal(there, load_model(model, device="cpu").upscale(picture))
