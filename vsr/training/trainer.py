"""Training of the generator on a pixel loss: build, loop, validate, save.

The learning rate and every batch are functions of the step alone, so a checkpoint of the networks, the optimiser and
the step continues a run exactly: on the CPU bit for bit.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vsr.errors import OutputError, TrainingError, UsageError
from vsr.imaging.metrics import psnr_y
from vsr.imaging.resize import resize_bicubic
from vsr.inference.device import choose_device
from vsr.networks.srgan import Generator
from vsr.networks.weights import load_network
from vsr.training.checkpoint import CHECKPOINT, LOG, WEIGHTS, Run, prepare_output, remove_old_run, restore_run, save_run
from vsr.training.losses import PIXEL_LOSSES
from vsr.training.options import TrainOptions
from vsr.training.pictures import PictureSet, ahead, find_pictures
from vsr.training.schedules import SCHEDULES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainProgress:
    """Where a run stands, given to the caller's callback after each step.

    Attributes:
        step: updates done.
        steps: updates in all.
        loss: of the last batch.
        psnr_y: PSNR-Y of the last measurement in dB, None before the first.
    """

    step: int
    steps: int
    loss: float
    psnr_y: float | None


@dataclass(frozen=True)
class TrainSummary:
    """The end of a run.

    Attributes:
        steps: updates done.
        psnr_y: PSNR-Y on the held-out pictures in dB.
        weights: the weights file of the moving average after the last step.
        stopped: True when ``should_stop`` ended the run before its last step.
    """

    steps: int
    psnr_y: float | None
    weights: Path
    stopped: bool


def train(
    options: TrainOptions,
    *,
    progress: Callable[[TrainProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainSummary:
    """Train a generator on a pixel loss.

    Writes into ``options.output``: ``checkpoint.pt``, ``generator.safetensors`` (the moving average, in the format of
    ``models/``) and ``log.jsonl`` (a line for each measurement).

    Args:
        options: the run.
        progress: called after each step.
        should_stop: asked after each step; True writes a checkpoint and ends the run.

    Raises:
        TrainingDataError: no usable pictures.
        CheckpointError: the output holds a run that cannot be, or was not asked to be, continued.
        TrainingError: the loss is no longer finite.
        OutputError: the output cannot be written.
    """
    prepare_output(options)
    device = choose_device(options.device)
    training, held_out = _pictures(options)
    run = _build(options, device)
    if options.resume:
        restore_run(run, options)
    else:
        remove_old_run(options.output)
    logger.info("%d pictures to train on, %d held out, from step %d", len(training), len(held_out), run.step)

    def make_batch(step: int) -> Tensor:
        return training.crops(options.batch_size, options.crop_size, seed=options.seed, step=step)

    batches = ahead(make_batch, range(run.step, options.steps), workers=options.workers)
    started, started_at = time.monotonic(), run.step
    stopped = False
    if run.step == options.steps and not (options.output / WEIGHTS).exists():
        save_run(run, options, len(training))  # resumed at its end, to have the weights again
    with closing(batches):
        for hr in batches:
            loss = float(_update(run, hr.to(device), options))
            _check_finite(loss, run, options)
            last = run.step == options.steps
            stopped = not last and should_stop is not None and should_stop()
            if run.step % options.validate_every == 0 or last:
                run.psnr_y = validate(run.ema.module, held_out, options.scale, device)
                steps_per_second = (run.step - started_at) / (time.monotonic() - started)
                _log(options.output, run, loss, _learning_rate(run.step - 1, options), steps_per_second)
            if run.step % options.checkpoint_every == 0 or last or stopped:
                save_run(run, options, len(training))
            if progress is not None:
                progress(TrainProgress(run.step, options.steps, loss, run.psnr_y))
            if stopped:
                break
    return TrainSummary(run.step, run.psnr_y, options.output / WEIGHTS, stopped)


def _update(run: Run, hr_bytes: Tensor, options: TrainOptions) -> Tensor:
    """One update of the generator. (N, 3, H, W) uint8 -> the loss, detached."""
    hr = (hr_bytes.float() / 255).contiguous(memory_format=torch.channels_last)
    lr = reduce(hr, options.scale).contiguous(memory_format=torch.channels_last)
    for group in run.optimizer.param_groups:
        group["lr"] = _learning_rate(run.step, options)
    run.generator.train()
    with torch.autocast(hr.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        sr = run.generator(lr)
    loss = PIXEL_LOSSES[options.loss](sr.float(), hr)
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    run.ema.update_parameters(run.generator)
    run.step += 1
    return loss.detach()


def _check_finite(loss: float, run: Run, options: TrainOptions) -> None:
    if math.isfinite(loss):
        return
    checkpoint = options.output / CHECKPOINT
    good = f"{checkpoint} holds the last good state" if checkpoint.exists() else "no checkpoint was written before"
    raise TrainingError(
        f"the loss became {loss} at step {run.step}; {good}. Take a smaller --learning-rate, or --precision fp32."
    )


def reduce(hr: Tensor, scale: int) -> Tensor:
    """LR by antialiased bicubic, rounded to 8 bits: (N, 3, H, W) in [0, 1] -> (N, 3, H/scale, W/scale)."""
    lr = resize_bicubic(hr, hr.shape[-2] // scale, hr.shape[-1] // scale)
    return lr.mul_(255).round_().clamp_(0, 255).div_(255)


def _learning_rate(step: int, options: TrainOptions) -> float:
    return options.learning_rate * SCHEDULES[options.schedule](step, options.steps)


@torch.inference_mode()
def validate(generator: nn.Module, pictures: Iterable[Tensor], scale: int, device: torch.device) -> float | None:
    """Mean PSNR-Y in dB over pictures (3, H, W) uint8, cropped to a multiple of the scale; None without pictures."""
    was_training = generator.training
    generator.eval()
    values = []
    for picture in pictures:
        height, width = (size - size % scale for size in picture.shape[-2:])
        hr = picture[None, :, :height, :width].to(device).float() / 255
        sr = generator(reduce(hr, scale).contiguous(memory_format=torch.channels_last))
        sr = sr.mul(255).round().clamp(0, 255) / 255
        values.append(float(psnr_y(sr.cpu(), hr.cpu(), border=scale)))
    generator.train(was_training)
    return sum(values) / len(values) if values else None


def _build(options: TrainOptions, device: torch.device) -> Run:
    torch.manual_seed(options.seed)
    generator: nn.Module = Generator(scale=options.scale, blocks=options.blocks, channels=options.channels)
    if options.init is not None:
        loaded = load_network(str(options.init))
        if getattr(loaded, "config", None) != cast(Generator, generator).config:
            raise UsageError(f"--init {options.init} is another network than the options describe: {loaded.config}.")
        generator = loaded
    generator = generator.to(device).to(memory_format=torch.channels_last)
    average = get_ema_multi_avg_fn(options.ema_decay)  # type: ignore[no-untyped-call]
    ema = AveragedModel(generator, multi_avg_fn=average, use_buffers=True)
    return Run(generator, ema, torch.optim.Adam(generator.parameters(), options.learning_rate))


def _pictures(options: TrainOptions) -> tuple[PictureSet, list[Tensor]]:
    training = PictureSet(find_pictures(options.data), min_size=options.crop_size, workers=options.workers)
    if options.validation:
        measured = PictureSet(find_pictures(options.validation), min_size=4 * options.scale, workers=options.workers)
        held_out = [measured[index] for index in range(len(measured))]
    else:
        held_out = training.hold_out(min(options.hold_out, len(training) // 10))
    # The middle of each picture is enough to see the trend, and keeps the measurement short.
    return training, [_middle(torch.from_numpy(picture).permute(2, 0, 1), 320) for picture in held_out]


def _middle(picture: Tensor, size: int) -> Tensor:
    top, left = (max(0, (length - size) // 2) for length in picture.shape[-2:])
    return picture[:, top : top + size, left : left + size]


def _log(output: Path, run: Run, loss: float, learning_rate: float, steps_per_second: float) -> None:
    entry = {
        "step": run.step,
        "loss": round(loss, 7),
        "psnr_y": None if run.psnr_y is None else round(run.psnr_y, 4),
        "learning_rate": learning_rate,
        "steps_per_second": round(steps_per_second, 3),
    }
    try:
        with open(output / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as exc:
        raise OutputError(f"cannot write {output / LOG}: {exc.strerror}.") from exc
