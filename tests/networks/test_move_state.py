"""Moving the state of a recurrent generator along the motion."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vsr.networks.recurrent import RecurrentGenerator, move_state

WIDTH = 7
"""Channels of a state."""


def a_state(n: int = 2, height: int = 6, width: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, WIDTH, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


def moved(state: Tensor, x: float, y: float, trust: float = 1.0) -> Tensor:
    n, _, height, width = state.shape
    flow = torch.tensor([x, y]).expand(n, height, width, 2)
    return move_state(state, flow, torch.full((n, height, width), trust))


def test_a_state_without_motion_is_unchanged() -> None:
    state = a_state()
    assert torch.allclose(moved(state, 0, 0), state, atol=1e-5)


def test_whole_pixels_are_moved_and_edges_are_repeated() -> None:
    state = a_state()
    right = moved(state, 2, 0)
    assert torch.allclose(right[..., :-2], state[..., 2:], atol=1e-5)
    assert torch.allclose(right[..., -2:], state[..., -1:].expand(-1, -1, -1, 2), atol=1e-5)
    down = moved(state, 0, -1)
    assert torch.allclose(down[..., 1:, :], state[..., :-1, :], atol=1e-5)


def test_each_picture_and_pixel_moves_by_its_own_flow() -> None:
    state = a_state()
    flow = torch.zeros(2, 6, 8, 2)
    flow[1, 3, 4, 0] = -3
    result = move_state(state, flow, torch.ones(2, 6, 8))
    assert torch.allclose(result[0], state[0], atol=1e-5)
    assert torch.allclose(result[1, :, 3, 4], state[1, :, 3, 1], atol=1e-5)


def test_half_a_pixel_is_the_mean_of_two() -> None:
    state = a_state()
    assert torch.allclose(moved(state, 0.5, 0)[..., :-1], (state[..., :-1] + state[..., 1:]) / 2, atol=1e-5)


def test_trust_is_a_factor_of_all_channels() -> None:
    state = a_state()
    assert torch.allclose(moved(state, 1, 1, 0.25), moved(state, 1, 1) / 4)
    assert not moved(state, 1, 1, 0.0).any()


def test_a_state_in_bfloat16_moves_by_fractions_of_a_pixel_far_from_the_corner() -> None:
    ramp = (torch.arange(600.0) / 600).expand(1, WIDTH, 4, 600).to(torch.bfloat16)
    result = moved(ramp, 0.25, 0)
    assert result.dtype == torch.bfloat16
    exact = moved(ramp.float(), 0.25, 0).to(torch.bfloat16)
    assert torch.equal(result, exact)


def test_gradients_flow_through_the_movement() -> None:
    state = a_state(1, 3, 4, torch.float64).requires_grad_()
    flow = torch.full((1, 3, 4, 2), 0.3, dtype=torch.float64)
    trust = torch.full((1, 3, 4), 0.5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: move_state(x, flow, trust), state)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_generators_own_state_is_accepted(scale: int) -> None:
    network = RecurrentGenerator(scale=scale, blocks=1, channels=4)
    lr = torch.rand(2, 3, 5, 7)
    _, state = network(lr, network.initial_state(lr))
    result = move_state(state, torch.zeros(2, 5, 7, 2), torch.ones(2, 5, 7))
    assert result.shape == state.shape
    assert torch.allclose(result, state, atol=1e-5)
