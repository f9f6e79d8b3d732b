"""Where training pictures and videos lie, and how large the pictures are.

Pictures lie in folders and zip archives, which are read in place, some in the layouts of COCO and CelebA; videos lie in
folders.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile, ZipInfo

from vsr.errors import InputError, TrainingDataError
from vsr.media.images import ENDINGS, Stored
from vsr.media.images import PictureFile as PictureFile
from vsr.media.opening import files_only

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of pictures done and of all."""

_LARGEST_LIST = 64 << 20
"""Bytes of a list of parts; CelebA's has four million."""

_NAMED = 5
"""Pictures left out for one reason that are named; the others are counted."""


@dataclass(frozen=True)
class Found:
    """What the sources hold, each in the order of the sources, then of the names."""

    training: list[PictureFile]
    validation: list[PictureFile]
    """What the layout sets aside for that; empty where it sets nothing aside."""
    layout: str
    """``COCO``, ``CelebA``, ``pictures``, ``videos``, or several of them with commas."""
    videos: list[Path] = field(default_factory=list)
    """Video files, where they are wanted."""


def find_pictures(sources: Sequence[Path], *, videos: bool = False) -> Found:
    """The pictures among ``sources``: files, zip archives, and folders, which are searched through with their archives.

    In the layout of COCO (folders train2014 or train2017 beside val2014 or val2017) and of CelebA (img_align_celeba
    with list_eval_partition) training and validation are told apart, and the pictures for tests left out. Without that
    all are for training. Hidden files, ``__MACOSX`` and repeats are left out.

    Args:
        sources: files, archives and folders.
        videos: whether to find video files as well, but in archives; a source may then hold videos alone.

    Raises:
        TrainingDataError: a source does not exist or holds nothing wanted; an archive is damaged or encrypted.
    """
    training: list[PictureFile] = []
    validation: list[PictureFile] = []
    layouts: list[str] = []
    clips: dict[str, Path] = {}
    seen: set[str] = set()
    for source in sources:
        files = sorted(_listing(source), key=lambda file: file.relative.split("/"))
        found_clips = list(_videos(source)) if videos else []
        if not files and not found_clips:
            kinds = "pictures and no videos" if videos else "pictures"
            endings = ", ".join(sorted(ENDINGS | _video_endings() if videos else ENDINGS))
            raise TrainingDataError(f"no {kinds} in {source}: looked for {endings}, in all subfolders and archives.")
        for path in found_clips:
            clips.setdefault(os.path.realpath(path), path)
        split = _split(files)
        training += _unseen(split.training, seen)
        validation += _unseen(split.validation, seen)
        layouts += split.layout.split(", ")
    layouts += ["videos"] * bool(clips)
    found = Found(training, validation, ", ".join(dict.fromkeys(filter(None, layouts))), list(clips.values()))
    if not training and not clips:
        names = ", ".join(map(str, sources))
        raise TrainingDataError(f"{names} in the layout of {found.layout}: none of the pictures are for training.")
    return found


def _unseen(files: Sequence[PictureFile], seen: set[str]) -> list[PictureFile]:
    """The files that are not in ``seen``, which takes them up."""
    folders: dict[Path, str] = {}
    unseen = []
    for file in files:
        folder = file.path.parent
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        identity = f"{folders[folder]}/{file.path.name}/{file.member}"
        if identity not in seen:
            seen.add(identity)
            unseen.append(file)
    return unseen


def usable_pictures(
    files: Sequence[PictureFile], *, min_size: int, workers: int, progress: Progress | None = None
) -> tuple[dict[PictureFile, tuple[int, int]], Counter[str]]:
    """The pictures that are large enough, by their headers alone; the first of the others are warned of by name.

    Args:
        files: the pictures.
        min_size: least length of either edge in pixels.
        workers: threads that read headers.
        progress: called with the number of pictures done and of all.

    Returns:
        (height, width) of each usable picture in order, and how many are "damaged" or "too small".

    Raises:
        TrainingDataError: none are usable.
    """
    usable, left_out, largest = {}, Counter[str](), (0, 0)
    for file, size in zip(files, _read_sizes(files, workers, progress), strict=True):
        if isinstance(size, InputError):
            why, words = "damaged", str(size)
        elif min(size) < min_size:
            why, words = "too small", f"{file.name} is {size[1]}x{size[0]}, smaller than {min_size}"
            largest = max(largest, size, key=lambda size: (min(size), max(size)))
        else:
            usable[file] = size
            continue
        left_out[why] += 1
        if left_out[why] <= _NAMED:
            logger.warning("left out: %s", words)
    counts = ", ".join(f"{count} {why}" for why, count in sorted(left_out.items()))
    if not usable:
        smaller = f"; the largest of these is {largest[1]}x{largest[0]}, so choose a smaller --crop-size" * any(largest)
        raise TrainingDataError(f"none of the {len(files)} pictures can be used: {counts}{smaller}.")
    if left_out:
        logger.warning("left out %d of %d pictures: %s", left_out.total(), len(files), counts)
    return usable, left_out


