"""A line of text -> how much of each pixel it covers. For names of files in any script."""

from __future__ import annotations

import logging
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vsr.media.images import Picture

logger = logging.getLogger(__name__)

Coverage = npt.NDArray[np.uint8]
"""(rows, columns), 255 where a pixel is covered whole."""

LEAST_SIZE = 13
"""Pixels; what is smaller cannot be read."""

_FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_FIRST = _FONTS / "DejaVuSans.ttf"
"""Latin, Greek, Cyrillic, Arabic, Hebrew, Georgian, Armenian, signs."""
_LAST = next(path for path in (_FONTS / "LastResortHE-Regular.ttf", _FIRST) if path.is_file())
"""Has a frame for every character, which tells its script. Older matplotlib lacks it; the first has a plain one."""


def size_for(width: int) -> int:
    """The height of letters for a panel of a width, in pixels: legible where the whole panel is looked at."""
    return max(LEAST_SIZE, round(width / 30))


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
        path = _font_with(character) or _LAST
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
    """The font that comes with matplotlib, else one of the system's."""
    if ord(character) in _characters(_FIRST):
        return _FIRST
    return next((path for path in _system_fonts() if ord(character) in _characters(path)), None)


@lru_cache(maxsize=64)  # once
def _warn_of(characters: str) -> None:
    if characters:
        logger.warning(
            "no font of this system has %s: labels show frames in their place; install a font, or give a --label.",
            characters,
        )


@lru_cache(maxsize=1)
def _system_fonts() -> list[Path]:
    from matplotlib.font_manager import findSystemFonts  # takes a while, and few names need it

    paths = sorted(map(Path, findSystemFonts()))
    return sorted(paths, key=lambda path: "regular" not in path.stem.lower())  # rather than bold and italic ones


@cache
def _characters(path: Path) -> frozenset[int]:
    """Code points that a font has; none of a font that cannot be scaled."""
    from matplotlib.ft2font import FT2Font

    try:
        _font(path, LEAST_SIZE)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
