from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vsr
from vsr.errors import UsageError
from vsr.imaging.pictures import read_picture, write_picture
from vsr.media.probe import probe
from vsr.media.reader import read_frames
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.weights import save_network


def clip(count: int = 5, size: int = 32) -> list[np.ndarray]:
    """Return frames of a texture that moves by a pixel each."""
    texture = np.random.default_rng(0).integers(0, 256, (size + 16, size + 16, 3), dtype=np.uint8)
    return [texture[at : at + size, at : at + size].copy() for at in range(count)]


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = RecurrentGenerator(scale=2, blocks=1, channels=4, aligned=True)
    nn.init.normal_(network.tail.weight, std=0.05)
    path = tmp_path_factory.mktemp("recurrent") / "recurrent.safetensors"
    save_network(path, network, {})
    return path


def written(frames: list[np.ndarray], folder: Path) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        write_picture(folder / f"{number:03}.png", frame)
    return folder


@pytest.mark.parametrize("kind", ["alone", "steadied", "recurrent"])
def test_frames_are_upscaled_as_in_a_clip(kind: str, recurrent: Path, tiny_weights: Path, tmp_path: Path) -> None:
    model, steady = (recurrent, "no") if kind == "recurrent" else (tiny_weights, "yes" if kind == "steadied" else "no")
    frames = clip()
    frames.insert(2, frames[1].copy())  # as the one before
    found = list(vsr.upscale_frames(frames, model=model, steady=steady, device="cpu"))  # type: ignore[arg-type]
    source = written(frames, tmp_path / "lr")
    (tmp_path / "sr").mkdir()
    vsr.upscale(source, tmp_path / "sr/%03d.png", model=model, steady=steady, device="cpu")  # type: ignore[arg-type]
    expected = [read_picture(path) for path in sorted((tmp_path / "sr").iterdir())]
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)
    alone = [vsr.load_model(model, device="cpu").upscale(frame) for frame in frames]
    same = all(np.array_equal(one, other) for one, other in zip(found, alone, strict=True))
    assert same == (kind == "alone")


def test_the_rgb_of_a_decoded_clip_gives_the_pixels_of_its_output(
    make_clip: Callable[..., Path], tiny_weights: Path, tmp_path: Path
) -> None:
    source = make_clip("in.mkv", codec="libx264rgb", pix_fmt="rgb24", options={"qp": "0"})

    def rgb(path: Path) -> list[np.ndarray]:
        return [np.stack([frame.planes[at] for at in (2, 0, 1)], -1) for frame in read_frames(path, probe(path).video)]

    vsr.upscale(source, tmp_path / "out.mkv", model=tiny_weights, codec="ffv1", device="cpu")
    found = list(vsr.upscale_frames(rgb(source), model=tiny_weights, device="cpu"))
    assert len(found) > 1
    assert all(np.array_equal(*pair) for pair in zip(found, rgb(tmp_path / "out.mkv"), strict=True))


def test_one_frame_is_taken_for_each_that_is_given(tiny_weights: Path) -> None:
    taken: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for number, frame in enumerate(clip()):
            taken.append(number)
            yield frame

    results = vsr.upscale_frames(frames(), model=tiny_weights, device="cpu")
    assert taken == []
    next(results)
    next(results)
    assert taken == [0, 1]


def test_a_buffer_may_be_reused_and_a_result_changed(recurrent: Path) -> None:
    frames = clip()
    frames[3] = frames[2].copy()
    expected = list(vsr.upscale_frames(frames, model=recurrent, device="cpu"))
    buffer = np.empty_like(frames[0])

    def reused() -> Iterator[np.ndarray]:
        for frame in frames:
            buffer[:] = frame
            yield buffer

    for one, other in zip(vsr.upscale_frames(reused(), model=recurrent, device="cpu"), expected, strict=True):
        assert np.array_equal(one, other)
        one[:] = 0


def test_another_size_begins_a_new_clip(recurrent: Path) -> None:
    first, second = clip(), clip(3, 24)
    found = list(vsr.upscale_frames([*first, *second], model=recurrent, device="cpu"))
    alone = list(vsr.upscale_frames(second, model=recurrent, device="cpu"))
    assert all(np.array_equal(*pair) for pair in zip(found[5:], alone, strict=True))


