"""Descriptions of a clip: colour tags, streams, a cut in time, pixel formats and their planes, and orientation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from av import VideoFormat, VideoFrame
from av.codec import find_best_pix_fmt_of_list
from av.video.plane import VideoPlane
from torch import Tensor

from vsr.imaging.colour import ColourSpec, PixelLayout
from vsr.media.formats import LightLevels, MasteringDisplay
from vsr.media.libav import with_extras

UNSPECIFIED = 2
"""The H.273 code for an unspecified matrix, primaries or transfer."""

LIMITED, FULL = 1, 2
"""libav's numbers for the range of code values; 0 is unspecified."""

# H.273 MatrixCoefficients -> the names in vsr.imaging.colour.
MATRIX_NAMES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}

LEFT, CENTRE, TOP_LEFT, TOP = 1, 2, 3, 4
"""libav's numbers for chroma locations; 0 is unspecified, 5 and 6 are at the bottom."""


@dataclass(frozen=True)
class ColourTags:
    """The colour description in the stream, in the numbers of Rec. ITU-T H.273.

    Attributes:
        range: 0 unspecified, 1 limited, 2 full.
        matrix: MatrixCoefficients.
        primaries: ColourPrimaries.
        transfer: TransferCharacteristics.
        chroma_location: 0 unspecified; else H.273's ChromaLocType plus one, as in libav.
    """

    range: int = 0
    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    chroma_location: int = 0


@dataclass(frozen=True)
class VideoInfo:
    """The video stream that is upscaled.

    Attributes:
        index: index of the stream in the file.
        codec: libav's name of the format, such as ``h264``.
        width: columns as coded, before any rotation.
        height: rows as coded.
        pix_fmt: libav's name of the pixel format.
        time_base: seconds per tick of a timestamp.
        average_rate: frames per second in the header; used for rate control and estimates, never for timestamps.
        num_frames_estimated: frame count from the header, or from duration and rate; None where both are unknown.
        sample_aspect_ratio: width over height of a pixel; None where unspecified.
        tags: the colour description in the stream.
        duration: duration in the header, in ticks; None where unspecified.
        first_pts: timestamp of the first frame, in ticks; None where it has none.
        interlaced: the header or the first frame is flagged as interlaced.
        display_matrix: the container's transformation for display, nine numbers; None where there is none.
        mastering_display: HDR10's mastering display; None where unspecified.
        light_levels: HDR10's light levels; None where unspecified.
        disposition: libav's disposition flags.
        side_data: libav's names of the first frame's side data.
        metadata: the keys of the stream's metadata.
    """

    index: int
    codec: str
    width: int
    height: int
    pix_fmt: str
    time_base: Fraction
    average_rate: Fraction | None
    num_frames_estimated: int | None
    sample_aspect_ratio: Fraction | None
    tags: ColourTags
    duration: int | None = None
    first_pts: int | None = None
    interlaced: bool = False
    display_matrix: tuple[int, ...] | None = None
    mastering_display: MasteringDisplay | None = None
    light_levels: LightLevels | None = None
    disposition: int = 0
    side_data: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


def colour_of(video: VideoInfo, height: int) -> ColourSpec:
    """Return the meaning of a stream's code values for a picture of ``height`` lines.

    An unspecified matrix is BT.709 from 720 lines up, else BT.601, as players assume. An output without tags therefore
    has the matrix for its own height, not its source's, or its colours would shift. An unspecified range is full for
    RGB and limited for all else. An unspecified chroma location is MPEG-2's, on the left.
    """
    assumed = "bt709" if height >= 720 else "bt601"
    stated = MATRIX_NAMES.get(video.tags.matrix, "bt709")  # BT.709 both ways leaves an exotic one unchanged
    matrix = assumed if video.tags.matrix == UNSPECIFIED else stated
    decoded = nearest_format(video.pix_fmt)
    layout = layout_of(decoded) if decoded else None
    is_rgb = layout is not None and layout.kind == "rgb"
    return ColourSpec(
        matrix=matrix,
        full_range=video.tags.range == FULL or video.pix_fmt.startswith("yuvj") or (is_rgb and video.tags.range == 0),
        chroma_x="centred" if video.tags.chroma_location in (CENTRE, TOP) else "cosited",
        chroma_y="cosited" if video.tags.chroma_location in (TOP_LEFT, TOP) else "centred",
    )


