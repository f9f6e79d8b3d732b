"""Draw panels side by side: as a strip with an overview and magnified parts, or frame by frame as a video.

First strips and the choice of their regions, then the lettering of labels, then the layout and encoding of videos.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from vsr.comparison.options import CompareOptions, CompareProgress, Layout, Progress, Region, RenderResult
from vsr.comparison.sources import Moment, Panel, Sources
from vsr.errors import OutputError, UsageError, setting
from vsr.imaging.colour import ColourSpec, rgb_to_planes
from vsr.imaging.pictures import Picture, write_picture
from vsr.media.clip import WHOLE, ClipInfo, Cut, Plane, VideoInfo, layout_of, orientation_of
from vsr.media.ffmpeg import check_names, find_program
from vsr.media.formats import CODECS, Container, container_of
from vsr.media.mux import assemble, plan_streams
from vsr.media.reader import Frame
from vsr.media.writer import Encoder, VideoFormat

logger = logging.getLogger(__name__)

NUM_REGIONS = 2
ZOOM = 4
"""A region that is chosen has a quarter of the picture's height and width, and is enlarged to the size of the whole."""

SPACINGS = (0.5, 0.25, 0)
"""Distances between regions that are chosen, as a share of their edges; half of it from the edges of the picture. The
first is taken at which the picture has room for all of them."""

MIN_REGION = 16
"""Pixels along each edge of a region that is chosen; of smaller pictures the whole is the region."""

QUALITY = 95
JPEG_EDGE = 65535
"""Largest number of pixels along an edge of a JPEG."""

BACKGROUND = (24, 24, 27)
INK = (236, 236, 236)
MARKS = ((255, 196, 0), (64, 200, 255), (255, 105, 180), (130, 230, 90), (200, 150, 255), (255, 140, 60))
"""Colours of the regions, repeated if there are more."""


@dataclass(frozen=True)
class Strip:
    """A strip, and the positions of its parts: (x, y) of their upper left corners.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        overview: position of the whole picture in which the regions are marked; None without regions.
        panels: position of each whole panel; empty with regions.
        regions: the regions that are magnified, in pixels of a panel.
        factors: how many times each region is magnified.
        zooms: for each region the positions of its magnified parts, one for each panel.
    """

    picture: Picture
    overview: tuple[int, int] | None
    panels: tuple[tuple[int, int], ...]
    regions: tuple[Region, ...]
    factors: tuple[int, ...]
    zooms: tuple[tuple[tuple[int, int], ...], ...]


def write_strip(sources: Sources, options: CompareOptions, path: Path, report: Progress) -> RenderResult:
    """Draw the strips of all chosen moments, one below the other, and write them as PNG or JPEG.

    Raises:
        UsageError: a region is outside of the picture, or a time or a frame outside of the clip.
        InputError: a file cannot be read, or has another size than the others.
        OutputError: the file cannot be written, or is too large for a JPEG.
    """
    strips: list[Picture] = []
    labels: tuple[str, ...] = ()
    for moment in sources.moments(options, num_frames=1):
        labels = tuple(panel.label for panel in moment.panels)
        strips.append(draw_strip(moment, _regions(moment, options)).picture)
        report(CompareProgress(len(strips), max(1, len(options.times), len(options.frames))))
    whole = np.concatenate(strips)
    height, width, _ = whole.shape
    if path.suffix.lower() == ".png":
        write_picture(path, whole)
    else:
        _write_jpeg(path, whole, options.quality if isinstance(options.quality, int) else QUALITY)
    return RenderResult(labels, width, height, len(strips))


def _write_jpeg(path: Path, picture: Picture, quality: int) -> None:
    if max(picture.shape) > JPEG_EDGE:
        raise OutputError(
            f"a strip of {picture.shape[1]}x{picture.shape[0]} is larger than a JPEG can be ({JPEG_EDGE} pixels an "
            "edge): name a .png, or compare less at once."
        )
    try:
        Image.fromarray(picture).save(path, "JPEG", quality=quality, subsampling=0)  # 4:4:4
    except OSError as exc:
        raise OutputError(f"cannot write the picture {path}: {exc.strerror or exc}.") from exc