def test_every_kind_comes_back(tiny_weights: Path) -> None:
    model = vsr.load_model(tiny_weights, device="cpu")
    frame = clip(1)[0]
    sr = model.upscale(frame)
    height, width = sr.shape[:2]
    kinds: dict[str, Any] = {
        "tensor": torch.from_numpy(frame).permute(2, 0, 1),
        "PIL": Image.fromarray(frame),
        "uint16": frame.astype(np.uint16) * 257,
        "float": (frame / 255).astype(np.float32),
    }
    for kind, given in kinds.items():
        found = next(iter(vsr.upscale_frames([given], model=model)))
        whole = model.upscale(given)
        assert type(found) is type(whole) is type(given)
        if kind == "PIL":
            codes = np.asarray(found)
            assert np.array_equal(codes, np.asarray(whole))
        else:
            codes = found.permute(1, 2, 0).numpy() if kind == "tensor" else found
            assert (found == whole).all() and found.dtype == given.dtype
        exact = {"uint16": codes / 257, "float": codes * 255}.get(kind, codes)
        assert np.abs(exact - sr).max() <= (0 if kind in ("tensor", "PIL") else 0.51), kind
    rgba = np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)])
    rgba[:8, :8] = (255, 0, 255, 0)  # a hidden colour
    found = model.upscale(rgba)
    assert found.shape == (height, width, 4) and not found[:4, :4, 3].any()
    rgba[:8, :8, :3] = 0
    assert np.array_equal(model.upscale(rgba), found), "hidden colours have no effect"
    assert np.array_equal(next(iter(vsr.upscale_frames([rgba], model=model))), found)
    grey = model.upscale(frame[..., 0])
    assert grey.shape == (height, width)
    with torch.inference_mode():
        rgb = model(torch.from_numpy(frame[..., 0]).float().expand(1, 3, -1, -1) / 255)[0]
    luma = (rgb * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    assert np.array_equal(grey, (luma * 255).round().clamp(0, 255).numpy())


def test_the_scale_reduces_what_a_model_gives(tiny_weights: Path) -> None:
    frames = clip(2)
    for model in (tiny_weights, "bicubic"):
        found = list(vsr.upscale_frames(frames, model=model, scale=1.5, device="cpu"))
        assert [one.shape for one in found] == [(48, 48, 3)] * 2


def test_a_loaded_model_keeps_its_own_clip(recurrent: Path) -> None:
    frames = np.stack(clip())
    undisturbed = vsr.load_model(recurrent, device="cpu").upscale(frames)
    model = vsr.load_model(recurrent, device="cpu")
    begun = model.upscale(frames[:2])
    list(vsr.upscale_frames(list(frames[::-1]), model=model))
    assert np.array_equal(np.concatenate([begun, model.upscale(frames[2:])]), undisturbed)


def test_mistakes_are_found_before_the_first_frame(tiny_weights: Path) -> None:
    def no_frame() -> Iterator[np.ndarray]:
        raise AssertionError("a frame was taken")
        yield

    with pytest.raises(UsageError, match="there is no model 'nonsense'"):
        vsr.upscale_frames(no_frame(), model="nonsense")
    with pytest.raises(UsageError, match="the detail must lie in"):
        vsr.upscale_frames(no_frame(), detail=2)
    with pytest.raises(UsageError, match="adds no detail that could flicker: leave out steady"):
        vsr.upscale_frames(no_frame(), model="bicubic", steady="yes")
    with pytest.raises(TypeError, match="got str"):
        next(vsr.upscale_frames(["a.png"], model=tiny_weights, device="cpu"))  # type: ignore[list-item]


def test_results_can_be_used_in_training(tiny_weights: Path) -> None:
    model = vsr.load_model(tiny_weights, device="cpu")
    weight = torch.ones(1, requires_grad=True)
    frame = torch.rand(3, 8, 8)
    for sr in (model.upscale(frame), next(vsr.upscale_frames([frame], model=model))):
        (sr * weight).sum().backward()
    assert weight.grad is not None


def test_an_engine_says_what_it_is_and_moves(tiny_weights: Path) -> None:
    model = vsr.load_model(tiny_weights, device="cpu", engine="torch", tile_size=64)
    assert repr(model) == f"Engine('{tiny_weights}', x{model.scale:g}, cpu, torch, fp32)"
    assert model.to("cpu") is model.to(torch.device("cpu")) is model
    with pytest.raises(UsageError, match="torch sees no device"):
        model.to("cuda:99")


def test_an_engine_on_another_device_computes_the_same(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vsr.load_model(tiny_weights, device="cpu", tile_size=64)
    elsewhere = model.device
    monkeypatch.setattr(model, "device", torch.device("meta"))  # stands for another device than the CPU
    moved = model.to("cpu")
    assert moved is not model and moved.device == elsewhere
    assert (moved.runtime, moved.precision, moved.tile_size, moved.name) == (
        model.runtime, model.precision, 64, str(tiny_weights),
    )  # fmt: skip
    monkeypatch.undo()
    frame = clip(1)[0]
    assert np.array_equal(moved.upscale(frame), model.upscale(frame))
