"""The curves of a training run as one picture, drawn from its log."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vsr.files import write_whole
from vsr.training.log import Rows, read_log
from vsr.training.recipe import LOSSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Values = npt.NDArray[np.float64]

CURVES = {
    "generator_loss": ("sum", "black"),
    "content": ("content", "tab:blue"),
    "mse": ("MSE", "tab:green"),
    "l1": ("L1", "tab:olive"),
    "charbonnier": ("Charbonnier", "tab:cyan"),
    "ping_pong": ("ping-pong", "tab:pink"),
    "teacher": ("teacher", "tab:gray"),
    "artefacts": ("artefacts", "tab:orange"),
    "adversarial": ("adversarial", "tab:red"),
    "total_variation": ("total variation", "tab:purple"),
    "discriminator_loss": ("discriminator", "tab:brown"),
    "d_real": ("D(real)", "tab:green"),
    "d_fake": ("D(fake)", "tab:red"),
    "psnr_y": ("PSNR-Y", "tab:blue"),
    "lpips": ("LPIPS", "tab:orange"),
}
"""Column of the log -> its name in the legend and its colour."""


TITLE_PAD = 28
"""Points between axes and title; the names of the stages stand there."""


@dataclass(frozen=True)
class Panel:
    """One row of the picture.

    Attributes:
        title: above it.
        label: of the y axis.
        columns: what is drawn.
        logarithmic: the y axis is.
        measured: values are few, each drawn with a marker and joined across the rows without one.
        right: columns on a second y axis.
        right_label: of that axis.
        marked: a value with a line of its own.
    """

    title: str
    label: str
    columns: tuple[str, ...]
    logarithmic: bool = False
    measured: bool = False
    right: tuple[str, ...] = ()
    right_label: str = ""
    marked: float | None = None


PANELS = (
    Panel(
        "Generator: loss, each term times its weight",
        "loss",
        ("generator_loss", "content", *(name for name in LOSSES if name != "content")),
        logarithmic=True,
    ),
    Panel("Discriminator: loss", "loss", ("discriminator_loss",)),
    Panel("Discriminator: how real the crops seem", "mean of sigmoid(logit)", ("d_real", "d_fake"), marked=0.5),
    Panel(
        "Held-out pictures",
        "PSNR-Y in dB",
        ("psnr_y",),
        measured=True,
        right=("lpips",),
        right_label="LPIPS (less is better)",
    ),
)


def plot_losses(log: Path, target: Path) -> bool:
    """Draw a log: the whole run on the left, its last third on the right, a row for each subject that has data.

    Where rows are many, they are drawn faint under their running mean. On the right the y axes leave out the outermost
    hundredth of the values at each end, and terms of the generator below a hundredth of the largest.

    Args:
        log: ``log.csv`` of a run.
        target: PNG of about 1600 pixels by 350 for each row; replaced.

    Returns:
        False where the log has less than two rows, or no value; then nothing is written.

    Raises:
        InputError: the log cannot be read.
        OutputError: the picture cannot be written.
    """
    rows = read_log(log)
    panels = [panel for panel in PANELS if any(_has_data(rows, name) for name in (*panel.columns, *panel.right))]
    if len(rows) < 2 or not panels:
        return False
    # Only here, since it takes about a second; and without pyplot, which keeps figures and looks for a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 3.5 * len(panels)), dpi=100, layout="constrained")
    grid = figure.subplots(len(panels), 2, squeeze=False)
    steps = rows["step"]
    since = steps[0] + (steps[-1] - steps[0]) * 2 / 3
    for (whole, zoomed), panel in zip(grid, panels, strict=True):
        _draw(whole, panel, rows, steps[0], outliers=True)
        whole.set_title(panel.title, loc="left", pad=TITLE_PAD, fontweight="bold")
        handles = _draw(zoomed, panel, rows, since, outliers=False)
        zoomed.set_title("last third", loc="left", pad=TITLE_PAD)
        # Above the axes it covers no curve, and over the short title there is room.
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1.1), "borderaxespad": 0, "ncols": len(handles)}
        zoomed.legend(handles=handles, **place, frameon=False, fontsize="small", columnspacing=1, handlelength=1.5)
    if _window(rows) > 1:
        figure.suptitle(f"faint: rows of the log; bold: the mean of {_window(rows)} rows", fontsize="medium")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(target, content.getvalue())
    return True


def _has_data(rows: Rows, column: str) -> bool:
    return bool(np.isfinite(rows[column]).any())


def _draw(axes: Axes, panel: Panel, rows: Rows, since: float, *, outliers: bool) -> list[Line2D]:
    """One panel from the step ``since`` on; returns a handle for each entry of a legend."""
    handles = []
    for side, names in ((axes, panel.columns), (axes.twinx() if panel.right else axes, panel.right)):
        drawn = [name for name in names if _has_data(rows, name)]
        for name in drawn:
            handles += _curve(side, rows, name, measured=panel.measured)
        values = np.concatenate([np.empty(0), *(rows[name][rows["step"] >= since] for name in drawn)])
        _limit(side, values[np.isfinite(values)], panel, outliers=outliers)
        if panel.right:
            side.set_ylabel(panel.label if side is axes else panel.right_label, color=CURVES[names[0]][1])
            side.yaxis.set_visible(bool(drawn))
        else:
            side.set_ylabel(panel.label)
    if panel.marked is not None:
        axes.axhline(panel.marked, color="grey", linestyle="--", linewidth=1)
    last = rows["step"][-1]
    margin = 0.01 * (last - since) or 1.0
    axes.set_xlim(since - margin, last + margin)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}")
    _mark_stages(axes, rows, since)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    return handles


def _curve(axes: Axes, rows: Rows, column: str, *, measured: bool) -> list[Line2D]:
    name, colour = CURVES[column]
    steps, values = rows["step"], rows[column]
    if measured:
        found = np.isfinite(values)
        size = 4 if found.sum() < 150 else 2
        return axes.plot(steps[found], values[found], "o-", color=colour, markersize=size, linewidth=1.2, label=name)
    # The sum is wide, and under its terms: where it has a single one, both are seen.
    width = 3.5 if column == "generator_loss" else 1.4
    lines = []
    for part in _stages(rows):
        if _window(rows) > 1:
            axes.plot(steps[part], values[part], color=colour, linewidth=0.7, alpha=0.3)
        marker = "." if len(rows) < 60 or part.stop - part.start == 1 else ""
        smooth = _running_mean(values[part], _window(rows))
        lines += axes.plot(steps[part], smooth, color=colour, marker=marker, linewidth=width, label=name)
    return lines[:1]


def _window(rows: Rows) -> int:
    return max(1, len(rows) // 60)


def _stages(rows: Rows) -> Iterator[slice]:
    """The rows of each stage."""
    changes = [index for index in range(1, len(rows)) if rows.stages[index] != rows.stages[index - 1]]
    yield from map(slice, [0, *changes], [*changes, len(rows)])


def _running_mean(values: Values, window: int) -> Values:
    """The mean of up to ``window`` values around each; nan where there is none."""
    kernel = np.ones(min(window, len(values)))
    found = np.isfinite(values)
    sums = np.convolve(np.where(found, values, 0), kernel, "same")
    return np.where(found, sums / np.maximum(1, np.convolve(found, kernel, "same")), np.nan)


def _limit(axes: Axes, values: Values, panel: Panel, *, outliers: bool) -> None:
    """Scale and range of the y axis for the finite ``values`` in view."""
    if not values.size:
        return
    if panel.logarithmic and values.min() < 0:  # the hinge loss of the generator is of either sign
        axes.set_yscale("symlog", linthresh=10 ** np.ceil(np.log10(-values.min())))
    elif panel.logarithmic and values.any():
        axes.set_yscale("log")
        values = values[values > 0]
        if not outliers:
            values = values[values >= np.percentile(values, 99) / 100]
    if outliers:
        return
    transform = axes.yaxis.get_transform()
    low, high = np.percentile(transform.transform(values), (0, 100) if panel.measured else (1, 99))
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(*transform.inverted().transform(np.array([low - pad, high + pad])))


def _mark_stages(axes: Axes, rows: Rows, since: float) -> None:
    """The name of each stage in view above the axes, and a line where it begins."""
    steps = rows["step"]
    middle = (since + steps[-1]) / 2
    for number, part in enumerate(_stages(rows)):
        begin = steps[max(0, part.start - 1)]
        if steps[part.stop - 1] <= since:
            continue
        if begin > since:
            axes.axvline(begin, color="grey", linewidth=0.6)
        # By turns at two heights, since a short stage is narrower than its name.
        axes.annotate(
            rows.stages[part.start],
            (max(begin, since), 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3 + 11 * (number % 2)),
            textcoords="offset points",
            ha="left" if begin < middle else "right",
            color="grey",
            fontsize="small",
        )
