"""Where the time of a job goes, stage by stage, from several threads."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

STAGES = ("decode", "upload", "to RGB", "network", "from RGB", "download", "encode", "waiting")
"""In the order of the data. ``waiting`` is what the thread of the network waits for frames and for the encoder; decode
and encode have threads of their own."""

APART = ("decode", "encode", "waiting")
"""What does not wait for the device."""


class Stopwatch:
    """Adds up the seconds of each stage.

    Args:
        device: what CUDA computes is waited for at the end of the stages between upload and download, since it only
            begins with the call; this takes away what they win by overlapping.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._lock = device, threading.Lock()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        started = time.perf_counter()
        try:
            yield
            if self._device.type == "cuda" and stage not in APART:
                torch.cuda.synchronize(self._device)
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - started


class NoStopwatch(Stopwatch):
    """Times nothing."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Do nothing."""
        yield


def each(watch: Stopwatch, stage: str, items: Iterable[T]) -> Generator[T, None, None]:
    """Time what it takes to come to each item."""
    iterator = iter(items)
    while True:
        with watch(stage):
            item = next(iterator, None)
        if item is None:
            return
        yield item
