"""``vsr eval``: measure models on pictures, and upscaled clips against their originals."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vsr.cli.options import MODEL, PATH, SectionedCommand, SectionedOption, given, options_of
from vsr.cli.terminal import clean_end_on_signals, echo, echo_table, large_imports, start_logging, verbosity_options
from vsr.errors import UsageError, needs_extra
from vsr.evaluation.options import ImageEvalOptions, VideoEvalOptions
from vsr.evaluation.tables import Table, check_output, to_json, write_table

if TYPE_CHECKING:
    from vsr.evaluation.scores import VideoReport

GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


PICTURES, CLIPS = "Pictures", "Clips"
picture, clip, shared = (partial(click.option, cls=SectionedOption, section=at) for at in (PICTURES, CLIPS, "Both"))


@click.command("eval", cls=SectionedCommand)
@click.argument("clips", metavar="[REF OUT...]", type=PATH, nargs=-1)
@options_of(ImageEvalOptions, without=("lr", "border"), section=PICTURES, required=False, types={"models": MODEL})
@picture("--no-lpips", is_flag=True, help="Leave LPIPS out, as --lpips none does.")
@picture("--per-picture", is_flag=True, help="Also show each picture.")
@options_of(VideoEvalOptions, without=("reference", "outputs", "lr", "border"), section=CLIPS)
@clip("--per-frame", type=PATH, metavar="FILE", help="Write the values of each frame: .json .csv .md.")
@clip("--plot", type=PATH, metavar="FILE", help="Plot the values of each frame over time: .png.")
@options_of(ImageEvalOptions, "lr", "border", section="Both")
@shared("-o", "--output", "outputs", multiple=True, type=PATH, metavar="FILE", help="Write the table: .json .csv .md.")
@shared("-y", "--overwrite", is_flag=True, help="Replace existing outputs.")
@shared("--json", "as_json", is_flag=True, help="Print the table as one JSON object.")
@verbosity_options
def evaluate(
    clips: tuple[Path, ...],
    outputs: tuple[Path, ...],
    no_lpips: bool,
    per_picture: bool,
    per_frame: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **values: Any,
) -> None:
    """Measure models on pictures, or clips against their original.

    \b
    vsr eval --model srresnet-x4 --model bicubic --data Set5/
    vsr eval original.mp4 upscaled.mp4 other.mp4

    Pictures: HR is cropped to a multiple of the scale, and LR is made from it as MATLAB does, or read from --lr,
    where baby.png is called baby, babyx4 or baby_LRx4. FID needs the package torch-fidelity.
    """
    start_logging(verbose, quiet)
    _check_kind(clips)
    _check_outputs(outputs, per_frame, plot, overwrite)
    chosen = given(values) | ({"lpips": "none"} if no_lpips else {})
    hidden = quiet or as_json or None  # None: shown where stderr is a terminal
    with clean_end_on_signals():
        if clips:
            report, table = _measure_clips(clips, chosen, hidden)
        else:
            report, table = None, _measure_pictures(chosen, per_picture, hidden)
    try:
        for output in outputs:
            write_table(output, table, overwrite=overwrite)
        if report is not None:
            _write_frames(report, per_frame, plot)
    finally:  # even if a file cannot be written, since the results may have taken hours
        if as_json:
            echo(to_json(table))
        elif not quiet:
            echo_table(table)


def _check_kind(clips: tuple[Path, ...]) -> None:
    """Refuse options for pictures together with clips, and the reverse."""
    context = click.get_current_context()
    given = {
        param.section: max(param.opts, key=len)
        for param in reversed(context.command.params)
        if isinstance(param, SectionedOption) and context.get_parameter_source(param.name or "") in GIVEN
    }
    if clips and PICTURES in given:
        raise UsageError(
            f"clips and pictures exclude each other: {clips[0]} is measured as a clip, {given[PICTURES]} is for the "
            "pictures of --data."
        )
    if len(clips) == 1:
        raise UsageError(f"{clips[0]} alone cannot be measured: name the original, then the upscaled clips.")
    if not clips and CLIPS in given:
        raise UsageError(f"{given[CLIPS]} is for clips: name the original, then the upscaled clips.")
    if not clips and PICTURES not in given:
        raise UsageError("name clips to measure, the original first, or pictures with --model and --data.")


def _check_outputs(outputs: tuple[Path, ...], per_frame: Path | None, plot: Path | None, overwrite: bool) -> None:
    tables = [*outputs, *([per_frame] if per_frame else [])]
    for path in tables:
        check_output(path, overwrite=overwrite)
    if plot is not None:
        check_output(plot, overwrite=overwrite, endings=(".png",))
        with needs_extra("eval", "a plot"):
            import matplotlib  # noqa: F401 - to fail before the measuring
    twice = next((path for path in tables if tables.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice as an output.")


def _measure_pictures(chosen: Mapping[str, Any], per_picture: bool, hidden: bool | None) -> Table:
    options = ImageEvalOptions(**{"models": (), "data": (), **chosen})

    from tqdm import tqdm

    with large_imports():
        from vsr.evaluation.images import ImageProgress, evaluate_images
    from vsr.evaluation.images import image_table

    with tqdm(unit="picture", disable=hidden) as bar:

        def show(at: ImageProgress) -> None:
            bar.total = at.total
            bar.update(at.done - bar.n)

        report = evaluate_images(options, show)
    return image_table(report, per_picture=per_picture)


def _measure_clips(
    clips: tuple[Path, ...], chosen: Mapping[str, Any], hidden: bool | None
) -> tuple[VideoReport, Table]:
    lr = chosen.get("lr", (None,))
    if len(lr) > 1:
        raise UsageError(f"clips are measured with one LR clip: give --lr once, got {len(lr)} of them.")
    options = VideoEvalOptions(reference=clips[0], outputs=clips[1:], **{**chosen, "lr": lr[0]})

    from tqdm import tqdm

    from vsr.evaluation.scores import video_table
    from vsr.evaluation.videos import VideoEvalProgress, evaluate_videos

    with tqdm(unit="frame", disable=hidden) as bar:

        def show(at: VideoEvalProgress) -> None:
            if at.frames < bar.n:
                bar.reset(at.num_frames)
            bar.total = at.num_frames
            bar.set_description(at.stage, refresh=False)
            bar.update(at.frames - bar.n)

        report = evaluate_videos(options, show)
    return report, video_table(report)


def _write_frames(report: VideoReport, per_frame: Path | None, plot: Path | None) -> None:
    """Write the values of every frame, as a table and as a plot, where requested."""
    if per_frame is not None:
        from vsr.evaluation.scores import frames_table

        write_table(per_frame, frames_table(report), overwrite=True)  # whether it may be replaced has been checked
    if plot is not None:
        from vsr.evaluation.scores import plot_frames

        plot_frames(report, plot)
