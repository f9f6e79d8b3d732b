"""The folder of a run, and the checkpoint in it: written whole or not at all, refused where it does not fit."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vsr.errors import CheckpointError, OutputError
from vsr.networks.weights import save_network
from vsr.training.options import TrainOptions

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "generator.safetensors"
LOG = "log.jsonl"
FORMAT = "vsr-checkpoint-1"

NOT_IN_THE_WEIGHTS = frozenset(
    {"data", "output", "validation", "init", "device", "workers", "validate_every", "checkpoint_every", "resume",
     "overwrite"}
)  # fmt: skip
"""Options that may change when a run is resumed: they decide how it is run, or are recorded otherwise."""


@dataclass
class Run:
    """The state of a run: all that a checkpoint holds."""

    generator: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    psnr_y: float | None = None


def prepare_output(options: TrainOptions) -> None:
    """Make the folder of a run, or find it fit to be continued or replaced.

    Raises:
        OutputError: it holds a run and nothing was said about it, or it cannot be written.
        CheckpointError: there is nothing to continue.
    """
    exists = (options.output / CHECKPOINT).exists()
    something = any((options.output / name).exists() for name in (CHECKPOINT, WEIGHTS, LOG))
    if something and not (options.resume or options.overwrite):
        raise OutputError(
            f"{options.output} holds a training run. Continue it with --resume, or start anew with --overwrite."
        )
    if options.resume and not exists:
        raise CheckpointError(f"nothing to resume: {options.output / CHECKPOINT} does not exist.")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        probe = options.output / f".vsr-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise OutputError(f"cannot write to {options.output}: {exc.strerror}.") from exc


def remove_old_run(output: Path) -> None:
    """Remove log, checkpoint and weights; only when all else is in order, so that a mistyped ``--data`` costs no run.

    Raises:
        OutputError: they cannot be removed.
    """
    try:
        for name in (LOG, CHECKPOINT, WEIGHTS):
            (output / name).unlink(missing_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot write to {output}: {exc.strerror}.") from exc


def _identity_of(options: TrainOptions) -> dict[str, Any]:
    """The options that decide the weights."""
    return {name: value for name, value in asdict(options).items() if name not in NOT_IN_THE_WEIGHTS}


def save_run(run: Run, options: TrainOptions, pictures: int) -> None:
    """Write the checkpoint and the weights of the moving average, each under a temporary name first.

    Raises:
        OutputError: they cannot be written; what stood there before still does.
    """
    training = {**_identity_of(options), "step": run.step, "pictures": pictures, "held_out_psnr_y": run.psnr_y}
    save_network(options.output / WEIGHTS, run.ema.module, {"training": json.dumps(training)})
    state = {
        "format": FORMAT,
        "options": _identity_of(options),
        "step": run.step,
        "psnr_y": run.psnr_y,
        "generator": run.generator.state_dict(),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
    }
    target = options.output / CHECKPOINT
    temporary = target.with_name(f".vsr-{os.getpid()}-{CHECKPOINT}")
    try:
        torch.save(state, temporary)
        temporary.replace(target)
    except (OSError, RuntimeError) as exc:  # torch's writer reports a full disk as RuntimeError
        raise OutputError(f"cannot write the checkpoint {target}: {exc}") from exc
    finally:
        with suppress(OSError):
            temporary.unlink()


def restore_run(run: Run, options: TrainOptions) -> None:
    """Put a run where its checkpoint was written.

    Raises:
        CheckpointError: it is damaged, of another version, or was written with other options.
    """
    path = options.output / CHECKPOINT
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # of damaged bytes the unpickler raises anything from KeyError to UnicodeDecodeError
        raise CheckpointError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version of vsr.")
    wanted, recorded = _identity_of(options), state.get("options", {})
    changed = [
        f"{name} {recorded.get(name)!r} -> {value!r}" for name, value in wanted.items() if recorded.get(name) != value
    ]
    if changed:
        raise CheckpointError(f"{path} was trained with other options ({', '.join(changed)}): give the same again.")
    try:
        run.generator.load_state_dict(state["generator"])
        run.ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step, run.psnr_y = state["step"], state["psnr_y"]
    except (KeyError, RuntimeError, TypeError, ValueError) as exc:
        raise CheckpointError(f"{path} is damaged: {exc}") from exc
