"""The networks of a run and how they enter a stage: built, begun from the stage before, or from given weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vsr.errors import UsageError
from vsr.networks.discriminator import Discriminator
from vsr.networks.features import ContentFeatures, find_content_weights, layer_names
from vsr.networks.models import load_network
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.srgan import Generator
from vsr.networks.weights import Network, load_discriminator, load_shared
from vsr.training.options import TrainOptions
from vsr.training.recipe import Recipe, StageName
from vsr.training.synchronised import synchronise
from vsr.training.update import Game, Player

logger = logging.getLogger(__name__)


def new_game(fabric: Fabric, options: TrainOptions) -> Game:
    """A generator at its start, ready for ``begin_stage``.

    Raises:
        UnknownModelError: there is no ``options.init``.
        UsageError: the content network has no such layer, or ``options.init`` or the teacher is of another kind.
        WeightsError: weights to start from, or of a content network, are missing or damaged.
    """
    recipe = options.recipe
    # Files that a later stage wants are tried now, and not when a long stage before it is done.
    for stage in options.stages:
        _features(recipe, stage, options)
    if options.init_discriminator is not None:
        _discriminator(recipe, options.init_discriminator)
    generator = _seeded(options.seed, lambda: _generator(recipe))
    if options.init is not None:
        _start_from(options.init, generator)
    teacher = _teacher(recipe, options)
    if teacher is not None:
        teacher = teacher.to(fabric.device).to(memory_format=torch.channels_last)
    player = _player(fabric, generator, options)
    average = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    ema = AveragedModel(player.plain, multi_avg_fn=average, use_buffers=True)
    return Game(fabric, recipe, options.seed, player, ema, teacher=teacher)


def prepare_stage(game: Game, stage: StageName, options: TrainOptions) -> None:
    """Have what a stage needs beside the generator: a discriminator, a content network.

    Raises:
        WeightsError: weights of either are missing or damaged.
    """
    game.stage = stage
    if stage != "pretrain" and game.discriminator is None:
        network = _seeded(options.seed + 1, lambda: _discriminator(options.recipe, options.init_discriminator))
        game.discriminator = _player(game.fabric, network, options)
    features = _features(game.recipe, stage, options)
    if features is not None:
        features = features.to(game.fabric.device).to(memory_format=torch.channels_last)
    game.features = features


def begin_stage(game: Game, stage: StageName, options: TrainOptions) -> None:
    """Enter a stage: from the moving average of the stage before, with optimisers that have seen nothing.

    Raises:
        WeightsError: see ``prepare_stage``.
    """
    prepare_stage(game, stage, options)
    game.stage_step = 0
    game.generator.plain.load_state_dict(game.ema.module.state_dict())
    game.ema.n_averaged.zero_()
    for player in (game.generator, game.discriminator):
        if player is not None:
            player.optimizer.optimizer.state.clear()


def _start_from(path: Path, generator: nn.Module) -> None:
    """Take over all weights that fit; of a network for another scale that is everything before the upsampling."""
    other = load_network(str(path))
    if type(other) is not type(generator):
        raise UsageError(f"--init {path} is a network of another kind than the recipe's generator.")
    mine, theirs = (cast(Network, network).config for network in (generator, other))
    apart = [name for name in ("tanh", "normalisation") if mine.get(name) != theirs.get(name)]
    if apart:
        raise UsageError(f"--init {path} is a network of another kind: its {' and '.join(apart)} differ.")
    left = set(load_shared(generator, other.state_dict())) & set(generator.state_dict())
    if left:
        logger.warning("%s starts the generator but for %s.", path, ", ".join(sorted(left)))


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
        raise UsageError(f"--teacher {options.teacher} is not a recurrent generator of scale {recipe.scale}.")
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
    """First weights that depend on the seed alone, and leave the caller's random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _player(fabric: Fabric, network: nn.Module, options: TrainOptions) -> Player:
    network = network.to(fabric.device).to(memory_format=torch.channels_last)
    if fabric.world_size > 1:
        network = synchronise(network, fabric.device)
    optimizer = torch.optim.Adam(network.parameters(), betas=options.recipe.betas)
    if options.compile:
        network = cast(nn.Module, torch.compile(network))
    return Player(*fabric.setup(network, optimizer))
