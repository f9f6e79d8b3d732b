"""The command ``vsr``, one file per subcommand: each parses, builds the options, calls the library once and prints."""

from __future__ import annotations

import os

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


@click.group("vsr", cls=ErrorReportingGroup, context_settings=SETTINGS)
@click.version_option(vsr.__version__, prog_name="vsr")
def main() -> None:
    """Video super-resolution with SRGAN: upscale clips with every other stream intact, and train the generator.

    \b
    vsr upscale input.mp4 -o out.mp4
    vsr upscale photo.jpg -o photo.png --scale 2
    vsr COMMAND --help
    """
    # Idle threads of torch would spin, and keep the cores from the encoder and from other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


for command, line in COMMANDS.items():
    command.short_help = line
    main.add_command(command)
