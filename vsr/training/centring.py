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
from torch import Tensor, nn

from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.srgan import Generator
from vsr.training.batches import Batches, ClipBatches
from vsr.training.sequence import ClipBatch, upscale_clips
from vsr.training.update import Game

CROPS = 128
"""How many are looked at: the mean error of single pictures deviates by half a code, and so theirs by a twentieth."""
CLIPS = 32
"""How many clips, whose frames are much alike."""


def centred(game: Game, batches: Batches | ClipBatches) -> nn.Module:
    """A copy of a run's moving average in eval mode, centred on its first crops; the run itself stays as it is.

    Args:
        game: the run.
        batches: what it is trained on; the crops are the same for any number of processes.
    """
    network = deepcopy(game.ema.module).eval()
    whole = batches.whole()
    if isinstance(whole, ClipBatches):
        with closing(whole.stream(range(-(-CLIPS // game.recipe.batch_size)))) as clips:
            centre_recurrent(cast(RecurrentGenerator, network), clips)
    else:
        with closing(whole.stream(range(-(-CROPS // game.recipe.batch_size)))) as pairs:
            centre(cast(Generator, network), pairs)
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


@torch.no_grad()
def centre_recurrent(network: RecurrentGenerator, batches: Iterable[ClipBatch]) -> None:
    """``centre`` for a recurrent generator, over all frames of clips.

    What is taken from the tail's biases goes into the next frame's state as well, whose effect is left out.

    Args:
        network: in eval mode; changed in place.
        batches: at least one.
    """
    errors = []
    for clips in batches:
        sr = upscale_clips(network, network, clips)
        pairs = zip(sr, clips.hr.unbind(1), strict=True)
        errors.append(torch.stack([(found.clamp(0, 1) - hr).mean((0, 2, 3)) for found, hr in pairs]).mean(0))
    shift = torch.stack(errors).mean(0)
    assert network.tail.bias is not None
    if bool(shift.isfinite().all()):
        network.tail.bias.view(3, -1).sub_(shift[:, None])  # the pixels of a colour lie side by side


def _greatest_slope(network: Generator) -> Tensor | float:
    """What a pixel gains at most where the bias gains 1."""
    if network.tanh:
        return 0.5
    return network.deviation.flatten() if network.normalisation == "imagenet" else 1.0
