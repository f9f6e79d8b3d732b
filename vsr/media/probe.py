"""What a clip holds, read from its headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import SEEK_SET, FileIO
from pathlib import Path
from typing import Literal, cast

import av
from av.container import InputContainer
from av.error import FFmpegError as LibavError
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vsr.errors import InputError
from vsr.imaging.colour import ColourSpec
from vsr.media.pixels import layout_of, nearest_format

UNSPECIFIED = 2
"""H.273's code for a matrix, primaries or transfer that nobody stated."""

# H.273 MatrixCoefficients -> the names of vsr.imaging.colour.
MATRIX_NAMES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}

# MPEG-1 and its kin lay chroma between the luma columns, everything later beside the left one.
CENTRED_CHROMA = frozenset({"mpeg1video", "mjpeg", "h263", "h263p", "h261", "flv1"})


@dataclass(frozen=True)
class ColourTags:
    """The colour description as the stream carries it, in the numbers of Rec. ITU-T H.273.

    Attributes:
        range: 0 unspecified, 1 limited, 2 full.
        matrix: MatrixCoefficients.
        primaries: ColourPrimaries.
        transfer: TransferCharacteristics.
    """

    range: int = 0
    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


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


def colour_of(video: VideoInfo, height: int) -> ColourSpec:
    """What the code values of a stream mean, were it ``height`` lines high.

    An unstated matrix is BT.709 from 720 lines up, else BT.601: what players assume. An output without tags therefore
    has the matrix of its own height, not of its source's, or its colours would shift. RGB uses all codes unless it says
    otherwise; all else does not unless it says so.
    """
    assumed = "bt709" if height >= 720 else "bt601"
    stated = MATRIX_NAMES.get(video.tags.matrix, "bt709")  # an exotic one goes through BT.709 and back, and stays
    matrix = assumed if video.tags.matrix == UNSPECIFIED else stated
    decoded = nearest_format(video.pix_fmt)
    layout = layout_of(decoded) if decoded else None
    is_rgb = layout is not None and layout.kind == "rgb"
    return ColourSpec(
        matrix=matrix,
        full_range=video.tags.range == 2 or video.pix_fmt.startswith("yuvj") or (is_rgb and video.tags.range != 1),
        chroma_x="centred" if video.codec in CENTRED_CHROMA else "cosited",
        chroma_y="centred",
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
    """

    index: int
    kind: Literal["video", "audio", "data", "subtitle", "attachment", "unknown"]
    codec: str
    language: str | None
    mimetype: str | None = None

    def __str__(self) -> str:
        language = f" ({self.language})" if self.language and self.language != "und" else ""
        return f"stream {self.index}, {self.codec or 'unknown'} {self.kind}{language}"


@dataclass(frozen=True)
class ClipInfo:
    """A clip: the video stream that is upscaled, and everything that travels with it."""

    path: Path
    video: VideoInfo
    others: tuple[StreamInfo, ...]


@contextmanager
def open_clip(path: Path) -> Iterator[InputContainer]:
    """Open a file with libav, and nothing that the file may name: libav gets the open file and no protocol.

    Raises:
        InputError: the file is missing, unreadable or of no format that libav knows.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a video.")
        file = _File(path)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}.") from exc
    with file, _open_container(file, path) as container:
        yield container
    if file.error is not None:
        raise InputError(f"cannot read {path} to its end: {file.error.strerror}.")


class _File(FileIO):
    """A file to read, at any position that a damaged header names.

    libav goes on after an error, but PyAV prints a traceback of it: the error is kept, and the file ends there.
    """

    error: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return super().read(size) or b""
        except OSError as exc:
            self.error = exc
            return b""

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


def _open_container(file: _File, path: Path) -> InputContainer:
    try:
        if not file.read(1):
            raise InputError(f"{path} is empty: the file holds no byte.")
        file.seek(0)
        # Old files hold their titles in any encoding; nothing here depends on them.
        return av.open(file, "r", options={"protocol_whitelist": "none"}, metadata_errors="replace")
    except (LibavError, OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise InputError(f"{path} is not a video that can be read: {reason}.") from exc


def probe(path: Path) -> ClipInfo:
    """Read what a clip holds.

    Raises:
        InputError: the file cannot be read, or has no video stream.
    """
    with open_clip(path) as container:
        video = choose_video(container, path)
        others = tuple(_stream_info(stream) for stream in container.streams if stream.index != video.index)
        return ClipInfo(path, _video_info(video, container.duration), others)


def choose_video(container: InputContainer, path: Path) -> VideoStream:
    """The stream that libav's ``best`` picks; cover art is not one.

    Raises:
        InputError: no video stream, or one without a size or a decoder.
    """
    candidates = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not candidates:
        kinds = sorted({"cover art" if stream.type == "video" else stream.type for stream in container.streams})
        raise InputError(f"{path} holds no video, only {', '.join(kinds) or 'nothing'}.")
    best = container.streams.best("video")
    chosen = best if isinstance(best, VideoStream) and best in candidates else candidates[0]
    context = cast("VideoCodecContext | None", chosen.codec_context)  # None where libav has no decoder
    if context is None:
        raise InputError(f"the video of {path} is of a format that this build of libav cannot decode.")
    if not context.width or not context.height or context.pix_fmt is None:
        raise InputError(f"{path} is damaged: its video stream does not say how large its frames are.")
    return chosen


def _video_info(stream: VideoStream, container_duration: int | None) -> VideoInfo:
    context = stream.codec_context
    assert context.pix_fmt is not None and stream.time_base is not None
    rate = stream.average_rate or stream.guessed_rate
    seconds: Fraction | None = None
    if stream.duration is not None:
        seconds = stream.duration * stream.time_base
    elif container_duration is not None:
        seconds = Fraction(container_duration, av.time_base)
    estimated = stream.frames or (round(seconds * rate) if seconds and rate else None)
    return VideoInfo(
        index=stream.index,
        codec=context.codec.canonical_name,
        width=context.width,
        height=context.height,
        pix_fmt=context.pix_fmt,
        time_base=stream.time_base,
        average_rate=rate,
        num_frames_estimated=estimated,
        sample_aspect_ratio=stream.sample_aspect_ratio or context.sample_aspect_ratio,
        tags=ColourTags(context.color_range, context.colorspace, context.color_primaries, context.color_trc),
    )


def _stream_info(stream: Stream) -> StreamInfo:
    codec = stream.codec_context.codec.canonical_name if stream.codec_context is not None else ""
    return StreamInfo(stream.index, stream.type, codec, stream.language, stream.metadata.get("mimetype"))
