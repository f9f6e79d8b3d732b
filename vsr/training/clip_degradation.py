"""HR clip -> LR clip: what a clip has been through before somebody wants it larger.

One treatment for a whole clip, as in :mod:`vsr.training.degradation` but wider: a sharpened source, what a deinterlacer
leaves, sensor noise, and one or two compressions that see more of the clip, around the crop and before its first frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from vsr.training.degradation import (
    ANISOTROPY,
    MOST_B_FRAMES,
    Clip,
    Floats,
    gaussian,
    one_of,
    reduction_kernel,
    sensor_noise,
)
from vsr.training.recipe import ClipDegradation

BD_BLUR = 1.5
"""Standard deviation of the Gaussian of the literature's BD degradation, in HR pixels at x4."""

COMB_STEP = 14.0
"""8-bit codes by which a pixel may differ from the next frame's for a deinterlacer to take it for one that stands."""

RESIZERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
LEAST_SIZE = 16
"""Pixels of a clip that is compressed before it is resized to LR."""

Weights = npt.NDArray[np.float32]


def clip_region_size(options: ClipDegradation, crop_size: int, scale: int) -> int:
    """Edge in HR pixels of the clip that ``degrade_clip`` wants for a crop: itself and its context."""
    return crop_size + 2 * options.context * scale


def degrade_clip(
    region: Clip, frames: int, crop_size: int, scale: int, options: ClipDegradation, random: np.random.Generator
) -> tuple[Clip, Clip]:
    """The last frames of a crop of a clip, and what a camera, a scaler and codecs leave of them.

    LR pixel (i, j) covers the HR pixels from (i * scale, j * scale) to less than ((i + 1) * scale, (j + 1) * scale).

    Args:
        region: (F, H, W, 3) uint8 RGB with H and W from ``crop_size`` up, multiples of the scale; ``clip_region_size``
            is what they should be, and F = ``frames + options.lead``.
        frames: T, at most F; those before the last T are seen by the codecs alone.
        crop_size: edge of the crop in HR pixels, a multiple of the scale.
        scale: 2, 4 or 8.
        options: what to draw from.
        random: decides everything.

    Returns:
        LR (T, crop_size / scale, crop_size / scale, 3) and HR (T, crop_size, crop_size, 3), uint8 RGB.

    Raises:
        ValueError: a region of another shape or dtype or smaller than the crop, or edges that are no multiples.
        UsageError: this build of libav lacks a codec.
        TrainingError: a codec fails.
    """
    _check(region, frames, crop_size, scale)
    lead = int(random.integers(min(options.lead, len(region) - frames) + 1))
    region = region[len(region) - frames - lead :]
    clean = random.random() < options.clean
    lr = _clean(region, scale, options, random) if clean else _degraded(region, scale, options, random)
    size = crop_size // scale
    top, left = (int(random.integers(length - size + 1)) for length in lr.shape[1:3])
    y, x = top * scale, left * scale
    return (
        np.ascontiguousarray(lr[lead:, top : top + size, left : left + size]),
        np.ascontiguousarray(region[lead:, y : y + crop_size, x : x + crop_size]),
    )


def _check(region: Clip, frames: int, crop_size: int, scale: int) -> None:
    if region.ndim != 4 or region.shape[3] != 3 or region.dtype != np.uint8:
        raise ValueError(f"expected a clip (F, H, W, 3) of uint8, got {region.shape} of {region.dtype}")
    if crop_size < 1 or any(length % scale for length in (crop_size, *region.shape[1:3])):
        raise ValueError(f"crop_size and edges must be multiples of {scale}, got {crop_size} and {region.shape}")
    if min(region.shape[1:3]) < crop_size or not 1 <= frames <= len(region):
        size = f"{len(region)} frames of {region.shape[2]}x{region.shape[1]}"
        raise ValueError(f"a clip of {size} holds no {frames} frames of {crop_size}")


def _clean(region: Clip, scale: int, options: ClipDegradation, random: np.random.Generator) -> Clip:
    bd = random.random() < options.gaussian
    kernel = _between_pixels(BD_BLUR * scale / 4) if bd else reduction_kernel("bicubic", scale)
    return _codes(_reduced(region, kernel, kernel, scale))


def _degraded(region: Clip, scale: int, options: ClipDegradation, random: np.random.Generator) -> Clip:
    lr = _blurred(region, scale, options, random)
    if random.random() < options.interlaced:
        lr = _interlaced(lr, random)
    quietest, noisiest = options.noise
    deviation = quietest + (noisiest - quietest) * random.random() ** 2
    lr += sensor_noise(lr.shape, deviation, random.random(), random)
    clip = _codes(lr)
    if random.random() < options.again:
        clip = _posted_before(clip, options, random)
    return _compressed(clip, _draw_coding(options, random))


def _blurred(region: Clip, scale: int, options: ClipDegradation, random: np.random.Generator) -> Floats:
    """Sharpening, blur and reduction: all are linear, and so one filter, or the difference of two."""
    reduction = reduction_kernel(one_of(options.reductions, random), scale)
    sigma = random.uniform(*options.blur) * ANISOTROPY ** random.uniform(-1, 1, size=2)
    down, across = (np.convolve(gaussian(float(along) * scale / 4), reduction) for along in sigma)
    sharpened = random.random() < options.sharpened
    strength, radius = random.uniform(*options.sharpening), random.uniform(*options.sharpening_radius)
    if not sharpened:
        return _reduced(region, down, across, scale)
    # A sharpened picture is (1 + strength) times the picture less strength times its blurred self.
    softer = gaussian(radius * scale / 4)
    lr = _reduced(region, down, across, scale) * np.float32(1 + strength)
    lr -= np.float32(strength) * _reduced(region, np.convolve(down, softer), np.convolve(across, softer), scale)
    return np.clip(lr, 0, 255, out=lr)


