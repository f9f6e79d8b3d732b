"""libav's pixel formats <-> the plane layouts of ``vsr.imaging.colour``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av import VideoFormat, VideoFrame
from av.codec import find_best_pix_fmt_of_list
from av.video.plane import VideoPlane

from vsr.imaging.colour import PixelLayout

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(rows, columns) code values."""

PLANAR = tuple(
    f"{arrangement}{depth}"
    for arrangement in ("yuv420p", "yuv422p", "yuv444p", "gbrp", "gray")
    for depth in ("", "10le", "12le", "14le", "16le")
)
"""A frame in a format that is not planes (NV12, packed, palette, alpha) is first laid out as the nearest of these."""


@lru_cache(maxsize=64)
def layout_of(pix_fmt: str) -> PixelLayout | None:
    """How the planes of a pixel format are stored; None where they are not plain planes of 8 to 16 bits."""
    pixel_format = VideoFormat(pix_fmt, 16, 16)
    components = pixel_format.components
    separate = len({component.plane for component in components}) == len(components) in (1, 3)
    if not separate:  # or none at all: frames that lie in a device's memory have no components
        return None
    depth = components[0].bits
    big_endian = pixel_format.is_big_endian and depth > 8
    odd = pixel_format.has_palette or big_endian or "msb" in pix_fmt or "f16" in pix_fmt
    if odd or not 8 <= depth <= 16:
        return None
    if len(components) == 1:
        return PixelLayout("grey", depth)
    if pixel_format.is_rgb:
        return PixelLayout("rgb", depth)
    chroma = components[1]
    return PixelLayout("yuv", depth, (16 // chroma.width).bit_length() - 1, (16 // chroma.height).bit_length() - 1)


@lru_cache(maxsize=64)
def nearest_format(pix_fmt: str, choices: Sequence[str] = PLANAR) -> str | None:
    """``pix_fmt`` itself where it is among ``choices`` that are planes, else the one of them that loses least.

    The full-range twins of libav (``yuvj420p``) count as their plain forms: range is a tag of its own.
    """
    plain = pix_fmt.replace("yuvj", "yuv")
    usable = [choice for choice in choices if not choice.startswith("yuvj") and layout_of(choice) is not None]
    if plain in usable or not usable:
        return plain if usable else None
    best, _ = find_best_pix_fmt_of_list(usable, plain)
    return best.name if best is not None else None


def planes_of(frame: VideoFrame, layout: PixelLayout) -> tuple[Plane, ...]:
    """Views of a decoded frame's planes, without a copy; they keep its memory alive."""
    dtype = np.dtype(np.uint8) if layout.bit_depth == 8 else np.dtype("<u2")
    return tuple(_view(plane, dtype) for plane in frame.planes)


def frame_of(planes: Sequence[Plane], pix_fmt: str) -> VideoFrame:
    """A libav frame that holds copies of the planes, in a format for which ``layout_of`` knows the layout."""
    height, width = planes[0].shape
    frame = VideoFrame(width, height, pix_fmt)
    for target, plane in zip(frame.planes, planes, strict=True):
        _view(target, plane.dtype)[:] = plane
    return frame


def _view(plane: VideoPlane, dtype: np.dtype[Any]) -> Plane:
    rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return cast(Plane, rows[:, : plane.width])
