"""Batches of frames through the engine: planes in, planes out, several on their way where the device works apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vsr.imaging.colour import alpha_of, alpha_to_plane, planes_to_rgb, rgb_to_codes, rgb_to_planes
from vsr.imaging.motion import Codes, Motion
from vsr.imaging.resize import resize_bicubic
from vsr.imaging.transparency import fill_invisible
from vsr.inference.engine import Engine
from vsr.inference.lanes import Array, Landing, Lanes
from vsr.inference.sequence import FrameSequence
from vsr.media.pixels import Plane
from vsr.media.reader import Frame
from vsr.pipeline.plan import Conversion
from vsr.pipeline.stopwatch import Stopwatch


class _Flight(NamedTuple):
    """A batch on its way.

    Attributes:
        places: for each of its frames, where its result is among the last of the batch before, at 0, and its own.
        decoded: the planes of the frames that are computed, on the device.
        landing: their results, and which of them are finite; None: nothing was to be computed.
    """

    places: list[int]
    decoded: list[Tensor]
    landing: Landing | None


class Upscaler:
    """Computes what differs from the frame before.

    Where the output keeps alpha, transparent pixels take the colour of the visible ones around them before the network,
    whose filters would else draw hidden colours into visible edges; so invisible pixels of the output hold that colour.
    Without alpha in the output, what was hidden is shown as it is stored.

    Args:
        engine: what upscales.
        conversion: of the planes on both sides of it.
        watch: is told how long each stage takes.
        sequence: what upscales frames in their order, where they depend on those before.

    Attributes:
        depth: batches that may be begun before the first of them has to be finished.
    """

    def __init__(
        self, engine: Engine, conversion: Conversion, watch: Stopwatch, sequence: FrameSequence | None = None
    ) -> None:
        self._engine, self._conversion, self._watch, self._sequence = engine, conversion, watch, sequence
        self._lanes = Lanes(engine.device)
        self._flights: deque[_Flight] = deque()
        self._last: tuple[Plane, ...] = ()
        self._result: tuple[Plane, ...] = ()
        self.depth = self._lanes.depth
        self._repeated, self._overflowed = 0, engine.overflowed
        # Nothing to fill where each pixel comes from one alone: such a job returns every code value.
        pixelwise = engine.scale == 1 and not engine.has_weights and conversion.padded
        self._fills = conversion.source.alpha and conversion.target.alpha and not pixelwise

    def forget(self) -> None:
        """What comes next is upscaled as if nothing had come before."""
        self._last = ()

    @torch.inference_mode()
    def begin(self, frames: Sequence[Frame], motions: Sequence[Motion | None] = ()) -> None:
        """Send a batch to the device.

        Args:
            frames: of one size.
            motions: for a sequence, to each frame from the last that differed; None: nothing comes before it.
        """
        fresh: list[Frame] = []
        followed: list[Motion | None] = []
        places, before = [], self._last
        for number, frame in enumerate(frames):
            if not equal_planes(frame.planes, before):
                followed += motions[number : number + 1]
                fresh.append(frame)
            places.append(len(fresh))
            before = frame.planes
        self._last = before
        self._repeated += len(frames) - len(fresh)
        if not fresh:
            self._flights.append(_Flight(places, [], None))
            return
        with self._watch("upload"):
            decoded = self._lanes.upload([frame.planes for frame in fresh])
        upscaled, finite = self._compute(decoded, followed)
        with self._watch("download"):
            self._flights.append(_Flight(places, decoded, self._lanes.download([*upscaled, finite])))

    def finish(self) -> list[tuple[Plane, ...]]:
        """The planes of the results of the batch that was begun first."""
        places, decoded, landing = self._flights.popleft()
        results = [self._result]
        if landing is not None:
            with self._watch("download"):
                *planes, finite = landing.wait()
            if not finite.all():
                planes = self._repaired(planes, decoded, np.logical_not(finite))
            results += [tuple(plane[index] for plane in planes) for index in range(len(finite))]
        self._result = results[-1]
        return [results[place] for place in places]

    def take_repeated(self) -> int:
        """How many frames, of those begun since the last call, equalled the one before and were not computed."""
        taken, self._repeated = self._repeated, 0
        return taken

    def take_overflowed(self) -> int:
        """How many frames, of those finished since the last call, half precision could not hold."""
        before, self._overflowed = self._overflowed, self._engine.overflowed
        return self._overflowed - before

    def _compute(
        self, decoded: list[Tensor], motions: Sequence[Motion | None] = (), over: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The planes of a batch's results, and (N,) whether half precision could hold them.

        Args:
            decoded: the planes of the batch.
            motions: as ``begin``.
            over: (N,) bool: to compute those frames alone, in float32; None: all.
        """
        conversion, engine = self._conversion, self._engine
        with self._watch("to RGB"):
            lr = lr_of(decoded, conversion, filled=self._fills)
        with self._watch("network"):
            if self._sequence is not None:
                sr = self._sequence.step(lr, motions)
            else:
                sr = engine.run(lr) if over is None else engine.run_exactly(lr[over])
            finite = engine.finite(sr)
        with self._watch("from RGB"):
            sr = _fit(sr, conversion)
            upscaled = rgb_to_planes(sr, conversion.target, conversion.target_colour)
            if conversion.target.alpha:
                alpha = _alpha(decoded, sr, conversion)
                upscaled.append(alpha_to_plane(alpha if over is None else alpha[over], conversion.target))
        return upscaled, finite

    @torch.inference_mode()
    def _repaired(self, planes: list[Array], decoded: list[Tensor], over: Array) -> list[Array]:
        """A batch with those frames done again in float32 that half precision could not hold, and no others."""
        upscaled, _ = self._compute(decoded, (), torch.from_numpy(over).to(self._engine.device))
        repaired = [plane.copy() for plane in planes]
        for plane, exact in zip(repaired, self._lanes.download(upscaled).wait(), strict=True):
            plane[over] = exact
        return repaired


