"""What a device can do at most, by a large matrix product."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch

from vsr.inference.cost import seconds_of
from vsr.inference.runtimes import Precision
from vsr.inference.torch_runtime import DTYPES, exact_on_cuda

SIZES = {"cuda": 8192, "cpu": 4096}
"""Rows and columns of the matrices, by kind of device."""

OTHER_SIZE = 2048


class Product(NamedTuple):
    """A product of two square matrices.

    Attributes:
        multiply: does it once, and waits for its end.
        operations: in floating point, that it takes: two for each multiply-add.
    """

    multiply: Callable[[], object]
    operations: int


def peak_product(device: torch.device, precision: Precision) -> Product | None:
    """The product by the engine that is quickest at it there; None: there is none in that precision."""
    size = SIZES.get(device.type, OTHER_SIZE)
    candidates: list[Callable[[], object]] = []
    if device.type == "cpu" and precision != "fp16":
        with suppress(ImportError):
            from vsr.inference import openvino_runtime

            if openvino_runtime.supports(precision):
                candidates.append(openvino_runtime.matrix_product(precision, size))
    if precision in DTYPES:
        candidates.append(_by_torch(device, DTYPES[precision], size))
    for multiply in candidates:
        multiply()  # what is done once is no measure
    return Product(min(candidates, key=seconds_of), 2 * size**3) if candidates else None


def _by_torch(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], object]:
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        if device.type != "cuda":
            torch.mm(left, right)
            return
        with exact_on_cuda():
            torch.mm(left, right)
            torch.cuda.synchronize(device)

    return multiply
