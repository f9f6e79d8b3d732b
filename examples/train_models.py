"""Train the shipped models, each from an earlier one, with ``vsr train``. Started again, it continues where it stopped.

    python examples/train_models.py DATA RUNS --vgg vgg19.pth --squeezenet squeezenet1_1.pth [--only NAME...]
                                    [--device cuda] [--longer 10] [--licence TEXT]

DATA is a folder of pictures, RUNS the folder of the runs; RUNS/NAME.safetensors are the finished models. The lengths
are chosen for two CPU cores; ``--longer`` multiplies them. SqueezeNet is used to measure LPIPS, never as a loss.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vsr.evaluation.images import calibrate_file
from vsr.imaging.pictures import ENDINGS
from vsr.networks.weights import blend, load_network, read_info, save_network

ADVERSARIAL = {
    "stage": "adversarial", "discriminator-head": "pooled", "adversarial-content-layer": "conv3_4",
    "adversarial-content": 2.5e-5, "adversarial-schedule": "multi-step", "adversarial-milestones": 0.75,
}  # fmt: skip
PIXELS = {"stage": "pretrain", "pretrain-mse": 0, "pretrain-l1": 1, "pretrain-schedule": "one-cycle"}


@dataclass(frozen=True)
class Training:
    """One run.

    Attributes:
        length: number of updates.
        options: options of ``vsr train``, without the dashes.
        init: the run whose generator it starts from.
        discriminator: the run whose discriminator it starts from.
        partner: the pixel-trained run that ``--detail 0`` selects.
        detail: the share of its own weights in the blend with those of the partner.
        purpose: the purpose in a few words.
    """

    length: int
    options: dict[str, str | float]
    init: str = ""
    discriminator: str = ""
    partner: str = ""
    detail: float = 1.0
    purpose: str = ""


TRAININGS = {
    "srresnet-x4": Training(
        8000, PIXELS | {"pretrain-learning-rate": 4e-4}, purpose="fidelity: trained on the pixels, for clean LR"
    ),
    "srresnet-x2": Training(
        4500, PIXELS | {"pretrain-learning-rate": 3e-4, "scale": 2}, init="srresnet-x4",
        purpose="fidelity: trained on the pixels, for clean LR",
    ),
    "srgan-x4-begun": Training(620, ADVERSARIAL | {"adversarial-l1": 0.01}, init="srresnet-x4"),
    "srgan-x4-further": Training(
        2000, ADVERSARIAL | {"adversarial-l1": 0.01, "adversarial-adversarial": 6e-3}, init="srgan-x4-begun",
        discriminator="srgan-x4-begun",
    ),
    "srgan-x4": Training(
        8800, ADVERSARIAL | {"adversarial-l1": 0.05, "adversarial-adversarial": 6e-3}, init="srgan-x4-further",
        discriminator="srgan-x4-further", partner="srresnet-x4", purpose="sharp texture, for clean LR",
    ),
    "srgan-x2": Training(
        1900, ADVERSARIAL | {"adversarial-l1": 0.05, "adversarial-adversarial": 6e-3, "scale": 2}, init="srresnet-x2",
        discriminator="srgan-x4-begun", partner="srresnet-x2", purpose="sharp texture, for clean LR",
    ),
    "video-smooth-x4": Training(
        3000, PIXELS | {"pretrain-learning-rate": 2e-4, "degradation": "video"}, init="srresnet-x4",
        purpose="real, compressed clips, faithful and soft: video-x4 at --detail 0",
    ),
    "video-x4": Training(
        5800, ADVERSARIAL | {"adversarial-l1": 0.05, "adversarial-adversarial": 6e-3, "degradation": "video"},
        init="video-smooth-x4", discriminator="srgan-x4-further", partner="video-smooth-x4", detail=0.55,
        purpose="real, compressed clips: the default",
    ),
    "video-smooth-x2": Training(
        1500, PIXELS | {"pretrain-learning-rate": 2e-4, "degradation": "video", "scale": 2}, init="srresnet-x2",
        purpose="real, compressed clips, faithful and soft: video-x2 at --detail 0",
    ),
    "video-x2": Training(
        1800,
        ADVERSARIAL | {"adversarial-l1": 0.05, "adversarial-adversarial": 6e-3, "degradation": "video", "scale": 2},
        init="video-smooth-x2", discriminator="video-x4", partner="video-smooth-x2", detail=0.7,
        purpose="real, compressed clips: what --scale 2 takes",
    ),
}  # fmt: skip


def command(name: str, settings: argparse.Namespace) -> list[str]:
    """Return the command line of ``vsr train`` for a run."""
    training, run = TRAININGS[name], settings.runs / name
    options: dict[str, object] = {
        "data": settings.data, "output": run, "batch-size": 8, "precision": "bf16", "device": settings.device,
        "content-weights": settings.vgg, "lpips-weights": settings.squeezenet, "licence": settings.licence,
        "checkpoint-every": 200, "validate-every": 250, f"{training.options['stage']}-length":
        max(1, round(training.length * settings.longer)), **training.options,
    }  # fmt: skip
    if training.init:
        options["init"] = settings.runs / training.init / "generator.safetensors"
    if training.discriminator:
        options["init-discriminator"] = settings.runs / training.discriminator / "discriminator.safetensors"
    resume = ["--resume"] if (run / "checkpoint.pt").exists() else []
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    return [sys.executable, "-m", "vsr", "train", *words, *resume]


def finish(name: str, runs: Path, data: Path) -> None:
    """Write RUNS/NAME.safetensors: the weights, blended if the recipe does so, with metadata and the calibration for
    int8."""
    training, weights = TRAININGS[name], runs / name / "generator.safetensors"
    network, about = load_network(weights), dict(read_info(weights).about)
    if training.detail != 1:
        blend(network, load_network(runs / training.partner / "generator.safetensors"), training.detail)
    about |= {"purpose": training.purpose, "command": f"examples/train_models.py, {name}"}
    about |= {"pair": training.partner} if training.partner else {}
    target = runs / f"{name}.safetensors"
    save_network(target, network, about)
    calibrate_file(target, next(path.parent for path in sorted(data.rglob("*")) if path.suffix.lower() in ENDINGS))


def main() -> None:
    """Run all trainings in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--vgg", type=Path, required=True)
    parser.add_argument("--squeezenet", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(TRAININGS), default=list(TRAININGS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--longer", type=float, default=1)
    parser.add_argument("--licence", default="not stated")
    settings = parser.parse_args()
    settings.runs.mkdir(parents=True, exist_ok=True)
    for name in settings.only:
        if not (settings.runs / f"{name}.safetensors").exists():
            if code := subprocess.run(command(name, settings)).returncode:
                sys.exit(code)  # the reason is printed; started again, it continues there
            finish(name, settings.runs, settings.data)


if __name__ == "__main__":
    main()
