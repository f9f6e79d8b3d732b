"""Encode frames to a file with one video stream; choose encoders and pixel formats; correct GIFs."""

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

from vsr.errors import OutputError, UsageError, VsrError, did_you_mean, is_out_of_memory, setting
from vsr.files import has_memory_for
from vsr.media.clip import ColourTags, frame_of, has_alpha, planes_like
from vsr.media.ffmpeg import encoder_options
from vsr.media.formats import (
    ALIASES,
    CODECS,
    CONTAINERS,
    Codec,
    LightLevels,
    MasteringDisplay,
    Timing,
    decoding_times,
    holds,
    known_codec,
)
from vsr.media.reader import Frame


@dataclass(frozen=True, kw_only=True)
class VideoFormat:
    """The settings of an encoder that are needed before the first frame.

    Attributes:
        width: columns.
        height: rows.
        pix_fmt: libav's pixel format for the encoder.
        shift: ticks added to each timestamp, since MP4 hides frames before zero.
        planes: the pixel format of the planes that are written, which ``pix_fmt`` stores without loss; None: the same.
        time_base: seconds per tick of a timestamp.
        rate: average frames per second, for rate control; None where unknown.
        sample_aspect_ratio: width over height of a pixel; None leaves it unspecified.
        tags: the colour description to write.
        display_matrix: the container's transformation for display; None for none.
        mastering_display: HDR10's mastering display; None leaves it unspecified.
        light_levels: HDR10's light levels; None leaves them unspecified.
        threads: threads of the encoder, on which the output of some depends; 0: as many as there are cores.
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
    """Open an encoder and close it again, so that errors in its settings are found before any frame is computed.

    Raises:
        UsageError: the encoder has no such option, or no container for its format is supported.
        OutputError: the encoder refuses the format or the value of an option.
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
    # libav's default, slice threads, reduces the compression of x264 and uses the cores badly.
    context.thread_count, context.thread_type = video.threads, "FRAME"
    context.options = _encoder_options(codec, options, video)
    for name, value in codec.environment.items():
        os.environ.setdefault(name, value)
    try:
        context.open()
    except (LibavError, ValueError) as exc:
        if is_out_of_memory(exc) or (isinstance(exc, ExternalError) and not has_memory_for(video.width, video.height)):
            raise MemoryError(f"{codec.encoder}: {exc}") from exc
        if codec.hardware:
            raise OutputError(
                f"the encoder {codec.encoder} cannot be opened for {video.width}x{video.height} {video.pix_fmt} "
                f"({getattr(exc, 'strerror', None) or exc}): it needs {codec.hardware}. "
                f"{setting('codec', 'h264')} runs on the CPU."
            ) from exc
        raise OutputError(
            f"the encoder {codec.encoder} refuses {video.width}x{video.height} {video.pix_fmt} "
            f"with {options or 'its defaults'}: {getattr(exc, 'strerror', None) or exc}."
        ) from exc
    if unknown := set(context.options):  # options that were not used
        known = sorted(encoder_options(codec.encoder))
        raise UsageError(
            f"the encoder {codec.encoder} has no option {', '.join(sorted(unknown))}: use "
            f"{', '.join(known) or 'those that ffmpeg lists'}{did_you_mean(min(unknown), known)}"
        )


CPU_AVX_512F = 13
"""OpenCV's number for the processor feature AVX-512F."""

X264_REPRODUCIBLE = "asm=AVX2"
"""With AVX-512, x264's macroblock tree reads uninitialised memory (seen with build 165 at widths of 704, 720, 864 and
1440): the same frames gave other bits from run to run. AVX2 had no measurable cost."""


