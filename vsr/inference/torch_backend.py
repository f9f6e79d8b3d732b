"""Run a network by torch, on CUDA with recorded kernels for many frames of one size, and transfer frames.

``TorchRuntime`` and ``CudaRuntime`` run a network; ``DeviceTransfer`` moves frames to and from the device.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vsr.imaging.colour import WITHOUT_UINT16
from vsr.networks.rewrites import float32_products

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Torch's type for each precision."""

MAX_RECORDED = 8
"""Number of shapes that are recorded at once: full and partial batches, of frames or tiles."""


@contextmanager
def exact_on_cuda() -> Iterator[None]:
    """Make CUDA compute float32 in float32, without benchmarking kernels; restore the former settings afterwards."""
    cudnn = torch.backends.cudnn
    enabled, benchmark = cudnn.enabled, cudnn.benchmark
    cudnn.enabled, cudnn.benchmark = True, False
    try:
        with float32_products(tf32=False):
            yield
    finally:
        cudnn.enabled, cudnn.benchmark = enabled, benchmark


class TorchRuntime:
    """Runs a network on a device.

    float32 is never TF32 on CUDA. Kernels are not chosen by a benchmark, so that two processes use the same ones.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale*H, scale*W), or a recurrent one, which accepts and returns a state too; in
            eval mode; moved to the device and converted.
        device: where it runs.
        dtype: float32, float16 or bfloat16.
        compiled: use torch.compile, which fuses the operations between convolutions. The first frame of each shape
            takes half a minute more; torch caches the result by network, shape, precision and version.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> None:
        # Convolutions compute in channels last; a network without weights has none of them.
        has_parameters = any(True for _ in network.parameters())
        self._memory_format = torch.channels_last if has_parameters else torch.preserve_format
        self._device, self._dtype = device, dtype
        self.bytes_per_float = float(dtype.itemsize)
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last)
        self.name = "torch"
        if compiled:
            self.name = "inductor"
            self._network = cast(nn.Module, torch.compile(self._network, dynamic=False))
        self.version = f"{self.name} of torch {torch.__version__}" if compiled else f"torch {torch.__version__}"

    def __call__(self, lr: Tensor) -> Tensor:
        """Upscale (N, 3, H, W) float -> (N, 3, scale*H, scale*W) float32, both on the device."""
        return self._compute(lr)[0]

    def step(self, lr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run a step of a recurrent network: LR frames and a state -> SR frames and the next state, float32."""
        sr, following = self._compute(lr, state)
        return sr, following

    def _compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with self._settings():
            return self._run(*inputs)

    def record(self) -> None:
        """Do nothing: kernels are only recorded on CUDA."""

    def release(self) -> bool:
        """Return False: no memory is kept."""
        return False

    def _settings(self) -> AbstractContextManager[None]:
        if self._device.type != "cuda":
            return nullcontext()
        return exact_on_cuda()

    def _run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results = self._network(*(each.to(self._dtype, memory_format=self._memory_format) for each in inputs))
        return tuple(each.float() for each in ((results,) if isinstance(results, Tensor) else results))


@contextmanager
def _same_stream_after() -> Iterator[None]:
    """Restore the current stream; a recording that fails may leave its own as the current one."""
    computing = torch.cuda.current_stream()
    try:
        yield
    finally:
        torch.cuda.set_stream(computing)


