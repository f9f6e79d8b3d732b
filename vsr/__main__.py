"""``python -m vsr`` and the command ``vsr``: what has to be settled before the large imports begin."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress

INTERRUPTED = 130
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main() -> None:
    """Run the command; a signal that comes before it, or after it, ends the process at once and with no traceback."""
    atexit.register(_ignore_signals)  # the first to be registered is the last to be called
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
        # Python ends itself by SIGINT where one has ever left an exec() or eval() of text, caught or not, as in the
        # making of a dataclass; the next one that succeeds makes it forget.
        eval("None")


def _end_on_signals(code: int) -> None:
    """Exit with a code; nothing is there yet, or any more, that would have to be cleaned up."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _end(code))


def _end(code: int) -> None:
    if code == INTERRUPTED:
        with suppress(OSError):
            os.write(2, b"vsr: interrupted.\n")
    os._exit(code)


def _ignore_signals() -> None:
    """Let what is left of the end come to its exit code: Python is about to take its own handlers away.

    A signal would end the process then as if nobody had expected it, while libraries are being unloaded.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _open_standard_streams() -> None:
    """Open those that are closed, or the next file that is opened would become one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - stays open


if __name__ == "__main__":
    main()
