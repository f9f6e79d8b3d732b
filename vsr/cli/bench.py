"""``vsr bench``: measure the speed of this machine and find its bottleneck."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vsr.cli.options import PATH, SIZE, given, options_of
from vsr.cli.terminal import echo_lines, echo_note, large_imports, start_logging, verbosity_options
from vsr.pipeline.options import BenchOptions

if TYPE_CHECKING:
    from vsr.evaluation.tables import Table
    from vsr.machine import Speed


@click.command()
@options_of(BenchOptions, types={"sizes": SIZE})
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Also write the table to a .json, .csv or .md file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbosity_options
def bench(output: Path | None, overwrite: bool, as_json: bool, verbose: int, quiet: bool, **values: Any) -> None:
    """Measure the speed of this machine: network, pipeline and each stage.

    Each engine and precision upscales a generated clip. The speed of the bare
    network is compared with a large matrix product in the same precision
    (of peak), and that of the pipeline with the bare network (efficiency).
    """
    start_logging(verbose, quiet)
    with large_imports():
        from vsr.evaluation.tables import check_output, to_text, write_table
        from vsr.machine import bench
    if output is not None:
        check_output(output, overwrite=overwrite)
    speeds = []
    for speed in bench(BenchOptions(**given(values))):
        speeds.append(speed)
        if not as_json and not quiet:
            echo_note(_format_speed(speed))
    table = _speed_table(speeds)
    echo_lines(json.dumps({"speeds": [asdict(speed) for speed in speeds]}) if as_json else to_text(table))
    if output is not None:
        write_table(output, table, overwrite=overwrite)


def _format_speed(speed: Speed) -> str:
    return (
        f"{speed.model}, {speed.width}x{speed.height}, {speed.precision} by {speed.engine}: "
        f"{speed.network_fps:.2f} frames/s bare, {speed.pipeline_fps:.2f} with the pipeline"
    )


def _speed_table(speeds: list[Speed]) -> Table:
    from vsr.evaluation.tables import Column, Table
    from vsr.machine import STAGES

    stages = tuple(Column(stage, "ms", 1) for stage in STAGES)
    columns = (
        Column("model"), Column("size"), Column("engine"), Column("precision"), Column("bare", "fps", 2),
        Column("of peak", "", 2), Column("pipeline", "fps", 2), Column("efficiency", "", 2), *stages,
        Column("memory", "MiB", 0),
    )  # fmt: skip
    rows = tuple(
        {
            "model": speed.model, "size": f"{speed.width}x{speed.height}", "engine": speed.engine,
            "precision": speed.precision, "bare": speed.network_fps, "of peak": speed.share_of_peak,
            "pipeline": speed.pipeline_fps, "efficiency": speed.efficiency, **speed.milliseconds,
            "memory": None if speed.memory_bytes is None else speed.memory_bytes / 2**20,
        }
        for speed in speeds
    )  # fmt: skip
    about = {
        "bare": "the network alone",
        "of peak": "multiply-adds of the network as published, over those of a matrix product by the fastest engine",
        "efficiency": "frames per second of the pipeline, over those of the bare network measured before and after it",
        "ms": "per frame; decode and encode run in threads of their own",
    }
    return Table(columns, rows, about)
