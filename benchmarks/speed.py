"""The whole command against the loop that people use, on the CPU, alternated in one run.

    python benchmarks/speed.py [--model video-x4] [--rounds 3] [--frames 96]

For each size, every round runs the loop (``plain_loop.py``) and ``vsr upscale`` in each precision one after the other,
each in a process of its own, so that a drift of the machine meets all of them; who begins changes from round to round.
Everything is counted, the start of Python and torch too. Figures are medians over the rounds, and a ratio (time of the
loop over ours) is taken within a round. Memory is the process's own largest; this script stays small, since a child
inherits what its parent holds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import ffmpeg

from vsr.media.ffmpeg import run

HERE = Path(__file__).parent
SIZES = ((160, 90), (320, 180))
PRECISIONS = ("fp32", "bf16", "int8")


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


def measure(model: str, width: int, height: int, frames: int, rounds: int) -> dict[str, list[Run]]:
    """The runs of the loop and of each precision, round by round."""
    with tempfile.TemporaryDirectory() as folder:
        clip, ours, theirs = (str(Path(folder) / name) for name in ("lr.mp4", "vsr.mp4", "loop.mp4"))
        cut_clip(Path(clip), width, height, frames)
        command = [sys.executable, "-m", "vsr", "upscale", clip, "-o", ours, "--model", model]
        command += ["--device", "cpu", "--overwrite", "-q", "--precision"]
        commands = {"loop": [sys.executable, str(HERE / "plain_loop.py"), clip, theirs, model]}
        commands |= {precision: [*command, precision] for precision in PRECISIONS}
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for number in range(rounds):
            names = [*commands][number % len(commands) :] + [*commands][: number % len(commands)]
            for name in names:
                runs[name].append(run_process(commands[name]))
    return runs


def row(width: int, height: int, frames: int, name: str, runs: list[Run], loop: list[Run]) -> str:
    """A row of the table."""
    ratio = median(theirs.seconds / ours.seconds for ours, theirs in zip(runs, loop, strict=True))
    seconds, peak = median(run.seconds for run in runs), max(run.peak_mib for run in runs)
    return f"| {width}x{height} | {frames} | {name} | {frames / seconds:.2f} | {peak:.0f} MiB | {ratio:.2f} |"


def main() -> None:
    """Print a table with rows for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="video-x4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=96, help="of the smaller size; a quarter of them of the larger")
    options = parser.parse_args()
    print("| clip | frames | | frames/s | memory | time of the loop over ours |")
    print("|---|---|---|---|---|---|")
    for (width, height), frames in zip(SIZES, (options.frames, options.frames // 4), strict=True):
        runs = measure(options.model, width, height, frames, options.rounds)
        for name in runs:
            label = name if name == "loop" else f"`vsr upscale`, {name}"
            print(row(width, height, frames, label, runs[name], runs["loop"]), flush=True)


if __name__ == "__main__":
    main()
