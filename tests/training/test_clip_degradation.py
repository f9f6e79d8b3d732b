"""LR of clips: aligned with HR in space and time, the same degradation for all frames, every step has an effect."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from textures import moving, shift_between

from vsr.training.degradation import Clip, clip_region_size, degrade_clip, reduce
from vsr.training.recipes import ClipDegradation

CLEAN = ClipDegradation(clean=1.0, gaussian=0.0)
PLAIN = ClipDegradation(
    clean=0.0, blur=(0.0, 0.0), reductions=("bicubic",), sharpened=0.0, noise=(0.0, 0.0), interlaced=0.0,
    chroma=("yuv444p",), codecs=("none",), again=0.0, lead=0,
)  # fmt: skip
"""Reduced, and nothing else."""


def degraded(
    clip: Clip, options: ClipDegradation, *, frames: int = 4, crop: int = 64, seed: int = 0, scale: int = 4
) -> tuple[Clip, Clip]:
    return degrade_clip(clip, frames, crop, scale, options, np.random.default_rng(seed))


def same_but_for(options: ClipDegradation, clip: Clip, seed: int = 0) -> tuple[Clip, Clip]:
    """Return LR by the options, and by plain reduction, of the same crop."""
    assert clip.shape[1] == clip.shape[2] == 64
    return degraded(clip, options, seed=seed)[0], degraded(clip, PLAIN)[0]


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("kind", ["bicubic", "bd", "plain", "area", "soft", "sharp", "posted twice"])
def test_lr_is_aligned_with_hr(scale: int, kind: str) -> None:
    options = {
        "bicubic": CLEAN,
        "bd": replace(CLEAN, gaussian=1.0),
        "plain": PLAIN,
        "area": replace(PLAIN, reductions=("area",)),
        "soft": replace(PLAIN, blur=(2.5, 2.5)),
        "sharp": replace(PLAIN, sharpened=1.0),
        "posted twice": replace(PLAIN, again=1.0),
    }[kind]
    clip = moving(40 * scale, 48 * scale, 5, grain=1.5 * scale)
    shifts = []
    for seed in range(4):
        lr, hr = degraded(clip, options, crop=32 * scale, seed=seed, scale=scale)
        assert lr.shape == (4, 32, 32, 3) and hr.shape == (4, 32 * scale, 32 * scale, 3)
        for small, large in zip(lr, hr, strict=True):
            reduced = cv2.resize(large, (32, 32), interpolation=cv2.INTER_AREA)
            shifts.append(shift_between(small.astype(float), reduced.astype(float)))
    assert np.abs(shifts).max() < 0.1 and np.abs(np.mean(shifts, 0)).max() < 0.02


@pytest.mark.parametrize("codec", ["none", "h264", "h265", "mpeg2", "mpeg4", "flv"])
def test_each_frame_of_lr_shows_the_frame_of_hr(codec: str) -> None:
    options = ClipDegradation(
        clean=0.0, noise=(0, 0), codecs=(codec,), interlaced=0.0, sharpened=0.0, h264_crf=(17, 20), h265_crf=(17, 20),
        mpeg2_quantiser=(2, 3), mpeg4_quantiser=(2, 3), worst=0.0, again=0.0, lead=3,
    )  # fmt: skip
    clip = np.repeat(np.repeat(moving(24, 24, 9, grain=2), 4, 1), 4, 2)
    for seed in range(5):
        lr, hr = degraded(clip, options, frames=5, seed=seed)
        reduced = np.stack([cv2.resize(frame, (16, 16), interpolation=cv2.INTER_AREA) for frame in hr])
        distances = np.abs(lr[:, None].astype(float) - reduced[None]).mean((2, 3, 4))
        assert distances.argmin(1).tolist() == [0, 1, 2, 3, 4]


def test_hr_is_the_end_of_the_clip_untouched() -> None:
    clip = moving(64, 64, 9)
    for seed in range(8):
        _, hr = degraded(clip, replace(ClipDegradation(), lead=3), seed=seed, crop=48)
        last = clip[-4:]
        places = [(y, x) for y in range(0, 17, 4) for x in range(0, 17, 4)]
        assert any((last[:, y : y + 48, x : x + 48] == hr).all() for y, x in places)


def test_clean_is_bicubic_or_bd() -> None:
    clip = moving(64, 64, 4)
    lr, hr = degraded(clip, CLEAN)
    tensor = np.ascontiguousarray(hr.transpose(0, 3, 1, 2))
    expected = reduce(torch.from_numpy(tensor).float() / 255, 4).mul(255).round().numpy().transpose(0, 2, 3, 1)
    assert np.abs(lr[:, 2:-2, 2:-2].astype(int) - expected[:, 2:-2, 2:-2]).max() <= 1
    # A point under BD: the Gaussian of 1.5 pixels at the distance of LR pixels' centres from it.
    point = np.zeros((1, 64, 64, 3), np.uint8)
    point[0, 29, 29] = 255
    centres = 4 * np.arange(16) + 1.5
    along = np.exp(-((centres - 29) ** 2) / (2 * 1.5**2))
    along /= np.exp(-((np.arange(-60, 60) + 0.5) ** 2) / (2 * 1.5**2)).sum()
    lr, _ = degraded(point, replace(CLEAN, gaussian=1.0), frames=1)
    assert np.abs(lr[0, ..., 0] - 255 * along[:, None] * along).max() <= 0.51


def test_the_codec_sees_frames_before_the_clip() -> None:
    options = replace(PLAIN, codecs=("h264",), h264_crf=(33, 33), worst=0.0, lead=4)
    clip = moving(64, 64, 8, grain=2)
    firsts = {degraded(clip, options, seed=seed)[0][0].tobytes() for seed in range(12)}
    fresh = {degraded(clip[-4:], options, seed=seed)[0][0].tobytes() for seed in range(12)}
    assert len(firsts) > len(fresh)


def test_sharpening_leaves_halos() -> None:
    edge = np.full((4, 64, 64, 3), 60, np.uint8)
    edge[:, :, 32:] = 190
    options = replace(PLAIN, sharpened=1.0, sharpening=(1.5, 1.5), sharpening_radius=(2.0, 2.0))
    sharp, plain = same_but_for(options, edge)
    assert plain.min() >= 45 and sharp.min() < 50 and sharp.max() > 200
    assert abs(int(sharp[0, 0, 0, 0]) - 60) <= 1  # far from the edge nothing changes


def test_interlace_leaves_doubled_lines_or_combs() -> None:
    lines = np.zeros((4, 64, 64, 3), np.uint8)
    lines[:, 0::8] = lines[:, 1::8] = lines[:, 2::8] = lines[:, 3::8] = 200
    woven, doubled = 0, 0
    for seed in range(12):
        still, plain = same_but_for(replace(PLAIN, interlaced=1.0), lines, seed)
        woven += bool((still == plain).all())  # combs need motion
        doubled += bool(np.ptp(still[:, 2:-2].astype(int)) < 30)  # one field lost its lines
    assert woven and doubled and woven + doubled == 12
    slow = np.stack([np.full((64, 64, 3), 100 + 5 * frame, np.uint8) for frame in range(4)])
    fast = np.stack([np.full((64, 64, 3), 60 * frame, np.uint8) for frame in range(4)])
    combs = [np.ptp(same_but_for(replace(PLAIN, interlaced=1.0), slow, seed)[0][0]) for seed in range(12)]
    assert {int(comb) for comb in combs} <= {0, 2, 3} and max(combs) > 0
    pairs = [same_but_for(replace(PLAIN, interlaced=1.0), fast, seed) for seed in range(12)]
    assert all((lr == plain).all() for lr, plain in pairs)  # too fast to count as still


def test_a_clip_that_was_compressed_before_has_lost_more() -> None:
    clip = moving(64, 64, 4, grain=2)
    once = replace(PLAIN, codecs=("h264",), h264_crf=(28, 28), worst=0.0)
    _, hr = degraded(clip, PLAIN)
    plain = degraded(clip, PLAIN)[0].astype(float)
    errors = [
        np.mean([np.abs(degraded(clip, options, seed=seed)[0] - plain).mean() for seed in range(6)])
        for options in (once, replace(once, again=1.0))
    ]
    assert errors[1] > 1.1 * errors[0]


def test_the_worst_clips_exceed_the_range_of_qualities() -> None:
    clip = moving(64, 64, 4, grain=2)
    plain = degraded(clip, PLAIN)[0].astype(float)
    for codec in ("h264", "h265"):
        options = replace(PLAIN, codecs=(codec,), h264_crf=(24, 24), h265_crf=(24, 24), worst_crf=45)
        usual, worst = (
            [np.abs(degraded(clip, replace(options, worst=share), seed=seed)[0] - plain).mean() for seed in range(4)]
            for share in (0.0, 1.0)
        )
        assert np.mean(worst) > 1.2 * np.mean(usual)


def test_noise_is_new_in_each_frame() -> None:
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    lr, _ = degraded(grey, replace(PLAIN, noise=(4.0, 4.0)))
    assert 3 < lr.std() < 5 and abs(np.corrcoef(lr[0].ravel(), lr[1].ravel())[0, 1]) < 0.15


def test_clips_depend_on_the_random_numbers_alone() -> None:
    clip = moving(96, 96, 8)
    one, same, other = (degraded(clip, ClipDegradation(), seed=seed) for seed in (4, 4, 5))
    assert (one[0] == same[0]).all() and (one[1] == same[1]).all()
    assert one[0].tobytes() != other[0].tobytes()
    assert one[0].flags.c_contiguous and one[1].flags.c_contiguous


def test_the_region_holds_the_context() -> None:
    assert clip_region_size(ClipDegradation(context=8), 192, 4) == 256
    assert clip_region_size(ClipDegradation(context=0), 64, 2) == 64


@pytest.mark.parametrize(
    ("clip", "frames", "crop", "message"),
    [
        (np.zeros((4, 64, 64), np.uint8), 4, 64, "expected a clip"),
        (np.zeros((4, 64, 64, 3), np.float32), 4, 64, "expected a clip"),
        (np.zeros((4, 64, 64, 3), np.uint8), 4, 62, "multiples of 4, got 62"),
        (np.zeros((4, 66, 64, 3), np.uint8), 4, 64, "multiples of 4"),
        (np.zeros((4, 64, 64, 3), np.uint8), 5, 64, "4 frames of 64x64 is too small for 5 frames of 64"),
        (np.zeros((4, 64, 32, 3), np.uint8), 4, 64, "4 frames of 32x64 is too small for 4 frames of 64"),
    ],
)
def test_invalid_clips_are_refused(clip: Clip, frames: int, crop: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degraded(clip, ClipDegradation(), frames=frames, crop=crop)
