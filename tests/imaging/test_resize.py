from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vsr.imaging.pictures import read_picture
from vsr.imaging.resize import resize_as_matlab, resize_bicubic

# Keys' kernel (a = -0.5) at the distances 0.25, 0.75, 1.25 and 1.75, in 128ths.
TAPS_OF_2 = [-3, -9, 29, 111, 111, 29, -9, -3]


def impulse(length: int, position: int) -> Tensor:
    signal = torch.zeros(length, dtype=torch.float64)
    signal[position] = 1
    return signal


def resize_row(row: Tensor, size: int, *, antialias: bool = True, axis: int = -1) -> list[float]:
    image = row.view(1, -1) if axis == -1 else row.view(-1, 1)
    height, width = (1, size) if axis == -1 else (size, 1)
    return resize_bicubic(image, height, width, antialias=antialias).flatten().tolist()


def keys(x: float) -> float:
    """Evaluate the kernel as in Keys (1981), equation 15."""
    x = abs(x)
    if x < 1:
        return 3 / 2 * x**3 - 5 / 2 * x**2 + 1
    return -1 / 2 * x**3 + 5 / 2 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resized_by_definition(row: list[float], size: int, antialias: bool) -> list[float]:
    """Resize one row pixel by pixel from the definition."""
    length = len(row)
    stretch = max(1.0, length / size) if antialias else 1.0
    result = []
    for target in range(size):
        centre = (target + 0.5) * length / size - 0.5
        total = mass = 0.0
        for source in range(math.floor(centre - 2 * stretch) - 1, math.ceil(centre + 2 * stretch) + 2):
            weight = keys((centre - source) / stretch)
            mirrored = source % (2 * length)
            total += weight * row[mirrored if mirrored < length else 2 * length - 1 - mirrored]
            mass += weight
        result.append(total / mass)
    return result


@pytest.mark.parametrize("axis", [-1, -2])
def test_taps_of_doubling_by_hand(axis: int) -> None:
    result = resize_row(impulse(9, 4), 18, axis=axis)
    assert result[5:13] == pytest.approx([tap / 128 for tap in TAPS_OF_2], abs=1e-15)
    assert result[:5] == [0] * 5 and result[13:] == [0] * 5


@pytest.mark.parametrize("axis", [-1, -2])
def test_taps_of_halving_by_hand(axis: int) -> None:
    """The eight taps of halving are those of doubling, stretched and centred between two pixels."""
    responses = [resize_row(impulse(16, position), 8, axis=axis)[4] for position in range(16)]
    assert responses[5:13] == pytest.approx([tap / 256 for tap in TAPS_OF_2], abs=1e-15)
    assert responses[:5] == [0] * 5 and responses[13:] == [0] * 3


def test_halving_without_antialias_is_the_plain_kernel() -> None:
    """Halfway between two pixels the kernel is [-1 9 9 -1] / 16."""
    responses = [resize_row(impulse(16, position), 8, antialias=False)[4] for position in range(16)]
    assert responses[7:11] == pytest.approx([-1 / 16, 9 / 16, 9 / 16, -1 / 16], abs=1e-15)
    assert responses[:7] == [0] * 7 and responses[11:] == [0] * 5


def test_the_picture_is_mirrored_outside_the_border() -> None:
    a, b, c = 1.0, 10.0, 100.0
    row = torch.tensor([a, b, c], dtype=torch.float64)
    first, second = (140 * a - 12 * b) / 128, (102 * a + 29 * b - 3 * c) / 128
    assert resize_row(row, 6)[:2] == pytest.approx([first, second], abs=1e-13)
    assert resize_row(row.flip(0), 6)[:-3:-1] == pytest.approx([first, second], abs=1e-13)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("length", "size"), [(7, 5), (5, 12), (10, 3), (3, 10), (13, 1), (1, 4), (2, 7), (40, 11)])
def test_any_size_agrees_with_the_definition(length: int, size: int, antialias: bool) -> None:
    row = torch.randn(length, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
    expected = resized_by_definition(row.tolist(), size, antialias)
    for axis in (-1, -2):
        assert resize_row(row, size, antialias=antialias, axis=axis) == pytest.approx(expected, abs=1e-12)


def test_axes_are_independent() -> None:
    """Columns grow and rows shrink: each axis has its own kernel."""
    image = torch.randn(2, 3, 9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows_first = resize_bicubic(resize_bicubic(image, 4, 6), 4, 15)
    columns_first = resize_bicubic(resize_bicubic(image, 9, 15), 4, 15)
    result = resize_bicubic(image, 4, 15)
    assert result.shape == (2, 3, 4, 15)
    torch.testing.assert_close(result, rows_first, rtol=0, atol=1e-13)
    torch.testing.assert_close(result, columns_first, rtol=0, atol=1e-13)


def test_the_same_size_changes_nothing() -> None:
    image = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_bicubic(image, 5, 7), image)


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (8, 5), (24, 20), (17, 31)], ids=str)
def test_one_colour_is_kept(size: tuple[int, int]) -> None:
    image = torch.full((1, 3, 8, 10), 0.3)
    torch.testing.assert_close(resize_bicubic(image, *size), torch.full((1, 3, *size), 0.3), rtol=0, atol=2e-7)


