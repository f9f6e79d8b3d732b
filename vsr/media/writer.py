"""Planes with timestamps -> a file with one encoded video stream."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
from av.codec import Codec as LibavCodec
from av.codec import CodecContext, codecs_available, find_best_pix_fmt_of_list
from av.codec.codec import UnknownCodecError
from av.error import ExternalError
from av.error import FFmpegError as LibavError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from vsr.errors import OutputError, UsageError, VsrError, is_out_of_memory
from vsr.files import has_memory_for
from vsr.media.clip import ColourTags, frame_of, has_alpha, planes_like
from vsr.media.ffmpeg import encoder_options
from vsr.media.formats import CODECS, CONTAINERS, Codec, LightLevels, MasteringDisplay, Timing, decoding_times, holds
from vsr.media.reader import Frame


@dataclass(frozen=True, kw_only=True)
class VideoFormat:
    """What an encoder has to know before the first frame.

    Attributes:
        width: columns.
        height: rows.
        pix_fmt: libav's pixel format that the encoder takes.
        shift: ticks that are added to each timestamp, since MP4 hides what lies before zero.
        planes: the pixel format of the planes that are written, which ``pix_fmt`` holds without loss; None: the same.
        time_base: seconds for each tick of a timestamp.
        rate: frames a second on average, for rate control; None where unknown.
        sample_aspect_ratio: width over height of a pixel; None leaves it unstated.
        tags: the colour description to write.
        display_matrix: the container's transformation for display, None for none.
        mastering_display: of HDR10, None leaves it unstated.
        light_levels: of HDR10, None leaves them unstated.
        threads: of the encoder, whose bits depend on their number with some; 0: as many as there are cores.
    """

    width: int
    height: int
    pix_fmt: str
    time_base: Fraction
    rate: Fraction | None
    sample_aspect_ratio: Fraction | None = None
    tags: ColourTags = field(default_factory=ColourTags)
    display_matrix: tuple[int, ...] | None = None
    shift: int = 0
    planes: str | None = None
    mastering_display: MasteringDisplay | None = None
    light_levels: LightLevels | None = None
    threads: int = 0


def check_encoder(codec: Codec, options: dict[str, str], video: VideoFormat) -> None:
    """Open an encoder and close it again, so that what it refuses is known before any frame is computed.

    Raises:
        UsageError: it has no such option, or makes what cannot be written.
        OutputError: it refuses the format or the value of an option.
    """
    encoded_suffix(codec)
    context = CodecContext.create(codec.encoder, "w")
    assert isinstance(context, VideoCodecContext)
    _open(context, codec, options, video)


def _open(context: VideoCodecContext, codec: Codec, options: dict[str, str], video: VideoFormat) -> None:
    context.width, context.height, context.pix_fmt = video.width, video.height, video.pix_fmt
    context.time_base = video.time_base
    if video.rate:
        context.framerate = video.rate
    if video.sample_aspect_ratio:
        context.sample_aspect_ratio = video.sample_aspect_ratio
    context.color_range = video.tags.range
    context.colorspace = video.tags.matrix
    context.color_primaries = video.tags.primaries
    context.color_trc = video.tags.transfer
    # libav's own default of slices would cost x264 compression, and it shares them badly.
    context.thread_count, context.thread_type = video.threads, "FRAME"
    context.options = _encoder_options(codec, options, video)
    for name, value in codec.environment.items():
        os.environ.setdefault(name, value)
    try:
        context.open()
    except (LibavError, ValueError) as exc:
        if is_out_of_memory(exc) or (isinstance(exc, ExternalError) and not has_memory_for(video.width, video.height)):
            raise MemoryError(f"{codec.encoder}: {exc}") from exc
        raise OutputError(
            f"the encoder {codec.encoder} refuses {video.width}x{video.height} {video.pix_fmt} "
            f"with {options or 'its defaults'}: {getattr(exc, 'strerror', None) or exc}."
        ) from exc
    if unknown := set(context.options):  # what nobody took
        known = ", ".join(sorted(encoder_options(codec.encoder))) or "those that ffmpeg lists"
        raise UsageError(f"the encoder {codec.encoder} has no option {', '.join(sorted(unknown))}: take {known}.")


CPU_AVX_512F = 13
"""OpenCV's number of a feature of processors."""

X264_REPRODUCIBLE = "asm=AVX2"
"""With AVX-512, x264's macroblock tree reads memory that nobody wrote (seen with build 165 at widths of 704, 720, 864
and 1440): the same frames gave other bits from run to run. AVX2 costs nothing that could be measured."""


def _encoder_options(codec: Codec, options: dict[str, str], video: VideoFormat) -> dict[str, str]:
    """The user's options over the codec's, with what libav takes in no other way."""
    merged = {**codec.defaults, **options}
    if video.tags.chroma_location:
        merged.setdefault("chroma_sample_location", str(video.tags.chroma_location))
    if codec.hdr is not None:
        light = codec.hdr.parameters(video.mastering_display, video.light_levels)
        _pass_on(merged, codec.hdr.option, [codec.parameters, light])
    if codec.encoder in ("libx264", "libx264rgb") and cv2.checkHardwareSupport(CPU_AVX_512F):
        _pass_on(merged, "x264-params", [X264_REPRODUCIBLE])
    return merged


