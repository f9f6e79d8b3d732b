"""Write panels into one HTML file with a slider, which opens from disk and loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vsr.comparison.options import CompareOptions, CompareProgress, Progress, RenderResult
from vsr.comparison.sources import Moment, Panel, Sources
from vsr.errors import OutputError, setting
from vsr.evaluation.pairing import warnings_once
from vsr.imaging.pictures import Picture

logger = logging.getLogger(__name__)

NUM_FRAMES = 8

LOSSLESS_PIXELS = 24_000_000
"""Pixels of all pictures together, up to which they are PNG: a page of about 50 MB."""

QUALITY = 95
"""JPEG quality if there are more pixels."""

LARGE_BYTES = 50_000_000
"""Larger pages open slowly and are too large for mail."""

PNG_LEVEL = 6

PLAY_SECONDS = 1.5
"""How long the part of a clip is that the page plays in a loop, to show flicker."""

PLAY_PIXELS = 120_000_000
"""Pixels of all pictures of this part together: about 25 MB."""

PLAY_QUALITY = 85
"""JPEG quality of this part: far above what flickers."""


def write_page(sources: Sources, options: CompareOptions, path: Path, report: Progress) -> RenderResult:
    """Write the page, one moment after the other.

    Raises:
        UsageError: a time or a frame is outside of the clip.
        InputError: a file cannot be read, or has another size than the others.
        OutputError: the file cannot be written.
    """
    num_frames = len(options.times) or len(options.frames) or options.num_frames or NUM_FRAMES
    planned = num_frames if sources.clips else 1
    head, tail = _template().split("@@MOMENTS@@")
    labels: tuple[str, ...] = ()
    height = width = count = pixels = 0
    shown: list[Moment] = []
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file, warnings_once():  # clips may be decoded twice
            for count, moment in enumerate(sources.moments(options, num_frames), start=1):
                if not labels:
                    labels, (height, width) = tuple(panel.label for panel in moment.panels), moment.size
                    pixels = sum(panel.picture.shape[0] * panel.picture.shape[1] for panel in moment.panels)
                    quality = _quality(planned * pixels, options)
                    playing = _play_quality(options) if sources.clips else quality
                    values = _values(labels, height, width, quality, playing)
                    file.write(_fill(head, values))
                shown.append(replace(moment, panels=()))
                file.writelines(_moment(moment, quality))
                report(CompareProgress(count, planned))
            if sources.clips:
                file.writelines(_run(sources, options, shown, pixels))
            file.write(_fill(tail, values))
        size = path.stat().st_size
    except OSError as exc:
        raise OutputError(f"cannot write the page {options.target}: {exc.strerror}.") from exc
    if size > LARGE_BYTES:
        lower = f"a lower {setting('quality')}"
        fewer = f"fewer {setting('num_frames', flag='--frames')}, {lower} or a shorter {setting('play')}"
        fewer = fewer if sources.clips else lower
        logger.warning("%s is %d MB large; %s would make it smaller.", options.target, size // 1_000_000, fewer)
    return RenderResult(labels, width, height, count)


def _template() -> str:
    return resources.files("vsr.comparison").joinpath("page.html").read_text(encoding="utf-8")


def _quality(pixels: int, options: CompareOptions) -> int | None:
    """Return the JPEG quality of pictures that have so many pixels together; None: PNG."""
    if options.quality is not None:
        return options.quality if isinstance(options.quality, int) else None
    if pixels <= LOSSLESS_PIXELS:
        return None
    logger.warning(
        "%d megapixels make a large page, so its pictures are JPEG of quality %d; %s writes PNG.",
        pixels // 1_000_000, QUALITY, setting("quality", "lossless"),
    )  # fmt: skip
    return QUALITY


def _play_quality(options: CompareOptions) -> int | None:
    return options.quality if isinstance(options.quality, int) else None if options.quality else PLAY_QUALITY


def _values(
    labels: tuple[str, ...], height: int, width: int, quality: int | None, play_quality: int | None
) -> dict[str, str]:
    names = ["lossless PNG" if each is None else f"JPEG of quality {each}" for each in (quality, play_quality)]
    pictures = names[0] if names[0] == names[1] else f"{names[0]}; what P plays is {names[1]}"
    return {
        "POLICY": _policy(),
        "TITLE": html.escape(f"{' | '.join(labels)} – vsr compare"),
        "WIDTH": str(width),
        "HEIGHT": str(height),
        "NOTE": f"{width}×{height}, {pictures}",
    }


def _fill(template: str, values: dict[str, str]) -> str:
    return re.sub("@@([A-Z]+)@@", lambda found: values[found[1]], template)


def _policy() -> str:
    """Return the content security policy: run the one script, apply the one style, show the pictures in the page."""
    template = _template()
    allowed = {}
    for tag in ("script", "style"):
        content = template.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        allowed[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; script-src 'sha256-{allowed['script']}'; "
        f"style-src 'sha256-{allowed['style']}'; base-uri 'none'; form-action 'none'"
    )


def _moment(moment: Moment, quality: int | None) -> Iterator[str]:
    roles = [panel.role for panel in moment.panels]
    # At first the page shows the first candidate with interpolated LR, else with the next one, else with LR or HR.
    candidates = [number for number, role in enumerate(roles) if role == "candidate"]
    first = candidates[:2]
    if "bicubic" in roles or len(candidates) == 1:
        first = [candidates[0] - 1, candidates[0]] if candidates[0] else [0, 1]
    yield f'<div class="moment" data-caption="{html.escape(moment.caption)}" data-first="{first[0]} {first[1]}">\n'
    for panel in moment.panels:
        yield _image(panel, quality)
    yield "</div>\n"


def _run(sources: Sources, options: CompareOptions, shown: Sequence[Moment], pixels: int) -> Iterator[str]:
    """Yield the successive frames that the page plays in a loop; nothing if there is no second frame.

    They begin at the first moment that was chosen; of moments at even spacing at one that puts them in the middle of
    the clip.

    Args:
        sources: the clips.
        options: the options.
        shown: the moments of the page.
        pixels: number of pixels of a moment's pictures.
    """
    seconds = PLAY_SECONDS if options.play is None else options.play
    begin = shown[0]
    if not (options.times or options.frames):
        in_run = seconds / float(begin.duration_seconds) if begin.duration_seconds else 0
        middle = (sources.num_frames_estimated - in_run) / 2
        begin = max((moment for moment in shown if (moment.frame or 0) <= middle), key=_number, default=begin)
    quality = _play_quality(options)
    most = max(2, PLAY_PIXELS // pixels)
    pieces: list[str] = []
    number = 0
    for number, moment in enumerate(sources.following(begin, seconds, most + 1), start=1):
        if number > most:
            logger.warning("P plays %d frames, since more of this size would make a large page.", most)
            break
        caption, milliseconds = html.escape(moment.caption), f"{float(1000 * moment.duration_seconds):.3f}"
        pieces.append(f'<div class="frame" data-caption="{caption}" data-milliseconds="{milliseconds}">\n')
        pieces += [_image(panel, quality) for panel in moment.panels]
        pieces.append("</div>\n")
        if number > 1:  # a single frame cannot be played
            yield from pieces
            pieces = []


def _number(moment: Moment) -> int:
    return moment.frame or 0


def _image(panel: Panel, quality: int | None) -> str:
    kind = "png" if quality is None or panel.factor > 1 else "jpeg"  # LR is small, and always magnified
    encoded = base64.b64encode(_encode(panel.picture, quality if kind == "jpeg" else None)).decode()
    attribute = ' class="lr"' if panel.factor > 1 else ""
    return f'<img alt="{html.escape(panel.label)}"{attribute} src="data:image/{kind};base64,{encoded}">\n'


def _encode(picture: Picture, quality: int | None) -> bytes:
    if quality is None:
        bgr = np.ascontiguousarray(picture[..., ::-1])
        return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes()
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)  # 4:4:4
    return file.getvalue()
