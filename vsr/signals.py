"""Places where a signal must not raise: the starts of children, cleaning up, and what is called from C.

Python runs a signal's handler in the main thread between any two instructions, and what it raises comes out there. In
most places a ``finally`` or a ``with`` sees to the rest; these are the others.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
"""What may be turned into an exception; not every system has all of them."""

_shielded: set[CodeType] = set()
_open: set[CodeType] = set()

Function = TypeVar("Function", bound=Callable[..., Any])


def shielded(function: Function) -> Function:
    """Mark a function in which, and in whatever it calls, ``clean_end_on_signals`` raises nothing."""
    _shielded.add(function.__code__)
    return function


def interruptible(function: Function) -> Function:
    """Mark a function that waits long, and whose shielded caller is prepared for an exception of it."""
    _open.add(function.__code__)
    return function


def is_shielded(frame: FrameType | None) -> bool:
    """Whether what a signal has interrupted must go on first."""
    while frame is not None:
        if frame.f_code in _open:
            return False
        if frame.f_code in _shielded:
            return True
        frame = frame.f_back
    return False


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let signals that Python handles wait until the context is left: what is started in it has an owner by then."""
    if threading.current_thread() is not threading.main_thread():  # the only one that handles any
        yield
        return
    arrived: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if callable(handler := signal.getsignal(number)):
                before[number] = handler
                signal.signal(number, lambda number, frame: arrived.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)
