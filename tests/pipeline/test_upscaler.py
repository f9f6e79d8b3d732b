"""Transparent pixels: hidden colours do not affect visible pixels of the output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import vsr

pytestmark = pytest.mark.usefixtures("leaves_nothing")

RED = (220, 40, 40)
HIDDEN = {"black": 0, "white": 255, "noise": np.random.default_rng(0).integers(0, 256, (48, 64, 3))}


def disc(hidden: object, x: int = 32) -> Image.Image:
    """RGBA: a red disc, the rest transparent over hidden colours."""
    rows, columns = np.mgrid[:48, :64]
    inside = (np.hypot(rows - 24, columns - x) < 15)[..., None]
    colours = np.where(inside, RED, np.broadcast_to(np.asarray(hidden), (48, 64, 3)))
    return Image.fromarray(np.concatenate([colours, 255 * inside], -1).astype(np.uint8))


def read(path: Path) -> np.ndarray:
    """(N, H, W, 4) RGBA."""
    if path.suffix in (".mov", ".mkv"):
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgba") for frame in container.decode(video=0)])
    with Image.open(path) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGBA")))
        return np.stack(frames)


def rim(rgba: np.ndarray) -> int:
    """Return the largest difference of a pixel, in codes, with pictures composed over the colour of their disc."""
    alpha, middle = rgba[..., 3:] / 255, rgba[:1, rgba.shape[1] // 2, rgba.shape[2] // 2, :3]
    assert np.abs(middle.astype(int) - RED).max() < 25, "whatever matrix the reader takes for it"
    return int(np.abs(np.round(rgba[..., :3] * alpha + middle * (1 - alpha)) - middle).max())


@pytest.mark.parametrize("scale", [2, 2.5, 4])
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_disc_has_no_rim(hidden: str, scale: float, ending: str, tmp_path: Path) -> None:
    disc(HIDDEN[hidden]).save(tmp_path / f"in{ending}")
    target = vsr.upscale(tmp_path / f"in{ending}", tmp_path / f"out{ending}", model="bicubic", scale=scale).target
    rgba = read(target)
    assert rim(rgba) == 0
    assert {0, 255} <= set(np.unique(rgba[..., 3]))


@pytest.mark.parametrize("size", [None, (200, 120)])
def test_a_network_sees_an_opaque_picture(size: tuple[int, int] | None, tiny_weights: Path, tmp_path: Path) -> None:
    """With the colour of the disc in all transparent pixels."""
    disc(HIDDEN["noise"]).save(tmp_path / "in.png")
    Image.new("RGBA", (64, 48), (*RED, 255)).save(tmp_path / "opaque.png")
    results = [
        read(vsr.upscale(tmp_path / f"{name}.png", tmp_path / f"{name}-x4.png", model=tiny_weights, size=size).target)
        for name in ("in", "opaque")
    ]
    differences = results[0][..., :3].astype(int) - results[1][..., :3]
    assert np.abs(differences).max() <= 1, "rounding alone"
    assert np.ptp(results[1][..., :3].astype(int)) > 50, "the network draws something"


def animation(path: Path, hidden: object) -> None:
    frames = [disc(hidden, x) for x in (20, 32, 44)]
    lossless = {"lossless": True, "exact": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, disposal=2, **lossless)


@pytest.mark.parametrize("source", ["in.gif", "in.png", "in.webp"])
@pytest.mark.parametrize("target", ["out.gif", "out.mkv", "out.mov"])
def test_animations_have_no_rim(source: str, target: str, tmp_path: Path) -> None:
    animation(tmp_path / source, HIDDEN["black"])
    codec = {"out.mkv": "ffv1", "out.mov": "prores"}.get(target)
    pixels = read(vsr.upscale(tmp_path / source, tmp_path / target, model="bicubic", scale=2, codec=codec).target)
    assert len(pixels) == 3
    assert rim(pixels) <= (3 if codec == "prores" else 0)


def test_prores_has_no_rim(ffmpeg: Callable[..., str], tmp_path: Path) -> None:
    """No more than in the source, whose blocks mix a little of the hidden colours into visible pixels."""
    disc(HIDDEN["black"]).save(tmp_path / "in.png")
    ffmpeg("-i", tmp_path / "in.png", "-c:v", "prores_ks", "-pix_fmt", "yuva444p10le", tmp_path / "in.mov")
    source = rim(read(tmp_path / "in.mov"))
    out = vsr.upscale(tmp_path / "in.mov", tmp_path / "out.mov", model="bicubic", scale=2, codec="prores").target
    assert rim(read(out)) <= source + 4


def test_without_alpha_hidden_colours_are_shown_as_stored(tmp_path: Path) -> None:
    disc(HIDDEN["white"]).save(tmp_path / "in.png")
    out = vsr.upscale(tmp_path / "in.png", tmp_path / "out.bmp", model="bicubic", scale=2).target
    assert (read(out)[0, 0, 0] == 255).all()


def test_a_wholly_transparent_picture_works(tiny_weights: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (16, 12), (10, 20, 30, 0)).save(tmp_path / "in.png")
    assert not read(vsr.upscale(tmp_path / "in.png", tmp_path / "out.png", model=tiny_weights).target)[..., 3].any()
