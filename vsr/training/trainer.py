"""A training run from end to end: build, go through the stages, save.

All that is drawn is a function of the seed and the number of the update, so a checkpoint of the networks, the
optimisers and that number continues a run exactly: on the CPU bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vsr.errors import CheckpointError, TrainingError, UsageError, WeightsError, is_out_of_memory
from vsr.networks.generator import Generator
from vsr.networks.lpips import load_lpips
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.weights import save_discriminator, save_network
from vsr.training.batches import Batches, ClipBatches, load_clips, load_pictures, longest, updates_of
from vsr.training.checkpoint import (
    CHECKPOINT,
    DISCRIMINATOR,
    FIGURE,
    SAMPLES,
    WEIGHTS,
    begin_stage,
    new_train_state,
    remove_old_run,
    restore_checkpoint,
    run_folder,
    save_checkpoint,
)
from vsr.training.clips import Clips
from vsr.training.launch import Fabric, launch
from vsr.training.log import LOG, Averages, Log, Statistics, find_tensorboard, plot_losses, read_log, summarise
from vsr.training.losses import SCHEDULES
from vsr.training.options import TrainOptions
from vsr.training.pictures import PictureSet
from vsr.training.recipes import STAGES, StageName
from vsr.training.report import RunDetails, about, hardware, write_card, write_samples
from vsr.training.step import ClipBatch, HeldOut, Quality, TrainState, measure, update, update_clips, upscale_clips

logger = logging.getLogger(__name__)

ASK_EVERY = 10
"""Updates between agreements of several processes on whether to stop."""


@dataclass(frozen=True)
class TrainSummary:
    """The end of a run.

    Attributes:
        weights: the weights file of the moving average after the last update.
        stage: the last stage that ran.
        steps: updates done in all stages together.
        quality: on the held-out pictures, None without any.
        losses: stage -> term -> statistics over the log.
        stopped: True when ``should_stop`` ended the run before its last update.
        rank: of the process among all that train; only the first, 0, has statistics.
    """

    weights: Path
    stage: str
    steps: int
    quality: Quality | None
    losses: Mapping[str, Mapping[str, Statistics]]
    stopped: bool
    rank: int = 0


def train(
    options: TrainOptions,
    *,
    progress: Callable[[TrainProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainSummary:
    """Train a generator, and a discriminator against it, as a recipe says.

    Writes into ``options.output``: ``checkpoint.pt``; the generator's moving average, centred, in the format of
    ``models/``: ``generator.safetensors`` (the last), ``pretrain.safetensors`` (the last of that stage) and
    ``best-STAGE.safetensors``; ``discriminator.safetensors``; ``card.md``; ``log.csv`` and its figure ``losses.png``;
    ``samples/``.

    Args:
        options: the run.
        progress: called after each update.
        should_stop: asked after each update; True writes a checkpoint and ends the run.

    Raises:
        TrainingDataError: no usable pictures.
        WeightsError: weights to start from, or of the content network, are missing or damaged.
        CheckpointError: the output holds a run that cannot be continued so.
        TrainingError: a loss is no longer finite, memory is exhausted, or a process died.
        OutputError: the output cannot be written, or another process is training into it.
    """
    return launch(fit, options, progress or (lambda at: None), should_stop or (lambda: False))


def fit(
    fabric: Fabric,
    options: TrainOptions,
    report: Callable[[TrainProgress], None],
    should_stop: Callable[[], bool],
) -> TrainSummary:
    """What each process of a run does; see ``train``."""
    with run_folder(options) if fabric.is_global_zero else nullcontext(), _out_of_memory_explained(fabric, options):
        return _fit(fabric, options, report, should_stop)


def _fit(
    fabric: Fabric,
    options: TrainOptions,
    report: Callable[[TrainProgress], None],
    should_stop: Callable[[], bool],
) -> TrainSummary:
    source, held_out, layout = (load_clips if options.recipe.generator == "recurrent" else load_pictures)(options)
    facts = _facts(source, held_out, layout, fabric)
    lengths = {name: updates_of(options.recipe.stage(name).length, options.recipe, source) for name in STAGES}
    state = new_train_state(fabric, options)
    batches = ClipBatches(source, options, fabric) if isinstance(source, Clips) else Batches(source, options, fabric)
    lpips = None
    if fabric.is_global_zero and options.tensorboard:
        find_tensorboard()  # missed before an old run gives way
    if fabric.is_global_zero and (held_out or options.lpips_weights):
        lpips = _lpips(options, fabric.device)
    stages = _enter(state, options, lengths, facts.fingerprint)
    videos = f" and {facts.videos} videos" if facts.videos else ""
    logger.info(
        "%d pictures%s to train on, %d held out, from update %d", facts.pictures, videos, facts.held_out, state.step
    )
    watch, stopped = None, False
    if fabric.is_global_zero:
        done = {state.stage: state.stage_step}
        steps = state.step + sum(max(0, lengths[name] - done.get(name, 0)) for name in stages)
        watch = TrainMonitor(state, batches, options, facts, held_out, lpips, lengths, steps, report)
    try:
        for name in stages:
            if name != state.stage:
                begin_stage(state, name, options)
            stopped = _run_stage(state, batches, lengths[name], watch, should_stop)
            if stopped:
                break
    finally:
        if watch is not None:
            watch.close()
    fabric.barrier()
    losses = summarise(read_log(options.output / LOG)) if watch is not None else {}
    return TrainSummary(
        options.output / WEIGHTS, state.stage, state.step, state.quality, losses, stopped, fabric.global_rank
    )


def _facts(source: PictureSet | Clips, held_out: list[HeldOut], layout: str, fabric: Fabric) -> RunDetails:
    devices = hardware(fabric.device, fabric.world_size)
    if isinstance(source, PictureSet):
        return RunDetails(len(source), len(held_out), layout, source.fingerprint(), devices)
    videos = 0 if source.videos is None else len(source.videos.paths)
    return RunDetails(len(source.pictures or ()), len(held_out), layout, source.fingerprint(), devices, videos)


@contextmanager
def _out_of_memory_explained(fabric: Fabric, options: TrainOptions) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as exc:  # torch.OutOfMemoryError is a RuntimeError; the CPU has no name for it
        if not is_out_of_memory(exc):
            raise
        recipe = options.recipe
        crops = "crops" if recipe.frames == 1 else f"clips of {longest(recipe).frames} frames"
        raise TrainingError(
            f"{fabric.device} has no memory for batches of {recipe.batch_size} {crops} of {recipe.crop_size}: "
            "take a smaller --batch-size or --crop-size, or --precision bf16."
        ) from exc


def _enter(
    state: TrainState, options: TrainOptions, lengths: Mapping[StageName, int], fingerprint: str
) -> list[StageName]:
    """Bring a run to where it starts or goes on; returns the stages that lie ahead, with the one that it stands in."""
    wanted = options.stages
    if not options.resume:
        if wanted[0] != "pretrain" and options.recipe.pretrain.length and options.init is None:
            raise UsageError(
                f"the stage {wanted[0]} starts from a generator: give one by --init, or run the stage pretrain first "
                "and go on with --resume."
            )
        if state.fabric.is_global_zero:
            remove_old_run(options.output)
        begin_stage(state, wanted[0], options)
        return wanted
    length = restore_checkpoint(state, options, fingerprint=fingerprint)
    done = state.stage_step >= min(length, lengths[state.stage])
    ahead = [name for name in wanted if STAGES.index(name) >= STAGES.index(state.stage)]
    if not ahead:
        raise CheckpointError(f"{options.output} is past the stage {options.stage}: it stands in {state.stage}.")
    if ahead[0] != state.stage and not done:
        raise CheckpointError(
            f"{options.output} stands at update {state.stage_step} of {length} of the stage {state.stage}: "
            f"finish it first (--stage {state.stage} --resume)."
        )
    return ahead


def _run_stage(
    state: TrainState,
    batches: Batches | ClipBatches,
    length: int,
    watch: TrainMonitor | None,
    should_stop: Callable[[], bool],
) -> bool:
    """The updates that a stage has still before it; returns whether it was asked to stop."""
    schedule, milestones = SCHEDULES[state.weights.schedule], state.weights.milestones
    with closing(_stream(state, batches, length)) as stream:
        for batch in stream:
            learning_rate = state.weights.learning_rate * schedule(state.stage_step, length, milestones)
            if isinstance(batch, ClipBatch):
                seen = update_clips(state, batch, learning_rate)
            else:
                seen = update(state, *batch, learning_rate)
            stopped = state.stage_step < length and _agreed(state, should_stop)
            if watch is not None:
                watch.after_update(seen, learning_rate, stopped=stopped)
            if stopped:
                return True
    return False


def _stream(
    state: TrainState, batches: Batches | ClipBatches, length: int
) -> abc.Generator[ClipBatch | tuple[Tensor, Tensor], None, None]:
    """The batches that a stage has still before it."""
    begin = state.step - state.stage_step
    steps = range(state.step, begin + length)
    if isinstance(batches, Batches):
        return batches.stream(steps)
    long_from = begin + round((1 - state.recipe.long_share) * length)
    both_ways = state.stage != "pretrain" or state.weights.ping_pong > 0
    return batches.stream(steps, long_from=long_from, both_ways=both_ways)


def _agreed(state: TrainState, should_stop: Callable[[], bool]) -> bool:
    """Whether any process was asked to stop; all of them come to the same answer at the same update."""
    if state.fabric.world_size == 1:
        return should_stop()
    if state.step % ASK_EVERY:
        return False
    asked = torch.tensor(float(should_stop()), device=state.fabric.device)
    return float(state.fabric.all_reduce(asked, reduce_op="sum")) > 0  # type: ignore[arg-type]


def _lpips(options: TrainOptions, device: torch.device) -> nn.Module | None:
    try:
        return load_lpips(options.lpips_weights).to(device)
    except WeightsError as exc:
        if options.lpips_weights is not None:
            raise
        logger.warning("LPIPS is not measured, and no best weights of the adversarial stage are kept: %s", exc)
        return None


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


class TrainMonitor:
    """Looks at a run after each update, in the process that is the first of all.

    Args:
        state: the run, begun or restored.
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
        state: TrainState,
        batches: Batches | ClipBatches,
        options: TrainOptions,
        facts: RunDetails,
        held_out: list[HeldOut],
        lpips: nn.Module | None,
        lengths: Mapping[StageName, int],
        steps: int,
        report: Callable[[TrainProgress], None],
    ) -> None:
        self._game, self._batches, self._options, self._facts = state, batches, options, facts
        self._held_out, self._lpips, self._lengths, self._steps = held_out, lpips, lengths, steps
        self._report = report
        self._log = Log(options.output, step=state.step, tensorboard=options.tensorboard)
        self._averages = Averages()
        self._losses: dict[str, float] = {}
        self._started, self._row_at, self._row_step = time.monotonic(), time.monotonic(), state.step

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
        state, options = self._game, self._options
        last = state.stage_step == self._lengths[state.stage]
        self._averages.add(seen)

        def due(every: int) -> bool:
            return last or state.step % every == 0

        measures, saves = due(options.validate_every), due(options.checkpoint_every) or stopped
        if measures or saves or due(options.log_every):
            row = self._row(learning_rate)
            tests = measures and state.stage != "discriminator"
            if measures or saves:
                self._check_weights()
            if tests or saves:
                network = centred(state, self._batches)
            if tests:
                self._measure(network, row)
            self._log.write(row)
        if saves:
            self._save(network, last)
        if measures or stopped:
            plot_losses(options.output / LOG, options.output / FIGURE)
        if measures or saves:
            self._row_at = time.monotonic()  # what that took is not the time of updates
        self._report(TrainProgress(state.stage, state.step, self._steps, self._losses, state.quality))

    def _row(self, learning_rate: float) -> dict[str, float | str | None]:
        state, now = self._game, time.monotonic()
        self._losses = self._averages.mean()
        for name, value in self._losses.items():
            if not math.isfinite(value):
                self._give_up(f"the loss {name} became {value}")
        crops = (state.step - self._row_step) * state.recipe.batch_size
        row: dict[str, float | str | None] = {
            "step": state.step,
            "stage": state.stage,
            "stage_step": state.stage_step,
            "seconds": now - self._started,
            "crops_per_second": crops / max(now - self._row_at, 1e-9),
            "learning_rate": learning_rate,
            **self._losses,
        }
        self._row_at, self._row_step = now, state.step
        return row

    def _check_weights(self) -> None:
        """The update may have spoilt them although its loss was finite."""
        state = self._game
        weights: list[Tensor] = [*state.ema.module.state_dict().values()]
        moments: list[Tensor] = []
        for model in (state.generator, state.discriminator):
            if model is not None:
                weights += model.plain.state_dict().values()
                states = model.optimizer.optimizer.state.values()
                moments += [value for saved in states for value in saved.values() if isinstance(value, Tensor)]
        # Weights files hold matrices in half precision.
        limits = [torch.finfo(torch.float16 if tensor.dim() > 1 else torch.float32).max for tensor in weights]
        limits += [torch.finfo(torch.float32).max] * len(moments)
        largest = torch.stack([tensor.abs().amax().to(state.fabric.device).float() for tensor in weights + moments])
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
        state, options = self._game, self._options
        state.quality, sr = measure(
            network, self._held_out, self._lpips, scale=state.recipe.scale, device=state.fabric.device
        )
        if state.quality is None:
            return
        row.update(asdict(state.quality))
        shown = self._held_out[:SHOWN]
        write_samples(
            options.output / SAMPLES / f"step-{state.step:07}.png",
            [pair.lr for pair in shown],
            sr[: len(shown)],
            [pair.hr for pair in shown],
            step=state.step,
        )
        score = self._score()
        if score is not None and score > state.best.get(state.stage, -math.inf):
            state.best[state.stage] = score
            save_network(options.output / f"best-{state.stage}.safetensors", network, self._about())

    def _score(self) -> float | None:
        """What the best of a stage is chosen by; greater is better."""
        quality = self._game.quality
        assert quality is not None
        if self._game.stage == "pretrain":
            return quality.psnr_y
        return None if quality.lpips is None else -quality.lpips

    def _save(self, network: nn.Module, last: bool) -> None:
        state, output = self._game, self._options.output
        save_checkpoint(state, output, fingerprint=self._facts.fingerprint, lengths=self._lengths)
        save_network(output / WEIGHTS, network, self._about())
        if last and state.stage == "pretrain":
            save_network(output / "pretrain.safetensors", network, self._about())
        if state.discriminator is not None:
            save_discriminator(output / DISCRIMINATOR, state.discriminator.plain, self._about())
        write_card(output, self._about(), self._facts)

    def _about(self) -> dict[str, str]:
        return about(self._game, self._options, self._facts, self._game.quality)


