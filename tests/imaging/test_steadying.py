"""The steadying filter on tensors with known motion, flicker and trust."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from limited_device import limited_device
from torch import Tensor
from torch.nn import functional

from vsr.imaging.motion import Motion, estimate_motion
from vsr.imaging.warping import HIGH_SHARE, LOW_SHARE, motion_to_device, steady

CPU = torch.device("cpu")


def motion_of(
    height: int, width: int, flow: tuple[float, float] = (0, 0), high: float = 1, low: float = 1
) -> Motion:
    plane = np.ones((height, width), np.float32)
    return Motion(np.full((height, width, 2), flow, np.float32), high * plane, low * plane, is_cut=False)


def noise(height: int, width: int, seed: int = 0, sigma: float = 0) -> Tensor:
    """Return noise (1, 3, H, W) in [0, 1], coarser than ``sigma`` pixels."""
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    if sigma:
        reach = int(3 * sigma)
        taps = torch.exp(-(torch.arange(-reach, reach + 1) / sigma).square() / 2)
        kernel = (taps / taps.sum()).expand(3, 1, 1, -1)
        image = functional.conv2d(functional.pad(image, (reach,) * 4, mode="replicate"), kernel, groups=3)
        image = functional.conv2d(image, kernel.transpose(-1, -2), groups=3)
    return image


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_without_trust_nothing_changes(scale: int) -> None:
    sr, previous = noise(12 * scale, 20 * scale, 1), noise(12 * scale, 20 * scale, 2)
    motion = motion_to_device(motion_of(12, 20, (3, -2), 0, 0), CPU)
    assert torch.equal(steady(sr, previous, motion, scale=scale), sr)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_steady_output_is_unchanged(scale: int) -> None:
    sr = noise(12 * scale, 20 * scale)
    out = steady(sr, sr, motion_to_device(motion_of(12, 20), CPU), scale=scale)
    assert torch.allclose(out, sr, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("flow", [(3, 0), (0, -2), (1.5, 2.5)])
def test_the_previous_output_is_warped_along_the_flow(scale: int, flow: tuple[float, float]) -> None:
    """The flow is x first, in LR pixels, to the previous position of the pixel."""
    across, down = (int(length * scale) for length in flow)
    picture = noise(40 * scale, 60 * scale)
    margin = 4 * scale
    rows, columns = 32 * scale, 52 * scale
    previous = picture[..., margin : margin + rows, margin : margin + columns]
    sr = picture[..., margin + down : margin + down + rows, margin + across : margin + across + columns]
    out = steady(sr, previous, motion_to_device(motion_of(32, 52, flow), CPU), scale=scale)
    inside = (..., slice(6 * scale, -6 * scale), slice(6 * scale, -6 * scale))
    assert torch.allclose(out[inside], sr[inside], atol=2e-3)
    still = steady(sr, previous, motion_to_device(motion_of(32, 52), CPU), scale=scale)
    assert (still[inside] - sr[inside]).abs().mean() > 0.1


@pytest.mark.parametrize("scale", [2, 4])
def test_each_band_has_its_own_trust(scale: int) -> None:
    """At every scale the low band has the detail coarser than an LR pixel, the high band the finer detail."""
    height, width = 24 * scale, 32 * scale
    sr = torch.full((1, 3, height, width), 0.5)
    brighter = sr + 0.1
    checks = sr + 0.1 * (-1.0) ** torch.arange(width)
    only_high, only_low = (
        motion_to_device(motion_of(24, 32, high=high, low=1 - high), CPU) for high in (1.0, 0.0)
    )
    assert torch.allclose(steady(sr, brighter, only_low, scale=scale), sr + LOW_SHARE * 0.1, atol=1e-5)
    assert torch.allclose(steady(sr, brighter, only_high, scale=scale), sr, atol=1e-5)
    assert torch.allclose(steady(sr, checks, only_high, scale=scale), sr + HIGH_SHARE * (checks - sr), atol=1e-4)
    assert torch.allclose(steady(sr, checks, only_low, scale=scale), sr, atol=1e-4)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("period", [4, 8, 16])
def test_the_low_band_is_a_gaussian_of_one_lr_pixel(scale: int, period: int) -> None:
    """Its response to waves with a period in LR pixels is exp(-2 (pi / period)^2)."""
    wave = torch.cos(2 * torch.pi * torch.arange(64 * scale) / (period * scale)).expand(1, 3, 64 * scale, -1)
    low = steady(torch.zeros_like(wave), wave, motion_to_device(motion_of(64, 64, high=0), CPU), scale=scale, low=1)
    inside = (..., slice(16 * scale, -16 * scale), slice(16 * scale, -16 * scale))
    response = 2 * (low * wave)[inside].mean()
    assert response == pytest.approx(np.exp(-2 * (np.pi / period) ** 2), abs=0.05)


def test_flicker_is_reduced() -> None:
    scene = noise(64, 96, sigma=2)
    motion = motion_to_device(motion_of(16, 24), CPU)
    frames = [scene + 0.05 * (noise(64, 96, seed) - 0.5) for seed in range(1, 13)]
    outputs = frames[:1]
    for frame in frames[1:]:
        outputs.append(steady(frame, outputs[-1], motion, scale=4))
    assert (outputs[-1] - outputs[-2]).abs().mean() < 0.15 * (frames[-1] - frames[-2]).abs().mean()
    assert (outputs[-1] - scene).abs().mean() < (frames[-1] - scene).abs().mean()


def test_many_frames_of_a_moving_picture_do_not_ring() -> None:
    """Each frame is warped again: a kernel that sharpens would do it forty times."""
    scale = 4
    scene = noise(96, 400, sigma=1.2)
    motion = motion_to_device(motion_of(24, 32, (0.625, 0)), CPU)  # 2.5 HR pixels: the hardest phase
    frames = [
        (scene[..., start : start + 128] + scene[..., start + rest : start + rest + 128]) / 2
        for start, rest in ((5 * n // 2, 5 * n % 2) for n in range(40))
    ]
    output = frames[0]
    for frame in frames[1:]:
        output = steady(frame, output, motion, scale=scale)
    inside = (..., slice(16, -16), slice(16, -32))
    spread = output[inside].std() / frames[-1][inside].std()
    assert 0.9 < spread < 1.1


@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_a_fade_is_followed(step: int) -> None:
    """The fade is in codes per frame; the output lags by less than three codes."""
    picture = noise(24, 32, sigma=1)[0].permute(1, 2, 0).mul(100).round()
    frames = [(picture + 40 + step * number).to(torch.uint8) for number in range(12)]
    outputs = [functional.interpolate(lr.permute(2, 0, 1)[None].float(), scale_factor=4) for lr in frames]
    output = outputs[0]
    for earlier, later, sr in zip(frames[:-1], frames[1:], outputs[1:], strict=True):
        motion = motion_to_device(estimate_motion(earlier.numpy(), later.numpy()), CPU)
        output = steady(sr, output, motion, scale=4)
        assert (output - sr).mean().abs() < 3


def test_a_device_without_float64_gives_the_same_result() -> None:
    sr, previous = noise(48, 64, 1), noise(48, 64, 2)
    motion = motion_of(12, 16, (1, 0.5), 0.7, 0.3)
    expected = steady(sr, previous, motion_to_device(motion, CPU), scale=4)
    with limited_device() as device:
        out = steady(sr.to(device), previous.to(device), motion_to_device(motion, device), scale=4)
        assert out.device == device and out.dtype == torch.float32
        assert torch.allclose(out.cpu(), expected)