def _encoder_options(codec: Codec, options: dict[str, str], video: VideoFormat) -> dict[str, str]:
    """Return the codec's options overridden by the user's, with settings that libav accepts only as options."""
    merged = {**codec.defaults, **options}
    if video.tags.chroma_location:
        merged.setdefault("chroma_sample_location", str(video.tags.chroma_location))
    if codec.hdr is not None:
        light = codec.hdr.parameters(video.mastering_display, video.light_levels)
        _prepend_parameters(merged, codec.hdr.option, [codec.parameters, light])
    if codec.encoder in ("libx264", "libx264rgb") and cv2.checkHardwareSupport(CPU_AVX_512F):
        _prepend_parameters(merged, "x264-params", [X264_REPRODUCIBLE])
    return merged


def _prepend_parameters(options: dict[str, str], name: str, parameters: list[str]) -> None:
    """Put parameters for an encoder's library before those in an option: the last of two that conflict is used."""
    if joined := ":".join(filter(None, [*parameters, options.get(name, "")])):
        options[name] = joined


class Encoder:
    """Write one video stream to a file, with exact timestamps.

    The file is MP4 or QuickTime, whose clock is the stream's own time base. Use as a context manager: the exit drains
    the encoder; an exit with an exception only closes the file.

    Args:
        path: the file to write, with the suffix of ``encoded_suffix``; the caller names and removes it.
        codec: the codec.
        options: libav options by name, which override the codec's defaults.
        video: the format of the video.

    Raises:
        UsageError: the encoder has no such option.
        OutputError: the encoder refuses the format or the options, or the file cannot be written.
    """

    def __init__(self, path: Path, codec: Codec, options: dict[str, str], video: VideoFormat) -> None:
        self._video = video
        self._durations: dict[int, int] = {}
        self.num_frames = 0
        self.packets: list[Timing] = []
        """The times of the packets that were written, in the order of decoding."""
        muxer = CONTAINERS[encoded_suffix(codec)].muxer
        try:
            # Opened here: libav would open it with the first packet, and leave it open where writing the header fails.
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
        """Encode one frame.

        Args:
            frame: planes in the format's layout, and a timestamp greater than the last.

        Raises:
            OutputError: encoding or writing failed.
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
                # All packets come at the end. For one or two frames x265 returns uninitialised decoding timestamps.
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
        # Encoders drop the durations; that of the last frame cannot be derived from the timestamps.
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
    """Return the muxer options with which MP4 and QuickTime round no timestamp."""
    ticks = str(video.time_base.denominator)
    return {"video_track_timescale": ticks, "movie_timescale": ticks}


def encoded_suffix(codec: Codec) -> str:
    """Return the suffix of an encoder's file: MP4, else QuickTime, whichever can contain the codec.

    Raises:
        UsageError: neither can contain it.
    """
    for suffix in (".mp4", ".mov"):
        if holds(CONTAINERS[suffix], format_of(codec)):
            return suffix
    raise UsageError(f"vsr cannot write {format_of(codec)}, which neither MP4 nor QuickTime holds; use another codec.")


CAPTIONS_OPTION = "a53cc"
"""libav's option of encoders that write closed captions into the video."""

UNCODED = frozenset({"rawvideo", "wrapped_avframe"})
"""libav encoders that do not encode, whose output few containers support."""


def codec_named(name: str) -> Codec:
    """Return a codec that vsr knows, or one for any video encoder of this build of libav.

    Raises:
        UsageError: the name is neither, or this build lacks the encoder.
    """
    codec = known_codec(name) or _plain(name)
    try:
        if name not in UNCODED and LibavCodec(codec.encoder, "w").type == "video":
            return codec
    except UnknownCodecError:
        pass
    if codec.hardware:
        raise UsageError(f"{codec.encoder} needs {codec.hardware}: {setting('codec', 'h264')} runs on the CPU.")
    available = [key for key, entry in CODECS.items() if entry.encoder in codecs_available]
    alike = did_you_mean(name, [*available, *(CODECS[key].encoder for key in available), *ALIASES])
    raise UsageError(
        f"this build of libav has no video encoder {codec.encoder!r}: use {', '.join(available)}, or an encoder's "
        f"name{alike}"
    )


