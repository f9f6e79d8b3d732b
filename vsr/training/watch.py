"""Watching a run: its log, its measurements, its checkpoints, its weights and its figure, each when it is due."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vsr.errors import TrainingError
from vsr.networks.weights import save_discriminator, save_network
from vsr.training.batches import Batches, ClipBatches
from vsr.training.card import Facts, about, write_card
from vsr.training.centring import centred
from vsr.training.checkpoint import CHECKPOINT, DISCRIMINATOR, FIGURE, SAMPLES, WEIGHTS, save_checkpoint
from vsr.training.log import LOG, Averages, Log
from vsr.training.measure import HeldOut, Quality, measure
from vsr.training.options import TrainOptions
from vsr.training.plots import plot_losses
from vsr.training.recipe import StageName
from vsr.training.samples import write_samples
from vsr.training.update import Game

SHOWN = 4
"""How many held-out pictures the strips of samples show."""


@dataclass(frozen=True)
class TrainProgress:
    """Where a run stands, given to the caller's callback.

    Attributes:
        stage: the stage that runs.
        step: updates done in all stages together.
        steps: updates in all, when the stages that were asked for are done.
        losses: means of the terms since the last line of the log, as they enter their sums.
        quality: the last measurement, None before the first.
    """

    stage: str
    step: int
    steps: int
    losses: Mapping[str, float]
    quality: Quality | None


class Watch:
    """Looks at a run after each update, in the process that is the first of all.

    Args:
        game: the run, begun or restored.
        batches: what it is trained on.
        options: of the run.
        facts: what it is made on.
        held_out: pictures to measure on.
        lpips: to measure LPIPS with, on the device; None leaves it out.
        lengths: updates of each stage.
        steps: updates in all, when the run is done.
        report: takes the progress after each update.
    """

    def __init__(
        self,
        game: Game,
        batches: Batches | ClipBatches,
        options: TrainOptions,
        facts: Facts,
        held_out: list[HeldOut],
        lpips: nn.Module | None,
        lengths: Mapping[StageName, int],
        steps: int,
        report: Callable[[TrainProgress], None],
    ) -> None:
        self._game, self._batches, self._options, self._facts = game, batches, options, facts
        self._held_out, self._lpips, self._lengths, self._steps = held_out, lpips, lengths, steps
        self._report = report
        self._log = Log(options.output, step=game.step, tensorboard=options.tensorboard)
        self._averages = Averages()
        self._losses: dict[str, float] = {}
        self._started, self._row_at, self._row_step = time.monotonic(), time.monotonic(), game.step

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def after_update(self, seen: Mapping[str, Any], learning_rate: float, *, stopped: bool) -> None:
        """Do what is due behind an update.

        Args:
            seen: what the update returned.
            learning_rate: that it used.
            stopped: whether the run ends here before its stage does.

        Raises:
            TrainingError: a loss or a weight is no longer finite.
            OutputError: something cannot be written.
        """
        game, options = self._game, self._options
        last = game.stage_step == self._lengths[game.stage]
        self._averages.add(seen)

        def due(every: int) -> bool:
            return last or game.step % every == 0

        measures, saves = due(options.validate_every), due(options.checkpoint_every) or stopped
        if measures or saves or due(options.log_every):
            row = self._row(learning_rate)
            tests = measures and game.stage != "discriminator"
            if measures or saves:
                self._check_weights()
            if tests or saves:
                network = centred(game, self._batches)
            if tests:
                self._measure(network, row)
            self._log.write(row)
        if saves:
            self._save(network, last)
        if measures or stopped:
            plot_losses(options.output / LOG, options.output / FIGURE)
        if measures or saves:
            self._row_at = time.monotonic()  # what that took is not the time of updates
        self._report(TrainProgress(game.stage, game.step, self._steps, self._losses, game.quality))

    def _row(self, learning_rate: float) -> dict[str, float | str | None]:
        game, now = self._game, time.monotonic()
        self._losses = self._averages.mean()
        for name, value in self._losses.items():
            if not math.isfinite(value):
                self._give_up(f"the loss {name} became {value}")
        crops = (game.step - self._row_step) * game.recipe.batch_size
        row: dict[str, float | str | None] = {
            "step": game.step,
            "stage": game.stage,
            "stage_step": game.stage_step,
            "seconds": now - self._started,
            "crops_per_second": crops / max(now - self._row_at, 1e-9),
            "learning_rate": learning_rate,
            **self._losses,
        }
        self._row_at, self._row_step = now, game.step
        return row

    def _check_weights(self) -> None:
        """The update may have spoilt them although its loss was finite."""
        game = self._game
        weights: list[Tensor] = [*game.ema.module.state_dict().values()]
        moments: list[Tensor] = []
        for player in (game.generator, game.discriminator):
            if player is not None:
                weights += player.plain.state_dict().values()
                states = player.optimizer.optimizer.state.values()
                moments += [value for state in states for value in state.values() if isinstance(value, Tensor)]
        # Weights files hold matrices in half precision.
        limits = [torch.finfo(torch.float16 if tensor.dim() > 1 else torch.float32).max for tensor in weights]
        limits += [torch.finfo(torch.float32).max] * len(moments)
        largest = torch.stack([tensor.abs().amax().to(game.fabric.device).float() for tensor in weights + moments])
        if not bool((largest <= torch.tensor(limits, device=largest.device)).all()):  # nan is not
            self._give_up("the weights became too large")

    def _give_up(self, what: str) -> None:
        checkpoint = self._options.output / CHECKPOINT
        good = f"{checkpoint} holds the last good state" if checkpoint.exists() else "no checkpoint was written before"
        raise TrainingError(
            f"{what} at or before step {self._game.step}; {good}. "
            "Take a smaller learning rate, --gradient-clip 1, or --precision fp32."
        )

    def _measure(self, network: nn.Module, row: dict[str, float | str | None]) -> None:
        game, options = self._game, self._options
        game.quality, sr = measure(
            network, self._held_out, self._lpips, scale=game.recipe.scale, device=game.fabric.device
        )
        if game.quality is None:
            return
        row.update(asdict(game.quality))
        shown = self._held_out[:SHOWN]
        write_samples(
            options.output / SAMPLES / f"step-{game.step:07}.png",
            [pair.lr for pair in shown],
            sr[: len(shown)],
            [pair.hr for pair in shown],
            step=game.step,
        )
        score = self._score()
        if score is not None and score > game.best.get(game.stage, -math.inf):
            game.best[game.stage] = score
            save_network(options.output / f"best-{game.stage}.safetensors", network, self._about())

    def _score(self) -> float | None:
        """What the best of a stage is chosen by; greater is better."""
        quality = self._game.quality
        assert quality is not None
        if self._game.stage == "pretrain":
            return quality.psnr_y
        return None if quality.lpips is None else -quality.lpips

    def _save(self, network: nn.Module, last: bool) -> None:
        game, output = self._game, self._options.output
        save_checkpoint(game, output, fingerprint=self._facts.fingerprint, lengths=self._lengths)
        save_network(output / WEIGHTS, network, self._about())
        if last and game.stage == "pretrain":
            save_network(output / "pretrain.safetensors", network, self._about())
        if game.discriminator is not None:
            save_discriminator(output / DISCRIMINATOR, game.discriminator.plain, self._about())
        write_card(output, self._about(), self._facts)

    def _about(self) -> dict[str, str]:
        return about(self._game, self._options, self._facts, self._game.quality)
