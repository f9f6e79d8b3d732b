"""Animated WebP as a clip, by Pillow: libav decodes no such file yet."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from vsr.errors import InputError, is_out_of_memory
from vsr.media.clip import FULL, ClipInfo, ColourTags, VideoInfo
from vsr.media.limits import MAX_PIXELS
from vsr.media.reader import Frame

FORMAT = "webp-animation"
"""What such a clip says of its format."""

MILLISECONDS = Fraction(1, 1000)


def probe_animation(path: Path, *, max_pixels: int = MAX_PIXELS) -> ClipInfo:
    """What an animated WebP holds.

    Raises:
        InputError: it cannot be read, or is too large.
    """
    with _opened(path) as image:
        if image.width * image.height > max_pixels:
            raise InputError(
                f"{path} says that its frames are {image.width}x{image.height}, more than {max_pixels} pixels; "
                "--max-pixels lifts the limit."
            )
        video = VideoInfo(
            index=0, codec="webp", width=image.width, height=image.height, pix_fmt="gbrap", time_base=MILLISECONDS,
            average_rate=None, num_frames_estimated=getattr(image, "n_frames", None), sample_aspect_ratio=None,
            tags=ColourTags(range=FULL, matrix=0),
        )  # fmt: skip
        return ClipInfo(path, video, (), format=FORMAT, pictures=(path,), icc=image.info.get("icc_profile"))


def read_animation(clip: ClipInfo, *, start: int | None = None, end: int | None = None) -> Generator[Frame, None, None]:
    """The frames, as planes of gbrap at the times that the file states, in milliseconds.

    Raises:
        InputError: the file is damaged.
    """
    with _opened(clip.path) as image:
        pts = 0
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            rgba = np.asarray(image.convert("RGBA"))
            duration = int(image.info.get("duration", 0))
            if end is not None and pts >= end:
                return
            if start is None or pts >= start:
                yield Frame(tuple(np.ascontiguousarray(rgba[..., plane]) for plane in (1, 2, 0, 3)), pts, duration)
            pts += max(1, duration)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            yield image
    except UnidentifiedImageError as exc:
        raise InputError(f"{path} is not an animation that can be read.") from exc
    except (OSError, EOFError, ValueError) as exc:
        if is_out_of_memory(exc):
            raise
        raise InputError(f"{path} is a damaged animation: {exc}.") from exc