def lr_of(decoded: list[Tensor], conversion: Conversion, *, filled: bool = False) -> Tensor:
    """What the network is given of decoded planes: (N, 3, H, W) RGB, upright.

    Args:
        decoded: as they were decoded, (N, rows, columns) each.
        conversion: what they mean.
        filled: give transparent pixels the colour of the visible ones around them.
    """
    lr = planes_to_rgb(decoded, conversion.source, conversion.source_colour)
    if filled and (seen := alpha_of(decoded, conversion.source)) is not None:
        lr = fill_invisible(lr, seen)
    return conversion.orientation.upright(lr)


def lr_codes(planes: Sequence[Plane], conversion: Conversion) -> Codes:
    """(H, W, 3) uint8 RGB of a frame's planes, upright, by which its motion is found on the CPU."""
    lr = lr_of([torch.from_numpy(np.ascontiguousarray(plane))[None] for plane in planes], conversion)
    return cast(Codes, rgb_to_codes(lr)[0])


def equal_planes(planes: Sequence[Plane], others: Sequence[Plane]) -> bool:
    """Whether two frames are equal byte for byte; of most that are not, one row tells it."""
    if len(planes) != len(others) or not np.array_equal(planes[0][len(planes[0]) // 2], others[0][len(planes[0]) // 2]):
        return False
    return all(np.array_equal(plane, other) for plane, other in zip(planes, others, strict=True))


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
    """(N, 1, H, W) in [0, 1], by bicubic: no network has learnt what it means. Opaque where the source has none."""
    alpha = alpha_of(decoded, conversion.source)
    if alpha is None:
        return sr.new_ones((len(decoded[0]), 1, conversion.height, conversion.width))
    return resize_bicubic(conversion.orientation.upright(alpha), conversion.height, conversion.width).clamp_(0, 1)
