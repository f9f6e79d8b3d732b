"""Measurements against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vsr.imaging.metrics import psnr_y, ssim_y
from vsr.imaging.resize import resize_bicubic
from vsr.networks import LPIPS_MIN_SIZES, LpipsBackbone
from vsr.networks.generator import Bicubic
from vsr.training.degradation import reduce
from vsr.training.step import LARGEST, HeldOut, Quality, least_size, measure, middle

CPU = torch.device("cpu")


def pair(height: int, width: int, scale: int) -> HeldOut:
    """Draw blotches, so that there is structure to upscale."""
    hr = resize_bicubic(torch.rand(1, 3, height // 4, width // 4), height, width).clamp(0, 1)
    hr = hr.mul(255).round()
    return HeldOut(reduce(hr / 255, scale)[0].mul(255).round().byte(), hr[0].byte())


class Distance(nn.Module):
    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (sr - hr).abs().mean((1, 2, 3))


@pytest.mark.parametrize("scale", [2, 4])
def test_two_pictures_of_unequal_sizes_by_hand(scale: int) -> None:
    pairs = [pair(40, 56, scale), pair(64, 32, scale)]
    quality, upscaled = measure(Bicubic(scale=scale), pairs, Distance(), scale=scale, device=CPU)
    psnr, ssim, distance = [], [], []
    for held_out, sr in zip(pairs, upscaled, strict=True):
        hr = held_out.hr[None].float() / 255
        expected = resize_bicubic(held_out.lr[None].float() / 255, *hr.shape[-2:]).mul(255).round().clamp(0, 255)
        assert sr.dtype == torch.uint8 and torch.equal(sr.float(), expected[0])
        psnr.append(float(psnr_y(expected / 255, hr, border=scale)))
        ssim.append(float(ssim_y(expected / 255, hr, border=scale)))
        distance.append(float((expected / 255 - hr).abs().mean()))
    assert abs(psnr[0] - psnr[1]) > 0.01 and abs(ssim[0] - ssim[1]) > 1e-4
    assert quality is not None and quality.lpips is not None
    # The mean is over pictures, not over pixels.
    assert quality.psnr_y == pytest.approx(sum(psnr) / 2, abs=1e-9)
    assert quality.ssim_y == pytest.approx(sum(ssim) / 2, abs=1e-9)
    assert quality.lpips == pytest.approx(sum(distance) / 2, abs=1e-6)


def test_measuring_uses_float32_whatever_the_precision_of_the_run() -> None:
    seen: list[bool] = []

    class PrecisionRecorder(Bicubic):
        def forward(self, lr: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().forward(lr)

    measure(PrecisionRecorder(scale=4), [pair(40, 40, 4)], Distance(), scale=4, device=CPU)
    assert seen == [False] and torch.backends.cudnn.allow_tf32


def test_without_lpips_and_without_pictures() -> None:
    quality, _ = measure(Bicubic(scale=4), [pair(40, 40, 4)], None, scale=4, device=CPU)
    assert quality is not None and quality.lpips is None
    assert measure(Bicubic(scale=4), [], Distance(), scale=4, device=CPU) == (None, [])


def test_output_that_rounds_to_hr_is_perfect() -> None:
    """Output within half a code of HR, or beyond the range, is rounded and clipped as in a file."""

    class Nearly(nn.Module):
        def forward(self, lr: Tensor) -> Tensor:
            return hr.float()[None] / 255 + 0.4 / 255 + 5 * (hr == 255)[None]

    hr = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    held_out = HeldOut(torch.zeros(3, 8, 8, dtype=torch.uint8), hr)
    quality, upscaled = measure(Nearly(), [held_out], None, scale=4, device=CPU)
    assert torch.equal(upscaled[0], hr)
    assert quality == Quality(float("inf"), pytest.approx(1), None)  # type: ignore[arg-type]


def test_the_mode_of_the_generator_is_restored() -> None:
    class ModeRecorder(nn.Module):
        modes: list[bool] = []

        def forward(self, lr: Tensor) -> Tensor:
            self.modes.append(self.training)
            assert not torch.is_grad_enabled()
            return resize_bicubic(lr, 4 * lr.shape[-2], 4 * lr.shape[-1])

    for training in (True, False):
        network = ModeRecorder().train(training)
        measure(network, [pair(32, 32, 4)], None, scale=4, device=CPU)
        assert network.training is training
    assert ModeRecorder.modes == [False, False]


@pytest.mark.parametrize("backbone", ["squeeze", "alex"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_least_size_can_be_measured(scale: int, backbone: LpipsBackbone) -> None:
    size = least_size(scale, backbone)
    assert size % scale == 0 and size >= LPIPS_MIN_SIZES[backbone]
    quality, _ = measure(Bicubic(scale=scale), [pair(64, 64, scale)], None, scale=scale, device=CPU)
    small = HeldOut(*(torch.zeros(3, edge, edge, dtype=torch.uint8) for edge in (size // scale, size)))
    quality, _ = measure(Bicubic(scale=scale), [small], None, scale=scale, device=CPU)
    assert quality is not None and quality.ssim_y == pytest.approx(1)


def test_the_middle_of_a_picture() -> None:
    rows = torch.arange(400, dtype=torch.int16)[None, :, None].expand(3, 400, 50)
    found = middle(rows, 4)
    assert found.shape == (3, LARGEST, 48)
    assert found[0, 0, 0] == (400 - LARGEST) // 2 and found[0, -1, 0] == (400 - LARGEST) // 2 + LARGEST - 1
    columns = torch.arange(30)[None, None].expand(3, 23, 30)
    assert middle(columns, 4)[0, 0].tolist() == [*range(1, 29)] and middle(columns, 4).shape == (3, 20, 28)
    assert torch.equal(middle(columns[:, :20, :28], 4), columns[:, :20, :28])
