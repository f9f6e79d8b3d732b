"""Jobs on disks that fill around their end: is what ends with exit code 0 whole?

    python benchmarks/full_disk.py [--sizes 24] [--endings .mp4 .mov .mkv .ts .avi] [--program FFMPEG]

A clip of 30 seconds and 64x48 pixels with sound is upscaled onto a tmpfs (needs root). The sizes lie between what the
segments take and what the whole job takes, so that the disk fills while segments are written, while they are joined,
while the output is assembled, and while its last block is closed. ``--program`` names another ffmpeg than the one
that vsr carries. Each output is decoded by the carried one and counted.

Exit code 1 where a job ended with 0 and its output is not whole, or with another code and no sentence, or left an
output that is not whole under its name.
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
        size: of the disk in bytes.
        code: exit code.
        said: the last line on stderr.
        whole: the output is there, and all of it; None: it is not there.
    """

    size: int
    code: int
    said: str
    whole: bool | None

    @property
    def is_wrong(self) -> bool:
        """Whether a user is told something that is not so."""
        if self.code == 0:
            return self.whole is not True
        return self.whole is False or self.code != 1 or not self.said.startswith("vsr: ")


def make_clip(path: Path) -> Path:
    """The source."""
    picture, tone = f"testsrc2=s=64x48:r={RATE}:d={SECONDS}", f"sine=r=48000:d={SECONDS}"
    words = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", tone, "-c:v", "libx264", "-g", "50", "-c:a", "aac"]
    subprocess.run([bundled_program() or "", "-v", "error", "-y", *words, "-pix_fmt", "yuv420p", path], check=True)
    return path


def upscale(clip: Path, target: Path, program: str | None) -> tuple[int, str]:
    """Exit code and last line."""
    command = [sys.executable, "-m", "vsr", "upscale", clip, "-o", target, "--model", "bicubic", "--scale", "2"]
    environment = os.environ | ({"VSR_FFMPEG": program} if program else {})
    done = subprocess.run([*map(str, command), "-q"], env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def is_whole(target: Path, wanted: list[Count]) -> bool:
    """Whether every frame decodes, and every packet of sound is there."""
    try:
        found = count_packets(target)
    except VsrError:
        return False
    words = ["-v", "error", "-xerror", "-i", f"file:{target}", "-f", "null", "-"]
    decoded = subprocess.run([bundled_program() or "", "-nostdin", *words], capture_output=True)
    return decoded.returncode == 0 and [count.packets for count in found] == [count.packets for count in wanted]


def run(clip: Path, disk: Path, name: str, size: int, wanted: list[Count], program: str | None) -> Ending:
    """One job on a disk of a size."""
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        code, said = upscale(clip, disk / name, program)
        whole = is_whole(disk / name, wanted) if (disk / name).exists() else None
        return Ending(size, code, said, whole)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def main() -> None:
    """A row for each ending, and all that is wrong."""
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
            # Segments and the joined video take about as much as the output each; then comes the output itself.
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
