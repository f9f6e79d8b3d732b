"""Motion of synthetic frames: pans, cuts, occlusion, and compression noise in still regions."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from textures import pan, passing

from vsr.imaging.motion import Codes, Motion, estimate_motion


def texture(height: int, width: int, seed: int = 0) -> Codes:
    """Return blurred coloured noise around middle grey, with structures of some pixels."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip(125 + 30 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def with_noise(picture: Codes, codes: int, seed: int) -> Codes:
    noise = np.random.default_rng(seed).integers(-codes, codes + 1, picture.shape)
    return np.clip(picture.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def bits(motion: Motion) -> str:
    arrays = b"".join(array.tobytes() for array in (motion.flow, motion.trust_high, motion.trust_low))
    return hashlib.sha256(arrays).hexdigest()


@pytest.mark.parametrize(("across", "down"), [(3, 0), (0, -4), (6, 5)])
def test_the_flow_of_a_pan_points_to_its_origin(across: int, down: int) -> None:
    motion = estimate_motion(*pan(texture(128, 160), across, down))
    inside = motion.flow[12:-12, 12:-12]
    assert np.abs(inside - (across, down)).max(axis=(0, 1)) == pytest.approx((0, 0), abs=0.3)
    assert not motion.is_cut
    assert motion.trust_high[12:-12, 12:-12].min() > 0.9
    assert motion.trust_low[12:-12, 12:-12].mean() > 0.9


def test_pixels_that_enter_at_the_border_are_not_trusted() -> None:
    motion = estimate_motion(*pan(texture(128, 160), 8, 0))
    assert motion.trust_high[:, -6:].mean() < 0.05


@pytest.mark.parametrize("codes", [0, 2])
def test_still_regions_have_no_flow(codes: int) -> None:
    """Compression noise moves still regions by fractions of a pixel; following it, textures would swim."""
    picture = texture(96, 128)
    motion = estimate_motion(with_noise(picture, codes, 1), with_noise(picture, codes, 2))
    assert not motion.flow.any()
    assert motion.trust_high.min() > 0.75


def test_flat_regions_have_no_flow() -> None:
    """The flow of a flat region is undefined and would be that of a moving object beside it."""
    frames = []
    for left in (20, 26):
        frame = np.full((96, 160, 3), 90, np.uint8)
        frame[30:66, left : left + 40] = texture(36, 40)
        frames.append(frame)
    motion = estimate_motion(*frames)
    assert not motion.flow[:, 90:].any()
    assert motion.trust_high[:, 90:].min() == motion.trust_low[:, 90:].min() == 1
    assert np.abs(motion.flow[36:60, 34:58] - (-6, 0)).max() < 0.5


def test_letters_in_front_of_motion_have_no_flow() -> None:
    """Between the strokes of a pale caption the flow is that of the background."""
    caption = np.zeros((96, 128), np.uint8)
    cv2.putText(caption, "20 Mbps", (10, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255)
    frames = []
    for frame in pan(texture(128, 160) // 2, 0, 2):
        frame[caption > 100] = 90
        frames.append(frame)
    motion = estimate_motion(*frames)
    dragged = motion.trust_high * (np.linalg.norm(motion.flow, axis=-1) > 0.25)
    assert dragged[caption > 100].mean() < 0.085
    assert np.abs(motion.flow[80:90, 12:-12] - (0, 2)).max() < 0.5


def test_uncovered_pixels_are_not_trusted() -> None:
    frames = passing(texture(128, 160, 1), texture(128, 160, 2))
    motion = estimate_motion(*frames)
    assert motion.trust_high[44:86, 43:50].mean() < 0.2
    assert motion.trust_high[:, 100:].mean() > 0.9


@pytest.mark.parametrize(("codes", "high", "low"), [(0, 1, 1), (3, 0.9, 0.2), (30, 0.01, 0)])
def test_trust_falls_with_the_residual(codes: int, high: float, low: float) -> None:
    """Trust in the low band, which LR shows, falls long before trust in the high one."""
    picture = texture(96, 128)
    brighter = np.clip(picture.astype(np.int16) + codes, 0, 255).astype(np.uint8)
    motion = estimate_motion(picture, brighter)
    assert not motion.is_cut
    assert motion.trust_high.mean() == pytest.approx(high, abs=0.06)
    assert motion.trust_low.mean() == pytest.approx(low, abs=0.06)


def test_nothing_is_trusted_across_a_cut() -> None:
    motion = estimate_motion(texture(96, 128, 1), texture(96, 128, 2))
    assert motion.is_cut
    assert not motion.flow.any() and not motion.trust_high.any() and not motion.trust_low.any()


@pytest.mark.parametrize("change", [40, -40])
def test_a_flash_is_no_cut(change: int) -> None:
    picture = texture(96, 128)
    flash = np.clip(picture.astype(np.int16) + change, 0, 255).astype(np.uint8)
    assert not estimate_motion(picture, flash).is_cut


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5), (11, 11), (15, 64), (16, 16), (17, 33)])
def test_any_size_is_accepted(size: tuple[int, int]) -> None:
    picture = texture(*size)
    motion = estimate_motion(picture, picture)
    assert motion.flow.shape == (*size, 2) and motion.trust_high.shape == motion.trust_low.shape == size
    assert {array.dtype for array in (motion.flow, motion.trust_high, motion.trust_low)} == {np.dtype(np.float32)}
    assert not motion.flow.any() and motion.trust_low.min() == 1 and not motion.is_cut
    assert motion.nbytes == 16 * size[0] * size[1]


def test_arrays_that_are_not_contiguous_give_the_same_result() -> None:
    earlier, later = pan(texture(96, 128), 3, 2)
    mirrored = [np.ascontiguousarray(frame[..., ::-1])[..., ::-1] for frame in (earlier, later)]
    assert bits(estimate_motion(*mirrored)) == bits(estimate_motion(earlier, later))


def test_the_number_of_threads_has_no_effect_and_is_kept() -> None:
    frames = pan(texture(180, 240), 5, 3)
    before = cv2.getNumThreads()
    try:
        results = set()
        for threads in (1, 2, 3, 7):
            cv2.setNumThreads(threads)
            results.add(bits(estimate_motion(*frames)))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert len(results) == 1


def test_another_process_gives_the_same_result(tmp_path: Path) -> None:
    frames = pan(texture(96, 128), 5, 3)
    np.save(tmp_path / "frames.npy", np.stack(frames))
    script = (
        "import hashlib, sys, numpy as np\n"
        "from vsr.imaging.motion import estimate_motion\n"
        "m = estimate_motion(*np.load(sys.argv[1]))\n"
        "arrays = m.flow.tobytes() + m.trust_high.tobytes() + m.trust_low.tobytes()\n"
        "assert 'torch' not in sys.modules\n"
        "sys.stdout.write(hashlib.sha256(arrays).hexdigest())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "frames.npy")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == bits(estimate_motion(*frames))


@pytest.mark.parametrize(
    ("previous", "current", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), "of one size"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), "of one size"),
        (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32), "of uint8"),
    ],
)
def test_other_arrays_are_refused(
    previous: npt.NDArray[np.uint8], current: npt.NDArray[np.uint8], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_motion(previous, current)
