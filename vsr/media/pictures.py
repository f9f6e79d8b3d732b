"""Picture files as clips: file names and patterns, sequences in and out, and animated WebP."""

from __future__ import annotations

import glob
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from math import gcd
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from vsr.errors import InputError, UsageError, is_out_of_memory, setting
from vsr.files import MAX_PIXELS
from vsr.imaging.colour import PixelLayout
from vsr.imaging.pictures import STILL_ENDINGS, Still, holds, read_still, write_still
from vsr.media.clip import FULL, UNSPECIFIED, ClipInfo, ColourTags, VideoInfo
from vsr.media.formats import Timing
from vsr.media.reader import Frame

PATTERN = re.compile(r"%(0?\d{1,2})?d")
"""The place of the number in a pattern such as ``frames/%06d.png``."""


def is_picture_name(path: Path) -> bool:
    """Whether a name has the suffix of a still picture."""
    return path.suffix.lower() in STILL_ENDINGS


def is_pattern(path: Path) -> bool:
    """Whether a name is a pattern with a number."""
    return PATTERN.search(path.name) is not None


def pictures_of(source: Path) -> list[Path] | None:
    """Return the pictures of a folder or a pattern, in order; None where ``source`` names a single file.

    A pattern is a glob, such as ``frames/*.png``, or has a number, such as ``frames/%04d.png``, which matches numbers
    formatted like that. An existing file with the name of the pattern is preferred. Hidden files are skipped.

    Raises:
        InputError: there are no pictures.
    """
    if source.is_dir():
        if not (found := find_pictures(source)):
            raise InputError(f"the folder {source} holds no pictures.")
        return found
    return files_named(source) if names_many_files(source) else None


def names_many_files(source: Path) -> bool:
    """Whether a name is a pattern and not an existing file."""
    return not source.exists() and (glob.has_magic(str(source)) or is_pattern(source))


def files_named(pattern: Path, *, recursive: bool = False) -> list[Path]:
    """Return the files that match a pattern (see ``pictures_of``), in order.

    Args:
        pattern: a glob, or a name with a number.
        recursive: let ``**`` match nested folders.

    Raises:
        InputError: no file matches.
    """
    if is_pattern(pattern) and not glob.has_magic(pattern.name):
        numbers = {path: int(match[1]) for path, match in _with_numbers(pattern)}
        found = [path for path in sorted(numbers, key=numbers.__getitem__) if numbered(pattern, numbers[path]) == path]
    else:
        found = sorted(map(Path, glob.glob(str(pattern), recursive=recursive)), key=natural_order)
    if not found:
        raise InputError(f"no file matches {pattern}.")
    return found


def missing_numbers(pictures: Sequence[Path]) -> str:
    """Describe gaps in the numbers of pictures whose names differ only in one number; empty where there are none.

    Numbers in equal steps of more than one have no gaps.
    """
    split = [re.split(r"(\d+)", path.name) for path in pictures]
    places = {place for parts in split for place, (part, first) in enumerate(zip(parts, split[0], strict=False))
              if part != first}  # fmt: skip
    if len(places) != 1 or any(len(parts) != len(split[0]) for parts in split) or (place := places.pop()) % 2 == 0:
        return ""
    numbers = sorted({int(parts[place]) for parts in split})
    steps = [after - before for before, after in pairwise(numbers)]
    step = gcd(*steps)
    first = next((before + step for before, gap in zip(numbers, steps, strict=False) if gap > step), None)
    if first is None:
        return ""
    count = (numbers[-1] - numbers[0]) // step + 1 - len(numbers)
    name = "".join([*split[0][:place], str(first).zfill(len(split[0][place])), *split[0][place + 1 :]])
    return f"{name} is missing." if count == 1 else f"{count} numbers are missing, the first in {name}."


