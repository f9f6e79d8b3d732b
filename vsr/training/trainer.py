"""A training run from end to end: build, run the stages, log, measure and save.

All random numbers depend on the seed and the number of the update, so a checkpoint of the networks, the optimisers and
that number continues a run exactly: on the CPU bit for bit.

``TrainMonitor`` does what is due after an update; ``centred`` prepares the weights that are saved.
"""

from __future__ import annotations

import logging
import math
import time
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vsr.errors import CheckpointError, TrainingError, UsageError, WeightsError, is_out_of_memory, setting, settings
from vsr.networks import LPIPS_NAMES
from vsr.networks.generator import Generator
from vsr.networks.lpips import load_lpips
from vsr.networks.recurrent import RecurrentGenerator
from vsr.networks.weights import save_discriminator, save_network
from vsr.training.batches import Batches, ClipBatches, load_clips, load_pictures, longest, updates_of
from vsr.training.checkpoint import (
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
    settings_of,
)
from vsr.training.clips import Clips
from vsr.training.config import CHECKPOINT, CONFIG, write_config
from vsr.training.launch import Fabric, launch
from vsr.training.log import (
    GRADIENTS,
    LOG,
    Averages,
    Log,
    Statistics,
    find_tensorboard,
    plot_losses,
    read_log,
    summarise,
)
from vsr.training.losses import SCHEDULES
from vsr.training.options import TrainOptions
from vsr.training.pictures import PictureSet
from vsr.training.recipes import LOSSES, STAGES, Stage, StageName
from vsr.training.report import (
    RunDetails,
    Sample,
    enlarged,
    hardware,
    sample_strip,
    weights_metadata,
    write_card,
    write_samples,
)
from vsr.training.step import (
    ClipBatch,
    HeldOut,
    Quality,
    TrainState,
    compare,
    measure,
    split,
    update,
    update_clips,
    upscale_clips,
)

logger = logging.getLogger(__name__)

ASK_EVERY = 10
"""Updates after which several processes agree on whether to stop."""


