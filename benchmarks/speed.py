"""Speed and memory on this machine: the bare network, the whole command, and the plain loop, alternated in one run.

    python benchmarks/speed.py [--model srresnet-x4] [--rounds 3] [--frames 24]

For each size, every round runs the three one after the other, each in a process of its own, so that a drift of the
machine meets all of them. Figures are medians over the rounds; ratios are taken within a round. The share of peak sets
the network's multiply-adds against the rate of a large float32 matrix product measured in the same round.
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
import torch

import vsr
from vsr.inference.engine import Engine
from vsr.media.ffmpeg import run
from vsr.networks.srgan import Generator
from vsr.networks.weights import load_network

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
    clip = ffmpeg.input(str(HERE.parent / "examples" / "clip.mp4"))
    sized = clip.video.filter("scale", width, height, flags="bicubic")
    run(ffmpeg.output(sized, str(target), vframes=frames, crf=16).overwrite_output())


def best_seconds(work: object, repeats: int = 3) -> float:
    """The shortest of some runs of a function, after one to warm up."""
    assert callable(work)
    work()
    times = []
    for _ in range(repeats):
        started = time.monotonic()
        work()
        times.append(time.monotonic() - started)
    return min(times)


def matrix_rate() -> float:
    """Floating-point operations a second of a 2048 x 2048 float32 matrix product."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / best_seconds(lambda: left @ right, 5)


def operations(network: Generator, width: int, height: int) -> float:
    """Floating-point operations of one frame: two for each multiply-add of each convolution."""
    counted = 0

    def count(layer: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * output.numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        network(torch.zeros(1, 3, 8, 8))
    for hook in hooks:
        hook.remove()
    return counted / 64 * width * height


def print_bare(model: str, width: int, height: int) -> None:
    """In a process of its own: frames a second of the bare network, and its share of the matrix product's rate."""
    network = load_network(model)
    assert isinstance(network, Generator)
    cost = operations(network, width, height)
    engine: Engine = vsr.Engine(network, device="cpu")
    lr = torch.rand(1, 3, height, width)
    seconds = best_seconds(lambda: engine(lr))
    print(f"{1 / seconds} {cost / seconds / matrix_rate()}")


def main() -> None:
    """Print a table with a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="srresnet-x4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--bare", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print_bare(options.model, *options.bare)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    print("size      frames | bare network: fps, share of peak | vsr upscale: fps, MiB | plain loop: fps, MiB | ratio")
    for width, height in SIZES:
        frames = options.frames if width == SIZES[0][0] else options.frames // 2
        with tempfile.TemporaryDirectory() as folder:
            clip, ours, theirs = (Path(folder) / name for name in ("lr.mp4", "vsr.mp4", "loop.mp4"))
            cut_clip(clip, width, height, frames)
            bare_fps, shares, vsr_runs, loop_runs = [], [], [], []
            for _ in range(options.rounds):
                bare = [sys.executable, __file__, "--model", options.model, "--bare", str(width), str(height)]
                fps, share = subprocess.run(bare, check=True, capture_output=True, text=True).stdout.split()
                bare_fps.append(float(fps)), shares.append(float(share))
                command = ["upscale", str(clip), "-o", str(ours), "--model", options.model, "--overwrite", "-q"]
                vsr_runs.append(run_process([sys.executable, "-m", "vsr", *command]))
                loop = [sys.executable, str(HERE / "plain_loop.py"), str(clip), str(theirs), options.model]
                loop_runs.append(run_process(loop))
        ratio = median(theirs.seconds / ours.seconds for ours, theirs in zip(vsr_runs, loop_runs, strict=True))
        print(
            f"{width}x{height:<5} {frames:6} | {median(bare_fps):6.2f}, {median(shares):4.2f} | "
            f"{frames / median(r.seconds for r in vsr_runs):6.2f}, {max(r.peak_mib for r in vsr_runs):5.0f} | "
            f"{frames / median(r.seconds for r in loop_runs):6.2f}, {max(r.peak_mib for r in loop_runs):5.0f} | "
            f"{ratio:4.2f}"
        )


if __name__ == "__main__":
    main()