@pytest.mark.parametrize("size", [5, 10, 40, 60, 47])
def test_a_ramp_is_kept(size: int) -> None:
    """Away from the border linear signals are exact: enlarged by any factor, reduced by whole ones."""
    length = 20
    ramp = torch.arange(length, dtype=torch.float64)
    expected = [(target + 0.5) * length / size - 0.5 for target in range(size)]
    inside = slice(math.ceil(2 * size / length) + 1, -math.ceil(2 * size / length) - 1)
    assert len(expected[inside]) >= 1
    assert resize_row(ramp, size)[inside] == pytest.approx(expected[inside], abs=1e-12)


def test_nothing_is_clipped() -> None:
    step = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
    result = resize_row(step, 16)
    assert min(result) == pytest.approx(-9 / 128) and max(result) == pytest.approx(1 + 9 / 128)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = resize_bicubic(image.to(dtype), 5, 12)
    assert result.dtype == dtype
    expected = resize_bicubic(image.double(), 5, 12)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=4 * max(torch.finfo(dtype).eps, 1e-7))


def test_the_device_is_kept() -> None:
    assert resize_bicubic(torch.empty(3, 8, 8, device="meta"), 5, 12).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu() -> None:
    image = torch.rand(2, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    result = resize_bicubic(image.cuda(), 70, 19)
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), resize_bicubic(image, 70, 19), rtol=0, atol=1e-6)


def test_the_input_is_not_changed() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    resize_bicubic(image, 4, 16)
    assert torch.equal(image, before)


def test_gradients_work_after_a_call_in_inference_mode() -> None:
    """The taps are cached between calls; inference tensors would not work in a later backward pass."""
    with torch.inference_mode():
        resize_bicubic(torch.rand(1, 3, 19, 23, dtype=torch.float64), 11, 7)
    image = torch.rand(1, 3, 19, 23, dtype=torch.float64, requires_grad=True)
    resize_bicubic(image, 11, 7).sum().backward()
    assert image.grad is not None
    # The weights of each target pixel sum to one.
    assert float(image.grad[0, 0].sum()) == pytest.approx(77)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 4)], ids=str)
def test_sizes_below_one_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"at least 1x1, got {size[1]}x{size[0]}"):
        resize_bicubic(torch.zeros(3, 8, 8), *size)


def test_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="got torch.uint8"):
        resize_bicubic(torch.zeros(3, 8, 8, dtype=torch.uint8), 4, 4)


def test_the_edge_is_repeated_outside_the_border() -> None:
    a, b, c = 1.0, 10.0, 100.0
    row = torch.tensor([[a, b, c]], dtype=torch.float64)
    # Taps of doubling: -3 29 111 -9 at the first target, -9 111 29 -3 at the second; to the left of a there is only a.
    first, second = (-3 + 29 + 111) * a - 9 * b, (-9 + 111) * a + 29 * b - 3 * c
    result = resize_bicubic(row, 1, 6, border="repeat")[0] * 128
    assert result[:2].tolist() == pytest.approx([first, second], abs=1e-12)
    flipped = resize_bicubic(row.flip(1), 1, 6, border="repeat")[0] * 128
    assert flipped.flip(0)[:2].tolist() == pytest.approx([first, second], abs=1e-12)


