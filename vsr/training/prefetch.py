"""Work done ahead by threads."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def ahead(make: Callable[[int], Item], steps: range, *, workers: int) -> Generator[Item, None, None]:
    """``make(step)`` for each step in order, computed by threads a few steps ahead of the consumer."""
    torch.get_num_threads()  # settled here first, or the setting of the workers would become everyone's
    # Crops are small: shared out among torch's own threads, each operation would wait for the slowest of them.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        depth = 2 * workers
        pending = [pool.submit(make, step) for step in steps[:depth]]
        try:
            for step in steps:
                item = pending.pop(0).result()
                if step + depth * steps.step in steps:
                    pending.append(pool.submit(make, step + depth * steps.step))
                yield item
        finally:
            for future in pending:
                future.cancel()
