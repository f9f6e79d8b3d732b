"""A second opinion on files: the ffmpeg program, which shares neither PyAV nor vsr's reader with what is tested."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vsr.media.ffmpeg import find_program

Listing = list[tuple[int, int, str]]


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., str]:
    """Runs the ffmpeg program and returns what it wrote to its standard output."""

    def run(*arguments: str | Path) -> str:
        command = [find_program(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def frame_listing(ffmpeg: Callable[..., str]) -> Callable[..., Listing]:
    """Lists the frames of a stream as the ffmpeg program decodes them: pts, duration, MD5 of the packed planes."""

    def frames(path: Path, index: int, pix_fmt: str) -> Listing:
        rows = ffmpeg(
            "-noautorotate", "-copyts", "-i", f"file:{path}", "-map", f"0:{index}", "-c:v", "rawvideo",
            "-pix_fmt", pix_fmt, "-fps_mode", "passthrough", "-enc_time_base", "demux", "-f", "framehash",
            "-hash", "md5", "-",
        )  # fmt: skip
        fields = [row.replace(" ", "").split(",") for row in rows.splitlines() if not row.startswith("#")]
        return [(int(pts), int(duration), md5) for _, _, pts, duration, _, md5 in fields]

    return frames
