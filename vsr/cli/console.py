"""What all subcommands share on the terminal: errors, log messages, progress, and the two kinds of interrupt."""

from __future__ import annotations

import atexit
import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from types import FrameType
from typing import Any, TypeVar

import click

from vsr.errors import VsrError, is_out_of_memory

INTERRUPTED = 130

Command = TypeVar("Command", bound=Callable[..., Any])


class ErrorReportingGroup(click.Group):
    """Prints a ``VsrError`` as one line and exits with its code; an interrupt exits with 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VsrError as exc:
            logging.getLogger(__name__).info("the error in full", exc_info=True)
            click.echo(f"vsr: {exc}", err=True)
            ctx.exit(exc.exit_code)
        except KeyboardInterrupt:
            click.echo("vsr: interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as exc:  # whatever it is, a user is told in one line
            logging.getLogger(__name__).info("the error in full", exc_info=True)
            if is_out_of_memory(exc):
                click.echo("vsr: memory ran out; take less at once, or smaller pictures.", err=True)
                ctx.exit(1)
            click.echo(f"vsr: a bug, please report it: {type(exc).__name__}: {exc} (-v shows where)", err=True)
            ctx.exit(1)


def option_of(options: type[Any]) -> Callable[..., Callable[[Command], Command]]:
    """A ``click.option`` that takes its default from the field of its name in a dataclass of options."""
    defaults = {field.name: field.default for field in fields(options)}

    def option(name: str, help: str, **attributes: Any) -> Callable[[Command], Command]:
        default = defaults[name.removeprefix("--").replace("-", "_")]
        return click.option(name, default=default, show_default=default is not None, help=help, **attributes)

    return option


def verbosity_options(command: Command) -> Command:
    """Add ``-v`` and ``-q`` to a command."""
    command = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")(command)
    return click.option("-v", "--verbose", count=True, help="Say more, with tracebacks; twice: everything.")(command)


def start_logging(verbose: int, quiet: bool) -> None:
    """Send the log messages of vsr to stderr, without breaking a progress bar."""
    level = logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter("vsr: %(message)s"))
    if not verbose:
        handler.addFilter(_Once())
    root = logging.getLogger("vsr")
    root.handlers[:] = [handler]
    root.setLevel(level)


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
    them again and again, and once more at the end. It saves 0.5 to 0.9 s."""
    gc.disable()
    try:
        yield
    finally:
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
    known = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    watched = [number for number in known if number is not None and signal.getsignal(number) is not signal.SIG_IGN]

    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in watched:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
