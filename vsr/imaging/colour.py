"""Convert decoded planes to RGB and back (matrix, range, bit depth, chroma siting); fill invisible pixels.

Both directions are linear except for the final rounding, so the matrix is applied at the size of the chroma planes,
where there are fewest samples, and only luma is processed at full size. Formulas and coefficients: Rec. ITU-T H.273,
clause 8.3.

Chroma is resampled by biorthogonal pairs of wavelet filters (Cohen, Daubechies and Feauveau, 1992), so that
``downsample_chroma(upsample_chroma(x))`` is ``x`` and a picture that no network has changed is restored exactly. The
pair for an axis depends on the position of its chroma samples:

- *cosited*, on every second luma sample: linear interpolation up, the low-pass of the LeGall 5/3 wavelet down.
- *centred*, between two luma samples: the dual of Haar (CDF 1/3) up, the mean of the two down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Siting = Literal["cosited", "centred"]

WITHOUT_UINT16 = {"mps"}
"""Device types with little support for uint16: deep planes are int32 there."""

# Kr and Kb, the weights of red and blue in luma (H.273, table 4: MatrixCoefficients 6 and 5, 1, 9, 4, 7).
MATRICES: dict[str, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
}


@dataclass(frozen=True)
class PixelLayout:
    """How the planes of a frame are stored.

    Raises:
        ValueError: an unknown kind, a depth outside 8..16, a subsampling outside 0..2, or one without chroma planes.
    """

    kind: Literal["yuv", "grey", "rgb"]
    """``yuv``: Y, Cb, Cr. ``grey``: only Y. ``rgb``: G, B, R, in this order (libav's gbrp)."""
    bit_depth: int = 8
    """Bits of a sample, 8..16. 8 bits use one byte; more use the low bits of two bytes, little endian."""
    subsampling_x: int = 0
    """log2 of the luma columns for each chroma column, 0..2."""
    subsampling_y: int = 0
    """log2 of the luma rows for each chroma row, 0..2."""
    alpha: bool = False
    """Whether the last plane is alpha, as large as luma, from 0 (transparent) to the greatest code (opaque)."""

    def __post_init__(self) -> None:
        if self.kind not in ("yuv", "grey", "rgb"):
            raise ValueError(f"kind must be yuv, grey or rgb, got {self.kind!r}")
        if not 8 <= self.bit_depth <= 16:
            raise ValueError(f"bit_depth must be 8..16, got {self.bit_depth}")
        subsampling = (self.subsampling_x, self.subsampling_y)
        if not all(0 <= steps <= 2 for steps in subsampling):
            raise ValueError(f"subsampling must be 0..2 on each axis, got {subsampling}")
        if self.kind != "yuv" and any(subsampling):
            raise ValueError(f"{self.kind} has no chroma planes to subsample, got subsampling {subsampling}")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the planes: uint8 or uint16."""
        return torch.uint8 if self.bit_depth <= 8 else torch.uint16

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """Return ``dtype``, or int32 where a device lacks uint16."""
        return torch.int32 if self.bit_depth > 8 and device.type in WITHOUT_UINT16 else self.dtype

    @property
    def num_planes(self) -> int:
        """The number of planes: 1 for grey, else 3, plus one for alpha."""
        return (1 if self.kind == "grey" else 3) + self.alpha

    def plane_shapes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return (rows, columns) of each plane of a picture; chroma sizes are rounded up, as in libav."""
        if self.kind != "yuv":
            return [(height, width)] * self.num_planes
        chroma = (_halved(height, self.subsampling_y), _halved(width, self.subsampling_x))
        return [(height, width), chroma, chroma, *[(height, width)] * self.alpha]


@dataclass(frozen=True)
class ColourSpec:
    """The meaning of a frame's code values.

    Raises:
        ValueError: an unknown matrix or siting.
    """

    matrix: str
    """A key of `MATRICES`. For grey it is used only from RGB to planes; for rgb it has no effect."""
    full_range: bool
    """True: all codes are used. False: for 8 bits, black is 16, white 235, and chroma is in 16..240."""
    chroma_x: Siting = "cosited"
    """Horizontal position of chroma. The default pair is MPEG-2's "left", the usual one of 4:2:0."""
    chroma_y: Siting = "centred"
    """Vertical position of chroma."""

    def __post_init__(self) -> None:
        if self.matrix not in MATRICES:
            raise ValueError(f"matrix must be one of {', '.join(MATRICES)}, got {self.matrix!r}")
        for siting in (self.chroma_x, self.chroma_y):
            if siting not in ("cosited", "centred"):
                raise ValueError(f"chroma siting must be cosited or centred, got {siting!r}")


def planes_to_rgb(planes: Sequence[Tensor], layout: PixelLayout, colour: ColourSpec) -> Tensor:
    """Convert decoded planes to RGB; see `alpha_of` for alpha.

    Args:
        planes: one tensor (N, rows, columns) for each plane of ``layout``, all of its ``dtype_on`` the same device.
        layout: how the planes are stored.
        colour: the meaning of their code values.

    Returns:
        (N, 3, H, W) float32 on the same device, contiguous. Black is 0 and white is 1; nothing is clipped: codes
        outside the nominal range are outside [0, 1].

    Raises:
        ValueError: the number of planes, a shape or a dtype does not match ``layout``.
    """
    _check_planes(planes, layout)
    count, height, width = planes[0].shape
    unit, black, chroma_unit, neutral = _quantisation(layout.bit_depth, colour.full_range)
    if layout.kind != "yuv":
        order = (2, 0, 1) if layout.kind == "rgb" else (0, 0, 0)
        # One plane at a time: older PyTorch can copy and convert uint16 but not stack it.
        return torch.stack([planes[plane].to(torch.float32) for plane in order], 1).sub_(black).mul_(1 / unit)

    kr, kg, kb = _luma_weights(colour.matrix)
    blue = planes[1].to(torch.float32).sub_(neutral)
    red = planes[2].to(torch.float32).sub_(neutral)
    # R, G and B minus luma, at the size of the chroma planes. Black is subtracted here: resampling keeps a constant.
    rgb = blue.new_full((count, 3, *blue.shape[1:]), -black / unit)
    rgb[:, 0].add_(red, alpha=2 * (1 - kr) / chroma_unit)
    rgb[:, 1].add_(red, alpha=-2 * (1 - kr) * kr / kg / chroma_unit)
    rgb[:, 1].add_(blue, alpha=-2 * (1 - kb) * kb / kg / chroma_unit)
    rgb[:, 2].add_(blue, alpha=2 * (1 - kb) / chroma_unit)
    rgb = upsample_chroma(rgb, height, width, layout, colour)
    return rgb.add_(planes[0].to(torch.float32).unsqueeze(1), alpha=1 / unit)


def rgb_to_planes(rgb: Tensor, layout: PixelLayout, colour: ColourSpec) -> list[Tensor]:
    """Convert RGB to planes without alpha; the inverse of `planes_to_rgb`.

    Planes converted by `planes_to_rgb` are restored exactly at every depth, subsampling and siting: at 16 bits the
    rounding errors of float32 add up to less than a tenth of a code.

    Args:
        rgb: (N, 3, H, W) floating point, nominally in [0, 1], on any device. Half precision is computed in float32.
        layout: how to store the planes.
        colour: the meaning of their code values.

    Returns:
        One contiguous tensor (N, rows, columns) for each plane, of ``layout.dtype_on`` the same device. Values are
        rounded, and clipped only to what ``bit_depth`` bits can store: limited range keeps its head- and footroom.

    Raises:
        ValueError: ``rgb`` has another shape, or is not floating point.
    """
    if rgb.ndim != 4 or rgb.shape[1] != 3 or 0 in rgb.shape:
        raise ValueError(f"expected RGB of shape (N, 3, H, W), got {tuple(rgb.shape)}")
    if not rgb.is_floating_point():
        raise ValueError(f"expected floating-point RGB, got {rgb.dtype}")
    rgb = rgb.detach().to(torch.float32)
    unit, black, chroma_unit, neutral = _quantisation(layout.bit_depth, colour.full_range)
    if layout.kind == "rgb":
        return [_store(rgb[:, channel] * unit, black, layout) for channel in (1, 2, 0)]

    kr, kg, kb = _luma_weights(colour.matrix)
    luma = _store(_weighted(rgb, (kr, kg, kb), unit), black, layout)
    if layout.kind == "grey":
        return [luma]
    small = downsample_chroma(rgb, layout, colour)
    blue = _weighted(small, (-kr, -kg, 1 - kb), chroma_unit / (2 * (1 - kb)))
    red = _weighted(small, (1 - kr, -kg, -kb), chroma_unit / (2 * (1 - kr)))
    return [luma, _store(blue, neutral, layout), _store(red, neutral, layout)]


def alpha_of(planes: Sequence[Tensor], layout: PixelLayout) -> Tensor | None:
    """Return the alpha of decoded planes: (N, 1, H, W) float32 in [0, 1]; None where the layout has none."""
    if not layout.alpha:
        return None
    return planes[-1].to(torch.float32).mul_(1 / (2**layout.bit_depth - 1)).unsqueeze(1)


def alpha_to_plane(alpha: Tensor, layout: PixelLayout) -> Tensor:
    """Convert alpha (N, 1, H, W) in [0, 1] to a plane (N, H, W) of ``layout.dtype_on``; the inverse of `alpha_of`."""
    return _store(alpha[:, 0].to(torch.float32) * (2**layout.bit_depth - 1), 0.0, layout)


def upsample_chroma(chroma: Tensor, height: int, width: int, layout: PixelLayout, colour: ColourSpec) -> Tensor:
    """Resample from the size of the chroma planes to the size of luma.

    Args:
        chroma: float (..., rows, columns), of any range, on any device, without gradients.
        height: luma rows.
        width: luma columns.
        layout: the subsampling.
        colour: the siting.

    Returns:
        (..., height, width) of the same dtype; ``chroma`` itself where nothing is subsampled.

    Raises:
        ValueError: ``chroma`` does not have the chroma size of a picture of ``height`` x ``width``.
    """
    expected = (_halved(height, layout.subsampling_y), _halved(width, layout.subsampling_x))
    if tuple(chroma.shape[-2:]) != expected:
        raise ValueError(f"chroma of {height}x{width} must be {expected} (rows, columns), got {tuple(chroma.shape)}")
    # Columns first, while there are fewer rows: writing every second column is the most expensive step.
    for steps in reversed(range(layout.subsampling_x)):
        chroma = _upsample_axis(chroma, _halved(width, steps), -1, colour.chroma_x)
    for steps in reversed(range(layout.subsampling_y)):
        chroma = _upsample_axis(chroma, _halved(height, steps), -2, colour.chroma_y)
    return chroma


def downsample_chroma(image: Tensor, layout: PixelLayout, colour: ColourSpec) -> Tensor:
    """Resample from the size of luma to the size of the chroma planes; the inverse of `upsample_chroma`.

    Args:
        image: float (..., H, W), of any range, on any device.
        layout: the subsampling.
        colour: the siting.

    Returns:
        (..., rows, columns) of the same dtype, sizes rounded up; ``image`` itself where nothing is subsampled.
    """
    for _ in range(layout.subsampling_y):
        image = _downsample_axis(image, -2, colour.chroma_y)
    for _ in range(layout.subsampling_x):
        image = _downsample_axis(image, -1, colour.chroma_x)
    return image


def _upsample_axis(x: Tensor, size: int, axis: int, siting: Siting) -> Tensor:
    """Double ``axis`` to ``size``, which is twice the old size or one less; edge samples are repeated."""
    shape = list(x.shape)
    shape[axis] = size
    result = x.new_empty(shape)
    x, grown = x.transpose(axis, -1), result.transpose(axis, -1)
    even, odd = grown[..., 0::2], grown[..., 1::2]
    last, pairs = x.shape[-1] - 1, size // 2
    if siting == "cosited":
        even.copy_(x)
        torch.lerp(x[..., :-1], x[..., 1:], 0.5, out=odd[..., :last])
        odd[..., last:] = x[..., last:pairs]
        return result
    # Each pair keeps its mean and gets the slope between its neighbours. A single last sample has the mean alone.
    slope = torch.empty_like(x)
    torch.sub(x[..., 2:], x[..., :-2], out=slope[..., 1:-1])
    slope[..., 0] = x[..., min(1, last)] - x[..., 0]
    slope[..., last] = x[..., last] - x[..., max(last - 1, 0)] if size % 2 == 0 else 0
    torch.sub(x, slope, alpha=0.125, out=even)
    torch.add(x[..., :pairs], slope[..., :pairs], alpha=0.125, out=odd)
    return result


def _downsample_axis(x: Tensor, axis: int, siting: Siting) -> Tensor:
    """Halve ``axis``, rounding up; edge samples are repeated."""
    x = x.transpose(axis, -1)
    even, odd = x[..., 0::2], x[..., 1::2]
    last, pairs = even.shape[-1] - 1, odd.shape[-1]
    if siting == "centred":
        result = torch.empty_like(even)
        torch.lerp(even[..., :pairs], odd, 0.5, out=result[..., :pairs])
        result[..., pairs:] = even[..., pairs:]
        return result.transpose(axis, -1)
    # [-1 2 6 2 -1] / 8 as a lifting step: each odd sample adds a quarter of its interpolation error to both
    # neighbours. Interpolated samples have no error, so that the even samples are restored exactly.
    error = odd.clone()
    error[..., :last].sub_(torch.lerp(even[..., :-1], even[..., 1:], 0.5))
    error[..., last:].sub_(even[..., last:pairs]).mul_(0.5)
    result = even.clone()
    result[..., :pairs].add_(error, alpha=0.25)
    result[..., 1:].add_(error[..., :last], alpha=0.25)
    return result.transpose(axis, -1)


def _halved(size: int, steps: int) -> int:
    return -(-size >> steps)


def _luma_weights(matrix: str) -> tuple[float, float, float]:
    kr, kb = MATRICES[matrix]
    return kr, 1 - kr - kb, kb


def _quantisation(bit_depth: int, full_range: bool) -> tuple[float, float, float, float]:
    """Return luma's range and black, chroma's range (of -0.5..0.5) and neutral, in code values. H.273, clause 8.3."""
    step = 2.0 ** (bit_depth - 8)
    if full_range:
        return 2.0**bit_depth - 1, 0.0, 2.0**bit_depth - 1, 128 * step
    return 219 * step, 16 * step, 224 * step, 128 * step


def _weighted(rgb: Tensor, weights: tuple[float, float, float], scale: float) -> Tensor:
    """Return the scaled and weighted sum of the channels: (N, 3, H, W) -> (N, H, W)."""
    red, green, blue = (weight * scale for weight in weights)
    return torch.mul(rgb[:, 0], red).add_(rgb[:, 1], alpha=green).add_(rgb[:, 2], alpha=blue)


def _store(codes: Tensor, offset: float, layout: PixelLayout) -> Tensor:
    """Add ``offset`` to float32 ``codes``, which are overwritten; round and clip to what ``layout`` stores."""
    # Adding a half and truncating rounds, with one pass less than round().
    codes.add_(offset + 0.5).clamp_(0, 2**layout.bit_depth - 1)
    return codes.to(layout.dtype_on(codes.device), memory_format=torch.contiguous_format)


def _check_planes(planes: Sequence[Tensor], layout: PixelLayout) -> None:
    if len(planes) != layout.num_planes:
        raise ValueError(f"{layout.kind} has {layout.num_planes} planes, got {len(planes)}")
    if planes[0].ndim != 3 or 0 in planes[0].shape:
        raise ValueError(f"expected planes of shape (N, rows, columns), got {tuple(planes[0].shape)}")
    count, height, width = planes[0].shape
    for index, (plane, shape) in enumerate(zip(planes, layout.plane_shapes(height, width), strict=True)):
        if tuple(plane.shape) != (count, *shape):
            raise ValueError(f"plane {index} must be {(count, *shape)}, got {tuple(plane.shape)}")
        if plane.dtype != (dtype := layout.dtype_on(plane.device)):
            raise ValueError(f"plane {index} of {layout.bit_depth} bits must be {dtype}, got {plane.dtype}")


def rgb_to_codes(rgb: Tensor) -> npt.NDArray[np.uint8]:
    """Round pictures to 8 bits, and copy them to main memory.

    Args:
        rgb: (N, 3, H, W), changed in place; clipped to [0, 1].

    Returns:
        (N, H, W, 3) uint8.
    """
    codes = rgb.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return cast("npt.NDArray[np.uint8]", codes.permute(0, 2, 3, 1).contiguous().cpu().numpy())


OPAQUE_ENOUGH = 1 / 8
"""The alpha from which a pixel keeps its colour. Below it the colour is hardly visible, and often inexact: files with
premultiplied alpha have lost more than three of its bits there."""


def fill_invisible(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Replace the colour of transparent pixels by that of visible pixels around them.

    Push and pull over a pyramid (Gortler, Grzeszczuk, Szeliski and Cohen, "The Lumigraph", 1996): each level averages
    2 x 2 pixels of the finer one, weighted by visibility, and is interpolated where those have too little weight.

    Args:
        rgb: (N, 3, H, W) float32.
        alpha: (N, 1, H, W) float32 in [0, 1], on the same device.

    Returns:
        (N, 3, H, W) float32. Pixels with an alpha of ``OPAQUE_ENOUGH`` or more are unchanged; below it a pixel's
        colour fades into its neighbours', and at alpha 0 it does not affect any pixel. A frame without a visible pixel
        becomes black.
    """
    weight = (alpha / OPAQUE_ENOUGH).clamp_(0, 1)
    return torch.where(weight >= 1, rgb, _filled(rgb, weight))


def _filled(colour: Tensor, weight: Tensor) -> Tensor:
    """Blend the colour with that of its surroundings, by its weight (N, 1, H, W) in [0, 1]."""
    height, width = colour.shape[-2:]
    if height == width == 1:
        return torch.where(weight > 0, colour, 0)
    coarser = functional.avg_pool2d(weight, 2, ceil_mode=True)
    mean = functional.avg_pool2d(colour * weight, 2, ceil_mode=True) / coarser.clamp(min=torch.finfo().tiny)
    around = _filled(mean, (4 * coarser).clamp_(max=1))
    return torch.lerp(functional.interpolate(around, (height, width), mode="bilinear"), colour, weight)
