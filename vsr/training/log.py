"""The log of a training run: means over steps, ``log.csv`` and TensorBoard events, statistics, and a plot."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.errors import CheckpointError, InputError, OutputError, needs_extra, setting
from vsr.files import write_whole
from vsr.training.recipes import LOSSES, LOSSES_OF_CLIPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

LOG = "log.csv"
TENSORBOARD = "tensorboard"

GENERATOR = ("generator_loss", *LOSSES)
"""The sum that the generator minimises, and its weighted terms."""
DISCRIMINATOR = ("discriminator_loss", "d_real", "d_fake")
"""The discriminator's loss, and the mean sigmoid of its logits for real and for upscaled crops."""
GRADIENTS = ("content_gradient", "adversarial_gradient")
"""Norms of the gradients at SR of the adversarial term and of all others together, at the updates that measure them."""
QUALITY = ("psnr_y", "ssim_y", "lpips")
"""Measured on the held-out pictures; empty in other rows."""
RATE = ("crops_per_second", "learning_rate")
COLUMNS = (
    *("step", "stage", "stage_step", "seconds"),
    *(*RATE, *GENERATOR, *DISCRIMINATOR, *GRADIENTS, *QUALITY),
    "lpips_backbone",
)
"""``step``: updates of all stages. ``stage_step``: updates of this stage. ``seconds``: since the run was started.
``lpips_backbone``: the network of LPIPS, on which its values depend."""
TEXTS = ("stage", "lpips_backbone")
"""The columns that hold no numbers."""

COLUMNS_BEFORE_GRADIENTS = tuple(name for name in COLUMNS if name not in (*GRADIENTS, "lpips_backbone"))
COLUMNS_OF_PICTURES = tuple(name for name in COLUMNS_BEFORE_GRADIENTS if name not in ("charbonnier", *LOSSES_OF_CLIPS))
"""The columns of older logs, the second of those from before training on clips; such a log is continued with the other
columns empty."""

GROUPS = {
    "rate": RATE, "loss": GENERATOR, "discriminator": DISCRIMINATOR, "gradient": GRADIENTS, "quality": QUALITY
}  # fmt: skip
"""How the columns are grouped in TensorBoard."""

FIRST_BACKBONE = "SqueezeNet"
"""The backbone of LPIPS in logs that do not name it."""


class Averages:
    """Means of named numbers over steps, accumulated on the device: adding does not wait for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step: 0-d tensors, all on one device; a name may be missing in a step.

        Raises:
            ValueError: a tensor is not 0-d.
        """
        for name, value in values.items():
            if value.ndim:
                raise ValueError(f"expected a 0-d tensor for {name}, got shape {tuple(value.shape)}")
            # Copied, as a CUDA graph writes its next result into the same memory.
            number = value.detach().to(torch.float32, copy=True)
            self._sums[name] = self._sums[name] + number if name in self._sums else number
            self._counts[name] = self._counts.get(name, 0) + 1

    def mean(self) -> dict[str, float]:
        """Return the mean of each name over its steps since the last call; waits for the device once."""
        if not self._sums:
            return {}
        sums: list[float] = torch.stack(list(self._sums.values())).tolist()
        means = {name: total / self._counts[name] for name, total in zip(self._sums, sums, strict=True)}
        self._sums, self._counts = {}, {}
        return means


