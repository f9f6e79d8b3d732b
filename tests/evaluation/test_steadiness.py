"""Steadiness of generated pictures whose motion, flicker and still regions are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from textures import pan, passing

from vsr.evaluation.steadiness import STILL_REACH, Luma, find_transition, still_change, warping_error


def texture(height: int, width: int, seed: int = 0) -> Luma:
    """Blurred noise around middle grey, with structures a few pixels wide."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(125 + 30 * smooth / smooth.std(), np.float32).clip(16, 235)


@pytest.mark.parametrize(("across", "down"), [(0, 0), (3, 0), (0, -4), (6, 5)])
def test_a_pan_has_no_warping_error(across: int, down: int) -> None:
    earlier, later = pan(texture(128, 160), across, down)
    transition = find_transition(earlier, later)
    error = warping_error(earlier, later, transition)
    assert error is not None and error < 0.1
    assert not transition.is_cut
    moved = np.abs(later - earlier).mean()
    assert moved > 5 or (across, down) == (0, 0)
    # Pixels that enter at the border are not compared, and few others are missing.
    height, width = later.shape
    inside = (height - abs(down)) * (width - abs(across)) / (height * width)
    assert inside - 0.1 < transition.visible.mean() <= inside + 0.01


def test_the_warping_error_of_flicker_is_in_code_values() -> None:
    earlier, later = pan(texture(128, 160), 3, 2)
    transition = find_transition(earlier, later)
    error = warping_error(earlier + 8, later - 8, transition)
    assert error == pytest.approx(16, abs=0.05)


def test_the_output_does_not_influence_the_flow() -> None:
    earlier, later = pan(texture(128, 160), 4, 0)
    frozen = warping_error(earlier, earlier, find_transition(earlier, later))
    assert frozen is not None and frozen > 5


def test_uncovered_pixels_are_not_compared() -> None:
    frames = passing(texture(128, 160, 1), texture(128, 160, 2))
    transition = find_transition(*frames)
    uncovered = transition.visible[42:88, 41:51]
    assert uncovered.mean() < 0.4 < transition.visible.mean()
    everywhere = np.abs(cv2.remap(frames[0], transition.columns, transition.rows, cv2.INTER_CUBIC) - frames[1]).mean()
    error = warping_error(*frames, transition)
    assert error is not None and error < 0.5 * everywhere


def test_nothing_is_compared_across_a_cut() -> None:
    earlier, later = texture(96, 128, 1), texture(96, 128, 2)
    transition = find_transition(earlier, later)
    assert transition.is_cut
    assert warping_error(earlier, later, transition) is None
    assert still_change(earlier, earlier, transition) is None


@pytest.mark.parametrize("change", [16.0, -16.0, 0.0])
def test_flicker_of_the_reference_is_not_a_cut(change: float) -> None:
    earlier = texture(96, 128)
    assert not find_transition(earlier, earlier + change).is_cut


def test_flat_frames_are_no_cut() -> None:
    flat = np.full((64, 64), 16, np.float32)
    transition = find_transition(flat, flat)
    assert not transition.is_cut and transition.visible.all() and transition.still.all()


def test_still_regions_keep_a_distance_from_motion() -> None:
    earlier = texture(64, 128)
    later = earlier.copy()
    later[:, 64:] += 4
    transition = find_transition(earlier, later)
    assert transition.still[:, : 64 - STILL_REACH].all()
    assert not transition.still[:, 64 - STILL_REACH :].any()


def test_still_change_counts_the_still_pixels_alone() -> None:
    earlier = texture(64, 128)
    later = earlier.copy()
    later[:, 64:] += 4
    transition = find_transition(earlier, later)
    output = earlier.copy()
    output[:, :56] -= 2.5
    output[:, 56:] += 100
    assert still_change(earlier, output, transition) == pytest.approx(2.5, abs=1e-4)
    assert still_change(earlier, earlier, transition) == 0


def test_still_change_is_none_if_nothing_is_still() -> None:
    earlier = texture(64, 64)
    assert still_change(earlier, earlier, find_transition(earlier, earlier + 5)) is None


def test_fractions_of_a_code_count() -> None:
    earlier = texture(64, 64)
    transition = find_transition(earlier, earlier)
    assert warping_error(earlier, earlier + 0.25, transition) == pytest.approx(0.25, abs=1e-4)


def test_a_panned_photograph_has_no_warping_error_and_its_flicker_is_exact(shared_data: Path) -> None:
    picture = cv2.imread(str(shared_data / "test/BSD100" / sorted(
        path.name for path in (shared_data / "test/BSD100").iterdir()
    )[0]), cv2.IMREAD_GRAYSCALE)  # fmt: skip
    assert picture is not None
    earlier, later = pan(picture.astype(np.float32), 5, 2)
    transition = find_transition(earlier, later)
    steady = warping_error(earlier, later, transition)
    flickering = warping_error(earlier + 8, later - 8, transition)
    assert steady is not None and steady < 0.1
    assert flickering == pytest.approx(16, abs=0.2)
