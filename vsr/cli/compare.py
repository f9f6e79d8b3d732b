"""``vsr compare``: candidates side by side, for the eye."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vsr.cli.terminal import clean_end_on_signals, echo, option_of, start_logging, verbosity_options
from vsr.comparison.compare import compare as compare_files
from vsr.comparison.options import CompareOptions, CompareProgress, Region

PATH = click.Path(path_type=Path)
option = option_of(CompareOptions)


class _RegionType(click.ParamType):  # type: ignore[type-arg]  # generic in newer click alone
    name = "X,Y,W,H"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Region:
        parts = str(value).split(",")
        if len(parts) != 4 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
            self.fail(f"{value!r} is not X,Y,W,H, four whole numbers between commas", param, ctx)
        return Region(*map(int, parts))


class _QualityType(click.ParamType):  # type: ignore[type-arg]
    name = "1..100|lossless"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "lossless":
            return "lossless"
        if not (str(value).isascii() and str(value).isdigit()):
            self.fail(f"{value!r} is neither a whole number nor lossless", param, ctx)
        return int(value)


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, type=PATH)
@click.option("-o", "--output", "target", type=PATH, required=True, metavar="OUT",
              help="A strip: .png, .jpg. A video: .mp4, .mov, .m4v, .mkv. A page with a slider: .html.")  # fmt: skip
@option("--lr", "What the candidates were upscaled from.", type=PATH, metavar="FILE")
@option("--hr", "What they should be like.", type=PATH, metavar="FILE")
@click.option("--label", "labels", multiple=True, metavar="TEXT", help="Once for each INPUT.  [default: file names]")
@click.option("--bicubic/--no-bicubic", default=None, help="Add LR's bicubic interpolation.  [default: with --lr]")
@click.option("--region", "regions", multiple=True, type=_RegionType(),
              help="Strips: a part to magnify, in output pixels; may be repeated.")  # fmt: skip
@click.option("--regions", "num_regions", type=int, metavar="N",
              help="Strips: how many parts to magnify where the candidates differ most.  [default: 2]")  # fmt: skip
@click.option("--time", "times", multiple=True, type=float, metavar="SECONDS",
              help="Strips and pages of clips: the frame on display then; may be repeated.")  # fmt: skip
@click.option("--frame", "frames", multiple=True, type=int, metavar="NUMBER",
              help="Strips and pages of clips: a frame, counted from 0; may be repeated.")  # fmt: skip
@click.option("--frames", "num_frames", type=int, metavar="N",
              help="Pages of clips: how many frames, at even spacing.  [default: 8]")  # fmt: skip
@option("--layout", "Videos.  [default: split]", type=click.Choice(["split", "side-by-side", "grid"]))
@option(
    "--quality",
    "Of JPEG pictures.  [default: 95; small pages lossless]",
    type=_QualityType(),
    metavar="1..100|lossless",
)
@option("--overwrite", "Replace an existing output.", is_flag=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@verbosity_options
def compare(as_json: bool, verbose: int, quiet: bool, **values: Any) -> None:
    """Lay pictures or clips side by side: as a strip, a video, or a page with a slider.

    \b
    vsr compare srresnet.png srgan.png --lr lr.png --hr hr.png -o strip.png
    vsr compare out.mp4 --lr input.mp4 -o split.mp4
    vsr compare a.mp4 b.mp4 -o page.html
    """
    start_logging(verbose, quiet)
    options = CompareOptions(**values)

    from tqdm import tqdm

    with tqdm(unit="frame", disable=quiet or as_json or None) as bar, clean_end_on_signals():

        def show(at: CompareProgress) -> None:
            bar.total = at.num_frames_estimated
            bar.update(at.frames - bar.n)

        summary = compare_files(options, show)
    if as_json:
        echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        frames = "" if summary.frames == 1 else f"{summary.frames} frames, "
        echo(
            f"{summary.target}: a {summary.kind} of {' | '.join(summary.labels)}, {frames}"
            f"{summary.width}x{summary.height}, {summary.num_bytes / 1e6:.1f} MB"
        )
