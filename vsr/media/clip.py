"""What a clip is: the video stream that is upscaled, and everything that travels with it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from vsr.imaging.colour import ColourSpec
from vsr.media.hdr import LightLevels, MasteringDisplay
from vsr.media.pixels import layout_of, nearest_format

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
