"""What a run writes down of its generator: the moving average, centred.

Nothing in an adversarial loss holds the mean of a channel fast, and the median that L1 seeks is not the mean. Models
came out up to 1.2 codes of 255 too bright or too dark, in every picture by nearly as much; the three biases of the tail
take it out again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor

from vsr.networks.srgan import Generator
from vsr.training.batches import Batches
from vsr.training.update import Game

CROPS = 128
"""How many are looked at: the mean error of single pictures deviates by half a code, and so theirs by a twentieth."""


def centred(game: Game, batches: Batches) -> Generator:
    """A copy of a run's moving average in eval mode, centred on its first crops; the run itself stays as it is.

    Args:
        game: the run.
        batches: what it is trained on; the crops are the same for any number of processes.
    """
    network = cast(Generator, deepcopy(game.ema.module)).eval()
    with closing(batches.whole().stream(range(-(-CROPS // game.recipe.batch_size)))) as pairs:
        centre(network, pairs)
    return network


@torch.no_grad()
def centre(network: Generator, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Make the mean of what a generator puts out that of the originals, by channel, through the biases of its tail.

    Exact where nothing is clipped and no tanh comes after; elsewhere a part of the way, and never beyond.

    Args:
        network: in eval mode; changed in place.
        pairs: LR (N, 3, h, w) and HR (N, 3, scale*h, scale*w) in [0, 1], at least one.
    """
    errors = [network(lr).clamp(0, 1).mean((0, 2, 3)) - hr.mean((0, 2, 3)) for lr, hr in pairs]
    shift = torch.stack(errors).mean(0) / _greatest_slope(network)
    assert network.tail.bias is not None
    if bool(shift.isfinite().all()):  # else there is nothing left to save
        network.tail.bias -= shift


def _greatest_slope(network: Generator) -> Tensor | float:
    """What a pixel gains at most where the bias gains 1."""
    if network.tanh:
        return 0.5
    return network.deviation.flatten() if network.normalisation == "imagenet" else 1.0
