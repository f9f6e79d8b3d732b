"""A clip -> its frames, as progressive planes with exact timestamps."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
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
"""A video that ends more frames than this before its header says has lost its end. Of whole clips none came to more
than half a frame."""

SHORT_SECONDS = Fraction(1, 3)
"""How long a frame lasts where nothing tells."""


SEEK_BACK_SECONDS = (0, 2, 10, 60)
"""How far before the first frame wanted a keyframe is looked for, one after the other; then from the beginning."""


@dataclass(frozen=True)
class Frame:
    """A frame on its way from the decoder to the encoder.

    Attributes:
        planes: the code values, as the layout of the reader says.
        pts: presentation timestamp in ticks of the stream's time base.
        duration: in the same ticks; 0 where the source does not say.
        extras: a frame of a few pixels with the side data of the source's: captions, the arrangement of a stereoscopic
            picture. None where it has none that an encoder could write.
        motion: to the frame from the last that differed from it; None: it is not known, or the frame equals that.
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
    """What was wrong with a clip, counted while it is read.

    Attributes:
        undecodable: packets of which nothing could be decoded.
        concealed: frames of which libav says that parts are missing or made up.
        missing_seconds: by how much the video ends before its header says.
        resized: frames that had another size than the first, and were brought to that. This is no damage, and does not
            count in ``bool(damage)``.
    """

    undecodable: int = 0
    concealed: int = 0
    missing_seconds: float = 0.0
    resized: int = 0

    def __bool__(self) -> bool:
        return bool(self.undecodable or self.concealed or self.missing_seconds)

    def __str__(self) -> str:
        said = [
            (self.undecodable, f"packets that could not be decoded: {self.undecodable}"),
            (self.concealed, f"frames with damaged parts: {self.concealed}"),
            (self.missing_seconds, f"missing at the end: {self.missing_seconds:.2f} s"),
        ]
        return "; ".join(words for count, words in said if count)


def decoded_format(video: VideoInfo) -> tuple[str, PixelLayout]:
    """The pixel format and layout in which ``read_frames`` delivers a stream.

    Raises:
        InputError: no planar format comes near the stream's own.
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
    """The frames of a stream in the order of presentation, the decoder drained at the end.

    All have the size of the stream's first frame; others are resized to it.

    Args:
        path: the file.
        video: the stream, as ``probe`` tells of it.
        start: the first timestamp wanted, in ticks of the stream; None begins with the first frame.
        end: the first timestamp no longer wanted; None goes on to the end.
        entry: the timestamp of the keyframe from which to decode; None: the last one at or before ``start``.
        deinterlace: ``auto`` makes frames that are flagged as two fields into one progressive frame each, ``yes`` all.
        max_pixels: as ``probe``.
        damage: where to count what is wrong; it is complete once the last frame has been taken. Without it a warning
            says what was wrong.
        damage_start: the first timestamp from which on it counts; None: from ``start``.

    Frames without a usable timestamp are counted in a warning.

    Raises:
        InputError: not one frame of the whole can be decoded.
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
        for raw, following in _with_following(decoded):
            pts = clock.time_of(raw, following)
            frames += 1
            if start is not None and pts < start:
                clock.retimed = 0  # told of where they belong
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
            counted.missing_seconds = _missing(packets, video, container, clock) if frames else 0.0
    if not frames and start is None and end is None:
        raise InputError(f"{path} is damaged: not one frame of its video can be decoded.")
    if damage is None and counted:
        logger.warning("%s is damaged: %s; %d frames could be read.", path, counted, frames)
    if damage is None and counted.resized:
        logger.warning("%s", resized_message(path, video, counted.resized))
    if clock.retimed:
        logger.warning("%s: %d frames had no usable timestamp and got the next free one.", path, clock.retimed)