def _plain(name: str) -> Codec:
    """Return a codec without known options, except for captions where the encoder has the option."""
    if CAPTIONS_OPTION in encoder_options(name):
        return Codec(name, defaults={CAPTIONS_OPTION: "1"}, side_data=frozenset({"A53_CC"}))
    return Codec(name)


def format_of(codec: Codec) -> str:
    """Return libav's name of the format that an encoder produces: ``vp9`` for ``libvpx-vp9``."""
    return LibavCodec(codec.encoder, "w").canonical_name


def encoded_format(codec: Codec, pix_fmt: str, *, requested: str | None = None) -> tuple[str, str]:
    """Return the encoder's pixel format that loses least of frames decoded as ``pix_fmt``.

    Args:
        codec: the codec.
        pix_fmt: libav's format of the decoded planes.
        requested: a format that the user wants instead.

    Returns:
        The encoder's format, and the planar format that converts to it without loss: itself where it is planar.

    Raises:
        UsageError: the encoder does not accept the requested format, or none that vsr can write.
    """
    accepted = [choice.name for choice in LibavCodec(codec.encoder, "w").video_formats or []] or [pix_fmt]
    if requested is not None and requested not in accepted:
        formats = ", ".join(sorted(accepted))
        alike = did_you_mean(requested, accepted)
        raise UsageError(f"the encoder {codec.encoder} does not accept {requested}: use {formats}{alike}")
    if requested is not None and has_alpha(requested) and codec in CODECS.values() and not codec.alpha:
        raise UsageError(f"{codec.encoder} writes no alpha that players show: use prores or ffv1, or another format.")
    usable = {
        choice: planes
        for choice in ([requested] if requested is not None else accepted)
        if (planes := planes_like(choice)) is not None and (codec.alpha or requested or not has_alpha(choice))
    }
    source = pix_fmt.replace("yuvj", "yuv")
    if source.startswith("gray") and source not in usable:
        source = source.replace("gray", "yuv420p")  # not RGB, which is lossless too but few players support
    found, _ = find_best_pix_fmt_of_list(tuple(usable), source, has_alpha(source)) if usable else (None, None)
    if found is None:
        raise UsageError(f"the encoder {codec.encoder} accepts no {requested or 'format'} that vsr can write.")
    return found.name, usable[found.name]


EXTENSION, CONTROL, END = 0x21, 0xF9, 0x3B
"""First bytes of GIF89a blocks."""

DISPOSAL, CLEAR, TRANSPARENT = 0x1C, 2 << 2, 0x01
"""Bits of a graphic control extension: the mask of the disposal method, the method that clears the frame, and the flag
of a transparent colour."""

PALETTE = 0x80
"""Flag of an image or of the whole file: a palette follows."""

LAST_COLOUR = 255
"""Index in the shared palette that the filter palettegen reserves for transparent pixels."""


def clear_between_frames(path: Path) -> None:
    """Clear every frame of a GIF before the next is drawn, if any frame is cleared.

    The encoder clears only frames with a transparent pixel: an opaque frame would stay visible under the transparent
    pixels of the next. It also sets no transparent colour for opaque frames, without which Pillow and libav clear to
    the background colour.

    Args:
        path: a GIF whose frames all have its full size, and whose shared palette comes from palettegen; it is changed
            in place.

    Raises:
        OSError: the file cannot be read or written.
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
    """Yield the offsets of the flags of each frame's graphic control and of its image."""
    control, at = 0, 13 + _palette_bytes(content[10])
    while content[at] != END:
        if content[at] == EXTENSION:
            control = at + 3 if content[at + 1] == CONTROL else control
            at = _after_sub_blocks(content, at + 2)
        else:  # an image: position, size, flags, perhaps a palette, and the size of the first code
            yield control, at + 9
            at = _after_sub_blocks(content, at + 11 + _palette_bytes(content[at + 9]))


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & PALETTE else 0


def _after_sub_blocks(content: mmap.mmap, at: int) -> int:
    while length := content[at]:
        at += 1 + length
    return at + 1
