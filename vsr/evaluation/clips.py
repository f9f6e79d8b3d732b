"""Clips that are compared: what they are, when their frames are shown, and those frames as RGB."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from vsr.errors import InputError
from vsr.imaging.colour import ColourSpec, PixelLayout, planes_to_rgb
from vsr.media.clip import VideoInfo, colour_of
from vsr.media.probe import open_clip, probe
from vsr.media.reader import Frame, decoded_format, read_frames


@dataclass(frozen=True)
class Clip:
    """A clip, by its headers.

    Attributes:
        path: the file.
        video: the stream that is compared.
        layout: how its planes come out of the decoder.
        colour: what their code values mean.
    """

    path: Path
    video: VideoInfo
    layout: PixelLayout
    colour: ColourSpec

    @property
    def size(self) -> str:
        """Columns and rows as coded, as words."""
        return f"{self.video.width}x{self.video.height}"


@dataclass(frozen=True)
class Schedule:
    """When the frames of a clip are shown.

    Attributes:
        times: seconds, exact and strictly ascending, one for each frame that decodes.
        display_matrix: the container's transformation for display, None where there is none.
    """

    times: tuple[Fraction, ...]
    display_matrix: tuple[int, ...] | None


def identify(path: Path) -> Clip:
    """Read the headers of a clip.

    Raises:
        InputError: missing, damaged, empty, without video, of an unreadable pixel format, or a picture.
    """
    with open_clip(path) as container:
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise InputError(f"{path} is a picture, not a clip; pictures are compared with --model and --data.")
    video = probe(path).video
    _, layout = decoded_format(video)
    return Clip(path, video, layout, colour_of(video, video.height))


def read_schedule(clip: Clip, progress: Callable[[int], None] | None = None) -> Schedule:
    """Decode a clip for the times of its frames alone.

    Packets would be faster to read, but only the decoder tells which of them are shown: those that an edit list cuts,
    hidden frames, fields and damage make packets and frames differ, and the frames are what is compared.

    Args:
        clip: what to read.
        progress: called with the number of frames read.

    Raises:
        InputError: nothing can be decoded, or the frames change their size.
    """
    times: list[Fraction] = []
    with closing(read_frames(clip.path, clip.video)) as frames:
        for frame in frames:
            times.append(frame.pts * clip.video.time_base)
            if progress is not None:
                progress(len(times))
    return Schedule(tuple(times), clip.video.display_matrix)


def read_rgb(clip: Clip) -> Generator[Tensor, None, None]:
    """All frames as RGB (1, 3, H, W) float32, converted with the clip's own matrix and range.

    Black is 0 and white is 1; nothing is clipped, and depths above 8 bits survive.
    """
    with closing(read_frames(clip.path, clip.video)) as frames:
        for frame in frames:
            yield to_rgb(frame, clip.layout, clip.colour)


def to_rgb(frame: Frame, layout: PixelLayout, colour: ColourSpec) -> Tensor:
    """A decoded frame as RGB (1, 3, H, W) float32, not clipped."""
    return planes_to_rgb([torch.from_numpy(plane[None].copy()) for plane in frame.planes], layout, colour)


@contextmanager
def said_once() -> Iterator[None]:
    """Clips are decoded twice; what the reader has to say of them is logged the first time only."""
    reader = logging.getLogger(read_frames.__module__)
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in said
        said.add(message)
        return new

    reader.addFilter(is_new)
    try:
        yield
    finally:
        reader.removeFilter(is_new)