def _read_sizes(
    files: Sequence[PictureFile], workers: int, progress: Progress | None
) -> Iterator[tuple[int, int] | InputError]:
    def read(file: PictureFile) -> tuple[int, int] | InputError:
        try:
            return file.size()
        except InputError as exc:
            return exc

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(files), 256):  # a chunk at a time, so that an interrupt ends it soon
            chunk = files[start : start + 256]
            yield from pool.map(read, chunk)
            if progress is not None:
                progress(start + len(chunk), len(files))


def _listing(source: Path) -> Iterator[PictureFile]:
    if source.is_dir():
        yield from _in_folder(source)
    elif not source.exists():
        raise TrainingDataError(f"the data {source} does not exist.")
    elif source.suffix.lower() == ".zip":
        for info in _members(source):
            yield _member(source, info, info.filename)
    elif source.suffix.lower() in ENDINGS:
        yield PictureFile(source)


def _videos(source: Path) -> Iterator[Path]:
    """The video files of a source, in the order of their names."""
    endings = _video_endings()
    if not source.is_dir():
        yield from [source] * (source.suffix.lower() in endings)
        return
    found = [Path(here, name) for here, names in _folders(source) for name in names]
    yield from sorted(path for path in found if path.suffix.lower() in endings)


def _video_endings() -> frozenset[str]:
    # Here, so that training on pictures needs no PyAV.
    from vsr.media.containers import VIDEO_ENDINGS

    return VIDEO_ENDINGS - {".gif"}  # of few colours


def _in_folder(folder: Path) -> Iterator[PictureFile]:
    for here, names in _folders(folder):
        below = PurePosixPath(here.relative_to(folder).as_posix())
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if ending in ENDINGS:
                yield PictureFile(here / name, relative=str(below / name))
            elif ending == ".zip":
                yield from _in_packed_folder(here / name, below)


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all below it that are visible, each once, with the names of their visible files."""

    def refuse(error: OSError) -> None:
        raise TrainingDataError(f"cannot read the folder {error.filename}: {error.strerror}.") from error

    visited = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if _is_visible(name))
        yield Path(here), list(filter(_is_visible, names))


def _in_packed_folder(archive: Path, below: PurePosixPath) -> Iterator[PictureFile]:
    """The pictures of an archive that lies in a folder, named as if it were unpacked there."""
    members = _members(archive)
    if not members:
        return
    first = members[0].filename
    if (archive.parent / first).exists() or (archive.parent / archive.stem / first).exists():
        logger.info("left out: %s, which is unpacked beside it", archive)
        return
    if {info.filename.split("/")[0] for info in members} != {archive.stem}:
        below = below / archive.stem
    for info in members:
        yield _member(archive, info, str(below / info.filename))


def _members(archive: Path) -> list[ZipInfo]:
    """The pictures of an archive."""
    try:
        with open(archive, "rb", opener=files_only) as file, ZipFile(file) as opened:
            infos = {info.filename: info for info in opened.infolist()}
    except OSError as exc:
        raise TrainingDataError(f"cannot read {archive}: {exc.strerror}.") from exc
    except (BadZipFile, NotImplementedError, struct.error) as exc:
        raise TrainingDataError(f"{archive} is no zip archive, or a damaged one: fetch it again or remove it.") from exc
    pictures = [
        info
        for name, info in infos.items()
        if os.path.splitext(name)[1].lower() in ENDINGS and all(map(_is_visible, name.split("/")))
    ]
    if any(info.flag_bits & 1 for info in pictures):
        raise TrainingDataError(f"{archive} is encrypted: unpack it, and name the folder instead.")
    return pictures


def _member(archive: Path, info: ZipInfo, relative: str) -> PictureFile:
    return PictureFile(archive, info.filename, relative, Stored.of(info))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


class _Parts(NamedTuple):
    """The pictures of a source as a layout sees them."""

    train: list[PictureFile]
    validate: list[PictureFile]
    others: list[PictureFile]
    """Outside of the layout."""


def _split(files: Sequence[PictureFile]) -> Found:
    """The pictures of one source by the layouts in it, which may lie side by side."""
    split = Found([], [], "")
    layouts = []
    others = list(files)
    for name, layout in (("COCO", _coco), ("CelebA", _celeba)):
        parts = layout(others)
        split.training.extend(parts.train)
        split.validation.extend(parts.validate)
        if len(parts.others) < len(others):
            layouts.append(name)
            left_out = len(others) - sum(map(len, parts))
            counts = (len(parts.train), len(parts.validate), left_out)
            logger.info(f"{name}: %d pictures for training, %d for validation, %d left out", *counts)
        others = parts.others
    layouts += ["pictures"] if others else []
    return Found(split.training + others, split.validation, ", ".join(layouts))


_COCO_PART = re.compile(r"((?:.*?/)??)(train|val|test|unlabeled)20(?:14|15|17)/")


def _coco(files: Sequence[PictureFile]) -> _Parts:
    parts: dict[str, set[str]] = {}
    matches = [_COCO_PART.match(file.relative) for file in files]
    for found in filter(None, matches):
        parts.setdefault(found[1], set()).add(found[2])
    # All in the scope of a home belongs to COCO: masks, as in stuffthingmaps/train2017, are PNG files as well.
    scopes = {home: home.removesuffix("images/") for home, names in parts.items() if {"train", "val"} <= names}
    homes: dict[str, str] = {}
    for home, scope in sorted(scopes.items(), key=lambda pair: (len(pair[1]), len(pair[0]))):
        if not scope.startswith(tuple(homes)):
            homes[scope] = home
    split = _Parts([], [], [])
    for file, match in zip(files, matches, strict=True):
        if match and match[1] in homes.values() and match[2] in ("train", "val"):
            (split.train if match[2] == "train" else split.validate).append(file)
        elif not file.relative.startswith(tuple(homes)):
            split.others.append(file)
    return split


_CELEBA_FOLDERS = ("img_align_celeba", "img_align_celeba_png")
_CELEBA_ARCHIVES = (*_CELEBA_FOLDERS, "celeba")
_PARTITIONS = tuple(f"{folder}list_eval_partition.{ending}" for folder in ("", "Eval/") for ending in ("txt", "csv"))
"""Where torchvision has it, where the authors of CelebA do, and Kaggle's tables."""


