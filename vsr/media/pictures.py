"""Pictures as a clip: one, a sequence of them, in and out, or an animated WebP, which libav does not decode."""

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

from vsr.errors import InputError, UsageError, is_out_of_memory
from vsr.files import MAX_PIXELS
from vsr.imaging.colour import PixelLayout
from vsr.imaging.pictures import STILL_ENDINGS, Still, holds, read_still, write_still
from vsr.media.clip import FULL, UNSPECIFIED, ClipInfo, ColourTags, VideoInfo
from vsr.media.formats import Timing
from vsr.media.reader import Frame

PATTERN = re.compile(r"%(0?\d{1,2})?d")
"""Where a name has its number: ``frames/%06d.png``."""


def is_picture_name(path: Path) -> bool:
    """Whether a name ends like that of a still picture."""
    return path.suffix.lower() in STILL_ENDINGS


def is_pattern(path: Path) -> bool:
    """Whether a name stands for many pictures."""
    return PATTERN.search(path.name) is not None


def pictures_of(source: Path) -> list[Path] | None:
    """The pictures that a name stands for, in their order: a folder, or a pattern; None: it is the name of one file.

    A pattern is one of the shell's, such as ``frames/*.png``, or has a number, such as ``frames/%04d.png``: it stands
    for the files whose numbers are written so. A file of just that name comes first. Hidden files are passed over.

    Raises:
        InputError: there are none.
    """
    if source.is_dir():
        if not (found := find_pictures(source)):
            raise InputError(f"the folder {source} holds no pictures.")
        return found
    return files_named(source) if names_many_files(source) else None


def names_many_files(source: Path) -> bool:
    """Whether a name is a pattern of inputs, and not that of a file."""
    return not source.exists() and (glob.has_magic(str(source)) or is_pattern(source))


def files_named(pattern: Path, *, recursive: bool = False) -> list[Path]:
    """The files that a pattern stands for, as ``pictures_of`` says.

    Args:
        pattern: one of the shell's, or a name with a number.
        recursive: let ``**`` stand for folders within folders.

    Raises:
        InputError: there are none.
    """
    if is_pattern(pattern) and not glob.has_magic(pattern.name):
        numbers = {path: int(match[1]) for path, match in _with_numbers(pattern)}
        found = [path for path in sorted(numbers, key=numbers.__getitem__) if numbered(pattern, numbers[path]) == path]
    else:
        found = sorted(map(Path, glob.glob(str(pattern), recursive=recursive)), key=natural_order)
    if not found:
        raise InputError(f"no file is called {pattern}.")
    return found


