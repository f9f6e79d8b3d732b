"""Requests to stop: a caller's, and marks for code in which a signal handler must not raise.

That code is process starts, clean-up, and callbacks from C.

Python runs a signal handler in the main thread between any two instructions, and its exception is raised there. Most
code is protected by ``finally`` or ``with``; the rest is marked with the functions of this module.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Protocol, TypeVar

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
"""Signals that may be turned into an exception; not every system has all of them."""

_shielded: set[CodeType] = set()
_interruptible: set[CodeType] = set()

Function = TypeVar("Function", bound=Callable[..., Any])


class Stop(Protocol):
    """A request to stop, such as a ``threading.Event``."""

    def is_set(self) -> bool:
        """Whether to stop."""


def shielded(function: Function) -> Function:
    """Mark a function during which, its calls included, ``clean_end_on_signals`` raises nothing."""
    _shielded.add(function.__code__)
    return function


def interruptible(function: Function) -> Function:
    """Mark a function that waits long and may be interrupted although its caller is shielded."""
    _interruptible.add(function.__code__)
    return function


def is_shielded(frame: FrameType | None) -> bool:
    """Whether the code that a signal has interrupted must finish first."""
    while frame is not None:
        if frame.f_code in _interruptible:
            return False
        if frame.f_code in _shielded:
            return True
        frame = frame.f_back
    return False


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Delay signals that Python handles until the end of the context, so that a process started in it has an owner."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread handles signals
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