def _pass_on(options: dict[str, str], name: str, parameters: list[str]) -> None:
    """Put parameters of an encoder's library before those that are there: of two that clash the last counts."""
    if joined := ":".join(filter(None, [*parameters, options.get(name, "")])):
        options[name] = joined


class Encoder:
    """Writes one video stream to a file, every timestamp as given.

    The file is MP4 or its kin, whose clock is the stream's own time base: presentation timestamps are exact. Use as a
    context manager: leaving it drains the encoder; leaving it by an exception only closes the file.

    Args:
        path: the file to write, with the ending of ``encoded_suffix``; the caller owns its name and its removal.
        codec: what to encode with.
        options: libav options by name, over the codec's defaults.
        video: what the frames are like.

    Raises:
        UsageError: the encoder has no such option.
        OutputError: the encoder refuses the format or the options, or the file cannot be written.
    """

    def __init__(self, path: Path, codec: Codec, options: dict[str, str], video: VideoFormat) -> None:
        self._video = video
        self._durations: dict[int, int] = {}
        self.num_frames = 0
        self.packets: list[Timing] = []
        """What was written, in the order of decoding."""
        muxer = CONTAINERS[encoded_suffix(codec)].muxer
        try:
            # Opened here: libav would open it with the first packet, and leave it open where the header does not fit.
            self._file = open(path, "wb")  # noqa: SIM115 - closed in __exit__
        except OSError as exc:
            raise OutputError(f"cannot write {path}: {exc.strerror}.") from exc
        self._container = av.open(self._file, "w", format=muxer, container_options=muxer_options(video))
        try:
            stream = self._container.add_stream(codec.encoder)
            assert isinstance(stream, av.VideoStream)
            self._stream = stream
            _open(stream.codec_context, codec, options, video)
            stream.time_base = video.time_base
            if video.display_matrix is not None:
                stream.set_display_matrix(video.display_matrix)
        except (VsrError, LibavError, ValueError, MemoryError):
            self._close()
            raise

    def write(self, frame: Frame) -> None:
        """Encode one frame, whose planes lie in the format's layout and whose timestamp is greater than the last.

        Raises:
            OutputError: the encoder or the disk refuses.
        """
        raw = frame_of(frame.planes, self._video.planes or self._video.pix_fmt, frame.extras)
        if raw.format.name != self._video.pix_fmt:
            raw = raw.reformat(format=self._video.pix_fmt)
        pts = frame.pts + self._video.shift
        raw.pts, raw.time_base, raw.duration = pts, self._video.time_base, frame.duration
        if frame.duration:
            self._durations[pts] = frame.duration
        self._mux(raw)
        self.num_frames += 1

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            encoded = list(self._stream.encode(frame))
            if frame is None and not self.packets:
                # All come at the end. Of one or two frames x265 takes decoding timestamps from memory nobody wrote.
                stamps = decoding_times([packet.pts for packet in encoded if packet.pts is not None])
                for packet, stamp in zip(encoded, stamps, strict=True):
                    packet.dts = stamp
            for packet in encoded:
                self._restore_duration(packet)
                assert packet.pts is not None
                self.packets.append(Timing(packet.pts, packet.duration or 0))
                self._container.mux(packet)
        except (LibavError, OSError) as exc:
            if is_out_of_memory(exc) or (
                isinstance(exc, ExternalError) and not has_memory_for(self._video.width, self._video.height)
            ):
                raise MemoryError(f"{self._stream.codec_context.name}: {exc}") from exc
            raise OutputError(f"encoding failed after {self.num_frames} frames: {exc.strerror}.") from exc

    def _restore_duration(self, packet: Packet[Any]) -> None:
        # Encoders forget the durations; the last frame's is lost for good without it.
        if packet.pts is not None and packet.pts in self._durations:
            packet.duration = self._durations.pop(packet.pts)

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._mux(None)
        finally:
            try:
                self._close()
            except (LibavError, OSError) as exc:
                if kind is None and is_out_of_memory(exc):
                    raise
                if kind is None:
                    raise OutputError(f"cannot finish the encoded video: {exc.strerror}.") from exc

    def _close(self) -> None:
        with self._file:
            self._container.close()


def muxer_options(video: VideoFormat) -> dict[str, str]:
    """What MP4 and QuickTime need so that no timestamp is rounded."""
    ticks = str(video.time_base.denominator)
    return {"video_track_timescale": ticks, "movie_timescale": ticks}


def encoded_suffix(codec: Codec) -> str:
    """The ending of an encoder's file: of the two containers whose clock is the stream's own, one that holds the codec.

    Raises:
        UsageError: neither does.
    """
    for suffix in (".mp4", ".mov"):
        if holds(CONTAINERS[suffix], format_of(codec)):
            return suffix
    raise UsageError(f"vsr cannot write {format_of(codec)}, which neither MP4 nor QuickTime holds; take another codec.")


CAPTIONS_OPTION = "a53cc"
"""libav's, of encoders that write closed captions into the video."""

