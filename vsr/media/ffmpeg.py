"""The ffmpeg program: where it is, and running it so that nothing deadlocks and no failure is silent.

Commands are built with ffmpeg-python; they run without a shell and with ``-nostdin``, so that a surrounding shell loop
keeps its input. Standard error, the only pipe, is drained into a bounded tail, which goes into the error.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections import deque
from functools import lru_cache
from pathlib import Path

import ffmpeg
import imageio_ffmpeg

from vsr.errors import FFmpegError, UsageError
from vsr.signals import shielded, signals_held_back

TAIL_LINES = 20


@lru_cache(maxsize=1)
def find_program() -> str:
    """The ffmpeg on PATH, else the one that imageio-ffmpeg carries.

    Raises:
        FFmpegError: there is none.
    """
    found = shutil.which("ffmpeg") or carried_program()
    if found is None:
        raise FFmpegError(
            "no ffmpeg program: it is not on PATH, and imageio-ffmpeg has none for this system. Install ffmpeg."
        )
    return found


def carried_program() -> str | None:
    """The ffmpeg that imageio-ffmpeg carries; None where it has none for this system."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return None


def check_names(*paths: Path) -> None:
    """See by their names that files can be handed to the program.

    Raises:
        UsageError: a name is no valid UTF-8.
    """
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError as exc:
            raise UsageError(f"the name {str(path)!r} is no valid UTF-8, which ffmpeg needs; rename it first.") from exc


def run(output: ffmpeg.nodes.OutputStream) -> None:
    """Run a command that was built with ffmpeg-python, to its end.

    On any exception, Ctrl-C included, the child is killed and reaped before the exception goes on.

    Raises:
        FFmpegError: the program cannot be started, or fails; the message holds its last words.
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
    if code != 0:
        said = "; ".join(line.decode("utf-8", "replace").strip() for line in tail) or "it gave no reason"
        if (full := os.strerror(errno.ENOSPC)) in said:  # each of its parts says so in its own words
            raise FFmpegError(f"ffmpeg failed: {full}")
        raise FFmpegError(f"ffmpeg failed with code {code}: {said}")


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
    """The options that an encoder has of its own, as the program lists them; empty where it does not know it."""
    listing = _answer("-h", f"encoder={encoder}")
    return frozenset(re.findall(r"^  -([\w-]+) +<", listing, re.MULTILINE))


def has_option(name: str) -> bool:
    """Whether the program knows an option of its own; those of encoders and muxers are not among them."""
    return f"-{name}[" in _answer("-h", "long")


@lru_cache(maxsize=8)
def _answer(*arguments: str) -> str:
    command = [find_program(), "-nostdin", "-hide_banner", *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as exc:
        raise FFmpegError(f"cannot start {command[0]}: {exc.strerror}") from exc
    return done.stdout.decode("utf-8", "replace")