@dataclass(frozen=True)
class TrainSummary:
    """The result of a run.

    Attributes:
        weights: the weights file of the moving average after the last update.
        stage: the last stage that ran.
        steps: number of updates done in all stages.
        quality: the quality on the held-out pictures; None if there are none.
        losses: stage -> term -> statistics over the log.
        stopped: whether ``should_stop`` or the time limit ended the run before its last update.
        rank: rank of the process; only rank 0 has statistics.
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
    """Train a generator, and a discriminator against it, by a recipe.

    Writes into ``options.output``: ``checkpoint.pt``; ``config.toml``, the options; the generator's moving average,
    centred, in the format of ``models/``: ``generator.safetensors`` (the last), ``pretrain.safetensors`` (the last of
    that stage) and ``best-STAGE.safetensors``; ``discriminator.safetensors``; ``card.md``; ``log.csv`` and its figure
    ``losses.png``; ``samples/``.

    Args:
        options: the options of the run.
        progress: called after each update.
        should_stop: called after each update; True writes a checkpoint and ends the run, as the time limit does.

    Raises:
        TrainingDataError: there are no usable pictures.
        WeightsError: initial weights, or those of the content network, are missing or damaged.
        CheckpointError: the run in the output cannot be continued with these options.
        TrainingError: a loss is no longer finite, memory is exhausted, or a process died.
        OutputError: the output cannot be written, or another process is training into it.
    """
    ends = math.inf if options.time_limit is None else time.monotonic() + options.time_limit

    def stops() -> bool:
        return time.monotonic() >= ends or (should_stop is not None and should_stop())

    return launch(fit, options, progress or (lambda at: None), stops)


def fit(
    fabric: Fabric,
    options: TrainOptions,
    report: Callable[[TrainProgress], None],
    should_stop: Callable[[], bool],
) -> TrainSummary:
    """Run the training in one process; see ``train``."""
    with run_folder(options) if fabric.is_global_zero else nullcontext(), _report_out_of_memory(fabric, options):
        return _fit(fabric, options, report, should_stop)


def _fit(
    fabric: Fabric,
    options: TrainOptions,
    report: Callable[[TrainProgress], None],
    should_stop: Callable[[], bool],
) -> TrainSummary:
    source, held_out, layout = (load_clips if options.recipe.generator == "recurrent" else load_pictures)(options)
    details = _run_details(source, held_out, layout, fabric)
    lengths = {name: updates_of(options.recipe.stage(name).length, options.recipe, source) for name in STAGES}
    state = new_train_state(fabric, options)
    batches = ClipBatches(source, options, fabric) if isinstance(source, Clips) else Batches(source, options, fabric)
    lpips = None
    if fabric.is_global_zero and options.tensorboard:
        find_tensorboard()  # before an old run is removed
    if fabric.is_global_zero and (held_out or options.lpips_weights):
        lpips = _load_lpips(options, fabric.device)
    stages = _start_or_restore(state, options, lengths, details.fingerprint)
    videos = f" and {details.videos} videos" if details.videos else ""
    logger.info(
        "%d pictures%s to train on, %d held out, from update %d", details.pictures, videos, details.held_out, state.step
    )
    monitor, stopped = None, False
    if fabric.is_global_zero:
        done = {state.stage: state.stage_step}
        steps = state.step + sum(max(0, lengths[name] - done.get(name, 0)) for name in stages)
        monitor = TrainMonitor(state, batches, options, details, held_out, lpips, lengths, steps, report)
    try:
        for name in stages:
            if name != state.stage:
                begin_stage(state, name, options)
            stopped = _run_stage(state, batches, lengths[name], monitor, should_stop, options.log_every)
            if stopped:
                break
    finally:
        if monitor is not None:
            monitor.close()
    fabric.barrier()
    losses = summarise(read_log(options.output / LOG)) if monitor is not None else {}
    return TrainSummary(
        options.output / WEIGHTS, state.stage, state.step, state.quality, losses, stopped, fabric.global_rank
    )


def _run_details(source: PictureSet | Clips, held_out: list[HeldOut], layout: str, fabric: Fabric) -> RunDetails:
    devices = hardware(fabric.device, fabric.world_size)
    if isinstance(source, PictureSet):
        return RunDetails(len(source), len(held_out), layout, source.fingerprint(), devices)
    videos = 0 if source.videos is None else len(source.videos.paths)
    return RunDetails(len(source.pictures or ()), len(held_out), layout, source.fingerprint(), devices, videos)


@contextmanager
def _report_out_of_memory(fabric: Fabric, options: TrainOptions) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as exc:  # torch.OutOfMemoryError is a RuntimeError; the CPU has no name for it
        if not is_out_of_memory(exc):
            raise
        recipe = options.recipe
        crops = "crops" if recipe.frames == 1 else f"clips of {longest(recipe).frames} frames"
        raise TrainingError(
            f"{fabric.device} has not enough memory for batches of {recipe.batch_size} {crops} of {recipe.crop_size}: "
            f"use a smaller {setting('batch_size')} or {setting('crop_size')}, or {setting('precision', 'bf16')}."
        ) from exc


def _start_or_restore(
    state: TrainState, options: TrainOptions, lengths: Mapping[StageName, int], fingerprint: str
) -> list[StageName]:
    """Start or restore a run; returns the remaining stages, including the current one."""
    stages = options.stages
    if not options.resume:
        if stages[0] != "pretrain" and options.recipe.pretrain.length and options.init is None:
            raise UsageError(
                f"the stage {stages[0]} starts from a generator: give one with {setting('init')}, or run the stage "
                f"pretrain first and continue with {setting('resume', True)}."
            )
        if state.fabric.is_global_zero:
            remove_old_run(options.output)
            write_config(options.output / CONFIG, options)
        begin_stage(state, stages[0], options)
        return stages
    length = restore_checkpoint(state, options, fingerprint=fingerprint)
    done = state.stage_step >= min(length, lengths[state.stage])
    remaining = [name for name in stages if STAGES.index(name) >= STAGES.index(state.stage)]
    if not remaining:
        raise CheckpointError(f"{options.output} is past the stage {options.stage}: it is in {state.stage}.")
    if remaining[0] != state.stage and not done:
        raise CheckpointError(
            f"{options.output} is at update {state.stage_step} of {length} of the stage {state.stage}: "
            f"finish it first ({settings(stage=state.stage, resume=True)})."
        )
    if state.fabric.is_global_zero:
        write_config(options.output / CONFIG, options)
    return remaining


def _run_stage(
    state: TrainState,
    batches: Batches | ClipBatches,
    length: int,
    monitor: TrainMonitor | None,
    should_stop: Callable[[], bool],
    log_every: int,
) -> bool:
    """Run the remaining updates of a stage; returns whether the run was stopped."""
    schedule, milestones = SCHEDULES[state.weights.schedule], state.weights.milestones
    with closing(_stage_batches(state, batches, length)) as stream:
        for batch in stream:
            learning_rate = state.weights.learning_rate * schedule(state.stage_step, length, milestones)
            state.measures_gradients = state.stage == "adversarial" and (state.step + 1) % log_every == 0
            if isinstance(batch, ClipBatch):
                terms = update_clips(state, batch, learning_rate)
            else:
                terms = update(state, *batch, learning_rate)
            stopped = state.stage_step < length and _agreed(state, should_stop)
            if monitor is not None:
                monitor.after_update(terms, learning_rate, stopped=stopped)
            if stopped:
                return True
    return False


def _stage_batches(
    state: TrainState, batches: Batches | ClipBatches, length: int
) -> abc.Generator[ClipBatch | tuple[Tensor, Tensor], None, None]:
    """Yield the batches of the remaining updates of a stage."""
    begin = state.step - state.stage_step
    steps = range(state.step, begin + length)
    if isinstance(batches, Batches):
        return batches.stream(steps)
    long_from = begin + round((1 - state.recipe.long_share) * length)
    both_ways = state.stage != "pretrain" or state.weights.ping_pong > 0
    return batches.stream(steps, long_from=long_from, both_ways=both_ways)


def _agreed(state: TrainState, should_stop: Callable[[], bool]) -> bool:
    """Whether any process should stop; all processes get the same answer at the same update."""
    if state.fabric.world_size == 1:
        return should_stop()
    if state.step % ASK_EVERY:
        return False
    votes = torch.tensor(float(should_stop()), device=state.fabric.device)
    return float(state.fabric.all_reduce(votes, reduce_op="sum")) > 0  # type: ignore[arg-type]


def _load_lpips(options: TrainOptions, device: torch.device) -> nn.Module | None:
    if options.lpips == "none":
        return None
    try:
        return load_lpips(options.lpips_weights, options.lpips).to(device)
    except WeightsError as exc:
        if options.lpips_weights is not None:
            raise
        logger.warning("LPIPS is not measured, and no best weights of the adversarial stage are kept: %s", exc)
        return None


IMBALANCE = 1000.0
"""Ratio of the gradients of the adversarial and the other terms above which the smaller has no part in the training."""

SETTLED = 100
"""Updates of the adversarial stage before this ratio counts: a new discriminator has hardly any gradient."""

IN_A_ROW = 3
"""Measurements that must agree, as the ratio varies from batch to batch."""


class GradientBalance:
    """Warn once if the adversarial term and the others differ so much that one of them has no effect."""

    def __init__(self) -> None:
        self._above: list[bool] = []
        """Whether the adversarial term was the greater one, at the last measurements that were out of balance."""
        self._warned = False

    def add(self, content: float, adversarial: float, stage_step: int, weights: Stage) -> None:
        """Add a measurement.

        Args:
            content: norm of the gradient at SR of all terms but the adversarial one.
            adversarial: that of the adversarial term.
            stage_step: number of updates done in the adversarial stage.
            weights: the weights of the terms.
        """
        greater, smaller = max(content, adversarial), min(content, adversarial)
        above = adversarial > content
        if stage_step < SETTLED or greater <= IMBALANCE * smaller or above not in (self._above or [above]):
            self._above = []
            return
        self._above.append(above)
        if len(self._above) < IN_A_ROW or self._warned:
            return
        self._warned = True
        others = [name for name in LOSSES if name != "adversarial" and getattr(weights, name)]
        named = " or ".join(f"{setting(f'adversarial_{name}')} ({getattr(weights, name):g})" for name in others)
        adversarial_weight = f"{setting('adversarial_adversarial')} ({weights.adversarial:g})"
        down, up = (adversarial_weight, named) if above else (named, adversarial_weight)
        logger.warning(
            "the gradient of the adversarial term at the generator's output is %.2g, that of %s %.2g: a ratio of %s "
            "at update %d of the stage. The smaller one has no effect: %s.",
            adversarial,
            " and ".join(others).replace("_", " "),
            content,
            f"{greater / smaller:.0f}" if smaller else "infinity",
            stage_step,
            f"raise {up}, or lower {down}",
        )


SHOWN = 4
"""Greatest number of held-out pictures in the strips of samples."""


@dataclass(frozen=True)
class TrainProgress:
    """The progress of a run, passed to the caller's callback.

    Attributes:
        stage: the current stage.
        step: number of updates done in all stages.
        steps: total number of updates when the requested stages are done.
        losses: means of the weighted terms in the last row of the log.
        quality: the last measurement; None before the first.
    """

    stage: str
    step: int
    steps: int
    losses: Mapping[str, float]
    quality: Quality | None


class TrainMonitor:
    """Log, measure, save and report a run after its updates, in the process of rank 0.

    Args:
        state: the state of the run, begun or restored.
        batches: the batches of the run.
        options: the options of the run.
        details: data and hardware of the run.
        held_out: the held-out pictures.
        lpips: the LPIPS network, on the device; None to skip LPIPS.
        lengths: the length of each stage in updates.
        steps: total number of updates when the run is done.
        report: called with the progress after each update.
    """

    def __init__(
        self,
        state: TrainState,
        batches: Batches | ClipBatches,
        options: TrainOptions,
        details: RunDetails,
        held_out: list[HeldOut],
        lpips: nn.Module | None,
        lengths: Mapping[StageName, int],
        steps: int,
        report: Callable[[TrainProgress], None],
    ) -> None:
        self._state, self._batches, self._options, self._details = state, batches, options, details
        self._held_out, self._lpips, self._lengths, self._steps = held_out, lpips, lengths, steps
        self._report, self._settings = report, settings_of(options)
        self._log = Log(options.output, step=state.step, tensorboard=options.tensorboard)
        self._averages, self._balance = Averages(), GradientBalance()
        self._losses: dict[str, float] = {}
        self._gradients: dict[str, float] = {}
        self._started, self._row_at, self._row_step = time.monotonic(), time.monotonic(), state.step

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def after_update(self, terms: Mapping[str, Any], learning_rate: float, *, stopped: bool) -> None:
        """Do what is due after an update.

        Args:
            terms: the result of the update.
            learning_rate: the learning rate of the update.
            stopped: whether the run stops here before the end of the stage.

        Raises:
            TrainingError: a loss or a weight is no longer finite.
            OutputError: a file cannot be written.
        """
        state, options = self._state, self._options
        last = state.stage_step == self._lengths[state.stage]
        self._averages.add({name: term for name, term in terms.items() if name not in GRADIENTS})
        self._add_gradients({name: float(term) for name, term in terms.items() if name in GRADIENTS})

        def due(every: int) -> bool:
            return last or state.step % every == 0

        measures, saves = due(options.validate_every), due(options.checkpoint_every) or stopped
        if measures or saves or due(options.log_every):
            row = self._row(learning_rate)
            validates = measures and state.stage != "discriminator"
            if measures or saves:
                self._check_weights()
            if validates or saves:
                network = centred(state, self._batches)
            if validates:
                self._measure(network, row)
            self._log.write(row)
        if saves:
            self._save(network, last)
        if measures or stopped:
            plot_losses(options.output / LOG, options.output / FIGURE)
        if measures or saves:
            self._row_at = time.monotonic()  # so that this time does not count as time of updates
        self._report(TrainProgress(state.stage, state.step, self._steps, self._losses, state.quality))

    def _add_gradients(self, measured: dict[str, float]) -> None:
        if not measured or not all(map(math.isfinite, measured.values())):  # half precision may overflow
            return
        self._gradients = measured
        content, adversarial = (measured[name] for name in GRADIENTS)
        self._balance.add(content, adversarial, self._state.stage_step, self._state.weights)

    def _row(self, learning_rate: float) -> dict[str, float | str | None]:
        state, now = self._state, time.monotonic()
        self._losses = self._averages.mean()
        for name, value in self._losses.items():
            if not math.isfinite(value):
                self._give_up(f"the loss {name} became {value}")
        crops = (state.step - self._row_step) * state.recipe.crops_per_update
        row: dict[str, float | str | None] = {
            "step": state.step,
            "stage": state.stage,
            "stage_step": state.stage_step,
            "seconds": now - self._started,
            "crops_per_second": crops / max(now - self._row_at, 1e-9),
            "learning_rate": learning_rate,
            **self._losses,
            **self._gradients,
        }
        self._gradients = {}
        self._row_at, self._row_step = now, state.step
        return row

    def _check_weights(self) -> None:
        """End the run if weights or moments are not finite or too large, which a finite loss does not exclude."""
        state = self._state
        weights: list[Tensor] = [*state.ema.module.state_dict().values()]
        moments: list[Tensor] = []
        for model in (state.generator, state.discriminator):
            if model is not None:
                weights += model.plain.state_dict().values()
                states = model.optimizer.optimizer.state.values()
                moments += [value for saved in states for value in saved.values() if isinstance(value, Tensor)]
        # Weights files store matrices in half precision.
        limits = [torch.finfo(torch.float16 if tensor.dim() > 1 else torch.float32).max for tensor in weights]
        limits += [torch.finfo(torch.float32).max] * len(moments)
        largest = torch.stack([tensor.abs().amax().to(state.fabric.device).float() for tensor in weights + moments])
        if not bool((largest <= torch.tensor(limits, device=largest.device)).all()):  # nan is not
            self._give_up("the weights became too large")

    def _give_up(self, problem: str) -> None:
        checkpoint = self._options.output / CHECKPOINT
        good = f"{checkpoint} holds the last good state" if checkpoint.exists() else "no checkpoint was written before"
        raise TrainingError(
            f"{problem} at or before step {self._state.step}; {good}. "
            f"Use a smaller learning rate, {setting('gradient_clip', 1)}, or {setting('precision', 'fp32')}."
        )

    def _measure(self, network: nn.Module, row: dict[str, float | str | None]) -> None:
        state, options = self._state, self._options
        quality, sr = measure(
            network, self._held_out, self._lpips, scale=state.recipe.scale, device=state.fabric.device
        )
        if quality is None:
            return
        if quality.lpips is not None:
            quality = replace(quality, lpips_backbone=LPIPS_NAMES[options.lpips])
        state.quality = quality
        row.update(asdict(quality))
        figures = "PSNR-Y in dB" + (f" / LPIPS ({quality.lpips_backbone})" if quality.lpips_backbone else "")
        strip = sample_strip(self._samples(sr), step=state.step, figures=figures)
        write_samples(options.output / SAMPLES / f"step-{state.step:07}.png", strip)
        self._log.show(strip, state.step)
        score = self._score()
        if score is not None and score > state.best.get(state.stage, -math.inf):
            state.best[state.stage] = score
            save_network(options.output / f"best-{state.stage}.safetensors", network, self._weights_metadata())

    def _samples(self, sr: Sequence[Tensor]) -> list[Sample]:
        """Return the first held-out pictures for the strip, with the figures of bicubic and of SR."""
        return [
            Sample(
                lr=pair.lr,
                sr=upscaled,
                hr=pair.hr,
                of_bicubic=self._figures(enlarged(pair.lr, pair.hr), pair.hr),
                of_sr=self._figures(upscaled, pair.hr),
            )
            for pair, upscaled in zip(self._held_out[:SHOWN], sr, strict=False)
        ]

    def _figures(self, picture: Tensor, hr: Tensor) -> str:
        state = self._state
        found = compare(picture, hr, self._lpips, scale=state.recipe.scale, device=state.fabric.device)
        return f"{found.psnr_y:.2f}" + ("" if found.lpips is None else f" / {found.lpips:.4f}")

    def _score(self) -> float | None:
        """Return the score that the best weights of a stage are chosen by; greater is better."""
        quality = self._state.quality
        assert quality is not None
        if self._state.stage == "pretrain":
            return quality.psnr_y
        return None if quality.lpips is None else -quality.lpips

    def _save(self, network: nn.Module, last: bool) -> None:
        state, output = self._state, self._options.output
        save_checkpoint(
            state,
            output,
            fingerprint=self._details.fingerprint,
            lengths=self._lengths,
            settings=self._settings,
        )
        save_network(output / WEIGHTS, network, self._weights_metadata())
        if last and state.stage == "pretrain":
            save_network(output / "pretrain.safetensors", network, self._weights_metadata())
        if state.discriminator is not None:
            save_discriminator(output / DISCRIMINATOR, state.discriminator.plain, self._weights_metadata())
        write_card(output, self._weights_metadata(), self._details)

    def _weights_metadata(self) -> dict[str, str]:
        return weights_metadata(self._state, self._options, self._details, self._state.quality)


CROPS = 128
"""Number of crops for centring: the mean error of a picture deviates by half a code, that of all by a twentieth."""
CLIPS = 32
"""Number of clips for centring; the frames of a clip are much alike."""


def centred(state: TrainState, batches: Batches | ClipBatches) -> nn.Module:
    """Return a copy of a run's moving average in eval mode, centred on its first crops; the run does not change.

    Args:
        state: the state of the run.
        batches: the batches of the run; the crops are the same for any number of processes.
    """
    network, count = deepcopy(state.ema.module).eval(), state.recipe.accumulate
    whole = batches.whole()
    if isinstance(whole, ClipBatches):
        with closing(whole.stream(range(-(-CLIPS // state.recipe.crops_per_update)))) as clips:
            centre_recurrent(cast(RecurrentGenerator, network), (part for each in clips for part in each.split(count)))
    else:
        with closing(whole.stream(range(-(-CROPS // state.recipe.crops_per_update)))) as pairs:
            centre(cast(Generator, network), (part for pair in pairs for part in split(*pair, count)))
    return network


@torch.no_grad()
def centre(network: Generator, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Adjust the biases of a generator's tail so that the mean of SR equals that of HR in each channel.

    This is exact without clipping and tanh; otherwise the mean moves towards that of HR, never past it.

    Args:
        network: the generator in eval mode; changed in place.
        pairs: LR (N, 3, h, w) and HR (N, 3, scale*h, scale*w) in [0, 1], at least one.
    """
    errors = [network(lr).clamp(0, 1).mean((0, 2, 3)) - hr.mean((0, 2, 3)) for lr, hr in pairs]
    shift = torch.stack(errors).mean(0) / _greatest_slope(network)
    assert network.tail.bias is not None
    if bool(shift.isfinite().all()):  # otherwise the run is lost anyway
        network.tail.bias -= shift


@torch.no_grad()
def centre_recurrent(network: RecurrentGenerator, batches: Iterable[ClipBatch]) -> None:
    """Like ``centre`` for a recurrent generator, over all frames of clips.

    The change of the biases also enters the state of the next frame; this effect is ignored.

    Args:
        network: the generator in eval mode; changed in place.
        batches: at least one batch.
    """
    errors = []
    for clips in batches:
        sr = upscale_clips(network, network, clips)
        pairs = zip(sr, clips.hr.unbind(1), strict=True)
        errors.append(torch.stack([(found.clamp(0, 1) - hr).mean((0, 2, 3)) for found, hr in pairs]).mean(0))
    shift = torch.stack(errors).mean(0)
    assert network.tail.bias is not None
    if bool(shift.isfinite().all()):
        network.tail.bias.view(3, -1).sub_(shift[:, None])  # the channels of a colour are adjacent


def _greatest_slope(network: Generator) -> Tensor | float:
    """Return the greatest change of a pixel when the bias grows by 1."""
    if network.tanh:
        return 0.5
    return network.deviation.flatten() if network.normalisation == "imagenet" else 1.0
