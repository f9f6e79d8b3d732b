"""What a run says of itself: measurements on held-out pictures, samples, curves, and the card of its weights."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.errors import OutputError, markdown, markdown_code
from vsr.files import write_whole
from vsr.imaging.resize import resize_bicubic
from vsr.training.log import LOG, Rows, read_log
from vsr.training.options import TrainOptions
from vsr.training.recipes import LOSSES, STAGES, Recipe, Stage, StageName
from vsr.training.step import Quality, TrainState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

LARGEST = 256
"""HR pixels of a picture that are shown, each way."""
GAP = 4
HEADER = 28
"""Height of the line of labels in pixels."""
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5

Strip = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""


def sample_strip(lr: Sequence[Tensor], sr: Sequence[Tensor], hr: Sequence[Tensor], *, step: int) -> Strip:
    """Pictures one below the other, each as LR (pixels repeated), bicubic, SR and HR side by side under their names.

    Of a large picture the middle is shown, at most 256 pixels of HR each way. Smaller ones are padded to the right and
    below. No pixel is interpolated but by bicubic.

    Args:
        lr: uint8 tensors (3, h, w), at least one.
        sr: uint8 tensors (3, s*h, s*w), as many.
        hr: uint8 tensors (3, s*h, s*w), as many.
        step: written over SR.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: no pictures, or shapes or dtypes that do not belong together.
    """
    if not lr:
        raise ValueError("a strip needs at least one picture")
    rows = [_panels(*pictures) for pictures in zip(lr, sr, hr, strict=True)]
    labels = ("LR", "bicubic", f"SR, step {step}", "HR")
    widths = [max(_text_width(label), *(row[column].shape[1] for row in rows)) for column, label in enumerate(labels)]
    heights = [row[0].shape[0] for row in rows]
    size = HEADER + sum(heights) + GAP * (len(rows) - 1), sum(widths) + GAP * (len(labels) - 1), 3
    strip: Strip = np.full(size, 255, np.uint8)
    left = 0
    for column, (label, width) in enumerate(zip(labels, widths, strict=True)):
        cv2.putText(strip, label, (left + 2, HEADER - 9), FONT, FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
        top = HEADER
        for row, height in zip(rows, heights, strict=True):
            panel = row[column]
            strip[top : top + height, left : left + panel.shape[1]] = panel
            top += height + GAP
        left += width + GAP
    return strip


def write_samples(path: Path, lr: Sequence[Tensor], sr: Sequence[Tensor], hr: Sequence[Tensor], *, step: int) -> None:
    """Write :func:`sample_strip` as a PNG, under a temporary name first.

    Raises:
        ValueError: see :func:`sample_strip`.
        OutputError: it cannot be written.
    """
    strip = sample_strip(lr, sr, hr, step=step)
    done, encoded = cv2.imencode(".png", strip[..., ::-1])
    if not done:
        raise OutputError(f"cannot encode the samples {path} as PNG.")
    write_whole(path, encoded.tobytes())


def _panels(lr: Tensor, sr: Tensor, hr: Tensor) -> tuple[Strip, Strip, Strip, Strip]:
    """LR enlarged, bicubic, SR, HR of the middle of a picture: four of one size, (H, W, 3)."""
    for tensor in (lr, sr, hr):
        if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[0] != 3:
            raise ValueError(f"expected uint8 tensors (3, H, W), got {tensor.dtype} {tuple(tensor.shape)}")
    rows, columns = lr.shape[-2:]
    scale = hr.shape[-2] // rows
    if sr.shape != hr.shape or tuple(hr.shape[-2:]) != (scale * rows, scale * columns):
        raise ValueError(f"the shapes do not belong together: {[tuple(t.shape) for t in (lr, sr, hr)]}")
    # The whole picture is resized before it is cut, so that no edge shows where it has none.
    bicubic = resize_bicubic(lr.cpu().float(), scale * rows, scale * columns).round_().clamp_(0, 255).byte()
    shown = _middle(lr.cpu(), max(1, LARGEST // scale))
    nearest = shown.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    top, left = ((whole - part) // 2 * scale for whole, part in zip(lr.shape[-2:], shown.shape[-2:], strict=True))
    height, width = nearest.shape[-2:]
    cut = (picture.cpu()[:, top : top + height, left : left + width] for picture in (bicubic, sr, hr))
    panels = [picture.permute(1, 2, 0).numpy() for picture in (nearest, *cut)]
    return panels[0], panels[1], panels[2], panels[3]


def _middle(picture: Tensor, size: int) -> Tensor:
    top, left = (max(0, length - size) // 2 for length in picture.shape[-2:])
    return picture[:, top : top + size, left : left + size]


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0]) + 4


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


CARD = "card.md"
MEASUREMENTS = 12
"""How many measurements of a run its card shows at most."""


@dataclass(frozen=True)
class RunDetails:
    """What a run is made on.

    Attributes:
        pictures: how many are trained on.
        held_out: how many pictures, or clips, are measured on.
        layout: how they lie: a folder, COCO, CelebA.
        fingerprint: of the pictures.
        hardware: the device and how many of it.
        videos: how many are trained on.
    """

    pictures: int
    held_out: int
    layout: str
    fingerprint: str
    hardware: str
    videos: int = 0

    def __str__(self) -> str:
        videos = f", {self.videos} videos" if self.videos else ""
        return f"{self.layout}, {self.pictures} pictures{videos}"


def hardware(device: torch.device, processes: int) -> str:
    """A device by its name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{processes} x {name}{threads}" if processes > 1 else f"{name}{threads}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def about(state: TrainState, options: TrainOptions, facts: RunDetails, quality: Quality | None) -> dict[str, str]:
    """Texts for the metadata of a weights file."""
    stages = {name: _stage(state.recipe.stage(name)) for name in _stages_behind(state)}
    training = {
        "stage": state.stage,
        "step": state.step,
        "seed": state.seed,
        "crops": _crops(state.recipe),
        "generator": _generator(state.recipe),
        "degradation": "clip" if state.recipe.generator == "recurrent" else state.recipe.degradation,
        "unit": state.recipe.unit,
        "stages": stages,
        "pictures": facts.pictures,
        **({"videos": facts.videos} if facts.videos else {}),
        "held_out": facts.held_out,
        "precision": options.precision,
        "hardware": facts.hardware,
        "quality": None if quality is None else asdict(quality),
    }
    return {
        "purpose": f"x{state.recipe.scale}, trained by vsr train, at step {state.step} in the stage {state.stage}",
        "recipe": state.recipe.follows,
        "licence": options.licence,
        "data": f"{', '.join(path.name for path in options.data)} ({facts})",
        "command": options.command,
        "training": json.dumps(training),
    }


