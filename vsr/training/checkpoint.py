"""The folder of a run, and the checkpoint in it: written whole or not at all, refused where it does not fit.

Learning rates, crops, labels and degradations are functions of the seed and the number of the update. So that number is
all there is to save of schedules, of random states and of the position in the data.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from vsr.errors import CheckpointError, OutputError
from vsr.files import lock_file, publish
from vsr.training.card import CARD
from vsr.training.game import prepare_stage
from vsr.training.log import LOG, TENSORBOARD
from vsr.training.measure import Quality
from vsr.training.options import TrainOptions
from vsr.training.recipe import Recipe, StageName
from vsr.training.update import Game

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "generator.safetensors"
DISCRIMINATOR = "discriminator.safetensors"
FIGURE = "losses.png"
SAMPLES = "samples"
LOCK = ".lock"
"""Held by the process that trains into the folder."""
FORMAT = "vsr-checkpoint-2"

FILES = (CHECKPOINT, WEIGHTS, DISCRIMINATOR, LOG, FIGURE, CARD)
FILES_OF_STAGES = ("best-pretrain.safetensors", "best-adversarial.safetensors", "pretrain.safetensors")
FOLDERS = (SAMPLES, TENSORBOARD)
"""What a run writes into its folder; nothing else there is ever removed."""

MAY_CHANGE = frozenset({"follows", "unit", "pretrain.length", "discriminator.length", "adversarial.length"})
"""Values of a recipe that may differ when a run is resumed: a stage may be made longer or shorter on the way."""


@contextmanager
def run_folder(options: TrainOptions) -> Iterator[None]:
    """Make the folder of a run and lock it, or find it fit to be continued or replaced; without a result it goes again.

    Raises:
        OutputError: it holds a run and nothing was said about it, another process is training into it, or it cannot be
            written.
        CheckpointError: there is nothing to continue.
    """
    output = options.output
    if options.resume:
        _check_run(options)  # before a folder is made
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = lock_file(output / LOCK, output)
    except OSError as exc:
        raise OutputError(f"cannot write to {output}: {exc.strerror}.") from exc
    try:
        _check_run(options)
        yield
    finally:
        with suppress(OSError):
            (output / LOCK).unlink()
        os.close(lock)
        _discard_if_empty(output)


def _check_run(options: TrainOptions) -> None:
    try:
        something = any((options.output / name).exists() for name in FILES)
        if something and not (options.resume or options.overwrite):
            raise OutputError(
                f"{options.output} holds a training run. Continue it with --resume, or start anew with --overwrite."
            )
        if options.resume and not (options.output / CHECKPOINT).exists():
            raise CheckpointError(f"nothing to resume: {options.output / CHECKPOINT} does not exist.")
        if options.output.exists():
            (options.output / SAMPLES).mkdir(exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot write to {options.output}: {exc.strerror}.") from exc


def _discard_if_empty(output: Path) -> None:
    """Remove the folder of a run that came to nothing; one with anything in it stays."""
    with suppress(OSError):
        if {path.name for path in output.iterdir()} <= {SAMPLES}:
            with suppress(FileNotFoundError):
                (output / SAMPLES).rmdir()
            output.rmdir()


def remove_old_run(output: Path) -> None:
    """Remove what a run has written; only when all else is in order, so that a mistyped ``--data`` costs no run.

    Raises:
        OutputError: it cannot be removed.
    """
    try:
        for name in (*FILES, *FILES_OF_STAGES):
            (output / name).unlink(missing_ok=True)
        for name in FOLDERS:
            if (output / name).is_dir():
                shutil.rmtree(output / name)
        (output / SAMPLES).mkdir()
    except OSError as exc:
        raise OutputError(f"cannot write to {output}: {exc.strerror}.") from exc


def save_checkpoint(game: Game, output: Path, *, fingerprint: str, lengths: Mapping[StageName, int]) -> None:
    """Write the whole state of a run, under a temporary name first; on return the disk has it.

    Args:
        game: the run.
        output: its folder.
        fingerprint: of the pictures.
        lengths: updates of each stage.

    Raises:
        OutputError: it cannot be written; what stood there before still does.
    """
    state = {
        "format": FORMAT,
        "recipe": asdict(game.recipe),
        "seed": game.seed,
        "pictures": fingerprint,
        "lengths": dict(lengths),
        "stage": game.stage,
        "stage_step": game.stage_step,
        "step": game.step,
        "best": game.best,
        "quality": None if game.quality is None else asdict(game.quality),
        "generator": game.generator.plain.state_dict(),
        "generator_optimizer": game.generator.optimizer.optimizer.state_dict(),
        "ema": game.ema.state_dict(),
        "scaler": game.fabric.strategy.precision.state_dict(),
    }
    if game.discriminator is not None:
        state["discriminator"] = game.discriminator.plain.state_dict()
        state["discriminator_optimizer"] = game.discriminator.optimizer.optimizer.state_dict()
    target = output / CHECKPOINT
    temporary = target.with_name(f".vsr-{os.getpid()}-{CHECKPOINT}")
    try:
        torch.save(state, temporary)
        publish(temporary, target)
    except (OSError, RuntimeError) as exc:  # torch's writer reports a full disk as RuntimeError
        raise OutputError(
            f"cannot write the checkpoint {target}: {exc}. Make room, then --resume goes on from the one before."
        ) from exc
    finally:
        with suppress(OSError):
            temporary.unlink()


def restore_checkpoint(game: Game, options: TrainOptions, *, fingerprint: str) -> int:
    """Put a run where its checkpoint was written.

    Args:
        game: new; changed in place.
        options: of the run that is to go on.
        fingerprint: of its pictures.

    Returns:
        The length of the stage that it stands in, in updates, as the run was last given it.

    Raises:
        CheckpointError: it is damaged, of another version, or of another recipe, seed or set of pictures.
    """
    path = options.output / CHECKPOINT
    try:
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # of damaged bytes the unpickler raises anything from KeyError to UnicodeDecodeError
        raise CheckpointError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version of vsr.")
    changed = list(_differences(state, game.recipe, options.seed, fingerprint))
    if changed:
        raise CheckpointError(
            f"{path} belongs to another run ({'; '.join(changed)}). Give the same again, or start a new run from its "
            f"weights: --init {options.output / WEIGHTS}."
        )
    try:
        prepare_stage(game, state["stage"], options)
        game.generator.plain.load_state_dict(state["generator"])
        game.generator.optimizer.optimizer.load_state_dict(state["generator_optimizer"])
        game.ema.load_state_dict(state["ema"])
        if game.discriminator is not None:
            game.discriminator.plain.load_state_dict(state["discriminator"])
            game.discriminator.optimizer.optimizer.load_state_dict(state["discriminator_optimizer"])
        game.fabric.strategy.precision.load_state_dict(state["scaler"])
        game.step, game.stage_step, game.best = state["step"], state["stage_step"], state["best"]
        game.quality = None if state["quality"] is None else Quality(**state["quality"])
        length: int = state["lengths"][game.stage]
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as exc:
        raise CheckpointError(f"{path} is damaged: {exc}") from exc
    return length


def _check_sums(path: Path) -> None:
    """A checkpoint is a zip archive, whose sums torch writes but does not compare: a flipped bit would pass."""
    with ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged.")


def _differences(state: Mapping[str, Any], recipe: Recipe, seed: int, fingerprint: str) -> Iterator[str]:
    wanted, recorded = _flat(asdict(recipe)), _flat(state.get("recipe", {}))
    for name in sorted(wanted.keys() | recorded.keys()):
        if name not in MAY_CHANGE and wanted.get(name) != recorded.get(name):
            yield f"{name} was {recorded.get(name)!r} and is now {wanted.get(name)!r}"
    if seed != state.get("seed"):
        yield f"the seed was {state.get('seed')} and is now {seed}"
    if fingerprint != state.get("pictures"):
        yield "the pictures are others"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
