"""Clips in training: round trips, the pass through the generator, and the input of the discriminator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vsr.networks.recurrent import RecurrentGenerator, move_state
from vsr.training.step import ClipBatch, Shift, triplets, upscale_clips


def shift(n: int = 2, pairs: int = 3, height: int = 4, width: int = 4) -> Shift:
    return Shift(torch.randn(n, pairs, height, width, 2), torch.rand(n, pairs, height, width))


def clips(frames: int = 4, scale: int = 2) -> ClipBatch:
    lr, hr = torch.rand(2, frames, 3, 4, 4), torch.rand(2, frames, 3, 4 * scale, 4 * scale)
    return ClipBatch(lr, hr, shift(pairs=frames - 1), shift(pairs=frames - 1))


def generator(aligned: bool = True) -> RecurrentGenerator:
    network = RecurrentGenerator(scale=2, blocks=1, channels=4, aligned=aligned)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    return network


def test_a_round_trip_reverses_frames_and_shifts() -> None:
    batch = clips(frames=3)
    both = batch.round_trip()
    assert torch.equal(both.lr, batch.lr[:, [0, 1, 2, 1, 0]]) and torch.equal(both.hr, batch.hr[:, [0, 1, 2, 1, 0]])
    assert batch.before is not None and batch.after is not None and both.before is not None and both.after is not None
    # Frame 1 on the way back comes after frame 2: its shift against the frame before it is that of 1 against 2.
    before = [batch.before.flow[:, 0], batch.before.flow[:, 1], batch.after.flow[:, 1], batch.after.flow[:, 0]]
    assert torch.equal(both.before.flow, torch.stack(before, 1))
    after = [batch.after.trust[:, 0], batch.after.trust[:, 1], batch.before.trust[:, 1], batch.before.trust[:, 0]]
    assert torch.equal(both.after.trust, torch.stack(after, 1))


def test_a_round_trip_without_motion() -> None:
    plain = ClipBatch(torch.rand(1, 3, 3, 4, 4), torch.rand(1, 3, 3, 8, 8)).round_trip()
    assert plain.lr.shape[1] == 5 and plain.before is None and plain.after is None
    with pytest.raises(ValueError, match="needs both shifts"):
        ClipBatch(plain.lr, plain.hr, before=shift()).round_trip()


@pytest.mark.parametrize("aligned", [False, True])
def test_the_state_is_passed_from_frame_to_frame(aligned: bool) -> None:
    batch, network = clips(frames=3), generator(aligned)
    found = upscale_clips(network, network, batch)
    state = network.initial_state(batch.lr[:, 0])
    for number in range(3):
        if aligned and number:
            assert batch.before is not None
            flow, trust = batch.before.flow[:, number - 1], batch.before.trust[:, number - 1]
            state = move_state(state, flow, trust)
        sr, state = network(batch.lr[:, number], state)
        torch.testing.assert_close(found[number], sr)


def test_an_aligned_generator_needs_the_motion() -> None:
    network = generator(aligned=True)
    with pytest.raises(ValueError, match="needs the motion"):
        upscale_clips(network, network, ClipBatch(torch.rand(1, 2, 3, 4, 4), torch.rand(1, 2, 3, 8, 8)))


@pytest.mark.parametrize(("backprop_frames", "reached"), [(0, [0, 1, 2, 3]), (1, [3]), (2, [2, 3]), (3, [3])])
def test_gradients_are_cut_off_at_the_interval(backprop_frames: int, reached: list[int]) -> None:
    batch, network = clips(), generator()
    lr = batch.lr.requires_grad_()
    last = upscale_clips(network, network, batch, backprop_frames=backprop_frames)[-1]
    (gradient,) = torch.autograd.grad(last.sum(), lr)
    assert [number for number in range(4) if bool(gradient[:, number].any())] == reached


def test_triplets_are_still_clips_and_neighbours_warped_onto_the_middle() -> None:
    """A motion of one LR pixel per frame to the right is still after the neighbours are warped."""
    wide = torch.rand(2, 3, 16, 40)

    def view(number: int) -> Tensor:
        return wide[..., 12 - 2 * number : 28 - 2 * number]

    frames = [view(number) for number in range(4)]
    flow = torch.zeros(2, 3, 8, 8, 2)
    flow[..., 0] = -1  # was a pixel to the left before
    trust = torch.ones(2, 3, 8, 8)
    batch = ClipBatch(torch.rand(2, 4, 3, 8, 8), torch.stack(frames, 1), Shift(flow, trust), Shift(-flow, trust))
    seen = triplets(frames, batch, [1, 2])
    assert seen.shape == (8, 9, 16, 16)
    for clip in range(2):
        for place, middle in ((0, 1), (2, 2)):
            moved, still = seen[4 * clip + place], seen[4 * clip + place + 1]
            assert torch.equal(still, frames[middle][clip].repeat(3, 1, 1))
            assert torch.equal(moved[3:6], frames[middle][clip])
            for neighbour in (moved[:3], moved[6:]):
                torch.testing.assert_close(neighbour[..., 4:-4], frames[middle][clip][..., 4:-4], atol=1e-5, rtol=0)
