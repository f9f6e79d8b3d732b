"""Folders of pictures, decoded once and kept in memory as far as it reaches.

Every batch is a pure function of the seed and the step, drawn so that each HR pixel is about as likely as any other.
That makes a stopped run resume exactly, with nothing about the data to be saved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vsr.errors import InputError, TrainingDataError
from vsr.inference.device import available_memory
from vsr.media.images import ENDINGS, Picture, read_picture

logger = logging.getLogger(__name__)


def find_pictures(sources: Sequence[Path]) -> list[Path]:
    """The picture files among ``sources`` and, recursively, in the folders among them, sorted and without repeats.

    Raises:
        TrainingDataError: a source does not exist, or nothing was found.
    """
    found: set[Path] = set()
    for source in sources:
        if not source.exists():
            raise TrainingDataError(f"the data {source} does not exist.")
        files = source.rglob("*") if source.is_dir() else [source]
        found.update(path for path in files if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        names = ", ".join(str(source) for source in sources)
        raise TrainingDataError(f"no pictures in {names}: looked for {', '.join(sorted(ENDINGS))} in all subfolders.")
    return sorted(found)


class PictureSet:
    """Pictures to draw crops from.

    All are decoded once at the start: those that cannot be, or are smaller than a crop, are named in one warning each
    and left out. Decoded pictures stay in memory up to ``cache_bytes``; the rest are decoded again when drawn.

    Args:
        paths: picture files.
        min_size: pictures with an edge shorter than this are left out, in pixels.
        cache_bytes: memory for decoded pictures; None takes half of what the machine has free.
        workers: threads that decode.

    Raises:
        TrainingDataError: no picture is left.
    """

    def __init__(
        self, paths: Sequence[Path], *, min_size: int, cache_bytes: int | None = None, workers: int = 2
    ) -> None:
        budget = available_memory() // 2 if cache_bytes is None else cache_bytes
        self.paths: list[Path] = []
        self._cache: dict[int, Picture] = {}
        self._areas: list[int] = []
        with ThreadPoolExecutor(workers) as pool:
            # A chunk at a time, so that no more than a chunk is decoded beyond the cache.
            for start in range(0, len(paths), 64):
                chunk = paths[start : start + 64]
                for path, picture in zip(chunk, pool.map(lambda path: _usable(path, min_size), chunk), strict=True):
                    if picture is None:
                        continue
                    if picture.nbytes <= budget:
                        self._cache[len(self.paths)] = picture
                        budget -= picture.nbytes
                    self.paths.append(path)
                    self._areas.append(picture.shape[0] * picture.shape[1])
        if not self.paths:
            raise TrainingDataError(
                f"none of the {len(paths)} pictures can be used: each is damaged or smaller than {min_size} pixels. "
                "Choose a smaller --crop-size or other pictures."
            )

    def hold_out(self, count: int) -> list[Picture]:
        """Take ``count`` pictures, evenly spread over the set, out of it."""
        if not count:
            return []
        chosen = range(len(self))[:: len(self) // count][:count]
        pictures = [self[index] for index in chosen]
        kept = [index for index in range(len(self)) if index not in chosen]
        self._cache = {new: self._cache[old] for new, old in enumerate(kept) if old in self._cache}
        self.paths = [self.paths[index] for index in kept]
        self._areas = [self._areas[index] for index in kept]
        return pictures

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Picture:
        """The picture of a number, in the order of ``paths``."""
        cached = self._cache.get(index)
        return read_picture(self.paths[index]) if cached is None else cached

    def crops(self, batch_size: int, crop_size: int, *, seed: int, step: int) -> Tensor:
        """The batch of one step: random pictures, random places, flipped and transposed at random.

        Args:
            batch_size: crops in the batch.
            crop_size: edge of a crop in pixels.
            seed: together with ``step`` decides everything.
            step: number of the update.

        Returns:
            (batch_size, 3, crop_size, crop_size) uint8 RGB.
        """
        random = np.random.default_rng([seed, step])
        areas = np.asarray(self._areas, np.float64)
        probability = areas / areas.sum()
        batch = np.empty((batch_size, crop_size, crop_size, 3), np.uint8)
        for crop in batch:
            picture = self[int(random.choice(len(self), p=probability))]
            top = int(random.integers(picture.shape[0] - crop_size + 1))
            left = int(random.integers(picture.shape[1] - crop_size + 1))
            view = picture[top : top + crop_size, left : left + crop_size]
            flip_rows, flip_columns, transpose = random.integers(2, size=3)
            view = view[::-1] if flip_rows else view
            view = view[:, ::-1] if flip_columns else view
            crop[:] = view.transpose(1, 0, 2) if transpose else view
        return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()


def ahead(make: Callable[[int], Tensor], steps: range, *, workers: int) -> Generator[Tensor, None, None]:
    """``make(step)`` for each step in order, computed by threads a few steps ahead of the consumer."""
    with ThreadPoolExecutor(workers) as pool:
        depth = 2 * workers
        pending = [pool.submit(make, step) for step in steps[:depth]]
        try:
            for step in steps:
                batch = pending.pop(0).result()
                if step + depth * steps.step in steps:
                    pending.append(pool.submit(make, step + depth * steps.step))
                yield batch
        finally:
            for future in pending:
                future.cancel()


def _usable(path: Path, min_size: int) -> Picture | None:
    try:
        picture = read_picture(path)
    except InputError as exc:
        logger.warning("left out: %s", exc)
        return None
    if min(picture.shape[:2]) < min_size:
        height, width = picture.shape[:2]
        logger.warning("left out: %s is %dx%d, smaller than a crop of %d", path, width, height, min_size)
        return None
    return picture
