"""Threads ahead and behind: order, bounds, and every way to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass

import pytest

from vsr.pipeline.flow import Ahead, Behind

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


def test_ahead_keeps_the_order() -> None:
    with Ahead(items(100), max_bytes=30, name="vsr-test") as ahead:
        assert [item.number for item in ahead] == list(range(100))


def test_ahead_makes_no_more_than_fits() -> None:
    made: list[int] = []
    with Ahead(items(100, made), max_bytes=30, name="vsr-test") as ahead:
        wait_until(lambda: len(made) == 4)  # three wait in the queue, the fourth before it
        time.sleep(0.05)
        assert len(made) == 4
        next(ahead)
        wait_until(lambda: len(made) == 5)


def test_an_item_larger_than_the_bound_passes_alone() -> None:
    def large() -> Generator[Item, None, None]:
        yield from (Item(number, nbytes=1000) for number in range(3))

    with Ahead(large(), max_bytes=1, name="vsr-test") as ahead:
        assert [item.number for item in ahead] == [0, 1, 2]


def test_what_the_source_raises_comes_behind_its_items() -> None:
    def failing() -> Generator[Item, None, None]:
        yield from items(3)
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="the disk is gone"), Ahead(failing(), max_bytes=100, name="vsr-test") as ahead:
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

    with pytest.raises(KeyboardInterrupt), Ahead(endless(), max_bytes=30, name="vsr-test") as ahead:
        next(ahead)
        raise KeyboardInterrupt
    assert closed.is_set()


def test_behind_consumes_all_before_it_is_left() -> None:
    seen: list[int] = []

    def slow(item: Item) -> None:
        time.sleep(0.001)
        seen.append(item.number)

    with Behind(slow, max_bytes=30, name="vsr-test") as behind:
        for item in items(50):
            behind.put(item)
    assert seen == list(range(50))


def test_behind_holds_up_a_producer_that_is_too_fast() -> None:
    go, put = threading.Event(), []

    def consume(item: Item) -> None:
        go.wait(5)

    def produce() -> None:
        with Behind(consume, max_bytes=20, name="vsr-test") as behind:
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
def test_what_the_consumer_raises_reaches_the_producer(fails_at: int) -> None:
    def consume(item: Item) -> None:
        if item.number == fails_at:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"), Behind(consume, max_bytes=20, name="vsr-test") as behind:
        for item in items(10):
            behind.put(item)


def test_an_exception_of_the_producer_drops_what_waits() -> None:
    seen: list[int] = []
    started, go = threading.Event(), threading.Event()

    def consume(item: Item) -> None:
        started.set()
        go.wait(5)
        seen.append(item.number)

    def produce() -> None:
        with Behind(consume, max_bytes=1000, name="vsr-test") as behind:
            for item in items(10):
                behind.put(item)
            started.wait(5)
            threading.Timer(0.05, go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce()
    assert seen == [0]
