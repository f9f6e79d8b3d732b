"""``vsr upscale``: a clip in, the same clip out, sharp."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vsr.cli.console import clean_end_on_signals, option_of, start_logging, verbosity_options
from vsr.pipeline.options import UpscaleOptions

PATH = click.Path(path_type=Path)
option = option_of(UpscaleOptions)


def auto_or(least: int) -> Callable[[click.Context, click.Parameter, str], int | None]:
    """For options that are ``auto``, which becomes None, or a whole number from ``least`` up."""

    def parse(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
        if value == "auto":
            return None
        if not (value.isascii() and value.isdigit()) or int(value) < least:
            raise click.BadParameter(f"{value!r} is neither auto nor a whole number from {least} up.")
        return int(value)

    return parse


AUTO: dict[str, Any] = {"default": "auto", "show_default": True, "metavar": "auto|N"}


@click.command()
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("-o", "--output", "target", type=PATH, required=True, metavar="OUT", help="A .mp4, .mov, .m4v or .mkv.")
@option("--model", "A model of `vsr models`, or a weights file.", metavar="NAME|PATH")
@option("--scale", "Output size over input size.  [default: the model's own]", type=float)
@option("--device", "auto, cpu, cuda, cuda:N or mps.")
@option("--precision", "auto: fp16 on CUDA, else fp32.", type=click.Choice(["auto", "fp32", "fp16", "bf16"]))
@click.option(
    "--tile", "tile_size", help="Largest edge of a tile, in input pixels; 0: none.", callback=auto_or(0), **AUTO
)
@click.option("--batch", "batch_size", help="Frames at once.", callback=auto_or(1), **AUTO)
@option("--codec", "Video codec of the output.", metavar="h264")
@option("--crf", "Quality: lower is better and larger.  [default: 18]", type=int)
@option("--preset", "The encoder's effort.  [default: medium]")
@option("--audio", "Keep all audio, or leave it out.", type=click.Choice(["copy", "none"]))
@option("--overwrite", "Replace an existing output.", is_flag=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@verbosity_options
def upscale(source: Path, target: Path, as_json: bool, verbose: int, quiet: bool, **values: Any) -> None:
    """Upscale a clip; sound, subtitles, metadata and every timestamp stay.

    \b
    vsr upscale input.mp4 -o out.mp4
    """
    start_logging(verbose, quiet)
    options = UpscaleOptions(**values)

    from tqdm import tqdm

    from vsr.pipeline.job import UpscaleProgress, upscale_clip

    with tqdm(unit="frame", disable=quiet or as_json or None) as bar, clean_end_on_signals():

        def show(at: UpscaleProgress) -> None:
            bar.total = at.num_frames_estimated
            bar.update(at.frames - bar.n)

        summary = upscale_clip(source, target, options, show)
    if as_json:
        click.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        rate = summary.frames / summary.seconds
        click.echo(
            f"{summary.target}: {summary.frames} frames of {summary.width}x{summary.height} "
            f"in {summary.seconds:.1f} s ({rate:.2f} frames/s)"
        )
