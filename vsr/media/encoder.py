"""Planes with timestamps -> a file with one encoded video stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.codec import Codec as LibavCodec
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError as LibavError
from av.packet import Packet

from vsr.errors import OutputError, UsageError
from vsr.media.codecs import Codec
from vsr.media.pixels import frame_of, nearest_format
from vsr.media.probe import ColourTags
from vsr.media.reader import Frame


@dataclass(frozen=True, kw_only=True)
class VideoFormat:
    """What an encoder has to know before the first frame.

    Attributes:
        width: columns.
        height: rows.
        pix_fmt: libav's pixel format of the planes.
        time_base: seconds for each tick of a timestamp.
        rate: frames a second on average, for rate control; None where unknown.
        sample_aspect_ratio: width over height of a pixel; None leaves it unstated.
        tags: the colour description to write.
        display_matrix: the container's transformation for display, None for none.
    """

    width: int
    height: int
    pix_fmt: str
    time_base: Fraction
    rate: Fraction | None
    sample_aspect_ratio: Fraction | None = None
    tags: ColourTags = field(default_factory=ColourTags)
    display_matrix: tuple[int, ...] | None = None


def encoded_format(codec: Codec, pix_fmt: str) -> str:
    """The pixel format in which an encoder takes frames that were decoded as ``pix_fmt``: the one that loses least.

    Raises:
        UsageError: this build of libav lacks the encoder, or it takes no planar format.
    """
    try:
        formats = LibavCodec(codec.encoder, "w").video_formats or []
    except UnknownCodecError as exc:
        raise UsageError(f"this build of libav has no encoder {codec.encoder}.") from exc
    chosen = nearest_format(pix_fmt, tuple(choice.name for choice in formats))
    if chosen is None:
        raise UsageError(f"the encoder {codec.encoder} takes no format that vsr can write.")
    return chosen


class Encoder:
    """Writes one video stream to a file, every timestamp as given.

    The file is MP4 whose clock is the stream's own time base, in which presentation timestamps are exact. Use as a
    context manager: leaving it drains the encoder; leaving it by an exception only closes the file.

    Args:
        path: the file to write; the caller owns its name and its removal.
        codec: what to encode with.
        options: libav options by name, over the codec's defaults.
        video: what the frames are like.

    Raises:
        OutputError: the encoder refuses the format or the options, or the file cannot be written.
    """

    def __init__(self, path: Path, codec: Codec, options: dict[str, str], video: VideoFormat) -> None:
        self._video = video
        self._durations: dict[int, int] = {}
        self.num_frames = 0
        ticks = str(video.time_base.denominator)
        try:
            # Opened here: libav would open it with the first packet, and leave it open where the header does not fit.
            self._file = open(path, "wb")  # noqa: SIM115 - closed in __exit__
        except OSError as exc:
            raise OutputError(f"cannot write {path}: {exc.strerror}.") from exc
        self._container = av.open(
            self._file, "w", format="mp4",
            container_options={"video_track_timescale": ticks, "movie_timescale": ticks},
        )  # fmt: skip
        try:
            stream = self._container.add_stream(codec.encoder, options={**codec.defaults, **options})
            assert isinstance(stream, av.VideoStream)
            self._stream = stream
            self._configure()
            stream.codec_context.open()
            if unknown := stream.codec_context.options:  # what nobody took
                raise ValueError(f"it has no option {', '.join(unknown)}")
        except (LibavError, ValueError) as exc:
            self._close()
            reason = getattr(exc, "strerror", None) or exc
            raise OutputError(
                f"the encoder {codec.encoder} refuses {video.width}x{video.height} {video.pix_fmt} "
                f"with {options or 'its defaults'}: {reason}."
            ) from exc

    def _configure(self) -> None:
        video, context = self._video, self._stream.codec_context
        context.width, context.height, context.pix_fmt = video.width, video.height, video.pix_fmt
        context.time_base = self._stream.time_base = video.time_base
        if video.rate:
            context.framerate = video.rate
        if video.sample_aspect_ratio:
            context.sample_aspect_ratio = video.sample_aspect_ratio
        context.color_range = video.tags.range
        context.colorspace = video.tags.matrix
        context.color_primaries = video.tags.primaries
        context.color_trc = video.tags.transfer
        if video.display_matrix is not None:
            self._stream.set_display_matrix(video.display_matrix)

    def write(self, frame: Frame) -> None:
        """Encode one frame, whose planes lie in the format's layout and whose timestamp is greater than the last.

        Raises:
            OutputError: the encoder or the disk refuses.
        """
        raw = frame_of(frame.planes, self._video.pix_fmt)
        raw.pts, raw.time_base, raw.duration = frame.pts, self._video.time_base, frame.duration
        if frame.duration:
            self._durations[frame.pts] = frame.duration
        self._mux(raw)
        self.num_frames += 1

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._restore_duration(packet)
                self._container.mux(packet)
        except (LibavError, OSError) as exc:
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
                if kind is None:
                    raise OutputError(f"cannot finish the encoded video: {exc.strerror}.") from exc

    def _close(self) -> None:
        with self._file:
            self._container.close()
