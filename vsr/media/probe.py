"""Open clips, read their streams from the headers and the first frame, and index packets without decoding."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from io import SEEK_SET, FileIO
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.audio.codeccontext import AudioCodecContext
from av.container import InputContainer
from av.error import FFmpegError as LibavError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vsr.errors import InputError, is_out_of_memory, setting
from vsr.files import MAX_PIXELS, files_only, has_memory_for
from vsr.media.clip import CENTRE, UNSPECIFIED, ClipInfo, ColourTags, StreamInfo, VideoInfo
from vsr.media.formats import LightLevels, MasteringDisplay
from vsr.media.libav import (
    chroma_location_of,
    crop_exactly,
    field_order_of,
    fraction_of,
    open_input,
    readable,
    side_data_of,
)
from vsr.signals import shielded

logger = logging.getLogger(__name__)

LISTS = frozenset({"hls", "dash", "concat", "sdp", "rtsp", "rtp", "imf", "lrtp", "image2", "ffmetadata", "tedcaptions"})
"""Formats of libav that refer to other files or addresses, or are not video."""

CENTRED_CHROMA = frozenset({"mpeg1video", "mjpeg", "h263", "h263p", "h261", "flv1"})
"""Codecs such as MPEG-1 that place chroma between the luma columns; later ones place it on the left column."""

INTERLACED = (2, 3, 4, 5)
"""libav's field orders of interlaced video."""

PANSCAN_POSITIONS = slice(12, 24)
"""The bytes of libav's ``AVPanScan`` with the offset of the window from the centre."""

WITHOUT_PTS = frozenset({"avi"})
"""Containers without presentation timestamps, for which libav guesses them."""

ENCRYPTED = "{} is encrypted: without the key no frame of it can be decoded; use an unencrypted copy."

ONLY_HEADER = "{} is a header without a frame, such as the first part of a stream in segments."

MAX_PROBE_PACKETS = 100
"""The most packets to decode in search of a first frame."""

DOLBY_VISION_TAGS = frozenset({"dvh1", "dvhe", "dva1", "dvav", "dav1"})
"""Codec tags of MP4 for Dolby Vision."""


