"""Picture files <-> arrays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vsr.errors import InputError

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def read_picture(path: Path) -> Picture:
    """Decode a picture file to (H, W, 3) uint8 RGB: grey is repeated, alpha dropped, EXIF rotation applied.

    Raises:
        InputError: the file cannot be read or is no picture.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc
    try:
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except cv2.error as exc:
        raise InputError(f"{path} is a damaged picture: {exc.err}") from exc
    if bgr is None:
        raise InputError(f"{path} is not a picture that can be decoded")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
