"""Strips of samples: each panel at its position, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vsr.errors import OutputError
from vsr.imaging.pictures import read_picture
from vsr.imaging.resize import resize_bicubic
from vsr.training.report import BACKGROUND, GAP, LINE, Sample, sample_strip, write_samples

TOP = 2 * LINE
"""Rows of the caption and of the labels."""


def pictures(height: int, width: int, scale: int = 4) -> Sample:
    """Draw LR, SR and HR of noise, so that any shift shows."""
    sizes = (height, width), (scale * height, scale * width), (scale * height, scale * width)
    return Sample(*(torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes))


def pixels(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).numpy()


def enlarged(picture: Tensor, scale: int) -> np.ndarray:
    """Enlarge with repeated pixels by OpenCV, independently of the tested code."""
    return cv2.resize(pixels(picture), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


def nearly_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are equal except for a few values at the edge of rounding."""
    difference = np.abs(one.astype(int) - other)
    return bool(difference.max() <= 1 and difference.mean() < 1e-3)


def lefts(width: int) -> range:
    """The first columns of four panels of a width."""
    return range(GAP, GAP + 4 * (width + GAP), width + GAP)


@pytest.mark.parametrize("scale", [2, 4])
def test_panels_are_at_their_positions(scale: int) -> None:
    height, width = 160 // scale, 240 // scale
    sample = pictures(height, width, scale)
    strip = sample_strip([sample], step=1000)
    assert strip.shape == (TOP + 160 + GAP, 4 * 240 + 5 * GAP, 3) and strip.dtype == np.uint8
    panels = [strip[TOP : TOP + 160, left : left + 240] for left in lefts(240)]
    bicubic = resize_bicubic(sample.lr.double(), 160, 240).round().clamp(0, 255).byte()
    assert np.array_equal(panels[0], enlarged(sample.lr, scale))
    assert nearly_equal(panels[1], pixels(bicubic))
    assert np.array_equal(panels[2], pixels(sample.sr))
    assert np.array_equal(panels[3], pixels(sample.hr))
    for left in lefts(240):
        assert (strip[TOP:, left - GAP : left] == BACKGROUND).all()


def lettered(strip: np.ndarray, top: int, left: int, width: int = 240) -> bool:
    """Whether there are bright letters in the line of a panel that begins at a row."""
    return bool((strip[top : top + LINE, left : left + width].min(2) > 150).sum() > 10)


def test_labels_are_over_the_panels_and_figures_under_bicubic_and_sr() -> None:
    sample = replace(pictures(40, 60), of_bicubic="27.10 / 0.2876", of_sr="29.00 / 0.0870")
    figures = "PSNR-Y in dB / LPIPS (SqueezeNet)"
    strip = sample_strip([sample], step=1000, figures=figures)
    assert strip.shape == (TOP + 160 + LINE + GAP, 4 * 240 + 5 * GAP, 3)
    assert all(lettered(strip, LINE, left) for left in lefts(240))
    assert [lettered(strip, TOP + 160, left) for left in lefts(240)] == [False, True, True, False]
    assert lettered(strip, 0, GAP, 400)
    other = sample_strip([replace(sample, of_sr="31.00 / 0.0870")], step=1000, figures=figures)
    differs = np.nonzero((strip != other).any(2))
    assert differs[0].min() >= TOP + 160 and lefts(240)[2] <= differs[1].min() <= differs[1].max() < lefts(240)[3]
    later = sample_strip([sample], step=2345, figures=figures)
    assert np.array_equal(strip[LINE:], later[LINE:]) and not np.array_equal(strip, later)


def test_smaller_pictures_are_padded() -> None:
    large, small = pictures(40, 60), pictures(30, 50)
    strip = sample_strip([large, small], step=0)
    assert strip.shape == (TOP + 160 + GAP + 120 + GAP, 4 * 240 + 5 * GAP, 3)
    top, left = TOP + 160 + GAP, lefts(240)[3]
    assert np.array_equal(strip[TOP : TOP + 160, left : left + 240], pixels(large.hr))
    assert (strip[TOP + 160 : top] == BACKGROUND).all()
    assert np.array_equal(strip[top : top + 120, left : left + 200], pixels(small.hr))
    assert (strip[top:, left + 200 :] == BACKGROUND).all()


def test_the_middle_of_large_pictures_is_shown() -> None:
    sample = pictures(70, 101)
    strip = sample_strip([sample], step=0)
    assert strip.shape == (TOP + 256 + GAP, 4 * 256 + 5 * GAP, 3)
    panels = [strip[TOP : TOP + 256, left : left + 256] for left in lefts(256)]
    bicubic = resize_bicubic(sample.lr.double(), 280, 404).round().clamp(0, 255).byte()
    assert np.array_equal(panels[0], enlarged(sample.lr[:, 3:67, 18:82], 4))
    assert nearly_equal(panels[1], pixels(bicubic[:, 12:268, 72:328]))
    assert np.array_equal(panels[2], pixels(sample.sr[:, 12:268, 72:328]))
    assert np.array_equal(panels[3], pixels(sample.hr[:, 12:268, 72:328]))


def test_columns_are_as_wide_as_their_text() -> None:
    strip = sample_strip([replace(pictures(4, 4), of_sr="29.00 / 0.0870")], step=123456)
    assert strip.shape[0] == TOP + 16 + LINE + GAP
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
    made = Sample(*(torch.zeros(shape, dtype=torch.uint8) for shape in (lr, sr, hr)))
    with pytest.raises(ValueError, match=complaint):
        sample_strip([made], step=0)


def test_other_dtypes_and_no_pictures_are_refused() -> None:
    sample = pictures(4, 4)
    with pytest.raises(ValueError, match="uint8 tensors .* got torch.float32"):
        sample_strip([replace(sample, sr=sample.sr.float())], step=0)
    with pytest.raises(ValueError, match="at least one picture"):
        sample_strip([], step=0)


def test_write_samples(tmp_path: Path) -> None:
    strip = sample_strip([pictures(10, 12)], step=100)
    target = tmp_path / "step-0000100.png"
    target.write_text("what stood there")
    write_samples(target, strip)
    assert np.array_equal(read_picture(target), strip)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_samples_that_cannot_be_written_are_an_output_error(tmp_path: Path) -> None:
    strip = sample_strip([pictures(4, 4)], step=1)
    with pytest.raises(OutputError, match=r"cannot write .*samples.png: No such file"):
        write_samples(tmp_path / "missing" / "samples.png", strip)
