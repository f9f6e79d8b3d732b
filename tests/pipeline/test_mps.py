"""Apple's device, by a stand-in: it computes on the CPU, and refuses float64, uint16 and tensors of two devices.

Torch has one more device everywhere, ``meta``, whose tensors have no content; here they have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import vsr
from vsr.imaging import colour
from vsr.inference import engine, lanes
from vsr.inference.engine import Engine, load_model
from vsr.networks.srgan import Generator
from vsr.pipeline import job

MPS = torch.device("meta")
MISSING = (torch.float64, torch.uint16)
COPIES, IN_PLACE = re.compile(r"aten\.(to|_to_copy|copy_)\."), re.compile(r"aten\.\w+_\.")
"""Operations by name: those that may take tensors of two devices, and those that return what they were given."""

pytestmark = pytest.mark.usefixtures("leaves_nothing")


class OnMps(Tensor):
    """A tensor of the CPU that says it lies on the stand-in."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnMps:
        if inner.dtype in MISSING:
            raise TypeError(f"MPS has no {inner.dtype}")
        made: OnMps = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=MPS,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Makes tensors on MPS where they are asked for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do on the CPU what was asked of MPS."""
    if function is torch.ops.aten._has_compatible_shallow_copy_type.default:
        return False  # a parameter that has moved is another
    given = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, OnMps)]
    targets = [leaf for leaf in given if isinstance(leaf, torch.device)]
    there = MPS in targets if targets else bool(here)
    if here and not COPIES.match(str(function)) and len(here) < len([each for each in tensors if each.ndim]):
        raise RuntimeError(f"{function} was given tensors of two devices")
    results = function(*tree_map(bare, args), **tree_map(bare, kwargs))
    if "out" in kwargs:
        return kwargs["out"]
    if there and IN_PLACE.match(str(function)):
        return args[0]
    return tree_map(lambda leaf: OnMps(leaf) if isinstance(leaf, Tensor) else leaf, results) if there else results


def bare(leaf: Any) -> Any:
    """What of an operation's arguments stands for MPS, as the CPU knows it."""
    return leaf.inner if isinstance(leaf, OnMps) else torch.device("cpu") if leaf == MPS else leaf


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    assert "mps" in colour.WITHOUT_UINT16
    monkeypatch.setattr(colour, "WITHOUT_UINT16", {MPS.type})
    monkeypatch.setattr(lanes, "WITHOUT_UINT16", {MPS.type})
    for module in (engine, job):
        monkeypatch.setattr(module, "choose_device", torch.device)
    with StandIn():
        yield


def content(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [b"".join(map(bytes, frame.planes)) for frame in container.decode(video=0)]


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_the_stand_in_refuses_what_mps_lacks(missing: torch.dtype) -> None:
    for make in (
        lambda: torch.zeros(2, dtype=missing, device=MPS),
        lambda: torch.zeros(2, dtype=missing).to(MPS),
        lambda: torch.zeros(2, device=MPS).to(missing),
    ):
        with pytest.raises(TypeError, match="MPS has no"):
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
def test_frames_that_half_precision_cannot_hold(precision: Any, tiny_generator: Callable[..., Generator]) -> None:
    halved = Engine(tiny_generator(), device=MPS, precision=precision)
    lr = torch.rand(2, 3, 8, 8)
    lr[1] = float("nan")
    assert halved(lr.to(MPS)).cpu().isfinite().flatten(1).all(1).tolist() == [True, False]
    assert halved.overflowed == 1


@pytest.mark.usefixtures("mps")
@pytest.mark.parametrize("model", ["bicubic", "identity"])
def test_pictures(model: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    there = load_model(model, device=MPS).upscale(picture)
    assert np.array_equal(there, load_model(model, device="cpu").upscale(picture))
