"""``vsr upscale``: a clip in, the same clip out, sharp."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from vsr.cli.console import interrupt_on_sigterm, start_logging, verbosity_options
from vsr.pipeline.options import UpscaleOptions

DEFAULTS = {field.name: field.default for field in fields(UpscaleOptions)}


class AutoOr(click.ParamType):
    """``auto``, which is None, or a whole number."""

    def __init__(self, least: int) -> None:
        self.name = "auto|N"
        self._number = click.IntRange(min=least)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "auto" else self._number.convert(value, param, ctx)


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    required=True,
    metavar="OUT",
    help="Output file: .mp4, .mov, .m4v or .mkv.",
)
@click.option(
    "--model",
    default=DEFAULTS["model"],
    show_default=True,
    metavar="NAME|PATH",
    help="A model of `vsr models`, or a weights file.",
)
@click.option("--scale", type=float, help="Output size over input size.  [default: the model's own]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network; auto is fp16 on CUDA, else fp32.",
)
@click.option(
    "--tile",
    "tile_size",
    type=AutoOr(0),
    default="auto",
    show_default=True,
    help="Largest edge of a tile in input pixels; 0 never tiles.",
)
@click.option("--batch", "batch_size", type=AutoOr(1), default="auto", show_default=True, help="Frames at once.")
@click.option("--codec", default=DEFAULTS["codec"], show_default=True, help="Video codec of the output: h264.")
@click.option("--crf", type=int, help="Quality: lower is better and larger.  [default: 18]")
@click.option("--preset", help="The encoder's effort.  [default: medium]")
@click.option(
    "--audio",
    type=click.Choice(["copy", "none"]),
    default="copy",
    show_default=True,
    help="Keep all audio, or leave it out.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@verbosity_options
def upscale(source: Path, target: Path, as_json: bool, verbose: int, quiet: bool, **values: Any) -> None:
    """Upscale a clip; sound, subtitles, metadata and every timestamp stay.

    \b
    vsr upscale input.mp4 -o out.mp4
    """  # fmt: skip
    start_logging(verbose, quiet)
    options = UpscaleOptions(**values)

    from tqdm import tqdm

    from vsr.pipeline.job import UpscaleProgress, upscale_clip

    with tqdm(unit="frame", disable=quiet or as_json or None) as bar, interrupt_on_sigterm():

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
