"""Strips of samples: each panel at its position, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vsr.errors import OutputError
from vsr.imaging.pictures import read_picture
from vsr.imaging.resize import resize_bicubic
from vsr.training.report import GAP, HEADER, sample_strip, write_samples


def pictures(height: int, width: int, scale: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Draw LR, SR and HR of noise, so that any shift shows."""
    sizes = (height, width), (scale * height, scale * width), (scale * height, scale * width)
    lr, sr, hr = (torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes)
    return lr, sr, hr


def pixels(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).numpy()


def enlarged(picture: Tensor, scale: int) -> np.ndarray:
    """Enlarge with repeated pixels by OpenCV, independently of the tested code."""
    return cv2.resize(pixels(picture), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


def nearly_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are equal except for a few values at the edge of rounding."""
    difference = np.abs(one.astype(int) - other)
    return bool(difference.max() <= 1 and difference.mean() < 1e-3)


@pytest.mark.parametrize("scale", [2, 4])
def test_panels_are_at_their_positions(scale: int) -> None:
    height, width = 160 // scale, 240 // scale
    lr, sr, hr = pictures(height, width, scale)
    strip = sample_strip([lr], [sr], [hr], step=1000)
    assert strip.shape == (HEADER + 160, 4 * 240 + 3 * GAP, 3) and strip.dtype == np.uint8
    panels = [strip[HEADER:, left : left + 240] for left in range(0, strip.shape[1], 240 + GAP)]
    bicubic = resize_bicubic(lr.double(), 160, 240).round().clamp(0, 255).byte()
    assert np.array_equal(panels[0], enlarged(lr, scale))
    assert nearly_equal(panels[1], pixels(bicubic))
    assert np.array_equal(panels[2], pixels(sr))
    assert np.array_equal(panels[3], pixels(hr))
    for gap in (240, 484, 728):
        assert (strip[:, gap : gap + GAP] == 255).all()


def test_labels_are_written_over_their_panels() -> None:
    lr, sr, hr = pictures(40, 60)
    strip = sample_strip([lr], [sr], [hr], step=1000)
    ink = (strip[:HEADER].min(2) < 128).sum(0)
    per_panel = [int(ink[left : left + 240].sum()) for left in range(0, strip.shape[1], 240 + GAP)]
    assert min(per_panel) > 20
    assert per_panel[2] == max(per_panel), "the step stands over SR"
    other = sample_strip([lr], [sr], [hr], step=2345)
    assert not np.array_equal(strip[:HEADER, 488:728], other[:HEADER, 488:728])
    assert np.array_equal(strip[:, :484], other[:, :484])


def test_smaller_pictures_are_padded() -> None:
    large, small = pictures(40, 60), pictures(30, 50)
    strip = sample_strip(*zip(large, small, strict=True), step=0)
    assert strip.shape == (HEADER + 160 + GAP + 120, 4 * 240 + 3 * GAP, 3)
    top, left = HEADER + 160 + GAP, 3 * (240 + GAP)
    assert np.array_equal(strip[HEADER : HEADER + 160, left:], pixels(large[2]))
    assert (strip[HEADER + 160 : top] == 255).all()
    assert np.array_equal(strip[top:, left : left + 200], pixels(small[2]))
    assert (strip[top:, left + 200 :] == 255).all()


def test_the_middle_of_large_pictures_is_shown() -> None:
    lr, sr, hr = pictures(70, 101)
    strip = sample_strip([lr], [sr], [hr], step=0)
    assert strip.shape == (HEADER + 256, 4 * 256 + 3 * GAP, 3)
    panels = [strip[HEADER:, left : left + 256] for left in range(0, strip.shape[1], 256 + GAP)]
    bicubic = resize_bicubic(lr.double(), 280, 404).round().clamp(0, 255).byte()
    assert np.array_equal(panels[0], enlarged(lr[:, 3:67, 18:82], 4))
    assert nearly_equal(panels[1], pixels(bicubic[:, 12:268, 72:328]))
    assert np.array_equal(panels[2], pixels(sr[:, 12:268, 72:328]))
    assert np.array_equal(panels[3], pixels(hr[:, 12:268, 72:328]))


def test_columns_are_as_wide_as_their_labels() -> None:
    strip = sample_strip(*([picture] for picture in pictures(4, 4)), step=123456)
    assert strip.shape[0] == HEADER + 16
    assert strip.shape[1] > 4 * 16 + 3 * GAP + 100


@pytest.mark.parametrize(
    ("lr", "sr", "hr", "complaint"),
    [
        ((3, 4, 4), (3, 16, 16), (3, 16, 12), "do not match"),
        ((3, 4, 4), (3, 16, 12), (3, 16, 12), "do not match"),
        ((3, 4, 4), (3, 3, 3), (3, 3, 3), "do not match"),
        ((1, 4, 4), (1, 16, 16), (1, 16, 16), r"uint8 tensors \(3, H, W\), got torch.uint8 \(1, 4, 4\)"),
        ((1, 3, 4, 4), (1, 3, 16, 16), (1, 3, 16, 16), "uint8 tensors"),
    ],
)
def test_shapes_that_do_not_match_are_refused(lr: tuple[int], sr: tuple[int], hr: tuple[int], complaint: str) -> None:
    made = ([torch.zeros(shape, dtype=torch.uint8)] for shape in (lr, sr, hr))
    with pytest.raises(ValueError, match=complaint):
        sample_strip(*made, step=0)


def test_other_dtypes_and_no_pictures_are_refused() -> None:
    lr, sr, hr = pictures(4, 4)
    with pytest.raises(ValueError, match="uint8 tensors .* got torch.float32"):
        sample_strip([lr], [sr.float()], [hr], step=0)
    with pytest.raises(ValueError, match="at least one picture"):
        sample_strip([], [], [], step=0)
    with pytest.raises(ValueError):
        sample_strip([lr, lr], [sr], [hr], step=0)


def test_write_samples(tmp_path: Path) -> None:
    made = [[picture] for picture in pictures(10, 12)]
    target = tmp_path / "step-0000100.png"
    target.write_text("what stood there")
    write_samples(target, *made, step=100)
    assert np.array_equal(read_picture(target), sample_strip(*made, step=100))
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_samples_that_cannot_be_written_are_an_output_error(tmp_path: Path) -> None:
    made = [[picture] for picture in pictures(4, 4)]
    with pytest.raises(OutputError, match=r"cannot write .*samples.png: No such file"):
        write_samples(tmp_path / "missing" / "samples.png", *made, step=1)
