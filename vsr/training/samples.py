"""Strips of held-out crops as they look at one step of a training run: LR | bicubic | SR | HR."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.errors import OutputError
from vsr.files import write_whole
from vsr.imaging.resize import resize_bicubic

LARGEST = 256
"""HR pixels of a picture that are shown, each way."""
GAP = 4
HEADER = 28
"""Height of the line of labels in pixels."""
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5

Strip = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""


def sample_strip(lr: Sequence[Tensor], sr: Sequence[Tensor], hr: Sequence[Tensor], *, step: int) -> Strip:
    """Pictures one below the other, each as LR (pixels repeated), bicubic, SR and HR side by side under their names.

    Of a large picture the middle is shown, at most 256 pixels of HR each way. Smaller ones are padded to the right and
    below. No pixel is interpolated but by bicubic.

    Args:
        lr: uint8 tensors (3, h, w), at least one.
        sr: uint8 tensors (3, s*h, s*w), as many.
        hr: uint8 tensors (3, s*h, s*w), as many.
        step: written over SR.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: no pictures, or shapes or dtypes that do not belong together.
    """
    if not lr:
        raise ValueError("a strip needs at least one picture")
    rows = [_panels(*pictures) for pictures in zip(lr, sr, hr, strict=True)]
    labels = ("LR", "bicubic", f"SR, step {step}", "HR")
    widths = [max(_text_width(label), *(row[column].shape[1] for row in rows)) for column, label in enumerate(labels)]
    heights = [row[0].shape[0] for row in rows]
    size = HEADER + sum(heights) + GAP * (len(rows) - 1), sum(widths) + GAP * (len(labels) - 1), 3
    strip: Strip = np.full(size, 255, np.uint8)
    left = 0
    for column, (label, width) in enumerate(zip(labels, widths, strict=True)):
        cv2.putText(strip, label, (left + 2, HEADER - 9), FONT, FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
        top = HEADER
        for row, height in zip(rows, heights, strict=True):
            panel = row[column]
            strip[top : top + height, left : left + panel.shape[1]] = panel
            top += height + GAP
        left += width + GAP
    return strip


def write_samples(path: Path, lr: Sequence[Tensor], sr: Sequence[Tensor], hr: Sequence[Tensor], *, step: int) -> None:
    """Write :func:`sample_strip` as a PNG, under a temporary name first.

    Raises:
        ValueError: see :func:`sample_strip`.
        OutputError: it cannot be written.
    """
    strip = sample_strip(lr, sr, hr, step=step)
    done, encoded = cv2.imencode(".png", strip[..., ::-1])
    if not done:
        raise OutputError(f"cannot encode the samples {path} as PNG.")
    write_whole(path, encoded.tobytes())


def _panels(lr: Tensor, sr: Tensor, hr: Tensor) -> tuple[Strip, Strip, Strip, Strip]:
    """LR enlarged, bicubic, SR, HR of the middle of a picture: four of one size, (H, W, 3)."""
    for tensor in (lr, sr, hr):
        if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[0] != 3:
            raise ValueError(f"expected uint8 tensors (3, H, W), got {tensor.dtype} {tuple(tensor.shape)}")
    rows, columns = lr.shape[-2:]
    scale = hr.shape[-2] // rows
    if sr.shape != hr.shape or tuple(hr.shape[-2:]) != (scale * rows, scale * columns):
        raise ValueError(f"the shapes do not belong together: {[tuple(t.shape) for t in (lr, sr, hr)]}")
    # The whole picture is resized before it is cut, so that no edge shows where it has none.
    bicubic = resize_bicubic(lr.cpu().float(), scale * rows, scale * columns).round_().clamp_(0, 255).byte()
    shown = _middle(lr.cpu(), max(1, LARGEST // scale))
    nearest = shown.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    top, left = ((whole - part) // 2 * scale for whole, part in zip(lr.shape[-2:], shown.shape[-2:], strict=True))
    height, width = nearest.shape[-2:]
    cut = (picture.cpu()[:, top : top + height, left : left + width] for picture in (bicubic, sr, hr))
    panels = [picture.permute(1, 2, 0).numpy() for picture in (nearest, *cut)]
    return panels[0], panels[1], panels[2], panels[3]


def _middle(picture: Tensor, size: int) -> Tensor:
    top, left = (max(0, length - size) // 2 for length in picture.shape[-2:])
    return picture[:, top : top + size, left : left + size]


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0]) + 4
