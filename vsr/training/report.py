"""The report of a run: strips of held-out pictures, the metadata of its weights, and its card."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
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

# As vsr compare draws its strips.
BACKGROUND, INK = (24, 24, 27), (236, 236, 236)
GAP = 4
LETTERS = 13
"""Height of letters in pixels; smaller ones cannot be read."""
LINE = 22
"""Height of a line of text and what is left free around it, in pixels."""

Strip = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""


@dataclass(frozen=True)
class Sample:
    """A held-out picture in the strip of samples.

    Attributes:
        lr: (3, h, w) uint8.
        sr: (3, s*h, s*w) uint8.
        hr: (3, s*h, s*w) uint8.
        of_bicubic: the figures under the bicubic picture.
        of_sr: the figures under SR.
    """

    lr: Tensor
    sr: Tensor
    hr: Tensor
    of_bicubic: str = ""
    of_sr: str = ""


def sample_strip(samples: Sequence[Sample], *, step: int, figures: str = "") -> Strip:
    """Draw pictures one below the other, each as LR (pixels repeated), bicubic, SR and HR side by side with labels.

    The middle of large pictures is shown, at most 256x256 HR pixels. Smaller ones are padded to the right and below.
    Only the bicubic panel is interpolated.

    Args:
        samples: at least one.
        step: the step in the caption.
        figures: what the figures under the pictures are, for the caption.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: there are no pictures, or shapes or dtypes do not match.
    """
    if not samples:
        raise ValueError("a strip needs at least one picture")
    rows = [_panels(sample) for sample in samples]
    texts = [("", sample.of_bicubic, sample.of_sr, "") for sample in samples]
    labels = ("LR", "bicubic", "SR", "HR")
    caption = f"step {step}" + (f"; under the pictures {figures}" if figures else "")
    widths = [
        max(_text_width(labels[at]), *(_text_width(row[at]) for row in texts), *(row[at].shape[1] for row in rows))
        for at in range(len(labels))
    ]
    under = LINE if any(map(any, texts)) else 0
    heights = [row[0].shape[0] + under for row in rows]
    width = max(sum(widths) + GAP * (len(labels) + 1), _text_width(caption) + 2 * GAP)
    strip: Strip = np.full((2 * LINE + sum(heights) + GAP * len(rows), width, 3), BACKGROUND, np.uint8)
    _write(strip, caption, GAP, 0)
    left = GAP
    for at, (label, width) in enumerate(zip(labels, widths, strict=True)):
        _write(strip, label, left, LINE)
        top = 2 * LINE
        for row, figure, height in zip(rows, texts, heights, strict=True):
            panel = row[at]
            strip[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
            _write(strip, figure[at], left, top + panel.shape[0])
            top += height + GAP
        left += width + GAP
    return strip


def write_samples(path: Path, strip: Strip) -> None:
    """Write a strip as a PNG, under a temporary name first.

    Raises:
        OutputError: it cannot be written.
    """
    done, encoded = cv2.imencode(".png", strip[..., ::-1])
    if not done:
        raise OutputError(f"cannot encode the samples {path} as PNG.")
    write_whole(path, encoded.tobytes())


def enlarged(lr: Tensor, hr: Tensor) -> Tensor:
    """Enlarge LR (3, h, w) uint8 to the size of HR by bicubic interpolation: (3, H, W) uint8 on the CPU."""
    height, width = hr.shape[-2:]
    return resize_bicubic(lr.cpu().float(), height, width).round_().clamp_(0, 255).byte()


def _panels(sample: Sample) -> tuple[Strip, Strip, Strip, Strip]:
    """Return LR enlarged, bicubic, SR and HR of the middle of a picture: four panels (H, W, 3) of one size."""
    lr, sr, hr = sample.lr, sample.sr, sample.hr
    for tensor in (lr, sr, hr):
        if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[0] != 3:
            raise ValueError(f"expected uint8 tensors (3, H, W), got {tensor.dtype} {tuple(tensor.shape)}")
    rows, columns = lr.shape[-2:]
    scale = hr.shape[-2] // rows
    if sr.shape != hr.shape or tuple(hr.shape[-2:]) != (scale * rows, scale * columns):
        raise ValueError(f"the shapes do not match: {[tuple(t.shape) for t in (lr, sr, hr)]}")
    # The whole picture is resized before it is cut, so that the cut adds no edge.
    bicubic = enlarged(lr, hr)
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


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Return the font of vsr compare's labels, of which matplotlib has a copy."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), LETTERS)


def _text_width(text: str) -> int:
    return math.ceil(_font().getlength(text))


def _write(strip: Strip, text: str, left: int, top: int) -> None:
    """Write a line of text into a strip, in place."""
    if not text:
        return
    image = Image.fromarray(strip[top : top + LINE])
    ImageDraw.Draw(image).text((left, LINE - 6), text, fill=INK, font=_font(), anchor="ls")
    strip[top : top + LINE] = np.asarray(image)


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
    count = f"{recipe.accumulate} x {recipe.batch_size}" if recipe.accumulate > 1 else f"{recipe.batch_size}"
    if recipe.generator != "recurrent":
        return f"{count} of {edge}"
    longer = f", at the end of a stage {recipe.long_frames}" if recipe.long_frames else ""
    return f"{count} clips of {edge}, {recipe.frames} frames each{longer}"


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
    yield f"| step | stage | PSNR-Y | SSIM-Y | LPIPS ({rows.lpips_backbone}) |"
    yield "|---|---|---|---|---|"
    for index in measured[::-1][::every][::-1]:
        lpips = rows["lpips"][index]
        yield (
            f"| {rows['step'][index]:.0f} | {markdown(rows.stages[index])} | {rows['psnr_y'][index]:.2f} dB "
            f"| {rows['ssim_y'][index]:.4f} | {'' if lpips != lpips else f'{lpips:.4f}'} |"
        )
