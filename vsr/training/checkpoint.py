"""The state of a run: its networks, its folder and its checkpoint.

Builds the networks, from given weights or new ones, and prepares each stage; locks, checks and cleans the folder of the
run; writes checkpoints, and checks and restores them.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast
from zipfile import ZipFile

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vsr.errors import CheckpointError, OutputError, UsageError, is_out_of_memory, option_text, setting, shortened
from vsr.files import GENERATOR_FILE, digest_of, lock_file, publish
from vsr.networks import LPIPS_NAMES
from vsr.networks.discriminator import Discriminator
from vsr.networks.generator import Generator
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.vgg import ContentFeatures, find_content_weights, layer_names, load_pickled
from vsr.networks.weights import Network, load_discriminator, load_network, load_shared
from vsr.training.config import CHECKPOINT, CONFIG
from vsr.training.launch import Fabric, synchronise
from vsr.training.log import FIRST_BACKBONE, LOG, TENSORBOARD
from vsr.training.options import TrainOptions
from vsr.training.recipes import STAGES, Recipe, Stage, StageName
from vsr.training.report import CARD
from vsr.training.step import Quality, TrainableModel, TrainState

logger = logging.getLogger(__name__)


def new_train_state(fabric: Fabric, options: TrainOptions) -> TrainState:
    """Build the generator and its moving average, ready for ``begin_stage``.

    Raises:
        UnknownModelError: ``options.init`` does not exist.
        UsageError: the content network has no such layer, or ``options.init`` or the teacher has another architecture.
        WeightsError: initial weights, or those of a content network, are missing or damaged.
    """
    recipe = options.recipe
    # Load the files of later stages once now, so that a mistake shows before a long first stage is done; the content
    # network last, so that it shows before a download too.
    if options.init_discriminator is not None:
        _discriminator(recipe, options.init_discriminator)
    generator = _seeded(options.seed, lambda: _generator(recipe))
    if options.init is not None and not options.resume:  # which has weights of its own
        _load_initial_weights(options.init, generator)
    teacher = _teacher(recipe, options)
    for stage in options.stages:
        _features(recipe, stage, options)
    if teacher is not None:
        teacher = teacher.to(fabric.device).to(memory_format=torch.channels_last)
    model = _trainable(fabric, generator, options)
    average = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    ema = AveragedModel(model.plain, multi_avg_fn=average, use_buffers=True)
    return TrainState(fabric, recipe, options.seed, model, ema, teacher=teacher)


def prepare_stage(state: TrainState, stage: StageName, options: TrainOptions) -> None:
    """Set up the discriminator and the content network if a stage needs them.

    Raises:
        WeightsError: the weights of one of them are missing or damaged.
    """
    state.stage = stage
    if stage != "pretrain" and state.discriminator is None:
        network = _seeded(options.seed + 1, lambda: _discriminator(options.recipe, options.init_discriminator))
        state.discriminator = _trainable(state.fabric, network, options)
    features = _features(state.recipe, stage, options)
    if features is not None:
        features = features.to(state.fabric.device).to(memory_format=torch.channels_last)
    state.features = features


def begin_stage(state: TrainState, stage: StageName, options: TrainOptions) -> None:
    """Begin a stage from the moving average of the previous stage, with fresh optimisers.

    Raises:
        WeightsError: see ``prepare_stage``.
    """
    prepare_stage(state, stage, options)
    state.stage_step = 0
    state.generator.plain.load_state_dict(state.ema.module.state_dict())
    state.ema.n_averaged.zero_()
    for model in (state.generator, state.discriminator):
        if model is not None:
            model.optimizer.optimizer.state.clear()


def _load_initial_weights(path: Path, generator: nn.Module) -> None:
    """Load all weights that fit; from a network of another scale, everything before the upsampling."""
    other = load_network(str(path))
    if type(other) is not type(generator):
        raise UsageError(f"{setting('init', path)} is a different kind of network from the recipe's generator.")
    mine, theirs = (cast(Network, network).config for network in (generator, other))
    differing = [name for name in ("tanh", "normalisation") if mine.get(name) != theirs.get(name)]
    if differing:
        parts = " and ".join(differing)
        raise UsageError(f"{setting('init', path)} is a different kind of network: its {parts} differ.")
    left = set(load_shared(generator, other.state_dict())) & set(generator.state_dict())
    if left:
        logger.warning("%s initialises the generator except for %s.", path, ", ".join(sorted(left)))


def _generator(recipe: Recipe) -> nn.Module:
    if recipe.generator == "recurrent":
        return RecurrentGenerator(
            scale=recipe.scale, blocks=recipe.blocks, channels=recipe.channels, aligned=recipe.aligned
        )
    return Generator(
        scale=recipe.scale,
        blocks=recipe.blocks,
        channels=recipe.channels,
        upsampling=recipe.upsampling,
        tanh=recipe.tanh,
        normalisation=recipe.normalisation,
        norm_momentum=recipe.norm_momentum,
    )


def _discriminator(recipe: Recipe, init: Path | None) -> Discriminator:
    network = Discriminator(
        channels=recipe.discriminator_channels,
        head=recipe.discriminator_head,
        crop_size=recipe.crop_size,
        frames=3 if recipe.generator == "recurrent" else 1,
    )
    if init is not None:
        load_discriminator(init, network)
    return network


def _teacher(recipe: Recipe, options: TrainOptions) -> RecurrentGenerator | None:
    if options.teacher is None:
        return None
    teacher = load_network(str(options.teacher))
    if not isinstance(teacher, RecurrentGenerator) or teacher.scale != recipe.scale:
        given = setting("teacher", options.teacher)
        raise UsageError(f"{given} is not a recurrent generator of scale {recipe.scale}.")
    return teacher.requires_grad_(False)


def _features(recipe: Recipe, stage: StageName, options: TrainOptions) -> ContentFeatures | None:
    network, layer = recipe.content_network, recipe.stage(stage).content_layer
    if stage == "discriminator" or not recipe.stage(stage).content:
        return None
    if layer not in layer_names(network):
        raise UsageError(f"{stage}: {network} has no layer {layer!r}; it has {', '.join(layer_names(network))}.")
    weights = find_content_weights(network, options.content_weights)
    return ContentFeatures(network, layer, weights, after_activation=recipe.content_activation == "after")


def _seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network whose initial weights depend on the seed alone; the caller's random state does not change."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _trainable(fabric: Fabric, network: nn.Module, options: TrainOptions) -> TrainableModel:
    network = network.to(fabric.device).to(memory_format=torch.channels_last)
    if fabric.world_size > 1:
        network = synchronise(network, fabric.device)
    optimizer = torch.optim.Adam(network.parameters(), betas=options.recipe.betas)
    if options.compile:
        network = cast(nn.Module, torch.compile(network))
    return TrainableModel(*fabric.setup(network, optimizer))


WEIGHTS = GENERATOR_FILE
DISCRIMINATOR = "discriminator.safetensors"
FIGURE = "losses.png"
SAMPLES = "samples"
LOCK = ".lock"
"""Locked by the process that trains into the folder."""
FORMAT = "vsr-checkpoint-2"

FILES = (CHECKPOINT, CONFIG, WEIGHTS, DISCRIMINATOR, LOG, FIGURE, CARD)
FILES_OF_STAGES = ("best-pretrain.safetensors", "best-adversarial.safetensors", "pretrain.safetensors")
FOLDERS = (SAMPLES, TENSORBOARD)
"""What a run writes into its folder; nothing else in it is ever removed."""

MAY_CHANGE = frozenset({"follows", "unit", "pretrain.length", "discriminator.length", "adversarial.length"})
"""Values of a recipe that may differ when a run is resumed: the length of a stage may change."""


FILES_OF_OPTIONS = ("init", "init_discriminator", "teacher", "content_weights")
"""Options that name a file on which the weights of a run depend."""


def settings_of(options: TrainOptions) -> dict[str, list[str]]:
    """Return the options beside the recipe that a continued run must share: each as text, and what must be equal.

    That is the digest of a file, so that it may be moved; of a name that is no file, such as that of a shipped model,
    the name.
    """
    settings: dict[str, list[str]] = {"lpips": [options.lpips] * 2}
    for name in FILES_OF_OPTIONS:
        path: Path | None = getattr(options, name)
        if path is not None:
            digest = str(path)
            with suppress(OSError):
                digest = digest_of(path.resolve())
            settings[name] = [str(path.absolute() if digest != str(path) else path), digest]
    return settings


DEFAULTS = Recipe(follows="", pretrain=Stage(), adversarial=Stage())
"""The default values of a recipe."""


@contextmanager
def run_folder(options: TrainOptions) -> Iterator[None]:
    """Create and lock the folder of a run, and check that a run in it may be continued or replaced.

    On exit the folder is removed if it is empty.

    Raises:
        OutputError: it holds a run and neither resume nor overwrite is set, another process is training into it, or it
            cannot be written.
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
        holds_run = any((options.output / name).exists() for name in FILES)
        if holds_run and not (options.resume or options.overwrite):
            raise OutputError(
                f"{options.output} holds a training run. Continue it with {setting('resume', True)}, or replace it "
                f"with {setting('overwrite', True)}."
            )
        if options.resume and not (options.output / CHECKPOINT).exists():
            raise CheckpointError(f"nothing to resume: {options.output / CHECKPOINT} does not exist.")
        if options.output.exists():
            (options.output / SAMPLES).mkdir(exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot write to {options.output}: {exc.strerror}.") from exc


def _discard_if_empty(output: Path) -> None:
    """Remove the folder of a run that wrote nothing into it."""
    with suppress(OSError):
        if {path.name for path in output.iterdir()} <= {SAMPLES}:
            with suppress(FileNotFoundError):
                (output / SAMPLES).rmdir()
            output.rmdir()


def remove_old_run(output: Path) -> None:
    """Remove the files of an old run; called after all other checks, so that a mistyped ``--data`` deletes nothing.

    Raises:
        OutputError: a file cannot be removed.
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


def save_checkpoint(
    state: TrainState,
    output: Path,
    *,
    fingerprint: str,
    lengths: Mapping[StageName, int],
    settings: Mapping[str, list[str]],
) -> None:
    """Write the whole state of a run under a temporary name and rename it; on return it is on the disk.

    Args:
        state: the state of the run.
        output: the folder of the run.
        fingerprint: the fingerprint of the pictures.
        lengths: the length of each stage in updates.
        settings: see ``settings_of``.

    Raises:
        OutputError: it cannot be written; the previous checkpoint is still there.
    """
    saved = {
        "format": FORMAT,
        "recipe": asdict(state.recipe),
        "seed": state.seed,
        "pictures": fingerprint,
        "settings": dict(settings),
        "lengths": dict(lengths),
        "stage": state.stage,
        "stage_step": state.stage_step,
        "step": state.step,
        "best": state.best,
        "quality": None if state.quality is None else asdict(state.quality),
        "generator": state.generator.plain.state_dict(),
        "generator_optimizer": state.generator.optimizer.optimizer.state_dict(),
        "ema": state.ema.state_dict(),
        "scaler": state.fabric.strategy.precision.state_dict(),
    }
    if state.discriminator is not None:
        saved["discriminator"] = state.discriminator.plain.state_dict()
        saved["discriminator_optimizer"] = state.discriminator.optimizer.optimizer.state_dict()
    target = output / CHECKPOINT
    temporary = target.with_name(f".vsr-{os.getpid()}-{CHECKPOINT}")
    try:
        torch.save(saved, temporary)
        publish(temporary, target)
    except (OSError, RuntimeError) as exc:  # torch's writer reports a full disk as RuntimeError
        raise OutputError(
            f"cannot write the checkpoint {target}: {exc}. "
            f"Free some space, then continue from the previous one with {setting('resume', True)}."
        ) from exc
    finally:
        with suppress(OSError):
            temporary.unlink()


def restore_checkpoint(state: TrainState, options: TrainOptions, *, fingerprint: str) -> int:
    """Restore the state of a run from its checkpoint.

    Args:
        state: a new state; changed in place.
        options: the options of the run to continue.
        fingerprint: the fingerprint of its pictures.

    Returns:
        The length of the current stage in updates, as recorded in the checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to another version, recipe, seed or set of pictures.
    """
    path = options.output / CHECKPOINT
    saved = _read_checkpoint(path)
    try:
        changed = list(_differences(saved, state.recipe, options, fingerprint))
        if changed:
            raise CheckpointError(
                f"{path} belongs to another run ({'; '.join(changed)}). Use the same values, or start a new run from "
                f"its weights: {setting('init', options.output / WEIGHTS)}."
            )
        _check_counters(saved)
        prepare_stage(state, saved["stage"], options)
        _check_networks(saved, state)
        state.generator.plain.load_state_dict(saved["generator"])
        state.generator.optimizer.optimizer.load_state_dict(saved["generator_optimizer"])
        state.ema.load_state_dict(saved["ema"])
        if state.discriminator is not None:
            state.discriminator.plain.load_state_dict(saved["discriminator"])
            state.discriminator.optimizer.optimizer.load_state_dict(saved["discriminator_optimizer"])
        if saved["scaler"]:  # the run may have had another precision
            state.fabric.strategy.precision.load_state_dict(saved["scaler"])
        state.step, state.stage_step, state.best = saved["step"], saved["stage_step"], saved["best"]
        state.quality = None if saved["quality"] is None else _quality(saved["quality"])
        length: int = saved["lengths"][state.stage]
    except UsageError:  # a ValueError too
        raise
    except (AttributeError, LookupError, ArithmeticError, RuntimeError, TypeError, ValueError) as exc:
        reason = str(exc) if isinstance(exc, _Damage) else "its parts do not match"
        raise CheckpointError(
            f"{path} is damaged: {reason}. Start a new run from its weights: "
            f"{setting('init', options.output / WEIGHTS)}."
        ) from exc
    return length


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote.

    Raises:
        CheckpointError: the file is damaged, not a checkpoint, or of another version.
    """
    try:
        _check_sums(path)
        state = load_pickled(path)
    except Exception as exc:  # damaged bytes make the unpickler raise anything, from KeyError to UnicodeDecodeError
        if is_out_of_memory(exc):
            raise
        system_error = isinstance(exc, OSError) and exc.strerror
        reason = system_error or "it is damaged or not a checkpoint of vsr"
        raise CheckpointError(f"{path} cannot be read: {reason}.") from exc
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version of vsr.")
    return state


def _check_sums(path: Path) -> None:
    """Check the checksums of the zip archive, which torch writes but ignores: a flipped bit would go unnoticed."""
    with ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged.")


class _Damage(ValueError):
    """A checkpoint is damaged; the message says how."""


def _check_counters(state: Mapping[str, Any]) -> None:
    """Check that everything but the tensors is as ``save_checkpoint`` writes it.

    Raises:
        _Damage: it is not.
    """
    if state["stage"] not in STAGES:
        raise _Damage(f"it names the unknown stage {shortened(str(state['stage']))}")
    counts = {"step": state["step"], "stage_step": state["stage_step"], **state["lengths"]}
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count < 1 << 53:
            raise _Damage(f"its {shortened(str(name))} is not a number of updates")
    if state["stage_step"] > state["step"] or not state["lengths"].keys() <= set(STAGES):
        raise _Damage("its counts of updates contradict each other")
    quality = {} if state["quality"] is None else asdict(_quality(state["quality"]))
    if quality.pop("lpips_backbone", None) not in (None, *LPIPS_NAMES.values()):
        raise _Damage("it names an unknown backbone of LPIPS")
    measured = [value for name, value in quality.items() if name != "lpips" or value is not None]
    for value in (*measured, *state["best"].values(), *state["scaler"].values()):
        if type(value) not in (int, float) or value != value:
            raise _Damage("a measurement in it is not a number")


def _quality(saved: Mapping[str, Any]) -> Quality:
    """Return a saved measurement; older ones do not name LPIPS's backbone."""
    quality = Quality(**saved)
    if quality.lpips is not None and quality.lpips_backbone is None:
        return replace(quality, lpips_backbone=FIRST_BACKBONE)
    return quality


def _check_networks(saved: Mapping[str, Any], state: TrainState) -> None:
    """Check that the tensors of a checkpoint fit the networks and optimisers of a run.

    Raises:
        _Damage: they do not.
    """
    models = {"generator": state.generator, "discriminator": state.discriminator}
    for name, model in models.items():
        if model is not None:
            _check_tensors(name, saved[name], model.plain.state_dict())
            _check_optimizer(name, saved[f"{name}_optimizer"], model)
    _check_tensors("moving average", saved["ema"], state.ema.state_dict())


def _check_tensors(part: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    fits = given.keys() == wanted.keys() and all(_is_compatible(given[name], wanted[name]) for name in wanted)
    if not fits:
        raise _Damage(f"its {part} has another shape or is not finite")


def _check_optimizer(name: str, given: Mapping[str, Any], model: TrainableModel) -> None:
    optimizer = model.optimizer.optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = optimizer.state_dict()["param_groups"]
    rates = [group.pop("lr", None) for group in given["param_groups"]]  # set at each update
    same = [{key: value for key, value in group.items() if key != "lr"} for group in wanted] == given["param_groups"]
    for group, rate in zip(given["param_groups"], rates, strict=True):
        group["lr"] = rate
    moments = given["state"]
    complete = moments.keys() in (set(), set(range(len(parameters))))
    for number in moments if complete else ():
        entry = moments[number]
        complete &= entry.keys() == {"step", "exp_avg", "exp_avg_sq"} and entry["step"].numel() == 1
        complete &= all(_is_compatible(entry[key], parameters[number]) for key in ("exp_avg", "exp_avg_sq"))
        complete &= bool(torch.isfinite(entry["step"]).all()) and bool((entry["exp_avg_sq"] >= 0).all())
    if not same or not complete or not all(type(rate) is float for rate in rates):
        raise _Damage(f"the optimiser state of its {name} has another shape or is not finite")


def _is_compatible(given: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor can replace another."""
    same = given.shape == wanted.shape and given.is_floating_point() == wanted.is_floating_point()
    return same and bool(torch.isfinite(given).all())


def _differences(state: Mapping[str, Any], recipe: Recipe, options: TrainOptions, fingerprint: str) -> Iterator[str]:
    # A value that an older checkpoint does not contain had no effect then, which is what its default means.
    wanted, recorded = _flatten(asdict(recipe)), _flatten(asdict(DEFAULTS)) | _flatten(state["recipe"])
    for name in sorted(wanted.keys() | recorded.keys()):
        if name not in MAY_CHANGE and wanted.get(name) != recorded.get(name):
            yield f"{shortened(name)} was {option_text(recorded.get(name))} and is now {option_text(wanted.get(name))}"
    if options.seed != state["seed"]:
        yield f"the seed was {option_text(state['seed'])} and is now {options.seed}"
    if "settings" in state:  # not in older checkpoints
        yield from _differing_settings(state["settings"], settings_of(options))
    if fingerprint != state["pictures"]:
        yield "the pictures differ"


def _differing_settings(recorded: Mapping[str, list[str]], wanted: Mapping[str, list[str]]) -> Iterator[str]:
    for name in ("lpips", *FILES_OF_OPTIONS):
        (was, before), (now, after) = (each.get(name, ["not set", ""]) for each in (recorded, wanted))
        # Initial weights have no effect any more: that their file is gone does not matter; another one is a mistake.
        unused = (name == "lpips" and "none" in (was, now)) or (name == "init" and now in ("not set", was))
        if before == after or unused:
            continue
        became = "another file there" if now == was else shortened(now, 300)
        yield f"{name} was {shortened(was, 300)} and is now {became}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
