"""Upscale frames that a caller holds, in order, without a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vsr.errors import UsageError, setting
from vsr.imaging.arrays import Picture, pixels_of
from vsr.imaging.resize import resize_bicubic
from vsr.inference.engine import ClipUpscaler, Engine, load_model
from vsr.networks.weights import model_covering
from vsr.pipeline.options import UpscaleOptions


def engine_for(options: UpscaleOptions) -> Engine:
    """Load the engine that the options name.

    Raises:
        VsrError: there is no such model or device.
    """
    model = model_covering(options.model, options.scale)
    scale = options.scale if model == "bicubic" else None
    return load_model(
        model, scale=scale, device=options.device, engine=options.engine, precision=options.precision,
        tile_size=options.tile_size, detail=options.detail,
    )  # fmt: skip


def is_steadied(engine: Engine, options: UpscaleOptions) -> bool:
    """Whether to blend each frame with the one before, along the motion.

    Raises:
        UsageError: it is requested of a model without detail.
    """
    if options.steady == "auto":
        return not engine.in_order and engine.adversarial
    if options.steady == "yes" and not engine.has_weights:
        raise UsageError(f"model {engine.name!r} adds no detail that could flicker: leave out {setting('steady')}.")
    return options.steady == "yes"


def upscaled_frames(frames: Iterable[Picture], engine: Engine, options: UpscaleOptions) -> Iterator[Picture]:
    """Yield a result for each frame, of its kind; see ``vsr.upscale_frames``."""
    steadied = is_steadied(engine, options)
    upscaler = ClipUpscaler(engine.with_tile_size(engine.tile_size), steadied=steadied)
    return _upscaled(iter(frames), upscaler, options.scale)


def _upscaled(frames: Iterator[Picture], upscaler: ClipUpscaler, scale: float | None) -> Iterator[Picture]:
    for frame in frames:
        pixels = pixels_of(frame)
        sr, alpha = upscaler.step(pixels)
        if scale is not None:
            height, width = (max(1, round(scale * length)) for length in pixels.values.shape[-2:])
            if sr.shape[-2:] != (height, width):
                sr = resize_bicubic(sr, height, width)
                alpha = None if alpha is None else resize_bicubic(alpha, height, width).clamp_(0, 1)
        yield pixels.wrap(pixels.like(sr, alpha))