def test_both_borders_agree_inside() -> None:
    image = torch.rand(1, 32, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mirrored, repeated = (resize_bicubic(image, 8, 10, border=border) for border in ("mirror", "repeat"))
    assert torch.equal(mirrored[:, 2:-2, 2:-2], repeated[:, 2:-2, 2:-2])
    assert not torch.equal(mirrored[:, 1:-1, 1:-1], repeated[:, 1:-1, 1:-1])
    assert torch.equal(mirrored, resize_bicubic(image, 8, 10))


def test_a_kernel_wider_than_the_picture() -> None:
    row = torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    for border in ("mirror", "repeat"):
        assert resize_bicubic(row, 1, 1, border=border).tolist() == [[pytest.approx(4)]]


@pytest.mark.parametrize("resize", [resize_bicubic, resize_as_matlab])
def test_unknown_borders_are_refused(resize: Callable[..., Tensor]) -> None:
    dtype = torch.uint8 if resize is resize_as_matlab else torch.float32
    with pytest.raises(ValueError, match="the border is one of mirror, repeat, got 'wrap'"):
        resize(torch.zeros(3, 8, 8, dtype=dtype), 4, 4, border="wrap")


def test_as_matlab_rounds_halves_up_and_after_each_axis() -> None:
    """Mean of a 2x2 block by halving a constant row pair: columns are rounded before rows are processed."""
    picture = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.uint8).repeat_interleave(8, 0).repeat(1, 4)
    # Rows across the step: 0.5 + the weight of the taps beyond it; away from it 0 and 1 are unchanged.
    result = resize_as_matlab(picture, 8, 8)
    assert result.dtype == torch.uint8 and result.shape == (8, 8)
    assert result[:4].eq(0).all() and result[4:].eq(1).all()
    half = torch.tensor([[0], [1]], dtype=torch.uint8).expand(2, 2)
    assert resize_as_matlab(half, 1, 2).tolist() == [[1, 1]], "0.5 becomes 1"


def test_as_matlab_clips_overshoot() -> None:
    picture = torch.tensor([[0, 0, 0, 0, 255, 255, 255, 255]], dtype=torch.uint8)
    assert resize_bicubic(picture.double(), 1, 16).amax() > 255
    result = resize_as_matlab(picture, 1, 16)[0]
    assert int(result[:7].max()) == 0 and int(result[9:].min()) == 255


def test_as_matlab_resizes_by_the_smaller_factor_first() -> None:
    picture = torch.randint(0, 256, (3, 24, 18), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    columns_first = resize_as_matlab(resize_as_matlab(picture, 24, 6), 12, 6)
    assert torch.equal(resize_as_matlab(picture, 12, 6), columns_first)
    assert torch.equal(resize_as_matlab(picture, 24, 18), picture)


def test_as_matlab_repeats_the_edge_by_default() -> None:
    picture = torch.randint(0, 256, (3, 24, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    repeated, mirrored = (resize_as_matlab(picture, 6, 8, border=border) for border in ("repeat", "mirror"))
    assert torch.equal(resize_as_matlab(picture, 6, 8), repeated)
    assert not torch.equal(repeated, mirrored) and torch.equal(repeated[:, 2:-2, 2:-2], mirrored[:, 2:-2, 2:-2])
    # Per axis it is the plain resize with a repeated edge, rounded in between.
    rows = resize_bicubic(picture.double(), 6, 32, border="repeat").add(0.5).floor().clamp(0, 255)
    columns = resize_bicubic(rows, 6, 8, border="repeat").add(0.5).floor().clamp(0, 255)
    assert torch.equal(repeated, columns.byte())


def test_as_matlab_refuses_floats_and_empty_targets() -> None:
    with pytest.raises(ValueError, match="a picture of 8 bits, got torch.float32"):
        resize_as_matlab(torch.zeros(3, 8, 8), 4, 4)
    with pytest.raises(ValueError, match="at least 1x1, got 4x0"):
        resize_as_matlab(torch.zeros(3, 8, 8, dtype=torch.uint8), 0, 4)


def pairs_of_matlab(shared_data: Path, scale: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield HR, cropped to a multiple of the scale, and MATLAB's LR of it: (3, H, W) uint8."""
    for path in sorted((shared_data / "test/Set5").glob("*.png")):
        hr = torch.from_numpy(read_picture(path)).permute(2, 0, 1)
        height, width = (size - size % scale for size in hr.shape[-2:])
        lr = read_picture(shared_data / f"test/Set5_LRx{scale}_matlab" / path.name)
        yield hr[:, :height, :width], torch.from_numpy(lr).permute(2, 0, 1)


@pytest.mark.parametrize(("scale", "share"), [(2, 0.99429), (4, 0.98613)])
def test_set5_is_reduced_as_in_matlab(shared_data: Path, scale: int, share: float) -> None:
    """Every pixel is equal with a repeated edge; mirrored, all but those within two pixels of the border."""
    equal = count = 0
    for hr, matlab in pairs_of_matlab(shared_data, scale):
        height, width = matlab.shape[-2:]
        assert torch.equal(resize_as_matlab(hr, height, width), matlab)
        mirrored = resize_as_matlab(hr, height, width, border="mirror")
        assert torch.equal(mirrored[:, 2:-2, 2:-2], matlab[:, 2:-2, 2:-2])
        assert (mirrored.int() - matlab.int())[:, 1:-1, 1:-1].abs().max() <= 1
        equal += int((mirrored == matlab).sum())
        count += matlab.numel()
    assert equal / count == pytest.approx(share, abs=1e-5)
