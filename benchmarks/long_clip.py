"""Measure how memory and planning grow with the length of a clip, and what repeated frames save.

    python benchmarks/long_clip.py CLIP [--minutes 10] [--stills] [--rounds 3]

CLIP is looped at 640x360 and upscaled by bicubic. The resident memory of the command and all its children is read each
second and shown at every tenth of the run; the ratio is that of the maximum in the second half to the maximum from 10
to 50 %. Planning is the pass over the packets, measured alone in a process of its own.

``--stills`` writes sixteen frames of CLIP at 160x90, once each and eight times each, upscales the two clips
alternately by ``video-x4``, and compares frames per second, without the start of Python.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import av
import ffmpeg

from vsr.media.ffmpeg import run

FAST = ["--preset", "ultrafast", "--device", "cpu", "--json", "-q", "--overwrite"]
FRAMES, TIMES = 16, 8
"""Number of different frames in the clip of stills, and of repetitions of each."""

PLANNING = """
import sys, time
from pathlib import Path
from vsr.media.probe import index_packets
from vsr.media.probe import probe
clip = probe(Path(sys.argv[1]))
started = time.perf_counter()
index = index_packets(clip.path, clip.video)
print(time.perf_counter() - started, index.num_frames)
"""


def resident_mib(process: int) -> float:
    """Return the resident memory of a process and its descendants in MiB; shared memory counts for each."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    kib = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return kib / 1024 + sum(resident_mib(int(child)) for child in children)


def upscale(source: Path, target: Path, arguments: Sequence[str]) -> tuple[dict[str, Any], list[float]]:
    """Run the command.

    Returns:
        The summary of the job, and the resident memory in MiB at each second.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    command = [sys.executable, "-m", "vsr", "upscale", str(source), "-o", str(target), *arguments, *FAST]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        samples, next_second = [], time.monotonic()
        while child.poll() is None:
            if time.monotonic() >= next_second:
                samples.append(resident_mib(child.pid))
                next_second += 1
            time.sleep(0.02)
        output = child.stdout.read()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return json.loads(output), samples


def long(clip: Path, folder: Path, minutes: float) -> None:
    """Upscale a long clip and print memory and times."""
    source = folder / "long.mp4"
    sized = ffmpeg.input(str(clip), stream_loop=-1).video.filter("scale", 640, 360)
    run(ffmpeg.output(sized, str(source), t=60 * minutes, preset="veryfast").overwrite_output())
    planning = subprocess.run([sys.executable, "-c", PLANNING, str(source)], capture_output=True, text=True, check=True)
    plan_seconds, frames = planning.stdout.split()
    summary, samples = upscale(source, folder / "out.mp4", ["--model", "bicubic", "--scale", "2"])
    print("| part of the run | resident memory, MiB |\n|---|---|")
    for tenth in range(1, 11):
        print(f"| {tenth * 10} % | {samples[max(0, tenth * len(samples) // 10 - 1)]:.0f} |")
    tenth, half = len(samples) // 10, len(samples) // 2
    early, late = max(samples[tenth:half]), max(samples[half:])
    seconds = summary["seconds"]
    print(f"\nmost memory: {early:.0f} MiB from 10 to 50 %, {late:.0f} MiB after; ratio {late / early:.3f}")
    print(f"{summary['frames']} of {frames} frames in {seconds:.1f} s, {summary['frames'] / seconds:.1f} frames/s; "
          f"planning {float(plan_seconds):.2f} s, {100 * float(plan_seconds) / seconds:.2f} % of it")  # fmt: skip


def write_frames(clip: Path, target: Path, times: int) -> None:
    """Write the first frames of a clip at 160x90, each ``times`` times, without loss."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as written:
        video = written.add_stream("libx264", rate=25, options={"crf": "0", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 160, 90, "yuv420p"
        for number, frame in enumerate(islice(source.decode(video=0), FRAMES)):
            small = frame.reformat(160, 90, "yuv420p")
            small.time_base = Fraction(1, 25)
            for small.pts in range(number * times, (number + 1) * times):
                written.mux(video.encode(small))
        written.mux(video.encode(None))
    with av.open(str(target)) as back:
        frames = [frame.to_ndarray().tobytes() for frame in back.decode(video=0)]
    runs = [set(frames[first : first + times]) for first in range(0, len(frames), times)]
    if len(frames) != FRAMES * times or any(len(run) > 1 for run in runs) or len(set(frames)) != FRAMES:
        raise SystemExit(f"{target} does not hold {FRAMES} different frames, each {times} times")


def stills(clip: Path, folder: Path, rounds: int) -> None:
    """Upscale a clip with and without repeated frames in turn, and print the speed of both."""
    speeds: dict[int, list[float]] = {1: [], TIMES: []}
    for times in speeds:
        write_frames(clip, folder / f"{times}.mp4", times)
    repeated = {}
    for _ in range(rounds):
        for times, measured in speeds.items():
            summary, _ = upscale(folder / f"{times}.mp4", folder / f"out-{times}.mp4", ["--model", "video-x4"])
            measured.append(summary["frames"] / summary["seconds"])
            repeated[times] = f"{summary['frames']} | {summary['repeated']}"
    print("| each frame repeats | frames | repeated | frames/s |\n|---|---|---|---|")
    for times, measured in speeds.items():
        print(f"| {times} | {repeated[times]} | {median(measured):.2f} |")
    ratio = median(late / early for early, late in zip(speeds[1], speeds[TIMES], strict=True))
    print(f"\nratio within a round, median of {rounds}: {ratio:.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--stills", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="long-clip-") as folder:
        if options.stills:
            stills(options.clip, Path(folder), options.rounds)
        else:
            long(options.clip, Path(folder), options.minutes)


if __name__ == "__main__":
    main()
