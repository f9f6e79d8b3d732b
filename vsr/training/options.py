"""What can be chosen about a training run. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsr.errors import UsageError, unknown_choices


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """One run of ``vsr train``. The defaults are those of SRResNet in Ledig et al. 2017, section 3.2.

    Raises:
        UsageError: values that contradict each other; all of them are reported at once.
    """

    data: tuple[Path, ...]
    """Folders (searched recursively) or files of HR pictures."""
    output: Path
    """Folder of the run: checkpoint, weights and log."""
    validation: tuple[Path, ...] = ()
    """HR pictures to measure PSNR-Y on; empty: ``hold_out`` pictures of ``data``, which are then not trained on."""
    hold_out: int = 16
    """How many pictures of ``data`` to keep for validation when ``validation`` is empty, a tenth of them at most."""
    init: Path | None = None
    """Weights file to start from; None starts at random."""

    scale: int = 4
    """Output size over input size: 2, 4 or 8."""
    blocks: int = 16
    """Residual blocks of the generator."""
    channels: int = 64
    """Channels of the generator."""

    loss: Literal["mse", "l1"] = "mse"
    """What the pixels are compared with."""
    steps: int = 1_000_000
    """Updates of the generator in all."""
    batch_size: int = 16
    """Crops in each update."""
    crop_size: int = 96
    """Edge of a crop in HR pixels; a multiple of the scale, and at least four times it."""
    learning_rate: float = 1e-4
    """Adam's learning rate; with a schedule its peak."""
    schedule: Literal["constant", "one-cycle"] = "constant"
    """``one-cycle``: rises linearly over the first 4 % of the steps, then falls to zero along a cosine."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights, which is what is measured and kept."""
    seed: int = 0
    """Seed of the first weights and of every crop."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: the generator runs under autocast; weights, loss and optimiser stay in float32."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    workers: int = 2
    """Threads that decode and crop ahead of the generator."""
    validate_every: int = 1000
    """Steps between measurements; the last step is always measured."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step always writes one."""
    resume: bool = False
    """Continue the run in ``output``."""
    overwrite: bool = False
    """Start anew in an ``output`` that holds a run already."""

    def __post_init__(self) -> None:
        wrong = unknown_choices(self)
        wrong += [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("blocks", "steps", "batch_size", "workers", "validate_every", "checkpoint_every")
            if getattr(self, name) < 1
        ]
        if self.channels < 3:
            wrong.append(f"channels must be at least 3, got {self.channels}")
        if self.scale not in (2, 4, 8):
            wrong.append(f"scale must be 2, 4 or 8, got {self.scale}")
        elif self.crop_size < 4 * self.scale or self.crop_size % self.scale:
            least = 4 * self.scale
            wrong.append(f"crop_size must be a multiple of {self.scale}, at least {least}, got {self.crop_size}")
        if not 0 < self.learning_rate < math.inf:
            wrong.append(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            wrong.append(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.hold_out < 0:
            wrong.append(f"hold_out must not be negative, got {self.hold_out}")
        if not 0 <= self.seed < 2**64:
            wrong.append(f"seed must lie in [0, 2**64), got {self.seed}")
        if self.resume and self.overwrite:
            wrong.append("resume and overwrite exclude each other")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")
