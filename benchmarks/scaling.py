"""Measure how cost scales: time per output pixel and memory, for frames and clips of increasing size.

    python benchmarks/scaling.py [--model video-x4] [--precision fp32] [--rounds 3]

Three tables: frames from 160x90 to 1280x720 through the whole pipeline, without an encoder, in tiles where they are the
default; clips of 160x90 of doubling length; and a 1280x720 frame in the default tiles against the whole frame, in turn.
The whole frame needs about 6 GiB in float32.
"""

from __future__ import annotations

import argparse
from statistics import median

import torch

import vsr
from vsr.inference.device import measure_cost, seconds_of
from vsr.machine import Speed, bench
from vsr.pipeline.options import BenchOptions

SIZES = ((160, 90), (320, 180), (640, 360), (1280, 720))
LENGTHS = (4, 8, 16, 32)
"""Approximate seconds of work of the rows of the second table."""


def speed_of(size: tuple[int, int], seconds: float, options: argparse.Namespace) -> Speed:
    """Measure the pipeline at a size."""
    (speed,) = bench(
        BenchOptions(
            models=(options.model,),
            sizes=(size,),
            device="cpu",
            engine=options.engine,
            precisions=(options.precision,),
            codec="none",
            seconds=seconds,
        )
    )
    return speed


def cells(speed: Speed, scale: float) -> str:
    """Format time and memory per output pixel, and the total memory."""
    pixels = speed.width * speed.height * scale**2
    assert speed.memory_bytes is not None
    each = f"{1e9 / speed.pipeline_fps / pixels:.1f} ns | {speed.memory_bytes / pixels:.0f} bytes"
    return f"{speed.frames} | {each} | {speed.memory_bytes / 2**20:.0f} MiB"


def tiles(options: argparse.Namespace) -> None:
    """Print the third table."""
    lr = torch.rand(1, 3, 720, 1280)
    keywords = {"device": "cpu", "engine": options.engine, "precision": options.precision}
    engines = [vsr.load_model(options.model, tile_size=size, **keywords) for size in (None, 0)]
    times: list[list[float]] = []
    peaks = [measure_cost(lambda engine=engine: engine(lr), engine.device)[1].memory_bytes for engine in engines]
    for _ in range(options.rounds):
        times.append([seconds_of(lambda engine=engine: engine(lr)) for engine in engines])
    ratio = median(tiled / whole for tiled, whole in times)
    print("\n| 1280x720 | seconds | memory |\n|---|---|---|")
    names = (f"tiles of {engines[0].tile_for(1, 720, 1280)}", "whole")
    for name, column, peak in zip(names, zip(*times, strict=True), peaks, strict=True):
        print(f"| {name} | {median(column):.2f} | {(peak or 0) / 2**20:.0f} MiB |")
    print(f"\nTiles take {ratio:.2f} times as long as the whole.")


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="video-x4")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scale = vsr.load_model(options.model, device="cpu").scale
    print("| clip | frames | time per output pixel | memory per output pixel | memory |\n|---|---|---|---|---|")
    for size in SIZES:
        print(f"| {size[0]}x{size[1]} | {cells(speed_of(size, 5, options), scale)} |", flush=True)
    print("\n| frames of 160x90 | time per output pixel | memory per output pixel | memory |\n|---|---|---|---|")
    for seconds in LENGTHS:
        print(f"| {cells(speed_of(SIZES[0], seconds, options), scale)} |", flush=True)
    tiles(options)


if __name__ == "__main__":
    main()
