"""Make realistic clips: encoded twice by different codecs, resized in between, some sharpened with halos.

Each has a clean HR reference. ``python benchmarks/video_quality.py DATA --dirty`` measures on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

import vsr
from vsr.evaluation.pairing import identify, read_rgb
from vsr.imaging.pictures import write_picture
from vsr.imaging.resize import resize_as_matlab

HALO_SIGMA = 1.2
"""Standard deviation in pixels of the first generation."""


@dataclass(frozen=True)
class Generation:
    """One encoding: a codec of libav and its options."""

    codec: str
    options: dict[str, str] = field(default_factory=dict)


def quantised(codec: str, quantiser: int) -> Generation:
    """Return an encoding by a codec of the MPEG family at a fixed quantiser of 1..31; more is worse."""
    return Generation(codec, {"qmin": str(quantiser), "qmax": str(quantiser)})


@dataclass(frozen=True)
class DirtyClip:
    """The degradation of a clip.

    Attributes:
        source: path of the reference in DATA.
        start: first frame.
        size: width and height of the first generation; LR is resized from its decoded frames.
        first: the encoding at that size.
        second: the encoding of LR.
        sharpening: share of the detail finer than ``HALO_SIGMA`` that is added before the first generation.
    """

    source: str
    start: int
    size: tuple[int, int]
    first: Generation
    second: Generation
    sharpening: float = 0


X264_LOW = Generation("libx264", {"crf": "36", "preset": "medium"})
DIRTY_CLIPS = {
    "people": DirtyClip("motion/people.mp4", 40, (192, 108), quantised("mpeg4", 12), X264_LOW),
    "cars": DirtyClip("motion/cars.mp4", 40, (256, 144), quantised("mpeg2video", 14), quantised("mpeg4", 10)),
    "camcorder": DirtyClip("motion/camcorder.mp4", 0, (176, 144), quantised("h263", 10), X264_LOW),
    "phone": DirtyClip("motion/phone_b.mp4", 0, (240, 136), X264_LOW, quantised("mpeg4", 16)),
    "apple": DirtyClip("motion/apple.mp4", 0, (264, 148), quantised("mpeg4", 10), X264_LOW, sharpening=1.5),
    "bunny": DirtyClip("clips/bigbuckbunny.mp4", 33, (352, 288), quantised("h263", 8), quantised("mpeg2video", 12)),
}


def make_dirty(clip: DirtyClip, hrs: Iterable[Tensor], folder: Path, scale: int) -> Path:
    """Send frames through both generations.

    Args:
        clip: the degradation.
        hrs: uint8 (3, H, W) RGB.
        folder: a new folder for the files.
        scale: ratio of HR to LR.

    Returns:
        The LR clip of the second generation.
    """
    width, height = clip.size
    pictures = []
    for hr in hrs:
        lr_size = hr.shape[1] // scale, hr.shape[2] // scale
        pictures.append(_sharpened(resize_as_matlab(hr, height, width), clip.sharpening))
    decoded = read_pictures(_encode(pictures, clip.first, folder / "first"))
    return _encode([resize_as_matlab(picture, *lr_size) for picture in decoded], clip.second, folder / "second")


def read_pictures(path: Path) -> list[Tensor]:
    """Read all frames of a clip, uint8 (3, H, W) RGB."""
    with closing(read_rgb(identify(path))) as frames:
        return [(frame[0].clamp(0, 1) * 255).round().byte() for frame in frames]


def _sharpened(picture: Tensor, share: float) -> Tensor:
    """Apply an unsharp mask, which leaves bright and dark halos along edges."""
    if not share:
        return picture
    rgb = picture.permute(1, 2, 0).numpy().astype(np.float32)
    sharp = rgb + share * (rgb - cv2.GaussianBlur(rgb, (0, 0), HALO_SIGMA))
    return torch.from_numpy(sharp.clip(0, 255).round().astype(np.uint8)).permute(2, 0, 1)


def _encode(pictures: Iterable[Tensor], generation: Generation, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        write_picture(folder / f"{number:06d}.png", picture.permute(1, 2, 0).numpy())
    encoded = folder.with_suffix(".avi" if generation.codec == "h263" else ".mkv")
    vsr.upscale(
        folder, encoded, model="identity", codec=generation.codec, encoder=generation.options, pix_fmt="yuv420p"
    )
    return encoded
