"""Compare the code values of a clip and of its output by ``vsr upscale``: the pixels of the table.

After a lossless way they are compared one by one in the stored depth. After x2 the luma is reduced and compared with
the source after bicubic interpolation and area averaging, and so are the means of the planes: that shows mistakes of
colour and range, and of the position of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from differences import Deviation, Pair, Way, tags_of
from independent import Clip, Plane, read_planes, shapes_of

MIN_PSNR = 40.0
"""Least PSNR in dB of the reduced luma of x2 against the source after bicubic and reduction, as CRF 18 keeps it."""
LARGEST_SHIFT = 0.25
"""Greatest difference of the mean of a plane after x2, in 8-bit code values."""
DEINTERLACER = "bwdif=mode=send_frame:deint=interlaced"
"""The filter of ffmpeg for an interlaced source with progressive output."""

KR_KB = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt470bg": (0.299, 0.114), "fcc": (0.3, 0.11),
         "bt2020nc": (0.2627, 0.0593), "smpte240m": (0.212, 0.087)}  # fmt: skip
"""Weights of red and blue in luma (Rec. ITU-T H.273), by ffmpeg's names of the matrices."""


Planes = Iterator[tuple[list[Plane], list[Plane]]]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pixels:
    """Differences by plane, Y first, in code values; after a lossy way ``signed`` in 8 bits and the PSNR of luma."""

    mean: tuple[float, ...] = ()
    largest: tuple[int, ...] = ()
    signed: tuple[float, ...] = ()
    psnr: float = float("inf")


def compare_pixels(pair: Pair) -> Pixels | None:
    """Compare all matching frames; None if there are none, or the planes differ in size or depth."""
    before, after = pair.source.track.frames[0], pair.output.track.frames[0]
    (shapes, bits), (new_shapes, new_bits) = (shapes_of(one.pix_fmt, *one.size) for one in (before, after))
    rows, columns = (edge * pair.way.scale for edge in shapes[0])
    planes = _paired_planes(pair)
    if pair.way.lossless:
        return _compare_codes(planes) if (shapes, bits) == (new_shapes, new_bits) else None
    if new_shapes[0] != (rows, columns) or len(shapes) > len(new_shapes):
        return None
    return _compare_reduced(planes, _recoding(pair, len(new_shapes)), 2.0 ** (bits - 8), 2.0 ** (new_bits - 8))


def _paired_planes(pair: Pair) -> Planes:
    options = ("-vf", DEINTERLACER) if pair.is_deinterlaced else ()
    before = enumerate(read_planes(pair.source.path, pair.source.video.index, pair.source.track.frames[0], *options))
    after = enumerate(read_planes(pair.output.path, pair.output.video.index, pair.output.track.frames[0]))
    for here, there in pair.frames:
        had = next((planes for number, planes in before if number == here), None)
        got = next((planes for number, planes in after if number == there), None)
        if had is None or got is None:
            raise ValueError(f"{pair.output.path} decodes to other frames at each reading")
        yield had, got


def _compare_codes(planes: Planes) -> Pixels:
    means, largest, signed = [], [], []
    for had, got in planes:
        apart = [new.astype(np.int32) - old for old, new in zip(had, got, strict=True)]
        means.append([np.abs(plane).mean() for plane in apart])
        largest.append([np.abs(plane).max() for plane in apart])
        signed.append([plane.mean() for plane in apart])
    return Pixels(tuple(np.mean(means, 0)), tuple(np.max(largest, 0)), tuple(np.mean(signed, 0)))


