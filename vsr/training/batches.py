"""The batches of a run: each a function of the seed and its number, made ahead by threads."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vsr.errors import UsageError
from vsr.inference.device import available_memory, free_memory
from vsr.training.clips import Clips, clip_batch
from vsr.training.degradation import degrade_batch, degrade_picture, reduce, region_size
from vsr.training.launch import Fabric
from vsr.training.options import TrainOptions
from vsr.training.pictures import Draws, PackedPictures, PictureFile, PictureSet, find_pictures, prefetch
from vsr.training.recipes import Recipe
from vsr.training.step import ClipBatch, HeldOut, find_shift, least_size, middle


def load_pictures(options: TrainOptions) -> tuple[PictureSet, list[HeldOut], str]:
    """Find the pictures to train on and those to measure on.

    Returns:
        The training set, the held-out pictures with their LR, and how the data lie.

    Raises:
        TrainingDataError: there are none that can be used.
    """
    recipe = options.recipe
    found = find_pictures(options.data)
    training = PictureSet(found.training, min_size=recipe.crop_size, workers=options.workers)
    apart = find_pictures(options.validation).training if options.validation else found.validation
    least = least_size(recipe.scale)
    if apart:
        measured = PictureSet(apart, min_size=least, workers=options.workers).hold_out(options.hold_out)
    else:
        measured = training.hold_out(min(options.hold_out, len(training) // 10))
    large = [index for index, size in enumerate(measured.sizes) if size.min() >= least]
    return training, [_held_out(torch.from_numpy(measured[index]), options) for index in large], found.layout


def _held_out(picture: Tensor, options: TrainOptions) -> HeldOut:
    recipe = options.recipe
    hr = middle(picture.permute(2, 0, 1), recipe.scale)
    if recipe.degradation == "video":
        return HeldOut(*degrade_picture(hr.permute(1, 2, 0).numpy(), recipe.scale, recipe.video, seed=options.seed))
    lr = reduce(hr[None].float() / 255, recipe.scale)[0].mul(255).round().byte()
    return HeldOut(lr, hr)


class Batches:
    """Draws the part of each batch that this process trains on.

    Args:
        pictures: to crop from.
        options: recipe, seed, cache and workers.
        fabric: device and processes.

    Raises:
        UsageError: a cache on a GPU where there is none, or where the pictures do not fit.
    """

    def __init__(self, pictures: PictureSet, options: TrainOptions, fabric: Fabric) -> None:
        self._pictures, self._recipe, self._seed = pictures, options.recipe, options.seed
        self._device, self._workers = fabric.device, options.workers
        share = options.recipe.batch_size // fabric.world_size
        self._part = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
        self._packed = _packed(pictures, options, fabric.device)
        if self._packed is None:
            pictures.cache_bytes = 0 if options.cache == "none" else available_memory() // (2 * options.devices)

    def whole(self) -> Batches:
        """The same batches with the parts of all processes."""
        other = copy(self)
        other._part = slice(0, self._recipe.batch_size)
        return other

    def stream(self, steps: range) -> Generator[tuple[Tensor, Tensor], None, None]:
        """LR (N, 3, h, w) and HR (N, 3, H, W) of each step in order, float in [0, 1] on the device, channels last."""
        with closing(prefetch(self._make, steps, workers=self._workers)) as made:
            for lr, hr in made:
                hr = _on(self._device, hr)
                yield (
                    (reduce(hr, self._recipe.scale) if lr is None else _on(self._device, lr)).contiguous(
                        memory_format=torch.channels_last
                    ),
                    hr,
                )

    def _make(self, step: int) -> tuple[Tensor | None, Tensor]:
        """uint8 LR, None where it is made of HR on the device, and uint8 HR."""
        recipe, draws = self._recipe, self._draws(step)
        if self._packed is not None:
            return None, self._packed.crops(draws, recipe.crop_size)
        if recipe.degradation == "bicubic":
            return None, _pinned(self._pictures.crops(draws, recipe.crop_size), self._device)
        regions = self._pictures.regions(draws, region_size(recipe.video, recipe.crop_size, recipe.scale))
        lr, hr = degrade_batch(
            regions, recipe.crop_size, recipe.scale, recipe.video, seed=self._seed, step=step, first=self._part.start
        )
        return _pinned(lr, self._device), _pinned(hr, self._device)

    def _draws(self, step: int) -> Draws:
        recipe = self._recipe
        draws = self._pictures.draws(
            batch_size=recipe.batch_size,
            crop_size=recipe.crop_size,
            crop=recipe.crop,
            crops_per_picture=recipe.crops_per_picture,
            sampling=recipe.sampling,
            flips=recipe.flips,
            rotations=recipe.rotations,
            transposes=recipe.transposes,
            seed=self._seed,
            step=step,
        )
        return draws[self._part]


def load_clips(options: TrainOptions) -> tuple[Clips, list[HeldOut], str]:
    """Find what clips to train on are made of, and make those to measure on.

    Returns:
        The training set, the held-out clips, and how the data lie.

    Raises:
        TrainingDataError: there is nothing that can be used.
    """
    training, apart, layout = find_clips(options)
    return training, [] if apart is None else _held_out_clips(apart, options), layout


def find_clips(options: TrainOptions) -> tuple[Clips, Clips | None, str]:
    """Find the pictures and videos that clips are made of, and those to measure on.

    Measured on are the pictures and videos of ``options.validation``, or of the layout; else ``options.hold_out``
    pictures and pieces of videos of the training set, a tenth of either at most.

    Returns:
        The training set, what is held out (None where there is nothing), and how the data lie.

    Raises:
        TrainingDataError: there is nothing that can be used.
    """
    found = find_pictures(options.data, videos=True)
    training = _clips(found.training, found.videos, options)
    if options.validation:
        given = find_pictures(options.validation, videos=True)
        return training, _clips(given.training, given.videos, options), found.layout
    pictures, videos = training.pictures, training.videos
    held_pictures = pictures and pictures.hold_out(min(options.hold_out, len(pictures) // 10))
    if found.validation:
        apart = PictureSet(found.validation, min_size=options.recipe.crop_size, workers=options.workers)
        held_pictures = apart.hold_out(options.hold_out)
    held_videos = videos and videos.hold_out(min(options.hold_out, len(videos) // 10))
    held_out = Clips(held_pictures, held_videos) if held_pictures or held_videos else None
    return training, held_out, found.layout


def _held_out_clips(clips: Clips, options: TrainOptions) -> list[HeldOut]:
    """Clips of the length that is seen last in training; what is measured of each is its last frame."""
    count = min(options.hold_out, len(clips.pictures or ()) + len(clips.videos or ()))
    if not count:  # pictures and videos to measure on were named, and none is wanted
        return []
    lr, hr = clip_batch(clips, longest(options.recipe), options.seed, 0, count=count)
    both = ClipBatch(lr, hr, find_shift(lr, "before"))
    return [HeldOut(lr[number, -1], hr[number, -1], both.alone(number)) for number in range(count)]


def longest(recipe: Recipe) -> Recipe:
    """A recipe whose clips all have as many frames as its longest."""
    return replace(recipe, frames=max(recipe.frames, recipe.long_frames), long_frames=0)


def _clips(pictures: Sequence[PictureFile], videos: Sequence[Path], options: TrainOptions) -> Clips:
    recipe, workers = options.recipe, options.workers
    filmed = PictureSet(pictures, min_size=recipe.crop_size, workers=workers) if pictures else None
    if not videos:
        return Clips(filmed, None)
    # Here, so that training on pictures needs no PyAV.
    from vsr.training.clips import VideoSet

    frames = longest(recipe).frames + recipe.clip.lead
    return Clips(filmed, VideoSet(videos, min_size=recipe.crop_size, frames=frames, workers=workers))


class ClipBatches:
    """Draws the clips of each batch that this process trains on, and estimates their motion.

    Args:
        clips: to draw from.
        options: recipe, seed, cache and workers.
        fabric: device and processes.
    """

    def __init__(self, clips: Clips, options: TrainOptions, fabric: Fabric) -> None:
        self._clips, self._recipe, self._seed = clips, options.recipe, options.seed
        self._device, self._workers = fabric.device, options.workers
        self._moves = options.recipe.aligned or options.teacher is not None
        self._count = options.recipe.batch_size // fabric.world_size
        self._first = fabric.global_rank * self._count
        kept = [part for part in (clips.pictures, clips.videos) if part is not None]
        for part in kept:
            part.cache_bytes = 0 if options.cache == "none" else available_memory() // (2 * options.devices * len(kept))

    def whole(self) -> ClipBatches:
        """The same batches with the parts of all processes."""
        other = copy(self)
        other._first, other._count = 0, self._recipe.batch_size
        return other

    def stream(
        self, steps: range, *, long_from: int | None = None, both_ways: bool = False
    ) -> Generator[ClipBatch, None, None]:
        """The clips of each step in order, float in [0, 1] on the device.

        Args:
            steps: numbers of updates.
            long_from: the step from which on clips are as long as the recipe's longest; None: none.
            both_ways: whether the motion is wanted against the frames before and after; otherwise against the frame
                before, where the generator or a teacher asks for it.
        """
        make = partial(self._make, long_from=long_from, both_ways=both_ways)
        with closing(prefetch(make, steps, workers=self._workers)) as made:
            for batch in made:
                yield batch.to(self._device)

    def _make(self, step: int, *, long_from: int | None, both_ways: bool) -> ClipBatch:
        """Pictures of uint8 codes, in main memory."""
        recipe = self._recipe if long_from is None or step < long_from else longest(self._recipe)
        lr, hr = clip_batch(self._clips, recipe, self._seed, step, self._first, self._count)
        before = find_shift(lr, "before") if self._moves or both_ways else None
        batch = ClipBatch(lr, hr, before, find_shift(lr, "after") if both_ways else None)
        return batch.pin_memory() if self._device.type == "cuda" else batch


def updates_of(length: int, recipe: Recipe, pictures: PictureSet | Clips) -> int:
    """A stage's length in updates."""
    if recipe.unit == "steps":
        return length
    assert isinstance(pictures, PictureSet)  # a recipe on clips counts steps
    return length * pictures.steps_per_epoch(recipe.batch_size, recipe.crops_per_picture)


def _packed(pictures: PictureSet, options: TrainOptions, device: torch.device) -> PackedPictures | None:
    """Pictures in the device's own memory, where that is wanted and they fit into a quarter of what is free."""
    if options.cache not in ("auto", "gpu") or options.recipe.degradation != "bicubic" or device.type == "cpu":
        if options.cache == "gpu":
            raise UsageError("--cache gpu needs a GPU; --cache auto takes what is there.")
        return None
    needed, free = PackedPictures.bytes_needed(pictures), free_memory(device)
    if needed <= free // 4:
        return PackedPictures(pictures, device, workers=options.workers)
    if options.cache == "gpu":
        raise UsageError(
            f"the pictures take {needed >> 20} MiB and the GPU has {free >> 20} MiB free: take --cache auto."
        )
    return None


def _pinned(batch: Tensor, device: torch.device) -> Tensor:
    return batch.pin_memory() if device.type == "cuda" else batch


def _on(device: torch.device, batch: Tensor) -> Tensor:
    batch = batch.to(device, non_blocking=True)
    return (batch.float() / 255).contiguous(memory_format=torch.channels_last)
