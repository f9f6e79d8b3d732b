"""Where training pictures and videos lie, and how large the pictures are.

Pictures lie in folders and zip archives, which are read in place, some in the layouts of COCO and CelebA; videos lie in
folders.
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

from vsr.errors import InputError, TrainingDataError
from vsr.files import files_only
from vsr.imaging.pictures import ENDINGS, Picture, Stored, decode_picture
from vsr.imaging.pictures import PictureFile as PictureFile
from vsr.inference.device import available_memory

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
    from vsr.media.formats import VIDEO_ENDINGS

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


Numbers = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Draws:
    """Where the crops of a batch, or of a part of it, lie: arrays with an entry for each.

    A crop is mirrored first, its rows (top and bottom exchanged) or columns (left and right) or both, then transposed.
    """

    crop_size: int
    """Edge in pixels."""
    picture: Numbers
    """Numbers in the set of pictures."""
    top: Numbers
    left: Numbers
    flip_rows: Flags
    flip_columns: Flags
    transpose: Flags

    def __len__(self) -> int:
        return len(self.picture)

    def __getitem__(self, part: slice) -> Draws:
        """A part of the batch."""
        return Draws(self.crop_size, *(getattr(self, field.name)[part] for field in fields(self)[1:]))


class PictureSet:
    """Pictures to draw crops from. Safe from several threads.

    Pictures that are smaller than a crop or whose header cannot be read are left out, with a warning. Damage further
    inside shows when a picture is first decoded; the next one that can be decoded then stands in for it, wherever it is
    drawn, so that a run draws the same whenever the damage is met.

    Args:
        files: where the pictures lie.
        min_size: pictures with an edge shorter than this are left out, in pixels.
        workers: threads that read headers.
        cache_bytes: memory for decoded pictures, which are kept as they are drawn; None takes half of what is free.
        progress: called as headers are read.

    Attributes:
        files: those that are used.
        sizes: (n, 2) int32, height and width in pixels.
        left_out: how many are not, as "damaged" and as "too small".
        cache_bytes: as above; may be changed.

    Raises:
        TrainingDataError: no picture is left.
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
        # By file, not by number, so that pictures that are held out can share them.
        self._cache: dict[PictureFile, Picture] = {}
        self._cached_bytes = [0]
        self._damaged: set[PictureFile] = set()

    def _reduce_to(self, numbers: Sequence[int]) -> None:
        self.files = [self.files[number] for number in numbers]
        self.sizes = self.sizes[list(numbers)]
        self._area_ends = np.cumsum(np.prod(self.sizes, axis=1, dtype=np.int64))

    def hold_out(self, count: int) -> PictureSet:
        """Take ``count`` pictures, evenly spread over the set, out of it into one of their own; at most all."""
        count = min(count, len(self))
        chosen = {number * len(self) // count for number in range(count)}
        held_out = copy.copy(self)
        held_out.left_out = Counter()
        held_out._reduce_to(sorted(chosen))
        self._reduce_to([number for number in range(len(self)) if number not in chosen])
        return held_out

    def fingerprint(self) -> str:
        """16 hex digits that name the pictures: their names below the sources, and their sizes, in order."""
        listed = "".join(f"{file.relative}\0{h}x{w}\n" for file, (h, w) in zip(self.files, self.sizes, strict=True))
        return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Picture:
        """The picture of a number, or the one that stands in for it. (H, W, 3) uint8 RGB, not to be written to."""
        return self.stand_in(range(len(self))[number])[1]

    def at_pixel(self, share: float) -> int:
        """The number of the picture with the pixel that lies at a share, in [0, 1), of all pixels of the set."""
        return int(np.searchsorted(self._area_ends, int(share * int(self._area_ends[-1])), side="right"))

    def stand_in(self, number: int, *, keep: bool = True) -> tuple[int, Picture]:
        """The first picture from ``number`` on, and from the start again, that is not damaged, and its number.

        Args:
            number: of the picture wanted.
            keep: whether it may go into the cache.

        Raises:
            InputError: the file cannot be read.
            TrainingDataError: all are damaged.
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
        raise TrainingDataError(f"all {len(self)} pictures are damaged behind their headers. Choose other pictures.")

    def _decode(self, number: int) -> Picture | None:
        """A picture; None where it is damaged, which is noted."""
        file, (height, width) = self.files[number], self.sizes[number]
        try:
            picture = decode_picture(file.read(), file.name)
            if picture.shape[:2] == (height, width):
                return picture
            words = f"{file.name} is {picture.shape[1]}x{picture.shape[0]}, where its header says {width}x{height}"
        except InputError as exc:
            if getattr(exc.__cause__, "errno", None) is not None:  # of a disk that has gone: no reason to go on without
                raise
            words = str(exc)
        with self._lock:
            if file not in self._damaged:
                self._damaged.add(file)
                self.left_out["damaged"] += 1
                logger.warning("left out, the next picture takes its place: %s", words)
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
        """Where the crops of the batch of one step lie; see :class:`vsr.training.recipes.Recipe` for the options.

        ``by-picture`` numbers all pictures that the run draws: the one numbered k is that at position k % n of a
        permutation of all n, drawn anew for each k // n.
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
        place = room // 2 if crop == "centre" else random.integers(room + 1)
        flipped_rows, flipped_columns, transposed = random.integers(2, size=(3, batch_size), dtype=np.uint8) > 0
        turns = random.integers(4, size=batch_size) * rotations
        return Draws(
            crop_size=crop_size,
            picture=picture,
            top=place[:, 0],
            left=place[:, 1],
            # A quarter turn to the left mirrors the columns, then transposes; one to the right mirrors the rows.
            flip_rows=(flipped_rows & flips) ^ (turns >= 2),
            flip_columns=(flipped_columns & flips) ^ ((turns == 1) | (turns == 2)),
            transpose=(transposed & transposes) ^ (turns % 2 == 1),
        )

    def steps_per_epoch(self, batch_size: int, crops_per_picture: int = 1) -> int:
        """Batches in which each picture is drawn once, if by picture; the last may reach into the next epoch."""
        return -(-len(self) * crops_per_picture // batch_size)

    def crops(self, draws: Draws, crop_size: int) -> Tensor:
        """Cut the crops out. (N, 3, crop_size, crop_size) uint8 RGB in main memory; ``crop_size`` as it was drawn."""
        _check_crop(draws, crop_size)
        batch = np.empty((len(draws), crop_size, crop_size, 3), np.uint8)
        for number, view in self._views(draws, crop_size):
            batch[number] = view
        return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()

    def regions(self, draws: Draws, size: int) -> list[Picture]:
        """Cut out what lies around the crops: (H, W, 3) uint8 RGB with edges of ``size``, or less in smaller pictures.

        The crop lies in the middle, or off it near an edge of the picture; mirrored and transposed as it is.
        """
        regions: list[Picture] = [np.empty(0, np.uint8)] * len(draws)
        for number, view in self._views(draws, size):
            regions[number] = np.ascontiguousarray(view)
        return regions

    def _views(self, draws: Draws, size: int) -> Iterator[tuple[int, Picture]]:
        """(number of the crop, oriented view of it with edges of ``size``), each picture decoded once."""
        for drawn in np.unique(draws.picture):
            mine = np.flatnonzero(draws.picture == drawn)
            picture = self[int(drawn)]
            margin = (size - draws.crop_size) // 2
            corners = np.stack([draws.top[mine], draws.left[mine]], 1) - margin
            # Also brings a crop into a smaller picture that stands in for the one drawn.
            corners = corners.clip(0, np.maximum(0, np.array(picture.shape[:2]) - size))
            for number, (top, left) in zip(mine, corners, strict=True):
                view = picture[top : top + size, left : left + size]
                view = view[::-1] if draws.flip_rows[number] else view
                view = view[:, ::-1] if draws.flip_columns[number] else view
                yield int(number), view.transpose(1, 0, 2) if draws.transpose[number] else view


class PackedPictures:
    """All pictures of a set decoded into one tensor on a device, where crops are cut by one gather.

    Args:
        pictures: the set; damaged ones are stood in for as there.
        device: where they go; ``bytes_needed`` must be free there.
        workers: threads that decode.
        progress: called as pictures are decoded.
    """

    def __init__(
        self, pictures: PictureSet, device: torch.device, *, workers: int = 2, progress: Progress | None = None
    ) -> None:
        self._sizes = pictures.sizes
        self._starts = np.concatenate([[0], 3 * np.cumsum(np.prod(self._sizes, axis=1, dtype=np.int64))])
        self._stand_ins = np.arange(len(pictures))
        self._bytes = torch.empty(int(self._starts[-1]), dtype=torch.uint8, device=device)
        decode = partial(pictures.stand_in, keep=False)
        with closing(prefetch(decode, range(len(pictures)), workers=workers)) as decoded:
            for number, (found, picture) in enumerate(decoded):
                self._stand_ins[number] = found
                if found == number:
                    place = self._bytes[self._starts[number] : self._starts[number + 1]]
                    place.copy_(torch.from_numpy(picture).flatten())
                if progress is not None:
                    progress(number + 1, len(pictures))

    @staticmethod
    def bytes_needed(pictures: PictureSet) -> int:
        """Bytes of all pictures of a set."""
        return 3 * int(np.prod(pictures.sizes, axis=1, dtype=np.int64).sum())

    def crops(self, draws: Draws, crop_size: int) -> Tensor:
        """As ``PictureSet.crops``, bit for bit, but on the device."""
        _check_crop(draws, crop_size)
        found = self._stand_ins[draws.picture]
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
    """The pictures, of ``count``, that the running numbers stand for."""
    passes = numbers // count
    pictures = np.empty_like(numbers)
    for number in np.unique(passes):
        mine = passes == number
        pictures[mine] = _permutation(count, seed, int(number))[numbers[mine] % count]
    return pictures


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, number: int) -> Numbers:
    # The third word keeps it apart from the draws of a step of the same number.
    return np.random.default_rng([seed, number, 1]).permutation(count)


Item = TypeVar("Item")


def prefetch(make: Callable[[int], Item], steps: range, *, workers: int) -> Generator[Item, None, None]:
    """``make(step)`` for each step in order, computed by threads a few steps ahead of the consumer."""
    torch.get_num_threads()  # settled here first, or the setting of the workers would become everyone's
    # Crops are small: shared out among torch's own threads, each operation would wait for the slowest of them.
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
