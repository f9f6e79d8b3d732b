"""Warping along flow; the warping of a recurrent state is tested in tests/networks/test_move_state.py."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from vsr.imaging import warping
from vsr.imaging.warping import enlarge_flow, warp


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_whole_pixels_are_moved_exactly(mode: Literal["bilinear", "bicubic"]) -> None:
    image = torch.rand(2, 3, 8, 9)
    flow = torch.tensor([2.0, -1.0]).expand(2, 8, 9, 2)  # from two columns to the right and one row above
    moved = warp(image, flow, mode)
    torch.testing.assert_close(moved[..., 1:, :-2], image[..., :-1, 2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[..., 0, :-2], image[..., 0, 2:], rtol=0, atol=1e-5)  # the edge is repeated


def test_flow_is_scaled_with_the_picture() -> None:
    flow = torch.tensor([0.5, -1.5]).expand(1, 3, 4, 2)
    assert torch.equal(enlarge_flow(flow, 4), torch.tensor([2.0, -6.0]).expand(1, 12, 16, 2))


def test_a_device_without_sampling_uses_the_cpu(limited_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warping, "WITHOUT_SAMPLING", {limited_device.type})
    sampled = torch.nn.functional.grid_sample

    def refuse(image: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        assert image.device.type == "cpu", "this device samples nothing"
        return sampled(image, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(warping.functional, "grid_sample", refuse)
    image, flow = torch.rand(1, 3, 6, 7), torch.rand(1, 6, 7, 2)
    moved = warp(image.to(limited_device), flow.to(limited_device), "bicubic")
    assert moved.device.type == limited_device.type
    assert torch.equal(moved.cpu(), warp(image, flow, "bicubic"))
