"""What CUDA makes of float32: products of whole numbers of 24 bits, or of TF32's 11, which are faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Choose for a time, as a context or a decorator, how matrix products and convolutions take float32 on CUDA.

    By itself torch computes convolutions in TF32 on Ampere and newer, and matrix products in float32.

    Args:
        tf32: round what they are given to TF32; False: float32 is float32.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _choose("high" if tf32 else "highest", tf32)
    try:
        yield
    finally:
        _choose(*before)


def _choose(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
