"""``vsr compare``: show candidates side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from vsr.cli.options import PATH, ParsedType, given, options_of
from vsr.cli.terminal import clean_end_on_signals, echo, start_logging, verbosity_options
from vsr.comparison.compare import compare as compare_files
from vsr.comparison.options import CompareOptions, CompareProgress, Region


def parse_region(text: str) -> Region:
    """Parse ``X,Y,W,H`` to a region."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise ValueError(f"{text!r} is not X,Y,W,H, four whole numbers separated by commas")
    return Region(*map(int, parts))


def parse_quality(text: str) -> int | str:
    """Parse ``lossless`` or a whole number."""
    if text == "lossless":
        return text
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is neither a whole number nor lossless")
    return int(text)


TYPES = {"regions": ParsedType("X,Y,W,H", parse_region), "quality": ParsedType("1..100|lossless", parse_quality)}


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, type=PATH)
@options_of(CompareOptions, without=("inputs",), types=TYPES)
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
    options = CompareOptions(**given(values))

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
