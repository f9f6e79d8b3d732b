from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vsr.imaging.arrays import pixels_of

RGBA = np.arange(4 * 5 * 4, dtype=np.uint8).reshape(4, 5, 4) * 3

SAMPLES: dict[str, Any] = {
    "rgb": RGBA[..., :3],
    "rgba": RGBA,
    "grey": RGBA[..., 0],
    "grey, an axis of one": RGBA[..., :1],
    "grey and alpha": RGBA[..., 2:],
    "uint16": RGBA.astype(np.uint16) * 257,
    "uint16 of the other byte order": (RGBA.astype(np.uint16) * 257).astype(">u2"),
    "float32 of the other byte order": (RGBA / 255).astype(">f4"),
    "float16": (RGBA / 255).astype(np.float16),
    "float32": (RGBA / 255).astype(np.float32),
    "float64": RGBA / 255,
    "not contiguous": RGBA[::-1, :, ::-1],
    "tensor": torch.from_numpy(RGBA).permute(2, 0, 1),
    "grey tensor": torch.from_numpy(RGBA[..., 0].copy()),
    "bfloat16": torch.from_numpy(RGBA).permute(2, 0, 1).bfloat16() / 255,
    "uint16 tensor": torch.from_numpy(RGBA.astype(np.uint16) * 257).permute(2, 0, 1),
    **{f"PIL {mode}": Image.fromarray(RGBA).convert(mode) for mode in ("L", "LA", "RGB", "RGBA")},
    "PIL I;16": Image.fromarray(RGBA[..., 0].astype(np.uint16) * 257),
}


def values_of(picture: Any) -> np.ndarray:
    return picture.float().numpy() if isinstance(picture, torch.Tensor) else np.asarray(picture)


@pytest.mark.parametrize("kind", SAMPLES)
def test_what_is_read_comes_back_as_the_same_kind(kind: str) -> None:
    given = SAMPLES[kind]
    pixels: Any = pixels_of(given)
    cpu = torch.device("cpu")
    back = pixels.wrap(pixels.like(pixels.rgb(cpu), pixels.alpha(cpu)))
    assert type(back) is type(given)
    for name in ("dtype", "mode", "shape", "size"):
        if not callable(getattr(given, name, None)):
            assert getattr(back, name, None) == getattr(given, name, None)
    rounded = 0 if values_of(given).dtype.kind == "u" else 1e-2
    assert np.abs(values_of(back).astype(float) - values_of(given).astype(float)).max() <= rounded


def test_channels_and_ranges() -> None:
    cpu = torch.device("cpu")
    pixels: Any = pixels_of(RGBA)
    assert pixels.rgb(cpu).shape == (1, 3, 4, 5) and pixels.rgb(cpu)[0, 1, 0, 0] == RGBA[0, 0, 1] * np.float32(1 / 255)
    assert pixels.alpha(cpu)[0, 0, 0, 0] == RGBA[0, 0, 3] * np.float32(1 / 255)
    grey: Any = pixels_of(np.full((2, 2), 65535, np.uint16))
    assert grey.rgb(cpu).tolist() == torch.ones(1, 3, 2, 2).tolist() and grey.alpha(cpu) is None
    # Results beyond the range are clipped, in floats too.
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
        one: Any = pixels_of(np.zeros((1, 1, 3), dtype))
        beyond = torch.tensor([-1.0, 0.5, 2.0])[None, :, None, None]
        found = one.wrap(one.like(beyond, None))[0, 0]
        assert found.tolist() == [0, round(white / 2) if white > 1 else 0.5, white]


def test_a_palette_becomes_colours_and_bilevel_grey() -> None:
    palette = Image.fromarray(RGBA[..., :3]).convert("P")
    read: Any = pixels_of(palette)
    assert read.wrap(read.values).mode == "RGB"
    palette.info["transparency"] = 0
    read = pixels_of(palette)
    assert read.wrap(read.values).mode == "RGBA"
    read = pixels_of(Image.fromarray(RGBA[..., 0]).convert("1"))
    assert read.wrap(read.values).mode == "L" and set(read.values.flatten().tolist()) <= {0, 255}


def test_batches_keep_their_axis() -> None:
    for batch in (np.zeros((2, 4, 5, 3), np.uint8), torch.zeros(2, 3, 4, 5)):
        read: Any = pixels_of(batch, batches=True)
        assert read.values.shape == (2, 3, 4, 5) and read.wrap(read.values).shape == batch.shape
        with pytest.raises(ValueError, match="of 1 to 4 channels"):
            pixels_of(batch)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (np.zeros((4, 4, 3), np.int32), TypeError, r"^expected uint8, uint16 or floats .* an array of int32"),
        (np.zeros((4, 4, 3), np.uint32), TypeError, "got an array of uint32"),
        (np.zeros((4, 4), bool), TypeError, "got an array of bool"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "got a tensor of torch.int64"),
        ([[0]], TypeError, "expected a NumPy array, a torch tensor or a PIL picture, got list"),
        (Image.new("CMYK", (4, 4)), TypeError, "mode CMYK have to be converted to RGB or RGBA"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, r"\(H, W, C\) or \(H, W\), of 1 to 4 channels, got \(3, 4, 5\)"),
        (np.zeros((4, 0, 3), np.uint8), ValueError, r"got \(4, 0, 3\)"),
        (np.zeros(3, np.uint8), ValueError, r"got \(3,\)"),
        (torch.zeros(5, 4, 3), ValueError, r"\(C, H, W\) or \(H, W\), of 1 to 4 channels, got \(5, 4, 3\)"),
    ],
    ids=lambda value: "",
)
def test_other_things_are_refused(wrong: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pixels_of(wrong)
