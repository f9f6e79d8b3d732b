"""Clips in one video: each in its slice of the frame, or whole beside the others."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from vsr.errors import UsageError
from vsr.evaluation.compare import CompareProgress, Drawn, Layout, Progress
from vsr.evaluation.lettering import LEAST_SIZE, letter, line_height, paint
from vsr.evaluation.sources import Moment, Panel, Sources
from vsr.imaging.colour import ColourSpec, rgb_to_planes
from vsr.imaging.orientation import orientation_of
from vsr.media.assemble import assemble, plan_streams
from vsr.media.clip import ClipInfo, VideoInfo
from vsr.media.codecs import CODECS
from vsr.media.containers import Container, container_of
from vsr.media.encoder import Encoder, VideoFormat
from vsr.media.ffmpeg import check_names, find_program
from vsr.media.images import Picture
from vsr.media.pixels import Plane, layout_of
from vsr.media.reader import Frame

logger = logging.getLogger(__name__)

CODEC = CODECS["h264"]
PIX_FMT = "yuv420p"
"""With this codec what every player shows."""

BACKGROUND = (24, 24, 27)
INK = (255, 255, 255)
LETTERS = 56
"""Height of the letters as a part of the frame's width: a video is watched whole."""

SHADE = 0.35
"""What is left of the light behind a label."""


@dataclass(frozen=True)
class Slice:
    """Which part of a panel stands where.

    Attributes:
        x: left edge in the frame.
        y: upper edge in the frame.
        left: first column of the panel that is shown.
        right: the column behind the last.
    """

    x: int
    y: int
    left: int
    right: int


@dataclass(frozen=True)
class Composition:
    """Where panels of ``height`` x ``width`` stand in a frame of ``frame_height`` x ``frame_width``, both even."""

    height: int
    width: int
    frame_height: int
    frame_width: int
    slices: tuple[Slice, ...]
    divider: int
    """Columns of the line between two slices, which covers both by half; 0: there is none."""