def _reduced(clip: Clip, down: npt.NDArray[Any], across: npt.NDArray[Any], scale: int) -> Floats:
    """(F, H, W, 3) -> (F, H / scale, W / scale, 3) float32 codes, by a kernel for each axis, centred on LR pixels."""
    frames, height, width, _ = clip.shape
    rows, columns = (
        torch.from_numpy(_matrix(kernel, length, scale)) for kernel, length in ((down, height), (across, width))
    )
    codes = torch.from_numpy(np.ascontiguousarray(clip)).flatten(2).float()
    lower = torch.matmul(rows, codes).view(frames, len(rows), width, 3)
    lr = torch.matmul(lower.transpose(2, 3).reshape(-1, width), columns.T)
    reduced: Floats = lr.view(frames, len(rows), 3, -1).transpose(2, 3).contiguous().numpy()
    return reduced


def _matrix(kernel: npt.NDArray[Any], length: int, scale: int) -> Weights:
    """(length / scale, length): the weights of HR pixels in each LR pixel; the picture is mirrored at its edges."""
    reduced = np.arange(length // scale)
    taps = scale * reduced[:, None] - (len(kernel) - scale) // 2 + np.arange(len(kernel))
    taps %= 2 * length
    matrix = np.zeros((len(reduced), length), np.float32)
    np.add.at(matrix, (reduced[:, None], np.minimum(taps, 2 * length - 1 - taps)), kernel.astype(np.float32))
    return matrix


def _between_pixels(sigma: float) -> npt.NDArray[Any]:
    """A Gaussian of an even number of weights around the corner where pixels meet: the centre of an LR pixel."""
    reach = max(1, math.ceil(3 * sigma))
    weights: npt.NDArray[Any] = np.exp(-((np.arange(-reach, reach) + 0.5) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    return weights


def _interlaced(lr: Floats, random: np.random.Generator) -> Floats:
    """What a bad deinterlacer leaves of (F, h, w, 3): one field's lines doubled, or combs where little moves."""
    parity = int(random.integers(2))
    woven = lr.copy()
    if random.random() < 0.5:
        last = lr.shape[1] - 1
        lost = np.arange(1 - parity, last + 1, 2)
        woven[:, lost] = (lr[:, abs(lost - 1)] + lr[:, last - abs(last - lost - 1)]) / 2
        return woven
    step = lr[1:, parity::2] - lr[:-1, parity::2]
    weak = np.abs(step).max(-1, keepdims=True) < COMB_STEP
    woven[:-1, parity::2] += step * weak / 2  # half a frame later
    return woven


@dataclass(frozen=True)
class _Coding:
    """One compression."""

    codec: str
    quality: int
    pixel_format: str
    b_frames: int
    keyframes: int


def _draw_coding(options: ClipDegradation, random: np.random.Generator) -> _Coding:
    codec = one_of(options.codecs, random)
    ranges = {"h264": options.h264_crf, "h265": options.h265_crf, "mpeg2": options.mpeg2_quantiser}
    best, worst = ranges.get(codec, options.mpeg4_quantiser)
    if random.random() < options.worst and codec in ("h264", "h265"):
        best, worst = worst, options.worst_crf
    seldom, often = (math.log(frames) for frames in reversed(options.keyframes))
    return _Coding(
        codec=codec,
        quality=int(random.integers(best, worst + 1)),
        pixel_format=one_of(options.chroma, random),
        b_frames=int(random.integers(MOST_B_FRAMES + 1)),
        keyframes=round(math.exp(random.uniform(often, seldom))),
    )


def _compressed(clip: Clip, coding: _Coding) -> Clip:
    # Here, so that training on bicubic needs no PyAV.
    from vsr.training.compression import compress, subsample

    if coding.codec == "none":
        return subsample(clip, pixel_format=coding.pixel_format)
    return compress(
        clip, codec=coding.codec, quality=coding.quality, pixel_format=coding.pixel_format, b_frames=coding.b_frames,
        keyframes=coding.keyframes,
    )  # fmt: skip


def _posted_before(clip: Clip, options: ClipDegradation, random: np.random.Generator) -> Clip:
    """Resize a clip, compress it, and bring it back to its size."""
    height, width = clip.shape[1:3]
    factor = random.uniform(*options.again_size)
    other = max(LEAST_SIZE, round(width * factor)), max(LEAST_SIZE, round(height * factor))
    there, back = (RESIZERS[int(random.integers(len(RESIZERS)))] for _ in range(2))
    clip = _compressed(_resized(clip, other, there), _draw_coding(options, random))
    return _resized(clip, (width, height), back)


def _resized(clip: Clip, size: tuple[int, int], resizer: int) -> Clip:
    return np.stack([cv2.resize(frame, size, interpolation=resizer) for frame in clip])


def _codes(values: Floats) -> Clip:
    return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)
