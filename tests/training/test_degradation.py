from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from textures import shift_between
from torch import Tensor
from torch.nn.functional import interpolate

from vsr.errors import UsageError
from vsr.imaging.resize import resize_bicubic
from vsr.training import compression, degradation
from vsr.training.degradation import degrade, degrade_batch, degrade_picture, reduce, reduction_kernel, region_size
from vsr.training.recipes import VideoDegradation

DEFAULTS = VideoDegradation()
PLAIN = VideoDegradation(
    clean=0.0, blur=(0.0, 0.0), reductions=("area",), noise=(0.0, 0.0), chroma=("yuv444p",), codecs=("none",)
)
"""Windows that move, and nothing else."""


def atlas(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB with row and column as red and green; blue is constant."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 128)], -1).astype(np.uint8)


def texture(size: int, grain: float, seed: int = 0) -> np.ndarray:
    """(size, size, 3) uint8: random, with details of ``grain`` pixels, grey."""
    noise = cv2.GaussianBlur(
        np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32), (0, 0), grain
    )
    return np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, 2)


def bicubic(hr: np.ndarray, scale: int) -> np.ndarray:
    """(H, W, 3) uint8 -> float codes, neither rounded nor clipped."""
    tensor = torch.from_numpy(hr).permute(2, 0, 1).double()
    return resize_bicubic(tensor, hr.shape[0] // scale, hr.shape[1] // scale).permute(1, 2, 0).numpy()


def test_reduce_is_bicubic_rounded_to_8_bits() -> None:
    hr = torch.randint(256, (2, 3, 32, 24)) / 255
    expected = (resize_bicubic(hr, 8, 6) * 255).round().clamp(0, 255) / 255
    assert torch.equal(reduce(hr, 4), expected)
    assert reduce(torch.full((1, 3, 16, 16), 3 / 255), 8).mul(255).unique().tolist() == [3]


def test_a_region_has_room_for_crop_context_and_path() -> None:
    options = VideoDegradation(motion=8, frames=4, context=8)
    assert region_size(options, 96, 4) == 96 + 2 * 8 * 4 + 8 * 3
    assert region_size(replace(options, motion=0.5), 96, 4) == 96 + 64 + 4  # 1.5 rounded up to the scale
    assert region_size(replace(options, frames=1, context=0), 96, 8) == 96


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("reduction", ["bicubic", "area", "bilinear"])
def test_kernels_are_those_of_known_resizers(reduction: str, scale: int) -> None:
    hr = np.random.default_rng(0).integers(256, size=(16 * scale, 16 * scale, 3), dtype=np.uint8)
    options = replace(PLAIN, reductions=(reduction,), motion=0.0, context=0)
    lr, same = degrade(hr, 16 * scale, scale, options, np.random.default_rng(0))
    assert (same == hr).all()
    tensor = torch.from_numpy(hr).permute(2, 0, 1)[None].double()
    known = {
        "bicubic": lambda: bicubic(hr, scale),
        "area": lambda: cv2.resize(hr, (16, 16), interpolation=cv2.INTER_AREA),
        "bilinear": lambda: interpolate(tensor, (16, 16), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy(),
    }[reduction]()
    inner = slice(2, -2)  # resizers differ at borders
    # Once through 8-bit YUV and back, whose rounding costs up to two codes.
    assert np.abs(lr[inner, inner].astype(float) - known.clip(0, 255)[inner, inner]).max() <= 2.5
    assert abs(np.mean(lr[inner, inner].astype(float) - known.clip(0, 255)[inner, inner])) < 0.2
    assert reduction_kernel(reduction, scale).sum() == pytest.approx(1)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("reduction", ["bicubic", "area", "bilinear"])
@pytest.mark.parametrize("codec", ["none", "h264", "h265", "mpeg2"])
def test_lr_is_exactly_aligned_with_hr(codec: str, reduction: str, scale: int) -> None:
    options = VideoDegradation(
        clean=0.0, blur=(1.0, 1.0), reductions=(reduction,), noise=(0.0, 0.0), codecs=(codec,), motion=6.0,
        h264_crf=(8, 8), h265_crf=(8, 8), mpeg2_quantiser=(2, 2),
    )  # fmt: skip
    crop = 32 * scale
    region = texture(region_size(options, crop, scale), grain=1.5 * scale)
    shifts = []
    for seed in range(4):
        lr, hr = degrade(region, crop, scale, options, np.random.default_rng(seed))
        shifts.append(shift_between(lr, bicubic(hr, scale)))
    assert np.abs(shifts).max() < 0.05
    beside = bicubic(np.roll(hr, 1, 1), scale)  # the measurement resolves one HR pixel
    assert shift_between(lr, beside)[1] == pytest.approx(-1 / scale, abs=0.07)


def test_clean_crops_are_bicubic_and_nothing_else() -> None:
    region = np.random.default_rng(0).integers(256, size=(60, 50, 3), dtype=np.uint8)
    lr, hr = degrade_batch([region] * 8, 32, 4, replace(DEFAULTS, clean=1.0), seed=0, step=0)
    assert torch.equal(lr, reduce(hr / 255, 4).mul(255).round().to(torch.uint8))
    assert len({crop.numpy().tobytes() for crop in hr}) > 4  # from all over the region


def test_the_share_of_clean_crops_is_kept() -> None:
    region = texture(48, 2)
    options = replace(DEFAULTS, clean=0.3, codecs=("none",), noise=(3, 3))
    lr, hr = degrade_batch([region] * 400, 32, 4, options, seed=0, step=0)
    same = (lr == reduce(hr / 255, 4).mul(255).round().to(torch.uint8)).flatten(1).all(1)
    assert 0.22 < same.float().mean() < 0.38


def test_noise_has_the_requested_strength() -> None:
    grey = np.full((128, 128, 3), 120, np.uint8)
    options = replace(PLAIN, noise=(5.0, 5.0), motion=0)
    shares = []
    for seed in range(24):
        lr, _ = degrade(grey, 128, 4, options, np.random.default_rng(seed))
        assert lr.reshape(-1, 3).std(0) == pytest.approx([5.0] * 3, rel=0.12)
        shares.append(np.corrcoef(lr.reshape(-1, 3).T)[0, 1])
    assert min(shares) < 0.2 and max(shares) > 0.8  # noise of colour, of luma, and between


def test_noise_is_new_in_each_frame_and_small_noise_is_common(clips: list[np.ndarray]) -> None:
    grey = np.full((96, 96, 3), 120, np.uint8)
    for seed in range(100):
        degrade(grey, 96, 4, replace(PLAIN, noise=(0.0, 8.0), motion=0), np.random.default_rng(seed))
    strengths = np.array([clip.std() for clip in clips])
    assert np.median(strengths) == pytest.approx(2, abs=0.6)  # 8 times the square of a half
    assert 6 < strengths.max() < 8.5
    loud = clips[int(strengths.argmax())].astype(float) - 120
    assert abs(np.corrcoef(loud[0].ravel(), loud[1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("sigma", [1.6, 4.0])
def test_blur_widens_an_edge_by_its_variance(scale: int, sigma: float) -> None:
    edge = np.full((16 * scale, 32 * scale, 3), 40, np.uint8)
    edge[:, 16 * scale :] = 200
    for picture, axis in ((edge, -1), (edge.transpose(1, 0, 2), -2)):
        lr, _ = degrade_picture(picture, scale, replace(PLAIN, blur=(sigma, sigma)), seed=0)
        profile = lr.double().mean(0).mean(-2 if axis == -1 else -1).numpy()
        steps, places = np.diff(profile), np.arange(31)
        centre = (steps * places).sum() / steps.sum()
        variance = (steps * (places - centre) ** 2).sum() / steps.sum()
        assert centre == pytest.approx(15, abs=0.02)
        # In LR pixels: the Gaussian, given for x4, and two boxes of scale steps, the pixel's area and the difference.
        assert variance == pytest.approx((sigma / 4) ** 2 + (1 - scale**-2) / 6, rel=0.06)


def test_blur_differs_between_axes_by_a_quarter_at_most() -> None:
    spot = np.zeros((128, 128, 3), np.uint8)
    spot[60:68, 60:68] = 255
    ratios = []
    for seed in range(30):
        lr, _ = degrade(spot, 128, 4, replace(PLAIN, blur=(6.0, 6.0), motion=0), np.random.default_rng(seed))
        weights, places = lr.astype(float).sum(-1), np.arange(32) - 15.5
        spread = [(weights.sum(1 - axis) * places**2).sum() / weights.sum() for axis in (0, 1)]
        ratios.append((spread[0] / spread[1]) ** 0.5)
    assert 1.25**-2 < min(ratios) < 0.85 and 1.15 < max(ratios) < 1.25**2


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The frames that are filmed, before they are stored without compression."""
    seen: list[np.ndarray] = []
    original = compression.subsample

    def record(frames: np.ndarray, *, pixel_format: str) -> np.ndarray:
        seen.append(frames)
        return original(frames, pixel_format=pixel_format)

    monkeypatch.setattr(compression, "subsample", record)
    return seen


@pytest.fixture
def corners(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """(T, 2) of each clip: where its frames begin in the region, in HR pixels."""
    seen: list[np.ndarray] = []
    original = degradation._draw_path

    def record(*given: Any) -> degradation._Path:
        path = original(*given)
        seen.append(np.array(path.corners))
        return path

    monkeypatch.setattr(degradation, "_draw_path", record)
    return seen


def test_windows_move_at_a_constant_speed(clips: list[np.ndarray], corners: list[np.ndarray]) -> None:
    options = replace(PLAIN, motion=8.0, still=0.0)
    size = region_size(options, 96, 4)
    for seed in range(60):
        degrade(atlas(size, size), 96, 4, options, np.random.default_rng(seed))
        # Each frame shows its position: the middle of 160 pixels, with halves rounded to even numbers.
        assert np.abs(clips[-1][..., :2].mean((1, 2)) - 79.5 - corners[-1]).max() <= 0.5
    assert {clip.shape for clip in clips} == {(4, 40, 40, 3)}
    steps = np.diff(np.stack(corners), axis=1)  # (60, 3, 2)
    mean = steps.mean(1, keepdims=True)
    speeds = np.hypot(*mean[:, 0].T)
    assert 6 < speeds.max() <= 8 + 1.5 and np.quantile(speeds, 0.25) < 4
    assert np.abs(steps - mean).max() <= 3  # the jitter of two frames, and rounding
    assert (mean > 1).any(0).all() and (mean < -1).any(0).all()  # every direction
    assert (np.stack(corners) % 4 == np.arange(4)[:, None, None, None]).any((1, 2)).all()  # parts of an LR pixel


def test_some_windows_do_not_move(corners: list[np.ndarray]) -> None:
    for seed in range(100):
        degrade(atlas(184, 184), 96, 4, replace(PLAIN, still=0.3), np.random.default_rng(seed))
    still = np.array([np.ptp(path, axis=0).max() == 0 for path in corners])
    assert 0.15 < still.mean() < 0.45


def test_a_later_frame_is_shown_from_anywhere_in_the_window(corners: list[np.ndarray]) -> None:
    shown, places = [], set()
    for seed in range(100):
        region = atlas(184, 184)
        _, hr = degrade(region, 96, 4, replace(PLAIN, still=0.0), np.random.default_rng(seed))
        y, x = (int(code) for code in hr[0, 0, :2])
        assert (hr == region[y : y + 96, x : x + 96]).all()
        offsets = (y, x) - corners[-1]
        fitting = [t for t, offset in enumerate(offsets) if (offset % 4 == 0).all() and offset.min() >= 0]
        assert fitting and (fitting != [0])
        if len(fitting) == 1:  # else frames lie a multiple of the scale apart
            shown += fitting
            places.add(tuple(offsets[fitting[0]] // 4))
    assert {1, 2, 3} == set(shown)
    assert len(places) > 50 and {place for pair in places for place in pair} == set(range(17))


@pytest.mark.parametrize("size", [(32, 32), (33, 35), (32, 120), (61, 47), (300, 200)])
def test_small_and_large_regions(size: tuple[int, int]) -> None:
    for seed in range(12):
        region = atlas(*size) if max(size) < 256 else np.resize(atlas(256, 256), (*size, 3))
        lr, hr = degrade(region, 32, 4, DEFAULTS, np.random.default_rng(seed))
        assert lr.shape == (8, 8, 3) and hr.shape == (32, 32, 3)
        assert lr.dtype == hr.dtype == np.uint8
        assert lr.flags.c_contiguous and hr.flags.c_contiguous
        assert np.abs(lr.mean((0, 1)) - hr.mean((0, 1))).max() < 12


def test_one_frame_is_enough() -> None:
    lr, hr = degrade(texture(96, 4), 64, 4, replace(DEFAULTS, frames=1), np.random.default_rng(3))
    assert lr.shape == (16, 16, 3) and hr.shape == (64, 64, 3)


def test_degradation_depends_on_seed_and_step_alone() -> None:
    regions = [texture(150, 3, seed) for seed in range(6)]
    lr, hr = degrade_batch(regions, 64, 4, DEFAULTS, seed=1, step=2)
    assert lr.shape == (6, 3, 16, 16) and hr.shape == (6, 3, 64, 64) and lr.dtype == hr.dtype == torch.uint8
    again = degrade_batch(regions, 64, 4, DEFAULTS, seed=1, step=2)
    assert torch.equal(again[0], lr) and torch.equal(again[1], hr)
    part = degrade_batch(regions[2:], 64, 4, DEFAULTS, seed=1, step=2, first=2)
    assert torch.equal(part[0], lr[2:]) and torch.equal(part[1], hr[2:])
    for seed, step in ((2, 2), (1, 3)):
        assert not torch.equal(degrade_batch(regions, 64, 4, DEFAULTS, seed=seed, step=step)[0], lr)


def test_threads_change_nothing() -> None:
    def make(step: int) -> Tensor:
        return degrade_batch([texture(110, 3)] * 4, 64, 4, DEFAULTS, seed=0, step=step)[0]

    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(make, range(12)), map(make, range(12))))


def test_mirrored_views_are_accepted() -> None:
    region = texture(110, 3)
    lr, hr = degrade(region[::-1, ::-1].transpose(1, 0, 2), 64, 4, DEFAULTS, np.random.default_rng(0))
    copied = np.ascontiguousarray(region[::-1, ::-1].transpose(1, 0, 2))
    expected = degrade(copied, 64, 4, DEFAULTS, np.random.default_rng(0))
    assert (lr == expected[0]).all() and (hr == expected[1]).all()


def test_a_whole_picture_is_degraded_evenly() -> None:
    picture = texture(150, 4)[:131, :]
    lr, hr = degrade_picture(picture, 4, DEFAULTS, seed=0)
    assert torch.equal(hr, torch.from_numpy(picture[:128, :148]).permute(2, 0, 1))
    assert lr.shape == (3, 32, 37) and lr.dtype == torch.uint8
    assert torch.equal(lr, degrade_picture(picture, 4, DEFAULTS, seed=0)[0])
    assert not torch.equal(lr, degrade_picture(picture, 4, DEFAULTS, seed=1)[0])
    pixels = lr.permute(1, 2, 0).numpy()
    assert np.abs(shift_between(pixels, bicubic(picture[:128, :148], 4))).max() < 0.05


def test_a_picture_is_degraded_by_the_middle_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    def record(frames: np.ndarray, **how: object) -> np.ndarray:
        seen.append({"frames": len(frames), "noise": float(frames[0].std()), **how})
        return frames

    monkeypatch.setattr(compression, "compress", record)
    options = VideoDegradation(noise=(3.0, 9.0), h264_crf=(20, 30), frames=3)
    degrade_picture(np.full((256, 256, 3), 128, np.uint8), 4, options, seed=0)
    noise = seen[0].pop("noise")
    assert noise == pytest.approx(5, rel=0.05)
    assert seen == [{"frames": 3, "codec": "h264", "quality": 25, "pixel_format": "yuv420p", "b_frames": 2}]


@pytest.mark.parametrize(
    ("region", "crop_size", "message"),
    [
        (np.zeros((40, 30, 3), np.uint8), 32, "a region of 30x40 is too small for a crop of 32"),
        (np.zeros((40, 40, 3), np.uint8), 30, "multiple of 4, got 30"),
        (np.zeros((40, 40, 3), np.uint8), 0, "multiple of 4, got 0"),
        (np.zeros((40, 40), np.uint8), 32, "expected a region"),
        (np.zeros((40, 40, 3), np.float32), 32, "expected a region"),
    ],
)
def test_invalid_arguments_are_named(region: np.ndarray, crop_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(region, crop_size, 4, DEFAULTS, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("still", 1.5, r"still is a share in \[0, 1\], got 1.5"),
        ("clean", -0.1, "clean is a share"),
        ("blur", (2.0, 1.0), "blur is a range"),
        ("h264_crf", (20, 52), "h264_crf is a range within 0 to 51, got 20 to 52"),
        ("mpeg2_quantiser", (0, 4), "mpeg2_quantiser is a range within 1 to 31"),
        ("reductions", (), "reductions are of"),
        ("codecs", ("h264", "vp9"), "got vp9"),
        ("frames", 0, "at least one frame"),
    ],
)
def test_invalid_options_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(DEFAULTS, **{field: value})  # type: ignore[arg-type]


def test_bicubic_training_needs_no_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "vsr.training.compression", None)
    spec = importlib.util.spec_from_file_location("alone", degradation.__file__)
    assert spec is not None and spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "alone", alone)
    spec.loader.exec_module(alone)
    assert alone.reduce(torch.zeros(1, 3, 8, 8), 4).shape == (1, 3, 2, 2)
    lr, _ = alone.degrade_batch([texture(32, 2)], 32, 4, replace(DEFAULTS, clean=1.0), seed=0, step=0)
    assert lr.shape == (1, 3, 8, 8)
    with pytest.raises(ImportError):
        alone.degrade_batch([texture(32, 2)], 32, 4, PLAIN, seed=0, step=0)
