from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from vsr.imaging.metrics import luma, psnr_rgb, psnr_y, ssim_rgb, ssim_y
from vsr.imaging.pictures import read_picture
from vsr.imaging.resize import resize_bicubic


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


def test_luma_with_any_leading_axes_and_dtype() -> None:
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
    """More green and less blue leave luma unchanged."""
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


def test_equal_pictures_and_an_error_only_in_the_border() -> None:
    hr = pictures(0)
    assert float(psnr_y(hr, hr.clone(), border=3)) == math.inf
    sr = hr.clone()
    sr[..., :3, :], sr[..., -3:, :], sr[..., :3], sr[..., -3:] = 0, 1, 0, 1
    assert float(psnr_y(sr, hr, border=3)) == math.inf
    assert float(psnr_y(sr, hr, border=2)) < 40


Measure = Callable[..., Tensor]
MEASURES = pytest.mark.parametrize("measure", [psnr_y, psnr_rgb, ssim_y, ssim_rgb])


@MEASURES
def test_on_a_device_without_float64(measure: Measure, limited_device: torch.device) -> None:
    sr, hr = (torch.rand(2, 3, 14, 15, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    there = measure(sr.to(limited_device), hr.to(limited_device), border=1)
    assert there.dtype == torch.float64 and torch.equal(there, measure(sr, hr, border=1))


@MEASURES
def test_different_shapes_are_refused(measure: Measure) -> None:
    with pytest.raises(ValueError, match=r"got \(1, 3, 12, 10\) and \(1, 3, 12, 9\)"):
        measure(torch.zeros(1, 3, 12, 10), torch.zeros(1, 3, 12, 9), border=1)


@pytest.mark.parametrize("border", [5, 6])
def test_a_border_that_leaves_no_pixel_is_refused(border: int) -> None:
    with pytest.raises(ValueError, match=f"a border of {border} leaves nothing"):
        psnr_y(pictures(0), pictures(1), border=border)
    psnr_y(pictures(0), pictures(1), border=4)


def large_pictures(seed: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, 40, 31, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("border", [0, 1, 4])
@pytest.mark.parametrize("mix", [0.0, 0.1, 0.5, 1.0])
def test_ssim_agrees_with_scikit_image(border: int, mix: float) -> None:
    """Compare with the inner part of scikit-image's full map, which has no padding."""
    hr = large_pictures(1, 3)
    sr = (1 - mix) * hr + mix * large_pictures(2, 3)
    results = ssim_y(sr, hr, border=border)
    assert results.shape == (3,) and results.dtype == torch.float64
    inside = slice(border, -border or None)
    for index, result in enumerate(results.tolist()):
        ours, reference = (luma(image[index])[inside, inside].numpy() for image in (sr, hr))
        _, values = structural_similarity(
            ours,
            reference,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert result == pytest.approx(values[5:-5, 5:-5].mean(), abs=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.3), (0.0, 1.0), (0.5, 0.5)])
def test_ssim_of_flat_pictures_by_hand(a: float, b: float) -> None:
    """Without structure only the brightness term remains: (2xy + C1) / (x^2 + y^2 + C1)."""
    sr, hr = (torch.full((1, 3, 14, 15), value, dtype=torch.float64) for value in (a, b))
    x, y, c1 = 16 + 219 * a, 16 + 219 * b, 2.55**2
    assert float(ssim_y(sr, hr, border=1)) == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1), abs=1e-9)


def test_ssim_of_one_window_by_hand() -> None:
    """11 x 11 pixels have one window: its weights written out, for a picture and its negative."""
    hr = torch.rand(1, 1, 11, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64).expand(1, 3, 11, 11)
    gauss = [math.exp(-(k * k) / (2 * 1.5 * 1.5)) for k in range(-5, 6)]
    weights = np.outer(gauss, gauss) / sum(gauss) ** 2
    y = 16 + 219 * hr[0, 0].numpy()
    x = 251 - y
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    variance = (weights * (y - mean_y) ** 2).sum()
    c1, c2 = 6.5025, 58.5225
    expected = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * (c2 - 2 * variance) / (c2 + 2 * variance)
    assert expected < -0.5
    assert float(ssim_y(1 - hr, hr, border=0)) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_equal_pictures_and_an_error_only_in_the_border() -> None:
    hr = large_pictures(0)
    assert float(ssim_y(hr, hr.clone(), border=3)) == pytest.approx(1, abs=1e-12)
    sr = hr.clone()
    sr[..., :3, :], sr[..., -3:, :], sr[..., :3], sr[..., -3:] = 0, 1, 0, 1
    assert float(ssim_y(sr, hr, border=3)) == pytest.approx(1, abs=1e-12)
    assert float(ssim_y(sr, hr, border=2)) < 1 - 1e-4 and float(ssim_y(sr, hr, border=0)) < 0.98


