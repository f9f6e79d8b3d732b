from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from vsr.inference.openvino_backend import calibrate, quantise_weights, with_exact_zero
from vsr.networks.generator import Generator
from vsr.networks.rewrites import simplify
from vsr.networks.weights import Calibration, load_network


def kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_rounding_keeps_the_sum_over_the_taps() -> None:
    weight = kernel(6, 5, 3, 3)
    integers, unit = quantise_weights(weight)
    assert integers.dtype == np.int8 and integers.shape == weight.shape and unit.shape == (6, 1, 1, 1)
    assert np.abs(weight / unit - integers).max() < 1, "no tap is further off than to the next integer"
    apart = ((weight / unit) - integers).sum((2, 3))
    assert np.abs(apart).max() <= 0.5 + 1e-4
    plain = ((weight / unit) - np.round(weight / unit)).sum((2, 3))
    assert np.abs(plain).max() > 1, "which rounding alone does not give"


def test_as_few_taps_as_possible_are_rounded_the_other_way() -> None:
    weight = np.array([127, 0.4, 0.4, 0.4, 0.1, 0, 0, 0, 0], np.float32).reshape(1, 1, 3, 3)
    integers, unit = quantise_weights(weight)
    assert unit.item() == pytest.approx(1)
    # 128.3 in all: 127 and one of the three that are nearest to a half.
    assert integers.ravel().tolist() == [127, 1, 0, 0, 0, 0, 0, 0, 0]


def test_zero_kernels_and_signs_are_kept() -> None:
    integers, unit = quantise_weights(np.zeros((2, 1, 3, 3), np.float32))
    assert not integers.any() and np.isfinite(unit).all()
    assert np.array_equal(quantise_weights(-kernel(3, 2, 3, 3))[0], -quantise_weights(kernel(3, 2, 3, 3))[0])


@pytest.mark.parametrize(("least", "greatest"), [(0.0, 1.0), (-1.0, 1.0), (-0.03, 6.5), (-2.0, 0.0)])
def test_zero_is_a_level(least: float, greatest: float) -> None:
    low, high = with_exact_zero(least, greatest)
    step = (high - low) / 255
    assert step == pytest.approx((greatest - least) / 255)
    assert round(-low / step) == pytest.approx(-low / step, abs=1e-9)
    assert abs(low - least) <= step / 2 * 1.001


def test_a_calibration_has_the_ranges_of_the_layers_inputs() -> None:
    generator = Generator(scale=2, blocks=1, channels=4).eval()
    pictures = [torch.full((1, 3, 6, 6), value) for value in (0.25, 0.75)]
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    ticks: list[None] = []
    seen = calibrate(generator, pictures, lambda: ticks.append(None)).ranges
    assert len(ticks) == 4
    assert seen["head.0"] == (0.0, 0.75)
    assert set(seen) == {"head.0", "body.0.conv1", "body.0.conv2", "body_conv", "upsample.0.0", "tail.0"}
    assert generator.state_dict().keys() == before.keys(), "the network is left as it is"
    one = calibrate(generator, pictures[:1]).ranges
    assert all(seen[name][0] <= one[name][0] and seen[name][1] >= one[name][1] for name in one)


def test_a_calibration_measures_the_shift_of_the_mean() -> None:
    """OpenVINO agrees with the simulation, and its result has the mean of the network's."""
    openvino_runtime = pytest.importorskip("vsr.inference.openvino_backend")
    generator = load_network("video-x2")
    random = torch.Generator().manual_seed(0)
    pictures = [functional.interpolate(torch.rand(1, 3, 6, 8, generator=random), scale_factor=6) for _ in range(2)]
    calibration = calibrate(generator, pictures)
    simplify(generator)

    def shift(calibration: Calibration) -> torch.Tensor:
        runtime = openvino_runtime.OpenVinoRuntime(generator, "int8", calibration)
        with torch.no_grad():
            apart = [(runtime(lr).clamp(0, 1) - generator(lr).clamp(0, 1)).mean((0, 2, 3)) for lr in pictures]
        return torch.stack(apart).mean(0)

    found = shift(replace(calibration, shift=(0.0, 0.0, 0.0)))
    assert found.abs().max() > 0.5 / 255
    assert torch.allclose(found, torch.tensor(calibration.shift), atol=0.05 / 255)
    assert shift(calibration).abs().max() < 0.05 / 255
