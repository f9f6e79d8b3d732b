"""Read the frames of a clip: decoding, timestamps, damage and deinterlacing."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError as LibavError
from av.filter import Graph
from av.packet import Packet
from av.video.stream import VideoStream

from vsr.errors import InputError, is_out_of_memory
from vsr.files import MAX_PIXELS, has_memory_for
from vsr.imaging.colour import PixelLayout
from vsr.imaging.motion import Motion
from vsr.media.clip import Plane, VideoInfo, layout_of, nearest_format, planes_of
from vsr.media.libav import crop_exactly, extras_of, fraction_of
from vsr.media.probe import WITHOUT_PTS, open_clip

logger = logging.getLogger(__name__)

WITH_EXTRAS = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "vc1", "av1"})
"""Codecs whose frames can carry captions or the arrangement of a stereoscopic picture."""

SHORT_FRAMES = Fraction(3, 2)
"""Frames: a video that ends more than this before the end in its header is truncated. Complete clips differed by at
most half a frame."""

SHORT_SECONDS = Fraction(1, 3)
"""Assumed duration of a frame where it is unknown."""

SEEK_BACK_SECONDS = (0, 2, 10, 60)
"""Distances before the first requested frame at which to seek, tried in order; then it starts at the beginning."""


@dataclass(frozen=True)
class Frame:
    """A frame on its way from the decoder to the encoder.

    Attributes:
        planes: the code values, in the layout of ``decoded_format``.
        pts: presentation timestamp in ticks of the stream's time base.
        duration: duration in the same ticks; 0 where unknown.
        extras: a frame of a few pixels with the side data of the source's: captions, the arrangement of a stereoscopic
            picture; None where it has none that an encoder could write.
        motion: motion from the last frame that differed; None where unknown, or where the frame equals that one.
    """

    planes: tuple[Plane, ...]
    pts: int
    duration: int
    extras: VideoFrame | None = None
    motion: Motion | None = None

    @property
    def nbytes(self) -> int:
        """Size of the planes and the motion in bytes."""
        return sum(plane.nbytes for plane in self.planes) + (0 if self.motion is None else self.motion.nbytes)


@dataclass
class Damage:
    """Damage of a clip, counted while it is read.

    Attributes:
        undecodable: packets that could not be decoded.
        concealed: frames with missing or concealed parts, according to libav.
        missing_seconds: seconds by which the video ends before the end in its header.
        resized: frames that were resized to the size of the first. This is not damage and does not count in
            ``bool(damage)``.
    """

    undecodable: int = 0
    concealed: int = 0
    missing_seconds: float = 0.0
    resized: int = 0

    def __bool__(self) -> bool:
        return bool(self.undecodable or self.concealed or self.missing_seconds)

    def __str__(self) -> str:
        entries = [
            (self.undecodable, f"packets that could not be decoded: {self.undecodable}"),
            (self.concealed, f"frames with damaged parts: {self.concealed}"),
            (self.missing_seconds, f"missing at the end: {self.missing_seconds:.2f} s"),
        ]
        return "; ".join(text for count, text in entries if count)


def decoded_format(video: VideoInfo) -> tuple[str, PixelLayout]:
    """Return the pixel format and layout in which ``read_frames`` yields a stream.

    Raises:
        InputError: the stream's pixel format cannot be converted to planes.
    """
    pix_fmt = nearest_format(video.pix_fmt)
    layout = layout_of(pix_fmt) if pix_fmt else None
    if pix_fmt is None or layout is None:
        raise InputError(f"frames of the pixel format {video.pix_fmt} cannot be read.")
    return pix_fmt, layout


def read_frames(
    path: Path,
    video: VideoInfo,
    *,
    start: int | None = None,
    end: int | None = None,
    entry: int | None = None,
    deinterlace: Literal["auto", "yes", "no"] = "no",
    max_pixels: int = MAX_PIXELS,
    damage: Damage | None = None,
    damage_start: int | None = None,
) -> Generator[Frame, None, None]:
    """Yield the frames of a stream in the order of presentation, draining the decoder at the end.

    Frames of another size than the stream's first frame are resized to it. Frames without a usable timestamp are
    counted in a warning.

    Args:
        path: the file.
        video: the stream, as returned by ``probe``.
        start: the first timestamp to yield, in ticks of the stream; None begins with the first frame.
        end: the timestamp at which to stop, which is not yielded; None continues to the end.
        entry: the timestamp of the keyframe from which to decode; None: the last one at or before ``start``.
        deinterlace: ``auto`` converts each interlaced frame to one progressive frame, ``yes`` every frame.
        max_pixels: as for ``probe``.
        damage: counts the damage; complete after the last frame. Without it the damage is reported in a warning.
        damage_start: the first timestamp from which damage counts; None: from ``start``.

    Raises:
        InputError: no frame of the whole stream can be decoded.
    """
    pix_fmt, layout = decoded_format(video)
    frames, counted = 0, Damage() if damage is None else damage
    counts_from = start if damage_start is None else damage_start
    with open_clip(path, max_pixels) as container:
        clock = _Clock(video, container.format.name)
        stream = container.streams[video.index]
        assert isinstance(stream, VideoStream)
        packets = _Packets(container, stream, start if entry is None else entry)
        decoded = _decode(packets, stream, counted, counts_from, end)
        if deinterlace != "no":
            decoded = Deinterlacer(stream, all_frames=deinterlace == "yes").apply(decoded)
        for raw, pts in clock.timed(decoded):
            frames += 1
            if start is not None and pts < start:
                clock.retimed = 0  # reported for the range that they are in
                continue
            if end is not None and pts >= end:
                break
            counts = counts_from is None or pts >= counts_from
            counted.concealed += raw.is_corrupt and counts
            extras = extras_of(raw) if video.codec in WITH_EXTRAS else None
            plain = raw
            if (raw.width, raw.height) != (video.width, video.height):
                counted.resized += counts
                plain = raw.reformat(width=video.width, height=video.height)
            if plain.format.name.replace("yuvj", "yuv") != pix_fmt:
                plain = plain.reformat(format=pix_fmt)
            yield Frame(planes_of(plain, layout), pts, raw.duration or 0, extras)
        else:
            counted.missing_seconds = _missing_seconds(packets, video, container, clock) if frames else 0.0
    if not frames and start is None and end is None:
        raise InputError(f"{path} is damaged: not one frame of its video can be decoded.")
    if damage is None and counted:
        logger.warning("%s is damaged: %s; %d frames could be read.", path, counted, frames)
    if damage is None and counted.resized:
        logger.warning("%s", resized_message(path, video, counted.resized))
    if clock.retimed:
        logger.warning("%s: %d frames had no usable timestamp and got the next free one.", path, clock.retimed)


class _Packets:
    """Iterate over the packets of a stream, from a keyframe at or before ``start``.

    Attributes:
        latest: the end of the latest packet of any stream so far, in seconds.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, start: int | None) -> None:
        self._container, self._stream, self._start = container, stream, start
        self.latest = Fraction(0)

    def __iter__(self) -> Iterator[Packet[Any]]:
        begins = self._stream.start_time  # None in raw streams, which have no timestamps to seek by
        if self._start is None or begins is None or self._start <= begins:
            yield from self._demux()
            return
        time_base = fraction_of(self._stream.time_base)
        assert time_base is not None
        for back in SEEK_BACK_SECONDS:
            target = self._start - round(back / time_base)
            packets = self._from(target)
            # In a container without an index, a seek may end between two keyframes or after the requested one.
            keyframe = next((packet for packet in packets if packet.is_keyframe and packet.pts is not None), None)
            if keyframe is not None and keyframe.pts is not None and keyframe.pts <= self._start:
                yield keyframe
                yield from packets
                return
        yield from self._from(None)

    def _from(self, timestamp: int | None) -> Iterator[Packet[Any]]:
        """Yield the packets after seeking to a timestamp, or all packets."""
        try:
            if timestamp is None:
                self._container.seek(0, any_frame=True)
            else:
                self._container.seek(timestamp, stream=self._stream)
        except (LibavError, OSError) as exc:
            logger.debug("%s cannot seek: %s", self._container.name, exc)
        self._stream.codec_context.flush_buffers()
        yield from self._demux()

    def _demux(self) -> Iterator[Packet[Any]]:
        for packet in self._container.demux():
            if packet.pts is not None and packet.time_base:
                self.latest = max(self.latest, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream_index == self._stream.index:
                yield packet


def resized_message(path: Path, video: VideoInfo, count: int) -> str:
    """Return the warning that a clip changes its frame size and frames were resized."""
    return f"{path} changes its size: {count} frames were resized to the {video.width}x{video.height} of the first."


def _missing_seconds(packets: _Packets, video: VideoInfo, container: InputContainer, clock: _Clock) -> float:
    """Return the seconds by which a video ends before the end in its header; 0 where that is unknown or close.

    Some muxers count a duration from the first frame, others from zero: the earlier of the two ends is used.
    """
    if video.duration is not None:
        begins = min(container.streams[video.index].start_time or 0, 0)
        missing = (begins + video.duration - clock.end) * video.time_base
    elif container.duration is not None:  # of the longest stream
        begins = min(container.start_time or 0, 0)
        missing = Fraction(begins + container.duration, av.time_base) - packets.latest
    else:
        return 0.0
    return float(missing) if missing > SHORT_FRAMES * clock.frame_seconds else 0.0


def _decode(
    packets: _Packets, stream: VideoStream, damage: Damage, start: int | None, end: int | None
) -> Iterator[VideoFrame]:
    # No frame threads: such a decoder may report a damaged packet only while it is drained, when PyAV drops all
    # following frames, up to one per core. Decoding on one core is faster than a network.
    stream.thread_type = "SLICE"
    crop_exactly(stream.codec_context)
    if stream.codec_context.name == "h264":  # else it conceals no damage with several threads
        stream.codec_context.options = {"enable_er": "1"}
    # A demuxer that fails sends no packet that drains the decoder: None does.
    remaining = chain(packets, [None])
    packet: Packet[Any] | None = None
    while True:
        try:
            packet = next(remaining)
            decoded = stream.decode(packet)
        except (StopIteration, EOFError):  # drained already
            return
        except (LibavError, OSError) as exc:
            context = stream.codec_context
            if is_out_of_memory(exc) and not has_memory_for(context.width, context.height):
                raise
            logger.debug("%s: %s", stream, exc)
            damage.undecodable += _is_within(packet, start, end)
            continue
        yield from decoded


def _is_within(packet: Packet[Any] | None, start: int | None, end: int | None) -> bool:
    """Whether a packet's frame is in the range; a packet without a timestamp is."""
    if packet is None or packet.pts is None:
        return True
    return (start is None or packet.pts >= start) and (end is None or packet.pts < end)


class _Clock:
    """Assign increasing timestamps: the frame's own where possible, else the next free one.

    A single wrong timestamp moves no other frame: a timestamp after that of the following frame is trusted only where
    the last frame ended.

    The decoder returns decoding timestamps in the order of presentation. They are preferred in containers without
    presentation timestamps, and wherever they run backwards less often.
    """

    def __init__(self, video: VideoInfo, container_format: str) -> None:
        self._order = ("dts", "pts") if container_format in WITHOUT_PTS else ("pts", "dts")
        self.retimed = 0
        self._time_base = video.time_base
        self._first: int | None = None
        self._last: int | None = None
        self._next = 0
        self._count = 0
        self._seen: dict[str, int] = {}
        self._backwards = {"pts": 0, "dts": 0}
        self._step = round(1 / (video.average_rate * video.time_base)) if video.average_rate else 0

    @property
    def end(self) -> int:
        """The end of the last frame, in ticks."""
        return self._next

    @property
    def frame_seconds(self) -> Fraction:
        """The duration of a frame: the larger of the header's, which may be that of the clock, and the average."""
        stated, average = self._step * self._time_base, Fraction(0)
        if self._count > 1 and self._first is not None and self._last is not None:
            average = Fraction(self._last - self._first, self._count - 1) * self._time_base
        return max(stated, average) or SHORT_SECONDS

    def timed(self, frames: Iterable[VideoFrame]) -> Iterator[tuple[VideoFrame, int]]:
        """Yield each frame with its timestamp in ticks. One is held back until the following one is known."""
        held: VideoFrame | None = None
        for frame in frames:
            if held is not None:
                yield held, self._time_of(held, frame)
            held = frame
        if held is not None:
            yield held, self._time_of(held, None)

    def _time_of(self, frame: VideoFrame, following: VideoFrame | None) -> int:
        """Return the timestamp of the next frame in the order of presentation, in ticks."""
        stamps = {name: stamp for name in self._order if (stamp := getattr(frame, name)) is not None}
        for name, stamp in stamps.items():
            self._backwards[name] += stamp <= self._seen.get(name, stamp - 1)
            self._seen[name] = stamp
        trusted = min(stamps, key=self._backwards.__getitem__, default=None)  # the first where equal
        time = None if trusted is None else stamps[trusted]
        after = None if trusted is None or following is None else getattr(following, trusted)
        if after is not None and self._last is not None and after <= self._last:
            after = None  # it runs backwards itself and is of no use
        if time is None or (self._last is not None and time <= self._last) or self._runs_ahead(time, after):
            time = self._free_before(after)
            self.retimed += 1
        self._last, self._next = time, time + (frame.duration or self._step or 1)
        self._first = time if self._first is None else self._first
        self._count += 1
        return time

    def _runs_ahead(self, time: int, after: int | None) -> bool:
        """Whether a frame's timestamp is after that of the following frame, and is the wrong one of the two."""
        if after is None or after > time:
            return False
        expected = self._last is not None and abs(time - self._next) <= self._step // 2
        return not expected and after < time

    def _free_before(self, after: int | None) -> int:
        """Return the next free timestamp, before that of the following frame where possible."""
        time = self._next if after is None else min(self._next, after - 1)
        if self._last is None:
            return time if after is None else after - (self._step or 1)
        return max(time, self._last + 1)


class Deinterlacer:
    """Deinterlace with libav's bwdif (the BBC's W3FDIF with the edges of YADIF): one frame per frame, at its own time.

    Args:
        stream: the stream of the frames.
        all_frames: treat every frame as interlaced, not only flagged ones.
    """

    def __init__(self, stream: VideoStream, *, all_frames: bool = False) -> None:
        time_base = fraction_of(stream.time_base)
        assert time_base is not None
        self._time_base = time_base
        self._all = all_frames
        self._graph: Graph | None = None
        self._shape = (0, 0, "")

    def apply(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield one frame for each input frame; progressive ones are unchanged."""
        for frame in frames:
            if self._graph is not None and self._shape != _shape(frame):  # which the filter cannot change
                yield from self._drain()
            if self._graph is None and (self._all or frame.interlaced_frame):
                self._graph = self._build(frame)
            if self._graph is None:
                yield frame
                continue
            self._graph.push(frame)
            yield from self._pull()
        if self._graph is not None:
            yield from self._drain()

    def _drain(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        self._graph.push(None)
        yield from self._pull()
        self._graph = None

    def _build(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=self._time_base
        )
        which = "all" if self._all else "interlaced"
        filtered, sink = graph.add("bwdif", f"mode=send_frame:deint={which}"), graph.add("buffersink")
        source.link_to(filtered)
        filtered.link_to(sink)
        graph.configure()
        self._shape = _shape(frame)
        return graph

    def _pull(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, EOFError):
                return
            assert isinstance(frame, VideoFrame)
            # The filter doubles the clock rate, for a mode with one frame per field.
            if frame.pts is not None and (time_base := fraction_of(frame.time_base)):
                ticks = time_base / self._time_base
                frame.pts, frame.duration = round(frame.pts * ticks), round((frame.duration or 0) * ticks)
                frame.time_base = self._time_base
            yield frame


def _shape(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