UNCODED = frozenset({"rawvideo", "wrapped_avframe"})
"""Encoders of libav's that encode nothing, and that few containers hold."""


def codec_named(name: str) -> Codec:
    """An entry of ``CODECS``, or any video encoder of this build of libav.

    Raises:
        UsageError: neither, or an entry whose encoder this build lacks.
    """
    codec = CODECS.get(name) or _plain(name)
    try:
        if name not in UNCODED and LibavCodec(codec.encoder, "w").type == "video":
            return codec
    except UnknownCodecError:
        pass
    there = [key for key, entry in CODECS.items() if entry.encoder in codecs_available]
    raise UsageError(
        f"this build of libav has no video encoder {codec.encoder!r}: take {', '.join(there)}, or an encoder's name."
    )


def _plain(name: str) -> Codec:
    """An encoder of which nothing is known but that it may take captions."""
    if CAPTIONS_OPTION in encoder_options(name):
        return Codec(name, defaults={CAPTIONS_OPTION: "1"}, side_data=frozenset({"A53_CC"}))
    return Codec(name)


def format_of(codec: Codec) -> str:
    """libav's name of the format that an encoder makes: ``vp9`` for ``libvpx-vp9``."""
    return LibavCodec(codec.encoder, "w").canonical_name


def encoded_format(codec: Codec, pix_fmt: str, *, asked: str | None = None) -> tuple[str, str]:
    """The pixel format in which an encoder takes frames that were decoded as ``pix_fmt``: the one that loses least.

    Args:
        codec: the encoder.
        pix_fmt: libav's format of the decoded planes.
        asked: what the user wants instead.

    Returns:
        the encoder's format, and the planes that it is made of without loss: itself, unless it is not planes.

    Raises:
        UsageError: the encoder takes no such format, or none that vsr can write.
    """
    taken = [choice.name for choice in LibavCodec(codec.encoder, "w").video_formats or []] or [pix_fmt]
    if asked is not None and asked not in taken:
        raise UsageError(f"the encoder {codec.encoder} takes no {asked}: take {', '.join(sorted(taken))}.")
    if asked is not None and has_alpha(asked) and codec in CODECS.values() and not codec.alpha:
        raise UsageError(f"{codec.encoder} writes no alpha that players find: take prores or ffv1, or another format.")
    usable = {
        choice: planes
        for choice in ([asked] if asked is not None else taken)
        if (planes := planes_like(choice)) is not None and (codec.alpha or asked or not has_alpha(choice))
    }
    source = pix_fmt.replace("yuvj", "yuv")
    if source.startswith("gray") and source not in usable:
        source = source.replace("gray", "yuv420p")  # not RGB, which loses nothing either, but plays in few places
    found, _ = find_best_pix_fmt_of_list(tuple(usable), source, has_alpha(source)) if usable else (None, None)
    if found is None:
        raise UsageError(f"the encoder {codec.encoder} takes no {asked or 'format'} that vsr can write.")
    return found.name, usable[found.name]


EXTENSION, CONTROL, END = 0x21, 0xF9, 0x3B
"""Of GIF89a: what blocks begin with."""

DISPOSAL, CLEAR, TRANSPARENT = 0x1C, 2 << 2, 0x01
"""Flags of a graphic control: what becomes of a frame when its time is over, that it is cleared, and that one of the
colours is transparent."""

PALETTE = 0x80
"""Flag of a picture, and of the whole: a palette follows."""

LAST_COLOUR = 255
"""Of the palette that all frames share; what the filter palettegen keeps for transparent pixels."""


def clear_between_frames(path: Path) -> None:
    """Clear every frame of a GIF before the next is drawn, if any frame is cleared.

    The encoder clears those alone in which it finds a transparent pixel: what an opaque one showed would stay under the
    transparent pixels of the next. Nor does it say of opaque ones which colour is transparent, without which Pillow and
    libav clear to the colour of the background.

    Args:
        path: a GIF whose frames are all as large as the whole, and whose shared palette is one of palettegen's; it is
            changed in place.

    Raises:
        OSError: it cannot be read or written.
    """
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        frames = list(_frames(content))
        if not any(content[control] & DISPOSAL == CLEAR for control, _ in frames):
            return
        for control, picture in frames:
            content[control] = content[control] & ~DISPOSAL | CLEAR
            if not content[control] & TRANSPARENT and not content[picture] & PALETTE:
                content[control] |= TRANSPARENT
                content[control + 3] = LAST_COLOUR


def _frames(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where the flags of each frame's graphic control and of its picture stand."""
    control, at = 0, 13 + _palette_bytes(content[10])
    while content[at] != END:
        if content[at] == EXTENSION:
            control = at + 3 if content[at + 1] == CONTROL else control
            at = _after_sub_blocks(content, at + 2)
        else:  # a picture: its place, its flags, perhaps a palette, and the size of the first code
            yield control, at + 9
            at = _after_sub_blocks(content, at + 11 + _palette_bytes(content[at + 9]))


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & PALETTE else 0


def _after_sub_blocks(content: mmap.mmap, at: int) -> int:
    while length := content[at]:
        at += 1 + length
    return at + 1
