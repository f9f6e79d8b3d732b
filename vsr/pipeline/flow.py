"""Threads that work ahead and behind, joined by queues that are bounded in bytes.

``Ahead`` runs an iterator in a thread of its own, ``Behind`` a function; both are context managers. Whatever is raised
in either thread comes out in the thread that uses them, and leaving the context ends the thread, in any case.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Something that knows how much memory it holds."""

    @property
    def nbytes(self) -> int:
        """Bytes."""


T = TypeVar("T", bound=Sized)


class _Cancelled(Exception):
    """The other side has gone: stop, there is nobody to tell."""


class ByteQueue(Generic[T]):
    """A queue between two threads that holds at most ``max_bytes``, or a single larger item."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: deque[T] = deque()
        self._bytes = 0
        self._closed = self._cancelled = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Add an item; waits while it does not fit. Raises ``_Cancelled`` once the queue is cancelled."""
        with self._changed:
            while not self._cancelled and self._items and self._bytes + item.nbytes > self._max_bytes:
                self._changed.wait()
            if self._cancelled:
                raise _Cancelled
            self._items.append(item)
            self._bytes += item.nbytes
            self._changed.notify_all()

    def get(self) -> T | None:
        """The next item, None at the end; waits for it. Raises ``_Cancelled`` once the queue is cancelled."""
        with self._changed:
            while not (self._items or self._closed or self._cancelled):
                self._changed.wait()
            if self._cancelled:
                raise _Cancelled
            if not self._items:
                return None
            item = self._items.popleft()
            self._bytes -= item.nbytes
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Nothing more is put."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Nobody wants what is in the queue: both sides wake up and stop."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()


class _Worker(Generic[T]):
    """A thread with a queue, for the length of a context."""

    def __init__(self, *, max_bytes: int, name: str) -> None:
        self._queue: ByteQueue[T] = ByteQueue(max_bytes)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def _start(self, work: Callable[[], None]) -> None:
        self._done: Future[None] = self._pool.submit(work)

    def _end(self) -> None:
        self._queue.cancel()
        self._pool.shutdown()


class Ahead(_Worker[T]):
    """Iterates over ``source`` in a thread that keeps at most ``max_bytes`` ready."""

    def __init__(self, source: Generator[T, None, None], *, max_bytes: int, name: str) -> None:
        super().__init__(max_bytes=max_bytes, name=name)
        self._source = source

    def _work(self) -> None:
        try:
            with closing(self._source):
                for item in self._source:
                    self._queue.put(item)
        except _Cancelled:
            pass
        finally:
            self._queue.close()

    def _items(self) -> Iterator[T]:
        while (item := self._queue.get()) is not None:
            yield item
        self._done.result()  # raises what ended the source early

    def __enter__(self) -> Iterator[T]:
        self._start(self._work)
        return self._items()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


class Behind(_Worker[T]):
    """Calls ``consume`` for each item in a thread, in order, with at most ``max_bytes`` waiting.

    Leaving the context waits for the last item, unless an exception is under way.
    """

    def __init__(self, consume: Callable[[T], None], *, max_bytes: int, name: str) -> None:
        super().__init__(max_bytes=max_bytes, name=name)
        self._consume = consume

    def _work(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                self._consume(item)
        except _Cancelled:
            pass
        finally:
            self._queue.cancel()

    def put(self, item: T) -> None:
        """Hand over an item; waits while too much is waiting. Raises what ``consume`` raised."""
        try:
            self._queue.put(item)
        except _Cancelled:
            self._done.result()
            raise

    def __enter__(self) -> Behind[T]:
        self._start(self._work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._queue.close()
                self._done.result()
        finally:
            self._end()
