"""Synthetic pictures that several tests share, and their comparison."""

from __future__ import annotations

import cv2
import numpy as np


def moving(height: int = 40, width: int = 40, count: int = 4, grain: float = 1.0) -> np.ndarray:
    """Return a soft random texture that moves by (1, 2) pixels per frame: (count, height, width, 3) uint8."""
    noise = np.random.default_rng(0).standard_normal((height + count, width + 2 * count, 3)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), grain)
    texture = np.clip(128 + 45 * texture / texture.std(), 0, 255).astype(np.uint8)
    return np.stack([texture[t : t + height, 2 * t : 2 * t + width] for t in range(count)])


def shift_between(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the shift (down, across) in pixels of a grey image from its reference; least squares on gradients."""
    image, reference = (picture.mean(-1)[4:-4, 4:-4] for picture in (image, reference))
    slopes = [slope.ravel() for slope in np.gradient(reference)]
    # A blurred image also differs by its curvature; the constant covers changes of brightness by compression.
    columns = np.stack(
        [*slopes, *(np.gradient(s.reshape(reference.shape))[a].ravel() for a, s in enumerate(slopes))], 1
    )
    columns = np.concatenate([columns, np.ones((len(columns), 1))], 1)
    return -np.linalg.lstsq(columns, (image - reference).ravel(), rcond=None)[0][:2]


def pan(picture: np.ndarray, across: int, down: int, margin: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return two views of a picture, the later one shifted by ``across`` columns and ``down`` rows."""
    height, width = picture.shape[:2]
    views = [
        picture[margin + y : height - margin + y, margin + x : width - margin + x] for x, y in ((0, 0), (across, down))
    ]
    return np.ascontiguousarray(views[0]), np.ascontiguousarray(views[1])


def passing(background: np.ndarray, thing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two frames in which rows 40 to 90 of a picture move in front of another, from column 40 to 52."""
    frames = background.copy(), background.copy()
    for frame, left in zip(frames, (40, 52), strict=True):
        frame[40:90, left : left + 50] = thing[40:90, 40:90]
    return frames
