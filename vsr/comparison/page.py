"""Write panels into one HTML file with a slider, which opens from disk and loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import logging
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vsr.comparison.options import CompareOptions, CompareProgress, Progress, RenderResult
from vsr.comparison.sources import Moment, Panel, Sources
from vsr.errors import OutputError, setting
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
    height = width = count = 0
    try:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for count, moment in enumerate(sources.moments(options, num_frames), start=1):
                if not labels:
                    labels, (height, width) = tuple(panel.label for panel in moment.panels), moment.size
                    quality = _quality(moment, options, planned)
                    values = _values(labels, height, width, quality)
                    file.write(_fill(head, values))
                for piece in _moment(moment, quality):
                    file.write(piece)
                report(CompareProgress(count, planned))
            file.write(_fill(tail, values))
        size = path.stat().st_size
    except OSError as exc:
        raise OutputError(f"cannot write the page {options.target}: {exc.strerror}.") from exc
    if size > LARGE_BYTES:
        lower = f"a lower {setting('quality')}"
        fewer = f"fewer {setting('num_frames', flag='--frames')} or {lower}" if sources.clips else lower
        logger.warning("%s is %d MB large; %s would make it smaller.", options.target, size // 1_000_000, fewer)
    return RenderResult(labels, width, height, count)


def _template() -> str:
    return resources.files("vsr.comparison").joinpath("page.html").read_text(encoding="utf-8")


def _quality(moment: Moment, options: CompareOptions, planned: int) -> int | None:
    """Return the JPEG quality of the pictures; None: PNG."""
    if options.quality is not None:
        return options.quality if isinstance(options.quality, int) else None
    pixels = planned * sum(panel.picture.shape[0] * panel.picture.shape[1] for panel in moment.panels)
    if pixels <= LOSSLESS_PIXELS:
        return None
    logger.warning(
        "%d megapixels make a large page, so its pictures are JPEG of quality %d; %s writes PNG.",
        pixels // 1_000_000, QUALITY, setting("quality", "lossless"),
    )  # fmt: skip
    return QUALITY


def _values(labels: tuple[str, ...], height: int, width: int, quality: int | None) -> dict[str, str]:
    pictures = "lossless PNG" if quality is None else f"JPEG of quality {quality}"
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
    # At first the page shows the first candidate with the next one, or else with interpolated LR, or else with HR.
    candidates = [number for number, role in enumerate(roles) if role == "candidate"]
    first = candidates[:2] if len(candidates) > 1 else [candidates[0] - 1, candidates[0]]
    first = first if first[0] >= 0 else [0, 1]
    caption = html.escape(moment.caption)
    yield f'<div class="moment" data-caption="{caption}" data-first="{first[0]} {first[1]}">\n'
    for panel in moment.panels:
        yield _image(panel, quality)
    yield "</div>\n"


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
