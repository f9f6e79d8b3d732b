"""The scores of clips against their reference, per frame and in total; their tables, and a plot over time."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import numpy as np

import vsr
from vsr.errors import needs_extra, one_line
from vsr.evaluation.options import VideoEvalOptions
from vsr.evaluation.pairing import Pairing, name_frames
from vsr.evaluation.steadiness import CUT_RESIDUAL, CUT_VISIBLE, STILL_CHANGE, STILL_REACH
from vsr.evaluation.tables import Column, Table, Value
from vsr.evaluation.vmaf import harmonic_mean
from vsr.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

@dataclass(frozen=True)
class FrameScore:
    """The scores of a frame of an output that has a partner in the reference; None if not measured.

    Attributes:
        number: number of the frame in the reference, from 0.
        output_number: number of the frame in the output.
        seconds: its time in the reference.
        psnr_y: dB; infinite for equal frames.
        ssim_y: at most 1.
        vmaf: 0..100.
        warping_error: from the previous frame to this one, in code values; None for the first frame, after a frame
            without a partner, and at a cut.
        reference_warping_error: the reference's, over the same pixels.
        still_pixels: number of pixels in which the reference is still since the previous frame.
        still_change: mean absolute change of the output in these pixels, in code values.
        reference_still_change: that of the reference.
        bicubic_still_change: that of the enlarged LR clip.
    """

    number: int
    output_number: int
    seconds: float
    psnr_y: float
    ssim_y: float
    vmaf: float | None = None
    warping_error: float | None = None
    reference_warping_error: float | None = None
    still_pixels: int = 0
    still_change: float | None = None
    reference_still_change: float | None = None
    bicubic_still_change: float | None = None


@dataclass(frozen=True)
class OutputScore:
    """The scores of one output against the reference.

    Attributes:
        path: the output's file.
        frames: scores of all frames that have a partner, in order.
        pairing: the pairs of its frames with the reference's.
        times: times of all its frames, in seconds.
        notes: remarks on the comparison, in sentences.
    """

    path: Path
    frames: tuple[FrameScore, ...]
    pairing: Pairing
    times: tuple[Fraction, ...]
    notes: tuple[str, ...]

    @property
    def num_equal(self) -> int:
        """Number of frames whose luma equals the reference's."""
        return sum(math.isinf(frame.psnr_y) for frame in self.frames)

    @property
    def psnr_y(self) -> float:
        """Mean over the frames that differ, in dB: an equal one would make it infinite. Infinite if all are equal."""
        return fmean([frame.psnr_y for frame in self.frames if math.isfinite(frame.psnr_y)] or [math.inf])

    @property
    def psnr_y_of_mean(self) -> float:
        """PSNR of the mean squared error over all frames, in dB: bad frames weigh more."""
        error = fmean(10 ** (-frame.psnr_y / 10) for frame in self.frames)
        return -10 * math.log10(error) if error else math.inf

    @property
    def ssim_y(self) -> float:
        """Mean over the frames."""
        return fmean(frame.ssim_y for frame in self.frames)

    @property
    def vmaf(self) -> float | None:
        """Mean over the frames."""
        return _mean(frame.vmaf for frame in self.frames)

    @property
    def vmaf_harmonic(self) -> float | None:
        """Harmonic mean over the frames, as libvmaf pools."""
        scores = [frame.vmaf for frame in self.frames if frame.vmaf is not None]
        return harmonic_mean(scores) if scores else None

    @property
    def warping_error(self) -> float | None:
        """Mean over the transitions, in code values."""
        return _mean(frame.warping_error for frame in self.frames)

    @property
    def reference_warping_error(self) -> float | None:
        """The mean of the reference, over the same transitions."""
        return _mean(frame.reference_warping_error for frame in self.frames)

    @property
    def still_change(self) -> float | None:
        """Mean absolute change between frames over all pixels in which the reference is still, in code values."""
        return _weighted([(frame.still_change, frame.still_pixels) for frame in self.frames])

    @property
    def still_ratio(self) -> float | None:
        """``still_change`` divided by that of the enlarged LR clip, or by the reference's if there is no LR clip.

        None if that is 0 or nothing is still.
        """
        by_bicubic = any(frame.bicubic_still_change is not None for frame in self.frames)
        own, base = [], []
        for frame in self.frames:
            against = frame.bicubic_still_change if by_bicubic else frame.reference_still_change
            if against is not None:
                own.append((frame.still_change, frame.still_pixels))
                base.append((against, frame.still_pixels))
        change, against = _weighted(own), _weighted(base)
        return change / against if change is not None and against else None


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def _weighted(values: Sequence[tuple[float | None, int]]) -> float | None:
    """Return the mean weighted by the numbers of pixels."""
    found = [(value, pixels) for value, pixels in values if value is not None]
    total = sum(pixels for _, pixels in found)
    return sum(value * pixels for value, pixels in found) / total if total else None


