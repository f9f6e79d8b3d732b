from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from vsr.errors import InputError
from vsr.media.images import ENDINGS, read_picture

HALVES = np.zeros((4, 6, 3), np.uint8)
HALVES[:, :3] = (200, 30, 10)
HALVES[:, 3:] = (20, 60, 220)
"""(H, W, 3) RGB: left red, right blue."""


def store(path: Path, picture: np.ndarray) -> Path:
    """Writes grey, BGR or BGRA as OpenCV has it, under any name."""
    written, encoded = cv2.imencode(path.suffix, picture)
    assert written
    path.write_bytes(encoded.tobytes())
    return path


def check(picture: np.ndarray, expected: np.ndarray) -> None:
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and picture.flags.writeable
    assert picture.shape == expected.shape and np.array_equal(picture, expected)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".tiff", ".webp", ".PNG"])
def test_colours_are_in_order(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{ending}"
    store(path.with_suffix(ending.lower()), HALVES[..., ::-1]).rename(path)
    picture = read_picture(path)
    if ending == ".webp":  # lossy, if only a little
        assert picture.shape == HALVES.shape and picture[0, 0].argmax() == 0 and picture[0, 5].argmax() == 2
    else:
        check(picture, HALVES)
    assert ending.lower() in ENDINGS


def test_jpeg(tmp_path: Path) -> None:
    flat = np.full((16, 24, 3), (200, 30, 10), np.uint8)
    picture = read_picture(store(tmp_path / "picture.jpg", flat[..., ::-1]))
    assert picture.shape == flat.shape and np.abs(picture.astype(int) - flat).max() <= 2


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    check(read_picture(store(tmp_path / "grey.png", grey)), np.stack([grey] * 3, -1))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.array([[0, 50, 100, 150, 200, 255]] * 4, np.uint8)
    check(read_picture(store(tmp_path / "rgba.png", np.dstack([HALVES[..., ::-1], alpha]))), HALVES)


def test_the_high_byte_of_16_bits(tmp_path: Path) -> None:
    wide = HALVES[..., ::-1].astype(np.uint16) * 257
    check(read_picture(store(tmp_path / "wide.png", wide)), HALVES)
    check(read_picture(store(tmp_path / "wide.tif", wide)), HALVES)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Puts an EXIF block with nothing but an orientation behind the first marker."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", 1) + entry + bytes(4)
    block = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


@pytest.mark.parametrize(
    ("orientation", "shape", "reddest"),
    [
        (1, (16, 32), "left"),
        (2, (16, 32), "right"),
        (3, (16, 32), "right"),
        (6, (32, 16), "top"),
        (8, (32, 16), "bottom"),
    ],
)
def test_exif_rotation(orientation: int, shape: tuple[int, int], reddest: str, tmp_path: Path) -> None:
    halves = np.repeat(np.repeat(HALVES, 4, 0), 6, 1)[:, 2:34]
    path = store(tmp_path / "picture.jpg", halves[..., ::-1])
    path.write_bytes(with_orientation(path.read_bytes(), orientation))
    picture = read_picture(path)
    assert picture.shape == (*shape, 3)
    edges = {"left": picture[:, 0], "right": picture[:, -1], "top": picture[0], "bottom": picture[-1]}
    assert max(edges, key=lambda edge: edges[edge][..., 0].mean()) == reddest


@pytest.mark.parametrize("name", ["Füße 映画.png", "sp ace.png", "#?%20.png", os.fsdecode(b"latin-\xf6.png")])
def test_names(name: str, tmp_path: Path) -> None:
    store(tmp_path / "plain.png", HALVES[..., ::-1]).rename(tmp_path / name)
    check(read_picture(tmp_path / name), HALVES)


def test_real_pictures(shared_data: Path) -> None:
    grey = read_picture(shared_data / "test" / "Set14" / "bridge.png")
    assert grey.ndim == 3 and np.array_equal(grey[..., 0], grey[..., 2])
    colour = read_picture(shared_data / "test" / "Set5" / "butterfly.png")
    assert colour.shape == (256, 256, 3) and colour[..., 0].mean() > colour[..., 2].mean() + 20  # orange, not blue


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.png", b""), ("text.png", b"no picture at all\n"), ("noise.jpg", bytes(range(256)) * 8)],
)
def test_no_picture(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert str(caught.value) == f"{path} is not a picture that can be decoded"


def test_a_size_beyond_reason(tmp_path: Path) -> None:
    path = store(tmp_path / "huge.bmp", HALVES)
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<ii", 2_000_000, 2_000_000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"huge\.bmp is (a damaged picture: |not a picture that can be decoded)"):
        read_picture(path)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_cut_short(ending: str, tmp_path: Path) -> None:
    """Half a picture is none: what OpenCV makes up for the rest would be taken for a picture."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = store(tmp_path / f"half{ending}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"half{re.escape(ending)} is "):
        read_picture(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_picture(tmp_path / "gone.png")
    assert str(caught.value) == f"cannot read {tmp_path / 'gone.png'}: No such file or directory"
    with pytest.raises(InputError) as caught:
        read_picture(tmp_path)
    assert str(caught.value) == f"cannot read {tmp_path}: Is a directory"
