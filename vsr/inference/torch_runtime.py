"""A network run by torch; on CUDA by recorded graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""By precision."""

GRAPHS = 2
"""Shapes that are recorded at most, each with the memory of all its activations: a whole frame, or a tile and none."""


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


class _Graph(NamedTuple):
    """Kernels that were recorded once, and the tensors that they read and write."""

    graph: torch.cuda.CUDAGraph
    lr: Tensor
    sr: Tensor


class CudaRuntime(TorchRuntime):
    """Runs a network on CUDA; a shape that comes a second time is recorded, and from then on replayed.

    Some hundred kernels are launched at once then, which otherwise take the processor as long as the device. float32 is
    float32: convolutions do not round their inputs to TF32.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(network, device, dtype)
        self._device = device
        self._seen: set[torch.Size] = set()
        self._graphs: dict[torch.Size, _Graph] = {}

    def __call__(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) float32 -> (N, 3, scale*H, scale*W) float32, both on the device."""
        with torch.backends.cudnn.flags(benchmark=True, allow_tf32=False):
            if lr.shape not in self._graphs:
                if lr.shape not in self._seen or len(self._graphs) >= GRAPHS:
                    self._seen.add(lr.shape)
                    return super().__call__(lr)
                self._graphs[lr.shape] = self._record(lr)
            recorded = self._graphs[lr.shape]
            recorded.lr.copy_(lr)
            recorded.graph.replay()
            return recorded.sr.to(torch.float32, copy=True)  # the next replay writes there again

    def _record(self, lr: Tensor) -> _Graph:
        """Record a shape, which has run before: kernels are chosen and their libraries started."""
        given = torch.empty_like(lr, dtype=self._dtype, memory_format=self._memory_format)
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            self._network(given.zero_())
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            sr = self._network(given)
        return _Graph(graph, given, sr)


def matrix_product(device: torch.device, precision: str, size: int) -> Callable[[], object]:
    """The product of two square matrices of a size, ready to be done again and again."""
    left, right = (torch.rand(size, size, device=device).to(DTYPES[precision]) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return multiply
