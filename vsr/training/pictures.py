"""The pictures and videos to train on: finding them, and drawing crops from the pictures.

``find_pictures`` searches folders and zip archives, which are read in place, and knows the layouts of COCO and CelebA;
videos are found in folders only. ``usable_pictures`` checks the sizes. ``PictureSet`` and ``PackedPictures`` decode
pictures and cut crops; ``prefetch`` prepares batches in threads.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import re
import struct
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeVar
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.errors import InputError, TrainingDataError, setting
from vsr.files import files_only
from vsr.imaging.pictures import ENDINGS, Picture, Stored, decode_picture
from vsr.imaging.pictures import PictureFile as PictureFile
from vsr.inference.device import available_memory

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of pictures done and the total."""

_LARGEST_LIST = 64 << 20
"""Greatest size of a partition list in bytes; CelebA's has four million."""

_NAMED = 5
"""Greatest number of skipped pictures that are named for each reason; the others are counted."""


@dataclass(frozen=True)
class Found:
    """The content of the sources, ordered by source, then by name."""

    training: list[PictureFile]
    validation: list[PictureFile]
    """The validation part of the layout; empty if it has none."""
    layout: str
    """``COCO``, ``CelebA``, ``pictures``, ``videos``, or several of them with commas."""
    videos: list[Path] = field(default_factory=list)
    """Video files, if requested."""


def find_pictures(sources: Sequence[Path], *, videos: bool = False) -> Found:
    """Find the pictures in ``sources``: files, zip archives, and folders with their subfolders and archives.

    The layouts of COCO (folders train2014 or train2017 beside val2014 or val2017) and CelebA (img_align_celeba with
    list_eval_partition) separate training and validation pictures, and test pictures are left out. All other pictures
    are for training. Hidden files, ``__MACOSX`` and duplicates are left out.

    Args:
        sources: files, archives and folders.
        videos: whether to find video files outside of archives too; a source may then contain videos only.

    Raises:
        TrainingDataError: a source does not exist or contains nothing usable; an archive is damaged or encrypted.
    """
    training: list[PictureFile] = []
    validation: list[PictureFile] = []
    layouts: list[str] = []
    clips: dict[str, Path] = {}
    seen: set[str] = set()
    for source in sources:
        files = sorted(_list_source(source), key=lambda file: file.relative.split("/"))
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
    """Return the files that are not in ``seen``, and add them to it."""
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
    """Select the pictures that are large enough by their headers; warn of the first of the others by name.

    Args:
        files: the pictures.
        min_size: least length of either edge in pixels.
        workers: number of threads that read headers.
        progress: called with the number of pictures done and the total.

    Returns:
        (height, width) of each usable picture in order, and how many are "damaged" or "too small".

    Raises:
        TrainingDataError: none are usable.
    """
    usable, left_out, largest = {}, Counter[str](), (0, 0)
    for file, size in zip(files, _read_sizes(files, workers, progress), strict=True):
        if isinstance(size, InputError):
            kind, reason = "damaged", str(size)
        elif min(size) < min_size:
            kind, reason = "too small", f"{file.name} is {size[1]}x{size[0]}, smaller than {min_size}"
            largest = max(largest, size, key=lambda size: (min(size), max(size)))
        else:
            usable[file] = size
            continue
        left_out[kind] += 1
        if left_out[kind] <= _NAMED:
            logger.warning("left out: %s", reason)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
    if not usable:
        across = f"{largest[1]}x{largest[0]}"
        smaller = f"; the largest of these is {across}, so choose a smaller {setting('crop_size')}" * any(largest)
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
        for start in range(0, len(files), 256):  # in chunks, so that an interrupt is quick
            chunk = files[start : start + 256]
            yield from pool.map(read, chunk)
            if progress is not None:
                progress(start + len(chunk), len(files))


def _list_source(source: Path) -> Iterator[PictureFile]:
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
    """Yield the video files of a source, ordered by name."""
    endings = _video_endings()
    if not source.is_dir():
        yield from [source] * (source.suffix.lower() in endings)
        return
    found = [Path(here, name) for here, names in _folders(source) for name in names]
    yield from sorted(path for path in found if path.suffix.lower() in endings)


def _video_endings() -> frozenset[str]:
    # Imported here, so that training on pictures needs no PyAV.
    from vsr.media.formats import VIDEO_ENDINGS

    return VIDEO_ENDINGS - {".gif"}  # has few colours


