"""One update: the discriminator's, then the generator's, with every term of the losses in sight."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vsr.training.losses import ADVERSARIAL, draw_labels, l1, mse, total_variation
from vsr.training.measure import Quality
from vsr.training.recipe import LOSSES, Recipe, Stage, StageName
from vsr.training.synchronised import joined


@dataclass
class Player:
    """One of the two networks, ready to be trained, and its optimiser.

    Attributes:
        network: as Fabric wraps it: casts, and averages gradients over all processes.
        optimizer: its Adam.
    """

    network: _FabricModule
    optimizer: _FabricOptimizer

    @property
    def plain(self) -> nn.Module:
        """The network itself."""
        plain: nn.Module = self.network.module
        return plain


@dataclass
class Game:
    """All that an update reads and changes.

    Attributes:
        fabric: device, precision and processes.
        recipe: what is trained.
        seed: of the labels.
        generator: the generator.
        ema: its moving average.
        discriminator: None until the first stage that needs it.
        features: the content network of the stage, None without a content loss.
        stage: the stage that runs.
        step: updates done in all stages together; with the seed it decides all that is drawn.
        stage_step: updates done in the stage.
        best: the best measurement of a stage so far, by the stage's name.
        quality: the last measurement, None before the first.
    """

    fabric: Fabric
    recipe: Recipe
    seed: int
    generator: Player
    ema: AveragedModel
    discriminator: Player | None = None
    features: nn.Module | None = None
    stage: StageName = "pretrain"
    step: int = 0
    stage_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    quality: Quality | None = None

    @property
    def weights(self) -> Stage:
        """The stage's weights of the losses, among others."""
        return self.recipe.stage(self.stage)


def update(game: Game, lr: Tensor, hr: Tensor, learning_rate: float) -> dict[str, Tensor]:
    """One update of the networks that the stage trains.

    Args:
        game: changed in place.
        lr: (N, 3, h, w) RGB in [0, 1], this process's part of the batch, on its device.
        hr: (N, 3, H, W) likewise.
        learning_rate: of this update.

    Returns:
        The terms of the losses, weighted as they enter their sums, and the discriminator's mean verdicts; detached and
        on the device.
    """
    trains_generator = game.stage != "discriminator"
    game.generator.network.train(trains_generator)
    with torch.set_grad_enabled(trains_generator):
        sr = game.generator.network(lr)
    seen: dict[str, Tensor] = {}
    if game.stage != "pretrain":
        seen |= _update_discriminator(game, sr.detach(), hr, learning_rate)
    if trains_generator:
        seen |= _update_generator(game, sr, hr, learning_rate)
    game.step += 1
    game.stage_step += 1
    return seen


def _update_discriminator(game: Game, sr: Tensor, hr: Tensor, learning_rate: float) -> dict[str, Tensor]:
    assert game.discriminator is not None
    discriminator = game.discriminator.network
    fake = joined(discriminator(sr))
    real = joined(discriminator(hr))
    random = np.random.default_rng([game.seed, game.step, 1])
    fake_labels = draw_labels(game.recipe.fake_labels, len(fake), random).to(fake)
    real_labels = draw_labels(game.recipe.real_labels, len(real), random).to(real)
    loss = ADVERSARIAL[game.recipe.adversarial_form].discriminator(fake, real, fake_labels, real_labels)
    _descend(game, game.discriminator, loss, learning_rate)
    return {
        "discriminator_loss": loss.detach(),
        "d_real": real.detach().sigmoid().mean(),
        "d_fake": fake.detach().sigmoid().mean(),
    }


def _update_generator(game: Game, sr: Tensor, hr: Tensor, learning_rate: float) -> dict[str, Tensor]:
    weights = game.weights
    terms: dict[str, Tensor] = {}
    if weights.mse:
        terms["mse"] = weights.mse * mse(sr, hr)
    if weights.l1:
        terms["l1"] = weights.l1 * l1(sr, hr)
    if weights.content:
        terms["content"] = weights.content * _content_loss(game, sr, hr)
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * total_variation(sr)
    if weights.adversarial:
        terms["adversarial"] = weights.adversarial * _adversarial_loss(game, sr, hr)
    assert terms.keys() <= set(LOSSES)
    loss = torch.stack(list(terms.values())).sum()
    _descend(game, game.generator, loss, learning_rate)
    game.ema.update_parameters(game.generator.plain)
    return {"generator_loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}


def _content_loss(game: Game, sr: Tensor, hr: Tensor) -> Tensor:
    assert game.features is not None
    with game.fabric.autocast():
        with torch.no_grad():
            wanted = game.features(hr)
        found = game.features(sr)
    return mse(_in_full(found), _in_full(wanted))


def _adversarial_loss(game: Game, sr: Tensor, hr: Tensor) -> Tensor:
    """Without gradients of the discriminator itself, and past the wrapper that would average them."""
    assert game.discriminator is not None
    form = ADVERSARIAL[game.recipe.adversarial_form]
    judge = game.discriminator.plain.requires_grad_(False)
    with game.fabric.autocast():
        fake = joined(judge(sr))
        real = torch.zeros_like(fake)
        if form.compares:
            with torch.no_grad():
                real = joined(judge(hr))
    judge.requires_grad_(True)
    return form.generator(_in_full(fake), _in_full(real))


def _in_full(tensor: Tensor) -> Tensor:
    """Out of half precision, for losses."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _descend(game: Game, player: Player, loss: Tensor, learning_rate: float) -> None:
    for group in player.optimizer.param_groups:
        group["lr"] = learning_rate
    player.optimizer.zero_grad()
    game.fabric.backward(loss)
    if game.recipe.gradient_clip:
        game.fabric.clip_gradients(
            player.network, player.optimizer, max_norm=game.recipe.gradient_clip, error_if_nonfinite=False
        )
    player.optimizer.step()
