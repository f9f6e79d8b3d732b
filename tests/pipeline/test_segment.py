"""Runs of frames: what is equal to the frame before is not computed again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from vsr.imaging.colour import ColourSpec, PixelLayout
from vsr.inference.engine import Engine
from vsr.media.reader import Frame
from vsr.networks.resampling import Identity
from vsr.pipeline.plan import Conversion
from vsr.pipeline.segment import Work, upscale_frames

GREY = PixelLayout("grey")
FULL = ColourSpec("bt709", full_range=True)
CONVERSION = Conversion(GREY, FULL, GREY, FULL, 6, 4)


class Collector:
    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, frame: Frame) -> None:
        self.frames.append(frame)


class Counting(Identity):
    """Counts the frames that it sees."""

    seen = 0

    def forward(self, lr: Tensor) -> Tensor:
        self.seen += len(lr)
        return lr


def frames_of(values: str) -> Iterator[Frame]:
    """A frame for each letter; equal letters are equal frames in memory of their own."""
    for number, letter in enumerate(values):
        yield Frame((np.full((4, 6), ord(letter), np.uint8),), 10 * number, 10)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 16])
@pytest.mark.parametrize(
    ("values", "computed"), [("abc", 3), ("aaaa", 1), ("aabbbc", 3), ("abab", 4), ("aaabaaa", 3), ("", 0)]
)
def test_equal_neighbours_are_computed_once(values: str, computed: int, batch_size: int) -> None:
    network, written = Counting(), Collector()
    work = upscale_frames(
        (frame for frame in frames_of(values)),
        written,
        Engine(network, device="cpu"),
        CONVERSION,
        batch_size=batch_size,
    )
    assert network.seen == computed
    assert work == Work(len(values), len(values) - computed)
    assert [(frame.pts, frame.duration) for frame in written.frames] == [(10 * n, 10) for n in range(len(values))]
    assert "".join(chr(frame.planes[0][0, 0]) for frame in written.frames) == values


def test_one_other_pixel_makes_another_frame() -> None:
    def frames() -> Iterator[Frame]:
        for value in (7, 8):
            plane = np.zeros((4, 6), np.uint8)
            plane[0, 5] = value
            yield Frame((plane,), value, 1)

    written = Collector()
    upscale_frames((frame for frame in frames()), written, Engine(Identity(), device="cpu"), CONVERSION, batch_size=2)
    assert [frame.planes[0][0, 5] for frame in written.frames] == [7, 8]
    assert torch.equal(torch.from_numpy(written.frames[0].planes[0][1:]), torch.zeros(3, 6, dtype=torch.uint8))