@contextmanager
def open_clip(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[InputContainer]:
    """Open a file with libav, but no other file that it may refer to: libav gets the open file and no protocol.

    Raises:
        InputError: the file is missing, unreadable or of a format that libav does not know.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a video.")
        file = _File(path, opener=files_only)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}.") from exc
    with file, _open_container(file, path, max_pixels) as container:
        yield container
    if file.error is not None:
        raise InputError(f"cannot read {path} to its end: {file.error.strerror}.")


def packets_of(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Yield the packets of some streams, or of all, up to where the file can be read.

    A file that ends early is not an error here; ``read_frames`` reports what is missing.
    """
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (LibavError, OSError) as exc:
            if is_out_of_memory(exc):
                raise
            logger.debug("%s ends early: %s", container.name, exc)
            return
        yield packet


class _File(FileIO):
    """A file for libav that keeps errors instead of raising them, such as those of positions in a damaged header.

    libav continues after an error, but PyAV would print a traceback: the error is stored, and the file ends there.
    """

    error: OSError | None = None

    @shielded  # libav calls it, and PyAV loses a BaseException raised here
    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return super().read(size) or b""
        except OSError as exc:
            self.error = exc
            return b""

    @shielded
    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


def _open_container(file: _File, path: Path, max_pixels: int) -> InputContainer:
    try:
        if not (head := file.read(64)):
            raise InputError(f"{path} is empty: the file holds no byte.")
        if head[4:8] == b"ftyp" and any(brand in head[8:] for brand in HEIC_BRANDS):
            raise InputError(f"{path} is an HEIC picture, which vsr cannot decode; save it as JPEG or PNG first.")
        file.seek(0)
        options = {"protocol_whitelist": "none", "max_pixels": str(max_pixels)}
        container = open_input(file, options)
    except (LibavError, OSError, ValueError) as exc:
        if is_out_of_memory(exc):
            raise
        reason = _recognise_by_signature(path) or (
            f"{path} is not a video that can be read: {getattr(exc, 'strerror', None) or exc}."
        )
        raise InputError(reason) from exc
    if lists := LISTS & set(container.format.name.split(",")):
        container.close()
        reason = f"{path} is a list of other files ({', '.join(lists)}); name the files themselves."
        raise InputError(_recognise_by_signature(path) or reason)
    return container


SIGNATURES = {
    b"\x8aMNG\r\n\x1a\n": "is an MNG animation, which libav cannot decode; make an APNG or pictures of it.",
    b"#EXTM3U": "is a list of other files (hls); name the files themselves.",
    b"<?xml": "is an XML text, such as a list of other files; name the files themselves.",
}
"""First bytes of files that libav refuses or mistakes for another format."""

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevx")
"""Brands of HEVC pictures in HEIF (ISO/IEC 23008-12), of which libav would decode a single tile."""

SEGMENT_BOXES = (b"styp", b"moof", b"sidx", b"emsg", b"prft")
"""Types of the first box of an MP4 media segment (ISO/IEC 14496-12), after its length."""


def _recognise_by_signature(path: Path) -> str:
    """Describe a file that cannot be opened, in a sentence; empty where its first bytes are unknown."""
    with open(path, "rb", opener=files_only) as file:
        head = file.read(64)
    if head[4:8] in SEGMENT_BOXES:
        return f"{path} is a segment of a stream without its header; join it to its initialisation segment."
    return next((f"{path} {text}" for start, text in SIGNATURES.items() if head.lstrip().startswith(start)), "")


def probe(path: Path, *, max_pixels: int = MAX_PIXELS) -> ClipInfo:
    """Read the streams and metadata of a clip.

    Args:
        path: the file.
        max_pixels: the most pixels of a frame; larger ones are refused by the header, before memory is allocated.

    Raises:
        InputError: the file cannot be read, has no video stream, or its frames are too large.
    """
    with open_clip(path, max_pixels) as container:
        stream = choose_video(container, path)
        video = _video_info(stream, container.duration)
        if video.width * video.height > max_pixels:
            raise InputError(
                f"{path} has frames of {video.width}x{video.height}, more than {max_pixels} pixels; "
                f"{setting('max_pixels')} raises the limit."
            )
        chapters = len(container.chapters())
        others = tuple(_stream_info(other, chapters) for other in container.streams if other.index != video.index)
        start = Fraction(container.start_time or 0, av.time_base)
        if (frame := _first_frame(container, stream, path)) is not None:
            video = _with_frame(video, frame)
        keys = tuple(readable(key) for key in container.metadata)
        return ClipInfo(path, video, others, container.format.name, start, keys, chapters)


def choose_video(container: InputContainer, path: Path) -> VideoStream:
    """Return the video stream that libav considers best, ignoring cover art.

    Raises:
        InputError: there is no video stream, or it has no size or no decoder.
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
    # Not pix_fmt: PyAV 17 crashes where there is none.
    if not context.width or not context.height or context.format is None:
        _first_frame(container, chosen, path)  # raises an error with the reason, if known
        raise InputError(f"{path} is damaged: its video stream does not state the size of its frames.")
    return chosen


def _video_info(stream: VideoStream, container_duration: int | None) -> VideoInfo:
    context = stream.codec_context
    time_base = fraction_of(stream.time_base)
    assert context.format is not None and context.pix_fmt is not None and time_base is not None
    rate = fraction_of(stream.average_rate) or fraction_of(stream.guessed_rate)
    seconds: Fraction | None = None
    if stream.duration is not None:
        seconds = stream.duration * time_base
    elif container_duration is not None:
        seconds = Fraction(container_duration, av.time_base)
    estimated = stream.frames or (round(seconds * rate) if seconds and rate else None)
    codec = context.codec.canonical_name
    return VideoInfo(
        index=stream.index,
        codec=codec,
        width=context.width,
        height=context.height,
        pix_fmt=context.pix_fmt,
        time_base=time_base,
        average_rate=rate,
        num_frames_estimated=estimated,
        sample_aspect_ratio=fraction_of(stream.sample_aspect_ratio) or fraction_of(context.sample_aspect_ratio),
        tags=ColourTags(
            context.color_range, context.colorspace, context.color_primaries, context.color_trc,
            CENTRE if codec in CENTRED_CHROMA else 0,
        ),
        duration=stream.duration,
        interlaced=field_order_of(context) in INTERLACED,
        disposition=int(stream.disposition),
        side_data=("DOVI_METADATA",) if context.codec_tag in DOLBY_VISION_TAGS else (),
        metadata=tuple(map(readable, stream.metadata)),
    )  # fmt: skip


def _stream_info(stream: Stream, num_chapters: int) -> StreamInfo:
    context = stream.codec_context
    damaged = isinstance(context, AudioCodecContext) and not context.sample_rate
    codec = context.codec.canonical_name if context is not None and not damaged else ""
    metadata = {key: readable(value) for key, value in stream.metadata.items()}
    time_base = fraction_of(stream.time_base)
    return StreamInfo(
        stream.index, stream.type, codec, metadata.get("language"), metadata.get("mimetype"),
        metadata.get("title") or metadata.get("name"), bool(stream.disposition & Disposition.attached_pic),
        (context.sample_rate or None) if isinstance(context, AudioCodecContext) else None,
        stream.start_time * time_base if stream.start_time is not None and time_base else None,
        _content_of(stream, metadata, num_chapters),
    )  # fmt: skip


def _content_of(stream: Stream, metadata: dict[str, str], num_chapters: int) -> Literal["", "timecode", "chapters"]:
    if stream.type == "data" and "timecode" in metadata:
        return "timecode"
    # A text track of chapters has no other mark in libav.
    return "chapters" if stream.type == "data" and num_chapters and stream.frames == num_chapters else ""


def _first_frame(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame | None:
    """Return a frame from the beginning of a stream; None where that is damaged.

    Raises:
        InputError: the stream is encrypted, or has no packet.
    """
    if "enc_key_id" in stream.metadata:
        raise InputError(ENCRYPTED.format(path))
    crop_exactly(stream.codec_context)
    empty = True
    for number, packet in enumerate(packets_of(container, stream)):
        if packet.has_sidedata("encryption_info"):
            raise InputError(ENCRYPTED.format(path))
        empty &= not packet.size
        try:
            for frame in packet.decode():
                return frame
        except (LibavError, OSError) as exc:
            if is_out_of_memory(exc) and not has_memory_for(stream.codec_context.width, stream.codec_context.height):
                raise
            logger.debug("%s: %s", container.name, exc)
        if number >= MAX_PROBE_PACKETS:
            break
    if empty:
        raise InputError(ONLY_HEADER.format(path))
    return None


def _with_frame(video: VideoInfo, frame: VideoFrame) -> VideoInfo:
    """Add what the first frame states to the information from the headers; the frame takes precedence."""
    entries = side_data_of(frame)
    if not any(entries.get("PANSCAN", b"")[PANSCAN_POSITIONS]):
        entries.pop("PANSCAN", None)  # no offset: the whole picture, as in most MPEG-2
    matrix, display, light = (
        entries.get(name) for name in ("DISPLAYMATRIX", "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    )
    tags = video.tags
    return replace(
        video,
        width=frame.width,
        height=frame.height,
        tags=ColourTags(
            frame.color_range or tags.range,
            frame.colorspace if frame.colorspace != UNSPECIFIED else tags.matrix,
            frame.color_primaries if frame.color_primaries != UNSPECIFIED else tags.primaries,
            frame.color_trc if frame.color_trc != UNSPECIFIED else tags.transfer,
            chroma_location_of(frame) or tags.chroma_location,
        ),
        first_pts=frame.pts,
        interlaced=video.interlaced or frame.interlaced_frame,
        display_matrix=tuple(np.frombuffer(matrix, "<i4").tolist()) if matrix else None,
        mastering_display=MasteringDisplay.from_bytes(display) if display else None,
        light_levels=LightLevels.from_bytes(light) if light else None,
        side_data=tuple(sorted({*video.side_data, *entries})),
    )


H264_IDR = 5
"""The type of a slice at which decoding can begin; other H.264 keyframes may only begin a gradual refresh."""

Timestamps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PacketIndex:
    """An index of the packets of a video stream.

    Attributes:
        timestamps: sorted timestamps of the frames, in ticks; empty where the packets do not determine them.
        keyframes: sorted timestamps of the frames at which decoding can begin: all frames from there on are decoded as
            in a run from the beginning.
        num_frames: number of frames; of packets for a video without timestamps.
        num_bytes: total size of the packets.
        digest: digest of all packets.
    """

    timestamps: Timestamps
    keyframes: Timestamps
    num_frames: int
    num_bytes: int
    digest: str

    def between(self, start: int | None, end: int | None) -> Timestamps:
        """Return the timestamps from ``start`` up to but excluding ``end``."""
        bounds = [None if at is None else int(np.searchsorted(self.timestamps, at)) for at in (start, end)]
        return self.timestamps[slice(*bounds)]

    def entry(self, timestamp: int) -> int:
        """Return the last keyframe at or before a timestamp; the first timestamp where there is none."""
        place = int(np.searchsorted(self.keyframes, timestamp, side="right"))
        return int(self.keyframes[place - 1] if place else self.timestamps[0])


def index_packets(path: Path, video: VideoInfo, *, max_pixels: int = MAX_PIXELS) -> PacketIndex:
    """Read every packet of a stream once; this takes as long as reading the file.

    Raises:
        InputError: the file cannot be read.
    """
    stamps: list[int] = []
    keyframes: list[int] = []
    num_frames = num_bytes = 0
    digest = hashlib.blake2b(digest_size=16)
    with open_clip(path, max_pixels) as container:
        stream = container.streams[video.index]
        assert isinstance(stream, VideoStream)
        has_pts = container.format.name not in WITHOUT_PTS
        for packet in packets_of(container, stream):
            if not packet.size:
                continue
            digest.update(packet)
            num_bytes += packet.size
            if packet.is_discard or _is_hidden(packet, video.codec):
                continue
            num_frames += 1
            if packet.pts is None:
                has_pts = False
                continue
            stamps.append(packet.pts)
            if packet.is_keyframe and (video.codec != "h264" or H264_IDR in _nal_types(packet, stream)):
                keyframes.append(packet.pts)
    timestamps = np.sort(np.array(stamps, np.int64))
    if not has_pts or (np.diff(timestamps) <= 0).any():
        timestamps = np.array([], np.int64)
    return PacketIndex(timestamps, np.unique(np.array(keyframes, np.int64)), num_frames, num_bytes, digest.hexdigest())


def _is_hidden(packet: Packet[Any], codec: str) -> bool:
    """Whether a packet contains only a hidden reference frame; VP8 has separate packets for these (RFC 6386, 9.1)."""
    return codec == "vp8" and not memoryview(packet)[0] >> 4 & 1


def _nal_types(packet: Packet[Any], stream: VideoStream) -> Iterator[int]:
    """Yield the NAL unit types of an H.264 packet (ISO/IEC 14496-15 with length prefixes, else Annex B)."""
    data, extradata = bytes(packet), stream.codec_context.extradata or b""
    if extradata[:1] == b"\1" and len(extradata) > 4:
        size, at = (extradata[4] & 3) + 1, 0
        while at + size < len(data):
            yield data[at + size] & 31
            at += size + int.from_bytes(data[at : at + size], "big")
    else:
        at = data.find(b"\0\0\1")
        while 0 <= at < len(data) - 3:
            yield data[at + 3] & 31
            at = data.find(b"\0\0\1", at + 3)