@dataclass(frozen=True)
class VideoReport:
    """All that ``vsr eval`` measured on clips.

    Attributes:
        options: the options of the run.
        width: columns of all clips, as coded.
        height: rows of all clips, as coded.
        times: times of all frames of the reference, in seconds.
        cuts: numbers of the reference's frames at which a scene begins, except the first.
        vmaf_version: version of libvmaf; empty if VMAF was not measured.
        outputs: in the order of the options.
    """

    options: VideoEvalOptions
    width: int
    height: int
    times: tuple[Fraction, ...]
    cuts: tuple[int, ...]
    vmaf_version: str
    outputs: tuple[OutputScore, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The outputs' file names, or their paths if two have the same name."""
        names = [output.path.name for output in self.outputs]
        return tuple(
            name if names.count(name) == 1 else str(output.path)
            for name, output in zip(names, self.outputs, strict=True)
        )


def video_table(report: VideoReport) -> Table:
    """Return the scores as a table, a row for each output."""
    options = report.options
    columns = [
        Column("output"),
        Column("frames"),
        Column("unpaired"),
        Column("PSNR-Y", "dB", 2, "higher"),
        Column("PSNR-Y of MSE", "dB", 2, "higher"),
        Column("SSIM-Y", "", 4, "higher"),
    ]
    if options.vmaf:
        columns += [Column("VMAF", "", 2, "higher"), Column("harmonic VMAF", "", 2, "higher")]
    if options.steadiness:
        columns += [
            Column("warping error", "codes", 3, "lower"),
            Column("reference's", "codes", 3),
            Column("still change", "codes", 3, "lower"),
            Column("over bicubic's" if options.lr else "over reference's", "", 2, "lower"),
        ]
    rows = [_row(label, output) for label, output in zip(report.labels, report.outputs, strict=True)]
    return Table(tuple(columns), tuple(rows), _about(report))


def _row(label: str, output: OutputScore) -> Mapping[str, Value]:
    return {
        "output": label,
        "frames": len(output.frames),
        "unpaired": len(output.pairing.reference_unpaired) + len(output.pairing.output_unpaired),
        "PSNR-Y": output.psnr_y,
        "PSNR-Y of MSE": output.psnr_y_of_mean,
        "SSIM-Y": output.ssim_y,
        "VMAF": output.vmaf,
        "harmonic VMAF": output.vmaf_harmonic,
        "warping error": output.warping_error,
        "reference's": output.reference_warping_error,
        "still change": output.still_change,
        "over bicubic's": output.still_ratio,
        "over reference's": output.still_ratio,
    }


def frames_table(report: VideoReport) -> Table:
    """Return the scores of every frame as a table, a row for each frame of each output."""
    columns = (
        Column("output"),
        Column("frame"),
        Column("output frame"),
        Column("time", "s", 3),
        Column("PSNR-Y", "dB", 2),
        Column("SSIM-Y", "", 4),
        Column("VMAF", "", 2),
        Column("warping error", "codes", 3),
        Column("warping error of the reference", "codes", 3),
        Column("still pixels"),
        Column("still change", "codes", 3),
        Column("still change of the reference", "codes", 3),
        Column("still change of bicubic", "codes", 3),
    )
    rows: list[Mapping[str, Value]] = []
    for label, output in zip(report.labels, report.outputs, strict=True):
        for frame in output.frames:
            values = (
                label, frame.number, frame.output_number, frame.seconds, frame.psnr_y, frame.ssim_y, frame.vmaf,
                frame.warping_error, frame.reference_warping_error, frame.still_pixels, frame.still_change,
                frame.reference_still_change, frame.bicubic_still_change,
            )  # fmt: skip
            rows.append({column.name: value for column, value in zip(columns, values, strict=True)})
    return Table(columns, tuple(rows), _about(report))


def _about(report: VideoReport) -> dict[str, object]:
    options = report.options
    about: dict[str, object] = {
        "reference": f"{options.reference}, {len(report.times)} frames of {report.width}x{report.height}",
        "pairs": f"by {'timestamps' if options.align == 'time' else 'the time since the first frame'}",
        "PSNR and SSIM": "on MATLAB's Y (BT.601, 16..235) of the RGB that each clip's own matrix and range give, "
        f"a border of {options.border} pixels left out",
        "PSNR-Y": "mean over the frames that differ; PSNR-Y of MSE: of the mean squared error over all frames",
    }
    if options.vmaf:
        about["VMAF"] = f"{options.vmaf_model} of libvmaf {report.vmaf_version}, on luma of limited range; whole frames"
    if options.steadiness:
        about |= {
            "warping error": "mean |difference| of Y between a frame and the previous one warped along the optical "
            "flow of the reference, where both show a pixel; whole frames, none across a cut",
            "still change": f"mean |difference| of Y between frames where the reference changes by less than "
            f"{STILL_CHANGE:g} codes in all pixels up to {STILL_REACH} away",
            "cuts": f"where the flow misses by more than {CUT_RESIDUAL:g} codes and finds less than "
            f"{100 * CUT_VISIBLE:g} % again: {name_frames(report.cuts, report.times) if report.cuts else 'none'}",
        }
    for label, output in zip(report.labels, report.outputs, strict=True):
        equal = [f"{output.num_equal} frames equal the reference's in luma."] if output.num_equal else []
        if output.notes or equal:
            about[f"note on {label}"] = " ".join([*output.notes, *equal])
    return about | {"vsr": vsr.__version__}


Measure = Callable[[FrameScore], float | None]


@dataclass(frozen=True)
class Panel:
    """One row of the plot.

    Attributes:
        name: what it shows, with the unit.
        better: which direction is better.
        measure: the value that is drawn for each frame.
        beside: the reference's value, drawn in black.
        note: a remark on how to read it.
    """

    name: str
    better: Literal["higher", "lower"]
    measure: Measure
    beside: Measure | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """Name, which way is better, and the note."""
        return f"{self.name}, {self.better} is better{f' ({self.note})' if self.note else ''}"


PANELS = (
    Panel("VMAF", "higher", lambda frame: frame.vmaf),
    Panel(
        "Warping error in code values",
        "lower",
        lambda frame: frame.warping_error,
        lambda frame: frame.reference_warping_error,
    ),
    Panel(
        "Change in still regions in code values",
        "lower",
        lambda frame: frame.still_change,
        lambda frame: frame.reference_still_change,
    ),
    Panel("SSIM-Y", "higher", lambda frame: frame.ssim_y),
    Panel("PSNR-Y in dB", "higher", lambda frame: frame.psnr_y, note="a gap: equal to the reference"),
)
"""Perceptual measures first: what the eye sees, then flicker, then differences of single pixels."""


def plot_frames(report: VideoReport, target: Path) -> None:
    """Draw the scores over the reference's time, a row for each measure that has values, a line for each output.

    Dotted vertical lines are cuts. Frames without a partner are gaps.

    Args:
        report: the scores.
        target: PNG of 1200 pixels by 250 for each row; replaced.

    Raises:
        OutputError: the file cannot be written; what was there before is kept.
    """
    # Imported here, as it takes about a second; without pyplot, which keeps figures and looks for a window system.
    with needs_extra("eval", "a plot"):
        from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if _has_values(report, panel.measure)] or [PANELS[-1]]
    figure = Figure(figsize=(12, 2.5 * len(panels) + 0.5), dpi=100, layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        for number, (label, output) in enumerate(zip(report.labels, report.outputs, strict=True)):
            _draw(axes, report, output, panel.measure, f"C{number}", label)
        if panel.beside is not None:
            # Each output has these values for its own pairs, most often for all frames; the first one's are drawn.
            _draw(axes, report, report.outputs[0], panel.beside, "black", "the reference itself")
        for cut in report.cuts:
            axes.axvline(float(report.times[cut]), color="grey", linestyle=":", linewidth=1)
        axes.set_title(panel.title, loc="left", fontsize="medium")
        axes.grid(alpha=0.3)
    grid[-1].set_xlabel("seconds")
    handles = {str(line.get_label()): line for axes in grid for line in axes.get_lines() if line.get_gid()}
    # matplotlib reads text between dollar signs as a formula.
    names = [one_line(name).replace("$", r"\$") for name in handles]
    # An automatic legend leaves out names that begin with an underscore, as file names may.
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
