"""The command ``vsr``, one file per subcommand: each parses, builds the options, calls the library once and prints."""

from __future__ import annotations

import os
from functools import partial

import click

import vsr
from vsr.cli.bench import bench
from vsr.cli.compare import compare
from vsr.cli.doctor import doctor
from vsr.cli.evaluate import evaluate
from vsr.cli.models import models
from vsr.cli.terminal import ErrorReportingGroup
from vsr.cli.train import train
from vsr.cli.upscale import resume, upscale
from vsr.errors import spell_settings

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


COMMANDS = {
    upscale: "Upscale videos and pictures.",
    resume: "Continue an interrupted `vsr upscale`.",
    models: "List the models, and show what is known of each.",
    compare: "Show results side by side: as a strip, a video or a page.",
    evaluate: "Measure models on pictures, or clips against originals.",
    train: "Train a model on pictures or clips.",
    bench: "Measure the speed of this machine.",
    doctor: "Show what vsr finds on this machine, for a bug report.",
}
"""The commands in the order of use, with their lines in the help of vsr."""


class Commands(ErrorReportingGroup):
    """The commands; ``vsr clip.mp4`` means ``vsr upscale clip.mp4``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {flag for param in self.get_params(ctx) for flag in param.opts}
        first = args[0] if args else ""
        is_option = first.startswith("-") and first not in own
        named = next((word for word in args if not word.startswith("-")), "")
        if named not in self.commands and (_is_path(first) or (is_option and any(map(_is_path, args)))):
            args = ["upscale", *args]
        return super().parse_args(ctx, args)


def _is_path(argument: str) -> bool:
    """Whether an argument names a file: it exists, or it has the form of a path, a pattern or an address."""
    return not argument.startswith("-") and (os.path.exists(argument) or any(mark in argument for mark in "./\\*%"))


@click.group("vsr", cls=Commands, context_settings=SETTINGS)
@click.version_option(vsr.__version__, prog_name="vsr")
def main() -> None:
    """Video super-resolution with SRGAN: upscale clips with every other stream intact, and train the generator.

    \b
    vsr input.mp4
    vsr upscale input.mp4 -o out.mp4 --scale 2
    vsr upscale photo.jpg -o photo.png
    vsr COMMAND --help
    """
    # Idle threads of torch would spin, and keep the cores from the encoder and from other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    spell_settings(as_flags=True)
    click.get_current_context().call_on_close(partial(spell_settings, as_flags=False))


for command, line in COMMANDS.items():
    command.short_help = line
    main.add_command(command)
