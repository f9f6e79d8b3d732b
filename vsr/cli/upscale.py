"""``vsr upscale``: a clip in, the same clip out, sharp."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from vsr.cli.console import clean_end_on_signals, option_of, start_logging, verbosity_options
from vsr.pipeline.options import UpscaleOptions

PATH = click.Path(path_type=Path)
DAMAGED = 1
"""Exit code where the input was damaged, but an output was made."""

option = option_of(UpscaleOptions)
Parser = Callable[[click.Context, click.Parameter, Any], Any]


def auto_or(least: int) -> Parser:
    """For options that are ``auto``, which becomes None, or a whole number from ``least`` up."""

    def parse(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
        if value == "auto":
            return None
        if not (value.isascii() and value.isdigit()) or int(value) < least:
            raise click.BadParameter(f"{value!r} is neither auto nor a whole number from {least} up.")
        return int(value)

    return parse


def parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> Fraction | None:
    """``90.5``, ``1:30.5`` or ``0:01:30.5`` -> seconds, exactly."""
    if value is None:
        return None
    if not re.fullmatch(r"(\d{1,9}:)?(\d{1,9}:)?\d{1,9}(\.\d{0,9})?", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is no time: write 90.5, 1:30.5 or 0:01:30.5.")
    seconds = Fraction(0)
    for part in value.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``1920x1080`` -> (1920, 1080)."""
    if value is None:
        return None
    if not (found := re.fullmatch(r"(\d{1,6})x(\d{1,6})", value, re.ASCII)):
        raise click.BadParameter(f"{value!r} is no size: write 1920x1080.")
    return int(found[1]), int(found[2])


def parse_rate(ctx: click.Context, param: click.Parameter, value: str) -> Fraction:
    """``25``, ``29.97`` or ``30000/1001`` -> frames a second."""
    try:
        if len(value) > 20 or "e" in value.lower():
            raise ValueError(value)
        return Fraction(value)
    except (ValueError, ZeroDivisionError) as exc:
        raise click.BadParameter(f"{value!r} is no rate: write 25 or 30000/1001.") from exc


def parse_pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` of each use -> a dict."""
    pairs = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{text!r} is not of the form KEY=VALUE.")
        pairs[key] = value
    return pairs


AUTO: dict[str, Any] = {"default": "auto", "show_default": True, "metavar": "auto|N"}
OUTPUTS = "A .mp4, .mov, .mkv, .webm, .ts, .avi or .gif; a picture; or pictures such as frames/%06d.png."


@click.command()
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("-o", "--output", "target", type=PATH, required=True, metavar="OUT", help=OUTPUTS)
@option("--model", "A model of `vsr models`, a family of them such as srgan, or a weights file.", metavar="NAME|PATH")
@option("--scale", "Output size over input size, 1.5 as well as 4.  [default: the model's own]", type=float)
@option("--size", "Size of the output.", metavar="WxH", callback=parse_size)
@option("--height", "Height of the output; the width follows.", type=int)
@option("--detail", "Texture of an adversarial model: 0 faithful and soft, 1 sharp.", type=float)
@option("--start", "Leave out what is shown earlier: seconds, or 1:30.5.", metavar="T", callback=parse_time)
@option("--end", "Leave out what is shown then or later.", metavar="T", callback=parse_time)
@option("--deinterlace", "auto: frames that are flagged as interlaced.", type=click.Choice(["auto", "yes", "no"]))
@option("--device", "auto, cpu, cuda, cuda:N or mps.")
@option("--precision", "auto: fp16 on CUDA, else fp32.", type=click.Choice(["auto", "fp32", "fp16", "bf16"]))
@click.option(
    "--tile", "tile_size", help="Largest edge of a tile, in input pixels; 0: none.", callback=auto_or(0), **AUTO
)
@click.option("--batch", "batch_size", help="Frames at once.", callback=auto_or(1), **AUTO)
@option(
    "--codec",
    "h264, hevc, av1, vp9, prores, ffv1, or any encoder of libav.  [default: h264; vp9 in .webm]",
    metavar="NAME",
)
@option("--crf", "Quality: lower is better and larger.  [default: 18 for h264]", type=int)
@option("--preset", "The encoder's effort.  [default: medium for h264]")
@option("--pix-fmt", "Pixel format to encode.  [default: what loses least]")
@click.option(
    "-x",
    "encoder",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_pairs,
    help="One more option of the encoder; may be repeated.",
)
@option("--audio", "copy, none, or the encoder to convert it by.", metavar="copy|none|CODEC")
@click.option(
    "--fps",
    default="25",
    show_default=True,
    metavar="N",
    callback=parse_rate,
    help="Frames a second of a folder of pictures.",
)
@option("--max-pixels", "Refuse frames that say they are larger.", type=int)
@option("--tolerant", "Damage to the input is no failure.", is_flag=True)
@option("--overwrite", "Replace an existing output.", is_flag=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@verbosity_options
def upscale(source: Path, target: Path, as_json: bool, verbose: int, quiet: bool, **values: Any) -> None:
    """Upscale a clip; sound, subtitles, metadata and every timestamp stay.

    INPUT is a video, a picture, a folder of pictures, or a pattern such as
    "frames/*.png".

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
        repeated = f", {summary.repeated} of them repeated" if summary.repeated else ""
        click.echo(
            f"{summary.target}: {summary.frames} frames of {summary.width}x{summary.height}{repeated} "
            f"in {summary.seconds:.1f} s ({rate:.2f} frames/s)"
        )
    if summary.damage and not options.tolerant:
        click.get_current_context().exit(DAMAGED)