def _in_folder(folder: Path) -> Iterator[PictureFile]:
    for here, names in _folders(folder):
        below = PurePosixPath(here.relative_to(folder).as_posix())
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if ending in ENDINGS:
                yield PictureFile(here / name, relative=str(below / name))
            elif ending == ".zip":
                yield from _in_archive_of_folder(here / name, below)


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and its visible subfolders, each once, with the names of their visible files."""

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


def _in_archive_of_folder(archive: Path, below: PurePosixPath) -> Iterator[PictureFile]:
    """Yield the pictures of an archive in a folder, named as if it were unpacked there."""
    members = _members(archive)
    if not members:
        return
    first = members[0].filename
    if (archive.parent / first).exists() or (archive.parent / archive.stem / first).exists():
        logger.info("left out: %s, which is already unpacked beside it", archive)
        return
    if {info.filename.split("/")[0] for info in members} != {archive.stem}:
        below = below / archive.stem
    for info in members:
        yield _member(archive, info, str(below / info.filename))


def _members(archive: Path) -> list[ZipInfo]:
    """List the pictures of an archive."""
    try:
        with open(archive, "rb", opener=files_only) as file, ZipFile(file) as opened:
            infos = {info.filename: info for info in opened.infolist()}
    except OSError as exc:
        raise TrainingDataError(f"cannot read {archive}: {exc.strerror}.") from exc
    except (BadZipFile, NotImplementedError, struct.error) as exc:
        reason = "is not a zip archive or is damaged: download it again or remove it"
        raise TrainingDataError(f"{archive} {reason}.") from exc
    pictures = [
        info
        for name, info in infos.items()
        if os.path.splitext(name)[1].lower() in ENDINGS and all(map(_is_visible, name.split("/")))
    ]
    if any(info.flag_bits & 1 for info in pictures):
        raise TrainingDataError(f"{archive} is encrypted: unpack it and give the folder instead.")
    return pictures


def _member(archive: Path, info: ZipInfo, relative: str) -> PictureFile:
    return PictureFile(archive, info.filename, relative, Stored.of(info))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


class _Parts(NamedTuple):
    """The pictures of a source, split by a layout."""

    train: list[PictureFile]
    validate: list[PictureFile]
    others: list[PictureFile]
    """Pictures outside of the layout."""


def _split(files: Sequence[PictureFile]) -> Found:
    """Split the pictures of one source by the layouts in it; there may be several."""
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
    # All files within the scope of a home belong to COCO: masks, as in stuffthingmaps/train2017, are PNG files too.
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
"""The partition lists of torchvision, of the authors of CelebA, and of Kaggle."""


def _celeba(files: Sequence[PictureFile]) -> _Parts:
    split = _Parts([], [], [])
    homes: dict[tuple[Path, str], list[PictureFile]] = {}
    for file in files:
        home = _celeba_home(file)
        (split.others if home is None else homes.setdefault(home, [])).append(file)
    for (path, member), pictures in homes.items():
        partition = _celeba_partition(path, member)
        for file in pictures:
            # By the stem, as the list names JPEG files while the pictures may be PNG.
            part = partition.get(PurePosixPath(file.relative).stem, 0)
            if part < 2:
                (split.validate if part else split.train).append(file)
    return split


def _celeba_home(file: PictureFile) -> tuple[Path, str] | None:
    """Return the folder of the faces as (folder on disk, "") or (archive, folder inside); None if there is none."""
    path = file.path.absolute()
    folders = file.member.split("/")[:-1] if file.member else list(path.parts[:-1])
    for depth, folder in enumerate(folders):
        if folder in _CELEBA_FOLDERS:
            inside = folders[: depth + 1]
            return (path, "/".join(inside)) if file.member else (Path(*inside), "")
    return (path, "") if file.member and path.stem in _CELEBA_ARCHIVES else None


def _celeba_partition(path: Path, member: str) -> dict[str, int]:
    """Read the partition: stem of a picture -> 0 training, 1 validation, 2 test; empty if there is no list."""
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
    logger.info("no list_eval_partition.txt near %s: all of its pictures are used for training", path)
    return {}


def _parse_partition(text: str, name: str) -> dict[str, int]:
    partition = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[-1] == "partition":  # the header of Kaggle's table
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise TrainingDataError(f"{name}, line {number}: expected a picture and 0, 1 or 2, got {line[:80]!r}.")
        partition[PurePosixPath(words[0]).stem] = int(words[1])
    return partition


Numbers = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Draws:
    """The positions and orientations of the crops of a batch or a part of it: arrays with an entry for each crop.

    A crop is mirrored first: its rows (top and bottom exchanged), columns (left and right) or both; then transposed.
    """

    crop_size: int
    """Edge in pixels."""
    picture: Numbers
    """Numbers of the pictures in the set."""
    top: Numbers
    left: Numbers
    flip_rows: Flags
    flip_columns: Flags
    transpose: Flags

    def __len__(self) -> int:
        return len(self.picture)

    def __getitem__(self, part: slice) -> Draws:
        """Return a part of the batch."""
        return Draws(self.crop_size, *(getattr(self, field.name)[part] for field in fields(self)[1:]))


class PictureSet:
    """Pictures to draw crops from. Thread-safe.

    Pictures that are smaller than a crop or whose header cannot be read are left out, with a warning. Other damage is
    found when a picture is first decoded; the next one that can be decoded then always replaces it, so that the draws
    of a run do not depend on when the damage is found.

    Args:
        files: the picture files.
        min_size: least length of either edge in pixels; smaller pictures are left out.
        workers: number of threads that read headers.
        cache_bytes: memory for decoded pictures, which are cached when drawn; None means half of the free memory.
        progress: called as headers are read.

    Attributes:
        files: the files that are used.
        sizes: (n, 2) int32, height and width in pixels.
        left_out: numbers of files that are not used, by "damaged" and "too small".
        cache_bytes: as above; may be changed.

    Raises:
        TrainingDataError: no picture is usable.
    """

    def __init__(
        self,
        files: Sequence[PictureFile],
        *,
        min_size: int,
        workers: int = 2,
        cache_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.min_size = min_size
        self.cache_bytes = available_memory() // 2 if cache_bytes is None else cache_bytes
        usable, self.left_out = usable_pictures(files, min_size=min_size, workers=workers, progress=progress)
        self.files, self.sizes = list(usable), np.array(list(usable.values()), np.int32)
        self._reduce_to(range(len(self)))
        self._lock = threading.Lock()
        # By file, not by number, so that the held-out set can share them.
        self._cache: dict[PictureFile, Picture] = {}
        self._cached_bytes = [0]
        self._damaged: set[PictureFile] = set()

    def _reduce_to(self, numbers: Sequence[int]) -> None:
        self.files = [self.files[number] for number in numbers]
        self.sizes = self.sizes[list(numbers)]
        self._area_ends = np.cumsum(np.prod(self.sizes, axis=1, dtype=np.int64))

    def hold_out(self, count: int) -> PictureSet:
        """Move ``count`` pictures, evenly spread over the set, into a new set; at most all."""
        count = min(count, len(self))
        chosen = {number * len(self) // count for number in range(count)}
        held_out = copy.copy(self)
        held_out.left_out = Counter()
        held_out._reduce_to(sorted(chosen))
        self._reduce_to([number for number in range(len(self)) if number not in chosen])
        return held_out

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify the pictures: relative names and sizes, in order."""
        listed = "".join(f"{file.relative}\0{h}x{w}\n" for file, (h, w) in zip(self.files, self.sizes, strict=True))
        return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Picture:
        """Return picture ``number`` or its replacement: (H, W, 3) uint8 RGB. Do not modify."""
        return self.first_usable(range(len(self))[number])[1]

    def at_pixel(self, share: float) -> int:
        """Return the number of the picture with the pixel at a share, in [0, 1), of all pixels of the set."""
        return int(np.searchsorted(self._area_ends, int(share * int(self._area_ends[-1])), side="right"))

    def first_usable(self, number: int, *, keep: bool = True) -> tuple[int, Picture]:
        """Return the first undamaged picture from ``number`` on, continuing at the start of the set, and its number.

        Args:
            number: number of the requested picture.
            keep: whether the picture may be cached.

        Raises:
            InputError: the file cannot be read.
            TrainingDataError: all pictures are damaged.
        """
        for found in chain(range(number, len(self)), range(number)):
            file = self.files[found]
            picture = self._cache.get(file)
            if picture is None and file not in self._damaged:
                picture = self._decode(found)
                if picture is not None and keep:
                    self._keep(file, picture)
            if picture is not None:
                return found, picture
        raise TrainingDataError(f"all {len(self)} pictures are damaged after their headers. Choose other pictures.")

    def _decode(self, number: int) -> Picture | None:
        """Decode a picture; None if it is damaged, which is recorded."""
        file, (height, width) = self.files[number], self.sizes[number]
        try:
            picture = decode_picture(file.read(), file.name)
            if picture.shape[:2] == (height, width):
                return picture
            reason = f"{file.name} is {picture.shape[1]}x{picture.shape[0]}, but its header says {width}x{height}"
        except InputError as exc:
            if getattr(exc.__cause__, "errno", None) is not None:  # the disk is gone: do not continue without the file
                raise
            reason = str(exc)
        with self._lock:
            if file not in self._damaged:
                self._damaged.add(file)
                self.left_out["damaged"] += 1
                logger.warning("left out and replaced by the next picture: %s", reason)
        return None

    def _keep(self, file: PictureFile, picture: Picture) -> None:
        with self._lock:
            if file not in self._cache and self._cached_bytes[0] + picture.nbytes <= self.cache_bytes:
                self._cache[file] = picture
                self._cached_bytes[0] += picture.nbytes

    def draws(
        self,
        *,
        batch_size: int,
        crop_size: int,
        seed: int,
        step: int,
        crop: Literal["random", "centre"] = "random",
        crops_per_picture: int = 1,
        sampling: Literal["by-area", "by-picture"] = "by-area",
        flips: bool = True,
        rotations: bool = False,
        transposes: bool = False,
    ) -> Draws:
        """Draw the crops of the batch of one step; see :class:`vsr.training.recipes.Recipe` for the options.

        With ``by-picture``, draw number k of the run is the picture at position k % n of a permutation of all n
        pictures, which is new for each k // n.
        """
        if crop_size > self.min_size or batch_size % crops_per_picture:
            limits = f"crop_size at most {self.min_size}, batch_size a multiple of crops_per_picture"
            raise ValueError(f"{limits}: got {crop_size}, {batch_size} and {crops_per_picture}")
        random = np.random.default_rng([seed, step])
        items = batch_size // crops_per_picture
        if sampling == "by-area":
            pixels = random.integers(self._area_ends[-1], size=items)
            picture: Numbers = np.searchsorted(self._area_ends, pixels, side="right")
        else:
            picture = _in_passes(len(self), seed, step * items + np.arange(items))
        picture = np.repeat(picture, crops_per_picture)
        room = self.sizes[picture].astype(np.int64) - crop_size
        corner = room // 2 if crop == "centre" else random.integers(room + 1)
        flipped_rows, flipped_columns, transposed = random.integers(2, size=(3, batch_size), dtype=np.uint8) > 0
        turns = random.integers(4, size=batch_size) * rotations
        return Draws(
            crop_size=crop_size,
            picture=picture,
            top=corner[:, 0],
            left=corner[:, 1],
            # A quarter turn to the left mirrors the columns, then transposes; one to the right mirrors the rows.
            flip_rows=(flipped_rows & flips) ^ (turns >= 2),
            flip_columns=(flipped_columns & flips) ^ ((turns == 1) | (turns == 2)),
            transpose=(transposed & transposes) ^ (turns % 2 == 1),
        )

    def steps_per_epoch(self, batch_size: int, crops_per_picture: int = 1) -> int:
        """Return the number of batches that draw each picture once with ``by-picture``, rounded up."""
        return -(-len(self) * crops_per_picture // batch_size)

    def crops(self, draws: Draws, crop_size: int) -> Tensor:
        """Cut out the crops: (N, 3, crop_size, crop_size) uint8 RGB in main memory; ``crop_size`` as in ``draws``."""
        _check_crop(draws, crop_size)
        batch = np.empty((len(draws), crop_size, crop_size, 3), np.uint8)
        for number, view in self._views(draws, crop_size):
            batch[number] = view
        return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()

    def regions(self, draws: Draws, size: int) -> list[Picture]:
        """Cut out regions around the crops: (H, W, 3) uint8 RGB with edges of ``size``, or less in smaller pictures.

        The crop is in the middle, or off it near an edge of the picture; regions are mirrored and transposed like it.
        """
        regions: list[Picture] = [np.empty(0, np.uint8)] * len(draws)
        for number, view in self._views(draws, size):
            regions[number] = np.ascontiguousarray(view)
        return regions

    def _views(self, draws: Draws, size: int) -> Iterator[tuple[int, Picture]]:
        """Yield (number of the crop, oriented view of it with edges of ``size``); each picture is decoded once."""
        for drawn in np.unique(draws.picture):
            mine = np.flatnonzero(draws.picture == drawn)
            picture = self[int(drawn)]
            margin = (size - draws.crop_size) // 2
            corners = np.stack([draws.top[mine], draws.left[mine]], 1) - margin
            # Also moves a crop into a smaller picture that replaces the drawn one.
            corners = corners.clip(0, np.maximum(0, np.array(picture.shape[:2]) - size))
            for number, (top, left) in zip(mine, corners, strict=True):
                view = picture[top : top + size, left : left + size]
                view = view[::-1] if draws.flip_rows[number] else view
                view = view[:, ::-1] if draws.flip_columns[number] else view
                yield int(number), view.transpose(1, 0, 2) if draws.transpose[number] else view


class PackedPictures:
    """All pictures of a set decoded into one tensor on a device, where one gather cuts all crops.

    Args:
        pictures: the set; damaged pictures are replaced as in it.
        device: the device of the tensor, with ``bytes_needed`` free.
        workers: number of threads that decode.
        progress: called as pictures are decoded.
    """

    def __init__(
        self, pictures: PictureSet, device: torch.device, *, workers: int = 2, progress: Progress | None = None
    ) -> None:
        self._sizes = pictures.sizes
        self._starts = np.concatenate([[0], 3 * np.cumsum(np.prod(self._sizes, axis=1, dtype=np.int64))])
        self._replacements = np.arange(len(pictures))
        self._bytes = torch.empty(int(self._starts[-1]), dtype=torch.uint8, device=device)
        decode = partial(pictures.first_usable, keep=False)
        with closing(prefetch(decode, range(len(pictures)), workers=workers)) as decoded:
            for number, (found, picture) in enumerate(decoded):
                self._replacements[number] = found
                if found == number:
                    place = self._bytes[self._starts[number] : self._starts[number + 1]]
                    place.copy_(torch.from_numpy(picture).flatten())
                if progress is not None:
                    progress(number + 1, len(pictures))

    @staticmethod
    def bytes_needed(pictures: PictureSet) -> int:
        """Return the number of bytes of all pictures of a set."""
        return 3 * int(np.prod(pictures.sizes, axis=1, dtype=np.int64).sum())

    def crops(self, draws: Draws, crop_size: int) -> Tensor:
        """Cut out crops on the device, equal to those of ``PictureSet.crops``."""
        _check_crop(draws, crop_size)
        found = self._replacements[draws.picture]
        height, width = self._sizes[found].astype(np.int64).T
        edge = np.arange(crop_size)
        rows = np.where(draws.flip_rows[:, None], edge[::-1], edge) + np.minimum(draws.top, height - crop_size)[:, None]
        columns = np.where(draws.flip_columns[:, None], edge[::-1], edge)
        columns += np.minimum(draws.left, width - crop_size)[:, None]
        rows = rows * 3 * width[:, None] + self._starts[found, None]
        columns = columns * 3
        swap = draws.transpose[:, None]
        steps = np.stack([np.where(swap, columns, rows), np.where(swap, rows, columns)])
        down, right = torch.from_numpy(steps).to(self._bytes.device)
        channels = torch.arange(3, device=self._bytes.device)[:, None, None]
        return self._bytes[down[:, None, :, None] + right[:, None, None, :] + channels]


def _check_crop(draws: Draws, crop_size: int) -> None:
    if crop_size != draws.crop_size:
        raise ValueError(f"crops of {draws.crop_size} were drawn, not of {crop_size}")


def _in_passes(count: int, seed: int, numbers: Numbers) -> Numbers:
    """Return the pictures, of ``count``, for numbers of draws in passes over all pictures."""
    passes = numbers // count
    pictures = np.empty_like(numbers)
    for number in np.unique(passes):
        mine = passes == number
        pictures[mine] = _permutation(count, seed, int(number))[numbers[mine] % count]
    return pictures


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, number: int) -> Numbers:
    # The third word separates it from the draws of the step with the same number.
    return np.random.default_rng([seed, number, 1]).permutation(count)


Item = TypeVar("Item")


def prefetch(make: Callable[[int], Item], steps: range, *, workers: int) -> Generator[Item, None, None]:
    """Yield ``make(step)`` for each step in order; threads compute it a few steps ahead of the consumer."""
    torch.get_num_threads()  # initialised here, or the setting of the workers would apply to all threads
    # Crops are small: split over torch's own threads, each operation would wait for the slowest of them.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        depth = 2 * workers
        pending = [pool.submit(make, step) for step in steps[:depth]]
        try:
            for step in steps:
                item = pending.pop(0).result()
                if step + depth * steps.step in steps:
                    pending.append(pool.submit(make, step + depth * steps.step))
                yield item
        finally:
            for future in pending:
                future.cancel()
