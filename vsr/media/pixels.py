"""libav's pixel formats <-> the plane layouts of ``vsr.imaging.colour``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av import VideoFormat, VideoFrame
from av.codec import find_best_pix_fmt_of_list
from av.video.plane import VideoPlane

from vsr.imaging.colour import PixelLayout
from vsr.media.libav import with_extras

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(rows, columns) code values."""


def _planar_formats() -> Iterator[str]:
    depths = ("", "9le", "10le", "12le", "14le", "16le")
    for arrangement in ("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "gbrp", "gray"):
        yield from (arrangement + depth for depth in depths)
    for arrangement in ("yuva420p", "yuva422p", "yuva444p", "gbrap"):
        yield from (arrangement + depth for depth in depths)


def _exists(pix_fmt: str) -> bool:
    try:
        VideoFormat(pix_fmt, 16, 16)
    except ValueError:
        return False
    return True


PLANAR = tuple(filter(_exists, _planar_formats()))
"""A frame in a format that is not planes (NV12, packed, palette) is first laid out as the nearest of these."""


@lru_cache(maxsize=64)
def layout_of(pix_fmt: str) -> PixelLayout | None:
    """How the planes of a pixel format are stored; None where they are not plain planes of 8 to 16 bits."""
    pixel_format = VideoFormat(pix_fmt, 16, 16)
    components = pixel_format.components
    separate = len({component.plane for component in components}) == len(components) in (1, 3, 4)
    if not separate:  # or none at all: frames that lie in a device's memory have no components
        return None
    depth = components[0].bits
    big_endian = pixel_format.is_big_endian and depth > 8
    odd = pixel_format.has_palette or big_endian or "msb" in pix_fmt or "f16" in pix_fmt
    if odd or not 8 <= depth <= 16:
        return None
    alpha = components[-1].is_alpha
    if len(components) == 1:
        return PixelLayout("grey", depth)
    if pixel_format.is_rgb:
        return PixelLayout("rgb", depth, alpha=alpha)
    across, down = ((16 // edge).bit_length() - 1 for edge in (components[1].width, components[1].height))
    return PixelLayout("yuv", depth, across, down, alpha)


def has_alpha(pix_fmt: str) -> bool:
    """Whether a pixel format says how opaque each pixel is; a palette may."""
    pixel_format = VideoFormat(pix_fmt, 16, 16)
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


@lru_cache(maxsize=64)
def nearest_format(pix_fmt: str, choices: Sequence[str] = PLANAR) -> str | None:
    """``pix_fmt`` itself where it is among ``choices`` that are planes, else the one of them that loses least.

    The full-range twins of libav (``yuvj420p``) count as their plain forms: range is a tag of its own.
    """
    plain = pix_fmt.replace("yuvj", "yuv")
    usable = [choice for choice in choices if not choice.startswith("yuvj") and layout_of(choice) is not None]
    if plain in usable or not usable:
        return plain if usable else None
    best, _ = find_best_pix_fmt_of_list(usable, plain, has_alpha(plain))
    return best.name if best is not None else None


def planes_like(pix_fmt: str) -> str | None:
    """The planes that hold the very code values of a pixel format: itself where it is planes; None where none do."""
    if pix_fmt.startswith("yuvj"):
        return None
    planes = nearest_format(pix_fmt) if VideoFormat(pix_fmt, 16, 16).components else None
    if planes is None or planes == pix_fmt:
        return planes
    one, other = (VideoFormat(name, 16, 16) for name in (pix_fmt, planes))
    same = [
        (component.bits, component.width, component.height, component.is_alpha, pixel_format.is_rgb)
        for pixel_format in (one, other)
        for component in pixel_format.components
    ]
    half = len(same) // 2
    return planes if same[:half] == same[half:] and not one.has_palette else None


def planes_of(frame: VideoFrame, layout: PixelLayout) -> tuple[Plane, ...]:
    """Views of a decoded frame's planes, without a copy; they keep its memory alive."""
    dtype = np.dtype(np.uint8) if layout.bit_depth == 8 else np.dtype("<u2")
    return tuple(_view(plane, dtype) for plane in frame.planes)


def frame_of(planes: Sequence[Plane], pix_fmt: str, extras: VideoFrame | None = None) -> VideoFrame:
    """A libav frame that holds copies of the planes, in a format for which ``layout_of`` knows the layout.

    Args:
        planes: code values.
        pix_fmt: the format.
        extras: a frame whose side data it shall have.
    """
    height, width = planes[0].shape
    frame = VideoFrame(width, height, pix_fmt) if extras is None else with_extras(extras, width, height, pix_fmt)
    for target, plane in zip(frame.planes, planes, strict=True):
        _view(target, plane.dtype)[:] = plane
    return frame


def _view(plane: VideoPlane, dtype: np.dtype[Any]) -> Plane:
    rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return cast(Plane, rows[:, : plane.width])
