from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from vsr.imaging.metrics import luma, psnr_y
from vsr.imaging.resize import resize_bicubic
from vsr.media.images import read_picture


def flat(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 12, 10)


def pictures(seed: int, count: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 3, 12, 10, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("rgb", "code"),
    [
        ((0, 0, 0), 16),
        ((1, 1, 1), 235),
        ((1, 0, 0), 81.481),
        ((0, 1, 0), 144.553),
        ((0, 0, 1), 40.966),
        ((0.5, 0.25, 1), 105.84475),
    ],
    ids=str,
)
def test_luma_by_hand(rgb: tuple[float, float, float], code: float) -> None:
    y = luma(flat(*rgb))
    assert y.shape == (1, 12, 10)
    assert float(y.min()) == pytest.approx(code, abs=1e-9) and float(y.max()) == pytest.approx(code, abs=1e-9)


def test_luma_of_any_leading_axes_and_dtype() -> None:
    image = pictures(0, 2, torch.float32)
    assert luma(image[0]).shape == (12, 10) and luma(image[None]).shape == (1, 2, 12, 10)
    assert luma(image).dtype == torch.float32
    torch.testing.assert_close(luma(image).double(), luma(image.double()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("error", [1 / 255, 0.1, 0.5])
def test_psnr_of_a_constant_error_by_hand(error: float) -> None:
    """Grey that is off by ``error`` is off by 219 * error in luma."""
    result = psnr_y(flat(0.25 + error, 0.25 + error, 0.25 + error), flat(0.25, 0.25, 0.25), border=2)
    assert result.shape == (1,) and result.dtype == torch.float64
    assert float(result) == pytest.approx(20 * math.log10(255 / (219 * error)), abs=1e-9)


def test_psnr_of_one_wrong_pixel_by_hand() -> None:
    hr = flat(0, 0, 0)
    sr = hr.clone()
    sr[0, 2, 5, 4] = 1  # blue weighs 24.966
    # 8 x 6 pixels are left inside a border of two.
    assert float(psnr_y(sr, hr, border=2)) == pytest.approx(10 * math.log10(255**2 * 48 / 24.966**2), abs=1e-9)
    assert float(psnr_y(sr, hr, border=0)) == pytest.approx(10 * math.log10(255**2 * 120 / 24.966**2), abs=1e-9)


def test_only_luma_counts() -> None:
    """Green up and blue down so that luma stays."""
    other = flat(0.5, 0.5 + 0.24966, 1 - 1.28553)
    assert float(psnr_y(other, flat(0.5, 0.5, 1), border=0)) > 200


@pytest.mark.parametrize("border", [0, 1, 4])
def test_psnr_agrees_with_scikit_image(border: int) -> None:
    sr, hr = pictures(1, 3), pictures(2, 3)
    results = psnr_y(sr, hr, border=border)
    assert results.shape == (3,)
    inside = slice(border, -border or None)
    weights = np.array([65.481, 128.553, 24.966]).reshape(3, 1, 1)
    for index, result in enumerate(results.tolist()):
        ours, reference = ((image[index].numpy() * weights).sum(0) + 16 for image in (sr, hr))
        expected = peak_signal_noise_ratio(reference[inside, inside], ours[inside, inside], data_range=255)
        assert result == pytest.approx(expected, abs=1e-9)


def test_half_precision_is_compared_in_float64() -> None:
    sr, hr = pictures(1).half(), pictures(2).half()
    assert torch.equal(psnr_y(sr, hr, border=1), psnr_y(sr.double(), hr.double(), border=1))


def test_equal_pictures_and_an_error_in_the_border_alone() -> None:
    hr = pictures(0)
    assert float(psnr_y(hr, hr.clone(), border=3)) == math.inf
    sr = hr.clone()
    sr[..., :3, :], sr[..., -3:, :], sr[..., :3], sr[..., -3:] = 0, 1, 0, 1
    assert float(psnr_y(sr, hr, border=3)) == math.inf
    assert float(psnr_y(sr, hr, border=2)) < 40


def test_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 3, 12, 10\) and \(1, 3, 12, 9\)"):
        psnr_y(torch.zeros(1, 3, 12, 10), torch.zeros(1, 3, 12, 9), border=1)


@pytest.mark.parametrize("border", [5, 6])
def test_a_border_that_leaves_nothing(border: int) -> None:
    with pytest.raises(ValueError, match=f"a border of {border} leaves nothing"):
        psnr_y(pictures(0), pictures(1), border=border)
    psnr_y(pictures(0), pictures(1), border=4)


def test_bicubic_on_set5_has_its_published_figure(shared_data: Path) -> None:
    """MATLAB's LR upscaled, rounded to 8 bits: 28.432 dB. Without the rounding, or clipped alone, 28.432 and 28.433."""
    values = []
    for path in sorted((shared_data / "test/Set5").glob("*.png")):
        hr, lr = (
            torch.from_numpy(read_picture(file)).permute(2, 0, 1)[None] / 255
            for file in (path, shared_data / "test/Set5_LRx4_matlab" / path.name)
        )
        height, width = 4 * lr.shape[-2], 4 * lr.shape[-1]
        sr = resize_bicubic(lr, height, width).mul(255).round().clamp(0, 255) / 255
        values.append(float(psnr_y(sr, hr[..., :height, :width], border=4)))
    assert len(values) == 5
    assert sum(values) / 5 == pytest.approx(28.43, abs=0.02)
