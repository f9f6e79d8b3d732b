"""What all subcommands share on the terminal: errors, log messages, progress, and the two kinds of interrupt."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

import click

from vsr.errors import OutputError, VsrError, is_out_of_memory, one_line
from vsr.signals import is_shielded, shielded

if TYPE_CHECKING:
    from vsr.pipeline.folder import FolderProgress, Outcome
    from vsr.pipeline.job import UpscaleProgress

INTERRUPTED = 130

ALARM = getattr(signal, "SIGALRM", None)
"""By which an interrupt comes again that could not be raised; Windows has none."""

AGAIN_SECONDS = 0.005
"""How soon."""

Command = TypeVar("Command", bound=Callable[..., Any])


class ErrorReportingGroup(click.Group):
    """Prints a ``VsrError`` as one line and exits with its code; an interrupt exits with 130."""

    def make_context(self, *args: Any, **keywords: Any) -> click.Context:
        with _printable_errors():
            return super().make_context(*args, **keywords)

    def main(self, *args: Any, **keywords: Any) -> Any:
        try:
            return super().main(*args, **keywords)
        except OSError as exc:  # of click's own words, as by --help
            echo_error(f"vsr: {_unwritable(exc)}")
            raise SystemExit(1) from exc

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with clean_end_on_signals(), _printable_errors():
                return super().invoke(ctx)
        except VsrError as exc:
            logging.getLogger(__name__).info("the error in full", exc_info=True)
            echo_error(f"vsr: {exc}")
            ctx.exit(exc.exit_code)
        except KeyboardInterrupt:
            echo_error("vsr: interrupted.")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as exc:  # whatever it is, a user is told in one line
            if isinstance(exc, OSError) and _is_of_click(exc):
                raise
            logging.getLogger(__name__).info("the error in full", exc_info=True)
            if is_out_of_memory(exc):
                echo_error("vsr: memory ran out; take less at once, or smaller pictures.")
                ctx.exit(1)
            echo_error(f"vsr: a bug, please report it: {type(exc).__name__}: {exc} (-v shows where)")
            ctx.exit(1)


@contextmanager
def _printable_errors() -> Iterator[None]:
    """What click complains of may be a file's name."""
    try:
        yield
    except click.UsageError as exc:
        if (words := exc.format_message()) == (clean := one_line(words)):
            raise
        raise click.UsageError(clean, exc.ctx) from exc


def echo(text: str) -> None:
    """Print a result on one line, whatever is in it.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        _echo(text, sys.stdout)
    except BrokenPipeError:  # nobody reads on, which is no failure
        raise
    except OSError as exc:
        raise OutputError(_unwritable(exc)) from exc


def echo_lines(text: str) -> None:
    """Print a result on several lines, in which the names of files are on one line each already, as in tables.

    Raises:
        OutputError: it cannot be written.
    """
    for line in text.split("\n"):
        echo(line)


def echo_error(text: str) -> None:
    """Print to stderr, on one line, what has gone wrong; where that cannot be written either, the exit code says it."""
    try:
        _echo(text, sys.stderr)
    except OSError:
        _discard(sys.stderr)


def _echo(text: str, stream: TextIO) -> None:
    """All that is for people and not for programs passes here or through ``_TqdmHandler``."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    click.echo(one_line(text).encode(encoding, "backslashreplace").decode(encoding), err=stream is sys.stderr)


def _unwritable(error: OSError) -> str:
    _discard(sys.stdout)
    return f"cannot write to the standard output: {error.strerror}."


def _is_of_click(error: BaseException) -> bool:
    """Whether a function of click has raised it, as where it prints a help text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "click.utils"


def _discard(stream: TextIO) -> None:
    """Throw away what waits to be written, which Python would try once more at its end, and complain of."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def verbosity_options(command: Command) -> Command:
    """Add ``-v`` and ``-q`` to a command."""
    command = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")(command)
    return click.option("-v", "--verbose", count=True, help="Say more, with tracebacks; twice: everything.")(command)


def start_logging(verbose: int, quiet: bool) -> None:
    """Send the log messages of vsr to stderr, without breaking a progress bar."""
    level = logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = _TqdmHandler()
    handler.setFormatter(_OneLine("vsr: %(message)s"))
    if not verbose:
        handler.addFilter(_Once())
    root = logging.getLogger("vsr")
    root.handlers[:] = [handler]
    root.setLevel(level)


class _OneLine(logging.Formatter):
    """A message on one line, and a traceback below it, set in so that none of its lines looks like a message."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {one_line(line)}" for line in super().formatException(ei).split("\n"))


class _TqdmHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


class _Once(logging.Filter):
    """Lets a sentence of the reader pass one time: what is read again is complained of again."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        sentence = record.getMessage()
        known = sentence in self._said
        self._said.add(sentence)
        return not known or record.name != "vsr.media.reader"  # which names a clip by its whole path


@contextmanager
def large_imports() -> Iterator[None]:
    """Importing torch makes many objects and no garbage: they are kept from the collector, which would walk over
    them again and again, and once more at the end. It saves 0.5 to 0.9 s.

    A signal ends the process at once: nothing has to be cleaned up yet, and a library that is half imported can answer
    an exception by one of its own.
    """
    for interrupt in _at_work:
        interrupt.at_once = True
    gc.disable()
    try:
        yield
    finally:
        for interrupt in _at_work:
            interrupt.at_once = False
        gc.freeze()
        gc.enable()
        atexit.register(_thaw_for_triton)