def _compare_reduced(planes: Planes, recoding: tuple[Values, Values], unit: float, new_unit: float) -> Pixels:
    """Compare with the source after x2 by bicubic and area averaging; chroma by its mean alone."""
    weights, offsets = recoding
    squares, signed = [], []
    for had, got in planes:
        luma, *chroma = (plane.astype(np.float32) / unit for plane in had)
        chroma = chroma or [np.full((1, 1), 128, np.float32)] * (len(got) - 1)  # grey may become colour
        means = np.array([plane.mean() for plane in (luma, *chroma)])
        if not np.allclose(weights, np.eye(len(got))):
            rows, columns = luma.shape
            down, across = (-(-edge // small) for edge, small in zip(luma.shape, chroma[0].shape, strict=True))
            wide = [plane.repeat(down, 0).repeat(across, 1)[:rows, :columns] for plane in chroma]
            luma = offsets[0] + sum(weight * plane for weight, plane in zip(weights[0], (luma, *wide), strict=True))
        expected = _doubled_and_halved(luma)
        rows, columns = expected.shape
        halved = (got[0].astype(np.float32) / new_unit).reshape(rows, 2, columns, 2).mean(axis=(1, 3))
        squares.append(np.square(halved - expected).mean())
        signed.append([plane.mean() / new_unit for plane in got] - (weights @ means + offsets))
    square = float(np.mean(squares))
    return Pixels(signed=tuple(np.mean(signed, 0)), psnr=10 * np.log10(255**2 / square) if square else float("inf"))


def _doubled_and_halved(plane: Values) -> Values:
    """Enlarge x2 by Keys' cubic (a = -1/2) and average each four: its weights a quarter before and after a sample."""
    for axis in (0, 1):
        padded = np.pad(plane, [(2, 2) if axis == one else (0, 0) for one in (0, 1)], mode="symmetric")
        taps = enumerate((-0.01171875, 0.078125, 0.8671875, 0.078125, -0.01171875))
        length = plane.shape[axis]
        plane = sum(np.float32(tap) * padded.take(range(at, at + length), axis) for at, tap in taps)
    return plane


def pixel_deviations(way: Way, pixels: Pixels | None) -> Iterator[Deviation]:
    """Yield the differences of pixels from the source, or from the expected values."""
    if pixels is None:
        yield Deviation("pixels", "the planes cannot be compared")
    elif way.lossless:
        for name, planes in (("luma", slice(1)), ("chroma", slice(1, None))):
            if worst := max(pixels.largest[planes], default=0):
                mean = max(pixels.mean[planes])
                yield Deviation(name, f"{name} differs by up to {worst}, {mean:.4f} on average", worst)
    else:
        if pixels.psnr < MIN_PSNR:
            yield Deviation("luma", f"luma is {pixels.psnr:.1f} dB from what was expected", pixels.psnr)
        for name, shift in zip(("Y", "Cb", "Cr"), pixels.signed, strict=False):
            if abs(shift) > LARGEST_SHIFT:
                yield Deviation("shift", f"{name} is {shift:+.2f} off on average", abs(shift))


def _recoding(pair: Pair, planes: int) -> tuple[Values, Values]:
    """Return factors and offsets that convert 8-bit codes (Y, Cb, Cr) to the matrix and range of the output."""
    (to_rgb, black), (to_new_rgb, new_black) = (_rgb_of_codes(clip) for clip in (pair.source, pair.output))
    weights = (np.linalg.inv(to_new_rgb) @ to_rgb)[:planes, :planes]
    return weights, new_black[:planes] - weights @ black[:planes]


def _rgb_of_codes(clip: Clip) -> tuple[Values, Values]:
    kr, kb = KR_KB[matrix_in_effect(clip)]
    full = tags_of(clip)["range"] == "pc"
    luma, chroma = (1 / 255, 1 / 255) if full else (1 / 219, 1 / 224)
    red, blue = 2 * (1 - kr) * chroma, 2 * (1 - kb) * chroma
    green = [-kb * blue / (1 - kr - kb), -kr * red / (1 - kr - kb)]
    return np.array([[luma, 0, red], [luma, *green], [luma, blue, 0]]), np.array([0 if full else 16, 128, 128])


def matrix_in_effect(clip: Clip) -> str:
    """Return the stated matrix, or the one that players assume: BT.709 from 720 lines up, else BT.601."""
    stated = tags_of(clip)["matrix"]
    assumed = "bt709" if clip.track.frames[0].size[1] >= 720 else "smpte170m"
    return stated if stated in KR_KB else assumed
