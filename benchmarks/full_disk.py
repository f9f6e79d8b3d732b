"""Run jobs on disks that fill up near their end: is the output of exit code 0 always complete?

    python benchmarks/full_disk.py [--sizes 24] [--endings .mp4 .mov .mkv .ts .avi] [--program FFMPEG]

A clip of 30 seconds and 64x48 pixels with sound is upscaled onto a tmpfs (needs root). The sizes are between that of
the segments and that of the whole job, so that the disk fills while segments are written, while they are joined,
while the output is assembled, and while its last block is closed. ``--program`` selects another ffmpeg than the one
bundled with vsr. Each output is decoded by the bundled one and its packets are counted.

The exit code is 1 if a job ended with 0 and its output is incomplete, or with another code and no sentence, or left an
incomplete output under its final name.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vsr.errors import VsrError
from vsr.media.ffmpeg import bundled_program
from vsr.media.mux import Count, count_packets

SECONDS, RATE = 30, 25


@dataclass(frozen=True)
class Ending:
    """How one job ended.

    Attributes:
        size: size of the disk in bytes.
        code: exit code.
        message: the last line on stderr.
        whole: whether the output is complete; None if there is none.
    """

    size: int
    code: int
    message: str
    whole: bool | None

    @property
    def is_wrong(self) -> bool:
        """Whether exit code, message and output contradict each other."""
        if self.code == 0:
            return self.whole is not True
        return self.whole is False or self.code != 1 or not self.message.startswith("error: ")


def make_clip(path: Path) -> Path:
    """Write the source clip."""
    picture, tone = f"testsrc2=s=64x48:r={RATE}:d={SECONDS}", f"sine=r=48000:d={SECONDS}"
    words = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone, "-c:v", "libx264", "-g", "50", "-c:a", "aac"]
    subprocess.run([bundled_program() or "", "-v", "error", "-y", *words, "-pix_fmt", "yuv420p", path], check=True)
    return path


def upscale(clip: Path, target: Path, program: str | None) -> tuple[int, str]:
    """Run the command; returns its exit code and the last line of stderr."""
    command = [sys.executable, "-m", "vsr", "upscale", clip, "-o", target, "--model", "bicubic", "--scale", "2"]
    environment = os.environ | ({"VSR_FFMPEG": program} if program else {})
    done = subprocess.run([*map(str, command), "-q"], env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def is_whole(target: Path, wanted: list[Count]) -> bool:
    """Whether every frame decodes and no packet of sound is missing."""
    try:
        found = count_packets(target)
    except VsrError:
        return False
    words = ["-v", "error", "-xerror", "-i", f"file:{target}", "-f", "null", "-"]
    decoded = subprocess.run([bundled_program() or "", "-nostdin", *words], capture_output=True)
    return decoded.returncode == 0 and [count.packets for count in found] == [count.packets for count in wanted]


def run(clip: Path, disk: Path, name: str, size: int, wanted: list[Count], program: str | None) -> Ending:
    """Run one job on a disk of a given size."""
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        code, message = upscale(clip, disk / name, program)
        whole = is_whole(disk / name, wanted) if (disk / name).exists() else None
        return Ending(size, code, message, whole)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def main() -> None:
    """Print a row for each file ending, and all that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, default=24)
    parser.add_argument("--endings", nargs="+", default=[".mp4", ".mov", ".mkv", ".ts", ".avi"])
    parser.add_argument("--program")
    options = parser.parse_args()
    wrong: list[str] = []
    print("| output | bytes of the disks | done | refused in a sentence | wrong |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="full-disk-") as name:
        folder = Path(name)
        clip = make_clip(folder / "clip.mp4")
        for ending in options.endings:
            reference = folder / f"reference{ending}"
            if upscale(clip, reference, options.program)[0]:
                raise SystemExit(f"the undisturbed job for {ending} failed")
            output, wanted = reference.stat().st_size, count_packets(reference)
            # Segments, the joined video and the output have about the same size each.
            least, most = output, round(3.5 * output)
            sizes = [least + (most - least) * number // (options.sizes - 1) for number in range(options.sizes)]
            ends = [run(clip, folder / "disk", f"out{ending}", size, wanted, options.program) for size in sizes]
            done = sum(end.code == 0 for end in ends)
            bad = [end for end in ends if end.is_wrong]
            print(f"| {ending} | {least} to {most} | {done} | {len(ends) - done - len(bad)} | {len(bad)} |", flush=True)
            wrong += [f"{ending}: {end}" for end in bad]
    print("\n".join(wrong))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