def find_pictures(folder: Path) -> list[Path]:
    """Return the still pictures of a folder, without subfolders, in the natural order of their names.

    Hidden files are skipped, such as those that macOS creates.
    """
    try:
        found = [path for path in folder.iterdir()
                 if is_picture_name(path) and not path.name.startswith(".") and path.is_file()]  # fmt: skip
    except OSError as exc:
        raise InputError(f"cannot read the folder {folder}: {exc.strerror}.") from exc
    return sorted(found, key=natural_order)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts ``frame2`` before ``frame10``."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def probe_pictures(
    pictures: Sequence[Path], source: Path, *, fps: Fraction = Fraction(25), max_pixels: int = MAX_PIXELS
) -> ClipInfo:
    """Return the clip of a sequence of pictures, with the size and depth of the first one.

    Args:
        pictures: the files in order; at least one.
        source: the name of the sequence in messages.
        fps: frames per second.
        max_pixels: as for ``read_still``.

    Raises:
        InputError: the first picture cannot be read.
    """
    first = read_still(pictures[0], max_pixels=max_pixels)
    grey = first.is_grey and not first.has_alpha
    kind = "gray" if grey else "gbrap" if first.has_alpha else "gbrp"
    video = VideoInfo(
        index=0,
        codec=pictures[0].suffix.lower().lstrip("."),
        width=first.width,
        height=first.height,
        pix_fmt=kind + ("16le" if first.bit_depth == 16 else ""),
        time_base=1 / fps,
        average_rate=fps,
        num_frames_estimated=len(pictures),
        sample_aspect_ratio=None,
        tags=ColourTags(range=FULL, matrix=UNSPECIFIED if grey else 0),
        duration=len(pictures),
    )
    return ClipInfo(source, video, (), pictures=tuple(pictures), icc=first.icc)


def read_pictures(
    clip: ClipInfo, *, start: int | None = None, end: int | None = None, max_pixels: int = MAX_PIXELS
) -> Generator[Frame, None, None]:
    """Read the pictures as frames, in the layout of the clip's pixel format; picture n has timestamp n.

    Raises:
        InputError: a picture cannot be read, or differs in size, depth, colour or alpha from the first.
    """
    video = clip.video
    for number in range(start or 0, min(len(clip.pictures), len(clip.pictures) if end is None else end)):
        path = clip.pictures[number]
        still = read_still(path, max_pixels=max_pixels)
        if (still.width, still.height) != (video.width, video.height):
            raise InputError(
                f"{path} is {still.width}x{still.height}, the first picture {video.width}x{video.height}: "
                "all pictures of a sequence must have the same size."
            )
        yield Frame(_convert_planes(still, video.pix_fmt, path), number, 1)


def _convert_planes(still: Still, pix_fmt: str, path: Path) -> tuple[np.ndarray, ...]:
    """Convert a picture to the pixel format of the sequence; refuse one with more bits, colour or alpha."""
    planes = list(still.planes)
    alpha = planes.pop() if still.has_alpha else None
    deep = pix_fmt.endswith("16le")
    if (still.bit_depth == 16 and not deep) or (alpha is not None and "a" not in pix_fmt.removeprefix("gra")):
        raise InputError(f"{path} has more bits or an alpha channel, unlike the first picture; process it separately.")
    if pix_fmt.startswith("gray") and not still.is_grey:
        raise InputError(f"{path} has colours, unlike the first picture; process it separately.")
    if pix_fmt.startswith("gb") and still.is_grey:
        planes = planes * 3
    if pix_fmt.startswith("gbrap"):
        planes.append(np.full_like(planes[0], np.iinfo(planes[0].dtype).max) if alpha is None else alpha)
    return tuple(plane.astype(np.uint16) * 257 if deep and plane.dtype == np.uint8 else plane for plane in planes)


def picture_format(source: PixelLayout, target: Path) -> str:
    """Return libav's name of the pixel format in which a picture file stores frames best.

    Raises:
        UsageError: the suffix is unknown.
    """
    if not is_picture_name(target):
        raise UsageError(f"cannot write {target}: pictures end in {', '.join(sorted(STILL_ENDINGS))}.")
    depth, alpha = holds(target)
    kind = "gray" if source.kind == "grey" else "gbrap" if source.alpha and alpha else "gbrp"
    return kind + ("16le" if source.bit_depth > 8 and depth > 8 else "")


