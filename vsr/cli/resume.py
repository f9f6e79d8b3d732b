"""``vsr resume``: go on with a job that was stopped, by nothing but the name of its output."""

from __future__ import annotations

from pathlib import Path

import click

from vsr.cli.console import start_logging, verbosity_options
from vsr.cli.upscale import upscale_all
from vsr.errors import UsageError
from vsr.pipeline.options import UpscaleOptions


@click.command()
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object; progress on stderr too.")
@verbosity_options
def resume(target: Path, as_json: bool, verbose: int, quiet: bool) -> None:
    """Go on with an interrupted `vsr upscale`.

    OUT is the output as its command named it: a file, pictures such as
    frames/%06d.png, or a folder of outputs. The input and all options are
    those of that command.

    \b
    vsr resume out.mp4
    """
    from vsr.pipeline.job_folder import waiting_job

    start_logging(verbose, quiet)
    job = waiting_job(target)
    try:
        options = UpscaleOptions.from_dict({**job.options, "resume": True})
    except (TypeError, ValueError, AttributeError) as exc:
        raise UsageError(
            f"the job of {target} is of another version of vsr; repeat the command that began it."
        ) from exc
    sources = tuple(map(Path, job.command.sources))
    upscale_all(sources, Path(job.command.target), options, job.command.recursive, as_json, quiet)
