"""What all subcommands share: errors, output, log messages, large imports, interrupts and progress."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

import click

from vsr.errors import OutputError, VsrError, did_you_mean, is_out_of_memory, one_line
from vsr.signals import is_shielded, shielded

if TYPE_CHECKING:
    from vsr.evaluation.tables import Table
    from vsr.pipeline.folder import FolderProgress, Outcome
    from vsr.pipeline.job import ClipPlan, UpscaleProgress

INTERRUPTED = 130

ALARM = getattr(signal, "SIGALRM", None)
"""The signal that repeats an interrupt that could not be raised; Windows has none."""

RETRY_SECONDS = 0.005
"""How soon it is repeated."""

LABEL_COLOURS = {"error": "red", "warning": "yellow"}
"""Colours of the words before a message, on a terminal."""

Command = TypeVar("Command", bound=Callable[..., Any])


class CommandGroup(click.Group):
    """Lists its commands in the order in which they were added, and suggests one for a mistyped name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the name of the command, the command, and the remaining arguments; all other meanings come here."""
        name = args[0]
        if name in self.commands or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"no such command {name!r}{did_you_mean(name, self.commands)}", ctx)


class ErrorReportingGroup(CommandGroup):
    """Prints a ``VsrError`` as one line and exits with its code; an interrupt exits with 130."""

    def make_context(self, *args: Any, **keywords: Any) -> click.Context:
        with _usage_errors_in_one_form():
            return super().make_context(*args, **keywords)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # "vsr" alone
            echo_lines(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **keywords: Any) -> Any:
        try:
            return super().main(*args, **keywords)
        except OSError as exc:  # raised where click itself prints, such as for --help
            echo_error(_stdout_failure(exc))
            raise SystemExit(1) from exc

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with clean_end_on_signals(), _usage_errors_in_one_form():
                return super().invoke(ctx)
        except VsrError as exc:
            logging.getLogger(__name__).info("the error in full", exc_info=True)
            echo_error(str(exc))
            ctx.exit(exc.exit_code)
        except KeyboardInterrupt:
            echo_note("interrupted.")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as exc:  # any other error is a bug; report it on one line
            if isinstance(exc, OSError) and _is_raised_by_click(exc):
                raise
            logging.getLogger(__name__).info("the error in full", exc_info=True)
            if is_out_of_memory(exc):
                echo_error("memory ran out; process less at once, or use smaller pictures.")
                ctx.exit(1)
            echo_error(f"a bug, please report it: {type(exc).__name__}: {exc} (-v shows where)")
            ctx.exit(1)


class _PlainUsageError(click.UsageError):
    """A usage error that is shown as one sentence, and a line that names the help."""

    def show(self, file: Any = None) -> None:
        echo_error(self.message)
        if self.ctx is not None:
            listed = "commands" if isinstance(self.ctx.command, click.Group) else "options"
            _echo(f"{self.ctx.command_path} --help lists the {listed}.", sys.stderr)


@contextmanager
def _usage_errors_in_one_form() -> Iterator[None]:
    """Write click's usage errors as those of vsr; a name in one, such as a file's, is escaped."""
    try:
        yield
    except click.UsageError as exc:
        if isinstance(exc, click.NoSuchOption):
            message = f"no such option {exc.option_name!r}{did_you_mean(exc.option_name, exc.possibilities or ())}"
        else:
            message = exc.format_message()
            message = message[:1].lower() + message[1:]
        raise _PlainUsageError(one_line(message), exc.ctx) from exc


def echo(text: str) -> None:
    """Print a result on one line; line breaks and control characters in it are escaped.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        _echo(text, sys.stdout)
    except BrokenPipeError:  # the reader has closed the pipe, which is no failure
        raise
    except OSError as exc:
        raise OutputError(_stdout_failure(exc)) from exc


def echo_lines(text: str) -> None:
    """Print a result on several lines, such as a table, in which names of files are escaped already.

    Raises:
        OutputError: it cannot be written.
    """
    for line in text.split("\n"):
        echo(line)


def echo_table(table: Table) -> None:
    """Print a table as text, in lines that fit the terminal.

    Raises:
        OutputError: it cannot be written.
    """
    from vsr.evaluation.tables import to_text

    echo_lines(to_text(table, terminal_width()))


def echo_record(label: str, text: str) -> None:
    """Print text after a label; on a terminal it is wrapped beside the label, and no word is cut.

    Raises:
        OutputError: it cannot be written.
    """
    width, lines = terminal_width(), [text := one_line(text)]
    if width is not None and len(label) + len(text) > width:
        space = max(20, width - len(label))
        lines = textwrap.wrap(text, space, break_long_words=False, break_on_hyphens=False)
    for line in lines:
        echo(f"{label}{line}".rstrip())
        label = " " * len(label)


