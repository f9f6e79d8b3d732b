"""Cost against work: time for an output pixel, and memory, from small frames to large and from short clips to long.

    python benchmarks/scaling.py [--model video-x4] [--precision fp32] [--rounds 3]

Three tables. Frames from 160x90 to 1280x720 through the whole pipeline, without an encoder, in tiles where those are
taken. Clips of 160x90 that are twice as long, and again. And a 1280x720 frame in the tiles that are taken by default
against the frame as a whole, one after the other; the whole frame needs some 6 GiB in float32.
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
"""Seconds of work of the second table, about."""


def speed_of(size: tuple[int, int], seconds: float, options: argparse.Namespace) -> Speed:
    """The pipeline at a size."""
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
    """Time and memory for an output pixel, and memory in all."""
    pixels = speed.width * speed.height * scale**2
    assert speed.memory_bytes is not None
    each = f"{1e9 / speed.pipeline_fps / pixels:.1f} ns | {speed.memory_bytes / pixels:.0f} bytes"
    return f"{speed.frames} | {each} | {speed.memory_bytes / 2**20:.0f} MiB"


def tiles(options: argparse.Namespace) -> None:
    """The third table."""
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
    """Print the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="video-x4")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scale = vsr.load_model(options.model, device="cpu").scale
    print("| clip | frames | time for an output pixel | memory for one | memory |\n|---|---|---|---|---|")
    for size in SIZES:
        print(f"| {size[0]}x{size[1]} | {cells(speed_of(size, 5, options), scale)} |", flush=True)
    print("\n| frames of 160x90 | time for an output pixel | memory for one | memory |\n|---|---|---|---|")
    for seconds in LENGTHS:
        print(f"| {cells(speed_of(SIZES[0], seconds, options), scale)} |", flush=True)
    tiles(options)


if __name__ == "__main__":
    main()
