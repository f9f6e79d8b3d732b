"""Batches of clips depend on the seed, the step and the number in the batch, and mix pictures and videos by share."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vsr.errors import TrainingDataError
from vsr.training.batches import ClipBatches, find_clips
from vsr.training.clips import Clips, clip_batch, draw_clip
from vsr.training.options import TrainOptions
from vsr.training.recipes import override

PIXELS = {"discriminator_length": 0, "adversarial_length": 0}
"""No discriminator, which would want three frames."""
CPU = torch.device("cpu")


@pytest.fixture
def clip_options(options: TrainOptions, make_clip: Any) -> TrainOptions:
    """Four clips of three frames in a batch, from twelve small pictures and a video of forty frames."""
    video = make_clip("motion.mp4", size=(64, 48), pts=range(0, 40 * 512, 512))
    recipe = override(
        options.recipe, generator="recurrent", frames=3, batch_size=4, crop_size=20, real_motion=0.5, clip_context=2
    )
    return replace(options, data=(*options.data, video), recipe=recipe)


def batch(options: TrainOptions, step: int, **part: int) -> tuple[Tensor, Tensor]:
    return clip_batch(find_clips(options)[0], options.recipe, options.seed, step, **part)


def test_a_batch_has_its_shape_and_depends_on_seed_and_step(clip_options: TrainOptions) -> None:
    lr, hr = batch(clip_options, 5)
    assert lr.shape == (4, 3, 3, 5, 5) and hr.shape == (4, 3, 3, 20, 20)
    assert lr.dtype == hr.dtype == torch.uint8 and lr.is_contiguous() and hr.is_contiguous()
    again, other, seeded = batch(clip_options, 5), batch(clip_options, 6), batch(replace(clip_options, seed=1), 5)
    assert torch.equal(lr, again[0]) and torch.equal(hr, again[1])
    assert not torch.equal(hr, other[1]) and not torch.equal(hr, seeded[1])
    assert len({clip.numpy().tobytes() for clip in hr}) == 4


def test_parts_agree_with_the_whole(clip_options: TrainOptions) -> None:
    clips, recipe = find_clips(clip_options)[0], clip_options.recipe
    whole = clip_batch(clips, recipe, 0, 2)
    parts = [clip_batch(clips, recipe, 0, 2, first, 2) for first in (0, 2)]
    assert all(torch.equal(torch.cat(part), all_) for part, all_ in zip(zip(*parts, strict=True), whole, strict=True))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_stream_is_the_batches_in_order_shared_by_processes(clip_options: TrainOptions, workers: int) -> None:
    options = replace(clip_options, workers=workers)
    for rank in (0, 1):
        fabric: Any = SimpleNamespace(device=CPU, world_size=2, global_rank=rank)
        clips, _, _ = find_clips(options)
        streamed = [*ClipBatches(clips, options, fabric).stream(range(3, 7))]
        for step, found in zip(range(3, 7), streamed, strict=True):
            lr, hr = batch(options, step, first=2 * rank, count=2)
            assert torch.equal(found.lr, lr / 255) and torch.equal(found.hr, hr / 255)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_real_motion_is_kept(
    clip_options: TrainOptions, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsr.training.clips.film", lambda *_: np.zeros((7, 32, 32, 3), np.uint8))
    clips = find_clips(clip_options)[0]
    assert clips.videos is not None
    real: list[int] = []
    clips.videos.draw = lambda size, random: real.append(1) or np.zeros((7, size, size, 3), np.uint8)  # type: ignore
    recipe = override(clip_options.recipe, real_motion=share)
    for step in range(200):
        draw_clip(clips, recipe, 0, step, 0)
    assert abs(len(real) / 200 - share) < 0.1


@pytest.mark.parametrize("kind", ["pictures", "videos"])
def test_pictures_or_videos_alone_are_enough(clip_options: TrainOptions, kind: str) -> None:
    source = clip_options.data[0] if kind == "pictures" else clip_options.data[1]
    options = replace(clip_options, data=(source,))
    clips, _, layout = find_clips(options)
    assert layout == kind and (clips.videos is None) == (kind == "pictures") == (clips.pictures is not None)
    assert batch(options, 0)[1].shape == (4, 3, 3, 20, 20)
    with pytest.raises(TrainingDataError, match="none of the pictures and videos can be used"):
        Clips(None, None)


def test_a_window_is_cropped_to_a_multiple_of_the_scale(clip_options: TrainOptions, make_clip: Any) -> None:
    odd = make_clip("odd.mp4", size=(38, 22))
    options = replace(clip_options, data=(odd,))
    clips = find_clips(options)[0]
    shapes = {draw_clip(clips, options.recipe, 0, step, 0).shape[1:3] for step in range(8)}
    assert shapes == {(20, 36), (36, 20)}


def test_held_out_clips_are_not_trained_on(clip_options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    training, held_out, _ = find_clips(clip_options)
    assert held_out is not None and held_out.pictures is not None and training.pictures is not None
    assert not {*held_out.pictures.files} & {*training.pictures.files}
    assert len(held_out.pictures) == 1 and len(training.pictures) == 11
    assert training.fingerprint() != held_out.fingerprint()
    monkeypatch.setattr("vsr.training.clips.PIECE", 3)
    many = replace(clip_options, recipe=override(clip_options.recipe, clip_lead=0, frames=2, **PIXELS))
    training, held_out, _ = find_clips(many)
    assert training.videos is not None and held_out is not None and held_out.videos is not None
    assert len(held_out.videos) == 1 and len(training.videos) == 9
    apart = replace(clip_options, validation=(clip_options.data[1],))
    training, held_out, _ = find_clips(apart)
    assert held_out is not None and held_out.pictures is None and held_out.videos is not None
    assert training.pictures is not None and len(training.pictures) == 12
    assert find_clips(replace(clip_options, hold_out=0))[1] is None


def test_pictures_are_drawn_by_their_area(clip_options: TrainOptions) -> None:
    pictures = find_clips(clip_options)[0].pictures
    assert pictures is not None
    counts = np.bincount([pictures.at_pixel(share) for share in np.linspace(0, 1, 5000, endpoint=False)])
    areas = pictures.sizes.prod(1)
    assert np.abs(counts / 5000 - areas / areas.sum()).max() < 0.002


def test_pictures_are_not_modified(clip_options: TrainOptions) -> None:
    clips = find_clips(clip_options)[0]
    assert clips.pictures is not None
    before = [clips.pictures[number].copy() for number in range(len(clips.pictures))]
    for step in range(10):
        clip_batch(clips, override(clip_options.recipe, real_motion=0.0), 0, step)
    assert all((clips.pictures[number] == picture).all() for number, picture in enumerate(before))
