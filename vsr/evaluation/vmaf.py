"""VMAF of frames that are already paired, by libvmaf in the ffmpeg program.

Li et al., "Toward a practical perceptual video quality metric", Netflix, 2016; https://github.com/Netflix/vmaf.

ffmpeg pairs two inputs by their timestamps and repeats a frame without a warning if one is missing. Here it cannot:
both frames of a pair are sent through one pipe as one picture, one above the other, and ffmpeg separates them. The
pipe is bounded, so neither memory nor disk use grows with the clip.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import ffmpeg
import numpy as np

from vsr.errors import FFmpegError, setting
from vsr.media.clip import Plane
from vsr.media.ffmpeg import TAIL_LINES, bundled_program, find_program

DEPTHS = (8, 10, 12, 16)
"""Bits of a sample that libvmaf accepts."""

MIN_SIZE = 32
"""Pixels along an edge: below 17, libvmaf crashes (seen with version 86da14d)."""

MAX_THREADS = 8


def without_vmaf() -> str:
    """Return the advice for a machine or a clip on which VMAF cannot be measured."""
    return f"{setting('vmaf', False)} leaves VMAF out"


@lru_cache(maxsize=1)
def find_program_with_vmaf() -> str:
    """Return the ffmpeg program, or the one of imageio-ffmpeg if the first lacks libvmaf.

    Raises:
        FFmpegError: it is missing, cannot be started, or both were built without libvmaf.
    """
    program = find_program()
    found = next((each for each in (program, bundled_program()) if each is not None and _has_vmaf(each)), None)
    if found is None:
        raise FFmpegError(
            f"{program} is built without libvmaf; {without_vmaf()}, or VSR_FFMPEG can name an ffmpeg that has it."
        )
    return found


def _has_vmaf(program: str) -> bool:
    try:
        listing = subprocess.run(
            [program, "-nostdin", "-hide_banner", "-filters"], stdin=subprocess.DEVNULL, capture_output=True
        )
    except OSError as exc:
        raise FFmpegError(f"cannot start {program}: {exc.strerror}; {without_vmaf()}.") from exc
    return b" libvmaf " in listing.stdout


class VmafScorer:
    """One run of libvmaf over pairs of frames.

    Use it as a context manager: leaving it always ends the program and removes its log. Only luma counts for the
    score; the chroma that libvmaf's pixel formats need is neutral.

    Args:
        width: columns of all frames, at least ``MIN_SIZE``.
        height: rows of all frames, at least ``MIN_SIZE``.
        bit_depth: bits of the planes, one of ``DEPTHS``.
        model: libvmaf's name of a built-in model.

    Raises:
        FFmpegError: there is no ffmpeg program with libvmaf.
        ValueError: libvmaf does not support the size or the depth.
    """

    def __init__(self, width: int, height: int, bit_depth: int, model: str) -> None:
        if min(width, height) < MIN_SIZE or bit_depth not in DEPTHS:
            raise ValueError(f"libvmaf does not support {width}x{height} of {bit_depth} bits")
        program = find_program_with_vmaf()
        self.num_pairs = 0
        self.version = ""
        self._shape = (height, width)
        rows = height + height % 2  # chroma begins with an even row
        dtype = np.uint8 if bit_depth == 8 else np.dtype("<u2")
        self._luma = np.zeros((2, rows, width), dtype)
        self._chroma = np.full((2, rows, (width + 1) // 2), 1 << (bit_depth - 1), dtype).tobytes()
        self._folder = tempfile.TemporaryDirectory(prefix="vsr-vmaf-")
        try:
            command = _command(program, self._luma.shape, self._shape, bit_depth, model)
            self._child = subprocess.Popen(
                command, cwd=self._folder.name,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
        except OSError as exc:
            self._folder.cleanup()
            raise FFmpegError(f"cannot start {program}: {exc.strerror}; {without_vmaf()}.") from exc
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._drain = threading.Thread(target=self._read_errors, name="vsr-vmaf-errors", daemon=True)
        self._drain.start()

    def add(self, reference: Plane, output: Plane) -> None:
        """Send a pair: (H, W) luma of limited range, in code values of the bit depth.

        Raises:
            FFmpegError: the program has ended early.
            ValueError: a plane has another shape.
        """
        for half, plane in zip(self._luma, (reference, output), strict=True):
            if plane.shape != self._shape:
                raise ValueError(f"expected a plane of {self._shape} (rows, columns), got {plane.shape}")
            half[: plane.shape[0]] = plane
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(self._luma.data)
            self._child.stdin.write(self._chroma)
        except OSError as exc:  # the program has closed the pipe
            raise self._failure() from exc
        self.num_pairs += 1

    def finish(self) -> list[float]:
        """Return the scores, one for each pair in order, 0..100.

        Raises:
            FFmpegError: the program failed, or did not score every pair.
        """
        assert self._child.stdin is not None
        try:
            self._child.stdin.close()
        except OSError as exc:
            raise self._failure() from exc
        if self._child.wait() != 0:
            raise self._failure()
        try:
            log = json.loads((Path(self._folder.name) / "vmaf.json").read_bytes())
            scores = {frame["frameNum"]: float(frame["metrics"]["vmaf"]) for frame in log["frames"]}
            self.version = str(log["version"])
        except (OSError, ValueError, KeyError) as exc:
            raise FFmpegError(f"ffmpeg wrote no readable log of VMAF; {without_vmaf()}.") from exc
        if sorted(scores) != list(range(self.num_pairs)):
            raise FFmpegError(f"libvmaf scored {len(scores)} of {self.num_pairs} frames; {without_vmaf()}.")
        return [scores[number] for number in range(self.num_pairs)]

    def _read_errors(self) -> None:
        assert self._child.stderr is not None
        self._tail.extend(self._child.stderr)

    def _failure(self) -> FFmpegError:
        code = self._child.wait()
        self._drain.join()
        reason = "; ".join(line.decode("utf-8", "replace").strip() for line in self._tail) or "it gave no reason"
        return FFmpegError(f"VMAF failed, ffmpeg ended with code {code}: {reason}; {without_vmaf()}.")

    def __enter__(self) -> VmafScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()  # it has already ended unless something failed
        self._child.wait()
        self._drain.join()
        for pipe in (self._child.stdin, self._child.stderr):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # closing flushes to a pipe that is no longer read
                pass
        self._folder.cleanup()


def _command(
    program: str, stacked: tuple[int, ...], shape: tuple[int, int], bit_depth: int, model: str
) -> Sequence[str]:
    """Return ffmpeg's arguments: it reads one raw stream of stacked pictures and writes the log ``vmaf.json``."""
    (_, rows, width), (height, _) = stacked, shape
    # Grey would fit better, but ffmpeg treats it as full range and converts it before libvmaf.
    pixel_format = "yuv420p" if bit_depth == 8 else f"yuv420p{bit_depth}le"
    halves = ffmpeg.input(
        "pipe:0", format="rawvideo", pixel_format=pixel_format, video_size=(width, 2 * rows), framerate=25
    ).split()
    # exact: do not round odd sizes to those of chroma.
    reference, output = (
        halves[number].filter("crop", w=width, h=height, x=0, y=number * rows, exact=1) for number in (0, 1)
    )
    scored = ffmpeg.filter(
        [output, reference], "libvmaf",
        log_path="vmaf.json", log_fmt="json", model=f"version={model}", n_threads=min(MAX_THREADS, os.cpu_count() or 1),
    )  # fmt: skip
    written = scored.output("-", format="null").global_args("-nostdin", "-hide_banner", "-loglevel", "error")
    arguments: list[str] = ffmpeg.compile(written, program)
    return arguments


def harmonic_mean(scores: Sequence[float]) -> float:
    """Return the harmonic mean of the scores plus 1, minus 1, as libvmaf pools: bad frames weigh more."""
    return len(scores) / sum(1 / (score + 1) for score in scores) - 1
