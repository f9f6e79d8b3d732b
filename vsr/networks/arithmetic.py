"""What CUDA makes of float32: products of whole numbers of 24 bits, or of TF32's 11, which are faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Choose for a time, as a context or a decorator, how matrix products and convolutions take float32 on CUDA.

    By itself torch computes convolutions in TF32 on Ampere and newer, and matrix products in float32. It has an old
    and a new way to ask for TF32, and refuses to go on where they disagree: the old one is changed where it tells, then
    what is left by the new one. What was set before is set again.

    Args:
        tf32: round what they are given to TF32; False: float32 is float32.
    """
    cudnn = torch.backends.cudnn
    operations: list[Any] = [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]  # type: ignore[attr-defined]
    before = [operation.fp32_precision for operation in operations]
    convolutions, products = tf32, "high" if tf32 else "highest"
    wanted = products
    try:
        with suppress(RuntimeError):  # the old and the new way disagree already
            if (convolutions := cudnn.allow_tf32) != tf32:
                cudnn.allow_tf32 = tf32
        with suppress(RuntimeError):
            if (products := torch.get_float32_matmul_precision()) != wanted:
                torch.set_float32_matmul_precision(wanted)
        for operation in operations:
            if operation.fp32_precision == ("ieee" if tf32 else "tf32"):
                operation.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        if convolutions != tf32:
            cudnn.allow_tf32 = convolutions
        if products != wanted:
            torch.set_float32_matmul_precision(products)
        for operation, precision in zip(operations, before, strict=True):
            for again in ("none", precision):  # "none" takes what is set for all, as it may have done
                if operation.fp32_precision != precision:
                    operation.fp32_precision = again
