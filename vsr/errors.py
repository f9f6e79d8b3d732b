"""The exceptions that vsr raises for its users, how messages name options, tests for exhausted memory, and safe text.

::

    VsrError                     exit code 1
    ├── UsageError               exit code 2: the options contradict each other or name something that does not exist;
    │   │                        also a ValueError
    │   ├── UnknownModelError    no shipped model and no file has that name
    │   └── UnsupportedError     this machine or this model does not support an engine or a precision
    ├── InputError               an input file is missing, unreadable, or contains no video
    ├── OutputError              the output exists already, or cannot be written
    ├── WeightsError             a weights file is damaged, of the wrong kind, or refused
    ├── FFmpegError              the ffmpeg program is missing or failed
    ├── OutOfMemoryError         the work does not fit into the memory of the machine or a device
    ├── TrainingDataError        the training pictures cannot be used
    ├── TrainingError            a training run has diverged
    └── CheckpointError          a training run cannot be continued

Each message says what happened, with which file, and what to do next. A programming mistake in a caller
raises ``ValueError`` or ``TypeError`` instead.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class VsrError(Exception):
    """Base class of all errors that vsr raises for its users."""

    exit_code = 1


class UsageError(VsrError, ValueError):
    """The request contradicts itself or names something that does not exist; to Python a ``ValueError`` too."""

    exit_code = 2


class UnknownModelError(UsageError):
    """No shipped model and no file has that name."""


class UnsupportedError(UsageError):
    """This machine or this model does not support the engine or precision."""


class InputError(VsrError):
    """An input file is missing, unreadable, damaged, or not of the requested kind."""


class OutputError(VsrError):
    """The output exists already or cannot be written."""


class WeightsError(VsrError):
    """A weights file cannot be used."""


class FFmpegError(VsrError):
    """The ffmpeg program is missing or failed."""


class OutOfMemoryError(VsrError):
    """The work does not fit into the memory of the machine or a device."""


class TrainingDataError(VsrError):
    """The training pictures cannot be used."""


class TrainingError(VsrError):
    """A training run has diverged."""


class CheckpointError(VsrError):
    """A training run cannot be continued."""


_spells_flags = False


def spell_settings(*, as_flags: bool) -> None:
    """Choose how messages of this process name options: as flags of the command, or as keywords of Python."""
    global _spells_flags
    _spells_flags = as_flags


def settings_are_flags() -> bool:
    """Whether messages name options as flags; a worker process is started with the answer of its parent."""
    return _spells_flags


def setting(name: str, value: object = None, *, flag: str = "") -> str:
    """Name an option in a message, as the user writes it.

    ``setting("jobs")`` is ``--jobs`` where the command runs, and ``jobs`` where Python calls; ``setting("device",
    "cpu")`` is ``--device cpu`` or ``device='cpu'``, ``setting("overwrite", True)`` ``--overwrite`` or
    ``overwrite=True``, and ``setting("resume", False)`` ``--no-resume`` or ``resume=False``.

    Args:
        name: of the keyword.
        value: to set it to, or a tuple of alternatives; None: the name alone.
        flag: of the command, if it is not the name with dashes.
    """
    values = value if isinstance(value, tuple) else (value,)
    if not _spells_flags:
        texts = (repr(each if isinstance(each, (bool, int, float)) else str(each)) for each in values)
        return name if value is None else f"{name}={' or '.join(texts)}"
    flag = flag or f"--{name.replace('_', '-')}"
    if value is None or value is True:
        return flag
    return f"--no-{flag[2:]}" if value is False else f"{flag} {' or '.join(map(str, values))}"


def settings(**values: object) -> str:
    """Name several options with their values: ``--devices 2 --nodes 1``, or ``devices=2, nodes=1``."""
    return (" " if _spells_flags else ", ").join(setting(name, value) for name, value in values.items())


OUT_OF_MEMORY_PHRASES = (
    "can't alloc",  # torch on the CPU, Linux and macOS; oneDNN within OpenVINO
    "cannot allocate memory",  # strerror(ENOMEM)
    "not enough memory",  # torch on the CPU, Windows
    "out of memory",  # CUDA, HIP, MPS; Pillow, in an OSError
    "invalid buffer size",  # MPS, for a buffer larger than Metal allows
    "bad_alloc", "bad allocation",  # C++
    "failed to allocate",  # OpenVINO
    "failed to map segment from shared object",  # OpenVINO, for its plugins, which it loads on demand
    "insufficient memory",  # OpenCV
    "status_alloc_failed",  # cuDNN, cuBLAS and similar libraries
)  # fmt: skip
"""Lower-case phrases in a ``RuntimeError``, or an ``OSError`` without an errno, that mean memory ran out."""

CV_NO_MEMORY = -4
"""``cv::Error::StsNoMem``."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception from any library means that memory ran out, on the machine or on a device.

    Python, NumPy, Pillow and PyAV raise ``MemoryError``. Errors of other libraries are recognised by their number or
    their text, so that none of these libraries has to be imported here.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):  # torch's, and the class above
        return True
    if type(error).__module__.partition(".")[0] == "cv2":
        return getattr(error, "code", None) == CV_NO_MEMORY
    # An OSError with an errno is not searched: its text contains a file name, which may contain any phrase.
    searched = isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno is None)
    text = str(error).lower()
    return searched and any(phrase in text for phrase in OUT_OF_MEMORY_PHRASES)


