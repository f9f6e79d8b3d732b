from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from vsr.imaging.colour import (
    MATRICES,
    ColourSpec,
    PixelLayout,
    Siting,
    alpha_of,
    alpha_to_plane,
    downsample_chroma,
    planes_to_rgb,
    rgb_to_planes,
    upsample_chroma,
)

BT709 = ColourSpec("bt709", full_range=False)
YUV420 = PixelLayout("yuv", 8, 1, 1)
SITINGS: tuple[Siting, ...] = ("cosited", "centred")
SITING_PAIRS = list(itertools.product(SITINGS, SITINGS))
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def flat(rgb: tuple[float, ...], height: int = 2, width: int = 2) -> Tensor:
    """Return a picture of one colour, (1, 3, height, width) float32."""
    return torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, height, width).contiguous()


def stored(layout: PixelLayout, *codes: int) -> list[Tensor]:
    """Return a 2x2 picture with one code for each plane."""
    shapes = layout.plane_shapes(2, 2)
    return [torch.full((1, *shape), code).to(layout.dtype) for code, shape in zip(codes, shapes, strict=True)]


def random_planes(layout: PixelLayout, height: int, width: int, count: int = 2) -> list[Tensor]:
    """Return noise over all codes of the depth, including the least and the greatest."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    top = 2**layout.bit_depth - 1
    planes = []
    for shape in layout.plane_shapes(height, width):
        plane = torch.randint(0, top + 1, (count, *shape), generator=generator)
        plane[0, 0, 0], plane[-1, -1, -1] = 0, top
        planes.append(plane.to(layout.dtype))
    return planes


def codes(planes: list[Tensor]) -> tuple[int, ...]:
    """Return the code of each plane of a picture of one colour."""
    values = [set(plane.flatten().tolist()) for plane in planes]
    assert all(len(value) == 1 for value in values), f"not one colour: {values}"
    return tuple(value.pop() for value in values)


def assert_same(result: list[Tensor], expected: list[Tensor]) -> None:
    for got, plane in zip(result, expected, strict=True):
        assert got.dtype == plane.dtype and got.shape == plane.shape and got.is_contiguous()
        assert torch.equal(got.to(torch.int32).cpu(), plane.to(torch.int32).cpu())


def ramp_layout(steps: int, axis: int) -> PixelLayout:
    return PixelLayout("yuv", 8, *((steps, 0) if axis == -1 else (0, steps)))


def both_axes(siting: Siting) -> ColourSpec:
    return ColourSpec("bt709", False, siting, siting)


def upsample_row(row: list[float], size: int, siting: Siting, axis: int, steps: int = 1) -> list[float]:
    line = torch.tensor([row]) if axis == -1 else torch.tensor([row]).T
    height, width = (1, size) if axis == -1 else (size, 1)
    return upsample_chroma(line, height, width, ramp_layout(steps, axis), both_axes(siting)).flatten().tolist()


def downsample_row(row: list[float], siting: Siting, axis: int) -> list[float]:
    line = torch.tensor([row]) if axis == -1 else torch.tensor([row]).T
    return downsample_chroma(line, ramp_layout(1, axis), both_axes(siting)).flatten().tolist()


# Codes of pure red, green and blue: the formulas of H.273 worked out by hand.
PRIMARIES = [
    ("bt601", 8, False, (81, 90, 240), (145, 54, 34), (41, 240, 110)),
    ("bt601", 8, True, (76, 85, 255), (150, 44, 21), (29, 255, 107)),
    ("bt709", 8, False, (63, 102, 240), (173, 42, 26), (32, 240, 118)),
    ("bt709", 10, False, (250, 409, 960), (691, 167, 105), (127, 960, 471)),
    ("bt709", 10, True, (217, 395, 1023), (732, 118, 47), (74, 1023, 465)),
    ("bt2020", 10, False, (294, 387, 960), (658, 189, 100), (116, 960, 476)),
    ("fcc", 8, False, (82, 90, 240), (145, 54, 34), (40, 240, 110)),
    ("smpte240m", 12, False, (999, 1632, 3840), (2712, 672, 454), (561, 3840, 1850)),
]


@pytest.mark.parametrize("subsampling", [0, 1])
@pytest.mark.parametrize(("matrix", "bit_depth", "full_range", "red", "green", "blue"), PRIMARIES)
def test_codes_of_the_primaries(
    matrix: str,
    bit_depth: int,
    full_range: bool,
    red: tuple[int, ...],
    green: tuple[int, ...],
    blue: tuple[int, ...],
    subsampling: int,
) -> None:
    layout = PixelLayout("yuv", bit_depth, subsampling, subsampling)
    colour = ColourSpec(matrix, full_range)
    for rgb, expected in ((RED, red), (GREEN, green), (BLUE, blue)):
        assert codes(rgb_to_planes(flat(rgb), layout, colour)) == expected
        # The error back to RGB is that of rounding the codes: half a code in luma, half of up to 1.9 codes in chroma.
        back = planes_to_rgb(stored(layout, *expected), layout, colour)
        assert (back - flat(rgb)).abs().max() < 1.5 / 219 / 2 ** (bit_depth - 8)


def test_rgb_of_known_codes() -> None:
    layout = PixelLayout("yuv", 8)
    rgb = planes_to_rgb(stored(layout, 81, 90, 240), layout, ColourSpec("bt601", full_range=False))
    # R = Y + 1.402 Pr, G = Y - 0.344136 Pb - 0.714136 Pr, B = Y + 1.772 Pb with Y = 65/219, Pb = -38/224, Pr = 1/2
    expected = flat((0.997804, -0.001884, -0.003804))
    torch.testing.assert_close(rgb, expected, rtol=0, atol=2e-6)
    assert rgb.dtype == torch.float32 and rgb.is_contiguous()


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("bit_depth", [8, 10, 12, 16])
@pytest.mark.parametrize("full_range", [False, True])
def test_black_white_and_neutral(matrix: str, bit_depth: int, full_range: bool) -> None:
    layout, colour = PixelLayout("yuv", bit_depth, 1, 1), ColourSpec(matrix, full_range)
    step = 2 ** (bit_depth - 8)
    black, white = (0, 2**bit_depth - 1) if full_range else (16 * step, 235 * step)
    assert codes(rgb_to_planes(flat((0, 0, 0)), layout, colour)) == (black, 128 * step, 128 * step)
    assert codes(rgb_to_planes(flat((1, 1, 1)), layout, colour)) == (white, 128 * step, 128 * step)
    for luma, level in ((black, 0.0), (white, 1.0), ((black + white) // 2, None)):
        rgb = planes_to_rgb(stored(layout, luma, 128 * step, 128 * step), layout, colour)
        assert torch.equal(rgb, rgb[:, :1, :1, :1].expand_as(rgb)), "grey must not be tinted"
        assert level is None or rgb[0, 0, 0, 0].item() == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize("subsampling", [(0, 0), (1, 0), (1, 1), (0, 1), (2, 0), (2, 2)], ids=str)
@pytest.mark.parametrize("bit_depth", [8, 10, 12, 16])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("sitings", SITING_PAIRS, ids="-".join)
def test_round_trip_is_exact(
    subsampling: tuple[int, int], bit_depth: int, full_range: bool, sitings: tuple[Siting, Siting]
) -> None:
    """All codes, including those outside the nominal range; at 16 bits too float32 errs by less than half a code."""
    layout = PixelLayout("yuv", bit_depth, *subsampling)
    for (height, width), matrix in zip([(16, 24), (17, 23), (7, 2), (1, 1), (2, 3)], MATRICES, strict=True):
        planes = random_planes(layout, height, width)
        colour = ColourSpec(matrix, full_range, *sitings)
        rgb = planes_to_rgb(planes, layout, colour)
        assert rgb.shape == (2, 3, height, width) and rgb.is_contiguous()
        assert_same(rgb_to_planes(rgb, layout, colour), planes)


@pytest.mark.parametrize("kind", ["grey", "rgb"])
@pytest.mark.parametrize("bit_depth", [8, 10, 12, 16])
@pytest.mark.parametrize("full_range", [False, True])
def test_round_trip_of_grey_and_rgb_is_exact(kind: str, bit_depth: int, full_range: bool) -> None:
    layout = PixelLayout(kind, bit_depth)  # type: ignore[arg-type]
    colour = ColourSpec("bt709", full_range)
    planes = random_planes(layout, 9, 14)
    assert_same(rgb_to_planes(planes_to_rgb(planes, layout, colour), layout, colour), planes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bit_depth", [8, 10, 16])
def test_cuda_agrees_with_the_cpu(bit_depth: int) -> None:
    layout = PixelLayout("yuv", bit_depth, 1, 1)
    planes = random_planes(layout, 37, 50)
    rgb = planes_to_rgb([plane.cuda() for plane in planes], layout, BT709)
    torch.testing.assert_close(rgb.cpu(), planes_to_rgb(planes, layout, BT709), rtol=0, atol=2e-6)
    assert_same(rgb_to_planes(rgb, layout, BT709), planes)


def test_grey_has_equal_channels_and_is_stored_as_luma() -> None:
    layout = PixelLayout("grey", 8)
    rgb = planes_to_rgb(stored(layout, 125), layout, BT709)
    torch.testing.assert_close(rgb, flat((109 / 219,) * 3), rtol=0, atol=1e-6)
    assert codes(rgb_to_planes(flat(RED), layout, BT709)) == (63,)
    assert codes(rgb_to_planes(flat(RED), layout, ColourSpec("bt601", full_range=True))) == (76,)


@pytest.mark.parametrize(
    ("bit_depth", "full_range", "green_blue_red"),
    [(8, False, (16, 71, 235)), (8, True, (0, 64, 255)), (10, False, (64, 283, 940)), (16, True, (0, 16384, 65535))],
)
def test_rgb_planes_are_green_blue_red(bit_depth: int, full_range: bool, green_blue_red: tuple[int, ...]) -> None:
    layout, colour = PixelLayout("rgb", bit_depth), ColourSpec("bt709", full_range)
    assert codes(rgb_to_planes(flat((1.0, 0.0, 0.25)), layout, colour)) == green_blue_red
    rgb = planes_to_rgb(stored(layout, *green_blue_red), layout, colour)
    torch.testing.assert_close(rgb, flat((1.0, 0.0, 0.25)), rtol=0, atol=0.5 / 219)


def test_values_are_clipped_only_to_the_stored_range() -> None:
    layout = PixelLayout("yuv", 8)
    rgb = planes_to_rgb(stored(layout, 255, 128, 128), layout, BT709)
    torch.testing.assert_close(rgb, flat((239 / 219,) * 3), rtol=0, atol=1e-6)
    for level, code in ((1.05, 246), (2.0, 255), (-0.05, 5), (-1.0, 0)):
        assert codes(rgb_to_planes(flat((level,) * 3), layout, BT709)) == (code, 128, 128)
    assert codes(rgb_to_planes(flat((3.0, 0.0, -2.0)), PixelLayout("yuv", 10), BT709))[1:] == (0, 1023)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32(dtype: torch.dtype) -> None:
    rgb = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    layout = PixelLayout("yuv", 12, 1, 1)
    before = rgb.clone()
    assert_same(rgb_to_planes(rgb, layout, BT709), rgb_to_planes(rgb.float(), layout, BT709))
    assert torch.equal(rgb, before)


@pytest.mark.parametrize("kind", ["yuv", "grey", "rgb"])
def test_inputs_are_not_changed(kind: str) -> None:
    layout = PixelLayout(kind, 8)  # type: ignore[arg-type]
    planes = random_planes(layout, 6, 8)
    rgb = planes_to_rgb(planes, layout, BT709)
    before = rgb.clone()
    rgb_to_planes(rgb, layout, BT709)
    assert torch.equal(rgb, before)
    assert_same(planes, random_planes(layout, 6, 8))


def test_planes_are_contiguous_whatever_the_rgb() -> None:
    rgb = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = rgb_to_planes(rgb, YUV420, BT709)
    assert_same(rgb_to_planes(rgb.to(memory_format=torch.channels_last), YUV420, BT709), expected)
    assert_same(rgb_to_planes(rgb.mT.contiguous().mT, YUV420, BT709), expected)
    assert_same(rgb_to_planes(rgb.requires_grad_(), YUV420, BT709), expected)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize(
    ("siting", "size", "expected"),
    [
        ("cosited", 6, [0, 4, 8, 12, 16, 16]),
        ("cosited", 5, [0, 4, 8, 12, 16]),
        ("centred", 6, [-1, 1, 6, 10, 15, 17]),
        ("centred", 5, [-1, 1, 6, 10, 16]),
    ],
)
def test_upsampling_by_hand(siting: Siting, size: int, expected: list[float], axis: int) -> None:
    assert upsample_row([0.0, 8.0, 16.0], size, siting, axis) == expected


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize(
    ("siting", "row", "expected"),
    [
        ("cosited", [8, 0, 0, 16, 0, 0], [7, 3, 4]),
        ("cosited", [8, 0, 0, 16, 0], [7, 3, 4]),
        ("cosited", [0, 0, 0, 8], [0, 1]),
        ("centred", [8, 0, 0, 16, 2, 4], [4, 8, 3]),
        ("centred", [8, 0, 0, 16, 2], [4, 8, 2]),
    ],
)
def test_downsampling_by_hand(siting: Siting, row: list[float], expected: list[float], axis: int) -> None:
    assert downsample_row([float(value) for value in row], siting, axis) == expected


@pytest.mark.parametrize("size", range(1, 10))
def test_cosited_downsampling_is_the_5_3_filter_with_repeated_edges(size: int) -> None:
    row = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    padded = torch.cat([row[:1].expand(2), row, row[-1:].expand(2)])
    taps = torch.tensor([-1, 2, 6, 2, -1], dtype=torch.float64) / 8
    expected = torch.stack([padded[centre : centre + 5] @ taps for centre in range(0, size, 2)])
    result = downsample_chroma(row.view(1, size), ramp_layout(1, -1), both_axes("cosited"))
    torch.testing.assert_close(result.flatten(), expected)


@pytest.mark.parametrize("subsampling", [(1, 0), (1, 1), (0, 1), (2, 0), (2, 2)], ids=str)
@pytest.mark.parametrize("siting", SITINGS)
def test_downsampling_inverts_upsampling(subsampling: tuple[int, int], siting: Siting) -> None:
    layout = PixelLayout("yuv", 8, *subsampling)
    for height, width in itertools.product([1, 2, 3, 4, 5, 13], [1, 2, 6, 9]):
        chroma = torch.stack(random_planes(layout, height, width)[1:], 1).float()
        grown = upsample_chroma(chroma, height, width, layout, both_axes(siting))
        assert grown.shape == (2, 2, height, width) and grown.is_contiguous()
        # With codes of 8 bits and filters of powers of two float32 is exact.
        assert torch.equal(downsample_chroma(grown, layout, both_axes(siting)), chroma)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize(
    ("siting", "steps", "first"), [("cosited", 1, 0.0), ("centred", 1, 0.5), ("cosited", 2, 0.0), ("centred", 2, 1.5)]
)
def test_a_ramp_shows_the_chroma_position(siting: Siting, steps: int, first: float, axis: int) -> None:
    """Chroma sample k lies at luma position ``first + k * 2**steps``; linear signals are exact away from the edges."""
    samples, factor = 12, 2**steps
    ramp = [first + k * factor for k in range(samples)]
    result = upsample_row(ramp, samples * factor, siting, axis, steps)
    inside = slice(2 * factor, -2 * factor)
    assert result[inside] == list(range(samples * factor))[inside]
    if steps == 1:
        assert downsample_row([float(i) for i in range(2 * samples)], siting, axis)[1:-1] == ramp[1:-1]


@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("edge", [15, 16])
def test_a_step_is_not_shifted(siting: Siting, edge: int) -> None:
    """Red beside blue in 4:2:0: each keeps its share of a row, so that the edge does not move."""
    rgb = flat(RED, 8, 32)
    rgb[..., edge:] = flat(BLUE, 8, 32 - edge)
    colour = ColourSpec("bt709", False, siting, "centred")
    shrunk = downsample_chroma(rgb, YUV420, colour)
    grown = upsample_chroma(shrunk, 8, 32, YUV420, colour)
    assert torch.equal(grown.sum(-1), rgb.sum(-1))
    other = ColourSpec("bt709", False, SITINGS[siting == "cosited"], "centred")
    assert (upsample_chroma(shrunk, 8, 32, YUV420, other).sum(-1) - rgb.sum(-1))[:, ::2].abs().min() >= 0.4


@pytest.mark.parametrize("sitings", SITING_PAIRS, ids="-".join)
@pytest.mark.parametrize("size", [(8, 10), (7, 9), (1, 1)], ids=str)
def test_one_colour_stays_one_colour(sitings: tuple[Siting, Siting], size: tuple[int, int]) -> None:
    colour = ColourSpec("bt601", False, *sitings)
    planes = [
        torch.full((1, *shape), code, dtype=torch.uint8)
        for shape, code in zip(YUV420.plane_shapes(*size), (99, 33, 201), strict=True)
    ]
    rgb = planes_to_rgb(planes, YUV420, colour)
    assert torch.equal(rgb, rgb[..., :1, :1].expand_as(rgb))
    assert codes(rgb_to_planes(rgb, YUV420, colour)) == (99, 33, 201)


def test_layout_properties() -> None:
    assert (YUV420.dtype, YUV420.num_planes) == (torch.uint8, 3)
    assert YUV420.plane_shapes(5, 7) == [(5, 7), (3, 4), (3, 4)]
    assert PixelLayout("yuv", 8, 2, 0).plane_shapes(5, 9) == [(5, 9), (5, 3), (5, 3)]
    grey = PixelLayout("grey", 10)
    assert (grey.dtype, grey.num_planes) == (torch.uint16, 1)
    assert grey.plane_shapes(5, 7) == [(5, 7)]
    assert PixelLayout("rgb", 16).plane_shapes(5, 7) == [(5, 7)] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cmyk", 8), "got 'cmyk'"),
        (("yuv", 7), "got 7"),
        (("yuv", 17), "got 17"),
        (("yuv", 8, 3, 0), r"got \(3, 0\)"),
        (("yuv", 8, 0, -1), r"got \(0, -1\)"),
        (("rgb", 8, 1, 0), r"rgb has no chroma planes to subsample, got subsampling \(1, 0\)"),
        (("grey", 8, 0, 1), "grey has no chroma"),
    ],
)
def test_invalid_layouts_are_refused(arguments: tuple[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelLayout(*arguments)  # type: ignore[arg-type]


def test_invalid_colour_specs_are_refused() -> None:
    with pytest.raises(ValueError, match="got 'ycgco'"):
        ColourSpec("ycgco", full_range=False)
    with pytest.raises(ValueError, match="got 'left'"):
        ColourSpec("bt709", full_range=False, chroma_x="left")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 'top'"):
        ColourSpec("bt709", full_range=False, chroma_y="top")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shapes", "dtype", "message"),
    [
        ([(1, 4, 6)], torch.uint8, "yuv has 3 planes, got 1"),
        ([], torch.uint8, "got 0"),
        ([(4, 6), (2, 3), (2, 3)], torch.uint8, r"got \(4, 6\)"),
        ([(1, 0, 6), (1, 0, 3), (1, 0, 3)], torch.uint8, r"got \(1, 0, 6\)"),
        ([(1, 4, 6), (1, 2, 3), (1, 2, 2)], torch.uint8, r"plane 2 must be \(1, 2, 3\), got \(1, 2, 2\)"),
        ([(2, 4, 6), (1, 2, 3), (2, 2, 3)], torch.uint8, r"plane 1 must be \(2, 2, 3\), got \(1, 2, 3\)"),
        ([(1, 4, 6), (1, 2, 3), (1, 2, 3)], torch.uint16, "plane 0 of 8 bits must be torch.uint8, got torch.uint16"),
    ],
)
def test_planes_that_do_not_match_are_refused(shapes: list[tuple[int, ...]], dtype: torch.dtype, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planes_to_rgb([torch.zeros(shape, dtype=dtype) for shape in shapes], YUV420, BT709)


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (torch.zeros(3, 4, 6), r"got \(3, 4, 6\)"),
        (torch.zeros(1, 4, 4, 6), r"got \(1, 4, 4, 6\)"),
        (torch.zeros(1, 3, 4, 0), r"got \(1, 3, 4, 0\)"),
        (torch.zeros(1, 3, 4, 6, dtype=torch.uint8), "got torch.uint8"),
    ],
)
def test_rgb_of_another_shape_is_refused(rgb: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rgb_to_planes(rgb, YUV420, BT709)


def test_chroma_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chroma of 4x6 must be \(2, 3\) .* got \(1, 2, 4\)"):
        upsample_chroma(torch.zeros(1, 2, 4), 4, 6, YUV420, BT709)


@pytest.mark.parametrize("bit_depth", [8, 10, 16])
@pytest.mark.parametrize("kind", ["yuv", "rgb"])
def test_alpha_by_hand_and_back(kind: str, bit_depth: int) -> None:
    """Alpha always has full range and does not affect the colours."""
    plain, layout = (PixelLayout(kind, bit_depth, alpha=alpha) for alpha in (False, True))  # type: ignore[arg-type]
    greatest = 2**bit_depth - 1
    codes = torch.tensor([[0, 1, greatest // 2], [greatest // 3, greatest - 1, greatest]]).to(layout.dtype)[None]
    planes = [*random_planes(plain, 2, 3, 1), codes]
    alpha = alpha_of(planes, layout)
    assert alpha is not None and alpha.shape == (1, 1, 2, 3) and alpha.dtype == torch.float32
    expected = torch.tensor([[0, 1 / greatest, (greatest // 2) / greatest], [1 / 3, 1 - 1 / greatest, 1]])
    torch.testing.assert_close(alpha[0, 0], expected, atol=1e-6, rtol=0)
    assert torch.equal(alpha_to_plane(alpha, layout).to(torch.int32), codes.to(torch.int32))
    assert alpha_to_plane(alpha, layout).dtype == layout.dtype
    colour = ColourSpec("bt709", full_range=False)
    assert torch.equal(planes_to_rgb(planes, layout, colour), planes_to_rgb(planes[:-1], plain, colour))
    assert len(rgb_to_planes(planes_to_rgb(planes, layout, colour), layout, colour)) == 3


def test_alpha_that_is_missing_or_out_of_range() -> None:
    layout = PixelLayout("rgb", alpha=True)
    assert alpha_of(random_planes(PixelLayout("rgb"), 2, 3), PixelLayout("rgb")) is None
    half = alpha_to_plane(torch.tensor([[[[-0.5, 0.5, 1.5]]]]), layout)
    assert half.tolist() == [[[0, 128, 255]]]
    assert layout.num_planes == 4 and PixelLayout("grey", alpha=True).num_planes == 2
    assert PixelLayout("yuv", 8, 1, 1, alpha=True).plane_shapes(5, 7) == [(5, 7), (3, 4), (3, 4), (5, 7)]
    with pytest.raises(ValueError, match="rgb has 4 planes, got 3"):
        planes_to_rgb(random_planes(PixelLayout("rgb"), 2, 3), layout, ColourSpec("bt709", full_range=True))
