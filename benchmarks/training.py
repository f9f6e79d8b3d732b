"""Measure updates per second, the share of the machine's peak, and the share of time spent waiting for data.

    python benchmarks/training.py PICTURES [--steps 40] [--device auto] [--content-weights VGG19]

There are rows for the pixel stage, for the video degradation and for the adversarial stage, in float32 and in bfloat16.
The share of peak counts three times the multiply-adds of the generator's forward pass (one forward, two backward),
against a large matrix product in the same precision right before and after. The adversarial stage has no share, as
neither the discriminator nor VGG is counted.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from lightning_fabric import Fabric

from vsr.inference.device import operations_per_pixel, seconds_of
from vsr.machine import peak_product
from vsr.networks.generator import Generator
from vsr.training.batches import Batches, load_pictures
from vsr.training.checkpoint import begin_stage, new_train_state
from vsr.training.launch import launch
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES
from vsr.training.step import update

WARM_UP = 5
"""Updates before the clock starts."""

ROUNDS = 3
"""Matrix products before and after."""


@dataclass(frozen=True)
class Pace:
    """The figures of a row."""

    steps_per_second: float
    waiting: float
    share: float


def measure(fabric: Fabric, options: TrainOptions, steps: int, stage: str) -> Pace:
    """Measure some updates of a stage."""
    pictures, _, _ = load_pictures(options)
    state = new_train_state(fabric, options)
    begin_stage(state, stage, options)  # type: ignore[arg-type]
    operations = 3 * operations_per_pixel(Generator()) * options.recipe.batch_size
    operations *= (options.recipe.crop_size // options.recipe.scale) ** 2
    product = peak_product(fabric.device, options.precision)  # type: ignore[arg-type]
    assert product is not None
    product.multiply()  # once, to warm up
    peaks = [seconds_of(product.multiply) for _ in range(ROUNDS)]
    waited = 0.0
    with closing(Batches(pictures, options, fabric).stream(range(WARM_UP + steps))) as stream:
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                synchronise(fabric)
                waited, started = 0.0, time.perf_counter()
            requested = time.perf_counter()
            lr, hr = next(stream)
            waited += time.perf_counter() - requested
            update(state, lr, hr, 1e-5)
        synchronise(fabric)
        seconds = time.perf_counter() - started
    peaks += [seconds_of(product.multiply) for _ in range(ROUNDS)]
    rate = steps / seconds
    return Pace(rate, waited / seconds, rate * operations / (product.operations / mean(peaks)))


def synchronise(fabric: Fabric) -> None:
    """Wait for the device."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--content-weights", type=Path)
    options = parser.parse_args()
    print("| stage | degradation | precision | updates/s | share of peak | waiting for data |")
    print("|---|---|---|---|---|---|")
    for stage, degradation in (("pretrain", "bicubic"), ("pretrain", "video"), ("adversarial", "bicubic")):
        for precision in ("fp32", "bf16"):
            cells = row(stage, degradation, precision, options)
            print(f"| {stage} | {degradation} | {precision} | {cells} |", flush=True)


def row(stage: str, degradation: str, precision: str, options: argparse.Namespace) -> str:
    """Return the last three cells of a row."""
    recipe = replace(RECIPES["srgan"], degradation=degradation, batch_size=options.batch_size)
    recipe = replace(recipe, adversarial=replace(recipe.adversarial, content_layer="conv3_4"))
    with TemporaryDirectory() as folder:
        chosen = TrainOptions(
            data=(options.pictures,), output=Path(folder) / "run", recipe=recipe, precision=precision,
            device=options.device, content_weights=options.content_weights, stage=stage,
        )  # fmt: skip
        pace = launch(lambda fabric, given, *_: measure(fabric, given, options.steps, stage), chosen, None, None)
    share = f"{pace.share:.2f}" if stage == "pretrain" else ""
    return f"{pace.steps_per_second:.2f} | {share} | {100 * pace.waiting:.1f} %"


if __name__ == "__main__":
    main()
