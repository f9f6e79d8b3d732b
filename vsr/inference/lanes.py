"""The ways of planes to a device and back.

On CUDA both copies have streams of their own and pinned memory, so that the planes of one batch come and those of
another go while a third is computed. Pinned buffers are torch's to keep and to reuse: it waits for the copies that use
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.imaging.colour import WITHOUT_UINT16

Array = npt.NDArray[np.generic]


class Landing:
    """Tensors on their way to main memory."""

    def __init__(self, tensors: Sequence[Tensor], event: torch.cuda.Event | None) -> None:
        self._tensors, self._event = tensors, event

    def wait(self) -> list[Array]:
        """Those tensors as arrays, once they have come."""
        if self._event is not None:
            self._event.synchronize()
        arrays: list[Array] = [tensor.numpy() for tensor in self._tensors]
        return [array.astype(np.uint16) if array.dtype == np.int32 else array for array in arrays]


class Lanes:
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

    def download(self, tensors: Sequence[Tensor]) -> Landing:
        """Tensors of the device, sent back as soon as they are computed."""
        if self._streams is None:
            return Landing([tensor.cpu() for tensor in tensors], None)
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
        return Landing(landed, event)


def _pinned_stack(planes: Sequence[Array]) -> Tensor:
    dtype = torch.uint8 if planes[0].dtype == np.uint8 else torch.uint16
    stacked = torch.empty((len(planes), *planes[0].shape), dtype=dtype, pin_memory=True)
    np.stack(planes, out=stacked.numpy())
    return stacked
