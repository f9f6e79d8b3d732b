"""A run of frames: decoded, upscaled and encoded, the three at the same time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vsr.imaging.colour import alpha_of, alpha_to_plane, planes_to_rgb, rgb_to_planes
from vsr.imaging.resize import resize_bicubic
from vsr.inference.engine import Engine
from vsr.media.pixels import Plane
from vsr.media.reader import Frame
from vsr.pipeline.flow import Ahead, Behind
from vsr.pipeline.plan import Conversion

QUEUE_BYTES = 128 << 20
"""What may wait on either side of the network: about forty frames of 1080p."""


class FrameWriter(Protocol):
    """What takes frames: an encoder, or a writer of pictures."""

    def write(self, frame: Frame) -> None:
        """Write one frame, whose timestamp is greater than the last."""


def upscale_frames(
    frames: Generator[Frame, None, None],
    writer: FrameWriter,
    engine: Engine,
    conversion: Conversion,
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> Work:
    """Upscale frames and write them; one that equals the one before is not computed again.

    Args:
        frames: decoded frames; read in a thread of their own, and closed.
        writer: gets the upscaled ones, in a thread of their own.
        engine: what upscales.
        conversion: layouts, colours and sizes of both ends.
        batch_size: frames at once.
        progress: called with the number of frames handed to the writer.

    Returns:
        what was done.

    Raises:
        VsrError: whatever ends the reading, the computing or the writing.
    """
    work, last = Work(), _Last()
    with (
        Ahead(frames, max_bytes=QUEUE_BYTES, name="vsr-decode") as decoded,
        Behind(writer.write, max_bytes=QUEUE_BYTES, name="vsr-encode") as encoded,
    ):
        while batch := list(islice(decoded, batch_size)):
            fresh, places = last.part(batch)
            results = [*last.results, *_upscale_batch(fresh, engine, conversion)]
            for frame, place in zip(batch, places, strict=True):
                encoded.put(Frame(results[place], frame.pts, frame.duration))
            last = _Last(batch[-1].planes, results[-1:])
            work = Work(work.frames + len(batch), work.repeated + len(batch) - len(fresh))
            if progress is not None:
                progress(work.frames)
    return work


@dataclass(frozen=True)
class Work:
    """What became of a run of frames.

    Attributes:
        frames: how many were written.
        repeated: how many of them were equal to the one before, whose result was taken.
    """

    frames: int = 0
    repeated: int = 0


@dataclass(frozen=True)
class _Last:
    """The last frame and, in a list, its result; nothing before the first."""

    planes: tuple[Plane, ...] = ()
    results: Sequence[tuple[Plane, ...]] = ()

    def part(self, batch: Sequence[Frame]) -> tuple[list[Frame], list[int]]:
        """The frames that differ from the one before; for each frame its place in the results so far and theirs."""
        fresh: list[Frame] = []
        places, before = [], self.planes
        for frame in batch:
            if not _equal(frame.planes, before):
                fresh.append(frame)
            places.append(len(self.results) + len(fresh) - 1)
            before = frame.planes
        return fresh, places


def _equal(planes: Sequence[Plane], others: Sequence[Plane]) -> bool:
    """Whether two frames are equal byte for byte; of most that are not, one row tells it."""
    if len(planes) != len(others) or not np.array_equal(planes[0][len(planes[0]) // 2], others[0][len(planes[0]) // 2]):
        return False
    return all(np.array_equal(plane, other) for plane, other in zip(planes, others, strict=True))


@torch.inference_mode()
def _upscale_batch(batch: Sequence[Frame], engine: Engine, conversion: Conversion) -> list[tuple[Plane, ...]]:
    """The planes of a batch, upscaled; they cross to the device and back once, as they are stored."""
    if not batch:
        return []
    stacked = (np.stack(planes) for planes in zip(*(frame.planes for frame in batch), strict=True))
    decoded = [torch.from_numpy(planes).to(engine.device) for planes in stacked]
    turn = conversion.orientation.upright
    sr = _fit(engine(turn(planes_to_rgb(decoded, conversion.source, conversion.source_colour))), conversion)
    upscaled = rgb_to_planes(sr, conversion.target, conversion.target_colour)
    if conversion.target.alpha:
        upscaled.append(_alpha(decoded, sr, conversion))
    planes = [plane.cpu().numpy() for plane in upscaled]
    return [tuple(plane[index] for plane in planes) for index in range(len(batch))]


def _fit(sr: Tensor, conversion: Conversion) -> Tensor:
    """(N, 3, H, W) at the engine's size -> at the size to encode."""
    height, width = conversion.height, conversion.width
    rows, columns = height - sr.shape[-2], width - sr.shape[-1]
    if not rows and not columns:
        return sr
    if conversion.padded:
        return functional.pad(sr, (0, columns, 0, rows), mode="replicate")
    return resize_bicubic(sr, height, width)


def _alpha(decoded: Sequence[Tensor], sr: Tensor, conversion: Conversion) -> Tensor:
    """The alpha plane, by bicubic: no network has learnt what it means. Opaque where the source has none."""
    alpha = alpha_of(decoded, conversion.source)
    if alpha is None:
        alpha = sr.new_ones((len(sr), 1, conversion.height, conversion.width))
    else:
        alpha = resize_bicubic(conversion.orientation.upright(alpha), conversion.height, conversion.width)
    return alpha_to_plane(alpha.clamp_(0, 1), conversion.target)