def _regions(moment: Moment, options: CompareOptions) -> Sequence[Region]:
    height, width = moment.size
    for region in options.regions:
        inside = 0 <= region.x < region.x + region.width <= width and 0 <= region.y < region.y + region.height <= height
        if not inside:
            raise UsageError(f"the region {region} (x, y, width, height) is outside of the {width}x{height} picture.")
    if options.regions:
        return options.regions
    return find_regions(moment.panels, NUM_REGIONS if options.num_regions is None else options.num_regions)


def find_regions(panels: Sequence[Panel], count: int) -> list[Region]:
    """Find the regions in which the candidates differ most, by the mean absolute difference, at a distance.

    With more than two candidates the difference is that of the two farthest apart in each pixel. A single candidate is
    compared with HR, or else with bicubic interpolation, or else with LR.

    Args:
        panels: panels of equal size.
        count: number of regions; fewer are returned if the picture has no room for more.
    """
    difference = _difference(panels)
    height, width = difference.shape
    rows, columns = (min(edge, max(MIN_REGION, edge // ZOOM)) for edge in (height, width))
    total = cv2.integral(difference)
    mean = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    np.maximum(mean, 0, out=mean)  # rounding may give less than 0 where nothing differs
    if count and not difference.any():
        logger.warning("the candidates do not differ anywhere in the picture.")
    found: list[Region] = []
    for spacing in SPACINGS:
        found = _largest(mean, rows, columns, spacing, count)
        if len(found) == count:
            break
    else:
        logger.warning("the picture has room for %d of %d regions.", len(found), count)
    return found


def _largest(
    mean: npt.NDArray[np.floating], rows: int, columns: int, spacing: float, count: int
) -> list[Region]:  # fmt: skip
    """Return at most ``count`` regions in the order of their mean differences, at a distance of ``spacing`` edges.

    Args:
        mean: (H - rows + 1, W - columns + 1), the mean difference of the region that begins there.
        rows: height of a region.
        columns: width of a region.
        spacing: distance as in ``SPACINGS``.
        count: number of regions.
    """
    down, across = round(rows * spacing), round(columns * spacing)
    above, before = down // 2, across // 2
    left = np.full_like(mean, -1)
    inner = slice(above, mean.shape[0] - above), slice(before, mean.shape[1] - before)
    left[inner] = mean[inner]
    found: list[Region] = []
    while len(found) < count and (left >= 0).any():
        y, x = divmod(int(left.argmax()), left.shape[1])
        found.append(Region(x, y, columns, rows))
        near = slice(max(0, y - rows - down + 1), y + rows + down)
        left[near, max(0, x - columns - across + 1) : x + columns + across] = -1
    return found


def _difference(panels: Sequence[Panel]) -> npt.NDArray[np.float32]:
    """Return (H, W): the mean over the channels of the largest minus the smallest value."""
    rank = {"candidate": 0, "hr": 1, "bicubic": 2, "lr": 3}
    ordered = sorted(panels, key=lambda panel: rank[panel.role])
    compared = [panel.shown for panel in ordered if panel.role == "candidate"]
    if len(compared) == 1:
        compared.append(ordered[1].shown)
    lowest, highest = compared[0], compared[0]
    for picture in compared[1:]:
        lowest, highest = np.minimum(lowest, picture), np.maximum(highest, picture)
    return np.asarray((highest - lowest).mean(2, dtype=np.float32))


def draw_strip(moment: Moment, regions: Sequence[Region]) -> Strip:
    """Draw one strip: an overview with the regions marked, and each region, magnified, of all panels.

    The overview is in the first cell of the grid where the panels leave one free, else beside it. Without regions the
    whole panels are beside each other. Two are in a row, more in a grid. Parts are magnified by a whole number, so
    every pixel is exact.
    """
    height, width = moment.size
    size = size_for(width)
    gap, bar = max(4, width // 80), line_height(size) + size // 2
    columns = columns_for(len(moment.panels))
    factors = tuple(max(1, min(width // region.width, height // region.height)) for region in regions)
    rows_of_panels = -(-len(moment.panels) // columns)
    inside = bool(regions) and len(moment.panels) < columns * rows_of_panels  # whether a cell is free for the overview
    top = gap + (bar if moment.caption else 0)
    across = columns + (bool(regions) and not inside)
    whole = bar + height + gap
    tops, y = [], top  # of the groups
    for number, (region, factor) in enumerate(zip(regions, factors, strict=True)):
        tops.append(y)
        zoomed = bar + factor * region.height + gap
        y += bar + rows_of_panels * zoomed + (max(0, whole - zoomed) if inside and not number else 0)
    y = max(y, top + whole) if regions else top + rows_of_panels * whole
    canvas = np.full((y, gap + across * (width + gap), 3), BACKGROUND, np.uint8)
    if moment.caption:
        paint(canvas, letter(moment.caption, size, canvas.shape[1] - 2 * gap), gap, gap, INK)

    def put(picture: Picture, label: str, x: int, y: int) -> tuple[int, int]:
        """Draw a picture below its label, and return its position."""
        paint(canvas, letter(label, size, width), x, y + size // 4, INK)
        canvas[y + bar : y + bar + picture.shape[0], x : x + picture.shape[1]] = picture
        return x, y + bar

    def grid(pictures: Sequence[Picture], x: int, y: int, *, free: int = 0) -> tuple[tuple[int, int], ...]:
        """Draw pictures in a grid that begins with ``free`` cells for the overview, and return their positions."""
        step = bar + pictures[0].shape[0] + gap
        below = max(0, whole - step) if free else 0  # the overview is higher than a zoom
        places = [divmod(free + number, columns) for number in range(len(pictures))]
        return tuple(
            put(picture, panel.label, x + column * (width + gap), y + row * step + (below if row else 0))
            for picture, panel, (row, column) in zip(pictures, moment.panels, places, strict=True)
        )

    shown = [panel.shown for panel in moment.panels]
    if not regions:
        return Strip(canvas, None, grid(shown, gap, top), (), (), ())
    first = next(number for number, panel in enumerate(moment.panels) if panel.role == "candidate")
    overview = put(shown[first], moment.panels[first].label, gap, top + (bar if inside else 0))
    zooms, x = [], gap if inside else gap + width + gap
    for number, (region, factor, y) in enumerate(zip(regions, factors, tops, strict=True)):
        colour = MARKS[number % len(MARKS)]
        _mark(canvas[overview[1] :, overview[0] :][:height, :width], region, max(2, width // 256), colour)
        paint(canvas, letter(f"{factor}×  at {region}", size, width), x, y + size // 4, colour)
        rows, cut = slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
        magnified = [each[rows, cut].repeat(factor, 0).repeat(factor, 1) for each in shown]
        zooms.append(grid(magnified, x, y + bar, free=int(inside and not number)))
    return Strip(canvas, overview, (), tuple(regions), factors, tuple(zooms))


def columns_for(count: int) -> int:
    """Return how many panels are beside each other: two are in a row, more in a grid."""
    return math.ceil(math.sqrt(count))


def _mark(panel: Picture, region: Region, thickness: int, colour: tuple[int, int, int]) -> None:
    """Draw a frame around the pixels of a region, with a dark edge that keeps it visible on a bright background."""
    inside = (slice(region.y, region.y + region.height), slice(region.x, region.x + region.width))
    kept = panel[inside].copy()
    for grown, ink in ((thickness + (thickness + 1) // 2, (0, 0, 0)), (thickness, colour)):
        rows = slice(max(0, region.y - grown), region.y + region.height + grown)
        panel[rows, max(0, region.x - grown) : region.x + region.width + grown] = ink
    panel[inside] = kept


Coverage = npt.NDArray[np.uint8]
"""(rows, columns), 255 where a pixel is covered whole."""

MIN_SIZE = 13
"""Pixels; what is smaller cannot be read."""

_FIRST = Path(__file__).with_name("DejaVuSans.ttf")
"""Latin, Greek, Cyrillic, Arabic, Hebrew, Georgian, Armenian, signs; for all else it has a frame. Comes with vsr."""

_FONT_FOLDERS = (
    "~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts",  # Linux
    "~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts",  # macOS
    "$LOCALAPPDATA/Microsoft/Windows/Fonts", "$WINDIR/Fonts",  # Windows
)  # fmt: skip
_FONT_ENDINGS = (".ttf", ".otf", ".ttc")

_NO_CHARACTER = "\U0010ffff"
"""A code point that Unicode keeps free of characters."""
_ASKED_SIZE = 40
"""Pixels at which glyphs are compared; small ones of different characters may look alike."""

_Glyph = tuple[tuple[int, int], bytes, float]
"""Size, pixels, and the columns that it takes."""


def size_for(width: int) -> int:
    """The height of letters for a panel of a width, in pixels: legible where the whole panel is looked at."""
    return max(MIN_SIZE, round(width / 30))


def line_height(size: int) -> int:
    """Rows that a line takes."""
    ascent, descent = _font(_FIRST, size).getmetrics()
    return ascent + descent


@lru_cache(maxsize=256)
def letter(text: str, size: int, max_width: int) -> Coverage:
    """Draw a line; one that is too long loses its middle, as names differ at their ends.

    Args:
        text: one line of printable characters.
        size: of the letters, in pixels.
        max_width: columns that the line may take.

    Returns:
        (``line_height(size)``, at most ``max_width`` columns), not to be written to.
    """
    _warn_of("".join(sorted({character for character in text if _font_with(character) is None})))
    runs = _runs(_shortened(text, size, max_width), size)
    ascent, _ = _font(_FIRST, size).getmetrics()
    width = min(max_width, int(np.ceil(sum(font.getlength(part) for part, font in runs))))
    image = Image.new("L", (max(1, width), line_height(size)))
    draw, x = ImageDraw.Draw(image), 0.0
    for part, font in runs:
        draw.text((x, ascent), part, fill=255, font=font, anchor="ls")  # on the baseline, which all fonts share
        x += font.getlength(part)
    coverage = np.array(image)
    coverage.setflags(write=False)
    return coverage


def paint(picture: Picture, coverage: Coverage, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Lay a colour on a picture, in place, where a line covers it; what lies outside of the picture is cut off."""
    under = picture[y : y + coverage.shape[0], x : x + coverage.shape[1]]
    share = coverage[: under.shape[0], : under.shape[1], None].astype(np.float32) / 255
    under[:] = np.rint(under + share * (np.array(colour, np.float32) - under))


def _shortened(text: str, size: int, max_width: int) -> str:
    def fits(candidate: str) -> bool:
        return sum(font.getlength(part) for part, font in _runs(candidate, size)) <= max_width

    if fits(text):
        return text
    least, most = 0, len(text) - 1  # characters kept: bisected, as names may be long
    while least < most:
        kept = (least + most + 1) // 2
        least, most = (kept, most) if fits(_without_middle(text, kept)) else (least, kept - 1)
    return _without_middle(text, least)


def _without_middle(text: str, kept: int) -> str:
    tail = kept // 2
    return text[: kept - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()


def _runs(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in pieces, each with a font that has its characters."""
    runs: list[tuple[str, Path]] = []
    for character in text:
        path = _font_with(character) or _FIRST
        if runs and runs[-1][1] == path:
            runs[-1] = (runs[-1][0] + character, path)
        else:
            runs.append((character, path))
    return [(part, _font(path, size)) for part, path in runs]


@lru_cache(maxsize=32)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


@lru_cache(maxsize=4096)
def _font_with(character: str) -> Path | None:
    """The font that comes with vsr, else one of the system's; None: no font has the character."""
    if _has(_FIRST, character):
        return _FIRST
    return next((path for path in _system_fonts() if _has(path, character)), None)


def _has(path: Path, character: str) -> bool:
    """Tell whether a font has a character, by its glyph, which differs from the one of no character.

    Returns:
        False also for a font that cannot be read, or not be scaled.
    """
    try:
        font, missing = _asked(path)
        return _glyph(font, character) != missing
    except OSError:
        return False


@cache
def _asked(path: Path) -> tuple[ImageFont.FreeTypeFont, _Glyph]:
    """A font, and its glyph of no character. Laid out plainly: Raqm would hide some characters that are missing."""
    font = ImageFont.truetype(str(path), _ASKED_SIZE, layout_engine=ImageFont.Layout.BASIC)
    return font, _glyph(font, _NO_CHARACTER)


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> _Glyph:
    mask = font.getmask(character)
    return mask.size, bytes(mask), font.getlength(character)


@lru_cache(maxsize=64)  # once
def _warn_of(characters: str) -> None:
    if characters:
        logger.warning(
            "no font of this system has %s: labels show frames in their place; install a font, or give %s.",
            characters, setting("labels", flag="a --label"),
        )


@lru_cache(maxsize=1)
def _system_fonts() -> list[Path]:
    roots = (os.path.expandvars(os.path.expanduser(folder)) for folder in _FONT_FOLDERS)
    paths = {
        Path(folder, name)
        for root in roots
        for folder, _, names in os.walk(root)  # of a folder that is none: nothing
        for name in names
        if name.lower().endswith(_FONT_ENDINGS)
    }
    return sorted(paths, key=lambda path: ("regular" not in path.stem.lower(), path))  # no bold or italic ones first


CODEC = CODECS["h264"]
PIX_FMT = "yuv420p"
"""The pixel format of this codec that every player supports."""
VIDEO_INK = (255, 255, 255)
LETTERS = 56
"""Letters are as high as this part of the frame's width: a video is watched as a whole."""

SHADE = 0.35
"""Share of the brightness that is left behind a label."""


@dataclass(frozen=True)
class Slice:
    """The part of a panel that is shown, and its position.

    Attributes:
        x: left edge in the frame.
        y: upper edge in the frame.
        left: first column of the panel that is shown.
        right: the column after the last.
    """

    x: int
    y: int
    left: int
    right: int


@dataclass(frozen=True)
class Composition:
    """Positions of panels of ``height`` x ``width`` in a frame of ``frame_height`` x ``frame_width``, both even."""

    height: int
    width: int
    frame_height: int
    frame_width: int
    slices: tuple[Slice, ...]
    divider: int
    """Columns of the line between two slices, half of them on each; 0: no line."""


def arrange(layout: Layout, count: int, height: int, width: int) -> Composition:
    """Arrange panels in a frame.

    Args:
        layout: ``split``: one frame of which each panel shows its own slice; ``side-by-side``: whole panels in a row;
            ``grid``: whole panels in rows of equal length.
        count: number of panels.
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
        columns = count if layout == "side-by-side" else columns_for(count)
        rows = -(-count // columns)
        places = [divmod(index, columns) for index in range(count)]
        slices = [Slice(column * (width + gap), row * (height + gap), 0, width) for row, column in places]
        frame_height, frame_width = rows * (height + gap) - gap, columns * (width + gap) - gap
    if max(frame_height, frame_width) > CODEC.largest:
        raise UsageError(
            f"{count} panels of {width}x{height} make a frame of {frame_width}x{frame_height}, and H.264 allows "
            f"{CODEC.largest}: use {setting('layout', 'grid' if layout == 'side-by-side' else 'split')}."
        )
    divider = 2 * max(1, width // 960) if layout == "split" else 0
    # 4:2:0 needs even edges: a column or a row of background is added, and nothing of a panel is lost.
    even_height, even_width = frame_height + frame_height % 2, frame_width + frame_width % 2
    return Composition(height, width, even_height, even_width, tuple(slices), divider)


def _arrange(layout: Layout | None, count: int, height: int, width: int) -> Composition:
    if layout is None and count > 2:
        try:
            return arrange("grid", count, height, width)
        except UsageError:
            logger.info("a grid of %d panels is larger than H.264 can be: they are shown as slices.", count)
    return arrange(layout or "split", count, height, width)


def compose(composition: Composition, panels: Sequence[Panel]) -> Picture:
    """Draw a frame: (frame_height, frame_width, 3) uint8 RGB."""
    canvas = np.full((composition.frame_height, composition.frame_width, 3), BACKGROUND, np.uint8)
    for panel, part in zip(panels, composition.slices, strict=True):
        width = part.right - part.left
        canvas[part.y : part.y + composition.height, part.x : part.x + width] = panel.shown[:, part.left : part.right]
    for part in composition.slices[1:] if composition.divider else ():
        half = composition.divider // 2
        canvas[:, part.x - 2 * half : part.x + 2 * half] //= 3
        canvas[:, part.x - half : part.x + half] = VIDEO_INK
    for panel, part in zip(panels, composition.slices, strict=True):
        _label(canvas, panel.label, part, composition)
    return canvas


def _label(canvas: Picture, text: str, part: Slice, composition: Composition) -> None:
    """Draw a label in the upper left corner of a panel, on a shaded background."""
    size = max(MIN_SIZE, composition.frame_width // LETTERS)
    margin = max(2, size // 2)
    room = part.right - part.left - 4 * margin
    if room <= 0:
        return
    coverage = letter(text, size, room)
    x, y = part.x + 2 * margin, part.y + margin + margin // 2
    rows = slice(part.y + margin, y + line_height(size) + margin // 2)
    shaded = canvas[rows, x - margin : x + coverage.shape[1] + margin]
    shaded[:] = (shaded * SHADE).astype(np.uint8)
    paint(canvas, coverage, x, y, VIDEO_INK)


def write_video(sources: Sources, layout: Layout | None, path: Path, report: Progress) -> RenderResult:
    """Encode every frame of the clips with H.264, at its own time, with the sound of the first clip that has some.

    Only a few frames are in memory at any time.

    Args:
        sources: the clips.
        layout: as in ``arrange``; None: ``split`` for two panels, ``grid`` for more where H.264 can hold it.
        path: the file to write.
        report: called after each frame.

    Raises:
        UsageError: a suffix that selects no container, a frame that would be too large, or a name that is not UTF-8.
        InputError: a clip is damaged, of another size, or not in step with the others.
        OutputError: encoding or writing fails.
        FFmpegError: the ffmpeg program is missing, or cannot add the sound.
    """
    container = container_of(path)
    find_program()  # it is needed at the end: fail early
    check_names(path, *(clip.path for clip in sources.clips))
    encoded = path.with_name("video.mp4")
    with closing(sources.instants()) as instants:
        first = next(instants)
        panels = _panels(sources.moment_of(first))
        composition = _arrange(layout, len(panels), *panels[-1].shown.shape[:2])
        video = _format(sources.clips[0].video, composition)
        with_sound = _with_sound(sources.clips)
        # The frames get the times of the clip with the sound, to which the sound is then added as it is.
        later = round((sources.placements[0].shift - sources.placements[with_sound].shift) / video.time_base)
        with Encoder(encoded, CODEC, {}, video) as encoder:
            for instant in chain([first], instants):
                canvas = compose(composition, _panels(sources.moment_of(instant)))
                first_frame = instant.frames[0]
                encoder.write(Frame(_planes(canvas), first_frame.pts + later, first_frame.duration))
                ends = first_frame.pts + later + first_frame.duration
                report(CompareProgress(encoder.num_frames, sources.num_frames_estimated))
    is_part = any(place.start is not None for place in sources.placements)
    part = (first.frames[0].pts + later, ends) if is_part else None
    _add_sound(encoded, sources.clips[with_sound], video.time_base, part, path, container)
    labels = tuple(panel.label for panel in panels)
    return RenderResult(labels, composition.frame_width, composition.frame_height, encoder.num_frames)


def _panels(moment: Moment) -> list[Panel]:
    """Return the panels that a video shows: interpolated LR instead of LR itself, if there are both."""
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


def _with_sound(clips: Sequence[ClipInfo]) -> int:
    """Return the number of the first clip with sound; 0 where none has."""
    return next(
        (number for number, clip in enumerate(clips) if any(stream.kind == "audio" for stream in clip.others)), 0
    )


def _add_sound(
    encoded: Path, clip: ClipInfo, time_base: Fraction, part: tuple[int, int] | None, path: Path, container: Container
) -> None:
    """Add the sound of a clip, with its metadata.

    Args:
        encoded: file with the video, with the timestamps of the clip.
        clip: the clip with the sound.
        time_base: of the video, in seconds; it is of the first clip, which need not be the one with the sound.
        part: the first and the last timestamp of the video if it shows a part of the clip; None: it shows the whole.
        path: the file to write.
        container: its format.
    """
    streams = [plan for plan in plan_streams(clip, container) if plan.stream.kind == "audio"]
    for plan in streams:
        logger.log(logging.INFO if plan.is_kept else logging.WARNING, "%s: %s", clip.path.name, plan)
    cut = WHOLE
    if part is not None:
        begins, ends = (at * time_base for at in part)
        shift = round((begins - clip.start) / time_base) * time_base
        cut = Cut(begins if shift > 0 else None, ends, shift)
    assemble(encoded, replace(clip, video=replace(clip.video, time_base=time_base)), streams, path, container, cut=cut)
