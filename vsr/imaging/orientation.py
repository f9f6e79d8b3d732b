"""Display matrices of ISO/IEC 14496-12 (``tkhd``): how a picture is turned and mirrored before it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

TURN = 1 << 16
"""One, in the 16.16 fixed point of a display matrix."""


@dataclass(frozen=True)
class Orientation:
    """Quarter turns and mirrorings, in the order of the fields."""

    transposed: bool
    """Rows and columns change places."""
    rows_reversed: bool
    """Then the last row comes first."""
    columns_reversed: bool
    """And the last column comes first."""

    def upright(self, image: Tensor) -> Tensor:
        """(..., H, W) as stored -> as it is shown."""
        image = image.transpose(-1, -2) if self.transposed else image
        axes = [axis for axis, turned in ((-2, self.rows_reversed), (-1, self.columns_reversed)) if turned]
        return image.flip(axes) if axes else image


UPRIGHT = Orientation(False, False, False)


def orientation_of(display_matrix: tuple[int, ...] | None) -> Orientation | None:
    """What a display matrix asks for: x' = a x + c y, y' = b x + d y.

    Args:
        display_matrix: nine numbers, row by row: a, b, u, c, d, v, x, y, w; None stands for none.

    Returns:
        None where it asks for anything but quarter turns and mirrorings.
    """
    if display_matrix is None:
        return UPRIGHT
    a, b, _, c, d = display_matrix[:5]
    if sorted(map(abs, (a, b, c, d))) != [0, 0, TURN, TURN] or abs(a) != abs(d):
        return None
    across, down = (a, d) if a else (c, b)
    return Orientation(not a, down < 0, across < 0)