def terminal_width() -> int | None:
    """Return how many characters a line of the terminal has; None where stdout is not one, so that no line is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def echo_error(text: str) -> None:
    """Print ``error: text`` on one line to stderr; if that cannot be written, the exit code alone reports it."""
    _echo_to_stderr("error", text)


def echo_note(text: str) -> None:
    """Print ``vsr: text``, which is neither a result nor an error, on one line to stderr."""
    _echo_to_stderr("vsr", text)


def _echo_to_stderr(label: str, text: str) -> None:
    try:
        _echo(text, sys.stderr, label)
    except OSError:
        _discard(sys.stderr)


def _echo(text: str, stream: TextIO, label: str = "") -> None:
    """Print one line, escaped; all output but JSON passes through this, or is ``_labelled``."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = _labelled(label, text) if label else one_line(text)
    click.echo(line.encode(encoding, "backslashreplace").decode(encoding), err=stream is sys.stderr)


def _labelled(label: str, text: str) -> str:
    """Return ``label: text`` for stderr, escaped; where that is a terminal, the words in ``LABEL_COLOURS`` get theirs.

    The variable NO_COLOR turns colours off (https://no-color.org).
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    colour = None if plain else LABEL_COLOURS.get(label)
    shown = click.style(f"{label}:", fg=colour, bold=True) if colour else f"{label}:"
    return f"{shown} {one_line(text)}"


def _stdout_failure(error: OSError) -> str:
    _discard(sys.stdout)
    return f"cannot write to the standard output: {error.strerror}."


def _is_raised_by_click(error: BaseException) -> bool:
    """Whether a function of click raised an error, for example when it printed a help text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "click.utils"


