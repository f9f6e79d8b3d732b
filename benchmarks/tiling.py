"""Measure the difference of tiled and untiled frames for several overlaps.

    python benchmarks/tiling.py CLIP:FRAME... [--model srresnet-x4] [--tile 112] [--size 320x180]

Each frame is first reduced to ``--size``. Prints, for each overlap, the largest difference in 8-bit codes of each frame
and the share of values that differ.
"""

from __future__ import annotations

import argparse

import av
import numpy as np

import vsr
from vsr.networks.weights import load_network

OVERLAPS = (0, 4, 8, 12, 16, 24, 32)


def read_frame(place: str, width: int, height: int) -> np.ndarray:
    """Read frame N of ``CLIP:N`` as (height, width, 3) uint8 RGB."""
    clip, _, number = place.rpartition(":")
    with av.open(clip) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == int(number):
                return frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
    raise SystemExit(f"{clip} has no frame {number}")


def main() -> None:
    """Print a line for each overlap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", nargs="+", metavar="CLIP:FRAME")
    parser.add_argument("--model", default="srresnet-x4")
    parser.add_argument("--tile", type=int, default=112)
    parser.add_argument("--size", default="320x180")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    frames = [read_frame(place, width, height) for place in options.frames]
    whole = vsr.load_model(options.model, device="cpu", tile_size=0)
    untiled = [whole.upscale(frame).astype(int) for frame in frames]
    for overlap in OVERLAPS:
        engine = vsr.Engine(load_network(options.model), device="cpu", tile_size=options.tile, overlap=overlap)
        apart = [np.abs(engine.upscale(lr) - sr) for lr, sr in zip(frames, untiled, strict=True)]
        share = float(np.mean([(difference > 0).mean() for difference in apart]))
        print(f"overlap {overlap:2}: at most {[int(difference.max()) for difference in apart]}, {share:.3%} differ")


if __name__ == "__main__":
    main()
