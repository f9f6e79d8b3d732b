"""What a run says about its weights: in the file's metadata, and on a card to be read."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vsr.files import write_whole
from vsr.text import markdown, markdown_code
from vsr.training.log import LOG, Rows, read_log
from vsr.training.measure import Quality
from vsr.training.options import TrainOptions
from vsr.training.recipe import LOSSES, STAGES, Recipe, Stage, StageName
from vsr.training.update import Game

CARD = "card.md"
MEASUREMENTS = 12
"""How many measurements of a run its card shows at most."""


@dataclass(frozen=True)
class Facts:
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


def about(game: Game, options: TrainOptions, facts: Facts, quality: Quality | None) -> dict[str, str]:
    """Texts for the metadata of a weights file."""
    stages = {name: _stage(game.recipe.stage(name)) for name in _stages_behind(game)}
    training = {
        "stage": game.stage,
        "step": game.step,
        "seed": game.seed,
        "crops": _crops(game.recipe),
        "generator": _generator(game.recipe),
        "degradation": "clip" if game.recipe.generator == "recurrent" else game.recipe.degradation,
        "unit": game.recipe.unit,
        "stages": stages,
        "pictures": facts.pictures,
        **({"videos": facts.videos} if facts.videos else {}),
        "held_out": facts.held_out,
        "precision": options.precision,
        "hardware": facts.hardware,
        "quality": None if quality is None else asdict(quality),
    }
    return {
        "purpose": f"x{game.recipe.scale}, trained by vsr train, at step {game.step} in the stage {game.stage}",
        "recipe": game.recipe.follows,
        "licence": options.licence,
        "data": f"{', '.join(path.name for path in options.data)} ({facts})",
        "command": options.command,
        "training": json.dumps(training),
    }


def write_card(output: Path, texts: Mapping[str, str], facts: Facts) -> None:
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
    lines += ["", f"On {measured.format(facts.held_out)} along the way:", "", *_curve(read_log(output / LOG))]
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


def _stages_behind(game: Game) -> list[StageName]:
    """The stages that a run has been through, with the one that it stands in."""
    before = STAGES[: STAGES.index(game.stage)] if game.step > game.stage_step else ()
    return [name for name in (*before, game.stage) if game.recipe.stage(name).length]


def _stage(stage: Stage) -> str:
    weights = " + ".join(
        f"{getattr(stage, name):g} {name}" + (f" ({stage.content_layer})" if name == "content" else "")
        for name in LOSSES
        if getattr(stage, name)
    )
    return f"{stage.length} at {stage.learning_rate:g}, {stage.schedule}" + (f": {weights}" if weights else "")


def _curve(rows: Rows) -> Iterable[str]:
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
