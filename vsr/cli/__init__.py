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


@click.group("vsr", cls=ErrorReportingGroup, context_settings=SETTINGS)
@click.version_option(vsr.__version__, prog_name="vsr")
def main() -> None:
    """Video super-resolution with SRGAN: upscale clips with every other stream intact, and train the generator."""
    # Idle threads of torch would spin, and keep the cores from the encoder and from other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


main.add_command(upscale)
main.add_command(resume)
main.add_command(train)
main.add_command(evaluate)
main.add_command(compare)
main.add_command(models)
main.add_command(bench)
main.add_command(doctor)
