"""Find, query and run the ffmpeg program without deadlocks or silent failures.

Commands are built with ffmpeg-python; they run without a shell and with ``-nostdin``, so that a surrounding shell loop
keeps its input. Standard error, the only pipe, is drained into a bounded tail, which goes into the error.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import subprocess
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import ffmpeg

from vsr.errors import FFmpegError, UsageError
from vsr.signals import shielded, signals_held_back

logger = logging.getLogger(__name__)

TAIL_LINES = 20

VARIABLE = "VSR_FFMPEG"
"""The environment variable with the path of the user's own program."""

OLDEST, OLDEST_NAME = (63, 0), "9.0"
"""The oldest supported version of libavformat and of its ffmpeg, on which the tests were run. Older programs silently
lose rotation in Matroska and cut sound wrongly (5.1), or shift a whole Matroska file by AAC's priming (7.1)."""

WRITE_ERRORS = (
    "Error writing trailer", "Error closing file", "Error muxing", "Error submitting a packet to the muxer",
    "av_interleaved_write_frame",
)  # fmt: skip
"""Messages of the program about an incomplete file, after which it may still exit with 0."""

DISK_ERRORS = tuple(
    os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
)  # fmt: skip
"""Reasons of the system for which no file at all can be written."""


class DiskError(FFmpegError):
    """The disk is full or read-only; the content of the output is not the cause."""


@dataclass(frozen=True)
class Program:
    """An ffmpeg program.

    Attributes:
        path: the path of the executable.
        version: the version that the program reports.
        libavformat: the major and minor version of its libavformat.
    """

    path: str
    version: str
    libavformat: tuple[int, int]

    def __str__(self) -> str:
        return f"ffmpeg {self.version} ({self.path})"


def find_program() -> str:
    """Return the path of ``ffmpeg_program``."""
    return ffmpeg_program().path


@lru_cache(maxsize=1)
def ffmpeg_program() -> Program:
    """Return the program named by ``VSR_FFMPEG``, else the one bundled with imageio-ffmpeg, else the one on PATH.

    Raises:
        FFmpegError: there is no program, it does not start, or it is too old.
    """
    named = os.environ.get(VARIABLE)
    path = shutil.which(named) if named else bundled_program() or shutil.which("ffmpeg")
    if path is None:
        raise FFmpegError(
            f"{VARIABLE} is set to {named}, which is not a program; correct or unset it." if named else
            "no ffmpeg program: imageio-ffmpeg has none for this system, and none is on PATH; install ffmpeg."
        )  # fmt: skip
    program = _identify(path)
    if program.libavformat < OLDEST:
        instead = f"unset {VARIABLE}" if named and bundled_program() else f"set {VARIABLE} to a newer one"
        raise FFmpegError(f"{program} is older than {OLDEST_NAME} and would lose parts of clips: {instead}.")
    logger.info("using %s.", program)
    return program


def _identify(path: str) -> Program:
    output = _ask(path, "-version")
    version = re.search(r"^ffmpeg version (\S+)", output)
    library = re.search(r"^libavformat +(\d+)\. *(\d+)", output, re.MULTILINE)
    if version is None or library is None:
        raise FFmpegError(f"{path} is not an ffmpeg program: it does not print a version.")
    return Program(path, version[1], (int(library[1]), int(library[2])))


def bundled_program() -> str | None:
    """Return the path of the ffmpeg in imageio-ffmpeg; None where it has none for this system."""
    # imageio-ffmpeg's own search would continue on PATH.
    folder = resources.files("imageio_ffmpeg") / "binaries"
    found = sorted(str(path) for path in folder.iterdir() if path.name.startswith("ffmpeg-")) if folder.is_dir() else []
    return found[-1] if found else None


def check_names(*paths: Path) -> None:
    """Check that file names can be passed to the program.

    Raises:
        UsageError: a name is not valid UTF-8.
    """
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError as exc:
            raise UsageError(f"the name {str(path)!r} is not valid UTF-8, which ffmpeg needs; rename it.") from exc


def run(output: ffmpeg.nodes.OutputStream) -> None:
    """Run a command that was built with ffmpeg-python, and wait until it ends.

    On any exception, Ctrl-C included, the child is killed and reaped before the exception is passed on. A program that
    reports an error in writing its output has failed, whatever its exit code.

    Raises:
        DiskError: the disk is full or read-only.
        FFmpegError: the program cannot be started, or fails; the message contains the end of its error output.
    """
    arguments = ffmpeg.compile(output.global_args("-nostdin", "-hide_banner", "-loglevel", "error"), find_program())
    child: subprocess.Popen[bytes] | None = None
    try:
        with signals_held_back():  # until the child has an owner
            child = _start(arguments)
        assert child.stderr is not None
        tail = deque(child.stderr, TAIL_LINES)
        code = child.wait()
    finally:
        if child is not None:
            _end(child)
    errors = "; ".join(line.decode("utf-8", "replace").strip() for line in tail)
    if code == 0 and not any(message in errors for message in WRITE_ERRORS):
        if errors:
            logger.info("ffmpeg: %s", errors)
        return
    # The parts of the program word this differently, but all contain the system's reason.
    if reason := next((message for message in DISK_ERRORS if message in errors), None):
        raise DiskError(f"ffmpeg failed: {reason}")
    raise FFmpegError(f"ffmpeg failed{f' with code {code}' if code else ''}: {errors or 'it gave no reason'}")


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as exc:
        raise FFmpegError(f"cannot start {arguments[0]}: {exc.strerror}") from exc


@shielded
def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child that has not ended, and reap it."""
    with child:
        child.kill()


def encoder_options(encoder: str) -> frozenset[str]:
    """Return the private options of an encoder, as the program lists them; empty for an unknown encoder."""
    listing = _ask(find_program(), "-h", f"encoder={encoder}")
    return frozenset(re.findall(r"^  -([\w-]+) +<", listing, re.MULTILINE))


def has_option(name: str) -> bool:
    """Whether the program has an option; options of encoders and muxers do not count."""
    return f"-{name}[" in _ask(find_program(), "-h", "long")


def audio_encoders() -> dict[str, str]:
    """Return the program's audio encoders and the format that each produces, by libav's names."""
    listed = re.findall(r"^ A\S{5} (\S+) .*?(?:\(codec (\w+)\))?$", _ask(find_program(), "-encoders"), re.MULTILINE)
    return {name: codec or name for name, codec in listed}


@lru_cache(maxsize=16)
def _ask(program: str, *arguments: str) -> str:
    """Return what the program prints for the arguments."""
    command = [program, "-nostdin", "-hide_banner", *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as exc:
        raise FFmpegError(f"cannot start {program}: {exc.strerror}") from exc
    return done.stdout.decode("utf-8", "replace")
