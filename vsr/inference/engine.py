"""The engine: run a network on a device, in batches and tiles that fit into its memory.

``Engine`` upscales batches, ``load_model`` builds one, ``FrameSequence`` upscales the frames of a clip in order, and
``upscale_tiled`` and ``step_tiled`` work in tiles.

Padding affects the result near the edge of a tile. Neighbouring tiles therefore share ``overlap`` pixels: the outer
quarter of the overlap, nearest to each tile's edge, is discarded, and the middle half is blended linearly. All tiles of
a frame have one size, and the grid depends only on the frame's size, so that it does not flicker from frame to frame.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from itertools import product
from math import ceil
from typing import TypedDict, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from vsr.errors import OutOfMemoryError, UsageError, is_out_of_memory, setting
from vsr.imaging.arrays import Picture, Pixels, pixels_of
from vsr.imaging.colour import fill_invisible, rgb_to_codes
from vsr.imaging.motion import Codes, Motion, estimate_motion
from vsr.imaging.resize import resize_bicubic
from vsr.imaging.warping import motion_to_device, steady
from vsr.inference import Precision, RuntimeName
from vsr.inference.backends import build_runtime, has_weights
from vsr.inference.device import choose_device, free_memory, kind_of, operations_per_pixel
from vsr.networks.recurrent import RecurrentGenerator, move_state
from vsr.networks.rewrites import simplify
from vsr.networks.weights import (
    DEFAULT_MODEL,
    Calibration,
    Network,
    is_adversarial,
    load_calibration,
    load_network,
    model_covering,
)

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

OVERLAP = 16
"""LR pixels that neighbouring tiles share: the least power of two at which no pixel of a tiled real frame differs by
more than one code value from the untiled one."""

MIN_TILE_STEP = 16
"""LR pixels that a tile must add to its overlap at least; smaller tiles would consist mostly of overlap."""

MEMORY_SHARE = 0.5
"""Fraction of the free memory that a batch of tiles may use. The rest is for frames in flight."""

MAX_CPU_MEMORY = 2 << 30
"""Bytes that a batch of tiles may use on the CPU, so that a large frame does not fill the memory of a small machine: in
float32 they are enough for 496 x 496 pixels with the paper's generator."""

OPERATIONS_A_SECOND = {"cpu": 2e11, "mps": 2e12, "cuda": 2e13}
"""Approximate speed of a device of each type."""


class _Chosen(TypedDict):
    """The arguments of an ``Engine``, without the network and the device."""

    runtime: RuntimeName
    precision: Precision
    tile_size: int | None
    overlap: int
    calibration: Calibration | None
    sharing: int
    name: str
    adversarial: bool
    detail: float


