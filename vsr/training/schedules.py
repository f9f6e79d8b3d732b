"""How the learning rate goes: factors of it, as functions of the step alone, so that no state has to be saved."""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(step: int, steps: int) -> float:
    """The factor of the learning rate that stays one."""
    return 1.0


def one_cycle(step: int, steps: int) -> float:
    """Rises linearly over the first 4 % of ``steps``, then falls to zero along a cosine."""
    warm_up = max(1, round(0.04 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": constant, "one-cycle": one_cycle}
