"""The ffmpeg program: where it is, and running it so that nothing deadlocks and no failure is silent.

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
"""The environment variable that names a program of the user's own."""

OLDEST, OLDEST_NAME = (63, 0), "9.0"
"""The version of libavformat, and of the ffmpeg that has it, on which the suite was run. Older programs lose rotation
in Matroska and cut sound wrongly (seen with 5.1), or move all of a Matroska file by what primes AAC (7.1), silently."""

WRITE_ERRORS = (
    "Error writing trailer", "Error closing file", "Error muxing", "Error submitting a packet to the muxer",
    "av_interleaved_write_frame",
)  # fmt: skip
"""Words of the program about a file that is not whole, after which it may still exit with 0."""

DISK_ERRORS = tuple(
    os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
)  # fmt: skip
"""Reasons for which nothing can be written, whatever is written."""


class DiskError(FFmpegError):
    """The disk takes no more; nothing is wrong with what was to be written."""


@dataclass(frozen=True)
class Program:
    """An ffmpeg program.

    Attributes:
        path: of the executable.
        version: as it says itself.
        libavformat: version of its library of formats; (0, 0) where it does not say.
    """

    path: str
    version: str
    libavformat: tuple[int, int]

    def __str__(self) -> str:
        return f"ffmpeg {self.version} ({self.path})"


def find_program() -> str:
    """The path of ``ffmpeg_program``."""
    return ffmpeg_program().path


@lru_cache(maxsize=1)
def ffmpeg_program() -> Program:
    """The program that ``VSR_FFMPEG`` names, else the one that imageio-ffmpeg carries, else the one on PATH.

    Raises:
        FFmpegError: there is none, it does not start, or it is too old.
    """
    named = os.environ.get(VARIABLE)
    path = shutil.which(named) if named else bundled_program() or shutil.which("ffmpeg")
    if path is None:
        raise FFmpegError(
            f"{VARIABLE} names {named}, which is no program; correct or unset it." if named else
            "no ffmpeg program: imageio-ffmpeg carries none for this system, and none is on PATH. Install ffmpeg."
        )  # fmt: skip
    program = _identify(path)
    if program.libavformat < OLDEST:
        instead = f"unset {VARIABLE}" if named and bundled_program() else f"name a newer one by {VARIABLE}"
        raise FFmpegError(f"{program} is older than {OLDEST_NAME} and would lose parts of clips: {instead}.")
    logger.info("%s writes the files.", program)
    return program


def _identify(path: str) -> Program:
    said = _ask(path, "-version")
    version = re.search(r"^ffmpeg version (\S+)", said)
    library = re.search(r"^libavformat +(\d+)\. *(\d+)", said, re.MULTILINE)
    if version is None or library is None:
        raise FFmpegError(f"{path} is no ffmpeg program: asked for its version, it does not tell one.")
    return Program(path, version[1], (int(library[1]), int(library[2])))


def bundled_program() -> str | None:
    """The ffmpeg that imageio-ffmpeg carries; None where it has none for this system."""
    # Not by its own search, which goes on to PATH.
    folder = resources.files("imageio_ffmpeg") / "binaries"
    found = sorted(str(path) for path in folder.iterdir() if path.name.startswith("ffmpeg-")) if folder.is_dir() else []
    return found[-1] if found else None


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

    On any exception, Ctrl-C included, the child is killed and reaped before the exception goes on. A program that
    complains of the file that it writes has failed, whatever its exit code.

    Raises:
        DiskError: the disk takes no more.
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
    said = "; ".join(line.decode("utf-8", "replace").strip() for line in tail)
    if code == 0 and not any(words in said for words in WRITE_ERRORS):
        if said:
            logger.info("ffmpeg: %s", said)
        return
    # Each of its parts says so in its own words.
    if reason := next((words for words in DISK_ERRORS if words in said), None):
        raise DiskError(f"ffmpeg failed: {reason}")
    raise FFmpegError(f"ffmpeg failed{f' with code {code}' if code else ''}: {said or 'it gave no reason'}")


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
    listing = _ask(find_program(), "-h", f"encoder={encoder}")
    return frozenset(re.findall(r"^  -([\w-]+) +<", listing, re.MULTILINE))


def has_option(name: str) -> bool:
    """Whether the program knows an option of its own; those of encoders and muxers are not among them."""
    return f"-{name}[" in _ask(find_program(), "-h", "long")


def audio_encoders() -> dict[str, str]:
    """The program's encoders of audio, and the format that each makes, by libav's names."""
    listed = re.findall(r"^ A\S{5} (\S+) .*?(?:\(codec (\w+)\))?$", _ask(find_program(), "-encoders"), re.MULTILINE)
    return {name: codec or name for name, codec in listed}


@lru_cache(maxsize=16)
def _ask(program: str, *arguments: str) -> str:
    """What the program prints."""
    command = [program, "-nostdin", "-hide_banner", *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as exc:
        raise FFmpegError(f"cannot start {program}: {exc.strerror}") from exc
    return done.stdout.decode("utf-8", "replace")
