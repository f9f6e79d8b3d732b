"""HR -> LR: by bicubic, as in the literature, or like a real clip, for pictures and for clips.

The ``video`` degradation films a region of a picture: a window moves over it, and its content is blurred, reduced, made
noisy, chroma-subsampled, encoded and decoded. One frame of that short clip is LR. Blur and reduction are one filter
over the whole region; as the window moves by whole HR pixels, a frame is every ``scale``-th pixel of the result.

``degrade_clip`` degrades a whole clip instead, for recurrent generators.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vsr.imaging.pictures import Picture
from vsr.imaging.resize import resize_bicubic
from vsr.training.recipes import ClipDegradation, VideoDegradation

Clip = npt.NDArray[np.uint8]
"""(T, H, W, 3) RGB."""
Floats = npt.NDArray[np.float32]

STREAM = 7
"""Seed word that keeps the random numbers of the degradation apart from others of the same seed and step."""
ANISOTROPY = 1.25
"""Greatest ratio of the blur along an axis to the drawn one: few scalers and lenses treat both axes alike."""

JITTER = 1.0
"""Greatest deviation from a straight path in HR pixels: hands shake."""
MAX_B_FRAMES = 2
"""Greatest number of consecutive B-frames; live streams have none, x264's default is three."""


def reduce(hr: Tensor, scale: int) -> Tensor:
    """Reduce by antialiased bicubic, rounded to 8 bits: (N, 3, H, W) in [0, 1] -> (N, 3, H/scale, W/scale)."""
    lr = resize_bicubic(hr, hr.shape[-2] // scale, hr.shape[-1] // scale)
    return lr.mul_(255).round_().clamp_(0, 255).div_(255)


def region_size(options: VideoDegradation, crop_size: int, scale: int) -> int:
    """Return the edge in HR pixels of a crop's region: the crop, its context and its path, a multiple of the scale.

    ``degrade`` accepts smaller regions, down to the crop itself; they have less motion and less context.
    """
    path = options.motion * (options.frames - 1)
    return crop_size + 2 * options.context * scale + math.ceil(path / scale) * scale


def degrade(
    region: Picture, crop_size: int, scale: int, options: VideoDegradation, random: np.random.Generator
) -> tuple[Picture, Picture]:
    """Draw a crop of a region and degrade it like a camera, a scaler and a codec.

    LR pixel (i, j) covers the HR pixels from (i * scale, j * scale) to less than ((i + 1) * scale, (j + 1) * scale).

    Args:
        region: (H, W, 3) uint8 RGB, at least as large as the crop; it should have ``region_size``.
        crop_size: edge of the crop in HR pixels, a multiple of the scale.
        scale: 2, 4 or 8.
        options: ranges and choices of the degradation.
        random: source of all random numbers.

    Returns:
        LR (crop_size / scale, crop_size / scale, 3) and HR (crop_size, crop_size, 3), uint8 RGB.

    Raises:
        ValueError: the region has another shape or dtype or is smaller than the crop, or the crop is not a multiple.
        UsageError: this build of libav lacks the codec.
        TrainingError: the codec fails.
    """
    if region.ndim != 3 or region.shape[2] != 3 or region.dtype != np.uint8:
        raise ValueError(f"expected a region (H, W, 3) of uint8, got {region.shape} of {region.dtype}")
    if crop_size < 1 or crop_size % scale:
        raise ValueError(f"crop_size must be a multiple of {scale}, got {crop_size}")
    if min(region.shape[:2]) < crop_size:
        raise ValueError(f"a region of {region.shape[1]}x{region.shape[0]} is too small for a crop of {crop_size}")
    if random.random() < options.clean:
        y, x = (int(random.integers(length - crop_size + 1)) for length in region.shape[:2])
        hr = np.ascontiguousarray(region[y : y + crop_size, x : x + crop_size])
        return _reduce_picture(hr, scale), hr
    size = crop_size // scale
    path = _draw_path(region.shape[:2], size, scale, options, random)
    clip = _film(region, path, scale, _draw_treatment(options, random), random)
    shown = int(random.integers(1, options.frames)) if options.frames > 1 else 0
    top, left = (int(random.integers(length - size + 1)) for length in clip.shape[1:3])
    y, x = path.corners[shown][0] + top * scale, path.corners[shown][1] + left * scale
    lr = np.ascontiguousarray(clip[shown, top : top + size, left : left + size])
    return lr, np.ascontiguousarray(region[y : y + crop_size, x : x + crop_size])


def degrade_batch(
    regions: Sequence[Picture],
    crop_size: int,
    scale: int,
    options: VideoDegradation,
    seed: int,
    step: int,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Call ``degrade`` for each region with its own random numbers: parts of a batch equal those of the whole.

    Args:
        regions: N regions, see ``degrade``.
        crop_size: edge of the crops in HR pixels, a multiple of the scale.
        scale: 2, 4 or 8.
        options: ranges and choices of the degradation.
        seed: seed of the run; with ``step`` and a region's number in the batch it determines the degradation.
        step: number of the update.
        first: number in the batch of the first of ``regions``.

    Returns:
        LR (N, 3, crop_size / scale, crop_size / scale) and HR (N, 3, crop_size, crop_size), uint8.

    Raises:
        ValueError, UsageError, TrainingError: see ``degrade``; ValueError also if there are no regions.
    """
    pairs = [
        degrade(region, crop_size, scale, options, np.random.default_rng([seed, step, number, STREAM]))
        for number, region in enumerate(regions, first)
    ]
    lr, hr = (_tensor(np.stack(pictures)) for pictures in zip(*pairs, strict=True))
    return lr, hr


def degrade_picture(picture: Picture, scale: int, options: VideoDegradation, seed: int) -> tuple[Tensor, Tensor]:
    """Degrade a whole picture, as a still clip, by the middle of the options: for validation.

    Blur and quality are the middle of their ranges, the reduction is the middle one of the list, noise is at a third of
    its range, half of it common to the channels; codec and pixel format are those that are drawn most often.
    LR is the last frame.

    Args:
        picture: (H, W, 3) uint8 RGB with edges of at least ``scale``; it is cropped to a multiple of the scale.
        scale: 2, 4 or 8.
        options: ranges and choices of the degradation.
        seed: seed of the noise.

    Returns:
        LR (3, H // scale, W // scale) and HR (3, H // scale * scale, W // scale * scale), uint8.
    """
    rows, columns = (length // scale for length in picture.shape[:2])
    hr = np.ascontiguousarray(picture[: rows * scale, : columns * scale])
    codec = _most_common(options.codecs)
    treatment = _Treatment(
        blur=(sum(options.blur) / 2,) * 2,
        reduction=options.reductions[len(options.reductions) // 2],
        noise=options.noise[0] + (options.noise[1] - options.noise[0]) / 3,
        luma_share=0.5,
        pixel_format=_most_common(options.chroma),
        codec=codec,
        quality=sum(_qualities(options, codec)) // 2,
        b_frames=MAX_B_FRAMES,
    )
    still = _Path((rows, columns), ((0, 0),) * options.frames)
    clip = _film(hr, still, scale, treatment, np.random.default_rng([seed, STREAM]))
    return _tensor(clip[-1]), _tensor(hr)


@dataclass(frozen=True)
class _Path:
    """The path of a window over a region."""

    window: tuple[int, int]
    """(rows, columns) of its frames in LR pixels."""
    corners: tuple[tuple[int, int], ...]
    """(y, x) of each frame in the region, in HR pixels."""


@dataclass(frozen=True)
class _Treatment:
    """The degradation that was drawn for a clip."""

    blur: tuple[float, float]
    """Standard deviations, vertical and horizontal, in HR pixels at x4."""
    reduction: str
    noise: float
    """Standard deviation in 8-bit codes."""
    luma_share: float
    """Share of the noise's variance that all channels have in common."""
    pixel_format: str
    codec: str
    quality: int
    b_frames: int


def _draw_treatment(options: VideoDegradation, random: np.random.Generator) -> _Treatment:
    blur = random.uniform(*options.blur)
    down, across = ANISOTROPY ** random.uniform(-1, 1, size=2)
    quietest, noisiest = options.noise
    codec = draw_one(options.codecs, random)
    best, worst = _qualities(options, codec)
    return _Treatment(
        blur=(blur * down, blur * across),
        reduction=draw_one(options.reductions, random),
        noise=quietest + (noisiest - quietest) * random.random() ** 2,
        luma_share=random.random(),
        pixel_format=draw_one(options.chroma, random),
        codec=codec,
        quality=int(random.integers(best, worst + 1)),
        b_frames=int(random.integers(MAX_B_FRAMES + 1)),
    )


def _draw_path(
    region: tuple[int, ...], size: int, scale: int, options: VideoDegradation, random: np.random.Generator
) -> _Path:
    """Draw the path of a window of ``size`` LR pixels plus context through a region of (rows, columns) HR pixels."""
    still = random.random() < options.still
    speed, angle = random.uniform(0, options.motion), random.uniform(0, 2 * math.pi)
    window, positions = [], []
    for length, direction in zip(region, (math.sin(angle), math.cos(angle)), strict=True):
        # In a small region, context and path are shortened alike.
        share = min(1.0, (length - size * scale) / max(1, region_size(options, size * scale, scale) - size * scale))
        window.append(size + int(2 * options.context * share))
        spare = length - window[-1] * scale
        fastest = spare / max(1, options.frames - 1)
        velocity = 0.0 if still else float(np.clip(speed * direction, -fastest, fastest))
        path = velocity * np.arange(options.frames)
        start = random.uniform(-path.min(), spare - path.max()) if spare else 0.0
        jitter = random.uniform(-JITTER, JITTER, options.frames) * (not still)
        positions.append(np.clip(np.rint(start + path + jitter), 0, spare).astype(int).tolist())
    return _Path((window[0], window[1]), tuple(zip(*positions, strict=True)))


def _film(region: Picture, path: _Path, scale: int, treatment: _Treatment, random: np.random.Generator) -> Clip:
    """Render the frames along a path and degrade them."""
    filtered = _blur(region, scale, treatment)
    rows, columns = (length * scale for length in path.window)
    clip = np.stack([filtered[y : y + rows : scale, x : x + columns : scale] for y, x in path.corners])
    if treatment.noise:
        clip += sensor_noise(clip.shape, treatment.noise, treatment.luma_share, random)
    codes = np.clip(np.rint(clip, out=clip), 0, 255, out=clip).astype(np.uint8)
    # Imported here, so that training on bicubic needs no PyAV.
    from vsr.training.compression import compress, subsample

    if treatment.codec == "none":
        return subsample(codes, pixel_format=treatment.pixel_format)
    return compress(
        codes, codec=treatment.codec, quality=treatment.quality, pixel_format=treatment.pixel_format,
        b_frames=treatment.b_frames,
    )  # fmt: skip


def _blur(region: Picture, scale: int, treatment: _Treatment) -> Floats:
    """Blur and reduce with one filter: (H, W, 3) codes, at each HR pixel the LR pixel whose upper left corner it is."""
    reduction = reduction_kernel(treatment.reduction, scale)
    down, across = (np.convolve(gaussian(sigma * scale / 4), reduction) for sigma in treatment.blur)
    anchor = (len(across) - scale) // 2, (len(down) - scale) // 2
    region = np.ascontiguousarray(region)  # OpenCV rejects mirrored views
    filtered = cv2.sepFilter2D(region, cv2.CV_32F, across, down, anchor=anchor, borderType=cv2.BORDER_REFLECT)
    return cast(Floats, filtered)


@lru_cache(maxsize=16)
def reduction_kernel(reduction: str, scale: int) -> npt.NDArray[Any]:
    """Return the weights of the HR pixels around an LR pixel: an even number, centred, with the sum 1."""
    if reduction == "area":  # OpenCV's INTER_AREA
        return np.full(scale, 1 / scale)
    if reduction == "bilinear":  # the triangle, stretched against aliasing
        distance = np.abs(np.arange(2 * scale) + 0.5 - scale) / scale
        return cast(npt.NDArray[Any], (1 - distance) / scale)
    if reduction != "bicubic":
        raise ValueError(f"reductions are bicubic, area or bilinear, got {reduction!r}")
    # MATLAB's bicubic: the weight of each HR pixel in an LR pixel far from any border.
    impulses = torch.eye(8 * scale, dtype=torch.float64)
    response = resize_bicubic(impulses, 8 * scale, 8)[:, 4]
    weights: npt.NDArray[Any] = response[response.abs() > 0].numpy()
    return weights


def gaussian(sigma: float) -> npt.NDArray[Any]:
    """Return an odd number of weights up to three standard deviations, with the sum 1."""
    reach = math.ceil(3 * sigma)
    weights: npt.NDArray[Any] = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2)) if reach else np.ones(1)
    weights /= weights.sum()
    return weights


def sensor_noise(shape: tuple[int, ...], deviation: float, luma_share: float, random: np.random.Generator) -> Floats:
    """Draw noise (T, H, W, 3): the sum of independent noise of each channel and of noise of luma."""
    own = random.standard_normal(shape, np.float32) * np.float32(math.sqrt(1 - luma_share))
    shared = random.standard_normal((*shape[:3], 1), np.float32) * np.float32(math.sqrt(luma_share))
    return (own + shared) * np.float32(deviation)


def _qualities(options: VideoDegradation, codec: str) -> tuple[int, int]:
    ranges = {"h264": options.h264_crf, "h265": options.h265_crf, "mpeg2": options.mpeg2_quantiser}
    return ranges.get(codec, (0, 0))


def draw_one(choices: Sequence[str], random: np.random.Generator) -> str:
    """Draw one of the choices, all equally likely."""
    return choices[int(random.integers(len(choices)))]


def _most_common(choices: Sequence[str]) -> str:
    return Counter(choices).most_common(1)[0][0]


def _reduce_picture(hr: Picture, scale: int) -> Picture:
    lr = reduce(_tensor(hr)[None].float().div(255), scale)
    return np.ascontiguousarray(lr[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def _tensor(pictures: Picture) -> Tensor:
    """(..., H, W, 3) -> (..., 3, H, W)."""
    return torch.from_numpy(pictures).movedim(-1, -3).contiguous()


BD_BLUR = 1.5
"""Standard deviation of the Gaussian of the literature's BD degradation, in HR pixels at x4."""

COMB_STEP = 14.0
"""Difference to the next frame in 8-bit codes below which a deinterlacer takes a pixel for a still one."""

RESIZERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
MIN_SIZE = 16
"""Least edge in pixels of a clip that is compressed before it is resized to LR."""

Weights = npt.NDArray[np.float32]


def clip_region_size(options: ClipDegradation, crop_size: int, scale: int) -> int:
    """Return the edge in HR pixels of the clip that ``degrade_clip`` needs for a crop: the crop and its context."""
    return crop_size + 2 * options.context * scale


def degrade_clip(
    region: Clip, frames: int, crop_size: int, scale: int, options: ClipDegradation, random: np.random.Generator
) -> tuple[Clip, Clip]:
    """Draw a crop of the last frames of a clip and degrade it like a camera, a scaler and codecs.

    LR pixel (i, j) covers the HR pixels from (i * scale, j * scale) to less than ((i + 1) * scale, (j + 1) * scale).

    Args:
        region: (F, H, W, 3) uint8 RGB with H and W of at least ``crop_size``, multiples of the scale; they should be
            ``clip_region_size``, and F = ``frames + options.lead``.
        frames: T, at most F; only the codecs use the frames before the last T.
        crop_size: edge of the crop in HR pixels, a multiple of the scale.
        scale: 2, 4 or 8.
        options: ranges and choices of the degradation.
        random: source of all random numbers.

    Returns:
        LR (T, crop_size / scale, crop_size / scale, 3) and HR (T, crop_size, crop_size, 3), uint8 RGB.

    Raises:
        ValueError: the region has another shape or dtype or is smaller than the crop, or edges are not multiples.
        UsageError: this build of libav lacks a codec.
        TrainingError: a codec fails.
    """
    _check(region, frames, crop_size, scale)
    lead = int(random.integers(min(options.lead, len(region) - frames) + 1))
    region = region[len(region) - frames - lead :]
    clean = random.random() < options.clean
    lr = _degrade_clean(region, scale, options, random) if clean else _degrade_fully(region, scale, options, random)
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
        raise ValueError(f"a clip of {size} is too small for {frames} frames of {crop_size}")


def _degrade_clean(region: Clip, scale: int, options: ClipDegradation, random: np.random.Generator) -> Clip:
    bd = random.random() < options.gaussian
    kernel = _gaussian_between_pixels(BD_BLUR * scale / 4) if bd else reduction_kernel("bicubic", scale)
    return _codes(_reduce_clip(region, kernel, kernel, scale))


def _degrade_fully(region: Clip, scale: int, options: ClipDegradation, random: np.random.Generator) -> Clip:
    lr = _blur_clip(region, scale, options, random)
    if random.random() < options.interlaced:
        lr = _interlace(lr, random)
    quietest, noisiest = options.noise
    deviation = quietest + (noisiest - quietest) * random.random() ** 2
    lr += sensor_noise(lr.shape, deviation, random.random(), random)
    clip = _codes(lr)
    if random.random() < options.again:
        clip = _recompress_clip(clip, options, random)
    return _compress_clip(clip, _draw_coding(options, random))


def _blur_clip(region: Clip, scale: int, options: ClipDegradation, random: np.random.Generator) -> Floats:
    """Sharpen, blur and reduce: all are linear, and so one filter or the difference of two."""
    reduction = reduction_kernel(draw_one(options.reductions, random), scale)
    sigma = random.uniform(*options.blur) * ANISOTROPY ** random.uniform(-1, 1, size=2)
    down, across = (np.convolve(gaussian(float(along) * scale / 4), reduction) for along in sigma)
    sharpened = random.random() < options.sharpened
    strength, radius = random.uniform(*options.sharpening), random.uniform(*options.sharpening_radius)
    if not sharpened:
        return _reduce_clip(region, down, across, scale)
    # A sharpened picture is (1 + strength) times the picture minus strength times the blurred picture.
    softer = gaussian(radius * scale / 4)
    lr = _reduce_clip(region, down, across, scale) * np.float32(1 + strength)
    lr -= np.float32(strength) * _reduce_clip(region, np.convolve(down, softer), np.convolve(across, softer), scale)
    return np.clip(lr, 0, 255, out=lr)


def _reduce_clip(clip: Clip, down: npt.NDArray[Any], across: npt.NDArray[Any], scale: int) -> Floats:
    """Reduce by one kernel per axis, centred on LR pixels: (F, H, W, 3) -> (F, H/scale, W/scale, 3) float32 codes."""
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
    """Return the weights (length / scale, length) of HR pixels in each LR pixel; edges are mirrored."""
    reduced = np.arange(length // scale)
    taps = scale * reduced[:, None] - (len(kernel) - scale) // 2 + np.arange(len(kernel))
    taps %= 2 * length
    matrix = np.zeros((len(reduced), length), np.float32)
    np.add.at(matrix, (reduced[:, None], np.minimum(taps, 2 * length - 1 - taps)), kernel.astype(np.float32))
    return matrix


def _gaussian_between_pixels(sigma: float) -> npt.NDArray[Any]:
    """Return a Gaussian with an even number of weights, centred between pixels as LR pixels are."""
    reach = max(1, math.ceil(3 * sigma))
    weights: npt.NDArray[Any] = np.exp(-((np.arange(-reach, reach) + 0.5) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    return weights


def _interlace(lr: Floats, random: np.random.Generator) -> Floats:
    """Imitate a bad deinterlacer on (F, h, w, 3): the lines of one field doubled, or combs where little moves."""
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
    """The parameters of one compression."""

    codec: str
    quality: int
    pixel_format: str
    b_frames: int
    keyframes: int


def _draw_coding(options: ClipDegradation, random: np.random.Generator) -> _Coding:
    codec = draw_one(options.codecs, random)
    ranges = {"h264": options.h264_crf, "h265": options.h265_crf, "mpeg2": options.mpeg2_quantiser}
    best, worst = ranges.get(codec, options.mpeg4_quantiser)
    if random.random() < options.worst and codec in ("h264", "h265"):
        best, worst = worst, options.worst_crf
    seldom, often = (math.log(frames) for frames in reversed(options.keyframes))
    return _Coding(
        codec=codec,
        quality=int(random.integers(best, worst + 1)),
        pixel_format=draw_one(options.chroma, random),
        b_frames=int(random.integers(MAX_B_FRAMES + 1)),
        keyframes=round(math.exp(random.uniform(often, seldom))),
    )


def _compress_clip(clip: Clip, coding: _Coding) -> Clip:
    # Imported here, so that training on bicubic needs no PyAV.
    from vsr.training.compression import compress, subsample

    if coding.codec == "none":
        return subsample(clip, pixel_format=coding.pixel_format)
    return compress(
        clip, codec=coding.codec, quality=coding.quality, pixel_format=coding.pixel_format, b_frames=coding.b_frames,
        keyframes=coding.keyframes,
    )  # fmt: skip


def _recompress_clip(clip: Clip, options: ClipDegradation, random: np.random.Generator) -> Clip:
    """Resize a clip, compress it, and resize it back."""
    height, width = clip.shape[1:3]
    factor = random.uniform(*options.again_size)
    other = max(MIN_SIZE, round(width * factor)), max(MIN_SIZE, round(height * factor))
    there, back = (RESIZERS[int(random.integers(len(RESIZERS)))] for _ in range(2))
    clip = _compress_clip(_resize_clip(clip, other, there), _draw_coding(options, random))
    return _resize_clip(clip, (width, height), back)


def _resize_clip(clip: Clip, size: tuple[int, int], resizer: int) -> Clip:
    return np.stack([cv2.resize(frame, size, interpolation=resizer) for frame in clip])


def _codes(values: Floats) -> Clip:
    return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)
