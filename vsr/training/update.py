"""One update: the discriminator's, then the generator's, with every term of the losses in sight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vsr.networks.recurrent import RecurrentGenerator
from vsr.training.losses import ADVERSARIAL, artefacts, charbonnier, draw_labels, l1, mse, total_variation
from vsr.training.measure import Quality
from vsr.training.recipe import LOSSES, Recipe, Stage, StageName
from vsr.training.sequence import ClipBatch, triplets, upscale_clips
from vsr.training.synchronised import joined

PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "l1": l1, "charbonnier": charbonnier}
"""Those that compare SR with HR pixel by pixel."""


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
        teacher: a recurrent generator to follow, frozen; None without that loss.
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
    teacher: RecurrentGenerator | None = None
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
    for name, loss in PIXEL_LOSSES.items():
        if weight := getattr(weights, name):
            terms[name] = weight * loss(sr, hr)
    if weights.content:
        terms["content"] = weights.content * _content_loss(game, sr, hr)
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * total_variation(sr)
    if weights.adversarial:
        terms["adversarial"] = weights.adversarial * _adversarial_loss(game, sr, hr)
    return _minimise(game, terms, learning_rate)


def update_clips(game: Game, clips: ClipBatch, learning_rate: float) -> dict[str, Tensor]:
    """``update`` for a recurrent generator, on clips.

    Args:
        game: changed in place.
        clips: this process's part of the batch, on its device.
        learning_rate: of this update.

    Returns:
        As ``update``.
    """
    recipe, generator = game.recipe, cast(RecurrentGenerator, game.generator.plain)
    trains_generator = game.stage != "discriminator"
    if game.weights.ping_pong and trains_generator:
        clips = clips.there_and_back()
    game.generator.network.train(trains_generator)
    with torch.set_grad_enabled(trains_generator):
        sr = upscale_clips(game.generator.network, generator, clips, backprop_frames=recipe.backprop_frames)
    hr = list(clips.hr.unbind(1))
    seen: dict[str, Tensor] = {}
    fake = real = None
    if game.stage != "pretrain":
        middles = _draw_frames(game, range(1, len(sr) - 1), recipe.judged_frames, 3)
        fake, real = (triplets(frames, clips, middles) for frames in (sr, hr))
        seen |= _update_discriminator(game, fake.detach(), real, learning_rate)
    if trains_generator:
        terms = _terms_of_clips(game, sr, hr, clips)
        if game.weights.adversarial:
            assert fake is not None and real is not None
            terms["adversarial"] = game.weights.adversarial * _adversarial_loss(game, fake, real)
        seen |= _minimise(game, terms, learning_rate)
    game.step += 1
    game.stage_step += 1
    return seen


def _terms_of_clips(game: Game, sr: list[Tensor], hr: list[Tensor], clips: ClipBatch) -> dict[str, Tensor]:
    """The weighted terms of the generator's loss on clips, but for the adversarial one."""
    weights, recipe = game.weights, game.recipe
    terms: dict[str, Tensor] = {}
    for name, loss in PIXEL_LOSSES.items():
        if weight := getattr(weights, name):
            terms[name] = weight * _over_frames(loss, sr, hr, recipe.rising_frames)
    if weights.content:
        chosen = _draw_frames(game, range(len(sr)), recipe.content_frames, 2)
        terms["content"] = weights.content * _content_loss(game, *(_picked(frames, chosen) for frames in (sr, hr)))
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * torch.stack([total_variation(one) for one in sr]).mean()
    if weights.ping_pong:
        there, back = sr[: len(sr) // 2], sr[: len(sr) // 2 : -1]  # a clip of T frames has become 2T - 1
        terms["ping_pong"] = weights.ping_pong * mse(torch.stack(there), torch.stack(back))
    if weights.teacher:
        assert game.teacher is not None
        wanted = _unlearnt(game, game.teacher, clips)
        terms["teacher"] = weights.teacher * _over_frames(l1, sr, wanted, recipe.rising_frames)
    if weights.artefacts:
        average = _unlearnt(game, cast(RecurrentGenerator, game.ema.module), clips)
        found = [artefacts(*frames) for frames in zip(sr, hr, average, strict=True)]
        terms["artefacts"] = weights.artefacts * torch.stack(found).mean()
    return terms


def _over_frames(
    loss: Callable[[Tensor, Tensor], Tensor], sr: list[Tensor], hr: list[Tensor], rising_frames: int
) -> Tensor:
    """The mean of a loss over the frames of a clip, the first of which count less."""
    shares = [min(1.0, (number + 1) / rising_frames) for number in range(len(sr))]
    losses = [share * loss(*frames) for share, *frames in zip(shares, sr, hr, strict=True)]
    return torch.stack(losses).sum() / sum(shares)


def _draw_frames(game: Game, frames: range, count: int, purpose: int) -> list[int]:
    """``count`` numbers out of ``frames``, or all, in order: a function of the seed, the update and the purpose."""
    random = np.random.default_rng([game.seed, game.step, purpose])
    return sorted(random.choice(frames, min(count, len(frames)), replace=False).tolist())


def _picked(frames: list[Tensor], numbers: list[int]) -> Tensor:
    return torch.cat([frames[number] for number in numbers])


@torch.no_grad()
def _unlearnt(game: Game, generator: RecurrentGenerator, clips: ClipBatch) -> list[Tensor]:
    """What a generator that is not trained here makes of the clips."""
    with game.fabric.autocast():
        return [_in_full(frame) for frame in upscale_clips(generator, generator, clips)]


def _minimise(game: Game, terms: dict[str, Tensor], learning_rate: float) -> dict[str, Tensor]:
    """The generator's step down the sum of its terms."""
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
