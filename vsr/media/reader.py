"""A clip -> its frames, as planes with exact timestamps."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError as LibavError
from av.video.stream import VideoStream

from vsr.errors import InputError
from vsr.imaging.colour import PixelLayout
from vsr.media.pixels import Plane, layout_of, nearest_format, planes_of
from vsr.media.probe import VideoInfo, open_clip

logger = logging.getLogger(__name__)

WITHOUT_PTS = frozenset({"avi"})
"""Containers whose presentation timestamps are libav's guesses."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        planes: the code values, as the layout of the reader says.
        pts: presentation timestamp in ticks of the stream's time base.
        duration: in the same ticks; 0 where the source does not say.
        display_matrix: nine numbers of the container's transformation for display, None where there is none.
    """

    planes: tuple[Plane, ...]
    pts: int
    duration: int
    display_matrix: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Size of the planes in bytes."""
        return sum(plane.nbytes for plane in self.planes)


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


def read_frames(path: Path, video: VideoInfo) -> Generator[Frame, None, None]:
    """All frames of the stream in the order of presentation, the decoder drained at the end.

    Packets that cannot be decoded are counted and reported in one warning, as are frames without a usable timestamp.

    Raises:
        InputError: not one frame can be decoded, or frames change their size half-way.
    """
    pix_fmt, layout = decoded_format(video)
    tally = _Tally()
    with open_clip(path) as container:
        clock, matrix = _Clock(video, container.format.name), None
        stream = container.streams[video.index]
        assert isinstance(stream, VideoStream)
        for raw, following in _with_following(_decode(container, stream, tally)):
            if (raw.width, raw.height) != (video.width, video.height):
                raise InputError(
                    f"{path} changes its size from {video.width}x{video.height} to {raw.width}x{raw.height} after "
                    f"{tally.frames} frames; cut it there and upscale the parts."
                )
            if not tally.frames:
                _name_what_is_lost(raw, path)
                matrix = _display_matrix(raw)  # once: each look makes a cycle that keeps a frame until it is collected
            plain = raw.reformat(format=pix_fmt) if raw.format.name.replace("yuvj", "yuv") != pix_fmt else raw
            pts = clock.time_of(raw, following)
            yield Frame(planes_of(plain, layout), pts, raw.duration or 0, matrix)
            tally.frames += 1
    if not tally.frames:
        raise InputError(f"{path} is damaged: not one frame of its video can be decoded.")
    if tally.damaged:
        logger.warning(
            "%s is damaged: %d packets could not be decoded; %d frames could.", path, tally.damaged, tally.frames
        )
    if clock.retimed:
        logger.warning("%s: %d frames had no usable timestamp and got the next free one.", path, clock.retimed)


@dataclass
class _Tally:
    frames: int = 0
    damaged: int = 0


def _decode(container: InputContainer, stream: VideoStream, tally: _Tally) -> Iterator[VideoFrame]:
    # Not several frames at a time: such a decoder may tell of a damaged packet only while it is drained, where PyAV
    # then drops all frames that follow, up to one for each core. A network is slower than one core decodes.
    stream.thread_type = "SLICE"
    # A demuxer that fails half-way sends no packet that drains the decoder: None does.
    packets = chain(container.demux(stream), [None])
    while True:
        try:
            decoded = stream.decode(next(packets))
        except (StopIteration, EOFError):  # drained already
            return
        except (LibavError, OSError) as exc:
            logger.debug("%s: %s", container.name, exc)
            tally.damaged += 1
            continue
        yield from decoded


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
        self._last: int | None = None
        self._next = 0
        self._seen: dict[str, int] = {}
        self._backwards = {"pts": 0, "dts": 0}
        self._step = round(1 / (video.average_rate * video.time_base)) if video.average_rate else 0

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


HDR_METADATA = frozenset({"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"})


def _name_what_is_lost(frame: VideoFrame, path: Path) -> None:
    """Nothing of a clip is dropped in silence."""
    if frame.interlaced_frame:
        logger.warning("%s is interlaced: its fields are upscaled as they lie, combing and all.", path)
    if any(component.is_alpha for component in frame.format.components):
        logger.warning("%s has an alpha channel, which is left out.", path)
    if HDR_METADATA & {entry.type.name for entry in cast(Any, frame.side_data)}:
        logger.warning("%s describes the display that it was mastered on; that description is left out.", path)


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    for entry in cast(Any, frame.side_data):  # typed as a dict, but it iterates over its entries
        if entry.type.name == "DISPLAYMATRIX":
            return tuple(int(number) for number in np.frombuffer(entry, "<i4"))
    return None