class PictureWriter:
    """Write frames as pictures into a folder, from which they can be moved to their final names.

    Args:
        folder: the temporary folder; ``written_pictures`` returns the files in it.
        target: the final name, or the pattern of the names.
        layout: the layout of the planes, for the format of ``picture_format``.
        icc: a colour profile to write into each picture.
        comment: text for the metadata of each picture.
    """

    def __init__(self, folder: Path, target: Path, layout: PixelLayout, icc: bytes | None, comment: str = "") -> None:
        self._comment = comment
        self._folder, self._target, self._layout, self._icc = folder, target, layout, icc
        self.packets: list[Timing] = []
        """The times of the pictures that were written."""

    def write(self, frame: Frame) -> None:
        """Write one frame.

        Raises:
            UsageError: this is the second frame, and the target is not a pattern.
            OutputError: the file cannot be written.
        """
        layout = self._layout
        number = len(self.packets) + 1
        if number > 1 and not is_pattern(self._target):
            raise single_name_error(self._target)
        path = _temporary_path(self._folder, self._target, number)
        still = Still(frame.planes, layout.kind == "grey", layout.alpha, 16 if layout.bit_depth > 8 else 8, self._icc)
        write_still(path, still, self._comment)
        self.packets.append(Timing(frame.pts, frame.duration))

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing, since no file stays open."""


def _temporary_path(folder: Path, target: Path, number: int) -> Path:
    return folder / f"{number:08}{target.suffix}"


def written_pictures(folder: Path, target: Path, count: int) -> list[Path]:
    """Return the first ``count`` files that a ``PictureWriter`` wrote."""
    return [_temporary_path(folder, target, number) for number in range(1, count + 1)]


def single_name_error(target: Path) -> UsageError:
    """Return the error for several frames with a single output name."""
    return UsageError(
        f"{target} is one picture, and there are more frames; name a pattern such as %06d{target.suffix}."
    )


def numbered(target: Path, number: int) -> Path:
    """Put a number into a pattern: ``frames/%06d.png`` and 7 give ``frames/000007.png``."""
    found = PATTERN.search(target.name)
    if found is None:
        return target
    return target.with_name(target.name[: found.start()] + found[0] % number + target.name[found.end() :])


def existing(target: Path) -> Iterable[Path]:
    """Return the existing files that a name or a pattern matches."""
    if not is_pattern(target):
        return [path for path in [target] if path.exists()]
    return (path for path, _ in _with_numbers(target))


def _with_numbers(pattern: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """Yield the files with digits at the place of the pattern's number, each with the match whose group 1 they are."""
    found = PATTERN.search(pattern.name)
    assert found is not None
    name = re.compile(re.escape(pattern.name[: found.start()]) + r"(\d+)" + re.escape(pattern.name[found.end() :]))
    for path in pattern.parent.iterdir() if pattern.parent.is_dir() else ():
        if match := name.fullmatch(path.name):
            yield path, match


ANIMATION_FORMAT = "webp-animation"
"""``ClipInfo.format`` of an animated WebP."""

MILLISECONDS = Fraction(1, 1000)


def probe_animation(path: Path, *, max_pixels: int = MAX_PIXELS) -> ClipInfo:
    """Return the clip of an animated WebP.

    Raises:
        InputError: the file cannot be read, or is too large.
    """
    with _open_animation(path) as image:
        if image.width * image.height > max_pixels:
            raise InputError(
                f"{path} has frames of {image.width}x{image.height}, more than {max_pixels} pixels; "
                f"{setting('max_pixels')} raises the limit."
            )
        video = VideoInfo(
            index=0, codec="webp", width=image.width, height=image.height, pix_fmt="gbrap", time_base=MILLISECONDS,
            average_rate=None, num_frames_estimated=getattr(image, "n_frames", None), sample_aspect_ratio=None,
            tags=ColourTags(range=FULL, matrix=0),
        )  # fmt: skip
        return ClipInfo(path, video, (), format=ANIMATION_FORMAT, pictures=(path,), icc=image.info.get("icc_profile"))


def read_animation(clip: ClipInfo, *, start: int | None = None, end: int | None = None) -> Generator[Frame, None, None]:
    """Read the frames as gbrap planes, with the timestamps of the file in milliseconds.

    Raises:
        InputError: the file is damaged.
    """
    with _open_animation(clip.path) as image:
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
def _open_animation(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            yield image
    except UnidentifiedImageError as exc:
        raise InputError(f"{path} is not an animation that can be read.") from exc
    except (OSError, EOFError, ValueError) as exc:
        if is_out_of_memory(exc):
            raise
        raise InputError(f"{path} is a damaged animation: {exc}.") from exc