def test_ssim_of_half_precision_is_computed_in_float64() -> None:
    sr, hr = large_pictures(1).half(), large_pictures(2).half()
    assert torch.equal(ssim_y(sr, hr, border=1), ssim_y(sr.double(), hr.double(), border=1))


@pytest.mark.parametrize("border", [11, 12, 30])
def test_a_border_that_leaves_less_than_the_window_is_refused(border: int) -> None:
    with pytest.raises(ValueError, match=f"a border of {border} leaves less than 11 pixels"):
        ssim_y(large_pictures(0), large_pictures(1), border=border)
    ssim_y(large_pictures(0), large_pictures(1), border=10)


@pytest.mark.parametrize("border", [0, 1, 4])
@pytest.mark.parametrize("mix", [0.1, 1.0])
def test_rgb_agrees_with_scikit_image(border: int, mix: float) -> None:
    hr = large_pictures(1, 2)
    sr = (1 - mix) * hr + mix * large_pictures(2, 2)
    psnr, ssim = psnr_rgb(sr, hr, border=border), ssim_rgb(sr, hr, border=border)
    assert psnr.shape == ssim.shape == (2,) and psnr.dtype == ssim.dtype == torch.float64
    inside = slice(border, -border or None)
    for index in range(2):
        ours, reference = (image[index, :, inside, inside].numpy() * 255 for image in (sr, hr))
        assert float(psnr[index]) == pytest.approx(peak_signal_noise_ratio(reference, ours, data_range=255), abs=1e-9)
        _, values = structural_similarity(
            ours,
            reference,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=0,
            full=True,
        )
        assert float(ssim[index]) == pytest.approx(values[:, 5:-5, 5:-5].mean(), abs=1e-9)


def test_all_measures_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr_of
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim_of

    hr, other = large_pictures(5), large_pictures(6)
    sr = 0.8 * hr + 0.2 * other
    border = 3
    inside = (..., slice(border, -border), slice(border, -border))
    for ours, theirs in [
        ((psnr_y(sr, hr, border=border), ssim_y(sr, hr, border=border)), (luma(sr)[:, None], luma(hr)[:, None])),
        ((psnr_rgb(sr, hr, border=border), ssim_rgb(sr, hr, border=border)), (255 * sr, 255 * hr)),
    ]:
        x, y = (image[inside] for image in theirs)
        assert float(ours[0]) == pytest.approx(float(psnr_of(x, y, data_range=255.0)), abs=1e-4)
        # Its mean includes windows that extend outside the picture, which the original leaves out.
        _, values = ssim_of(x, y, sigma=1.5, data_range=255.0, return_full_image=True)
        assert float(ours[1]) == pytest.approx(float(values[..., 5:-5, 5:-5].mean()), abs=1e-6)


def test_psnr_of_one_wrong_value_of_rgb_by_hand() -> None:
    hr = flat(0, 0, 0)
    sr = hr.clone()
    sr[0, 2, 5, 4] = 0.5
    # Three channels of 8 x 6 pixels are left inside a border of two.
    assert float(psnr_rgb(sr, hr, border=2)) == pytest.approx(10 * math.log10(3 * 48 / 0.25), abs=1e-9)


def test_rgb_and_luma_of_grey_differ_only_by_the_range() -> None:
    """Luma spans 219 codes where RGB spans 255, so grey errors look smaller: by 1.32 dB."""
    sr, hr = (large_pictures(seed)[:, :1].expand(-1, 3, -1, -1) for seed in (1, 2))
    gain = float(psnr_y(sr, hr, border=1) - psnr_rgb(sr, hr, border=1))
    assert gain == pytest.approx(20 * math.log10(255 / 219), abs=1e-6)


def test_bicubic_on_set5_has_its_published_figures(shared_data: Path) -> None:
    """MATLAB's LR upscaled, rounded to 8 bits: 28.432 dB. Without rounding, or only clipped, 28.432 and 28.433."""
    values = []
    for path in sorted((shared_data / "test/Set5").glob("*.png")):
        hr, lr = (
            torch.from_numpy(read_picture(file)).permute(2, 0, 1)[None] / 255
            for file in (path, shared_data / "test/Set5_LRx4_matlab" / path.name)
        )
        height, width = 4 * lr.shape[-2], 4 * lr.shape[-1]
        sr = resize_bicubic(lr, height, width).mul(255).round().clamp(0, 255) / 255
        hr = hr[..., :height, :width]
        values.append((float(psnr_y(sr, hr, border=4)), float(ssim_y(sr, hr, border=4))))
    assert len(values) == 5
    psnr, ssim = (sum(column) / 5 for column in zip(*values, strict=True))
    assert psnr == pytest.approx(28.43, abs=0.02)
    assert ssim == pytest.approx(0.8113, abs=0.0005)
