"""Frames of a clip in their order: the state of a recurrent generator, and the steadying of the others.

What is kept from frame to frame is kept here, and nothing of it in the network or in the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsr.imaging.motion import Motion
from vsr.inference.steadying import motion_to_device, steady
from vsr.networks.recurrent import move_state

if TYPE_CHECKING:
    from vsr.inference.engine import Engine


class FrameSequence:
    """Upscales frames one after the other, by what it knows of those before.

    Args:
        engine: what upscales.
        steadied: whether each result is blended with the one before, see ``vsr.inference.steadying``.
    """

    def __init__(self, engine: Engine, *, steadied: bool = False) -> None:
        self._engine, self._steadied = engine, steadied
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next is taken for the first of a clip."""
        self._state: Tensor | None = None
        self._last: Tensor | None = None

    @torch.inference_mode()
    def step(self, lr: Tensor, motions: Sequence[Motion | None]) -> Tensor:
        """Upscale the next frames. One that equals the frame before is not given: its result is the same.

        Args:
            lr: (N, 3, H, W) float RGB, nominally in [0, 1], on the engine's device.
            motions: N, from the frame before each to it; None, or a cut, begins anew.

        Returns:
            (N, 3, scale*H, scale*W) float32 on the same device, not clipped.
        """
        alone = self._engine(lr) if self._engine.recurrent is None else None
        results = []
        for number, motion in enumerate(motions):
            frame = slice(number, number + 1)
            if motion is None or motion.is_cut:
                self.reset()
            moved = None if self._state is None and self._last is None else self._on_device(motion)
            sr = self._step(lr[frame], moved) if alone is None else alone[frame]
            if self._last is not None and moved is not None:
                sr = steady(sr, self._last, moved, scale=int(self._engine.scale))
            self._last = sr if self._steadied else None
            results.append(sr)
        return torch.cat(results)

    def _on_device(self, motion: Motion | None) -> Tensor | None:
        network = self._engine.recurrent
        wanted = self._steadied or (network is not None and network.aligned)
        return motion_to_device(motion, self._engine.device) if wanted and motion is not None else None

    def _step(self, lr: Tensor, motion: Tensor | None) -> Tensor:
        engine, network, state = self._engine, self._engine.recurrent, self._state
        assert network is not None
        if state is None:
            state = network.initial_state(lr)
        elif network.aligned and motion is not None:
            flow, trust = motion[:, :2].permute(0, 2, 3, 1), motion[:, 2]
            state = move_state(state, flow, trust)
        sr, following = engine.step(lr, state)
        if not bool(engine.finite(sr).all() & engine.finite(following).all()):
            sr, following = engine.step_exactly(lr, state)
        self._state = following
        return sr
