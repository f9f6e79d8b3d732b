"""A network run by torch; on CUDA by recorded kernels where many frames of a size come."""

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
"""By precision."""

MAX_RECORDED = 8
"""Shapes that are recorded at once: batches that are full or not, of whole frames or tiles."""


@contextmanager
def exact_on_cuda() -> Iterator[None]:
    """Have CUDA compute float32 in float32, by kernels that no race decides; what was set before is set again."""
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

    float32 is float32 on CUDA too, never TF32. Which kernel is taken is not decided by a race, so that two processes
    take the same.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale*H, scale*W), or a recurrent one that takes and gives a state as well; in
            eval mode; moved to the device and converted.
        device: where it runs.
        dtype: float32, float16 or bfloat16.
        compiled: by torch.compile, which joins what stands between the convolutions. The first frame of each shape
            waits half a minute for it; torch keeps what it has compiled, by network, shape, precision and version.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> None:
        # Channels last is what the processors' convolutions compute in; what has no weights has none of these.
        learnt = any(True for _ in network.parameters())
        self._memory_format = torch.channels_last if learnt else torch.preserve_format
        self._device, self._dtype = device, dtype
        self.bytes_per_float = float(dtype.itemsize)
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last)
        self.name = "torch"
        if compiled:
            self.name = "inductor"
            self._network = cast(nn.Module, torch.compile(self._network, dynamic=False))
        self.version = f"{self.name} of torch {torch.__version__}" if compiled else f"torch {torch.__version__}"

    def __call__(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) float -> (N, 3, scale*H, scale*W) float32, both on the device."""
        return self._compute(lr)[0]

    def step(self, lr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """A step of a recurrent network: as a call, and the next state, float32."""
        sr, following = self._compute(lr, state)
        return sr, following

    def _compute(self, *given: Tensor) -> tuple[Tensor, ...]:
        with self._settings():
            return self._run(*given)

    def record(self) -> None:
        """Nothing can be recorded here."""

    def release(self) -> bool:
        """Nothing is kept here."""
        return False

    def _settings(self) -> AbstractContextManager[None]:
        if self._device.type != "cuda":
            return nullcontext()
        return exact_on_cuda()

    def _run(self, *given: Tensor) -> tuple[Tensor, ...]:
        results = self._network(*(each.to(self._dtype, memory_format=self._memory_format) for each in given))
        return tuple(each.float() for each in ((results,) if isinstance(results, Tensor) else results))


@contextmanager
def _same_stream_after() -> Iterator[None]:
    """Compute on the stream of before again; a recording that fails may leave its own as the current one."""
    computing = torch.cuda.current_stream()
    try:
        yield
    finally:
        torch.cuda.set_stream(computing)


class _Recorded(NamedTuple):
    """Kernels that were recorded once, and the tensors that they read and write."""

    graph: torch.cuda.CUDAGraph
    given: tuple[Tensor, ...]
    results: tuple[Tensor, ...]


class CudaRuntime(TorchRuntime):
    """Runs a network on CUDA, where the kernels of a shape can be recorded and launched at once.

    Some hundred of them take the processor about as long to launch as the device to compute a small frame. What was
    recorded keeps the memory of its activations, which all shapes share.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> None:
        super().__init__(network, device, dtype, compiled=compiled)
        self._records = False
        self._seen: set[torch.Size] = set()
        self._recorded: dict[torch.Size, _Recorded] = {}
        self._pool: Any = None
        self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    def record(self) -> None:
        """From now on, record each shape that comes a second time."""
        self._records = True

    def release(self) -> bool:
        """Give up what was recorded, and its memory, and record no more; whether there was anything."""
        with self._lock:
            kept = bool(self._recorded)
            self._records = self._records and not kept
            self._recorded.clear()
            self._seen.clear()
            self._pool = None
        return kept

    def _compute(self, *given: Tensor) -> tuple[Tensor, ...]:
        shape = given[0].shape
        with self._lock, self._settings():
            if self._records and shape in self._seen and shape not in self._recorded:
                try:
                    self._recorded[shape] = self._record(*given)
                except RuntimeError as exc:  # it ran without, and does so still
                    logger.info("kernels are not recorded: %s", exc)
                    self._records = False
                if len(self._recorded) > MAX_RECORDED:
                    del self._recorded[next(iter(self._recorded))]
            self._seen.add(shape)
            if (recorded := self._recorded.get(shape)) is None:
                return self._run(*given)
            for place, each in zip(recorded.given, given, strict=True):
                place.copy_(each)
            recorded.graph.replay()
            # The next replay writes there again.
            return tuple(each.to(torch.float32, copy=True) for each in recorded.results)

    def _record(self, *examples: Tensor) -> _Recorded:
        with torch.cuda.device(self._device), _same_stream_after():  # graphs take the device for theirs
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            given = tuple(
                torch.empty_like(each, dtype=self._dtype, memory_format=self._memory_format).zero_()
                for each in examples
            )
            computing = torch.cuda.current_stream()
            self._aside.wait_stream(computing)
            with torch.cuda.stream(self._aside):
                self._network(*given)  # what kernels do once for a stream is not to be recorded
            computing.wait_stream(self._aside)
            graph = torch.cuda.CUDAGraph()
            # Of this thread alone: others may talk to the device, for a decoder or an encoder.
            with torch.cuda.graph(graph, self._pool, self._aside, capture_error_mode="thread_local"):
                results = self._network(*given)
        return _Recorded(graph, given, (results,) if isinstance(results, Tensor) else tuple(results))