def _discard(stream: TextIO) -> None:
    """Discard what is buffered, as Python would try to write it again at exit and print an error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def verbosity_options(command: Command) -> Command:
    """Add ``-v`` and ``-q`` to a command."""
    command = click.option("-q", "--quiet", is_flag=True, help="Print only errors.")(command)
    return click.option("-v", "--verbose", count=True, help="Print more, with tracebacks; -vv: everything.")(command)


def start_logging(verbose: int, quiet: bool) -> None:
    """Send the log messages of vsr to stderr, without breaking a progress bar."""
    level = logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = _TqdmHandler()
    handler.setFormatter(_OneLineFormatter())
    if not verbose:
        handler.addFilter(_DuplicateFilter())
    root = logging.getLogger("vsr")
    root.handlers[:] = [handler]
    root.setLevel(level)


class _OneLineFormatter(logging.Formatter):
    """Formats a message on one line, and a traceback below it, indented so that no line of it looks like a message."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        label = "vsr" if record.levelno < logging.WARNING else record.levelname.lower()
        return _labelled(label, super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {one_line(line)}" for line in super().formatException(ei).split("\n"))


class _TqdmHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


class _DuplicateFilter(logging.Filter):
    """Suppresses repeated warnings of the reader, which reads parts of a clip more than once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in self._seen
        self._seen.add(message)
        return not is_known or record.name != "vsr.media.reader"  # whose messages name the clip by its whole path


@contextmanager
def large_imports() -> Iterator[None]:
    """Import torch without garbage collection, which saves 0.5 to 0.9 s.

    The imports make many objects and no garbage; the collector would traverse them repeatedly, and again at exit.
    A signal ends the process at once: nothing needs cleaning up yet, and a half-imported library may replace an
    exception by one of its own.
    """
    for interrupt in _active_interrupts:
        interrupt.at_once = True
    gc.disable()
    try:
        yield
    finally:
        for interrupt in _active_interrupts:
            interrupt.at_once = False
        gc.freeze()
        gc.enable()
        atexit.register(_thaw_for_triton)


def _thaw_for_triton() -> None:
    # Where torch has loaded Triton, its bindings print errors at exit for what the collector could not free.
    if "triton" in sys.modules:
        gc.unfreeze()


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag that the work polls; the second one interrupts at once."""
    requested = False

    def request_stop(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def clean_end_on_signals() -> Iterator[None]:
    """Handle SIGTERM and a closed terminal like Ctrl-C, and ignore further signals during the cleaning up."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # the only one that handles signals
    if not in_main_thread or _active_interrupts:
        yield
        return
    watched = [number for number in ending_signals() if signal.getsignal(number) is not signal.SIG_IGN]
    interrupt = _Interrupt()
    before = {number: signal.getsignal(number) for number in [*watched, *([ALARM] if ALARM else [])]}
    sys.unraisablehook = interrupt.unraisable
    _active_interrupts.append(interrupt)
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    except Exception as exc:
        if interrupt.raised:  # a consequence of it
            raise KeyboardInterrupt from exc
        raise
    finally:
        interrupt.raised = True  # however the block is left
        if ALARM:
            signal.setitimer(signal.ITIMER_REAL, 0)  # a pending one would end the process later
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = interrupt.hook
        _active_interrupts.remove(interrupt)


def ending_signals() -> list[signal.Signals]:
    """Return the signals that ask a program to end, as far as the system has them."""
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [number for number in known if number is not None]


_active_interrupts: list[_Interrupt] = []
"""The handler of the signals of this process, if any."""


class _Interrupt:
    """Raises ``KeyboardInterrupt`` for the first signal, once, as soon as it can be caught.

    Attributes:
        raised: whether it has been raised; later signals are ignored.
        at_once: whether to end the process at once, as nothing needs cleaning up.
        hook: Python's own hook for unraisable exceptions, called for all others.
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
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
            return
        self.raised = True
        raise KeyboardInterrupt

    @shielded
    def unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """Raise it again a little later where Python dropped it, for example in a finaliser."""
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            self.hook(lost)
        elif ALARM:
            self.raised = False
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)


EVENT_SECONDS = 1.0
"""Least time between two progress events."""


class ProgressDisplay(Protocol):
    """Shows the progress of the work."""

    def plan(self, plan: ClipPlan) -> None:
        """Say what will be done with one clip."""

    def clip(self, at: UpscaleProgress) -> None:
        """Show the progress of one clip."""

    def folder(self, at: FolderProgress) -> None:
        """Show the progress of a folder run."""

    def outcome(self, outcome: Outcome) -> None:
        """Show how one clip of a folder run ended."""


@contextmanager
def show_progress(as_json: bool, quiet: bool, num_inputs: int = 1) -> Iterator[ProgressDisplay]:
    """Show progress on stderr within the block.

    Args:
        as_json: print JSON events instead of bars.
        quiet: show nothing but failures.
        num_inputs: how many inputs there are.
    """
    if as_json:
        yield _Events(quiet)
        return
    from tqdm import tqdm

    hidden = quiet or None  # None: shown where stderr is a terminal
    with (
        tqdm(unit="frame", disable=hidden if num_inputs > 1 else True, position=0) as whole,
        tqdm(
            unit="frame", disable=hidden, position=int(num_inputs > 1), leave=False, bar_format="loading the model ..."
        ) as clip,
    ):
        yield _Bars(whole, clip, quiet, leave=num_inputs == 1)


def echo_measuring(plan: ClipPlan) -> None:
    """Say what would be done with a clip, and that this is being measured."""
    for line in (*_plan_lines(plan), "upscaling a few frames, to measure time and size ..."):
        echo_note(line)


def _plan_lines(plan: ClipPlan) -> Iterator[str]:
    yield str(plan)
    if plan.faster:
        yield f"--precision {plan.faster} is two to three times as fast here."


class _Bars:
    def __init__(self, whole: Any, clip: Any, quiet: bool, leave: bool) -> None:
        self._whole, self._clip, self._quiet, self._leave = whole, clip, quiet, leave
        self._number = 0
        self._planned = False

    def plan(self, plan: ClipPlan) -> None:
        if self._quiet or self._planned:
            return
        self._planned = True  # of a folder's clips the first one stands for all
        for line in _plan_lines(plan):
            self._clip.write(_labelled("vsr", line), file=sys.stderr)

    def clip(self, at: UpscaleProgress) -> None:
        self._clip.bar_format, self._clip.leave = None, self._leave  # until now the number of frames was unknown
        if not self._clip.n:
            self._clip.reset(at.num_frames)
            self._clip.initial = at.resumed  # not counted in the speed
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
            self._clip.write(_labelled("error", outcome.error), file=sys.stderr)


class _Events:
    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._reported = time.monotonic()

    def plan(self, plan: ClipPlan) -> None:
        """Show nothing: the summary has the figures."""

    def clip(self, at: UpscaleProgress) -> None:
        self._report_progress(at, {})

    def folder(self, at: FolderProgress) -> None:
        self._report_progress(at, {"source": str(at.pair.source), "clip": at.number, "clips": at.count})

    def _report_progress(self, at: UpscaleProgress | FolderProgress, more: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._reported < EVENT_SECONDS:
            return
        self._reported = now
        known = {"frames": at.frames, "num_frames": at.num_frames}
        rate = {"frames_per_second": at.frames_per_second, "seconds_left": at.seconds_left}
        self._emit(event="progress", **known, **rate, **more)

    def outcome(self, outcome: Outcome) -> None:
        paths = {"source": str(outcome.pair.source), "target": str(outcome.pair.target)}
        self._emit(event="clip", **paths, state=outcome.state, error=outcome.error)

    def _emit(self, **event: Any) -> None:
        if not self._quiet:
            click.echo(json.dumps(event), err=True)
