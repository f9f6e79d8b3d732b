"""VMAF by the ffmpeg program's libvmaf, of frames that are already paired.

Li et al., "Toward a practical perceptual video quality metric", Netflix, 2016; https://github.com/Netflix/vmaf.

ffmpeg pairs two inputs by their timestamps and, where one has no frame, repeats another in silence. Here it cannot:
both frames of a pair travel in one picture, one above the other, through one pipe, and are cut apart behind it. A pipe
holds no more than ffmpeg has not yet taken, so neither memory nor disk grows with the clip.
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

from vsr.errors import FFmpegError
from vsr.media.clip import Plane
from vsr.media.ffmpeg import TAIL_LINES, bundled_program, find_program

DEPTHS = (8, 10, 12, 16)
"""Bits of a sample that libvmaf takes."""

MIN_SIZE = 32
"""Pixels along an edge: below 17, libvmaf crashes (seen with version 86da14d)."""

MAX_THREADS = 8

NO_VMAF = "--no-vmaf leaves VMAF out"


@lru_cache(maxsize=1)
def find_program_with_vmaf() -> str:
    """The ffmpeg program; where that lacks libvmaf, the one that imageio-ffmpeg carries.

    Raises:
        FFmpegError: it is missing, cannot be started, or both were built without.
    """
    program = find_program()
    found = next((each for each in (program, bundled_program()) if each is not None and _has_vmaf(each)), None)
    if found is None:
        raise FFmpegError(
            f"{program} is built without libvmaf; {NO_VMAF}, and an ffmpeg with it, first on PATH, measures it."
        )
    return found


def _has_vmaf(program: str) -> bool:
    try:
        asked = subprocess.run(
            [program, "-nostdin", "-hide_banner", "-filters"], stdin=subprocess.DEVNULL, capture_output=True
        )
    except OSError as exc:
        raise FFmpegError(f"cannot start {program}: {exc.strerror}; {NO_VMAF}.") from exc
    return b" libvmaf " in asked.stdout


class VmafScorer:
    """One run of libvmaf over pairs of frames.

    Use as a context manager: leaving it ends the program, whatever happened, and removes its log. Only luma takes part
    in the score; the chroma that libvmaf's formats ask for is neutral.

    Args:
        width: columns of all frames, at least ``MIN_SIZE``.
        height: rows of all frames, at least ``MIN_SIZE``.
        bit_depth: of the planes, one of ``DEPTHS``.
        model: libvmaf's name of a built-in model.

    Raises:
        FFmpegError: no ffmpeg program with libvmaf.
        ValueError: a size or a depth that libvmaf cannot take.
    """

    def __init__(self, width: int, height: int, bit_depth: int, model: str) -> None:
        if min(width, height) < MIN_SIZE or bit_depth not in DEPTHS:
            raise ValueError(f"libvmaf takes no {width}x{height} of {bit_depth} bits")
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
            raise FFmpegError(f"cannot start {program}: {exc.strerror}; {NO_VMAF}.") from exc
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._drain = threading.Thread(target=self._read_errors, name="vsr-vmaf-errors", daemon=True)
        self._drain.start()

    def add(self, reference: Plane, output: Plane) -> None:
        """Hand over a pair: (H, W) luma of limited range, in code values of the bit depth.

        Raises:
            FFmpegError: the program has ended early.
            ValueError: another shape.
        """
        for half, plane in zip(self._luma, (reference, output), strict=True):
            if plane.shape != self._shape:
                raise ValueError(f"expected a plane of {self._shape} (rows, columns), got {plane.shape}")
            half[: plane.shape[0]] = plane
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(self._luma.data)
            self._child.stdin.write(self._chroma)
        except OSError as exc:  # it does not listen any more
            raise self._failure() from exc
        self.num_pairs += 1

    def finish(self) -> list[float]:
        """The scores, one for each pair in order, 0..100.

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
            raise FFmpegError(f"ffmpeg left no log of VMAF that can be read; {NO_VMAF}.") from exc
        if sorted(scores) != list(range(self.num_pairs)):
            raise FFmpegError(f"libvmaf scored {len(scores)} of {self.num_pairs} frames; {NO_VMAF}.")
        return [scores[number] for number in range(self.num_pairs)]

    def _read_errors(self) -> None:
        assert self._child.stderr is not None
        self._tail.extend(self._child.stderr)

    def _failure(self) -> FFmpegError:
        code = self._child.wait()
        self._drain.join()
        said = "; ".join(line.decode("utf-8", "replace").strip() for line in self._tail) or "it gave no reason"
        return FFmpegError(f"VMAF failed, ffmpeg ended with code {code}: {said}; {NO_VMAF}.")

    def __enter__(self) -> VmafScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()  # has ended already where all went well
        self._child.wait()
        self._drain.join()
        for pipe in (self._child.stdin, self._child.stderr):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # flushes what nobody reads any more
                pass
        self._folder.cleanup()


def _command(
    program: str, stacked: tuple[int, ...], shape: tuple[int, int], bit_depth: int, model: str
) -> Sequence[str]:
    """Arguments of ffmpeg: one raw stream of stacked pictures in, the log ``vmaf.json`` in its folder out."""
    (_, rows, width), (height, _) = stacked, shape
    # Grey would fit better, but ffmpeg takes it for full range and converts it on the way to libvmaf.
    pixel_format = "yuv420p" if bit_depth == 8 else f"yuv420p{bit_depth}le"
    halves = ffmpeg.input(
        "pipe:0", format="rawvideo", pixel_format=pixel_format, video_size=(width, 2 * rows), framerate=25
    ).split()
    # exact: odd sizes are not rounded to those of chroma.
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
    """As libvmaf pools: of each score plus 1, less 1; a few bad frames weigh more than in the mean."""
    return len(scores) / sum(1 / (score + 1) for score in scores) - 1
