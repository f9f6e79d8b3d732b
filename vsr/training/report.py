"""The report of a run: strips of held-out pictures, the metadata of its weights, and its card."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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

LARGEST = 256
"""Greatest edge of the part of a picture that is shown, in HR pixels."""
GAP = 4
HEADER = 28
"""Height of the line of labels in pixels."""
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5

Strip = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""


def sample_strip(lr: Sequence[Tensor], sr: Sequence[Tensor], hr: Sequence[Tensor], *, step: int) -> Strip:
    """Draw pictures one below the other, each as LR (pixels repeated), bicubic, SR and HR side by side with labels.

    The middle of large pictures is shown, at most 256x256 HR pixels. Smaller ones are padded to the right and below.
    Only the bicubic panel is interpolated.

    Args:
        lr: uint8 tensors (3, h, w), at least one.
        sr: as many uint8 tensors (3, s*h, s*w).
        hr: as many uint8 tensors (3, s*h, s*w).
        step: the step in the label of SR.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: there are no pictures, or shapes or dtypes do not match.
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
    """Return LR enlarged, bicubic, SR and HR of the middle of a picture: four panels (H, W, 3) of one size."""
    for tensor in (lr, sr, hr):
        if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[0] != 3:
            raise ValueError(f"expected uint8 tensors (3, H, W), got {tensor.dtype} {tuple(tensor.shape)}")
    rows, columns = lr.shape[-2:]
    scale = hr.shape[-2] // rows
    if sr.shape != hr.shape or tuple(hr.shape[-2:]) != (scale * rows, scale * columns):
        raise ValueError(f"the shapes do not match: {[tuple(t.shape) for t in (lr, sr, hr)]}")
    # The whole picture is resized before it is cut, so that the cut adds no edge.
    bicubic = resize_bicubic(lr.cpu().float(), scale * rows, scale * columns).round_().clamp_(0, 255).byte()
    shown = _crop_middle(lr.cpu(), max(1, LARGEST // scale))
    nearest = shown.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    top, left = ((whole - part) // 2 * scale for whole, part in zip(lr.shape[-2:], shown.shape[-2:], strict=True))
    height, width = nearest.shape[-2:]
    cut = (picture.cpu()[:, top : top + height, left : left + width] for picture in (bicubic, sr, hr))
    panels = [picture.permute(1, 2, 0).numpy() for picture in (nearest, *cut)]
    return panels[0], panels[1], panels[2], panels[3]


def _crop_middle(picture: Tensor, size: int) -> Tensor:
    top, left = (max(0, length - size) // 2 for length in picture.shape[-2:])
    return picture[:, top : top + size, left : left + size]


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0]) + 4


CARD = "card.md"
MEASUREMENTS = 12
"""Greatest number of measurements on the card of a run."""


@dataclass(frozen=True)
class RunDetails:
    """Data and hardware of a run.

    Attributes:
        pictures: number of training pictures.
        held_out: number of held-out pictures or clips.
        layout: layout of the data, such as COCO or CelebA.
        fingerprint: fingerprint of the pictures.
        hardware: name and number of the devices.
        videos: number of training videos.
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
    """Return the name of a device, with the number of processes and of CPU threads."""
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


def weights_metadata(
    state: TrainState, options: TrainOptions, details: RunDetails, quality: Quality | None
) -> dict[str, str]:
    """Return the texts for the metadata of a weights file."""
    stages = {name: _stage(state.recipe.stage(name)) for name in _stages_so_far(state)}
    training = {
        "stage": state.stage,
        "step": state.step,
        "seed": state.seed,
        "crops": _crops(state.recipe),
        "generator": _generator(state.recipe),
        "degradation": "clip" if state.recipe.generator == "recurrent" else state.recipe.degradation,
        "unit": state.recipe.unit,
        "stages": stages,
        "pictures": details.pictures,
        **({"videos": details.videos} if details.videos else {}),
        "held_out": details.held_out,
        "precision": options.precision,
        "hardware": details.hardware,
        "quality": None if quality is None else asdict(quality),
    }
    return {
        "purpose": f"x{state.recipe.scale}, trained by vsr train, at step {state.step} in the stage {state.stage}",
        "recipe": state.recipe.follows,
        "licence": options.licence,
        "data": f"{', '.join(path.name for path in options.data)} ({details})",
        "command": options.command,
        "training": json.dumps(training),
    }


def write_card(output: Path, texts: Mapping[str, str], details: RunDetails) -> None:
    """Write ``card.md``, in the format of ``models/README.md``.

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
        ("hardware", details.hardware),
    ]
    lines = [f"## {markdown(output.name)}", "", f"{markdown(texts['purpose'])}.", "", "| | |", "|---|---|"]
    for name, value in rows:
        as_code = name == "command" and texts["command"]
        lines.append(f"| {name} | {markdown_code(value) if as_code else markdown(str(value))} |")
    kind = "the last frames of {} held-out clips" if training["degradation"] == "clip" else "{} held-out pictures"
    measured = kind.format(details.held_out)
    lines += ["", f"Measured during training on {measured}:", "", *_measurements(read_log(output / LOG))]
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


def _stages_so_far(state: TrainState) -> list[StageName]:
    """Return the stages that a run has done, including the current one."""
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
