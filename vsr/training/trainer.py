"""A training run from end to end: build, go through the stages, save.

All that is drawn is a function of the seed and the number of the update, so a checkpoint of the networks, the
optimisers and that number continues a run exactly: on the CPU bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vsr.errors import CheckpointError, TrainingError, UsageError, WeightsError, is_out_of_memory
from vsr.networks.lpips import load_lpips
from vsr.training.batches import Batches, ClipBatches, load_clips, load_pictures, longest, updates_of
from vsr.training.card import Facts, hardware
from vsr.training.checkpoint import WEIGHTS, remove_old_run, restore_checkpoint, run_folder
from vsr.training.clips import Clips
from vsr.training.game import begin_stage, new_game
from vsr.training.launch import launch
from vsr.training.log import LOG, Statistics, find_tensorboard, read_log, summarise
from vsr.training.measure import HeldOut, Quality
from vsr.training.options import TrainOptions
from vsr.training.pictures import PictureSet
from vsr.training.recipe import STAGES, StageName
from vsr.training.schedules import SCHEDULES
from vsr.training.sequence import ClipBatch
from vsr.training.update import Game, update, update_clips
from vsr.training.watch import TrainProgress, Watch

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
    game = new_game(fabric, options)
    batches = ClipBatches(source, options, fabric) if isinstance(source, Clips) else Batches(source, options, fabric)
    lpips = None
    if fabric.is_global_zero and options.tensorboard:
        find_tensorboard()  # missed before an old run gives way
    if fabric.is_global_zero and (held_out or options.lpips_weights):
        lpips = _lpips(options, fabric.device)
    stages = _enter(game, options, lengths, facts.fingerprint)
    videos = f" and {facts.videos} videos" if facts.videos else ""
    logger.info(
        "%d pictures%s to train on, %d held out, from update %d", facts.pictures, videos, facts.held_out, game.step
    )
    watch, stopped = None, False
    if fabric.is_global_zero:
        done = {game.stage: game.stage_step}
        steps = game.step + sum(max(0, lengths[name] - done.get(name, 0)) for name in stages)
        watch = Watch(game, batches, options, facts, held_out, lpips, lengths, steps, report)
    try:
        for name in stages:
            if name != game.stage:
                begin_stage(game, name, options)
            stopped = _run_stage(game, batches, lengths[name], watch, should_stop)
            if stopped:
                break
    finally:
        if watch is not None:
            watch.close()
    fabric.barrier()
    losses = summarise(read_log(options.output / LOG)) if watch is not None else {}
    return TrainSummary(
        options.output / WEIGHTS, game.stage, game.step, game.quality, losses, stopped, fabric.global_rank
    )


def _facts(source: PictureSet | Clips, held_out: list[HeldOut], layout: str, fabric: Fabric) -> Facts:
    devices = hardware(fabric.device, fabric.world_size)
    if isinstance(source, PictureSet):
        return Facts(len(source), len(held_out), layout, source.fingerprint(), devices)
    videos = 0 if source.videos is None else len(source.videos.paths)
    return Facts(len(source.pictures or ()), len(held_out), layout, source.fingerprint(), devices, videos)


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


def _enter(game: Game, options: TrainOptions, lengths: Mapping[StageName, int], fingerprint: str) -> list[StageName]:
    """Bring a run to where it starts or goes on; returns the stages that lie ahead, with the one that it stands in."""
    wanted = options.stages
    if not options.resume:
        if wanted[0] != "pretrain" and options.recipe.pretrain.length and options.init is None:
            raise UsageError(
                f"the stage {wanted[0]} starts from a generator: give one by --init, or run the stage pretrain first "
                "and go on with --resume."
            )
        if game.fabric.is_global_zero:
            remove_old_run(options.output)
        begin_stage(game, wanted[0], options)
        return wanted
    length = restore_checkpoint(game, options, fingerprint=fingerprint)
    done = game.stage_step >= min(length, lengths[game.stage])
    ahead = [name for name in wanted if STAGES.index(name) >= STAGES.index(game.stage)]
    if not ahead:
        raise CheckpointError(f"{options.output} is past the stage {options.stage}: it stands in {game.stage}.")
    if ahead[0] != game.stage and not done:
        raise CheckpointError(
            f"{options.output} stands at update {game.stage_step} of {length} of the stage {game.stage}: "
            f"finish it first (--stage {game.stage} --resume)."
        )
    return ahead


def _run_stage(
    game: Game, batches: Batches | ClipBatches, length: int, watch: Watch | None, should_stop: Callable[[], bool]
) -> bool:
    """The updates that a stage has still before it; returns whether it was asked to stop."""
    schedule, milestones = SCHEDULES[game.weights.schedule], game.weights.milestones
    with closing(_stream(game, batches, length)) as stream:
        for batch in stream:
            learning_rate = game.weights.learning_rate * schedule(game.stage_step, length, milestones)
            if isinstance(batch, ClipBatch):
                seen = update_clips(game, batch, learning_rate)
            else:
                seen = update(game, *batch, learning_rate)
            stopped = game.stage_step < length and _agreed(game, should_stop)
            if watch is not None:
                watch.after_update(seen, learning_rate, stopped=stopped)
            if stopped:
                return True
    return False


def _stream(
    game: Game, batches: Batches | ClipBatches, length: int
) -> Generator[ClipBatch | tuple[Tensor, Tensor], None, None]:
    """The batches that a stage has still before it."""
    begin = game.step - game.stage_step
    steps = range(game.step, begin + length)
    if isinstance(batches, Batches):
        return batches.stream(steps)
    long_from = begin + round((1 - game.recipe.long_share) * length)
    both_ways = game.stage != "pretrain" or game.weights.ping_pong > 0
    return batches.stream(steps, long_from=long_from, both_ways=both_ways)


def _agreed(game: Game, should_stop: Callable[[], bool]) -> bool:
    """Whether any process was asked to stop; all of them come to the same answer at the same update."""
    if game.fabric.world_size == 1:
        return should_stop()
    if game.step % ASK_EVERY:
        return False
    asked = torch.tensor(float(should_stop()), device=game.fabric.device)
    return float(game.fabric.all_reduce(asked, reduce_op="sum")) > 0  # type: ignore[arg-type]


def _lpips(options: TrainOptions, device: torch.device) -> nn.Module | None:
    try:
        return load_lpips(options.lpips_weights).to(device)
    except WeightsError as exc:
        if options.lpips_weights is not None:
            raise
        logger.warning("LPIPS is not measured, and no best weights of the adversarial stage are kept: %s", exc)
        return None
