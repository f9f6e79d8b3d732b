"""Clips in training: a batch of them, a recurrent generator's way through one, what a discriminator sees of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vsr.imaging.motion import estimate_motion
from vsr.imaging.warping import enlarge_flow, warp
from vsr.networks.recurrent import RecurrentGenerator, move_state

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""One frame of a recurrent generator: LR and state -> SR and state."""


@dataclass(frozen=True, eq=False)
class Shift:
    """From where in a neighbouring frame each pixel of an LR frame came, for T - 1 pairs of frames in N clips.

    Attributes:
        flow: (N, T-1, h, w, 2) in LR pixels, columns before rows.
        trust: (N, T-1, h, w) in [0, 1].
    """

    flow: Tensor
    trust: Tensor

    def to(self, device: torch.device) -> Shift:
        """The same on a device."""
        return Shift(self.flow.to(device, non_blocking=True), self.trust.to(device, non_blocking=True))

    def joined(self, other: Shift) -> Shift:
        """These pairs, then those of ``other`` in reverse order."""
        return Shift(
            torch.cat((self.flow, other.flow.flip(1)), 1), torch.cat((self.trust, other.trust.flip(1)), 1)
        )


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """A batch of clips, or a part of one.

    Attributes:
        lr: (N, T, 3, h, w) RGB in [0, 1].
        hr: (N, T, 3, H, W) likewise.
        before: the shift of each frame but the first against the frame before it; None where nobody asks for it.
        after: the shift of each frame but the last against the frame after it; likewise.
    """

    lr: Tensor
    hr: Tensor
    before: Shift | None = None
    after: Shift | None = None

    def to(self, device: torch.device) -> ClipBatch:
        """The same on a device, as floats: pictures of uint8 codes come into [0, 1] there."""
        lr, hr = (
            frames.float() / 255 if frames.dtype == torch.uint8 else frames
            for frames in (frames.to(device, non_blocking=True) for frames in (self.lr, self.hr))
        )
        before, after = (shift and shift.to(device) for shift in (self.before, self.after))
        return ClipBatch(lr, hr, before, after)

    def pin_memory(self) -> ClipBatch:
        """The same in memory from which a GPU copies without waiting."""
        before, after = (
            shift and Shift(shift.flow.pin_memory(), shift.trust.pin_memory()) for shift in (self.before, self.after)
        )
        return ClipBatch(self.lr.pin_memory(), self.hr.pin_memory(), before, after)

    def alone(self, number: int) -> ClipBatch:
        """The batch of one of its clips."""
        one = slice(number, number + 1)
        before, after = (
            shift and Shift(shift.flow[one], shift.trust[one]) for shift in (self.before, self.after)
        )
        return ClipBatch(self.lr[one], self.hr[one], before, after)

    def there_and_back(self) -> ClipBatch:
        """The clips forth, then back to their first frames: T frames become 2T - 1.

        Raises:
            ValueError: the shifts are known one way alone.
        """
        if (self.before is None) != (self.after is None):
            raise ValueError("a clip that runs back needs the shifts both ways, or none")
        lr, hr = (torch.cat((frames, frames[:, :-1].flip(1)), 1) for frames in (self.lr, self.hr))
        if self.before is None or self.after is None:
            return ClipBatch(lr, hr)
        return ClipBatch(lr, hr, self.before.joined(self.after), self.after.joined(self.before))


def find_shift(lr: Tensor, neighbour: Literal["before", "after"]) -> Shift:
    """Estimate the motion between the frames of clips.

    Args:
        lr: (N, T, 3, h, w) uint8 RGB, on the CPU.
        neighbour: of a frame, against which it is: the one before it or the one after.

    Returns:
        The shifts of all frames that have such a neighbour, with the trust that suits detail that LR does not show.
    """
    clips = np.ascontiguousarray(lr.movedim(2, -1).numpy())
    first, second = (clips[:, :-1], clips[:, 1:]) if neighbour == "before" else (clips[:, 1:], clips[:, :-1])
    count, pairs, height, width = first.shape[:4]
    flow = np.empty((count, pairs, height, width, 2), np.float32)
    trust = np.empty((count, pairs, height, width), np.float32)
    for place in np.ndindex(count, pairs):
        motion = estimate_motion(first[place], second[place])
        flow[place], trust[place] = motion.flow, motion.trust_high
    return Shift(torch.from_numpy(flow), torch.from_numpy(trust))


def upscale_clips(
    step: Step, generator: RecurrentGenerator, clips: ClipBatch, *, backprop_frames: int = 0
) -> list[Tensor]:
    """Upscale clips frame by frame, all N of them at once.

    Args:
        step: the generator as it is to be called, which may be wrapped.
        generator: the same by itself, which says how its state is handled.
        clips: with ``before`` where the generator is aligned.
        backprop_frames: frames after which the state is cut off from what made it; 0: never.

    Returns:
        T tensors (N, 3, H, W), not clipped.

    Raises:
        ValueError: an aligned generator without ``clips.before``.
    """
    if generator.aligned and clips.before is None:
        raise ValueError("an aligned generator needs the motion between the frames")
    frames = [frame.contiguous(memory_format=torch.channels_last) for frame in clips.lr.unbind(1)]
    state = generator.initial_state(frames[0])
    upscaled = []
    for number, lr in enumerate(frames):
        if number and backprop_frames and number % backprop_frames == 0:
            state = state.detach()
        if number and generator.aligned and clips.before is not None:
            flow, trust = clips.before.flow[:, number - 1], clips.before.trust[:, number - 1]
            state = move_state(state, flow, trust)
        sr, state = step(lr, state)
        upscaled.append(sr)
    return upscaled


def triplets(frames: Sequence[Tensor], clips: ClipBatch, middles: Sequence[int]) -> Tensor:
    """What the discriminator sees of SR or HR frames: each middle one between its neighbours, and by itself.

    The neighbours are moved onto the middle frame along the motion of LR, so that what is left of a difference is
    flicker, as in TecoGAN (Chu et al. 2020, https://arxiv.org/abs/1811.09393). A frame by itself is given three times,
    as a clip that stands still: so one discriminator judges motion and picture, and there is one loss to balance.

    Args:
        frames: T tensors (N, 3, H, W).
        clips: whose frames these are, with both shifts.
        middles: numbers of frames, from 1 to T - 2.

    Returns:
        (N * 2 * len(middles), 9, H, W).
    """
    assert clips.before is not None and clips.after is not None
    scale = frames[0].shape[-1] // clips.lr.shape[-1]
    seen = []
    for middle in middles:
        earlier = warp(frames[middle - 1], enlarge_flow(clips.before.flow[:, middle - 1], scale), "bicubic")
        later = warp(frames[middle + 1], enlarge_flow(clips.after.flow[:, middle], scale), "bicubic")
        seen += [torch.cat((earlier, frames[middle], later), 1), frames[middle].repeat(1, 3, 1, 1)]
    # The clips one after the other, as processes that share a batch join theirs.
    return torch.stack(seen, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