class Engine:
    """A super-resolution network, ready to run.

    Args:
        network: (N, 3, H, W) RGB in [0, 1] -> (N, 3, scale*H, scale*W), or a recurrent one, which accepts and returns a
            state too. Changed in place: it is rewritten for inference, weights are moved and converted.
        device: ``auto`` (CUDA, then MPS, then CPU), or a device of torch's or its name.
        runtime: ``torch``, ``inductor``, ``openvino``, or ``auto``: OpenVINO on the CPU where it can, torch elsewhere.
        precision: ``auto`` is fp16 on CUDA and fp32 elsewhere.
        tile_size: the largest edge of a tile in LR pixels; None: what fits; 0: never tile.
        overlap: LR pixels that neighbouring tiles share.
        calibration: needed for int8.
        sharing: how many engines, this one among them, share the device's memory.
        name: of the model; empty: the network's kind.
        adversarial: whether the network invents texture, which flickers from frame to frame unless it is steadied.
        detail: amount of texture that the weights were blended for.

    Raises:
        UsageError: an unknown device, a tile size that is too small, or a precision that device and runtime lack.
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
        name: str = "",
        adversarial: bool = False,
        detail: float = 1.0,
    ) -> None:
        if tile_size and tile_size <= overlap:
            raise UsageError(f"tiles share {overlap} pixels, so a tile of {tile_size} is too small.")
        self.device = choose_device(device)
        description = cast(Network, network)
        self.scale: float = description.scale
        self.overlap = overlap
        self._least_tile = overlap + MIN_TILE_STEP
        self.tile_size = tile_size
        """The largest edge of a tile as it was chosen, in LR pixels; None: what fits; 0: never tile."""
        self.name = name or type(network).__name__
        """Name or path of the model."""
        self.adversarial = adversarial
        """Whether the network invents texture, which flickers from frame to frame unless it is steadied."""
        self.detail = detail
        """Amount of texture that the weights were blended for."""
        self._chosen: _Chosen = {
            "runtime": runtime, "precision": precision, "overlap": overlap, "calibration": calibration,
            "sharing": sharing, "name": name, "adversarial": adversarial, "tile_size": tile_size,
            "detail": detail,
        }  # fmt: skip
        self._sharing = sharing
        self._clips = description.wants_unit_range
        self.recurrent = network if isinstance(network, RecurrentGenerator) else None
        """The network, if it is recurrent; ``step`` runs it."""
        self.has_weights = has_weights(network)
        """Whether the network has parameters."""
        self._tiles: dict[tuple[int, int], int] = {}  # by height and width: the tile ...
        self._counts: dict[tuple[int, int], int] = {}  # ... and the largest batch that it was chosen for
        simplify(network.eval().requires_grad_(False))
        self._operations_per_pixel = operations_per_pixel(network) if self.has_weights else 0.0
        self._network = network
        weights = _digest_of(network)
        self.precision, self._runtime = build_runtime(
            network, self.device, runtime=runtime, precision=precision, calibration=calibration
        )
        self.reset()
        self._digest = f"{weights} {calibration}" if self.precision == "int8" else weights
        self._exact: Engine | None = None
        self._floats_per_pixel = description.peak_floats_per_pixel
        self.overflowed = 0
        """Number of frames that overflowed in half precision, and were computed again in float32."""
        self.on_smaller_tile: Callable[[int], None] = lambda tile_size: None
        """Called if memory runs out, with the new tile size in LR pixels."""

    def __repr__(self) -> str:
        return f"Engine({self.name!r}, x{self.scale:g}, {self.device}, {self.runtime}, {self.precision})"

    def to(self, device: str | torch.device) -> Engine:
        """Return an engine with this network on another device; this one if it is there already.

        Runtime and precision stay as they were chosen; ``auto`` is decided anew. The network is copied.

        Raises:
            UsageError: an unknown device, or one that lacks the runtime or the precision.
        """
        if choose_device(device) == self.device:
            return self
        return Engine(deepcopy(self._network), device=device, **self._chosen)

    def with_tile_size(self, tile_size: int | None) -> Engine:
        """Return an engine with the same network on the same device, but tiles, clip and counts of its own."""
        other = copy(self)
        other.tile_size, other._tiles, other._counts = tile_size, {}, {}
        other._chosen = {**self._chosen, "tile_size": tile_size}
        other._exact, other.overflowed = None, 0
        other.on_smaller_tile = lambda tile_size: None
        other.reset()
        return other

    @property
    def runtime(self) -> str:
        """The runtime's name: ``torch``, ``inductor`` or ``openvino``."""
        return self._runtime.name

    @property
    def in_order(self) -> bool:
        """Whether a frame's result depends on the frames before it."""
        return self.recurrent is not None

    @property
    def kind(self) -> str:
        """The kind of the device, as ``device.kind_of`` names it."""
        return kind_of(self.device)

    @property
    def version(self) -> str:
        """The runtime's name and version, as text."""
        return self._runtime.version

    @torch.inference_mode()
    def __call__(self, lr: Tensor) -> Tensor:
        """Upscale a batch. If memory runs out, it is computed again without recorded kernels, then with half the tile
        size.

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
        """Upscale a batch as a call does, but keep values that overflowed in half precision. On CUDA it returns before
        the device has finished, unless frames are tiled. A recurrent network treats each frame as the first of a clip.
        """
        if self.recurrent is not None:
            return self.step(lr, self.recurrent.initial_state(lr))[0]
        runtime, scale, overlap = self._runtime, int(self.scale), self.overlap
        lr = self._in_range(lr)

        def tiled(tile_size: int) -> Tensor:
            return upscale_tiled(runtime, lr, scale=scale, tile_size=tile_size, overlap=overlap)

        return self._run_fitting(lr, lambda: runtime(lr), tiled)

    @torch.inference_mode()
    def step(self, lr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run a step of a recurrent network; values that overflowed in half precision are kept.

        Args:
            lr: (N, 3, H, W) float RGB, nominally in [0, 1], on the engine's device.
            state: (N, S, H, W) float32: the network's ``initial_state``, or the state from the step before.

        Returns:
            (N, 3, scale*H, scale*W) float32, not clipped, and the next state.

        Raises:
            OutOfMemoryError: not even the smallest tile fits into memory.
        """
        runtime, scale, overlap = self._runtime, int(self.scale), self.overlap
        lr = self._in_range(lr)

        def tiled(tile_size: int) -> tuple[Tensor, Tensor]:
            return step_tiled(runtime.step, lr, state, scale=scale, tile_size=tile_size, overlap=overlap)

        return self._run_fitting(lr, lambda: runtime.step(lr, state), tiled)

    def _in_range(self, lr: Tensor) -> Tensor:
        return lr.clamp(0, 1) if self._clips else lr

    def _run_fitting(self, lr: Tensor, whole: Callable[[], Result], tiled: Callable[[int], Result]) -> Result:
        """Compute a batch whole, or in tiles if it does not fit into memory."""
        count, _, height, width = lr.shape
        while True:
            tile_size = self.tile_for(count, height, width)
            try:
                return whole() if tile_size >= max(height, width) else tiled(tile_size)
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc):
                    raise
                failure = exc.with_traceback(None)  # the traceback holds the activations
            if not self._runtime.release():
                self._shrink_tile(min(tile_size, max(height, width)), height, width, failure)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def finite(self, sr: Tensor) -> Tensor:
        """Return (N,) bool on the device: whether all values of a frame are finite; without half precision True."""
        if self.precision not in ("fp16", "bf16"):
            return torch.ones(len(sr), dtype=torch.bool, device=sr.device)
        return torch.isfinite(sr).flatten(1).all(1)

    @torch.inference_mode()
    def run_exactly(self, lr: Tensor) -> Tensor:
        """Upscale in float32 frames that overflowed in half precision, and count them."""
        return self._in_float32(len(lr)).run(lr)

    @torch.inference_mode()
    def step_exactly(self, lr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run ``step`` in float32 for frames that overflowed in half precision, and count them."""
        return self._in_float32(len(lr)).step(lr, state)

    def _in_float32(self, frames: int) -> Engine:
        if self._exact is None:
            logger.warning("some frames overflow in half precision; they are computed again in float32")
            self._exact = Engine(
                deepcopy(self._network), device=str(self.device), runtime="torch", precision="fp32",
                tile_size=self.tile_size, overlap=self.overlap, sharing=self._sharing,
            )  # fmt: skip
        self.overflowed += frames
        return self._exact

    def record(self) -> None:
        """Prepare for many frames of one size: on CUDA their kernels are recorded, and launched at once."""
        self._runtime.record()

    def _shrink_tile(self, tried: int, height: int, width: int, cause: RuntimeError | MemoryError) -> None:
        if tried <= self._least_tile or self.scale != int(self.scale):
            elsewhere = "" if self.device.type == "cpu" else f" or {setting('device', 'cpu')}"
            less = f"{setting('batch_size', 1, flag='--batch')}, fewer {setting('jobs')}{elsewhere}"
            raise OutOfMemoryError(
                f"{self.device} has too little free memory for a tile of {tried} pixels, "
                f"of frames of {width}x{height}; free some of it, or use {less}."
            ) from cause
        self._tiles[height, width] = smaller = max(tried // 2, self._least_tile)
        logger.warning("out of memory on %s: continuing with tiles of %d pixels", self.device, smaller)
        self.on_smaller_tile(smaller)

    def upscale(self, lr: Picture) -> Picture:
        """Upscale pictures; with a recurrent model, the next frames of a clip in order.

        The result is of the same kind, dtype and layout. Alpha is enlarged by bicubic interpolation, and grey stays
        grey. A clip, which is an array or tensor with an axis for its frames, continues from call to call; ``reset`` or
        another size begins a new one. A single picture is upscaled by itself.

        Args:
            lr: NumPy array (N, H, W, C), (H, W, C) or (H, W), or torch tensor (N, C, H, W), (C, H, W) or (H, W), of
                uint8, uint16 or floats in [0, 1]; or a PIL picture. C is 1 for grey, 2 for grey with alpha, 3 for RGB,
                4 for RGB with alpha.

        Returns:
            the same, scale times as high and wide; floats are clipped to [0, 1].

        Raises:
            TypeError: another kind or dtype.
            ValueError: another shape.
        """
        pixels: Pixels[Picture] = pixels_of(lr, batches=True)
        count, _, height, width = pixels.values.shape
        if self.recurrent is not None and not isinstance(lr, Image.Image) and lr.ndim == 4:
            results = [self._upscale_next(pixels.part(at, at + 1)) for at in range(count)]
        else:
            size = self.batch_size(height, width)
            results = [self._upscale_batch(pixels.part(at, at + size)) for at in range(0, count, size)]
        return pixels.wrap(torch.cat(results))

    def reset(self) -> None:
        """Begin a new clip: a recurrent model forgets the frames before."""
        self._clip = ClipUpscaler(self)

    def _upscale_next(self, frame: Pixels[Picture]) -> Tensor:
        return frame.like(*self._clip.step(frame))

    @torch.inference_mode()
    def _upscale_batch(self, pixels: Pixels[Picture]) -> Tensor:
        lr, alpha = self.lr_of(pixels)
        sr = self(lr)
        return pixels.like(sr, None if alpha is None else resize_bicubic(alpha, *sr.shape[-2:]).clamp_(0, 1))

    def lr_of(self, pixels: Pixels[Picture]) -> tuple[Tensor, Tensor | None]:
        """Return the network's input, (N, 3, H, W), and the alpha, (N, 1, H, W), on the device.

        Transparent pixels have the colour of the visible ones around them, as the network's filters would mix hidden
        colours into visible edges.
        """
        lr, alpha = pixels.rgb(self.device), pixels.alpha(self.device)
        if alpha is not None and (self.has_weights or self.scale != 1):
            lr = fill_invisible(lr, alpha)
        return lr, alpha

    def digest(self) -> str:
        """Return a digest of the network's name, scale and weights, and for int8 of the calibration."""
        return self._digest

    def batch_size(self, height: int, width: int) -> int:
        """Return how many frames of a size to run at once: one on the CPU, where more gain nothing; else what fits."""
        if self.device.type == "cpu":
            return 1
        return max(1, min(4, self._max_pixels() // (height * width)))

    def tile_for(self, count: int, height: int, width: int) -> int:
        """Return the largest edge of a tile for ``count`` frames of a size, in LR pixels.

        It is decided once, by the free memory at that time, so that all frames have the same grid.
        """
        whole = max(height, width)
        if self.scale != int(self.scale):
            return whole  # tiles would not end on whole pixels
        if count > self._counts.get((height, width), 0):
            self._counts[height, width] = count
            pixels = self._max_pixels() // count
            fitting = whole if pixels >= height * width else max(self._least_tile, math.isqrt(pixels))
            self._tiles[height, width] = fitting if self.tile_size is None else self.tile_size or whole
        return self._tiles[height, width]

    def seconds_of(self, count: int, height: int, width: int) -> float:
        """Measure the wall time of a batch of ``count`` frames of a size, in seconds."""
        lr = torch.zeros(count, 3, height, width, device=self.device)
        started = time.perf_counter()
        self.run(lr).flatten()[0].item()  # waits for the device
        return time.perf_counter() - started

    def usual_seconds_of(self, height: int, width: int) -> float:
        """Estimate the seconds for a frame of a size on a device of this type; the same on all machines at any time."""
        return self._operations_per_pixel * height * width / OPERATIONS_A_SECOND[self.device.type]

    def _max_pixels(self) -> int:
        """Return how many LR pixels can be upscaled at once."""
        budget = int(MEMORY_SHARE * free_memory(self.device) / self._sharing)
        if self.device.type == "cpu":
            budget = min(budget, MAX_CPU_MEMORY)
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
        model: name or path; or a family such as ``srgan``, of which the model of that scale, or the largest, is taken.
        scale: the required scale; None: the model's own.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``, or a torch device.
        precision: ``auto`` is fp16 on CUDA and fp32 elsewhere; fp32 is never TF32; int8 is for the CPU.
        tile_size: the largest edge of a tile in LR pixels; None: what fits; 0: never tile.
        detail: amount of texture of an adversarial model, from 0 (faithful) to 1 (sharp).
        engine: ``torch``, ``inductor`` (torch.compile), ``openvino``, or ``auto``: OpenVINO on the CPU where it can,
            torch elsewhere.
        sharing: how many engines, this one among them, share the device's memory.

    Raises:
        UnknownModelError: no such model.
        UsageError: the model lacks the scale, or the device does not exist or lacks the precision.
        WeightsError: the file is damaged or of another kind.
    """
    model = model_covering(os.fspath(model), scale)
    network = load_network(model, scale=scale, detail=detail)
    calibration = load_calibration(model, detail) if precision == "int8" else None
    return Engine(
        network, device=device, runtime=engine, precision=precision, tile_size=tile_size, calibration=calibration,
        sharing=sharing, name=model, adversarial=is_adversarial(model, detail),
        detail=detail,
    )  # fmt: skip


class FrameSequence:
    """Upscales the frames of a clip in order, with a state or a blend from the frames before.

    Args:
        engine: the engine.
        steadied: whether each result is blended with the one before, see ``vsr.imaging.motion``.
    """

    def __init__(self, engine: Engine, *, steadied: bool = False) -> None:
        self._engine, self._steadied = engine, steadied
        self.reset()

    def reset(self) -> None:
        """Begin a new clip: forget all frames."""
        self._state: Tensor | None = None
        self._last: Tensor | None = None

    @torch.inference_mode()
    def step(self, lr: Tensor, motions: Sequence[Motion | None]) -> Tensor:
        """Upscale the next frames. The caller leaves out frames that equal the one before: their result is the same.

        Args:
            lr: (N, 3, H, W) float RGB, nominally in [0, 1], on the engine's device.
            motions: N motions, from the frame before to each frame; None or a cut begins a new clip.

        Returns:
            (N, 3, scale*H, scale*W) float32 on the same device, not clipped.
        """
        alone = self._engine(lr) if self._engine.recurrent is None else None
        results = []
        for number, motion in enumerate(motions):
            frame = slice(number, number + 1)
            if motion is None or motion.is_cut:
                self.reset()
            moved = None if self._state is None and self._last is None else self._on_device(motion)
            sr = self._step(lr[frame], moved) if alone is None else alone[frame]
            if self._last is not None and moved is not None:
                sr = steady(sr, self._last, moved, scale=int(self._engine.scale))
            self._last = sr if self._steadied else None
            results.append(sr)
        return torch.cat(results)

    def _on_device(self, motion: Motion | None) -> Tensor | None:
        network = self._engine.recurrent
        needs_motion = self._steadied or (network is not None and network.aligned)
        return motion_to_device(motion, self._engine.device) if needs_motion and motion is not None else None

    def _step(self, lr: Tensor, motion: Tensor | None) -> Tensor:
        engine, network, state = self._engine, self._engine.recurrent, self._state
        assert network is not None
        if state is None:
            state = network.initial_state(lr)
        elif network.aligned and motion is not None:
            flow, trust = motion[:, :2].permute(0, 2, 3, 1), motion[:, 2]
            state = move_state(state, flow, trust)
        sr, next_state = engine.step(lr, state)
        if not bool(engine.finite(sr).all() & engine.finite(next_state).all()):
            sr, next_state = engine.step_exactly(lr, state)
        self._state = next_state
        return sr


class ClipUpscaler:
    """Upscales frames of any kind in order: with the state of a recurrent network, steadied, or each by itself.

    A change of size begins a new clip; a frame equal to the one before repeats its result.

    Args:
        engine: the engine.
        steadied: as for ``FrameSequence``.
    """

    def __init__(self, engine: Engine, *, steadied: bool = False) -> None:
        self._engine = engine
        self._needs_motion = steadied or engine.in_order
        self._sequence = FrameSequence(engine, steadied=steadied)
        self._values: Tensor | None = None  # of the frame before
        self._codes: Codes | None = None
        self._result: tuple[Tensor, Tensor | None] | None = None

    @torch.inference_mode()
    def step(self, frame: Pixels[Picture]) -> tuple[Tensor, Tensor | None]:
        """Return a frame's result: (1, 3, h, w) RGB, not clipped, and the alpha, (1, 1, h, w) in [0, 1], or None."""
        before, values = self._values, frame.values
        if before is not None and before.shape[-2:] != values.shape[-2:]:
            self._codes = None
        elif self._result is not None and before is not None and _equal(before, values):
            return self._result
        lr, alpha = self._engine.lr_of(frame)
        motion = None
        if self._needs_motion:
            codes = rgb_to_codes(frame.rgb(torch.device("cpu")).clone())[0]
            motion = None if self._codes is None else estimate_motion(self._codes, codes)
            self._codes = codes
        sr = self._sequence.step(lr, [motion])
        alpha = None if alpha is None else resize_bicubic(alpha, *sr.shape[-2:]).clamp_(0, 1)
        self._values, self._result = values.clone(), (sr, alpha)  # a copy: callers reuse their buffers
        return sr, alpha


def _equal(frame: Tensor, other: Tensor) -> bool:
    same = (frame.dtype, frame.shape, frame.device) == (other.dtype, other.shape, other.device)
    return same and torch.equal(frame, other)


def tile_starts(length: int, tile_size: int, overlap: int) -> tuple[list[int], int]:
    """Place tiles along one axis so that they cover it with the least work.

    Args:
        length: pixels of the axis.
        tile_size: the largest length of a tile.
        overlap: pixels that neighbours share at least; less than ``tile_size``.

    Returns:
        the first pixel of each tile, and the length of a tile.

    Raises:
        ValueError: ``tile_size`` is not larger than ``overlap``.
    """
    if tile_size <= overlap:
        raise ValueError(f"tiles of {tile_size} pixels must be larger than their overlap of {overlap}")
    if length <= tile_size:
        return [0], length
    count = ceil((length - overlap) / (tile_size - overlap))
    size = ceil((length + (count - 1) * overlap) / count)
    return [round(index * (length - size) / (count - 1)) for index in range(count)], size


def blend_weights(starts: list[int], size: int, length: int, scale: int) -> Tensor:
    """Return the weight of each tile in each pixel of the result along one axis.

    Args:
        starts: first LR pixel of each tile.
        size: LR pixels of a tile.
        length: LR pixels of the axis.
        scale: output size over input size.

    Returns:
        (tiles, size * scale) float32; the weights of a pixel sum to one over all tiles.
    """
    position = torch.arange(size * scale, dtype=torch.float64) + 0.5
    weights = torch.ones(len(starts), size * scale, dtype=torch.float64)
    for index, (left, right) in enumerate(zip(starts, starts[1:], strict=False)):
        shared = (left + size - right) * scale
        rising = ((position - shared / 4) / max(shared / 2, 1)).clamp(0, 1)
        weights[index + 1] *= rising
        weights[index] *= rising.flip(0)
    total = torch.zeros(length * scale, dtype=torch.float64)
    spans = [slice(start * scale, (start + size) * scale) for start in starts]
    for span, weight in zip(spans, weights, strict=True):
        total[span] += weight
    return torch.stack([weight / total[span] for span, weight in zip(spans, weights, strict=True)]).float()


def upscale_tiled(
    network: Callable[[Tensor], Tensor], lr: Tensor, *, scale: int, tile_size: int, overlap: int
) -> Tensor:
    """Run ``network`` tile by tile and blend the results.

    Args:
        network: (N, 3, h, w) -> (N, 3, scale*h, scale*w).
        lr: (N, 3, H, W).
        scale: the network's scale.
        tile_size: the largest edge of a tile, in LR pixels.
        overlap: LR pixels that neighbouring tiles share at least.

    Returns:
        (N, 3, scale*H, scale*W) float32 on the device of ``lr``.
    """
    return _tiled(lambda tile: (network(tile),), (lr,), (scale,), tile_size, overlap)[0]


def step_tiled(
    network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    lr: Tensor, state: Tensor, *, scale: int, tile_size: int, overlap: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run a step of a recurrent ``network`` tile by tile; the tiles are cut from one state and blended into the next.

    Args:
        network: (N, 3, h, w) and (N, S, h, w) -> (N, 3, scale*h, scale*w) and (N, S, h, w).
        lr: (N, 3, H, W).
        state: (N, S, H, W).
        scale: the network's scale.
        tile_size: the largest edge of a tile, in LR pixels.
        overlap: LR pixels that neighbouring tiles share at least.

    Returns:
        (N, 3, scale*H, scale*W) and (N, S, H, W), float32 on the device of ``lr``.
    """
    sr, next_state = _tiled(network, (lr, state), (scale, 1), tile_size, overlap)
    return sr, next_state


def _tiled(
    network: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], scales: tuple[int, ...], tile_size: int,
    overlap: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Run ``network`` tile by tile on tensors of one size; each result has the channels of its input, times a scale."""
    first = inputs[0]
    height, width = first.shape[-2:]
    tops, rows = tile_starts(height, tile_size, overlap)
    lefts, columns = tile_starts(width, tile_size, overlap)
    down = [blend_weights(tops, rows, height, scale).to(first.device) for scale in scales]
    across = [blend_weights(lefts, columns, width, scale).to(first.device) for scale in scales]
    results = tuple(
        torch.zeros(len(first), each.shape[1], height * scale, width * scale, device=first.device)
        for each, scale in zip(inputs, scales, strict=True)
    )
    for (i, top), (j, left) in product(enumerate(tops), enumerate(lefts)):
        tiles = network(*(each[..., top : top + rows, left : left + columns] for each in inputs))
        for number, (tile, scale) in enumerate(zip(tiles, scales, strict=True)):
            target = results[number][
                ..., top * scale : (top + rows) * scale, left * scale : (left + columns) * scale
            ]
            target.addcmul_(tile.float(), torch.outer(down[number][i], across[number][j]))
    return results
