"""Panels side by side as one picture, and below them the parts that are worth a closer look."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from vsr.errors import OutputError, UsageError
from vsr.evaluation.compare import CompareOptions, CompareProgress, Drawn, Progress, Region
from vsr.evaluation.lettering import letter, line_height, paint, size_for
from vsr.evaluation.sources import Moment, Panel, Sources
from vsr.media.images import Picture, write_picture

logger = logging.getLogger(__name__)

NUM_REGIONS = 2
ZOOM = 4
"""A region that is chosen is a quarter of the picture each way, and is shown as large as the whole."""

LEAST_REGION = 16
"""Pixels each way of a region that is chosen; pictures smaller than that are taken whole."""

QUALITY = 95
JPEG_EDGE = 65535
"""Pixels that the format can count."""

BACKGROUND = (24, 24, 27)
INK = (236, 236, 236)
MARKS = ((255, 196, 0), (64, 200, 255), (255, 105, 180), (130, 230, 90), (200, 150, 255), (255, 140, 60))
"""Colours of the regions, over again where there are more."""


@dataclass(frozen=True)
class Strip:
    """A picture, and where its parts lie in it; places are (x, y) of left upper corners.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        panels: place of each panel.
        regions: what is magnified, in pixels of a panel.
        factors: how many times each region is magnified.
        zooms: for each region the places of its magnified parts, one for each panel.
    """

    picture: Picture
    panels: tuple[tuple[int, int], ...]
    regions: tuple[Region, ...]
    factors: tuple[int, ...]
    zooms: tuple[tuple[tuple[int, int], ...], ...]


def write_strip(sources: Sources, options: CompareOptions, path: Path, report: Progress) -> Drawn:
    """Draw the strips of all moments that are asked for, one below the other, as PNG or JPEG.

    Raises:
        UsageError: a region outside of the picture, a time or a frame outside of the clip.
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
    return Drawn(labels, width, height, len(strips))


def _write_jpeg(path: Path, picture: Picture, quality: int) -> None:
    if max(picture.shape) > JPEG_EDGE:
        raise OutputError(
            f"a strip of {picture.shape[1]}x{picture.shape[0]} is larger than a JPEG can be ({JPEG_EDGE} pixels an "
            "edge): name a .png, or compare less at once."
        )
    try:
        Image.fromarray(picture).save(path, "JPEG", quality=quality, subsampling=0)  # colours as sharp as light
    except OSError as exc:
        raise OutputError(f"cannot write the picture {path}: {exc.strerror or exc}.") from exc


def _regions(moment: Moment, options: CompareOptions) -> Sequence[Region]:
    height, width = moment.size
    for region in options.regions:
        inside = 0 <= region.x < region.x + region.width <= width and 0 <= region.y < region.y + region.height <= height
        if not inside:
            raise UsageError(f"the region {region} (x, y, width, height) lies outside of the {width}x{height} picture.")
    if options.regions:
        return options.regions
    return find_regions(moment.panels, NUM_REGIONS if options.num_regions is None else options.num_regions)


def find_regions(panels: Sequence[Panel], count: int) -> list[Region]:
    """Where the candidates differ most: by the mean absolute difference over a region, none overlapping another.

    Of more than two candidates the difference is that of the farthest two, pixel by pixel. A single candidate is
    compared with HR, or else with bicubic interpolation, or else with LR.

    Args:
        panels: of equal size.
        count: how many regions are wanted; fewer where the picture has no room for more.
    """
    difference = _difference(panels)
    height, width = difference.shape
    rows, columns = (min(edge, max(LEAST_REGION, edge // ZOOM)) for edge in (height, width))
    total = cv2.integral(difference)
    mean = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    np.maximum(mean, 0, out=mean)  # rounding may leave less where nothing differs
    if count and not difference.any():
        logger.warning("the candidates do not differ anywhere in the picture.")
    found: list[Region] = []
    while len(found) < count and (mean >= 0).any():
        y, x = divmod(int(mean.argmax()), mean.shape[1])
        found.append(Region(x, y, columns, rows))
        mean[max(0, y - rows + 1) : y + rows, max(0, x - columns + 1) : x + columns] = -1
    if len(found) < count:
        logger.warning("the picture has room for %d of %d regions.", len(found), count)
    return found


def _difference(panels: Sequence[Panel]) -> npt.NDArray[np.float32]:
    """(H, W): the mean over the channels of largest minus smallest value."""
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
    """Draw one strip: labels, whole panels with the regions marked, and a row of magnified parts for each region.

    Panels are as large as their pictures, and parts are magnified by a whole number, so every pixel is exact.
    """
    height, width = moment.size
    count, size = len(moment.panels), size_for(width)
    gap, bar = max(4, width // 80), line_height(size) + size // 2
    factors = tuple(max(1, min(width // region.width, height // region.height)) for region in regions)
    left = [gap + index * (width + gap) for index in range(count)]
    top = gap + (bar if moment.caption else 0) + bar
    tops, y = [], top + height
    for region, factor in zip(regions, factors, strict=True):
        tops.append(y + bar)
        y += bar + factor * region.height
    canvas = np.full((y + gap, left[-1] + width + gap, 3), BACKGROUND, np.uint8)
    if moment.caption:
        paint(canvas, letter(moment.caption, size, canvas.shape[1] - 2 * gap), gap, gap, INK)
    for panel, x in zip(moment.panels, left, strict=True):
        shown = panel.shown
        paint(canvas, letter(panel.label, size, width), x, top - bar + size // 4, INK)
        canvas[top : top + height, x : x + width] = shown
        for number, (region, factor, y) in enumerate(zip(regions, factors, tops, strict=True)):
            colour = MARKS[number % len(MARKS)]
            _mark(canvas[top : top + height, x : x + width], region, max(2, width // 256), colour)
            part = shown[region.y : region.y + region.height, region.x : region.x + region.width]
            enlarged = part.repeat(factor, 0).repeat(factor, 1)
            canvas[y : y + enlarged.shape[0], x : x + enlarged.shape[1]] = enlarged
    for number, (region, factor, y) in enumerate(zip(regions, factors, tops, strict=True)):
        about = f"{factor}×  at {region}"
        paint(canvas, letter(about, size, width), gap, y - bar + size // 4, MARKS[number % len(MARKS)])
    return Strip(
        canvas, tuple((x, top) for x in left), tuple(regions), factors, tuple(tuple((x, y) for x in left) for y in tops)
    )


def _mark(panel: Picture, region: Region, thickness: int, colour: tuple[int, int, int]) -> None:
    """Frame a region, around its pixels and not over them; a dark edge keeps the frame visible on bright ground."""
    inside = (slice(region.y, region.y + region.height), slice(region.x, region.x + region.width))
    kept = panel[inside].copy()
    for grown, ink in ((thickness + (thickness + 1) // 2, (0, 0, 0)), (thickness, colour)):
        rows = slice(max(0, region.y - grown), region.y + region.height + grown)
        panel[rows, max(0, region.x - grown) : region.x + region.width + grown] = ink
    panel[inside] = kept
