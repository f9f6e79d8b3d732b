"""Compare the whole command with the usual loop on the CPU, alternated in one run.

    python benchmarks/speed.py [--model video-x4 ...] [--no-loop] [--steady no] [--rounds 3] [--frames 96]

For each size, every round runs the loop (``plain_loop.py``) with the first model and ``vsr upscale`` with each model in
each precision one after the other, each in a process of its own, so that a drift of the machine affects all; the order
rotates from round to round. Times include the start of Python and torch. Figures are medians over
the rounds, and a ratio (time of another over ours) is taken within a round: of the loop, and of the first model in the
same precision. Memory is the peak of the process; this script stays small, as a child inherits the memory of its
parent.
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
from typing import NamedTuple

import ffmpeg

from vsr.media.ffmpeg import run

HERE = Path(__file__).parent
SIZES = ((160, 90), (320, 180))
PRECISIONS = ("fp32", "bf16", "int8")


class Case(NamedTuple):
    """A model in a precision."""

    model: str
    precision: str


LOOP = Case("plain_loop.py", "")
"""The loop with the first model, in eager mode and float32."""


@dataclass(frozen=True)
class Run:
    """One process: wall seconds, and the largest resident memory in MiB."""

    seconds: float
    peak_mib: float


def run_process(arguments: list[str]) -> Run:
    """Run a command and return the figures of the operating system.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    started = time.monotonic()
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, arguments)
    return Run(time.monotonic() - started, usage.ru_maxrss / 1024)


def cut_clip(target: Path, width: int, height: int, frames: int) -> None:
    """Write the example clip with ``frames`` frames at a size."""
    clip = ffmpeg.input(str(HERE.parent / "examples" / "clip.mp4"), stream_loop=-1)
    sized = clip.video.filter("scale", width, height, flags="bicubic")
    run(ffmpeg.output(sized, str(target), vframes=frames, crf=16).overwrite_output())


def measure(options: argparse.Namespace, width: int, height: int, frames: int) -> dict[Case, list[Run]]:
    """Run the loop and each model in each precision, round by round."""
    with tempfile.TemporaryDirectory() as folder:
        clip, ours, theirs = (str(Path(folder) / name) for name in ("lr.mp4", "vsr.mp4", "loop.mp4"))
        cut_clip(Path(clip), width, height, frames)
        command = [sys.executable, "-m", "vsr", "upscale", clip, "-o", ours, "--device", "cpu", "--overwrite", "-q"]
        command += ["--steady", options.steady]
        cases = [Case(model, precision) for model in options.model for precision in options.precision]
        commands = {case: [*command, "--model", case.model, "--precision", case.precision] for case in cases}
        if options.loop:
            commands[LOOP] = [sys.executable, str(HERE / "plain_loop.py"), clip, theirs, options.model[0]]
        runs: dict[Case, list[Run]] = {case: [] for case in commands}
        for number in range(options.rounds):
            order = [*commands][number % len(commands) :] + [*commands][: number % len(commands)]
            for case in order:
                runs[case].append(run_process(commands[case]))
    return runs


def ratio(runs: list[Run], others: list[Run] | None) -> str:
    """Format the ratio of the times of the others to these; empty without others."""
    if others is None:
        return ""
    return f"{median(other.seconds / run.seconds for run, other in zip(runs, others, strict=True)):.2f}"


def main() -> None:
    """Print a table with rows for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="may be repeated; video-x4 by default")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="may be repeated; all by default")
    parser.add_argument("--no-loop", dest="loop", action="store_false")
    parser.add_argument("--steady", default="auto", choices=("auto", "no"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=96, help="of the smaller size; the larger size gets a quarter")
    options = parser.parse_args()
    options.model, options.precision = options.model or ["video-x4"], options.precision or PRECISIONS
    print("| clip | frames | | frames/s | memory | time of the loop over ours | of the first model over this one |")
    print("|---|---|---|---|---|---|---|")
    for (width, height), frames in zip(SIZES, (options.frames, options.frames // 4), strict=True):
        runs = measure(options, width, height, frames)
        for case, each in runs.items():
            seconds, peak = median(run.seconds for run in each), max(run.peak_mib for run in each)
            figures = f"{frames / seconds:.2f} | {peak:.0f} MiB | {ratio(each, runs.get(LOOP))}"
            first = "" if case == LOOP else ratio(each, runs[Case(options.model[0], case.precision)])
            label = f"`{case.model}` {case.precision}".strip()
            print(f"| {width}x{height} | {frames} | {label} | {figures} | {first} |", flush=True)


if __name__ == "__main__":
    main()