class Log:
    """Write ``log.csv`` in the folder of a run, and TensorBoard's event files if requested.

    A row holds the means since the previous row. Opening removes the rows after ``step`` and an incomplete last line,
    which a killed run may leave.

    Args:
        folder: the folder of the run, which must exist.
        step: number of updates done when the log is opened.
        tensorboard: also write event files into ``tensorboard/``.

    Raises:
        CheckpointError: the existing file is not a log of this version.
        OutputError: it cannot be written.
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, step: int, tensorboard: bool = False) -> None:
        self._path = folder / LOG
        self._truncate(step)
        # Any, as its methods are untyped.
        self._events: Any = _open_tensorboard(folder / TENSORBOARD, step) if tensorboard else None

    def write(self, row: Mapping[str, float | str | None]) -> None:
        """Append a row. Columns that are missing or None stay empty.

        Raises:
            ValueError: the row has an unknown column, or no step or stage.
            OutputError: it cannot be written.
        """
        if row.get("step") is None or not row.get("stage"):
            raise ValueError(f"a row needs a step and a stage, got {dict(row)}")
        line = _encode(row)
        try:
            # Opened for each row, so that a killed run loses nothing in a buffer.
            with open(self._path, "a", encoding="utf-8", newline="") as file:
                file.write(line)
            if self._events is not None:
                self._add_events(row)
        except OSError as exc:
            raise OutputError(f"cannot write the log {self._path}: {exc.strerror or exc}.") from exc

    def show(self, samples: npt.NDArray[np.uint8], step: int) -> None:
        """Add a picture of the samples to the event files, if there are any.

        Args:
            samples: (H, W, 3) RGB.
            step: the step of the samples.

        Raises:
            OutputError: they cannot be written.
        """
        if self._events is None:
            return
        try:
            self._events.add_image("samples", samples, step, dataformats="HWC")
            self._events.flush()
        except OSError as exc:
            raise OutputError(f"cannot write {self._path.parent / TENSORBOARD}: {exc.strerror or exc}.") from exc

    def close(self) -> None:
        """Close the event files.

        Raises:
            OutputError: they cannot be written.
        """
        events, self._events = self._events, None
        if events is None:
            return
        try:
            events.close()
        except OSError as exc:
            raise OutputError(f"cannot write {self._path.parent / TENSORBOARD}: {exc.strerror or exc}.") from exc

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _truncate(self, step: int) -> None:
        try:
            present = self._path.read_bytes()
        except FileNotFoundError:
            present = b""
        except OSError as exc:
            raise OutputError(f"cannot read the log {self._path}: {exc.strerror}.") from exc
        try:
            rows = _decode(present, self._path) if present else []
        except InputError as exc:
            overwrite = setting("overwrite", True)
            raise CheckpointError(f"{exc} Move it away, or replace the run with {overwrite}.") from exc
        kept = ",".join(COLUMNS) + "\n" + "".join(_encode(row) for row in rows if int(row["step"]) <= step)
        if kept.encode() != present:
            write_whole(self._path, kept.encode())

    def _add_events(self, row: Mapping[str, float | str | None]) -> None:
        for group, names in GROUPS.items():
            for name in names:
                if row.get(name) is not None:
                    # TensorBoard's tags have no spaces and brackets.
                    tag = f"lpips_{row.get('lpips_backbone') or FIRST_BACKBONE}" if name == "lpips" else name
                    self._events.add_scalar(f"{group}/{tag}", row[name], row["step"])
        self._events.flush()


def find_tensorboard() -> Any:
    """Return TensorBoard's ``SummaryWriter``.

    Raises:
        UsageError: it is not installed.
    """
    with needs_extra("tensorboard", setting("tensorboard", True)):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter


def _open_tensorboard(folder: Path, step: int) -> Any:
    try:
        return find_tensorboard()(str(folder), purge_step=step + 1)
    except OSError as exc:
        raise OutputError(f"cannot write {folder}: {exc.strerror or exc}.") from exc


def _encode(row: Mapping[str, float | str | None]) -> str:
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise ValueError(f"the log has no column {', '.join(unknown)}")
    values = (row.get(name) for name in COLUMNS)
    return ",".join("" if value is None else _format(value) for value in values) + "\n"


def _format(value: float | str) -> str:
    return str(value) if isinstance(value, (int, str)) else f"{float(value):.7g}"


def _decode(content: bytes, path: Path) -> list[dict[str, str]]:
    """Parse the rows of a log; an incomplete last line, which a killed run may leave, is ignored."""
    header, *lines = content.decode("utf-8", errors="replace").split("\n")[:-1] or [""]
    columns = tuple(header.split(","))
    if columns not in (COLUMNS, COLUMNS_BEFORE_GRADIENTS, COLUMNS_OF_PICTURES):
        raise InputError(f"{path} is not a training log of this version of vsr: its columns differ.")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            rows.append(dict.fromkeys(COLUMNS, "") | dict(zip(columns, line.split(","), strict=True)))
            _ = int(rows[-1]["step"]), [float(rows[-1][name] or "nan") for name in COLUMNS if name not in TEXTS]
        except ValueError as exc:
            raise InputError(f"{path} is damaged in line {number}.") from exc
    return rows


@dataclass(frozen=True)
class Rows:
    """The rows of a log.

    Attributes:
        stages: the stage of each row.
        values: each column of numbers as float64 (rows,), nan where it is empty.
        lpips_backbone: the network of LPIPS.
    """

    stages: tuple[str, ...]
    values: Mapping[str, npt.NDArray[np.float64]]
    lpips_backbone: str = FIRST_BACKBONE

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, column: str) -> npt.NDArray[np.float64]:
        return self.values[column]


def read_log(path: Path) -> Rows:
    """Read a log, without an incomplete last line.

    Raises:
        InputError: it cannot be read, is damaged, or is not a log of this version.
    """
    try:
        rows = _decode(path.read_bytes(), path)
    except OSError as exc:
        raise InputError(f"cannot read the log {path}: {exc.strerror}.") from exc
    names = [name for name in COLUMNS if name not in TEXTS]
    values = {name: np.array([float(row[name] or "nan") for row in rows], np.float64) for name in names}
    named = [row["lpips_backbone"] for row in rows if row["lpips_backbone"]]
    return Rows(tuple(row["stage"] for row in rows), values, named[-1] if named else FIRST_BACKBONE)


@dataclass(frozen=True)
class Statistics:
    """Statistics of one column over the rows of one stage.

    Attributes:
        mean: the mean of the rows.
        standard_deviation: of the rows, which are means over steps; 0 for a single row.
        minimum: the least row.
        last: the last row.
    """

    mean: float
    standard_deviation: float
    minimum: float
    last: float


def summarise(rows: Rows) -> dict[str, dict[str, Statistics]]:
    """Return stage -> column -> statistics for the losses, D(real) and D(fake); columns without values are absent."""
    summary: dict[str, dict[str, Statistics]] = {}
    for stage in dict.fromkeys(rows.stages):
        inside = np.array([name == stage for name in rows.stages])
        summary[stage] = {}
        for column in (*GENERATOR, *DISCRIMINATOR):
            values = rows[column][inside & np.isfinite(rows[column])]
            if values.size:
                numbers = values.mean(), values.std(), values.min(), values[-1]
                summary[stage][column] = Statistics(*map(float, numbers))
    return summary


def summary_table(summary: Mapping[str, Mapping[str, Statistics]]) -> str:
    """Format statistics as aligned text, a line for each stage and column, without a final newline."""
    lines = [("stage", "quantity", "mean", "std", "min", "last")]
    for stage, columns in summary.items():
        for column, found in columns.items():
            numbers = found.mean, found.standard_deviation, found.minimum, found.last
            lines.append((stage, column, *(f"{number:#.4g}" for number in numbers)))  # type: ignore[arg-type]
            stage = ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for line in lines:
        words = [word.ljust(width) for word, width in zip(line[:2], widths[:2], strict=True)]
        numbers_ = [word.rjust(width) for word, width in zip(line[2:], widths[2:], strict=True)]
        aligned.append("  ".join([*words, " ".join(numbers_)]).rstrip())
    return "\n".join(aligned)


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
"""Column of the log -> name in the legend, after which LPIPS's backbone is written, and colour."""


