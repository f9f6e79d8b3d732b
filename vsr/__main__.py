"""Entry point of ``python -m vsr`` and ``vsr``: set up signals and standard streams before the large imports."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress

INTERRUPTED = 130
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main() -> None:
    """Run the command; a signal before or after it ends the process at once, without a traceback."""
    atexit.register(_ignore_signals)  # registered first, hence called last
    _end_on_signals(INTERRUPTED)
    _open_standard_streams()
    from vsr.cli import main as command

    code = 1
    try:
        command()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        raise
    finally:
        _end_on_signals(code)
        # After a KeyboardInterrupt has left an exec() or eval() of text, caught or not, as when a dataclass is made,
        # Python kills itself by SIGINT at exit; the next eval() that succeeds resets that.
        eval("None")


def _end_on_signals(code: int) -> None:
    """Let signals exit with a code at once, as there is nothing to clean up yet or any more."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _end(code))


def _end(code: int) -> None:
    if code == INTERRUPTED:
        with suppress(OSError):
            os.write(2, b"vsr: interrupted.\n")
    os._exit(code)


def _ignore_signals() -> None:
    """Ignore signals for the rest of the exit, so that the exit code stays.

    Python is about to remove its handlers; after that, while libraries are unloaded, a signal would kill the process.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _open_standard_streams() -> None:
    """Open the standard streams that are closed, as the next opened file would otherwise become one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - stays open


if __name__ == "__main__":
    main()