DISTRIBUTION = "vsr-srgan"
"""What pip calls this package."""


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
        raise UsageError(f'{purpose} needs the package {exc.name}: pip install "{DISTRIBUTION}[{extra}]".') from exc


@contextmanager
def memory_explained(doing: str, advice: str) -> Iterator[None]:
    """Turn any exception that means that memory ran out into an ``OutOfMemoryError`` of one sentence.

    Args:
        doing: what the block does, to which file: "decoding a.mp4".
        advice: how to use less memory, in the imperative.

    Raises:
        OutOfMemoryError: memory ran out in the block.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as exc:  # any library may raise its own class
        if not is_out_of_memory(exc):
            raise
        raise OutOfMemoryError(f"memory ran out while {doing}; {advice}.") from exc


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: ``; did you mean NAME?``, or a full stop if none is alike."""
    alike = closest(word, known)
    return f"; did you mean {alike}?" if alike else "."


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a mistyped one is most like, if any; capitals do not matter."""
    by_lower = {name.lower(): name for name in known}
    found = get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def option_text(value: object) -> str:
    """Format a value of an option as on the command line, not as Python's ``repr``."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return shortened(", ".join(map(option_text, value)))
    return f"{value:g}" if isinstance(value, float) else shortened(str(value))


def shortened(text: str, length: int = 80) -> str:
    """Shorten foreign text to ``length`` characters, for use in a message."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


_LINE_BREAKS = re.compile("\r\n|[\t-\r\x1c-\x1e\x85\u2028\u2029]")
_CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""The other control characters of ASCII and ISO 8859, and those that change the direction of writing."""

_FORMULA = ("=", "+", "-", "@")
"""First characters of cells that spreadsheets evaluate."""

_MARKUP = re.compile(r"[\\`*|]|\](?=[(\[:])")
"""Characters for emphasis, code and table cells, and a closing bracket that makes a link."""


def one_line(text: str) -> str:
    """Return text that stays on one line of a terminal and cannot control it.

    Line breaks and tabs become spaces; other control characters become Python escapes such as ``\\x1b``; a byte of a
    file name that is not valid UTF-8 becomes a question mark.
    """
    text = _LINE_BREAKS.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))
    return _CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def csv_cell(text: str) -> str:
    """Return text for a CSV cell: an apostrophe before what a spreadsheet would evaluate as a formula."""
    text = one_line(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def markdown(text: str) -> str:
    """Escape text for Markdown, inside or outside a table, so that it is shown literally."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", text)


def markdown_code(text: str) -> str:
    """Return text as Markdown code, between as many backticks as it needs."""
    text = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " * (len(fence) > 1)
    return f"{fence}{space}{text}{space}{fence}".replace("|", r"\|")