@dataclass(frozen=True)
class StreamInfo:
    """Another stream of the clip.

    Attributes:
        index: index of the stream in the file.
        kind: the type of its content.
        codec: libav's name of the format; empty where unknown.
        language: ISO 639 code; None where unspecified.
        mimetype: MIME type of an attachment; None where unspecified.
        title: the title shown to the viewer; None where unspecified.
        cover_art: whether the video is a cover picture.
        sample_rate: samples per second of audio; None for all else.
        start: the time at which it begins on the clip's clock, in seconds; None where unknown.
        carries: the content of a QuickTime or MP4 data stream that libav also reports for the file; else empty.
    """

    index: int
    kind: Literal["video", "audio", "data", "subtitle", "attachment", "unknown"]
    codec: str
    language: str | None
    mimetype: str | None = None
    title: str | None = None
    cover_art: bool = False
    sample_rate: int | None = None
    start: Fraction | None = None
    carries: Literal["", "timecode", "chapters"] = ""

    @property
    def is_timed(self) -> bool:
        """Whether it is played in time with the picture."""
        return self.kind in ("audio", "subtitle")

    def __str__(self) -> str:
        language = f" ({self.language})" if self.language and self.language != "und" else ""
        kind = "cover art" if self.cover_art else self.kind
        return f"stream {self.index}, {self.codec or 'unknown'} {kind}{language}"


@dataclass(frozen=True)
class ClipInfo:
    """A clip: the video stream that is upscaled, and everything that travels with it.

    Attributes:
        path: the file, or the folder of pictures.
        video: the stream that is upscaled.
        others: the other streams.
        format: libav's name of the file's format; empty for pictures.
        start: the time at which the earliest stream begins, in seconds.
        metadata: the keys of the file's metadata.
        num_chapters: number of chapters.
        pictures: the picture files of a sequence, in order; empty for a video file.
        icc: the colour profile of the first picture; None where it has none.
    """

    path: Path
    video: VideoInfo
    others: tuple[StreamInfo, ...]
    format: str = ""
    start: Fraction = Fraction(0)
    metadata: tuple[str, ...] = ()
    num_chapters: int = 0
    pictures: tuple[Path, ...] = ()
    icc: bytes | None = None


@dataclass(frozen=True)
class Cut:
    """The selected part of a clip, in seconds of the source's own timestamps.

    Attributes:
        start: earlier packets are left out; None keeps all.
        end: packets that begin at or after this time are left out; None keeps all.
        shift: seconds subtracted from all timestamps, so that the part begins where the clip began.
    """

    start: Fraction | None = None
    end: Fraction | None = None
    shift: Fraction = Fraction(0)

    def contains(self, seconds: Fraction) -> bool:
        """Whether a packet that begins at this time is in the part."""
        return (self.start is None or seconds >= self.start) and (self.end is None or seconds < self.end)

    def drop_expression(self, delay: Fraction) -> str:
        """Return the expression for libav's ``noise`` filter that drops packets outside the part.

        Args:
            delay: seconds by which the packets' timestamps are delayed.
        """
        bounds = [("lt", self.start), ("gte", self.end)]
        return "+".join(f"{name}(pts*tb,{float(at + delay):.6f})" for name, at in bounds if at is not None)


WHOLE = Cut()


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
"""The planar pixel formats. A frame in another format (NV12, packed, palette) is converted to the nearest of these."""


