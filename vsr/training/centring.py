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

LEAST_SLOPE = 0.1
"""What a channel's mean gains by a gain of its bias, at least: where all is clipped nothing can be learnt."""


def centred(game: Game, batches: Batches) -> Generator:
    """A copy of a run's moving average in eval mode, centred on its first crops; the run itself stays as it is.

    Args:
        game: the run.
        batches: what it is trained on; of several processes this one's part.
    """
    network = cast(Generator, deepcopy(game.ema.module)).eval()
    with closing(batches.stream(range(-(-CROPS // batches.size)))) as pairs:
        centre(network, pairs)
    return network


def centre(network: Generator, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Make the mean of what a generator puts out that of the originals, by channel, through the biases of its tail.

    One step of Newton's method: exact where nothing is clipped and no tanh comes after.

    Args:
        network: in eval mode; changed in place, and its parameters no longer ask for gradients.
        pairs: LR (N, 3, h, w) and HR (N, 3, scale*h, scale*w) in [0, 1], at least one.
    """
    network.requires_grad_(False)
    assert network.tail.bias is not None
    bias = network.tail.bias.requires_grad_(True)
    errors, slopes = [], []
    for lr, hr in pairs:
        mean = network(lr).clamp(0, 1).mean((0, 2, 3))
        slopes.append(torch.autograd.grad(mean.sum(), bias)[0])
        errors.append(mean.detach() - hr.mean((0, 2, 3)))
    shift = torch.stack(errors).mean(0) / torch.stack(slopes).mean(0).clamp_min(LEAST_SLOPE)
    bias.requires_grad_(False)
    if bool(shift.isfinite().all()):  # else there is nothing left to save
        bias -= shift
