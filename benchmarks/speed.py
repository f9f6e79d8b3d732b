"""Speed and memory on the CPU: the bare network, the whole command and the plain loop, alternated in one run.

    python benchmarks/speed.py [--model srresnet-x4] [--rounds 3] [--frames 48]

For each size, every round runs the three one after the other, each in a process of its own, so that a drift of the
machine meets all of them. Figures are medians over the rounds, and the ratio (time of the loop over ours) is taken
within a round. Frames a second of the two whole programs count everything, the start of Python and torch too. Memory is
the process's own largest; this script stays small, since a child inherits what its parent holds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import ffmpeg

from vsr.media.ffmpeg import run

HERE = Path(__file__).parent
SIZES = ((160, 90), (320, 180))


@dataclass(frozen=True)
class Run:
    """One process: wall seconds, and the largest resident memory in MiB."""

    seconds: float
    peak_mib: float


def run_process(arguments: list[str]) -> Run:
    """Run a command to its end and take its figures from the operating system.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    started = time.monotonic()
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, arguments)
    return Run(time.monotonic() - started, usage.ru_maxrss / 1024)


def cut_clip(target: Path, width: int, height: int, frames: int) -> None:
    """The example clip, ``frames`` long, at a size."""
    clip = ffmpeg.input(str(HERE.parent / "examples" / "clip.mp4"), stream_loop=-1)
    sized = clip.video.filter("scale", width, height, flags="bicubic")
    run(ffmpeg.output(sized, str(target), vframes=frames, crf=16).overwrite_output())


def bare_network(model: str, width: int, height: int) -> tuple[float, float]:
    """Frames a second and the share of peak, by ``bare_network.py`` in a process of its own."""
    command = [sys.executable, str(HERE / "bare_network.py"), model, str(width), str(height)]
    fps, share = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(fps), float(share)


@dataclass
class Figures:
    """What the rounds of one size gave."""

    bare: list[tuple[float, float]] = field(default_factory=list)
    ours: list[Run] = field(default_factory=list)
    loop: list[Run] = field(default_factory=list)


def measure(model: str, width: int, height: int, frames: int, rounds: int) -> Figures:
    """Run the three in turn; which comes first changes from round to round."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        clip, ours, theirs = (str(Path(folder) / name) for name in ("lr.mp4", "vsr.mp4", "loop.mp4"))
        cut_clip(Path(clip), width, height, frames)
        command = [sys.executable, "-m", "vsr", "upscale", clip, "-o", ours, "--model", model]
        command += ["--device", "cpu", "--overwrite", "-q"]
        loop = [sys.executable, str(HERE / "plain_loop.py"), clip, theirs, model]
        steps = [
            lambda: figures.bare.append(bare_network(model, width, height)),
            lambda: figures.ours.append(run_process(command)),
            lambda: figures.loop.append(run_process(loop)),
        ]
        for number in range(rounds):
            for step in steps[number % 3 :] + steps[: number % 3]:
                step()
    return figures


def row(width: int, height: int, frames: int, figures: Figures) -> str:
    """A row of the table."""
    ratio = median(theirs.seconds / ours.seconds for ours, theirs in zip(figures.ours, figures.loop, strict=True))
    ours, loop = median(run.seconds for run in figures.ours), median(run.seconds for run in figures.loop)
    return (
        f"| {width}x{height} | {frames} | {median(fps for fps, _ in figures.bare):.2f} fps | "
        f"{median(share for _, share in figures.bare):.2f} | "
        f"{frames / ours:.2f} fps | {max(run.peak_mib for run in figures.ours):.0f} MiB | "
        f"{frames / loop:.2f} fps | {max(run.peak_mib for run in figures.loop):.0f} MiB | {ratio:.2f} |"
    )


def main() -> None:
    """Print a table with a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="srresnet-x4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=48, help="of the smaller size; a quarter of them of the larger")
    options = parser.parse_args()
    print(
        "| clip | frames | bare network, fps | share of peak | `vsr upscale`, fps | peak | loop, fps | peak | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (width, height), frames in zip(SIZES, (options.frames, options.frames // 4), strict=True):
        print(row(width, height, frames, measure(options.model, width, height, frames, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
