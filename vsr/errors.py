"""Everything that a user of vsr can meet, as one tree.

::

    VsrError                     exit code 1
    ├── UsageError               exit code 2: the words of the command contradict each other or name nothing
    │   ├── UnknownModelError    no model of that name, and no file either
    │   └── UnsupportedError     an engine or a precision that this machine or this model does not have
    ├── InputError               a file that was named as input is missing, unreadable, or holds no video
    ├── OutputError              the output exists already, or cannot be written
    ├── WeightsError             a weights file is damaged, of another kind, or refused
    ├── FFmpegError              the ffmpeg program is missing or failed
    ├── OutOfMemoryError         the work does not fit into the memory of the machine or of a device
    ├── TrainingDataError        the training pictures cannot be used
    ├── TrainingError            a training run has diverged
    └── CheckpointError          a training run cannot be continued

Each message says what happened, with which file, and what to do next. A mistake of a caller in Python is a
``ValueError`` or ``TypeError`` instead.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager


class VsrError(Exception):
    """Base of all errors that vsr raises for its users."""

    exit_code = 1


class UsageError(VsrError):
    """The request contradicts itself or names something that does not exist."""

    exit_code = 2


class UnknownModelError(UsageError):
    """No shipped model and no file has that name."""


class UnsupportedError(UsageError):
    """An engine or a precision that this machine or this model does not have."""


class InputError(VsrError):
    """An input file is missing, unreadable, damaged, or not of the kind asked for."""


class OutputError(VsrError):
    """The output exists already or cannot be written."""


class WeightsError(VsrError):
    """A weights file cannot be used."""


class FFmpegError(VsrError):
    """The ffmpeg program is missing or failed."""


class OutOfMemoryError(VsrError):
    """The work does not fit into the memory of the machine or of a device."""


class TrainingDataError(VsrError):
    """The training pictures cannot be used."""


class TrainingError(VsrError):
    """A training run has diverged."""


class CheckpointError(VsrError):
    """A training run cannot be continued."""


OUT_OF_MEMORY_WORDS = (
    "can't alloc",  # torch on the CPU, Linux and macOS; oneDNN within OpenVINO
    "cannot allocate memory",  # strerror(ENOMEM)
    "not enough memory",  # torch on the CPU, Windows
    "out of memory",  # CUDA, HIP, MPS; Pillow, in an OSError
    "invalid buffer size",  # MPS, of a buffer that Metal never gives
    "bad_alloc", "bad allocation",  # C++
    "failed to allocate",  # OpenVINO
    "failed to map segment from shared object",  # the same, of its own parts, which it loads late
    "insufficient memory",  # OpenCV
    "status_alloc_failed",  # cuDNN, cuBLAS and their kin
)  # fmt: skip
"""What a ``RuntimeError``, or an ``OSError`` without a number, has in its text for want of memory, in lower case."""

CV_NO_MEMORY = -4
"""``cv::Error::StsNoMem``."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception of any library says that memory ran out, on the machine or on a device.

    Only some have a class for it; ``MemoryError`` is Python's, NumPy's, Pillow's and PyAV's. The others are known by a
    number or by their words, so that none of these libraries need be imported here.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):  # torch's, and the one above
        return True
    if type(error).__module__.partition(".")[0] == "cv2":
        return getattr(error, "code", None) == CV_NO_MEMORY
    # With a number, an error of the system says of which file it is, whose name is free.
    tells = isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno is None)
    words = str(error).lower()
    return tells and any(sign in words for sign in OUT_OF_MEMORY_WORDS)


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Name the extra that brings a package, where an import in the context finds it missing.

    Args:
        extra: of vsr's package metadata, such as ``train``.
        purpose: what needs it, as the beginning of a sentence.

    Raises:
        UsageError: a package that is not vsr's is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] == "vsr":
            raise
        raise UsageError(f'{purpose} needs the package {exc.name}: pip install "vsr[{extra}]".') from exc


@contextmanager
def memory_explained(doing: str, advice: str) -> Iterator[None]:
    """Raise what says that memory ran out, whatever its class, as one sentence.

    Args:
        doing: what is done here, to which file: "decoding a.mp4".
        advice: what takes less memory, in the imperative.

    Raises:
        OutOfMemoryError: memory ran out within the block.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as exc:  # of any library
        if not is_out_of_memory(exc):
            raise
        raise OutOfMemoryError(f"memory ran out while {doing}; {advice}.") from exc


def in_words(value: object) -> str:
    """A value of an option as it is written on the command line, and not as Python writes it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return shortened(", ".join(map(in_words, value)))
    return f"{value:g}" if isinstance(value, float) else shortened(str(value))


def shortened(text: str, length: int = 80) -> str:
    """A text of another's making, for a sentence that has to stay one."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


_ENDS_A_LINE = re.compile("\r\n|[\t-\r\x1c-\x1e\x85\u2028\u2029]")
_STEERS = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What is left of the control characters of ASCII and of ISO 8859, and those that turn the direction of writing."""

_FORMULA = ("=", "+", "-", "@")
"""How cells begin that spreadsheets compute."""

_MARKUP = re.compile(r"[\\`*|]|\](?=[(\[:])")
"""Emphasis, code, cells, and where a pair of brackets becomes a link."""


def one_line(text: str) -> str:
    """A text on one line of a terminal, which nothing in it can leave or recolour.

    Line ends and tabs become spaces, other control characters what Python writes for them, as ``\\x1b``; a byte of a
    file's name that is no UTF-8 becomes a question mark.
    """
    text = _ENDS_A_LINE.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def csv_cell(text: str) -> str:
    """A text for a table that a spreadsheet may open: what would be a formula there gets an apostrophe before it."""
    text = one_line(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def markdown(text: str) -> str:
    """A text for Markdown, in a table or out of it, that shows as it is and is no markup."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", text)


def markdown_code(text: str) -> str:
    """The same as code, between as many backticks as it takes."""
    text = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " * (len(fence) > 1)
    return f"{fence}{space}{text}{space}{fence}".replace("|", r"\|")