def _celeba(files: Sequence[PictureFile]) -> _Parts:
    split = _Parts([], [], [])
    homes: dict[tuple[Path, str], list[PictureFile]] = {}
    for file in files:
        home = _celeba_home(file)
        (split.others if home is None else homes.setdefault(home, [])).append(file)
    for (path, member), pictures in homes.items():
        partition = _celeba_partition(path, member)
        for file in pictures:
            # By the stem, as the list names JPEG files where the pictures may be PNG.
            part = partition.get(PurePosixPath(file.relative).stem, 0)
            if part < 2:
                (split.validate if part else split.train).append(file)
    return split


def _celeba_home(file: PictureFile) -> tuple[Path, str] | None:
    """The folder of the faces, as (folder on disk, "") or (archive, folder inside)."""
    path = file.path.absolute()
    folders = file.member.split("/")[:-1] if file.member else list(path.parts[:-1])
    for depth, folder in enumerate(folders):
        if folder in _CELEBA_FOLDERS:
            inside = folders[: depth + 1]
            return (path, "/".join(inside)) if file.member else (Path(*inside), "")
    return (path, "") if file.member and path.stem in _CELEBA_ARCHIVES else None


def _celeba_partition(path: Path, member: str) -> dict[str, int]:
    """Stem of a picture -> 0 training, 1 validation, 2 test; empty where there is no list."""
    if path.is_file():
        inside = PurePosixPath(member)
        with ZipFile(path) as archive:
            names = set(archive.namelist())
            for near in [str(up / name) for up in (inside, *inside.parents) for name in _PARTITIONS]:
                if near in names:
                    if archive.getinfo(near).file_size > _LARGEST_LIST:
                        raise TrainingDataError(f"{path}:{near} is too large for a list of pictures.")
                    return _parse_partition(archive.read(near).decode(errors="replace"), f"{path}:{near}")
        path = path.parent / path.stem  # as if unpacked
    for up in (path, *path.parents[:2]):
        for name in _PARTITIONS:
            if (up / name).is_file():
                return _parse_partition((up / name).read_text(encoding="utf-8", errors="replace"), str(up / name))
    logger.info("no list_eval_partition.txt near %s: all of its pictures are for training", path)
    return {}


def _parse_partition(text: str, name: str) -> dict[str, int]:
    partition = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[-1] == "partition":  # the head of Kaggle's table
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise TrainingDataError(f"{name}, line {number}: a picture and 0, 1 or 2 belong there, got {line[:80]!r}.")
        partition[PurePosixPath(words[0]).stem] = int(words[1])
    return partition
