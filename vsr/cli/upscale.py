"""``vsr upscale`` and ``vsr resume``: upscale clips and pictures, and continue an interrupted run."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vsr.cli.options import HEIGHT, RATE, SCALE, SIZE, TIME, SectionedCommand, SectionedOption, given, options_of
from vsr.cli.terminal import (
    clean_end_on_signals,
    echo,
    echo_error,
    echo_lines,
    echo_measuring,
    echo_note,
    large_imports,
    show_progress,
    start_logging,
    verbosity_options,
)
from vsr.errors import UsageError
from vsr.pipeline.options import COMMON, JOB, UpscaleOptions

if TYPE_CHECKING:
    from vsr.pipeline.estimate import Estimate
    from vsr.pipeline.folder import Outcome, Pair
    from vsr.pipeline.job import UpscaleSummary
    from vsr.pipeline.journal import Command

FAILED = 1
"""Exit code where something failed, or where an input was damaged but an output was made."""

TYPES = {"scale": SCALE, "size": SIZE, "height": HEIGHT, "start": TIME, "end": TIME, "fps": RATE}
"""Types of the options that the types of their fields do not determine."""

OUTPUTS = "A .mp4, .mov, .mkv, .webm, .ts, .avi or .gif; a picture; pictures such as frames/%06d.png; or a folder/."

common = partial(click.option, cls=SectionedOption, section=COMMON)
job = partial(click.option, cls=SectionedOption, section=JOB)
as_json_option = job(
    "--json", "as_json", is_flag=True, help="Print the summary as one JSON object, and progress on stderr."
)


@click.command(cls=SectionedCommand)
@click.argument("names", metavar="INPUT... [OUT]", nargs=-1, required=True)
@common("-o", "--output", metavar="OUT", help=f"{OUTPUTS}  [default: INPUT_x4 beside the input]")
@options_of(UpscaleOptions, types=TYPES)
@job("--recursive", is_flag=True, help="Recurse into subdirectories.")
@common("--dry-run", is_flag=True, help="Only estimate time and size, by upscaling a few frames.")
@as_json_option
@verbosity_options
def upscale(
    names: tuple[str, ...],
    output: str | None,
    recursive: bool,
    dry_run: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
    **values: Any,
) -> None:
    """Upscale clips; sound, subtitles, metadata and all timestamps are kept.

    INPUT is a video, a picture, a folder of pictures, or a pattern such as
    "frames/*.png" or frames/%04d.png. If OUT is a folder, each input gets an
    output in it, and there may be several inputs, and folders of videos. An
    interrupted command continues where it stopped when it is run again.

    \b
    vsr upscale input.mp4                    writes input_x4.mp4
    vsr upscale input.mp4 out.mkv --height 1080p
    vsr upscale clips/ -o out/
    """
    start_logging(verbose, quiet)
    options = UpscaleOptions(**given(values))
    with large_imports():
        from vsr.pipeline.folder import split_output
    names, output = (names, output) if output is not None else split_output(names)
    sources = tuple(map(Path, names))
    target = None if output is None else Path(output)
    into_folder = output is not None and output.endswith(("/", os.sep))
    upscale_all(sources, target, options, recursive, as_json, quiet, into_folder=into_folder, dry_run=dry_run)


def upscale_all(
    sources: tuple[Path, ...],
    target: Path | None,
    options: UpscaleOptions,
    recursive: bool,
    as_json: bool,
    quiet: bool,
    *,
    into_folder: bool = False,
    dry_run: bool = False,
) -> None:
    """Upscale one input or many, print the results, and exit with ``FAILED`` if something failed.

    Args:
        sources: the inputs.
        target: the output; None: one beside each input.
        options: for all inputs.
        recursive: include subfolders.
        as_json: print JSON.
        quiet: print only errors.
        into_folder: whether the target is a folder even if it does not exist.
        dry_run: only estimate.
    """
    with large_imports():
        from vsr.pipeline.folder import Pair, has_many_outputs, outputs_beside, pair_inputs
    from vsr.pipeline.journal import Command

    if target is None:
        pairs, command, many = outputs_beside(sources, options, recursive=recursive), None, len(sources) > 1
        many = many or sources != tuple(pair.source for pair in pairs)
    else:
        many = into_folder or has_many_outputs(sources, target)
        pairs = pair_inputs(sources, target, recursive=recursive) if many else [Pair(sources[0], target)]
        many = many and sources != (pairs[0].source,)  # a single file is reported as one clip even in a folder
        command = Command.of(sources, target, recursive)
    with clean_end_on_signals(), nullcontext() if dry_run else _resume_hint(pairs):
        if dry_run:
            _estimate(pairs, many, options, as_json)
        elif many:
            _upscale_many(pairs, options, command, as_json, quiet)
        else:
            _upscale_one(pairs[0], options, command, as_json, quiet)


@contextmanager
def _resume_hint(pairs: list[Pair]) -> Iterator[None]:
    """After an interrupt, print how much is finished and the command that resumes."""
    try:
        yield
    except KeyboardInterrupt:
        if kept := _describe_kept(pairs):
            arguments = [argument for argument in sys.argv[1:] if argument != "--no-resume"]
            echo_note(f"{kept}; to resume, run: {shlex.join(['vsr', *arguments])}")
        raise


def _describe_kept(pairs: list[Pair]) -> str:
    """Return how much is finished, as text; empty if nothing is."""
    from vsr.errors import VsrError
    from vsr.pipeline.journal import read_job

    parts = []
    if len(pairs) > 1 and (done := sum(os.path.exists(pair.target) for pair in pairs)):
        parts.append(f"{done} of {len(pairs)} clips are done")
    for pair in pairs:
        with suppress(VsrError):
            job = read_job(pair.target)
            if job is None or job.manifest is None or not (frames := job.frames_kept()):
                continue
            total = "" if job.manifest.num_frames is None else f" of {job.manifest.num_frames}"
            of = f" of {pair.target.name}" if len(pairs) > 1 else ""
            parts.append(f"{frames}{total} frames{of} are kept")
    return ", ".join(parts)


def _upscale_one(pair: Pair, options: UpscaleOptions, command: Command | None, as_json: bool, quiet: bool) -> None:
    from vsr.pipeline.job import upscale_clip

    with show_progress(as_json, quiet) as display:
        summary = upscale_clip(
            pair.source, pair.target, options, display.clip, command=command, on_plan=display.plan
        )
    if as_json:
        echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        echo(f"{summary.target}: {_format_summary(summary)}")
    if summary.damage and not options.tolerant:
        click.get_current_context().exit(FAILED)


def _format_summary(summary: UpscaleSummary) -> str:
    computed = summary.frames - summary.resumed
    resumed = f", {summary.resumed} of them from an earlier run" if summary.resumed else ""
    repeated = f", {summary.repeated} of them repeated" if summary.repeated else ""
    return (
        f"{summary.frames} frames of {summary.width}x{summary.height}{repeated}{resumed} "
        f"in {summary.seconds:.1f} s ({computed / summary.seconds:.2f} frames/s)"
    )


def _upscale_many(
    pairs: list[Pair], options: UpscaleOptions, command: Command | None, as_json: bool, quiet: bool
) -> None:
    from vsr.pipeline.folder import upscale_folder

    with show_progress(as_json, quiet, num_inputs=len(pairs)) as display:
        outcomes = upscale_folder(
            pairs, options, progress=display.folder, on_outcome=display.outcome, on_plan=display.plan, command=command
        )
    states = [outcome.state for outcome in outcomes]
    if as_json:
        counts = {state: states.count(state) for state in ("done", "damaged", "there", "failed")}
        echo(json.dumps({"clips": [_as_dict(outcome) for outcome in outcomes], **counts}, default=str))
    elif not quiet:
        echo_lines(_outcome_table(outcomes))
    if "failed" in states or "damaged" in states:
        click.get_current_context().exit(FAILED)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    summary = asdict(outcome.summary) if outcome.summary is not None else {}
    return {**asdict(outcome.pair), "state": outcome.state, "error": outcome.error, **summary}


def _outcome_table(outcomes: list[Outcome]) -> str:
    from vsr.evaluation.tables import Column, Table, to_text

    columns = (
        Column("clip"),
        Column("state"),
        Column("frames"),
        Column("size"),
        Column("time", "s", 1),
        Column("note"),
    )
    rows = []
    for outcome in outcomes:
        row: dict[str, Any] = {"clip": outcome.pair.target.name, "state": outcome.state, "note": outcome.error}
        if (summary := outcome.summary) is not None:
            row |= {
                "frames": summary.frames, "size": f"{summary.width}x{summary.height}", "time": summary.seconds,
            }  # fmt: skip
        rows.append(row)
    return to_text(Table(columns, tuple(rows), {}))


def _estimate(pairs: list[Pair], many: bool, options: UpscaleOptions, as_json: bool) -> None:
    from vsr.errors import VsrError
    from vsr.pipeline.estimate import estimate_clip
    from vsr.pipeline.folder import existing_outcome
    from vsr.pipeline.scheduler import InProcess

    estimates, failed, executor = [], [], InProcess()
    for pair in pairs:
        try:
            if many and existing_outcome(pair, options):
                continue
            say = None if as_json else echo_measuring
            estimates.append(estimate_clip(pair.source, pair.target, options, executor=executor, on_plan=say))
        except VsrError as exc:
            if not many:
                raise
            failed.append(str(exc))
            echo_error(str(exc))
    if as_json:
        total = {name: sum(getattr(one, name) for one in estimates) for name in ("frames", "seconds", "output_bytes")}
        clips = [asdict(one) for one in estimates]
        echo(json.dumps({"clips": clips, **total, "errors": failed}, default=str))
    else:
        for one in estimates:
            echo(_format_estimate(one))
        if many:
            echo(f"{len(estimates)} clips: about {_duration(sum(one.seconds for one in estimates))} in total.")
    if failed:
        click.get_current_context().exit(FAILED)


def _format_estimate(one: Estimate) -> str:
    plural = "s" * (one.segments > 1)
    return (
        f"{one.target}: {one.frames} frames of {one.width}x{one.height} in {one.segments} segment{plural}; "
        f"about {_duration(one.seconds)}, estimated from {one.measured_frames} frames; "
        f"about {_size(one.output_bytes)}, and {_size(one.disk_bytes)} while it runs."
    )


def _duration(seconds: float) -> str:
    """Format a duration by its two largest units: ``12.0 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 days 4 h``."""
    steps = (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, length), (next_name, next_length) in zip(steps, steps[1:], strict=False):
        if seconds >= length:
            return f"{int(seconds // length)} {name} {int(seconds % length // next_length)} {next_name}"
    return f"{seconds:.1f} s"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


@click.command()
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@as_json_option
@verbosity_options
def resume(target: Path, as_json: bool, verbose: int, quiet: bool) -> None:
    """Resume an interrupted `vsr upscale`.

    OUT is the output of that command, as it was named there: a file, pictures
    such as frames/%06d.png, or a folder. The input and all options are those
    of that command.

    \b
    vsr resume out.mp4
    """
    from vsr.pipeline.journal import resumable_job

    start_logging(verbose, quiet)
    job = resumable_job(target)
    try:
        options = UpscaleOptions.from_dict({**job.options, "resume": True})
    except UsageError:  # a ValueError too
        raise
    except (TypeError, ValueError, AttributeError) as exc:
        raise UsageError(
            f"the job of {target} is from another version of vsr; repeat the command that started it."
        ) from exc
    sources = tuple(map(Path, job.command.sources))
    upscale_all(sources, Path(job.command.target), options, job.command.recursive, as_json, quiet)
