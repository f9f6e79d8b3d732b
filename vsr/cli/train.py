"""``vsr train``: train a generator on pictures or clips."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, fields
from typing import Any

import click

from vsr.cli.options import FILE, Choice, SectionedCommand, given, options_of
from vsr.cli.terminal import INTERRUPTED, echo, echo_lines, echo_note, start_logging, stop_on_signal, verbosity_options
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, STAGES, override, with_total_steps

FILES = dict.fromkeys(("init", "init_discriminator", "teacher", "content_weights", "lpips_weights"), FILE)
"""Options that name a file, not a folder."""

OUTSIDE_RUN_SECTION = ("data", "output", "recipe", "stage", "validation", "command")
"""Fields that the help does not list under the heading of the run."""

NESTED = (*STAGES, "video", "clip", "follows")
"""Fields of a recipe that have no option of their own."""

DEFAULTS = RECIPES["srgan"]
"""The recipe whose values the help shows as defaults."""

DISCRIMINATOR_FIELDS = ("length", "learning_rate", "schedule", "milestones")
"""Fields of a stage that have an effect where the discriminator is trained alone."""


@click.command(cls=SectionedCommand)
@options_of(TrainOptions, "data", "output")
@click.option(
    "--recipe", type=Choice(list(RECIPES)), default="srgan", show_default=True, help="Recipe to train by."
)
@options_of(TrainOptions, "stage")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Total updates; the recipe's stages are scaled in proportion."
)
@options_of(TrainOptions, "validation")
@options_of(TrainOptions, without=OUTSIDE_RUN_SECTION, section="The run", types=FILES)
@options_of(DEFAULTS, without=NESTED, section="The recipe, with the defaults of srgan", negatable=True)
@options_of(DEFAULTS.pretrain, prefix="pretrain_", section="The stage pretrain")
@options_of(DEFAULTS.discriminator, *DISCRIMINATOR_FIELDS, prefix="discriminator_", section="The stage discriminator")
@options_of(DEFAULTS.adversarial, prefix="adversarial_", section="The stage adversarial")
@options_of(DEFAULTS.clip, prefix="clip_", section="The degradation of clips, a value drawn for each")
@options_of(DEFAULTS.video, prefix="video_", section="The video degradation, a value drawn for each crop")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@verbosity_options
def train(recipe: str, steps: int | None, as_json: bool, verbose: int, quiet: bool, **values: Any) -> None:
    """Train a generator on pictures, or a recurrent one on clips.

    \b
    vsr train --data coco/ -o run
    vsr train --data coco/ -o run --resume
    vsr train --recipe video-recurrent --data pictures/ --data clips/ -o run
    vsr upscale input.mp4 -o out.mp4 --model run/generator.safetensors

    A weight of 0 leaves a loss out; --pretrain-l1 1 --pretrain-mse 0 trains on L1.
    """
    start_logging(verbose, quiet)
    options = _options(recipe, steps, given(values))

    from tqdm import tqdm

    from vsr.training.log import summary_table
    from vsr.training.trainer import TrainProgress
    from vsr.training.trainer import train as run_training

    with tqdm(unit="step", disable=quiet or as_json or None) as bar, stop_on_signal() as stop:

        def show(at: TrainProgress) -> None:
            bar.total = at.steps
            bar.update(at.step - bar.n)
            shown = {name: f"{value:.3g}" for name, value in at.losses.items()}
            measured = {} if at.quality is None else {"PSNR-Y": f"{at.quality.psnr_y:.2f}"}
            bar.set_description(at.stage, refresh=False)
            bar.set_postfix(shown | measured, refresh=False)

        summary = run_training(options, progress=show, should_stop=stop)
    is_first = not summary.rank  # torchrun starts several processes; the first one prints
    if is_first and as_json:
        echo(json.dumps(asdict(summary), default=str))
    elif is_first and not quiet:
        echo_lines(summary_table(summary.losses))
        measured = "" if summary.quality is None else f", PSNR-Y {summary.quality.psnr_y:.2f} dB on held-out pictures"
        echo(f"{summary.weights}: {summary.steps} steps{measured}")
    if summary.stopped:
        if is_first:
            echo_note(f"stopped after step {summary.steps}; to continue, run the same command with --resume.")
        click.get_current_context().exit(INTERRUPTED)


def _options(name: str, steps: int | None, values: dict[str, Any]) -> TrainOptions:
    """Return the options of the command line; those of the recipe override its values."""
    run_names = {field.name for field in fields(TrainOptions)}
    run = {name: value for name, value in values.items() if name in run_names}
    recipe = override(RECIPES[name], **{name: value for name, value in values.items() if name not in run_names})
    if steps is not None:
        recipe = with_total_steps(recipe, steps, None if run.get("stage", "all") == "all" else run["stage"])
    return TrainOptions(**run, recipe=recipe, command=shlex.join(["vsr", *sys.argv[1:]]))
