"""A network run by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""By precision."""


class TorchRuntime:
    """Runs a network on a device.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale*H, scale*W), in eval mode; moved to the device and converted.
        device: where it runs.
        dtype: float32, float16 or bfloat16.
    """

    name = "torch"
    version = f"torch {torch.__version__}"

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        # Channels last is what the processors' convolutions compute in; what has no weights has none of these.
        learnt = any(True for _ in network.parameters())
        self._memory_format = torch.channels_last if learnt else torch.preserve_format
        self._dtype = dtype
        self.bytes_per_float = float(dtype.itemsize)
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last)

    def __call__(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) float32 -> (N, 3, scale*H, scale*W) float32, both on the device."""
        return cast(Tensor, self._network(lr.to(self._dtype, memory_format=self._memory_format))).float()


def matrix_product(device: torch.device, precision: str, size: int) -> Callable[[], object]:
    """The product of two square matrices of a size, ready to be done again and again."""
    left, right = (torch.rand(size, size, device=device).to(DTYPES[precision]) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return multiply
