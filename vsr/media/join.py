"""Encoded parts of one video -> one file, packet by packet, no frame encoded again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.error import FFmpegError as LibavError
from av.video.stream import VideoStream

from vsr.errors import OutputError
from vsr.media.encoder import VideoFormat, muxer_options
from vsr.media.probe import open_clip
from vsr.media.timing import Timing, decoding_times


@dataclass(frozen=True)
class Part:
    """What an encoder left.

    Attributes:
        path: the file.
        packets: when each is shown and for how long, in the order of decoding.
    """

    path: Path
    packets: Sequence[Timing]


def join(parts: Sequence[Part], target: Path, video: VideoFormat) -> None:
    """Write the packets of all parts behind each other, each at its own time.

    Args:
        parts: at least one, in the order of presentation.
        target: the file to write; its ending says MP4 or QuickTime, as that of the parts.
        video: what all parts were encoded as.

    Raises:
        OutputError: the parts are not alike, or the disk refuses.
    """
    decoded = iter(decoding_times([timing.pts for part in parts for timing in part.packets]))
    try:
        with open(target, "wb") as file, open_clip(parts[0].path) as first:
            muxer = target.suffix.removeprefix(".")
            with av.open(file, "w", format=muxer, container_options=muxer_options(video)) as joined:
                # Opaque: as it was decoded, for there is no encoder of that name.
                stream = joined.add_stream_from_template(first.streams.video[0], opaque=True)
                stream.time_base = video.time_base
                if video.sample_aspect_ratio:
                    stream.codec_context.sample_aspect_ratio = video.sample_aspect_ratio
                if video.display_matrix is not None:
                    stream.set_display_matrix(video.display_matrix)
                for part in parts:
                    _append(part, joined, stream, video.time_base, decoded)
    except (LibavError, OSError) as exc:
        raise OutputError(f"cannot join the encoded parts to {target}: {exc.strerror}.") from exc


def _append(
    part: Part, joined: OutputContainer, stream: VideoStream, time_base: Fraction, decoded: Iterator[int]
) -> None:
    timings = iter(part.packets)
    with open_clip(part.path) as container:
        source = container.streams.video[0]
        if source.codec_context.extradata != stream.codec_context.extradata:
            raise OutputError(
                f"{part.path} was encoded otherwise than the parts before it; run again with --no-resume."
            )
        for packet in container.demux(source):
            if not packet.size:
                continue
            if (timing := next(timings, None)) is None:
                raise OutputError(f"{part.path} holds more than was written to it; run again with --no-resume.")
            packet.stream = stream
            packet.time_base = time_base
            packet.pts, packet.dts, packet.duration = timing.pts, next(decoded), timing.duration
            joined.mux(packet)
    if next(timings, None) is not None:
        raise OutputError(f"{part.path} has lost frames; run again with --no-resume.")