def missing_numbers(pictures: Sequence[Path]) -> str:
    """What numbers are left out, where names differ in one number alone; in words, empty where none are.

    Steps of more than one are none left out, if all are multiples of the same.
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
    """The still pictures of a folder, not of those in it, by their names, numbers in them as numbers.

    Hidden files are passed over, as those that macOS puts beside others.
    """
    try:
        found = [path for path in folder.iterdir()
                 if is_picture_name(path) and not path.name.startswith(".") and path.is_file()]  # fmt: skip
    except OSError as exc:
        raise InputError(f"cannot read the folder {folder}: {exc.strerror}.") from exc
    return sorted(found, key=natural_order)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A key that sorts ``frame2`` before ``frame10``."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def probe_pictures(
    pictures: Sequence[Path], source: Path, *, fps: Fraction = Fraction(25), max_pixels: int = MAX_PIXELS
) -> ClipInfo:
    """What a sequence of pictures is as a clip; the first one decides its size and depth.

    Args:
        pictures: the files, in their order; at least one.
        source: what messages call them.
        fps: frames a second.
        max_pixels: as ``read_still``.

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
    """The pictures as frames, in the layout of the clip's pixel format; picture n is shown at tick n.

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
                "pictures of one sequence have one size."
            )
        yield Frame(_as(video.pix_fmt, still, path), number, 1)


def _as(pix_fmt: str, still: Still, path: Path) -> tuple[np.ndarray, ...]:
    """Planes in the pixel format of the sequence: pictures of less find a place in it, those of more do not."""
    planes = list(still.planes)
    alpha = planes.pop() if still.has_alpha else None
    deep = pix_fmt.endswith("16le")
    if (still.bit_depth == 16 and not deep) or (alpha is not None and "a" not in pix_fmt.removeprefix("gra")):
        raise InputError(f"{path} has more bits or an alpha channel, unlike the first picture; sort them apart.")
    if pix_fmt.startswith("gray") and not still.is_grey:
        raise InputError(f"{path} has colours, unlike the first picture; sort them apart.")
    if pix_fmt.startswith("gb") and still.is_grey:
        planes = planes * 3
    if pix_fmt.startswith("gbrap"):
        planes.append(np.full_like(planes[0], np.iinfo(planes[0].dtype).max) if alpha is None else alpha)
    return tuple(plane.astype(np.uint16) * 257 if deep and plane.dtype == np.uint8 else plane for plane in planes)


def picture_format(source: PixelLayout, target: Path) -> str:
    """The pixel format in which a picture file holds frames best, by libav's name.

    Raises:
        UsageError: no known ending.
    """
    if not is_picture_name(target):
        raise UsageError(f"cannot write {target}: pictures end in {', '.join(sorted(STILL_ENDINGS))}.")
    depth, alpha = holds(target)
    kind = "gray" if source.kind == "grey" else "gbrap" if source.alpha and alpha else "gbrp"
    return kind + ("16le" if source.bit_depth > 8 and depth > 8 else "")


class PictureWriter:
    """Writes frames as pictures into a folder, from where they can be moved to their names.

    Args:
        folder: where they lie until they are complete; ``written_pictures`` finds them there.
        target: the name that they are to have, or the pattern of their names.
        layout: of the planes that are written, as ``picture_format`` says.
        icc: a colour profile to write into each.
    """

    def __init__(self, folder: Path, target: Path, layout: PixelLayout, icc: bytes | None) -> None:
        self._folder, self._target, self._layout, self._icc = folder, target, layout, icc
        self.packets: list[Timing] = []
        """When each is shown, and for how long."""

    def write(self, frame: Frame) -> None:
        """Write one frame.

        Raises:
            UsageError: a second frame, and one name for all.
            OutputError: the file cannot be written.
        """
        layout = self._layout
        number = len(self.packets) + 1
        if number > 1 and not is_pattern(self._target):
            raise one_name_for_many(self._target)
        path = _unpublished(self._folder, self._target, number)
        still = Still(frame.planes, layout.kind == "grey", layout.alpha, 16 if layout.bit_depth > 8 else 8, self._icc)
        write_still(path, still)
        self.packets.append(Timing(frame.pts, frame.duration))

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing stays open."""


def _unpublished(folder: Path, target: Path, number: int) -> Path:
    return folder / f"{number:08}{target.suffix}"


def written_pictures(folder: Path, target: Path, count: int) -> list[Path]:
    """The first files that a ``PictureWriter`` wrote."""
    return [_unpublished(folder, target, number) for number in range(1, count + 1)]


def one_name_for_many(target: Path) -> UsageError:
    """What to say where there are several frames, but no pattern."""
    return UsageError(
        f"{target} is one picture, and there are more frames; name a pattern such as %06d{target.suffix}."
    )


def numbered(target: Path, number: int) -> Path:
    """``frames/%06d.png`` and 7 -> ``frames/000007.png``; a name without a pattern stays."""
    found = PATTERN.search(target.name)
    if found is None:
        return target
    return target.with_name(target.name[: found.start()] + found[0] % number + target.name[found.end() :])


def existing(target: Path) -> Iterable[Path]:
    """Files that a name stands for already, or those that a pattern's numbers do."""
    if not is_pattern(target):
        return [path for path in [target] if path.exists()]
    return (path for path, _ in _with_numbers(target))


def _with_numbers(pattern: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """The files that have digits where a pattern has its number, and the match whose group they are."""
    found = PATTERN.search(pattern.name)
    assert found is not None
    name = re.compile(re.escape(pattern.name[: found.start()]) + r"(\d+)" + re.escape(pattern.name[found.end() :]))
    for path in pattern.parent.iterdir() if pattern.parent.is_dir() else ():
        if match := name.fullmatch(path.name):
            yield path, match


ANIMATION_FORMAT = "webp-animation"
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
        return ClipInfo(path, video, (), format=ANIMATION_FORMAT, pictures=(path,), icc=image.info.get("icc_profile"))


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