TITLE_PAD = 28
"""Points between axes and title, where the names of the stages are written."""


@dataclass(frozen=True)
class Panel:
    """One row of the figure.

    Attributes:
        title: the title above it.
        label: the label of the y axis.
        columns: the columns of the log to draw.
        logarithmic: whether the y axis is logarithmic.
        measured: whether values are sparse: drawn with markers and joined across empty rows.
        marked: a value to mark by a horizontal line, or None.
    """

    title: str
    label: str
    columns: tuple[str, ...]
    logarithmic: bool = False
    measured: bool = False
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
    Panel("Held-out pictures: PSNR-Y, more is better", "dB", ("psnr_y",), measured=True),
    Panel("Held-out pictures: LPIPS, less is better", "distance", ("lpips",), measured=True),
)


def plot_losses(log: Path, target: Path) -> bool:
    """Plot a log: the whole run on the left, its last third on the right, a row for each panel that has data.

    Losses are drawn faint under their running mean, if the log has 40 rows or more. On the right the y axes exclude the
    outermost hundredth of the values at each end, and terms of the generator below a hundredth of the largest.

    Args:
        log: ``log.csv`` of a run.
        target: the PNG to write or replace, about 1600 pixels by 350 for each row.

    Returns:
        Whether the figure was written: False if the log has fewer than two rows, or no values.

    Raises:
        InputError: the log cannot be read.
        OutputError: the figure cannot be written.
    """
    rows = read_log(log)
    panels = [panel for panel in PANELS if any(_has_data(rows, name) for name in panel.columns)]
    if len(rows) < 2 or not panels:
        return False
    # Imported here, as it takes about a second, and without pyplot, which keeps figures and looks for a display.
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
        # Above the axes it covers no curve, and there is room beside the short title.
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
    """Draw one panel from the step ``since`` on; returns a handle for each entry of the legend."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    drawn = [name for name in panel.columns if _has_data(rows, name)]
    handles = [handle for name in drawn for handle in _draw_curve(axes, rows, name, measured=panel.measured)]
    values = np.concatenate([np.empty(0), *(rows[name][rows["step"] >= since] for name in drawn)])
    _set_y_limits(axes, values[np.isfinite(values)], panel, outliers=outliers)
    if axes.get_yscale() == "linear":
        plain = ScalarFormatter(useOffset=False)  # whole values at the ticks, none to add or multiply above the axis
        plain.set_scientific(False)
        axes.yaxis.set_major_formatter(plain)
    axes.set_ylabel(panel.label)
    if panel.marked is not None:
        axes.axhline(panel.marked, color="grey", linestyle="--", linewidth=1)
    last = rows["step"][-1]
    margin = 0.01 * (last - since) or 1.0
    axes.set_xlim(since - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}")
    _mark_stages(axes, rows, since)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    return handles


def _draw_curve(axes: Axes, rows: Rows, column: str, *, measured: bool) -> list[Line2D]:
    name, colour = CURVES.get(column, (column.replace("_", " "), "magenta"))
    if column == "lpips":
        name = f"{name} ({rows.lpips_backbone})"
    steps, values = rows["step"], rows[column]
    if measured:
        found = np.isfinite(values)
        size = 4 if found.sum() < 150 else 2
        return axes.plot(steps[found], values[found], "o-", color=colour, markersize=size, linewidth=1.2, label=name)
    # The sum is drawn wide and under its terms, so that both are visible if there is a single term.
    width = 3.5 if column == "generator_loss" else 1.4
    lines = []
    for part in _stage_slices(rows):
        if _window(rows) > 1:
            axes.plot(steps[part], values[part], color=colour, linewidth=0.7, alpha=0.3, zorder=1.5)
        marker = "." if len(rows) < 60 or part.stop - part.start == 1 else ""
        smooth = _running_mean(values[part], _window(rows))
        lines += axes.plot(steps[part], smooth, color=colour, marker=marker, linewidth=width, label=name)
    return lines[:1]


def _window(rows: Rows) -> int:
    """Return how many rows the running mean covers: a twentieth, an odd number, as it lies around its middle."""
    return 2 * (len(rows) // 40) + 1


def _stage_slices(rows: Rows) -> Iterator[slice]:
    """Yield the rows of each stage."""
    changes = [index for index in range(1, len(rows)) if rows.stages[index] != rows.stages[index - 1]]
    yield from map(slice, [0, *changes], [*changes, len(rows)])


def _running_mean(values: Values, window: int) -> Values:
    """Return the mean of up to ``window`` values around each value; nan where there is no value."""
    kernel = np.ones(min(window, len(values)))
    found = np.isfinite(values)
    sums = np.convolve(np.where(found, values, 0), kernel, "same")
    return np.where(found, sums / np.maximum(1, np.convolve(found, kernel, "same")), np.nan)


def _set_y_limits(axes: Axes, values: Values, panel: Panel, *, outliers: bool) -> None:
    """Set scale and range of the y axis for the finite ``values`` in view."""
    if not values.size:
        return
    if panel.logarithmic and values.min() < 0:  # the hinge loss of the generator has either sign
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
    """Write the name of each stage in view above the axes, and draw a line where it begins."""
    steps = rows["step"]
    middle = (since + steps[-1]) / 2
    for number, part in enumerate(_stage_slices(rows)):
        begin = steps[max(0, part.start - 1)]
        if steps[part.stop - 1] <= since:
            continue
        if begin > since:
            axes.axvline(begin, color="grey", linewidth=0.6)
        # At two alternating heights, as a short stage is narrower than its name.
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