def _thaw_for_triton() -> None:
    # Where torch has loaded Triton: its bindings complain at the end of what the collector could not free.
    if "triton" in sys.modules:
        gc.unfreeze()


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag that the work asks for; the second Ctrl-C interrupts at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def clean_end_on_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the work as Ctrl-C does, and no second signal disturb the cleaning up."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # the only one that handles signals
    if not in_main_thread or _at_work:
        yield
        return
    watched = [number for number in ending_signals() if signal.getsignal(number) is not signal.SIG_IGN]
    interrupt = _Interrupt()
    before = {number: signal.getsignal(number) for number in [*watched, *([ALARM] if ALARM else [])]}
    sys.unraisablehook = interrupt.unraisable
    _at_work.append(interrupt)
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    except Exception as exc:
        if interrupt.raised:  # a consequence of it
            raise KeyboardInterrupt from exc
        raise
    finally:
        interrupt.raised = True  # by whatever it is left
        if ALARM:
            signal.setitimer(signal.ITIMER_REAL, 0)  # else it would end the process behind this
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = interrupt.hook
        _at_work.remove(interrupt)


def ending_signals() -> list[signal.Signals]:
    """Those that ask a program to end."""
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [number for number in known if number is not None]


_at_work: list[_Interrupt] = []
"""The one that handles the signals of this process, if any."""


class _Interrupt:
    """Raises ``KeyboardInterrupt`` for the first signal, once, as soon as it can be caught.

    Attributes:
        raised: it has been; what comes later is ignored.
        at_once: there is nothing to clean up yet.
        hook: of Python's, for what else is lost.
    """

    def __init__(self) -> None:
        self.raised = self.at_once = False
        self.hook = sys.unraisablehook

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.at_once:
            with suppress(OSError):
                os.write(2, b"vsr: interrupted.\n")
            os._exit(INTERRUPTED)
        if self.raised:
            return
        if is_shielded(frame) and ALARM:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
            return
        self.raised = True
        raise KeyboardInterrupt

    @shielded
    def unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """It came out where Python drops exceptions, as in a finaliser: raise it again a little later."""
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            self.hook(lost)
        elif ALARM:
            self.raised = False
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)


EVENT_SECONDS = 1.0
"""Between two events of progress."""


class ProgressDisplay(Protocol):
    """What the work tells."""

    def clip(self, at: UpscaleProgress) -> None:
        """Where one clip stands."""

    def folder(self, at: FolderProgress) -> None:
        """Where many stand."""

    def outcome(self, outcome: Outcome) -> None:
        """How one of many ended."""


@contextmanager
def progress_shown(as_json: bool, quiet: bool, of: int = 1) -> Iterator[ProgressDisplay]:
    """What shows progress, for the length of the work.

    Args:
        as_json: as events.
        quiet: not at all, but for what fails.
        of: how many inputs there are.
    """
    if as_json:
        yield _Events(quiet)
        return
    from tqdm import tqdm

    hidden = quiet or None  # None: shown where stderr is a terminal
    with (
        tqdm(unit="frame", disable=hidden if of > 1 else True, position=0) as whole,
        tqdm(unit="frame", disable=hidden, position=int(of > 1), leave=of == 1) as clip,
    ):
        yield _Bars(whole, clip)


class _Bars:
    def __init__(self, whole: Any, clip: Any) -> None:
        self._whole, self._clip = whole, clip
        self._number = 0

    def clip(self, at: UpscaleProgress) -> None:
        if not self._clip.n:
            self._clip.reset(at.num_frames)
            self._clip.initial = at.resumed  # they count for no speed
            self._clip.n = min(at.resumed, at.frames)
        self._clip.total = at.num_frames
        self._clip.update(at.frames - self._clip.n)

    def folder(self, at: FolderProgress) -> None:
        if at.number != self._number:
            self._number = at.number
            self._clip.n = 0
            self._clip.set_description(one_line(at.pair.source.name), refresh=False)
            self._whole.set_description(f"{at.number} of {at.count}", refresh=False)
        self.clip(at.clip)
        self._whole.total = at.num_frames
        self._whole.update(at.frames - self._whole.n)

    def outcome(self, outcome: Outcome) -> None:
        if outcome.state == "failed":
            self._clip.write(one_line(f"vsr: {outcome.error}"), file=sys.stderr)


class _Events:
    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._begun = self._told = time.monotonic()
        self._before: int | None = None

    def clip(self, at: UpscaleProgress) -> None:
        self._tell(at.frames, at.num_frames, at.resumed, {})

    def folder(self, at: FolderProgress) -> None:
        clip = {"source": str(at.pair.source), "clip": at.number, "clips": at.count}
        self._tell(at.frames, at.num_frames, at.clip.resumed, clip)

    def _tell(self, frames: int, total: int | None, resumed: int, more: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._before is None:
            self._before = resumed
        if now - self._told < EVENT_SECONDS:
            return
        self._told = now
        rate = (frames - self._before) / (now - self._begun)
        left = (total - frames) / rate if total is not None and rate > 0 else None
        self._say(event="progress", frames=frames, num_frames=total, frames_per_second=rate, seconds_left=left, **more)

    def outcome(self, outcome: Outcome) -> None:
        paths = {"source": str(outcome.pair.source), "target": str(outcome.pair.target)}
        self._say(event="clip", **paths, state=outcome.state, error=outcome.error)

    def _say(self, **event: Any) -> None:
        if not self._quiet:
            click.echo(json.dumps(event), err=True)
