"""Send SIGINT and SIGTERM at random moments: does each end the command cleanly and soon?

    python benchmarks/signals.py [--signals 200] [--seed 0] [--at-once 1]

A synthetic clip of two seconds is upscaled by ``--model bicubic``, every fourth time by two processes (``--jobs 2``),
and gets one signal at a random moment within the time of an undisturbed run, including the start of the interpreter.
The command must end within 30 seconds, with exit code 130, or 0 if it was done; print no traceback; and leave no
process. Signals before the first line of vsr are handled by Python, with its own exit code and, for SIGINT, a
traceback; these are counted separately.

The exit code is 1 if a run ended in another way.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

END_SECONDS, LEAVING_SECONDS = 30, 5
"""Time limits for the command to end, and for its children to end after it."""

KINDS: dict[str, list[str]] = {"bicubic": [], "--jobs 2": ["--jobs", "2"]}


@dataclass(frozen=True)
class Run:
    """One run of the command and how it ended.

    Attributes:
        kind: a key of ``KINDS``.
        number: the signal.
        delay: seconds from the start to the signal.
        outcome: "130", "done", "interpreter", or a description of the failure.
        seconds: from the signal to the end.
    """

    kind: str
    number: signal.Signals
    delay: float
    outcome: str
    seconds: float


def make_clip(path: Path, frames: int = 50) -> Path:
    """Write a small clip with motion."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            picture = np.full((64, 96, 3), number * 5 % 256, np.uint8)
            picture[:, :, 1] = np.arange(96)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


def members(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_bytes().rpartition(b") ")[2].split()
            if fields[0] != b"Z" and int(fields[3]) == session:
                found.append(int(path.parent.name))
    return found


def command(clip: Path, target: Path, kind: str) -> list[str]:
    """Return the command line."""
    words = ["upscale", str(clip), "-o", str(target), "--model", "bicubic", "--device", "cpu", "--no-resume"]
    return [sys.executable, "-m", "vsr", *words, "--preset", "ultrafast", *KINDS[kind]]


def disturbed(clip: Path, target: Path, kind: str, number: signal.Signals, delay: float) -> Run:
    """Start the command, send a signal after a delay, and record how it ends."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command(clip, target, kind),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
        )  # fmt: skip
        sent = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            child.wait(delay)
            return Run(kind, number, delay, "too late", time.monotonic() - sent)
        sent = time.monotonic()
        with suppress(ProcessLookupError):
            # As a terminal does, Ctrl-C reaches the whole group.
            os.killpg(child.pid, number) if number == signal.SIGINT else child.send_signal(number)
        try:
            code: int | None = child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        seconds = time.monotonic() - sent
        until = time.monotonic() + LEAVING_SECONDS
        while code is not None and members(child.pid) and time.monotonic() < until:
            time.sleep(0.05)
        left = members(child.pid)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()
        errors.seek(0)
        outcome = classify(code, errors.read().decode(errors="replace"), number, left)
    target.unlink(missing_ok=True)
    return Run(kind, number, delay, outcome, seconds)


def classify(code: int | None, errors: str, number: signal.Signals, left: list[int]) -> str:
    """Return how a run ended: a keyword, or a description of the failure."""
    if code is None:
        return f"did not end: {errors!r}"
    if left:
        return f"left {len(left)} processes: {errors!r}"
    traceback = "Traceback" in errors or "Exception ignored" in errors or "Fatal Python error" in errors
    ours = "/vsr/" in errors or any(line.startswith(("vsr: ", "error: ")) for line in errors.splitlines())
    if not ours and (code == -number or traceback):
        return "interpreter, traceback" if traceback else "interpreter"
    if traceback or code not in (0, 130):
        return f"exit code {code}: {errors!r}"
    return "done" if code == 0 else "130"


def main() -> None:
    """Print a table and all failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    for number in (signal.SIGINT, signal.SIGTERM):  # a signal ignored here would be ignored in the runs too
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="signals-") as name:
        folder = Path(name)
        clip, undisturbed = make_clip(folder / "clip.mp4"), {}
        for kind in KINDS:
            began = time.monotonic()
            subprocess.run(command(clip, folder / f"{len(undisturbed)}.mp4", kind), check=True, capture_output=True)
            undisturbed[kind] = time.monotonic() - began

        def one(index: int, kind: str, number: signal.Signals, share: float) -> Run:
            target, seconds = folder / f"{index:06}.mp4", undisturbed[kind]
            while (run := disturbed(clip, target, kind, number, share * seconds)).outcome == "too late":
                target.unlink()
                seconds = run.seconds  # the machine was busier before
            print(f"{index} {run.kind} {run.number.name} {run.delay:.2f} s: {run.outcome}", file=sys.stderr, flush=True)
            return run

        drawn = [
            ("--jobs 2" if index % 4 == 3 else "bicubic", draw.choice([signal.SIGINT, signal.SIGTERM]), draw.random())
            for index in range(options.signals)
        ]
        with ThreadPoolExecutor(options.at_once) as pool:
            runs = list(pool.map(lambda given: one(given[0], *given[1]), enumerate(drawn)))
    report(runs, undisturbed)


def report(runs: list[Run], undisturbed: dict[str, float]) -> None:
    """Print the table; exit with 1 if there are failures."""
    good = ("130", "done", "interpreter", "interpreter, traceback")
    print(f"| run | undisturbed | signals | {' | '.join(good)} | wrong | longest end |")
    print("|" + "---|" * (len(good) + 5))
    for kind, seconds in undisturbed.items():
        for number in (signal.SIGINT, signal.SIGTERM):
            these = [run for run in runs if (run.kind, run.number) == (kind, number)]
            counts = Counter(run.outcome for run in these)
            wrong = len(these) - sum(counts[outcome] for outcome in good)
            cells = " | ".join(str(counts[outcome]) for outcome in good)
            longest = max((run.seconds for run in these), default=0.0)
            print(f"| {kind}, {number.name} | {seconds:.1f} s | {len(these)} | {cells} | {wrong} | {longest:.1f} s |")
    bad = [run for run in runs if run.outcome not in good]
    for run in bad:
        print(f"{run.kind}, {run.number.name} after {run.delay:.3f} s: {run.outcome}")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
