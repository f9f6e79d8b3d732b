"""What a clip is: the video stream that is upscaled, with its pixel format, and everything that travels with it."""

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
"""H.273's code for a matrix, primaries or transfer that nobody stated."""

LIMITED, FULL = 1, 2
"""Ranges of code values, in libav's numbers; 0 is unspecified."""

# H.273 MatrixCoefficients -> the names of vsr.imaging.colour.
MATRIX_NAMES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}

LEFT, CENTRE, TOP_LEFT, TOP = 1, 2, 3, 4
"""Chroma locations, in libav's numbers; 0 is unspecified, 5 and 6 lie at the bottom."""


@dataclass(frozen=True)
class ColourTags:
    """The colour description as the stream carries it, in the numbers of Rec. ITU-T H.273.

    Attributes:
        range: 0 unspecified, 1 limited, 2 full.
        matrix: MatrixCoefficients.
        primaries: ColourPrimaries.
        transfer: TransferCharacteristics.
        chroma_location: 0 unspecified; else one more than H.273's ChromaLocType, as libav counts.
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
        index: number of the stream in the file.
        codec: libav's name of the format, such as ``h264``.
        width: columns as coded, before any rotation.
        height: rows as coded.
        pix_fmt: libav's name of the pixel format.
        time_base: seconds for each tick of a timestamp.
        average_rate: frames a second by the header; a hint for rate control and estimates, never a clock.
        num_frames_estimated: frames by the header, or by duration and rate; None where neither says.
        sample_aspect_ratio: width over height of a pixel; None where unstated.
        tags: the colour description, as carried.
        duration: in ticks, by the header; None where it does not say.
        first_pts: timestamp of the first frame, in ticks; None where it has none.
        interlaced: the header or the first frame says that frames are two fields.
        display_matrix: nine numbers of the container's transformation for display, None where there is none.
        mastering_display: of HDR10, None where unstated.
        light_levels: of HDR10, None where unstated.
        disposition: libav's flags.
        side_data: what the first frame carries beside its pixels, by libav's names.
        metadata: the keys of what the file says of the stream.
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
    """What the code values of a stream mean, were it ``height`` lines high.

    An unstated matrix is BT.709 from 720 lines up, else BT.601: what players assume. An output without tags therefore
    has the matrix of its own height, not of its source's, or its colours would shift. RGB uses all codes unless it says
    otherwise; all else does not unless it says so. Chroma of an unstated place lies where MPEG-2 has it, to the left.
    """
    assumed = "bt709" if height >= 720 else "bt601"
    stated = MATRIX_NAMES.get(video.tags.matrix, "bt709")  # an exotic one goes through BT.709 and back, and stays
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
        index: number of the stream in the file.
        kind: what it carries.
        codec: libav's name of the format; empty where unknown.
        language: ISO 639 code, None where unstated.
        mimetype: of an attachment, None where unstated.
        title: its name for the viewer, None where unstated.
        cover_art: a video that is a picture of what the file is about.
        sample_rate: of audio, None of all else.
        start: seconds of the clip's clock at which it begins, None where unknown.
        carries: of a data stream in QuickTime and its kin: what libav tells of the file, too; empty for all else.
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
        """Whether it plays along with the picture."""
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
        start: seconds at which the earliest stream begins.
        metadata: the keys of what the file says of itself.
        num_chapters: how many chapters it has.
        pictures: the files whose sequence the clip is; empty for a video file.
        icc: the colour profile of the first picture, None where it has none.
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
    """The part of a clip that is wanted, in seconds of the source's own timestamps.

    Attributes:
        start: packets that begin earlier are left out; None keeps all.
        end: packets that begin then or later are left out; None keeps all.
        shift: how much earlier everything comes, so that the part begins where the clip began.
    """

    start: Fraction | None = None
    end: Fraction | None = None
    shift: Fraction = Fraction(0)

    def holds(self, seconds: Fraction) -> bool:
        """Whether what begins then is wanted."""
        return (self.start is None or seconds >= self.start) and (self.end is None or seconds < self.end)

    def drop(self, later: Fraction) -> str:
        """The expression of libav's ``noise`` filter that holds for packets to leave out, which come so much later."""
        bounds = [("lt", self.start), ("gte", self.end)]
        return "+".join(f"{name}(pts*tb,{float(at + later):.6f})" for name, at in bounds if at is not None)


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


TURN = 1 << 16
"""One, in the 16.16 fixed point of a display matrix."""


@dataclass(frozen=True)
class Orientation:
    """Quarter turns and mirrorings, in the order of the fields."""

    transposed: bool
    """Rows and columns change places."""
    rows_reversed: bool
    """Then the last row comes first."""
    columns_reversed: bool
    """And the last column comes first."""

    def upright(self, image: Tensor) -> Tensor:
        """(..., H, W) as stored -> as it is shown."""
        image = image.transpose(-1, -2) if self.transposed else image
        axes = [axis for axis, turned in ((-2, self.rows_reversed), (-1, self.columns_reversed)) if turned]
        return image.flip(axes) if axes else image


UPRIGHT = Orientation(False, False, False)


def orientation_of(display_matrix: tuple[int, ...] | None) -> Orientation | None:
    """What a display matrix asks for: x' = a x + c y, y' = b x + d y.

    Args:
        display_matrix: nine numbers, row by row: a, b, u, c, d, v, x, y, w; None stands for none.

    Returns:
        None where it asks for anything but quarter turns and mirrorings.
    """
    if display_matrix is None:
        return UPRIGHT
    a, b, _, c, d = display_matrix[:5]
    if sorted(map(abs, (a, b, c, d))) != [0, 0, TURN, TURN] or abs(a) != abs(d):
        return None
    across, down = (a, d) if a else (c, b)
    return Orientation(not a, down < 0, across < 0)