def write_card(output: Path, texts: Mapping[str, str], facts: RunDetails) -> None:
    """Write ``card.md``, in the form of those in ``models/README.md``.

    Raises:
        OutputError: it cannot be written.
    """
    training = json.loads(texts["training"])
    reduced = {
        "bicubic": "antialiased bicubic, rounded to 8 bits",
        "video": "blurred, reduced, noise, video codecs",
        "clip": "whole clips blurred or sharpened, reduced, noise, video codecs once or twice",
    }
    rows = [
        ("data", texts["data"]),
        ("licence", texts["licence"]),
        ("generator", training["generator"]),
        ("LR", reduced[training["degradation"]]),
        ("crops", training["crops"]),
        *((name, f"{values} ({training['unit']})") for name, values in training["stages"].items()),
        ("follows", texts["recipe"]),
        ("command", texts["command"] or "from Python"),
        ("seed", training["seed"]),
        ("hardware", facts.hardware),
    ]
    lines = [f"## {markdown(output.name)}", "", f"{markdown(texts['purpose'])}.", "", "| | |", "|---|---|"]
    for name, value in rows:
        as_code = name == "command" and texts["command"]
        lines.append(f"| {name} | {markdown_code(value) if as_code else markdown(str(value))} |")
    measured = "the last frames of {} held-out clips" if training["degradation"] == "clip" else "{} held-out pictures"
    lines += ["", f"On {measured.format(facts.held_out)} along the way:", "", *_measurements(read_log(output / LOG))]
    write_whole(output / CARD, ("\n".join(lines) + "\n").encode())


def _generator(recipe: Recipe) -> str:
    size = f"{recipe.generator}, {recipe.blocks} blocks of {recipe.channels} channels"
    if recipe.generator != "recurrent":
        return size
    return f"{size}, its state {'moved along the motion' if recipe.aligned else 'not aligned'}"


def _crops(recipe: Recipe) -> str:
    edge = f"{recipe.crop_size}x{recipe.crop_size}"
    if recipe.generator != "recurrent":
        return f"{recipe.batch_size} of {edge}"
    longer = f", at the end of a stage {recipe.long_frames}" if recipe.long_frames else ""
    return f"{recipe.batch_size} clips of {edge}, {recipe.frames} frames each{longer}"


def _stages_behind(state: TrainState) -> list[StageName]:
    """The stages that a run has been through, with the one that it stands in."""
    before = STAGES[: STAGES.index(state.stage)] if state.step > state.stage_step else ()
    return [name for name in (*before, state.stage) if state.recipe.stage(name).length]


def _stage(stage: Stage) -> str:
    weights = " + ".join(
        f"{getattr(stage, name):g} {name}" + (f" ({stage.content_layer})" if name == "content" else "")
        for name in LOSSES
        if getattr(stage, name)
    )
    return f"{stage.length} at {stage.learning_rate:g}, {stage.schedule}" + (f": {weights}" if weights else "")


def _measurements(rows: Rows) -> Iterable[str]:
    measured = [index for index in range(len(rows)) if rows["psnr_y"][index] == rows["psnr_y"][index]]
    every = -(-len(measured) // MEASUREMENTS) or 1
    yield "| step | stage | PSNR-Y | SSIM-Y | LPIPS |"
    yield "|---|---|---|---|---|"
    for index in measured[::-1][::every][::-1]:
        lpips = rows["lpips"][index]
        yield (
            f"| {rows['step'][index]:.0f} | {markdown(rows.stages[index])} | {rows['psnr_y'][index]:.2f} dB "
            f"| {rows['ssim_y'][index]:.4f} | {'' if lpips != lpips else f'{lpips:.4f}'} |"
        )
