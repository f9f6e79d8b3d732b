"""Orientation from display matrices."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from vsr.media.clip import TURN, UPRIGHT, orientation_of


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("a", "d"), list(product((TURN, -TURN), repeat=2)))
def test_pixels_are_moved_as_the_matrix_says(a: int, d: int, turned: bool) -> None:
    """The centre of a pixel is at x' = a x + c y, y' = b x + d y."""
    picture = torch.rand(3, 3, 5)
    orientation = orientation_of((0, d, 0, a, 0, 0, 0, 0, 1 << 30) if turned else (a, 0, 0, 0, d, 0, 0, 0, 1 << 30))
    assert orientation is not None and orientation.transposed is turned
    result = orientation.upright(picture)
    assert result.shape == ((3, 5, 3) if turned else (3, 3, 5))
    for y, x in product(range(3), range(5)):
        sent_x, sent_y = (a * y, d * x) if turned else (a * x, d * y)
        row, column = (sent_y // TURN) % result.shape[1] - (d < 0), (sent_x // TURN) % result.shape[2] - (a < 0)
        assert torch.equal(result[:, row, column], picture[:, y, x])


def test_without_a_matrix_nothing_is_turned() -> None:
    assert orientation_of(None) == UPRIGHT
    picture = torch.rand(3, 3, 5)
    assert torch.equal(UPRIGHT.upright(picture), picture)


@pytest.mark.parametrize(
    "matrix",
    [(46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30), (TURN, TURN, 0, 0, 0, 0, 0, 0, 1 << 30),
     (2 * TURN, 0, 0, 0, 2 * TURN, 0, 0, 0, 1 << 30)],
)  # fmt: skip
def test_matrices_other_than_quarter_turns(matrix: tuple[int, ...]) -> None:
    assert orientation_of(matrix) is None
