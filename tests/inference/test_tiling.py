from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vsr.inference.engine import blend_weights, tile_starts, upscale_tiled

GRID = [
    (length, tile_size, overlap)
    for length in [*range(1, 71), 97, 128, 255, 480, 1001]
    for tile_size in (1, 2, 3, 5, 8, 13, 16, 24, 33, 48, 64)
    for overlap in (0, 1, 2, 4, 7, 12, 16, 32, 63)
    if overlap < tile_size
]


def test_tiles_cover_an_axis_exactly_and_overlap_enough() -> None:
    for length, tile_size, overlap in GRID:
        starts, size = tile_starts(length, tile_size, overlap)
        case = f"{length} pixels in tiles of {tile_size} sharing {overlap}: {starts} of {size}"
        assert starts[0] == 0 and starts[-1] + size == length, case
        assert size <= tile_size, case
        assert all(left < right and left + size - right >= overlap for left, right in pairwise(starts)), case
        if length > tile_size:
            # The fewest tiles: one less, as large as allowed, would fall short.
            assert tile_size + (len(starts) - 2) * (tile_size - overlap) < length, case
            assert tile_size + (len(starts) - 1) * (tile_size - overlap) >= length, case


@pytest.mark.parametrize(
    ("length", "tile_size", "overlap", "expected"),
    [
        (100, 100, 32, ([0], 100)),
        (99, 100, 32, ([0], 99)),
        (101, 100, 32, ([0, 34], 67)),
        (300, 128, 32, ([0, 89, 178], 122)),  # three tiles have 300 + 2 * 32 pixels
        (10, 4, 0, ([0, 3, 6], 4)),
    ],
)
def test_tiles_by_hand(length: int, tile_size: int, overlap: int, expected: tuple[list[int], int]) -> None:
    assert tile_starts(length, tile_size, overlap) == expected


@pytest.mark.parametrize(("tile_size", "overlap"), [(32, 32), (31, 32), (1, 1), (0, 0)])
def test_tiles_no_larger_than_their_overlap_are_refused(tile_size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"tiles of {tile_size} pixels must be larger than their overlap of {overlap}"):
        tile_starts(100, tile_size, overlap)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_weights_sum_to_one(scale: int) -> None:
    for length, tile_size, overlap in GRID[::7]:
        starts, size = tile_starts(length, tile_size, overlap)
        weights = blend_weights(starts, size, length, scale)
        assert weights.shape == (len(starts), size * scale) and weights.dtype == torch.float32
        assert float(weights.min()) >= 0
        total = torch.zeros(length * scale, dtype=torch.float64)
        for start, weight in zip(starts, weights, strict=True):
            total[start * scale : (start + size) * scale] += weight
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_weights_by_hand() -> None:
    """Of eight shared pixels the outer quarter at each tile's edge is dropped and the middle half blended."""
    weights = blend_weights([0, 8], 16, 24, 1)
    rise = [0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1]
    torch.testing.assert_close(weights[0], torch.tensor([1.0] * 8 + rise[::-1]))
    torch.testing.assert_close(weights[1], torch.tensor(rise + [1.0] * 8))


def noise(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


class Convolution:
    """Uses ``radius`` pixels around each, with zero padding, and repeats pixels; notes the sizes."""

    def __init__(self, radius: int, scale: int) -> None:
        self.radius, self.scale = radius, scale
        size = 2 * radius + 1
        self.weight = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1)) / size**2
        self.seen: list[tuple[int, int]] = []

    def __call__(self, lr: Tensor) -> Tensor:
        self.seen.append((lr.shape[-2], lr.shape[-1]))
        features = functional.conv2d(lr, self.weight, padding=self.radius)
        return functional.interpolate(features, scale_factor=self.scale, mode="nearest")


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("overlap", [0, 1, 5, 16])
@pytest.mark.parametrize("size", [(50, 70), (17, 90), (90, 17), (23, 23)], ids=str)
def test_tiles_of_a_pointwise_network_are_seamless(size: tuple[int, int], overlap: int, scale: int) -> None:
    network, lr = Convolution(0, scale), noise(*size)
    sr = upscale_tiled(network, lr, scale=scale, tile_size=20, overlap=overlap)
    assert sr.shape == (2, 3, scale * size[0], scale * size[1]) and sr.dtype == torch.float32
    assert all(max(seen) <= 20 for seen in network.seen) and len(set(network.seen)) == 1
    torch.testing.assert_close(sr, network(lr), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("overlap", [8, 12, 16])
def test_a_receptive_field_within_a_quarter_of_the_overlap_is_seamless(overlap: int, scale: int) -> None:
    lr = noise(61, 80)
    network = Convolution(overlap // 4, scale)
    sr = upscale_tiled(network, lr, scale=scale, tile_size=28, overlap=overlap)
    assert len(network.seen) > 4
    torch.testing.assert_close(sr, network(lr), rtol=0, atol=2e-6)


def test_a_receptive_field_beyond_a_quarter_of_the_overlap_shows() -> None:
    lr = noise(61, 80)
    network = Convolution(4, 1)
    sr = upscale_tiled(network, lr, scale=1, tile_size=28, overlap=8)
    assert (sr - network(lr)).abs().max() > 1e-2


def test_half_precision_is_blended_in_float32() -> None:
    lr = noise(40, 40)
    network = Convolution(0, 2)
    sr = upscale_tiled(lambda tile: network(tile.float()).half(), lr.half(), scale=2, tile_size=24, overlap=8)
    assert sr.dtype == torch.float32
    torch.testing.assert_close(sr, network(lr.half().float()).half().float(), rtol=0, atol=1e-6)


def test_a_frame_of_one_tile_is_run_whole() -> None:
    network, lr = Convolution(2, 2), noise(20, 16)
    sr = upscale_tiled(network, lr, scale=2, tile_size=20, overlap=8)
    assert network.seen == [(20, 16)]
    assert torch.equal(sr, network(lr))


def test_impossible_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="tiles of 8 pixels must be larger than their overlap of 8"):
        upscale_tiled(Convolution(0, 1), noise(40, 40), scale=1, tile_size=8, overlap=8)
