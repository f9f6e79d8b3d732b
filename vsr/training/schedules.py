"""How the learning rate goes: factors of it, as functions of the update alone, so that no state has to be saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def constant(step: int, steps: int, milestones: Sequence[float] = ()) -> float:
    """One, always."""
    return 1.0


def multi_step(step: int, steps: int, milestones: Sequence[float] = ()) -> float:
    """A tenth behind each of the ``milestones``, which are shares of ``steps``."""
    return 0.1 ** sum(step >= round(share * steps) for share in milestones)


def cosine(step: int, steps: int, milestones: Sequence[float] = ()) -> float:
    """Falls from one to zero along half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def one_cycle(step: int, steps: int, milestones: Sequence[float] = ()) -> float:
    """Rises linearly over the first 4 % of ``steps``, then falls to zero along a cosine."""
    warm_up = max(1, round(0.04 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return cosine(step - warm_up, steps - warm_up)


SCHEDULES: dict[str, Callable[[int, int, Sequence[float]], float]] = {
    "constant": constant,
    "multi-step": multi_step,
    "cosine": cosine,
    "one-cycle": one_cycle,
}