def arrange(layout: Layout, count: int, height: int, width: int) -> Composition:
    """Place panels.

    Args:
        layout: ``split``: one frame, of which each panel has a slice, in its own place; ``side-by-side``: whole, in a
            row; ``grid``: whole, in rows of equal length.
        count: how many panels.
        height: rows of each.
        width: columns of each.

    Raises:
        UsageError: the frame would be larger than H.264 can be.
    """
    if layout == "split":
        edges = [index * width // count for index in range(count + 1)]
        slices = [Slice(left, 0, left, right) for left, right in zip(edges, edges[1:], strict=False)]
        frame_height, frame_width = height, width
    else:
        gap = max(4, width // 160)
        columns = count if layout == "side-by-side" else math.ceil(math.sqrt(count))
        rows = -(-count // columns)
        places = [divmod(index, columns) for index in range(count)]
        slices = [Slice(column * (width + gap), row * (height + gap), 0, width) for row, column in places]
        frame_height, frame_width = rows * (height + gap) - gap, columns * (width + gap) - gap
    if max(frame_height, frame_width) > CODEC.largest:
        raise UsageError(
            f"{count} panels of {width}x{height} make a frame of {frame_width}x{frame_height}, and H.264 ends at "
            f"{CODEC.largest}: take --layout {'grid' if layout == 'side-by-side' else 'split'}."
        )
    divider = 2 * max(1, width // 960) if layout == "split" else 0
    # 4:2:0 wants even edges: a column or a row of background is added, and none of a panel is lost.
    even_height, even_width = frame_height + frame_height % 2, frame_width + frame_width % 2
    return Composition(height, width, even_height, even_width, tuple(slices), divider)


def compose(composition: Composition, panels: Sequence[Panel]) -> Picture:
    """Draw a frame: (frame_height, frame_width, 3) uint8 RGB."""
    canvas = np.full((composition.frame_height, composition.frame_width, 3), BACKGROUND, np.uint8)
    for panel, part in zip(panels, composition.slices, strict=True):
        width = part.right - part.left
        canvas[part.y : part.y + composition.height, part.x : part.x + width] = panel.shown[:, part.left : part.right]
    for part in composition.slices[1:] if composition.divider else ():
        half = composition.divider // 2
        canvas[:, part.x - 2 * half : part.x + 2 * half] //= 3
        canvas[:, part.x - half : part.x + half] = INK
    for panel, part in zip(panels, composition.slices, strict=True):
        _label(canvas, panel.label, part, composition)
    return canvas


def _label(canvas: Picture, text: str, part: Slice, composition: Composition) -> None:
    """A line in the upper left corner of a panel, on shaded ground."""
    size = max(LEAST_SIZE, composition.frame_width // LETTERS)
    margin = max(2, size // 2)
    room = part.right - part.left - 4 * margin
    if room <= 0:
        return
    coverage = letter(text, size, room)
    x, y = part.x + 2 * margin, part.y + margin + margin // 2
    rows = slice(part.y + margin, y + line_height(size) + margin // 2)
    shaded = canvas[rows, x - margin : x + coverage.shape[1] + margin]
    shaded[:] = (shaded * SHADE).astype(np.uint8)
    paint(canvas, coverage, x, y, INK)


def write_video(sources: Sources, layout: Layout, path: Path, report: Progress) -> Drawn:
    """Encode every frame of the clips with H.264, at its own time, with the sound of the first clip that has some.

    Only a few frames are in memory at any time.

    Raises:
        UsageError: an ending that names no container, a frame that would be too large, or a name that is no UTF-8.
        InputError: a clip is damaged, of another size, or not in step with the others.
        OutputError: the encoder or the disk refuses.
        FFmpegError: the ffmpeg program is missing, or cannot join the sound.
    """
    container = container_of(path)
    find_program()  # needed last, missed first
    check_names(path, *(clip.path for clip in sources.clips))
    encoded = path.with_name("video.mp4")
    with closing(sources.instants()) as instants:
        first = next(instants)
        panels = _panels(sources.moment_of(first))
        composition = arrange(layout, len(panels), *panels[-1].shown.shape[:2])
        video = _format(sources.clips[0].video, composition)
        with Encoder(encoded, CODEC, {}, video) as encoder:
            for instant in chain([first], instants):
                canvas = compose(composition, _panels(sources.moment_of(instant)))
                leader = instant.frames[0]
                encoder.write(Frame(_planes(canvas), leader.pts, leader.duration))
                report(CompareProgress(encoder.num_frames, sources.clips[0].video.num_frames_estimated))
    _join_sound(encoded, sources.clips, path, container)
    labels = tuple(panel.label for panel in panels)
    return Drawn(labels, composition.frame_width, composition.frame_height, encoder.num_frames)


def _panels(moment: Moment) -> list[Panel]:
    """What is worth its place in a moving picture: interpolated LR rather than its pixels, where there is both."""
    interpolated = any(panel.role == "bicubic" for panel in moment.panels)
    return [panel for panel in moment.panels if not (interpolated and panel.role == "lr")]


def _format(source: VideoInfo, composition: Composition) -> VideoFormat:
    ratio = source.sample_aspect_ratio
    orientation = orientation_of(source.display_matrix)
    return VideoFormat(
        width=composition.frame_width,
        height=composition.frame_height,
        pix_fmt=PIX_FMT,
        time_base=source.time_base,
        rate=source.average_rate,
        sample_aspect_ratio=1 / ratio if ratio and orientation and orientation.transposed else ratio,
        tags=replace(source.tags, range=1, matrix=1),
    )


def _planes(canvas: Picture) -> tuple[Plane, ...]:
    layout = layout_of(PIX_FMT)
    assert layout is not None
    rgb = torch.from_numpy(canvas).permute(2, 0, 1)[None].float().div_(255)
    colour = ColourSpec("bt709", full_range=False)
    return tuple(plane[0].numpy() for plane in rgb_to_planes(rgb, layout, colour))


def _join_sound(encoded: Path, clips: Sequence[ClipInfo], path: Path, container: Container) -> None:
    """Add the sound of the first clip that has some, with that clip's metadata."""
    heard = [clip for clip in clips if any(stream.kind == "audio" for stream in clip.others)]
    clip = (heard or clips)[0]
    streams = [plan for plan in plan_streams(clip, container) if plan.stream.kind == "audio"]
    for plan in streams:
        logger.log(logging.INFO if plan.is_kept else logging.WARNING, "%s: %s", clip.path.name, plan)
    # The clock of the output is that of the clip that gave the timestamps, which need not be the one with the sound.
    clock = replace(clip, video=replace(clip.video, time_base=clips[0].video.time_base))
    assemble(encoded, clock, streams, path, container)