class _Packets:
    """The packets of a stream, from a keyframe at or before ``start``; how far the packets of all streams reach."""

    def __init__(self, container: InputContainer, stream: VideoStream, start: int | None) -> None:
        self._container, self._stream, self._start = container, stream, start
        self.latest = Fraction(0)

    def __iter__(self) -> Iterator[Packet[Any]]:
        begins = self._stream.start_time  # None in raw streams, which have no timestamps to seek by
        if self._start is None or begins is None or self._start <= begins:
            yield from self._following()
            return
        time_base = fraction_of(self._stream.time_base)
        assert time_base is not None
        for back in SEEK_BACK_SECONDS:
            target = self._start - round(back / time_base)
            packets = self._from(target)
            # Where a container has no index, a seek may end between two keyframes, or behind the one that is wanted.
            keyframe = next((packet for packet in packets if packet.is_keyframe and packet.pts is not None), None)
            if keyframe is not None and keyframe.pts is not None and keyframe.pts <= self._start:
                yield keyframe
                yield from packets
                return
        yield from self._from(None)

    def _from(self, timestamp: int | None) -> Iterator[Packet[Any]]:
        """The packets behind a timestamp, or all of them."""
        try:
            if timestamp is None:
                self._container.seek(0, any_frame=True)
            else:
                self._container.seek(timestamp, stream=self._stream)
        except (LibavError, OSError) as exc:
            logger.debug("%s cannot seek: %s", self._container.name, exc)
        self._stream.codec_context.flush_buffers()
        yield from self._following()

    def _following(self) -> Iterator[Packet[Any]]:
        for packet in self._container.demux():
            if packet.pts is not None and packet.time_base:
                self.latest = max(self.latest, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream_index == self._stream.index:
                yield packet


def resized_message(path: Path, video: VideoInfo, count: int) -> str:
    """Say that a clip changes its size half-way, and what became of it."""
    return f"{path} changes its size: {count} frames were resized to the {video.width}x{video.height} of the first."


def _missing(packets: _Packets, video: VideoInfo, container: InputContainer, clock: _Clock) -> float:
    """Seconds by which a video ends before its header says; 0 where that says nothing, or nearly what is there.

    Some muxers count a duration from the first frame, others from zero: the earlier of the two ends is believed.
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
    # Not several frames at a time: such a decoder may tell of a damaged packet only while it is drained, where PyAV
    # then drops all frames that follow, up to one for each core. A network is slower than one core decodes.
    stream.thread_type = "SLICE"
    crop_exactly(stream.codec_context)
    if stream.codec_context.name == "h264":  # else no damage is concealed where several threads decode
        stream.codec_context.options = {"enable_er": "1"}
    # A demuxer that fails half-way sends no packet that drains the decoder: None does.
    waiting = chain(packets, [None])
    packet: Packet[Any] | None = None
    while True:
        try:
            packet = next(waiting)
            decoded = stream.decode(packet)
        except (StopIteration, EOFError):  # drained already
            return
        except (LibavError, OSError) as exc:
            context = stream.codec_context
            if is_out_of_memory(exc) and not has_memory_for(context.width, context.height):
                raise
            logger.debug("%s: %s", stream, exc)
            damage.undecodable += _lies_within(packet, start, end)
            continue
        yield from decoded


def _lies_within(packet: Packet[Any] | None, start: int | None, end: int | None) -> bool:
    """Whether a packet's frame is wanted; where nobody can tell, it is."""
    if packet is None or packet.pts is None:
        return True
    return (start is None or packet.pts >= start) and (end is None or packet.pts < end)


def _with_following(frames: Iterator[VideoFrame]) -> Iterator[tuple[VideoFrame, VideoFrame | None]]:
    held: VideoFrame | None = None
    for frame in frames:
        if held is not None:
            yield held, frame
        held = frame
    if held is not None:
        yield held, None


class _Clock:
    """Gives each frame a timestamp that lies after the last: its own where it can, else the next free one.

    A single wrong timestamp moves no other frame: one beyond the frame that follows is believed only where the last
    frame ended.

    Decoding timestamps come out of the decoder in the order of presentation. They are the better ones in a container
    that has no others, and wherever they run backwards less often than those for presentation.
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
        """Where the last frame ends, in ticks."""
        return self._next

    @property
    def frame_seconds(self) -> Fraction:
        """How long a frame lasts: by the header, which some fill with their clock's rate, or on average."""
        stated, average = self._step * self._time_base, Fraction(0)
        if self._count > 1 and self._first is not None and self._last is not None:
            average = Fraction(self._last - self._first, self._count - 1) * self._time_base
        return max(stated, average) or SHORT_SECONDS

    def time_of(self, frame: VideoFrame, following: VideoFrame | None) -> int:
        """The timestamp of the next frame in the order of presentation, in ticks."""
        stamps = {name: stamp for name in self._order if (stamp := getattr(frame, name)) is not None}
        for name, stamp in stamps.items():
            self._backwards[name] += stamp <= self._seen.get(name, stamp - 1)
            self._seen[name] = stamp
        trusted = min(stamps, key=self._backwards.__getitem__, default=None)  # the first of equals
        time = None if trusted is None else stamps[trusted]
        after = None if trusted is None or following is None else getattr(following, trusted)
        if after is not None and self._last is not None and after <= self._last:
            after = None  # it runs backwards itself, and says nothing
        if time is None or (self._last is not None and time <= self._last) or self._runs_ahead(time, after):
            time = self._free_before(after)
            self.retimed += 1
        self._last, self._next = time, time + (frame.duration or self._step or 1)
        self._first = time if self._first is None else self._first
        self._count += 1
        return time

    def _runs_ahead(self, time: int, after: int | None) -> bool:
        """Whether a frame lies beyond the one that follows, and is the one of the two that is out of place."""
        if after is None or after > time:
            return False
        expected = self._last is not None and abs(time - self._next) <= self._step // 2
        return not expected and after < time

    def _free_before(self, after: int | None) -> int:
        time = self._next if after is None else min(self._next, after - 1)
        if self._last is None:
            return time if after is None else after - (self._step or 1)
        return max(time, self._last + 1)


class Deinterlacer:
    """Fields -> frames, by libav's bwdif (the BBC's W3FDIF with the edges of YADIF): one for each, at its own time.

    Args:
        stream: where the frames come from.
        all_frames: take each for interlaced, not only those that are flagged so.
    """

    def __init__(self, stream: VideoStream, *, all_frames: bool = False) -> None:
        time_base = fraction_of(stream.time_base)
        assert time_base is not None
        self._time_base = time_base
        self._all = all_frames
        self._graph: Graph | None = None
        self._shape = (0, 0, "")

    def apply(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """As many frames as come in; progressive ones are unchanged."""
        for frame in frames:
            if self._graph is not None and self._shape != _shape(frame):  # which the filter does not take half-way
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
            # The filter's clock ticks twice as fast, for the frames of two fields that are not asked for.
            if frame.pts is not None and (time_base := fraction_of(frame.time_base)):
                ticks = time_base / self._time_base
                frame.pts, frame.duration = round(frame.pts * ticks), round((frame.duration or 0) * ticks)
                frame.time_base = self._time_base
            yield frame


def _shape(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