Array = npt.NDArray[np.generic]


class PendingDownload:
    """Tensors on their way to main memory."""

    def __init__(self, tensors: Sequence[Tensor], event: torch.cuda.Event | None) -> None:
        self._tensors, self._event = tensors, event

    def wait(self) -> list[Array]:
        """Those tensors as arrays, once they have come."""
        if self._event is not None:
            self._event.synchronize()
        arrays: list[Array] = [tensor.numpy() for tensor in self._tensors]
        return [array.astype(np.uint16) if array.dtype == np.int32 else array for array in arrays]


class DeviceTransfer:
    """Both ways of one device; used by one thread.

    Attributes:
        depth: batches that may be on their way at once, besides the one that is asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        self.depth = 0
        if device.type == "cuda":
            self._streams = torch.cuda.Stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self.depth = 2

    def upload(self, frames: Sequence[Sequence[Array]]) -> list[Tensor]:
        """The planes of frames, each kind stacked to (N, rows, columns), on the device; of uint16 where it has that."""
        planes = [*zip(*frames, strict=True)]
        if self._streams is None:
            return [torch.from_numpy(self._stack(kind)).to(self._device) for kind in planes]
        up, computing = self._streams[0], torch.cuda.current_stream(self._device)
        with torch.cuda.stream(up):
            tensors = [_pinned_stack(kind).to(self._device, non_blocking=True) for kind in planes]
        computing.wait_stream(up)
        for tensor in tensors:
            tensor.record_stream(computing)  # its memory is not given away before that stream is done with it
        return tensors

    def _stack(self, planes: Sequence[Array]) -> Array:
        deep = self._device.type in WITHOUT_UINT16 and planes[0].dtype == np.uint16
        return np.stack(planes, dtype=np.int32 if deep else None)

    def download(self, tensors: Sequence[Tensor]) -> PendingDownload:
        """Tensors of the device, sent back as soon as they are computed."""
        if self._streams is None:
            return PendingDownload([tensor.cpu() for tensor in tensors], None)
        down = self._streams[1]
        down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(down):
            landed = []
            for tensor in tensors:
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                landed.append(host.copy_(tensor, non_blocking=True))
                tensor.record_stream(down)
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(down)
        return PendingDownload(landed, event)


def _pinned_stack(planes: Sequence[Array]) -> Tensor:
    dtype = torch.uint8 if planes[0].dtype == np.uint8 else torch.uint16
    stacked = torch.empty((len(planes), *planes[0].shape), dtype=dtype, pin_memory=True)
    np.stack(planes, out=stacked.numpy())
    return stacked