@lru_cache(maxsize=64)
def layout_of(pix_fmt: str) -> PixelLayout | None:
    """Return how the planes of a pixel format are stored; None where they are not plain planes of 8 to 16 bits."""
    pixel_format = VideoFormat(pix_fmt, 16, 16)
    components = pixel_format.components
    separate = len({component.plane for component in components}) == len(components) in (1, 3, 4)
    if not separate:  # or no components at all, as for frames in device memory
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
    """Whether a pixel format has alpha; a palette may."""
    pixel_format = VideoFormat(pix_fmt, 16, 16)
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


@lru_cache(maxsize=64)
def nearest_format(pix_fmt: str, choices: Sequence[str] = PLANAR) -> str | None:
    """Return the planar format among ``choices`` that loses least: ``pix_fmt`` itself where it is one of them.

    The full-range twins of libav (``yuvj420p``) count as their plain forms, since the range is a separate tag.
    """
    plain = pix_fmt.replace("yuvj", "yuv")
    usable = [choice for choice in choices if not choice.startswith("yuvj") and layout_of(choice) is not None]
    if plain in usable or not usable:
        return plain if usable else None
    best, _ = find_best_pix_fmt_of_list(usable, plain, has_alpha(plain))
    return best.name if best is not None else None


def planes_like(pix_fmt: str) -> str | None:
    """Return the planar format with the same code values as a pixel format, maybe itself; None where there is none."""
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
    """Return views of a decoded frame's planes, without a copy; they keep its memory alive."""
    dtype = np.dtype(np.uint8) if layout.bit_depth == 8 else np.dtype("<u2")
    return tuple(_view(plane, dtype) for plane in frame.planes)


def frame_of(planes: Sequence[Plane], pix_fmt: str, extras: VideoFrame | None = None) -> VideoFrame:
    """Return a libav frame with copies of the planes.

    Args:
        planes: the code values.
        pix_fmt: a pixel format for which ``layout_of`` returns a layout.
        extras: a frame whose side data is copied.
    """
    height, width = planes[0].shape
    frame = VideoFrame(width, height, pix_fmt) if extras is None else with_extras(extras, width, height, pix_fmt)
    for target, plane in zip(frame.planes, planes, strict=True):
        _view(target, plane.dtype)[:] = plane
    return frame


def _view(plane: VideoPlane, dtype: np.dtype[Any]) -> Plane:
    rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return cast(Plane, rows[:, : plane.width])


TURN = 1 << 16
"""One, in the 16.16 fixed point of a display matrix."""


@dataclass(frozen=True)
class Orientation:
    """Quarter turns and mirrorings, applied in the order of the fields."""

    transposed: bool
    """Swap rows and columns."""
    rows_reversed: bool
    """Then reverse the rows."""
    columns_reversed: bool
    """Then reverse the columns."""

    def upright(self, image: Tensor) -> Tensor:
        """Turn an image (..., H, W) from its stored to its displayed orientation."""
        image = image.transpose(-1, -2) if self.transposed else image
        axes = [axis for axis, turned in ((-2, self.rows_reversed), (-1, self.columns_reversed)) if turned]
        return image.flip(axes) if axes else image


UPRIGHT = Orientation(False, False, False)


def orientation_of(display_matrix: tuple[int, ...] | None) -> Orientation | None:
    """Return the orientation of a display matrix: x' = a x + c y, y' = b x + d y.

    Args:
        display_matrix: nine numbers, row by row: a, b, u, c, d, v, x, y, w; None means upright.

    Returns:
        The orientation; None where the matrix is not made of quarter turns and mirrorings.
    """
    if display_matrix is None:
        return UPRIGHT
    a, b, _, c, d = display_matrix[:5]
    if sorted(map(abs, (a, b, c, d))) != [0, 0, TURN, TURN] or abs(a) != abs(d):
        return None
    across, down = (a, d) if a else (c, b)
    return Orientation(not a, down < 0, across < 0)
