"""Threads for decoding and encoding, connected to the main thread by queues that are bounded in bytes.

``ThreadedIterator`` runs an iterator in a thread of its own, ``ThreadedConsumer`` a function; both are context
managers. An exception in such a thread is raised again in the thread that uses it, and leaving the context always ends
the thread. ``ByteQueue`` connects the two threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from vsr.errors import VsrError
from vsr.signals import interruptible, shielded


class Sized(Protocol):
    """An object that knows how much memory it holds."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""


T = TypeVar("T", bound=Sized)


class _Cancelled(Exception):
    """The queue was cancelled by the other thread."""


class ByteQueue(Generic[T]):
    """A queue from one thread to another that holds at most ``max_bytes``, or a single larger item.

    It uses ``SimpleQueue``, whose calls are atomic: an exception raised by a signal handler leaves no lock held, as it
    can with a ``Condition``.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: SimpleQueue[T | None] = SimpleQueue()
        self._freed: SimpleQueue[int] = SimpleQueue()
        self._bytes = 0  # used by the putting thread only
        self.cancelled = False

    def put(self, item: T) -> None:
        """Add an item; wait while it does not fit. Raises ``_Cancelled`` once the queue is cancelled."""
        while not self.cancelled and self._bytes and self._bytes + item.nbytes > self._max_bytes:
            self._bytes -= self._freed.get()
        if self.cancelled:
            raise _Cancelled
        self._bytes += item.nbytes
        self._items.put(item)

    def get(self) -> T | None:
        """Wait for the next item and return it; None at the end. Raises ``_Cancelled`` once the queue is cancelled."""
        item = None if self.cancelled else self._items.get()
        if self.cancelled:
            raise _Cancelled
        if item is not None:
            self._freed.put(item.nbytes)
        return item

    def close(self) -> None:
        """Mark the end: no more items follow."""
        self._items.put(None)

    def cancel(self) -> None:
        """Discard what is in the queue; both threads wake up and stop."""
        self.cancelled = True
        self._items.put(None)
        self._freed.put(0)


class _Worker(Generic[T]):
    """A thread with a queue, for the length of a context.

    It never delays the end of the process: it is a daemon, and does nothing if it starts after its queue was cancelled.
    """

    def __init__(self, *, max_bytes: int, name: str) -> None:
        self._queue: ByteQueue[T] = ByteQueue(max_bytes)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False
        self._error: BaseException | None = None
        self._running = threading.Lock()  # not Thread.join: after a signal it takes the thread for ended
        self._running.acquire()

    def _run(self) -> None:
        self._started = True  # before the queue is checked: see _end
        try:
            if not self._queue.cancelled:
                self._work()
        except BaseException as exc:  # raised again in the thread that uses this one
            self._error = exc
        finally:
            self._running.release()

    def _work(self) -> None:
        """Do the thread's work; in the subclasses."""
        raise NotImplementedError

    def _start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as exc:
            raise VsrError(f"cannot start a thread: {exc}; the system allows no more of them.") from exc

    @interruptible
    def _wait(self) -> None:
        """Wait until the work is done, and raise the exception that ended it early."""
        with self._running:
            pass
        if self._error is not None:
            raise self._error

    @shielded
    def _end(self) -> None:
        self._queue.cancel()
        if self._started:  # else it sees that the queue is cancelled if it starts later
            with self._running:
                pass
            self._thread.join()


class ThreadedIterator(_Worker[T]):
    """Iterate over ``source`` in a thread, which keeps at most ``max_bytes`` of items ready."""

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
        self._wait()

    def __enter__(self) -> Iterator[T]:
        try:
            self._start()
            return self._items()
        except BaseException:  # __exit__ is not called if __enter__ raises
            self._end()
            raise

    @shielded
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


class ThreadedConsumer(_Worker[T]):
    """Call ``consume`` for each item in a thread, in order, with at most ``max_bytes`` waiting.

    Leaving the context waits for the last item, except after an exception.
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
        """Queue an item; wait while the queue is full. Raises what ``consume`` raised."""
        try:
            self._queue.put(item)
        except _Cancelled:
            self._wait()
            raise

    def __enter__(self) -> ThreadedConsumer[T]:
        try:
            self._start()
            return self
        except BaseException:  # __exit__ is not called if __enter__ raises
            self._end()
            raise

    @shielded
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._queue.close()
                self._wait()
        finally:
            self._end()
