"""Invisible pixels do not affect visible ones, which are unchanged."""

from __future__ import annotations

import pytest
import torch

from vsr.imaging.colour import OPAQUE_ENOUGH, fill_invisible

SIZES = ((1, 1), (1, 9), (2, 2), (37, 51), (64, 64))
RED = torch.tensor([220, 40, 40]).view(1, 3, 1, 1) / 255


def alpha_with_holes(height: int, width: int) -> torch.Tensor:
    alpha = torch.rand(2, 1, height, width)
    return torch.where(torch.rand_like(alpha) < 0.6, 0, alpha)


@pytest.mark.parametrize("size", SIZES)
def test_opaque_frames_are_equal_bit_for_bit(size: tuple[int, int]) -> None:
    rgb = torch.rand(2, 3, *size) * 3 - 1
    assert torch.equal(fill_invisible(rgb, torch.ones(2, 1, *size)), rgb)


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_without_a_visible_pixel_is_black(size: tuple[int, int]) -> None:
    assert not fill_invisible(torch.rand(2, 3, *size), torch.zeros(2, 1, *size)).any()


@pytest.mark.parametrize("size", SIZES)
def test_hidden_colour_has_no_influence(size: tuple[int, int]) -> None:
    rgb, alpha = torch.rand(2, 3, *size), alpha_with_holes(*size)
    hidden = [torch.where(alpha > 0, rgb, other) for other in (0.0, 1.0, torch.rand_like(rgb))]
    first, *others = (fill_invisible(picture, alpha) for picture in hidden)
    assert all(torch.equal(first, other) for other in others)
    assert torch.isfinite(first).all()


def test_visible_pixels_keep_their_colour() -> None:
    rgb, alpha = torch.rand(2, 3, 37, 51), alpha_with_holes(37, 51)
    kept = (alpha >= OPAQUE_ENOUGH).expand_as(rgb)
    assert torch.equal(fill_invisible(rgb, alpha)[kept], rgb[kept])


def test_the_colour_of_a_disc_is_continued_everywhere() -> None:
    rows, columns = torch.meshgrid(torch.arange(61), torch.arange(83), indexing="ij")
    alpha = ((rows - 20) ** 2 + (columns - 50) ** 2 < 81).float().expand(1, 1, -1, -1)
    filled = fill_invisible(torch.where(alpha > 0, RED, torch.rand(1, 3, 61, 83)), alpha)
    assert (filled - RED).abs().max() < 1e-6


def test_nearly_invisible_pixels_get_most_colour_from_their_neighbours() -> None:
    alpha = torch.ones(1, 1, 8, 8)
    alpha[..., 3, 3] = OPAQUE_ENOUGH / 10
    rgb = torch.where(alpha < 1, 0, RED)
    changed = fill_invisible(rgb, alpha)[..., 3:4, 3:4]
    assert (changed > RED * 0.86).all() and (changed < RED * 0.91).all()


def test_frames_of_a_batch_do_not_mix() -> None:
    rgb, alpha = torch.rand(2, 3, 16, 16), alpha_with_holes(16, 16)
    alone = torch.cat([fill_invisible(rgb[n : n + 1], alpha[n : n + 1]) for n in (0, 1)])
    assert torch.equal(fill_invisible(rgb, alpha), alone)
