"""ThreadedIterator and ThreadedConsumer: order, bounds, and every way to end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import pytest

from vsr.pipeline.flow import ThreadedConsumer, ThreadedIterator
from vsr.signals import interruptible, is_shielded, shielded, signals_held_back

pytestmark = pytest.mark.usefixtures("leaves_nothing")


@dataclass(frozen=True)
class Item:
    number: int
    nbytes: int = 10


def items(count: int, made: list[int] | None = None) -> Generator[Item, None, None]:
    for number in range(count):
        if made is not None:
            made.append(number)
        yield Item(number)


def wait_until(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.001)


def test_the_iterator_keeps_the_order() -> None:
    with ThreadedIterator(items(100), max_bytes=30, name="vsr-test") as ahead:
        assert [item.number for item in ahead] == list(range(100))


def test_the_iterator_makes_no_more_than_fits() -> None:
    made: list[int] = []
    with ThreadedIterator(items(100, made), max_bytes=30, name="vsr-test") as ahead:
        wait_until(lambda: len(made) == 4)  # three wait in the queue, the fourth before it
        time.sleep(0.05)
        assert len(made) == 4
        next(ahead)
        wait_until(lambda: len(made) == 5)


def test_an_item_larger_than_the_bound_passes_alone() -> None:
    def large() -> Generator[Item, None, None]:
        yield from (Item(number, nbytes=1000) for number in range(3))

    with ThreadedIterator(large(), max_bytes=1, name="vsr-test") as ahead:
        assert [item.number for item in ahead] == [0, 1, 2]


def test_an_exception_of_the_source_is_raised_after_its_items() -> None:
    def failing() -> Generator[Item, None, None]:
        yield from items(3)
        raise OSError("the disk is gone")

    seen = []
    with (
        pytest.raises(OSError, match="the disk is gone"),
        ThreadedIterator(failing(), max_bytes=100, name="vsr-test") as ahead,
    ):
        for item in ahead:
            seen.append(item.number)
    assert seen == [0, 1, 2]


def test_leaving_early_closes_the_source() -> None:
    closed = threading.Event()

    def endless() -> Generator[Item, None, None]:
        try:
            while True:
                yield Item(0)
        finally:
            closed.set()

    with pytest.raises(KeyboardInterrupt), ThreadedIterator(endless(), max_bytes=30, name="vsr-test") as ahead:
        next(ahead)
        raise KeyboardInterrupt
    assert closed.is_set()


def test_the_consumer_handles_all_items_before_the_context_ends() -> None:
    seen: list[int] = []

    def slow(item: Item) -> None:
        time.sleep(0.001)
        seen.append(item.number)

    with ThreadedConsumer(slow, max_bytes=30, name="vsr-test") as behind:
        for item in items(50):
            behind.put(item)
    assert seen == list(range(50))


def test_the_consumer_blocks_a_producer_that_is_too_fast() -> None:
    go, put = threading.Event(), []

    def consume(item: Item) -> None:
        go.wait(5)

    def produce() -> None:
        with ThreadedConsumer(consume, max_bytes=20, name="vsr-test") as behind:
            for item in items(10):
                behind.put(item)
                put.append(item.number)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: len(put) == 3)  # one at work, two waiting
    time.sleep(0.05)
    assert len(put) == 3
    go.set()
    producer.join(5)
    assert len(put) == 10


@pytest.mark.parametrize("fails_at", [0, 3, 9])
def test_an_exception_of_the_consumer_is_raised_in_the_producer(fails_at: int) -> None:
    def consume(item: Item) -> None:
        if item.number == fails_at:
            raise OSError("the disk is full")

    with (
        pytest.raises(OSError, match="the disk is full"),
        ThreadedConsumer(consume, max_bytes=20, name="vsr-test") as behind,
    ):
        for item in items(10):
            behind.put(item)


def test_an_exception_of_the_producer_discards_waiting_items() -> None:
    seen: list[int] = []
    started, go = threading.Event(), threading.Event()

    def consume(item: Item) -> None:
        started.set()
        go.wait(5)
        seen.append(item.number)

    def produce() -> None:
        with ThreadedConsumer(consume, max_bytes=1000, name="vsr-test") as behind:
            for item in items(10):
                behind.put(item)
            started.wait(5)
            threading.Timer(0.05, go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce()
    assert seen == [0]


STARTS = """
import sys, threading
from vsr.pipeline.flow import ThreadedIterator, ThreadedConsumer

start, kind, when = threading.Thread.start, *sys.argv[1:]

def interrupted(thread):
    if when == "begun":
        start(thread)
    if when == "begins later":
        late = threading.Timer(0.3, start, [thread])
        late.daemon = True
        start(late)
    raise KeyboardInterrupt

threading.Thread.start = interrupted

def endless():
    print("made", file=sys.stderr) if when == "begins later" else None
    while True:
        yield memoryview(b"1")

context = (
    ThreadedIterator(endless(), max_bytes=3, name="vsr-test")
    if kind == "ThreadedIterator"
    else ThreadedConsumer(print, max_bytes=3, name="vsr-test")
)
try:
    with context:
        pass
except KeyboardInterrupt:
    threading.Event().wait(1.0 if when == "begins later" else 0.0)
    sys.exit(7)
"""
"""A context that is interrupted on entry, at some point of starting its thread."""


@pytest.mark.parametrize("when", ["never begins", "begun", "begins later"])
@pytest.mark.parametrize("kind", ["ThreadedIterator", "ThreadedConsumer"])
def test_an_interrupt_while_a_thread_starts_does_not_block_the_exit(kind: str, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", STARTS, kind, when], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.mark.parametrize("kind", ["ThreadedIterator", "ThreadedConsumer"])
def test_an_interrupt_while_a_thread_starts_ends_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    def endless() -> Generator[Item, None, None]:
        while True:
            yield Item(0)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        if kind == "ThreadedIterator":
            ThreadedIterator(endless(), max_bytes=30, name="vsr-test").__enter__()
        else:
            ThreadedConsumer(lambda item: None, max_bytes=30, name="vsr-test").__enter__()
    wait_until(lambda: threading.active_count() == before)


@pytest.fixture
def interrupts_are_heard() -> Iterator[None]:
    """Restore the default handler, since background processes of a shell ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts_are_heard")
def test_held_back_signals_are_delivered_after_the_block() -> None:
    went_on = False
    with pytest.raises(KeyboardInterrupt), signals_held_back():
        signal.raise_signal(signal.SIGINT)
        went_on = True
    assert went_on
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interrupts_are_heard")
def test_a_held_back_signal_survives_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), signals_held_back():
        signal.raise_signal(signal.SIGINT)
        raise OSError("no more processes")


def test_shielded_covers_calls_but_not_interruptible_ones() -> None:
    def here() -> bool:
        return is_shielded(sys._getframe())

    @interruptible
    def waiting() -> bool:
        return here()

    @shielded
    def cleaning() -> tuple[bool, bool]:
        return here(), waiting()

    assert not here()
    assert cleaning() == (True, False)
