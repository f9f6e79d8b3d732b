"""A clip -> its frames, as planes with exact timestamps."""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from av import VideoFrame
from av.error import FFmpegError as LibavError
from av.video.stream import VideoStream

from vsr.errors import InputError
from vsr.imaging.colour import PixelLayout
from vsr.media.pixels import Plane, layout_of, nearest_format, planes_of
from vsr.media.probe import VideoInfo, open_clip

logger = logging.getLogger(__name__)


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

    Packets that cannot be decoded are counted and reported in one warning, as are frames whose timestamp is missing or
    does not lie after the one before; these get the next free one.

    Raises:
        InputError: not one frame can be decoded, or frames change their size half-way.
    """
    pix_fmt, layout = decoded_format(video)
    damaged = frames = retimed = 0
    last_end, last_pts = 0, None
    step = round(1 / (video.average_rate * video.time_base)) if video.average_rate else 0
    with open_clip(path) as container:
        stream = container.streams[video.index]
        assert isinstance(stream, VideoStream)
        # Not several frames at a time: such a decoder may tell of a damaged packet only while it is drained, where PyAV
        # then drops all frames that follow, up to one for each core. A network is slower than one core decodes.
        stream.thread_type = "SLICE"
        # A demuxer that fails half-way sends no packet that drains the decoder: None does.
        packets = chain(container.demux(stream), [None])
        while True:
            try:
                decoded = stream.decode(next(packets))
            except (StopIteration, EOFError):  # drained already
                break
            except (LibavError, OSError) as exc:
                logger.debug("%s: %s", path, exc)
                damaged += 1
                continue
            for raw in decoded:
                if (raw.width, raw.height) != (video.width, video.height):
                    raise InputError(
                        f"{path} changes its size from {video.width}x{video.height} to {raw.width}x{raw.height} after "
                        f"{frames} frames; cut it there and upscale the parts."
                    )
                pts = raw.pts
                if pts is None or (last_pts is not None and pts <= last_pts):
                    pts = last_end if last_pts is None else max(last_end, last_pts + 1)
                    retimed += 1
                plain = raw.reformat(format=pix_fmt) if raw.format.name.replace("yuvj", "yuv") != pix_fmt else raw
                yield Frame(planes_of(plain, layout), pts, raw.duration or 0, _display_matrix(raw))
                last_pts, last_end = pts, pts + (raw.duration or step or 1)
                frames += 1
    if not frames:
        raise InputError(f"{path} is damaged: not one frame of its video can be decoded.")
    if damaged:
        logger.warning("%s is damaged: %d packets could not be decoded; %d frames could.", path, damaged, frames)
    if retimed:
        logger.warning("%s: %d frames had no usable timestamp and got the next free one.", path, retimed)


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    for entry in cast(Any, frame.side_data):  # typed as a dict, but it iterates over its entries
        if entry.type.name == "DISPLAYMATRIX":
            return tuple(int(number) for number in np.frombuffer(entry, "<i4"))
    return None
