"""``vsr train``: train a generator on pictures or clips."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vsr.cli.options import FILE, PATH, Choice, ParsedType, SectionedCommand, given, options_of
from vsr.cli.terminal import INTERRUPTED, echo, echo_lines, echo_note, start_logging, stop_on_signal, verbosity_options
from vsr.errors import UsageError
from vsr.training.config import CONFIG, config_of, read_config, stored_config
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, STAGES, override, with_total_steps

if TYPE_CHECKING:
    from vsr.training.trainer import TrainProgress

Command = TypeVar("Command", bound=Callable[..., Any])


def parse_duration(text: str) -> float:
    """Parse ``8h``, ``90m``, ``1h30m``, ``3600s``, ``3600`` or ``1:30:00`` to seconds.

    Raises:
        ValueError: the text has none of these forms.
    """
    number = r"(\d{1,9}(?:\.\d{1,9})?)"
    units = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text, re.ASCII)
    clock = re.fullmatch(r"(?:(\d{1,9}):)?(\d{1,9}):(\d{1,9}(?:\.\d{1,9})?)", text, re.ASCII)
    found = (text and units) or clock
    if not found:
        raise ValueError(f"{text!r} is not a duration: write 8h, 90m, 1h30m, 3600s or 1:30:00.")
    return sum(float(part or 0) * length for part, length in zip(found.groups(), (3600, 60, 1), strict=True))


TYPES: dict[str, click.ParamType] = {  # type: ignore[type-arg]  # generic in newer click alone
    **dict.fromkeys(("init", "init_discriminator", "teacher", "content_weights", "lpips_weights"), FILE),
    "time_limit": ParsedType("T", parse_duration),
}
"""Options that name a file, not a folder, and those whose text is parsed."""

OUTSIDE_RUN_SECTION = ("data", "output", "recipe", "stage", "validation", "command")
"""Fields that the help does not list under the heading of the run."""

NESTED = (*STAGES, "video", "clip", "follows")
"""Fields of a recipe that have no option of their own."""

DEFAULT = "srgan"
"""The recipe where none is named."""

DISCRIMINATOR_FIELDS = ("length", "learning_rate", "schedule", "milestones")
"""Fields of a stage that have an effect where the discriminator is trained alone."""


def options_of_recipe(name: str) -> Callable[[Command], Command]:
    """Return a decorator that adds the options of a recipe, with its defaults in their help."""
    recipe = RECIPES[name]
    groups = (
        options_of(recipe, without=NESTED, section=f"The recipe, with the defaults of {name}", negatable=True),
        options_of(recipe.pretrain, prefix="pretrain_", section="The stage pretrain"),
        options_of(
            recipe.discriminator, *DISCRIMINATOR_FIELDS, prefix="discriminator_", section="The stage discriminator"
        ),
        options_of(recipe.adversarial, prefix="adversarial_", section="The stage adversarial"),
        options_of(recipe.clip, prefix="clip_", section="The degradation of clips, a value drawn for each"),
        options_of(recipe.video, prefix="video_", section="The video degradation, a value drawn for each crop"),
    )

    def add(command: Command) -> Command:
        for group in reversed(groups):
            command = group(command)
        return command

    return add


class TrainCommand(SectionedCommand):
    """The command, whose help shows the defaults of the recipe that is named with it, before or after ``--help``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[__name__] = _named_recipe(args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params, name = super().get_params(ctx), ctx.meta.get(__name__, DEFAULT)
        if name == DEFAULT:
            return params
        shown = {param.name: param for param in click.command(options_of_recipe(name)(lambda: None)).params}
        return [shown.get(param.name, param) for param in params]


def _named_recipe(args: Sequence[str]) -> str:
    """Return the recipe that the command line names last, if it is one."""
    named = [value for word, value in zip(args, args[1:], strict=False) if word == "--recipe"]
    named += [word.partition("=")[2] for word in args if word.startswith("--recipe=")]
    return named[-1] if named and named[-1] in RECIPES else DEFAULT


@click.command(cls=TrainCommand)
@options_of(TrainOptions, "data", required=False)
@options_of(TrainOptions, "output")
@click.option(
    "--recipe", type=Choice(list(RECIPES)), metavar="NAME",
    help=f"Recipe to train by: {', '.join(RECIPES)}.  [default: {DEFAULT}]",
)  # fmt: skip
@click.option(
    "--config", type=PATH, metavar="FILE", help=f"Options as TOML, or those of a run by its folder; see its {CONFIG}."
)
@options_of(TrainOptions, "stage")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Total updates; the recipe's stages are scaled in proportion."
)
@options_of(TrainOptions, "validation")
@options_of(TrainOptions, without=OUTSIDE_RUN_SECTION, section="The run", types=TYPES)
@options_of_recipe(DEFAULT)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@verbosity_options
def train(
    recipe: str | None,
    config: Path | None,
    steps: int | None,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **values: Any,
) -> None:
    """Train a generator on pictures, or a recurrent one on clips.

    \b
    vsr train --data coco/ -o run
    vsr train -o run --resume
    vsr train --config run -o other --seed 1
    vsr train --recipe video-recurrent --data pictures/ --data clips/ -o run
    vsr upscale input.mp4 -o out.mp4 --model run/generator.safetensors

    A weight of 0 leaves a loss out; --pretrain-l1 1 --pretrain-mse 0 trains on L1. The help shows the defaults of the
    recipe that is named: vsr train --recipe video-recurrent --help.
    """
    start_logging(verbose, quiet)
    options = _options(recipe, steps, config, given(values))

    from tqdm import tqdm

    from vsr.training.log import summary_table
    from vsr.training.trainer import train as run_training

    hidden = quiet or as_json or None  # None: shown where stderr is a terminal
    with tqdm(unit="step", disable=hidden, bar_format=BAR, dynamic_ncols=True) as bar, stop_on_signal() as stop:

        def show(at: TrainProgress) -> None:
            if not bar.n:  # what was done before is not counted in the speed
                bar.initial = bar.n = bar.last_print_n = at.step - 1
            bar.total = at.steps
            bar.set_description_str(at.stage, refresh=False)
            bar.set_postfix_str(figures(at), refresh=False)
            bar.update(at.step - bar.n)

        summary = run_training(options, progress=show, should_stop=stop)
    is_first = not summary.rank  # torchrun starts several processes; the first one prints
    if is_first and as_json:
        echo(json.dumps(asdict(summary), default=str))
    elif is_first and not quiet:
        echo_lines(summary_table(summary.losses))
        measured = "" if summary.quality is None else f", PSNR-Y {summary.quality.psnr_y:.2f} dB on held-out pictures"
        echo(f"{summary.weights}: {summary.steps} steps{measured}")
    if summary.stopped:
        in_time = not stop()  # the time limit, not a signal
        if is_first and not (in_time and quiet):
            reason = "the time limit is reached" if in_time else "stopped"
            resume = shlex.join(["vsr", "train", "-o", str(options.output), "--resume"])
            echo_note(f"{reason} after step {summary.steps}; to continue: {resume}")
        click.get_current_context().exit(0 if in_time else INTERRUPTED)


BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}"
"""Stage, step and time left; then ``figures``. They fit into 80 columns."""


def figures(at: TrainProgress) -> str:
    """Return the sum of the losses of the network that is trained, and the last PSNR, for the bar."""
    loss = at.losses.get("generator_loss", at.losses.get("discriminator_loss"))
    shown = [] if loss is None else [f"loss {loss:.3g}"]
    return ", ".join(shown + ([] if at.quality is None else [f"{at.quality.psnr_y:.2f} dB"]))


def _options(name: str | None, steps: int | None, config: Path | None, values: dict[str, Any]) -> TrainOptions:
    """Return the options: those of the command line, else of the file, else of the continued run, else the recipe's."""
    output: Path = values["output"]
    stored = stored_config(output) if values.get("resume") and not values.get("overwrite") else {}
    command = stored.pop("command", None) or shlex.join(["vsr", *sys.argv[1:]])
    in_file = {} if config is None else read_config(config)
    for path, known in ((output / CONFIG, stored), (config and config_of(config), in_file)):
        if name is not None and known.get("recipe", name) != name:
            raise UsageError(f"--recipe {name} differs from the recipe {known['recipe']} in {path}: leave it out.")
    merged = {**stored, **in_file, **values}
    merged.pop("command", None)
    name = merged.pop("recipe", name) or DEFAULT
    in_file_steps = merged.pop("steps", None)
    steps = in_file_steps if steps is None else steps
    if not merged.get("data"):
        older = f", and all other options of the run: {output} holds no {CONFIG}" if values.get("resume") else ""
        raise UsageError(f"name the pictures to train on with --data{older}.")
    run_names = {field.name for field in fields(TrainOptions)}
    run = {key: value for key, value in merged.items() if key in run_names}
    recipe = override(RECIPES[name], **{key: value for key, value in merged.items() if key not in run_names})
    if steps is not None:
        recipe = with_total_steps(recipe, steps, None if run.get("stage", "all") == "all" else run["stage"])
    return TrainOptions(**run, recipe=recipe, command=command)
