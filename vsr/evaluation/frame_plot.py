"""The scores of every frame of the outputs as one picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vsr.evaluation.video_scores import FrameScore, OutputScore, VideoReport
from vsr.files import write_whole
from vsr.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Measure = Callable[[FrameScore], float | None]


@dataclass(frozen=True)
class Panel:
    """One row of the picture.

    Attributes:
        title: above it, with the unit.
        measure: what is drawn of each frame.
        beside: the same of the reference, drawn in black.
    """

    title: str
    measure: Measure
    beside: Measure | None = None


PANELS = (
    Panel("PSNR-Y in dB (a gap: equal to the reference)", lambda frame: frame.psnr_y),
    Panel("SSIM-Y", lambda frame: frame.ssim_y),
    Panel("VMAF", lambda frame: frame.vmaf),
    Panel(
        "Warping error in code values (less is better)",
        lambda frame: frame.warping_error,
        lambda frame: frame.reference_warping_error,
    ),
    Panel(
        "Change in still regions in code values (less is better)",
        lambda frame: frame.still_change,
        lambda frame: frame.reference_still_change,
    ),
)


def plot_frames(report: VideoReport, target: Path) -> None:
    """Draw the scores over the reference's time, a row for each measure that has values, a line for each output.

    Dotted vertical lines are cuts. Frames without a partner are gaps.

    Args:
        report: the scores.
        target: PNG of 1200 pixels by 250 for each row; replaced.

    Raises:
        OutputError: it cannot be written; what stood there before still does.
    """
    # Only here, since it takes about a second; and without pyplot, which keeps figures and looks for a window system.
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if _has_values(report, panel.measure)] or [PANELS[0]]
    figure = Figure(figsize=(12, 2.5 * len(panels) + 0.5), dpi=100, layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        for number, (label, output) in enumerate(zip(report.labels, report.outputs, strict=True)):
            _draw(axes, report, output, panel.measure, f"C{number}", label)
        if panel.beside is not None:
            # Each output has it over its own pairs, most often all; the first stands for them.
            _draw(axes, report, report.outputs[0], panel.beside, "black", "the reference itself")
        for cut in report.cuts:
            axes.axvline(float(report.times[cut]), color="grey", linestyle=":", linewidth=1)
        axes.set_title(panel.title, loc="left", fontsize="medium")
        axes.grid(alpha=0.3)
    grid[-1].set_xlabel("seconds")
    handles = {str(line.get_label()): line for axes in grid for line in axes.get_lines() if line.get_gid()}
    # Between dollar signs matplotlib would look for formulas.
    names = [one_line(name).replace("$", r"\$") for name in handles]
    # File names may begin with an underscore, which a legend made by itself leaves out.
    figure.legend(list(handles.values()), names, loc="outside upper right", ncols=min(4, len(handles)))
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(target, content.getvalue())


def _has_values(report: VideoReport, measure: Measure) -> bool:
    values = (measure(frame) for output in report.outputs for frame in output.frames)
    return any(value is not None and np.isfinite(value) for value in values)


def _draw(axes: Axes, report: VideoReport, output: OutputScore, measure: Measure, colour: str, label: str) -> None:
    values = np.full(len(report.times), np.nan)
    for frame in output.frames:
        value = measure(frame)
        if value is not None and np.isfinite(value):
            values[frame.number] = value
    seconds = [float(time) for time in report.times]
    style = "--" if colour == "black" else "-"
    lines = axes.plot(seconds, values, style, color=colour, linewidth=1.2, label=label, gid="score")
    if np.isfinite(values).sum() < 60:
        lines[0].set_marker(".")
