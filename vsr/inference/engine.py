"""The engine: a network on a device, batches and tiles that fit into its memory."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable
from copy import deepcopy
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vsr.errors import OutOfMemoryError, UsageError, is_out_of_memory
from vsr.inference.device import choose_device, free_memory, kind_of
from vsr.inference.runtimes import Precision, RuntimeName, build_runtime, has_weights
from vsr.inference.tiling import upscale_tiled
from vsr.networks.models import DEFAULT_MODEL, load_calibration, load_network
from vsr.networks.rewrites import simplify
from vsr.networks.weights import Calibration, Network

logger = logging.getLogger(__name__)

OVERLAP = 16
"""LR pixels that neighbouring tiles share: the least power of two at which no pixel of a tiled real frame differs by
more than one code value from the untiled one."""

LEAST_STEP = 16
"""LR pixels that a tile must add to its overlap at least; smaller ones compute little but overlap."""

MEMORY_SHARE = 0.5
"""Of the free memory, what a batch of tiles may take. The rest is for frames on their way."""

MOST_ON_CPU = 2 << 30
"""Bytes that a batch of tiles may take on the CPU, so that a large frame leaves a small machine its memory: in float32
the paper's generator finds room for 496 x 496 pixels."""


class Engine:
    """A super-resolution network, ready to run.

    Args:
        network: (N, 3, H, W) RGB in [0, 1] -> (N, 3, scale*H, scale*W). Changed in place: it is rewritten for
            inference, weights are moved and converted.
        device: ``auto`` (CUDA, then MPS, then CPU), or a device of torch's or its name.
        runtime: ``torch``, ``inductor``, ``openvino``, or ``auto``: OpenVINO on the CPU where it can, torch elsewhere.
        precision: ``auto`` is fp16 on CUDA and fp32 elsewhere.
        tile_size: the largest edge of a tile in LR pixels; None: what fits; 0: never tile.
        overlap: LR pixels that neighbouring tiles share.
        calibration: what int8 needs.
        sharing: how many engines, this one among them, share the device's memory.

    Raises:
        UsageError: a device or a tile size that cannot be, or a precision that they do not have together.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        device: str | torch.device = "auto",
        runtime: RuntimeName = "auto",
        precision: Precision = "auto",
        tile_size: int | None = None,
        overlap: int = OVERLAP,
        calibration: Calibration | None = None,
        sharing: int = 1,
    ) -> None:
        if tile_size and tile_size <= overlap:
            raise UsageError(f"tiles share {overlap} pixels, so a tile of {tile_size} is too small.")
        self.device = choose_device(device)
        described = cast(Network, network)
        self.scale: float = described.scale
        self.overlap = overlap
        self._least_tile = overlap + LEAST_STEP
        self._tile_size = tile_size
        self._sharing = sharing
        self._clips = described.wants_unit_range
        self.has_weights = has_weights(network)
        """Whether there is something learnt to compute."""
        self._tiles: dict[tuple[int, int], int] = {}  # by height and width: the tile ...
        self._counts: dict[tuple[int, int], int] = {}  # ... and the largest batch that it was chosen for
        simplify(network.eval().requires_grad_(False))
        self._network = network
        weights = _digest_of(network)
        self.precision, self._runtime = build_runtime(
            network, self.device, runtime=runtime, precision=precision, calibration=calibration
        )
        self._digest = f"{weights} {calibration}" if self.precision == "int8" else weights
        self._exact: Engine | None = None
        self._floats_per_pixel = described.peak_floats_per_pixel
        self.overflowed = 0
        """Frames that half precision could not hold, and that were done again in float32."""
        self.on_smaller_tile: Callable[[int], None] = lambda tile_size: None
        """Called where memory ran out, with the tile that it goes on with, in LR pixels."""

    @property
    def runtime(self) -> str:
        """What runs the network: ``torch``, ``inductor`` or ``openvino``."""
        return self._runtime.name

    @property
    def kind(self) -> str:
        """Of the device, as ``device.kind_of`` names it."""
        return kind_of(self.device)

    @property
    def version(self) -> str:
        """The runtime's name and version, in words."""
        return self._runtime.version

    @torch.inference_mode()
    def __call__(self, lr: Tensor) -> Tensor:
        """Upscale a batch; on out-of-memory the tile is halved and the same batch done again, by kernels that are not
        recorded if they were.

        Args:
            lr: (N, 3, H, W) float RGB, nominally in [0, 1], on the engine's device.

        Returns:
            (N, 3, round(scale*H), round(scale*W)) float32 on the same device, not clipped.

        Raises:
            OutOfMemoryError: not even the smallest tile fits into memory.
        """
        sr = self.run(lr)
        finite = self.finite(sr)
        if not bool(finite.all()):
            sr = sr.clone()
            sr[~finite] = self.run_exactly(lr[~finite])
        return sr

    @torch.inference_mode()
    def run(self, lr: Tensor) -> Tensor:
        """As a call, but that what half precision cannot hold is left as it came out. On CUDA it returns before
        the device is done, unless frames are tiled."""
        if self._clips:
            lr = lr.clamp(0, 1)
        runtime = self._runtime
        count, _, height, width = lr.shape
        while True:
            tile_size = self.tile_for(count, height, width)
            try:
                if tile_size >= max(height, width):
                    return runtime(lr)
                return upscale_tiled(runtime, lr, scale=int(self.scale), tile_size=tile_size, overlap=self.overlap)
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc):
                    raise
                failure = exc.with_traceback(None)  # which holds the activations
            if not runtime.release():
                self._shrink_tile(min(tile_size, max(height, width)), height, width, failure)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def finite(self, sr: Tensor) -> Tensor:
        """(N,) bool on the device: of which frames ``run`` could hold all values."""
        if self.precision not in ("fp16", "bf16"):
            return torch.ones(len(sr), dtype=torch.bool, device=sr.device)
        return torch.isfinite(sr).flatten(1).all(1)

    @torch.inference_mode()
    def run_exactly(self, lr: Tensor) -> Tensor:
        """As a call, in float32; for what half precision could not hold, which is counted here."""
        if self._exact is None:
            logger.warning("half precision cannot hold all frames; such are done again in float32")
            self._exact = Engine(
                deepcopy(self._network), device=str(self.device), runtime="torch", precision="fp32",
                tile_size=self._tile_size, overlap=self.overlap, sharing=self._sharing,
            )  # fmt: skip
        self.overflowed += len(lr)
        return self._exact.run(lr)

    def record(self) -> None:
        """Many frames of a size are to come: on CUDA their kernels are recorded, and launched at once."""
        self._runtime.record()

    def _shrink_tile(self, tried: int, height: int, width: int, cause: RuntimeError | MemoryError) -> None:
        if tried <= self._least_tile or self.scale != int(self.scale):
            elsewhere = "" if self.device.type == "cpu" else " or --device cpu"
            raise OutOfMemoryError(
                f"{self.device} has too little free memory for a tile of {tried} pixels, "
                f"of frames of {width}x{height}; close what else uses it, or take --batch 1, fewer --jobs{elsewhere}."
            ) from cause
        self._tiles[height, width] = smaller = max(tried // 2, self._least_tile)
        logger.warning("out of memory on %s: going on with tiles of %d pixels", self.device, smaller)
        self.on_smaller_tile(smaller)

    def upscale(self, lr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Upscale pictures.

        Args:
            lr: uint8 RGB (N, H, W, 3) or (H, W, 3).

        Returns:
            uint8 RGB of the same number of axes, scale times as high and wide.

        Raises:
            ValueError: another dtype or shape.
        """
        if lr.dtype != np.uint8 or lr.ndim not in (3, 4) or lr.shape[-1] != 3 or 0 in lr.shape:
            raise ValueError(f"expected uint8 RGB (N, H, W, 3) or (H, W, 3), got {lr.dtype} {lr.shape}")
        frames = lr if lr.ndim == 4 else lr[None]
        size = self.batch_size(*frames.shape[1:3])
        batches = [self._upscale_batch(frames[start : start + size]) for start in range(0, len(frames), size)]
        sr = np.concatenate(batches)
        return sr if lr.ndim == 4 else sr[0]

    @torch.inference_mode()
    def _upscale_batch(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        # A copy: torch warns of arrays that are read-only, as those of picture libraries often are.
        lr = torch.from_numpy(np.array(frames, order="C")).to(self.device).permute(0, 3, 1, 2)
        sr = self(lr.float() / 255).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        return cast("npt.NDArray[np.uint8]", sr.permute(0, 2, 3, 1).contiguous().cpu().numpy())

    def digest(self) -> str:
        """Of the weights, as they are used, and of what int8 knows of them; without weights of the name and scale."""
        return self._digest

    def batch_size(self, height: int, width: int) -> int:
        """How many frames of a size to run at once: one on the CPU, where more win nothing; what fits elsewhere."""
        if self.device.type == "cpu":
            return 1
        return max(1, min(4, self._fitting_pixels() // (height * width)))

    def tile_for(self, count: int, height: int, width: int) -> int:
        """The largest edge of a tile for ``count`` frames of a size, in LR pixels.

        Decided once, by the memory that is free then, so that the grid is the same in all of them.
        """
        whole = max(height, width)
        if self.scale != int(self.scale):
            return whole  # tiles would not end on whole pixels
        if count > self._counts.get((height, width), 0):
            self._counts[height, width] = count
            pixels = self._fitting_pixels() // count
            fitting = whole if pixels >= height * width else max(self._least_tile, math.isqrt(pixels))
            self._tiles[height, width] = fitting if self._tile_size is None else self._tile_size or whole
        return self._tiles[height, width]

    def seconds_of(self, count: int, height: int, width: int) -> float:
        """How long a batch of ``count`` frames of a size takes, by the wall clock."""
        lr = torch.zeros(count, 3, height, width, device=self.device)
        started = time.perf_counter()
        self.run(lr).flatten()[0].item()  # waits for the device
        return time.perf_counter() - started

    def _fitting_pixels(self) -> int:
        """How many LR pixels can be upscaled at once."""
        budget = int(MEMORY_SHARE * free_memory(self.device) / self._sharing)
        if self.device.type == "cpu":
            budget = min(budget, MOST_ON_CPU)
        # Convolutions on CUDA index with 32 bits, and no activation holds more than half of the peak.
        elements = 2**31 * 2 if self.device.type == "cuda" else budget
        return int(min(budget / self._runtime.bytes_per_float, elements) / self._floats_per_pixel)


def _digest_of(network: nn.Module) -> str:
    digest = hashlib.blake2b(f"{type(network).__name__} {cast(Network, network).scale}".encode(), digest_size=16)
    for weights in network.state_dict().values():
        digest.update(weights.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_model(
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    scale: float | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    tile_size: int | None = None,
    detail: float = 1,
    engine: RuntimeName = "auto",
    sharing: int = 1,
) -> Engine:
    """Load a shipped model by name, a built-in one (``bicubic``, ``identity``), or a weights file by path.

    Args:
        model: name or path.
        scale: what it has to scale by; None takes the model's own.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``, or a device of torch's.
        precision: ``auto`` is fp16 on CUDA and fp32 elsewhere; fp32 is never TF32; int8 is for the CPU.
        tile_size: the largest edge of a tile in LR pixels; None: what fits; 0: never tile.
        detail: of an adversarial model, from 0, faithful, to 1, sharp.
        engine: ``torch``, ``inductor`` (torch.compile), ``openvino``, or ``auto``: OpenVINO on the CPU where it can,
            torch elsewhere.
        sharing: how many engines, this one among them, share the device's memory.

    Raises:
        UnknownModelError: no such model.
        UsageError: the model lacks the scale, the device does not exist, or they have no such precision together.
        WeightsError: the file is damaged or of another kind.
    """
    network = load_network(model, scale=scale, detail=detail)
    calibration = load_calibration(model, detail) if precision == "int8" else None
    return Engine(
        network, device=device, runtime=engine, precision=precision, tile_size=tile_size, calibration=calibration,
        sharing=sharing,
    )  # fmt: skip
