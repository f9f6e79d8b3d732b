"""Measure the overhead per picture of a folder in seconds, for one source tree or several in turn.

    python benchmarks/many_pictures.py [TREE ...] [--count 200] [--model srgan-x2] [--rounds 2]

Small pictures, 64x48, are written to a temporary folder and upscaled by ``vsr upscale`` of each TREE, by default this
one. The time for a folder of one picture is subtracted, as the start of the command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", metavar="TREE", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--model", default="srgan-x2")
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    seconds: dict[Path, list[float]] = {tree: [] for tree in chosen.trees}
    with tempfile.TemporaryDirectory() as folder:
        many, one = write_pictures(Path(folder) / "many", chosen.count), write_pictures(Path(folder) / "one", 1)
        for _ in range(chosen.rounds):
            for tree in chosen.trees:
                start = seconds_of(tree, one, chosen.model)
                seconds[tree].append((seconds_of(tree, many, chosen.model) - start) / (chosen.count - 1))
    for tree, measured in seconds.items():
        rounds = ", ".join(f"{each:.3f}" for each in measured)
        sys.stdout.write(f"{tree}: {median(measured):.3f} s a picture ({rounds})\n")


def write_pictures(folder: Path, count: int) -> Path:
    """Write different pictures of smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:04}.png"), picture)
    return folder


def seconds_of(tree: Path, pictures: Path, model: str) -> float:
    """Return the wall time of the command."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "vsr", "upscale", str(pictures), "-o", out, "--model", model, "-q"]
        started = time.monotonic()
        subprocess.run(command, check=True, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)})
        return time.monotonic() - started


if __name__ == "__main__":
    main()
