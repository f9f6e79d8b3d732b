"""Compare a local Ray cluster of one worker, of two, and of two with one lost, with a job without a cluster.

    python benchmarks/cluster.py CLIP [--model video-x4] [--seconds 24] [--rate 4]

CLIP is looped at 160x90 with ``--rate`` frames a second, so that computing dominates and there are several segments.
Each cluster has a head without a CPU and nodes of one CPU; the command runs in a process of its own. A node is removed
when two segments are finished. Times are those of the job, with the start of the actors, without that of Python. On a
machine of fewer than three cores two workers share them with the head.

The exit code is 1 if an output differs or a process is left.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ffmpeg
import ray
from interruptions import decoded
from ray.cluster_utils import Cluster

from vsr.media.ffmpeg import run

KEYFRAME_SECONDS, FINISHED, ENDING_SECONDS = 4, 2, 20
"""Keyframe interval, where segments are cut; finished segments when a node is removed; time limit for Ray to end."""


def make_clip(source: Path, target: Path, seconds: float, rate: int) -> None:
    """Write the source clip: CLIP at 160x90 and a low frame rate."""
    sized = ffmpeg.input(str(source), stream_loop=-1).video.filter("fps", rate).filter("scale", 160, 90)
    options = {"t": seconds, "g": KEYFRAME_SECONDS * rate, "sc_threshold": 0, "pix_fmt": "yuv420p"}
    run(ffmpeg.output(sized, str(target), **options).overwrite_output())


def upscale(source: Path, target: Path, arguments: Sequence[str], lose: Callable[[], None] | None) -> dict[str, Any]:
    """Run the command, and call ``lose`` when ``FINISHED`` segments are done.

    Returns:
        The summary of the job.
    """
    command = [sys.executable, "-m", "vsr", "upscale", str(source), "-o", str(target), "--json", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        finished = target.with_name(f"{target.name}.vsr-job")
        while lose is not None and child.poll() is None:
            if len(list(finished.glob("[0-9]*"))) >= FINISHED:
                lose()
                break
            time.sleep(0.05)
        output, errors = child.communicate()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {child.returncode}: {errors}")
    for line in errors.splitlines():
        if line.startswith(("warning: ", "vsr: ")):  # the other lines are events, and messages of Ray
            print(f"  stderr: {line}")
    summary: dict[str, Any] = json.loads(output)
    return summary


def on_cluster(source: Path, target: Path, arguments: Sequence[str], nodes: int, lost: bool) -> dict[str, Any]:
    """Run the command on a new cluster."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        workers = [cluster.add_node(num_cpus=1) for _ in range(nodes)]
        cluster.wait_for_nodes()

        def lose() -> None:
            cluster.remove_node(workers[-1], allow_graceful=False)

        return upscale(source, target, [*arguments, "--cluster", cluster.address], lose if lost else None)
    finally:
        cluster.shutdown()


def ray_processes() -> set[int]:
    """Return the ids of all processes of Ray on this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::") or any(name in words for name in (b"raylet/raylet", b"gcs_server")):
            found.add(int(path.name))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", default="video-x4")
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--rate", type=int, default=4)
    options = parser.parse_args()
    before, seconds, wrong = ray_processes(), {}, []
    arguments = ["--model", options.model, "--device", "cpu", "--preset", "ultrafast"]
    print(f"Ray {ray.__version__}\n")
    print("| where | segments | s | frames/s | output |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        source, reference = Path(folder) / "source.mp4", Path(folder) / "reference.mp4"
        make_clip(options.clip, source, options.seconds, options.rate)
        for name, nodes, lost in (
            ("in this process", 0, False), ("one worker", 1, False), ("two workers", 2, False),
            ("two, one of them lost", 2, True),
        ):  # fmt: skip
            target = reference.with_stem(name.replace(" ", "-")) if nodes else reference
            if nodes:
                summary = on_cluster(source, target, arguments, nodes, lost)
            else:
                summary = upscale(source, target, arguments, None)
            same = "same" if decoded(target) == decoded(reference) else "DIFFERS"
            wrong += [name] if same != "same" else []
            frames, seconds[name] = summary["frames"], summary["seconds"]
            rate = frames / seconds[name]
            print(f"| {name} | {summary['segments']} | {seconds[name]:.1f} | {rate:.2f} | {same} |", flush=True)
    until = time.monotonic() + ENDING_SECONDS
    while (left := ray_processes() - before) and time.monotonic() < until:
        time.sleep(0.2)
    print(f"\none worker takes {seconds['one worker'] / seconds['two workers']:.2f} times as long as two; "
          f"{len(left)} processes of Ray are left")  # fmt: skip
    raise SystemExit(bool(wrong or left))


if __name__ == "__main__":
    main()
