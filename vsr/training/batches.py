"""The training and held-out data of a run, and its batches of pictures or clips.

Each batch depends on the seed and its number alone; threads prefetch them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vsr.errors import UsageError, setting
from vsr.inference.device import available_memory, free_memory
from vsr.training.clips import Clips, clip_batch
from vsr.training.degradation import degrade_batch, degrade_picture, reduce, region_size
from vsr.training.launch import Fabric
from vsr.training.options import TrainOptions
from vsr.training.pictures import Draws, PackedPictures, PictureFile, PictureSet, find_pictures, prefetch
from vsr.training.recipes import Recipe
from vsr.training.step import ClipBatch, HeldOut, find_shift, least_size, middle


def load_pictures(options: TrainOptions) -> tuple[PictureSet, list[HeldOut], str]:
    """Find the pictures to train on and the held-out pictures.

    Returns:
        The training set, the held-out pictures with their LR, and the layout of the data.

    Raises:
        TrainingDataError: no picture is usable.
    """
    recipe = options.recipe
    found = find_pictures(options.data)
    training = PictureSet(found.training, min_size=recipe.crop_size, workers=options.workers)
    apart = find_pictures(options.validation).training if options.validation else found.validation
    least = least_size(recipe.scale, options.lpips)
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


def _parts(recipe: Recipe, process: int, processes: int) -> list[slice]:
    """Return the crops of an update that a process trains on: its share of each batch of the update."""
    share = recipe.batch_size // processes
    first = range(process * share, recipe.crops_per_update, recipe.batch_size)
    return [slice(number, number + share) for number in first]


class Batches:
    """Draw the part of the crops of each update that this process trains on.

    Args:
        pictures: the pictures to crop.
        options: the options of the run; recipe, seed, cache and workers are used.
        fabric: device and processes.

    Raises:
        UsageError: the cache is to be on a GPU, but there is none or the pictures do not fit.
    """

    def __init__(self, pictures: PictureSet, options: TrainOptions, fabric: Fabric) -> None:
        self._pictures, self._recipe, self._seed = pictures, options.recipe, options.seed
        self._device, self._workers = fabric.device, options.workers
        self._parts = _parts(options.recipe, fabric.global_rank, fabric.world_size)
        self._packed = _packed(pictures, options, fabric.device)
        if self._packed is None:
            pictures.cache_bytes = 0 if options.cache == "none" else available_memory() // (2 * options.devices)

    def whole(self) -> Batches:
        """Return the same batches with the parts of all processes."""
        other = copy(self)
        other._parts = _parts(self._recipe, 0, 1)
        return other

    def stream(self, steps: range) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield LR (N, 3, h, w) and HR (N, 3, H, W) of each step: float in [0, 1] on the device, channels last.

        With ``recipe.accumulate`` batches in an update they follow each other.
        """
        with closing(prefetch(self._make, steps, workers=self._workers)) as made:
            for lr, hr in made:
                hr = _to_device(self._device, hr)
                yield (
                    (reduce(hr, self._recipe.scale) if lr is None else _to_device(self._device, lr)).contiguous(
                        memory_format=torch.channels_last
                    ),
                    hr,
                )

    def _make(self, step: int) -> tuple[Tensor | None, Tensor]:
        """Return LR and HR, both uint8; LR is None where it is computed from HR on the device."""
        draws = self._draws(step)
        made = [self._make_part(step, draws[part], part.start) for part in self._parts]
        lr = [low for low, _ in made if low is not None]
        return _joined(lr, self._device) if lr else None, _joined([high for _, high in made], self._device)

    def _make_part(self, step: int, draws: Draws, first: int) -> tuple[Tensor | None, Tensor]:
        recipe = self._recipe
        if self._packed is not None:
            return None, self._packed.crops(draws, recipe.crop_size)
        if recipe.degradation == "bicubic":
            return None, self._pictures.crops(draws, recipe.crop_size)
        regions = self._pictures.regions(draws, region_size(recipe.video, recipe.crop_size, recipe.scale))
        return degrade_batch(
            regions, recipe.crop_size, recipe.scale, recipe.video, seed=self._seed, step=step, first=first
        )

    def _draws(self, step: int) -> Draws:
        recipe = self._recipe
        return self._pictures.draws(
            batch_size=recipe.crops_per_update,
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


def load_clips(options: TrainOptions) -> tuple[Clips, list[HeldOut], str]:
    """Find the pictures and videos to train on, and make the held-out clips.

    Returns:
        The training set, the held-out clips, and the layout of the data.

    Raises:
        TrainingDataError: no picture or video is usable.
    """
    training, apart, layout = find_clips(options)
    return training, [] if apart is None else _held_out_clips(apart, options), layout


def find_clips(options: TrainOptions) -> tuple[Clips, Clips | None, str]:
    """Find the pictures and videos that clips are made of, and those that are held out.

    Held out are the pictures and videos of ``options.validation``, or the validation part of the layout; otherwise
    ``options.hold_out`` pictures and pieces of videos of the training set, at most a tenth of each.

    Returns:
        The training set, the held-out set (None if it is empty), and the layout of the data.

    Raises:
        TrainingDataError: no picture or video is usable.
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
    """Make clips as long as the last ones of the training; the last frame of each is measured."""
    count = min(options.hold_out, len(clips.pictures or ()) + len(clips.videos or ()))
    if not count:  # options.validation is given, but hold_out is 0
        return []
    lr, hr = clip_batch(clips, longest(options.recipe), options.seed, 0, count=count)
    both = ClipBatch(lr, hr, find_shift(lr, "before"))
    return [HeldOut(lr[number, -1], hr[number, -1], both.alone(number)) for number in range(count)]


def longest(recipe: Recipe) -> Recipe:
    """Return the recipe with all clips as long as its longest."""
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
    """Draw the clips of each update that this process trains on, and estimate their motion.

    Args:
        clips: the pictures and videos to draw from.
        options: the options of the run; recipe, seed, cache and workers are used.
        fabric: device and processes.
    """

    def __init__(self, clips: Clips, options: TrainOptions, fabric: Fabric) -> None:
        self._clips, self._recipe, self._seed = clips, options.recipe, options.seed
        self._device, self._workers = fabric.device, options.workers
        self._needs_motion = options.recipe.aligned or options.teacher is not None
        self._parts = _parts(options.recipe, fabric.global_rank, fabric.world_size)
        kept = [part for part in (clips.pictures, clips.videos) if part is not None]
        for part in kept:
            part.cache_bytes = 0 if options.cache == "none" else available_memory() // (2 * options.devices * len(kept))

    def whole(self) -> ClipBatches:
        """Return the same batches with the parts of all processes."""
        other = copy(self)
        other._parts = _parts(self._recipe, 0, 1)
        return other

    def stream(
        self, steps: range, *, long_from: int | None = None, both_ways: bool = False
    ) -> Generator[ClipBatch, None, None]:
        """Yield the clips of each step in order: float in [0, 1], on the device.

        Args:
            steps: numbers of the updates.
            long_from: the first step whose clips are as long as the recipe's longest; None if there is none.
            both_ways: whether to estimate the motion to the previous and to the next frame; otherwise only to the
                previous frame, if the generator or a teacher needs it.
        """
        make = partial(self._make, long_from=long_from, both_ways=both_ways)
        with closing(prefetch(make, steps, workers=self._workers)) as made:
            for batch in made:
                yield batch.to(self._device)

    def _make(self, step: int, *, long_from: int | None, both_ways: bool) -> ClipBatch:
        """Return a batch of uint8 frames in main memory."""
        recipe = self._recipe if long_from is None or step < long_from else longest(self._recipe)
        made = [
            clip_batch(self._clips, recipe, self._seed, step, part.start, part.stop - part.start)
            for part in self._parts
        ]
        lr, hr = (torch.cat(part) for part in zip(*made, strict=True))
        before = find_shift(lr, "before") if self._needs_motion or both_ways else None
        batch = ClipBatch(lr, hr, before, find_shift(lr, "after") if both_ways else None)
        return batch.pin_memory() if self._device.type == "cuda" else batch


def updates_of(length: int, recipe: Recipe, pictures: PictureSet | Clips) -> int:
    """Return the length of a stage in updates."""
    if recipe.unit == "steps":
        return length
    assert isinstance(pictures, PictureSet)  # recipes for clips count steps
    return length * pictures.steps_per_epoch(recipe.crops_per_update, recipe.crops_per_picture)


def _packed(pictures: PictureSet, options: TrainOptions, device: torch.device) -> PackedPictures | None:
    """Pack the pictures into the device's memory, if requested and if they fit into a quarter of the free memory."""
    if options.cache not in ("auto", "gpu") or options.recipe.degradation != "bicubic" or device.type == "cpu":
        if options.cache == "gpu":
            raise UsageError(f"{setting('cache', 'gpu')} needs a GPU: use {setting('cache', 'auto')}.")
        return None
    needed, free = PackedPictures.bytes_needed(pictures), free_memory(device)
    if needed <= free // 4:
        return PackedPictures(pictures, device, workers=options.workers)
    if options.cache == "gpu":
        raise UsageError(
            f"the pictures need {needed >> 20} MiB, but the GPU has {free >> 20} MiB free: use "
            f"{setting('cache', 'auto')}."
        )
    return None


def _joined(parts: list[Tensor], device: torch.device) -> Tensor:
    """Join the parts of a batch, in pinned memory if they go to CUDA."""
    batch = parts[0] if len(parts) == 1 else torch.cat(parts)
    return batch.pin_memory() if device.type == "cuda" and batch.device.type == "cpu" else batch


def _to_device(device: torch.device, batch: Tensor) -> Tensor:
    batch = batch.to(device, non_blocking=True)
    return (batch.float() / 255).contiguous(memory_format=torch.channels_last)
