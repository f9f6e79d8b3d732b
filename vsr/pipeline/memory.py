"""What the work on a clip may take of memory, and what is said where that does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from vsr.errors import OutOfMemoryError, memory_explained
from vsr.inference.device import available_memory, free_memory, free_swap
from vsr.inference.engine import Engine
from vsr.media.clip import ClipInfo
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.plan import Conversion

LESS_MEMORY = "take a smaller --tile, --batch 1, fewer --jobs or a smaller size"
"""The advice where memory ran out."""

QUEUE_SHARE = 16
"""Frames that wait on one side of the network, in all workers, take one part in so many of the free memory."""

BYTES_PER_PIXEL = 12
"""Of a frame while it is computed: red, green and blue in float32."""

Work = TypeVar("Work", bound=Callable[..., Any])


def names_what_lacks_memory(work: Work) -> Work:
    """Have a function, whose first argument is a source, raise ``OutOfMemoryError`` whatever library lacks memory."""

    @wraps(work)
    def named(source: Path, *args: Any, **kwargs: Any) -> Any:
        with memory_explained(f"upscaling {source}", LESS_MEMORY):
            return work(source, *args, **kwargs)

    return cast(Work, named)


def queue_bytes(options: UpscaleOptions, most: int) -> int:
    """Bytes that may wait on one side of the network in one worker: ``most``, or its share of the free memory."""
    return min(most, available_memory() // (QUEUE_SHARE * options.workers_sharing("cpu")))


def check_frame_fits(clip: ClipInfo, engine: Engine, conversion: Conversion, workers: int) -> None:
    """Refuse frames that cannot be computed whatever the tiles: the system might end the process rather than say no.

    Args:
        clip: the source.
        engine: what upscales.
        conversion: to which size.
        workers: that compute a frame each in the same memory.

    Raises:
        OutOfMemoryError: the frames alone are larger than the free memory.
    """
    upscaled = round(clip.video.height * engine.scale) * round(clip.video.width * engine.scale)
    resized = 0 if conversion.padded else conversion.width * conversion.height
    needed = BYTES_PER_PIXEL * (upscaled + resized) * workers
    free = free_memory(engine.device) + (free_swap() if engine.device.type == "cpu" else 0)
    if needed > free:
        raise OutOfMemoryError(
            f"{clip.path}: a frame of {conversion.width}x{conversion.height} takes {needed / 1e9:.1f} GB on "
            f"{engine.device}{f' in {workers} workers' if workers > 1 else ''}, and {free / 1e9:.1f} GB are free; "
            "take a smaller size or fewer --jobs."
        )
