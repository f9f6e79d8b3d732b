"""Clips to train on: of pictures that are filmed, and of video files, each a function of the seed and its number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vsr.errors import TrainingDataError
from vsr.media.images import Picture
from vsr.training.clip_degradation import clip_region_size, degrade_clip
from vsr.training.degradation import Clip
from vsr.training.film import film
from vsr.training.pictures import PictureSet
from vsr.training.recipe import Recipe

if TYPE_CHECKING:
    from vsr.training.videos import VideoSet

DRAWN, DEGRADED = 8, 9
"""Keep the random numbers of clips and of their degradation apart from others of the same seed and step."""


class Clips:
    """What clips are drawn from. Safe from several threads.

    Args:
        pictures: to film; None where there are none.
        videos: to cut clips from; None where there are none.

    Raises:
        TrainingDataError: there is neither.
    """

    def __init__(self, pictures: PictureSet | None, videos: VideoSet | None) -> None:
        self.pictures = pictures if pictures is not None and len(pictures) else None
        self.videos = videos if videos is not None and len(videos) else None
        if self.pictures is None and self.videos is None:
            raise TrainingDataError("none of the pictures and videos can be used.")

    def fingerprint(self) -> str:
        """16 hex digits that name the pictures and videos."""
        listed = "\n".join(part.fingerprint() if part is not None else "" for part in (self.pictures, self.videos))
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    def draw(self, frames: int, size: int, real_motion: float, random: np.random.Generator) -> Clip:
        """Draw a clip.

        Args:
            frames: T; at most as many as the videos were asked for.
            size: edge of the window in HR pixels.
            real_motion: share of the clips that come from video files, where there are both.
            random: decides everything.

        Returns:
            (T, H, W, 3) uint8 RGB; H and W are ``size``, or less in small videos. Not to be written to.
        """
        real = random.random() < real_motion
        if self.videos is not None and (real or self.pictures is None):
            return self.videos.draw(size, random)[:frames]
        another = self._another()
        return film(another(random), frames, size, another, random)

    def _another(self) -> Callable[[np.random.Generator], Picture]:
        pictures = self.pictures
        assert pictures is not None
        return lambda random: pictures[pictures.at_pixel(float(random.random()))]


def draw_clip(clips: Clips, recipe: Recipe, seed: int, step: int, number: int) -> Clip:
    """The HR clip of a number in the batch of a step, with the context and lead that ``degrade_clip`` wants."""
    size = clip_region_size(recipe.clip, recipe.crop_size, recipe.scale)
    random = np.random.default_rng([seed, step, number, DRAWN])
    clip = clips.draw(recipe.frames + recipe.clip.lead, size, recipe.real_motion, random)
    height, width = (length // recipe.scale * recipe.scale for length in clip.shape[1:3])
    return clip[:, :height, :width]


def clip_batch(
    clips: Clips, recipe: Recipe, seed: int, step: int, first: int = 0, count: int | None = None
) -> tuple[Tensor, Tensor]:
    """A part of the batch of a step; parts agree with the whole.

    Args:
        clips: to draw from; their videos give clips of at least ``recipe.frames + recipe.clip.lead`` frames.
        recipe: batch and crop size, scale, frames and degradation.
        seed: together with ``step`` and a clip's number in the batch decides everything.
        step: number of the update.
        first: number in the batch of the first clip wanted.
        count: clips wanted; None takes all from ``first`` on.

    Returns:
        LR (N, T, 3, crop_size / scale, crop_size / scale) and HR (N, T, 3, crop_size, crop_size), uint8 RGB.
    """
    count = recipe.batch_size - first if count is None else count
    pairs = []
    for number in range(first, first + count):
        clip = draw_clip(clips, recipe, seed, step, number)
        random = np.random.default_rng([seed, step, number, DEGRADED])
        pairs.append(degrade_clip(clip, recipe.frames, recipe.crop_size, recipe.scale, recipe.clip, random))
    lr, hr = (torch.from_numpy(np.stack(part)).movedim(-1, -3).contiguous() for part in zip(*pairs, strict=True))
    return lr, hr
