"""Upscaling in tiles that overlap and blend, for frames that do not fit into memory whole.

The result of a network near the edge of a tile is spoilt by the padding there. Neighbouring tiles therefore share
``overlap`` pixels: the outer quarter of the share, nearest to each tile's edge, is thrown away, and the middle half is
blended linearly. All tiles of a frame have one size, and the grid depends on the frame's size alone, so that it does
not flicker from frame to frame.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil

import torch
from torch import Tensor


def tile_starts(length: int, tile_size: int, overlap: int) -> tuple[list[int], int]:
    """Where tiles begin along one axis, and how long each is, so that they cover it with the least work.

    Args:
        length: pixels of the axis.
        tile_size: pixels that a tile may have at most.
        overlap: pixels that neighbours share at least; less than ``tile_size``.

    Returns:
        the first pixel of each tile, and the length of all.

    Raises:
        ValueError: tiles that are not longer than their overlap.
    """
    if tile_size <= overlap:
        raise ValueError(f"tiles of {tile_size} pixels must be larger than their overlap of {overlap}")
    if length <= tile_size:
        return [0], length
    count = ceil((length - overlap) / (tile_size - overlap))
    size = ceil((length + (count - 1) * overlap) / count)
    return [round(index * (length - size) / (count - 1)) for index in range(count)], size


def blend_weights(starts: list[int], size: int, length: int, scale: int) -> Tensor:
    """How much of each tile goes into each pixel of the result along one axis.

    Args:
        starts: first LR pixel of each tile.
        size: LR pixels of a tile.
        length: LR pixels of the axis.
        scale: output size over input size.

    Returns:
        (tiles, size * scale) float32; over all tiles the weights of a pixel sum to one.
    """
    position = torch.arange(size * scale, dtype=torch.float64) + 0.5
    weights = torch.ones(len(starts), size * scale, dtype=torch.float64)
    for index, (left, right) in enumerate(zip(starts, starts[1:], strict=False)):
        shared = (left + size - right) * scale
        rising = ((position - shared / 4) / max(shared / 2, 1)).clamp(0, 1)
        weights[index + 1] *= rising
        weights[index] *= rising.flip(0)
    total = torch.zeros(length * scale, dtype=torch.float64)
    spans = [slice(start * scale, (start + size) * scale) for start in starts]
    for span, weight in zip(spans, weights, strict=True):
        total[span] += weight
    return torch.stack([weight / total[span] for span, weight in zip(spans, weights, strict=True)]).float()


def upscale_tiled(
    network: Callable[[Tensor], Tensor], lr: Tensor, *, scale: int, tile_size: int, overlap: int
) -> Tensor:
    """Run ``network`` tile by tile and blend the results.

    Args:
        network: (N, 3, h, w) -> (N, 3, scale*h, scale*w).
        lr: (N, 3, H, W).
        scale: the network's.
        tile_size: the largest edge of a tile, in LR pixels.
        overlap: LR pixels that neighbouring tiles share at least.

    Returns:
        (N, 3, scale*H, scale*W) float32 on the device of ``lr``.
    """
    return _tiled(lambda tile: (network(tile),), (lr,), (scale,), tile_size, overlap)[0]


def step_tiled(
    network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    lr: Tensor, state: Tensor, *, scale: int, tile_size: int, overlap: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run a step of a recurrent ``network`` tile by tile; the tiles are cut from one state and blended into the next.

    Args:
        network: (N, 3, h, w) and (N, S, h, w) -> (N, 3, scale*h, scale*w) and (N, S, h, w).
        lr: (N, 3, H, W).
        state: (N, S, H, W).
        scale: the network's.
        tile_size: the largest edge of a tile, in LR pixels.
        overlap: LR pixels that neighbouring tiles share at least.

    Returns:
        (N, 3, scale*H, scale*W) and (N, S, H, W), float32 on the device of ``lr``.
    """
    sr, following = _tiled(network, (lr, state), (scale, 1), tile_size, overlap)
    return sr, following


def _tiled(
    network: Callable[..., tuple[Tensor, ...]], given: tuple[Tensor, ...], scales: tuple[int, ...], tile_size: int,
    overlap: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What ``network`` makes of tensors of one size; its results have their channels, and are larger by scales."""
    first = given[0]
    height, width = first.shape[-2:]
    tops, rows = tile_starts(height, tile_size, overlap)
    lefts, columns = tile_starts(width, tile_size, overlap)
    down = [blend_weights(tops, rows, height, scale).to(first.device) for scale in scales]
    across = [blend_weights(lefts, columns, width, scale).to(first.device) for scale in scales]
    results = tuple(
        torch.zeros(len(first), each.shape[1], height * scale, width * scale, device=first.device)
        for each, scale in zip(given, scales, strict=True)
    )
    for (i, top), (j, left) in product(enumerate(tops), enumerate(lefts)):
        tiles = network(*(each[..., top : top + rows, left : left + columns] for each in given))
        for number, (tile, scale) in enumerate(zip(tiles, scales, strict=True)):
            target = results[number][
                ..., top * scale : (top + rows) * scale, left * scale : (left + columns) * scale
            ]
            target.addcmul_(tile.float(), torch.outer(down[number][i], across[number][j]))
    return results
