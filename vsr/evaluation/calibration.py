"""What int8 has to know of a model, measured on pictures and kept in its weights file."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from vsr.evaluation.pictures import Pair, find_pictures, read_pair
from vsr.inference.quantisation import calibrate
from vsr.networks.weights import Network, load_generator, save_calibration

PICTURES = 32
"""How many are looked at, at most: the figures of the models that ship were measured with so many."""

EDGE = 128
"""LR pixels that are taken of a picture each way, from its middle."""


def calibrate_file(path: Path, data: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Measure a model's calibration on HR pictures, reduced by its scale as MATLAB does, and write it into its file.

    Args:
        path: the weights file; all else in it stays as it is.
        data: a folder of pictures, of which ``PICTURES`` at even distances are taken.
        progress: called with the passes done, and how many there are: two for each picture.

    Returns:
        How many pictures were taken.

    Raises:
        WeightsError: the file is not one of a generator.
        InputError: the folder or a picture cannot be used.
        OutputError: the file cannot be written.
    """
    network = load_generator(path)
    found = find_pictures(data)
    chosen = found[:: -(-len(found) // PICTURES)]
    done = itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(done), 2 * len(chosen))

    pictures = [_lr_of(picture, cast(Network, network).scale) for picture in chosen]
    save_calibration(path, calibrate(network, pictures, tick))
    return len(chosen)


def _lr_of(picture: Path, scale: int) -> Tensor:
    _, lr = read_pair(Pair(picture), scale)
    top, left = (max(0, (length - EDGE) // 2) for length in lr.shape[-2:])
    return lr[..., top : top + EDGE, left : left + EDGE].to(torch.float32) / 255