class _Recorded(NamedTuple):
    """Recorded kernels, and the tensors that they read and write."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    results: tuple[Tensor, ...]


class CudaRuntime(TorchRuntime):
    """Runs a network on CUDA, and records the kernels of a shape as a graph, which is launched at once.

    Launching some hundred kernels one by one takes about as long as computing a small frame. A recording keeps the
    memory of its activations, which all shapes share.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> None:
        super().__init__(network, device, dtype, compiled=compiled)
        self._recording = False
        self._seen: set[torch.Size] = set()
        self._recorded: dict[torch.Size, _Recorded] = {}
        self._pool: Any = None
        self._capture_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    def record(self) -> None:
        """Record each shape from its second batch on."""
        self._recording = True

    def release(self) -> bool:
        """Free the recordings and stop recording; return whether there was any."""
        with self._lock:
            kept = bool(self._recorded)
            self._recording = self._recording and not kept
            self._recorded.clear()
            self._seen.clear()
            self._pool = None
        return kept

    def _compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        shape = inputs[0].shape
        with self._lock, self._settings():
            if self._recording and shape in self._seen and shape not in self._recorded:
                try:
                    self._recorded[shape] = self._record(*inputs)
                except RuntimeError as exc:  # continue without recording, as before
                    logger.info("kernels are not recorded: %s", exc)
                    self._recording = False
                if len(self._recorded) > MAX_RECORDED:
                    del self._recorded[next(iter(self._recorded))]
            self._seen.add(shape)
            if (recorded := self._recorded.get(shape)) is None:
                return self._run(*inputs)
            for place, each in zip(recorded.inputs, inputs, strict=True):
                place.copy_(each)
            recorded.graph.replay()
            # Copies, since the next replay overwrites the results.
            return tuple(each.to(torch.float32, copy=True) for each in recorded.results)

    def _record(self, *examples: Tensor) -> _Recorded:
        with torch.cuda.device(self._device), _same_stream_after():  # graphs are captured on the current device
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            inputs = tuple(
                torch.empty_like(each, dtype=self._dtype, memory_format=self._memory_format).zero_()
                for each in examples
            )
            computing = torch.cuda.current_stream()
            self._capture_stream.wait_stream(computing)
            with torch.cuda.stream(self._capture_stream):
                self._network(*inputs)  # do one-time work of a stream before the recording
            computing.wait_stream(self._capture_stream)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": other threads may use the device during the recording, for a decoder or an encoder.
            with torch.cuda.graph(graph, self._pool, self._capture_stream, capture_error_mode="thread_local"):
                results = self._network(*inputs)
        return _Recorded(graph, inputs, (results,) if isinstance(results, Tensor) else tuple(results))


Array = npt.NDArray[np.generic]


class PendingDownload:
    """Tensors that are being copied to main memory."""

    def __init__(self, tensors: Sequence[Tensor], event: torch.cuda.Event | None) -> None:
        self._tensors, self._event = tensors, event

    def wait(self) -> list[Array]:
        """Wait for the copy, and return the tensors as arrays."""
        if self._event is not None:
            self._event.synchronize()
        arrays: list[Array] = [tensor.numpy() for tensor in self._tensors]
        return [array.astype(np.uint16) if array.dtype == np.int32 else array for array in arrays]


class DeviceTransfer:
    """Copies frames to a device and back; used by one thread.

    Attributes:
        depth: number of batches that may be in flight at once, besides the current one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        self.depth = 0
        if device.type == "cuda":
            self._streams = torch.cuda.Stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.depth = 2

    def upload(self, frames: Sequence[Sequence[Array]]) -> list[Tensor]:
        """Copy the planes of frames to the device, each stacked to (N, rows, columns); uint16 if it has that type."""
        planes = [*zip(*frames, strict=True)]
        if self._streams is None:
            return [torch.from_numpy(self._stack(kind)).to(self._device) for kind in planes]
        up, computing = self._streams[0], torch.cuda.current_stream(self._device)
        with torch.cuda.stream(up):
            tensors = [_pinned_stack(kind).to(self._device, non_blocking=True) for kind in planes]
        computing.wait_stream(up)
        for tensor in tensors:
            tensor.record_stream(computing)  # keeps its memory until that stream is done with it
        return tensors

    def _stack(self, planes: Sequence[Array]) -> Array:
        deep = self._device.type in WITHOUT_UINT16 and planes[0].dtype == np.uint16
        return np.stack(planes, dtype=np.int32 if deep else None)

    def download(self, tensors: Sequence[Tensor]) -> PendingDownload:
        """Start to copy tensors of the device to main memory as soon as they are computed."""
        if self._streams is None:
            return PendingDownload([tensor.cpu() for tensor in tensors], None)
        down = self._streams[1]
        down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(down):
            copies = []
            for tensor in tensors:
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                copies.append(host.copy_(tensor, non_blocking=True))
                tensor.record_stream(down)
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(down)
        return PendingDownload(copies, event)


def _pinned_stack(planes: Sequence[Array]) -> Tensor:
    dtype = torch.uint8 if planes[0].dtype == np.uint8 else torch.uint16
    stacked = torch.empty((len(planes), *planes[0].shape), dtype=dtype, pin_memory=True)
    np.stack(planes, out=stacked.numpy())
    return stacked
