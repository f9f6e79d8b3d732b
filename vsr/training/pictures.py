"""Pictures to train on: measured by their headers at the start, decoded when drawn, kept as far as memory reaches.

Every batch is a pure function of the seed and the step. That makes a stopped run resume exactly, with nothing about the
data to be saved, and lets each of several processes compute its own part of a batch.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.errors import InputError, TrainingDataError
from vsr.inference.device import available_memory
from vsr.media.images import Picture, decode_picture
from vsr.training.prefetch import ahead
from vsr.training.sources import PictureFile, Progress, usable_pictures

logger = logging.getLogger(__name__)

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
        """Where the crops of the batch of one step lie; see :class:`vsr.training.recipe.Recipe` for the options.

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
        with closing(ahead(decode, range(len(pictures)), workers=workers)) as decoded:
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