CROPS = 128
"""How many are looked at: the mean error of single pictures deviates by half a code, and so theirs by a twentieth."""
CLIPS = 32
"""How many clips, whose frames are much alike."""


def centred(state: TrainState, batches: Batches | ClipBatches) -> nn.Module:
    """A copy of a run's moving average in eval mode, centred on its first crops; the run itself stays as it is.

    Args:
        state: the run.
        batches: what it is trained on; the crops are the same for any number of processes.
    """
    network = deepcopy(state.ema.module).eval()
    whole = batches.whole()
    if isinstance(whole, ClipBatches):
        with closing(whole.stream(range(-(-CLIPS // state.recipe.batch_size)))) as clips:
            centre_recurrent(cast(RecurrentGenerator, network), clips)
    else:
        with closing(whole.stream(range(-(-CROPS // state.recipe.batch_size)))) as pairs:
            centre(cast(Generator, network), pairs)
    return network


@torch.no_grad()
def centre(network: Generator, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Make the mean of what a generator puts out that of the originals, by channel, through the biases of its tail.

    Exact where nothing is clipped and no tanh comes after; elsewhere a part of the way, and never beyond.

    Args:
        network: in eval mode; changed in place.
        pairs: LR (N, 3, h, w) and HR (N, 3, scale*h, scale*w) in [0, 1], at least one.
    """
    errors = [network(lr).clamp(0, 1).mean((0, 2, 3)) - hr.mean((0, 2, 3)) for lr, hr in pairs]
    shift = torch.stack(errors).mean(0) / _greatest_slope(network)
    assert network.tail.bias is not None
    if bool(shift.isfinite().all()):  # else there is nothing left to save
        network.tail.bias -= shift


@torch.no_grad()
def centre_recurrent(network: RecurrentGenerator, batches: Iterable[ClipBatch]) -> None:
    """``centre`` for a recurrent generator, over all frames of clips.

    What is taken from the tail's biases goes into the next frame's state as well, whose effect is left out.

    Args:
        network: in eval mode; changed in place.
        batches: at least one.
    """
    errors = []
    for clips in batches:
        sr = upscale_clips(network, network, clips)
        pairs = zip(sr, clips.hr.unbind(1), strict=True)
        errors.append(torch.stack([(found.clamp(0, 1) - hr).mean((0, 2, 3)) for found, hr in pairs]).mean(0))
    shift = torch.stack(errors).mean(0)
    assert network.tail.bias is not None
    if bool(shift.isfinite().all()):
        network.tail.bias.view(3, -1).sub_(shift[:, None])  # the pixels of a colour lie side by side


def _greatest_slope(network: Generator) -> Tensor | float:
    """What a pixel gains at most where the bias gains 1."""
    if network.tanh:
        return 0.5
    return network.deviation.flatten() if network.normalisation == "imagenet" else 1.0
