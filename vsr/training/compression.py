"""Encode a few frames with a video codec and decode them, in memory, as real clips have been. Needs PyAV.

:mod:`vsr.imaging.colour` converts between RGB and planes, as in ``vsr upscale``: training sees the same chroma as
inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from av import VideoFrame
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext
from av.error import FFmpegError as LibavError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from vsr.errors import TrainingError, UsageError
from vsr.imaging.colour import ColourSpec, PixelLayout, planes_to_rgb, rgb_to_planes
from vsr.media.clip import Plane, frame_of, planes_of

Frames = npt.NDArray[np.uint8]
"""(T, H, W, 3) RGB."""

LAYOUTS = {
    "yuv420p": PixelLayout("yuv", 8, 1, 1),
    "yuv422p": PixelLayout("yuv", 8, 1, 0),
    "yuv444p": PixelLayout("yuv", 8, 0, 0),
}
COLOUR = ColourSpec("bt601", full_range=False)
RATE = Fraction(25)


@dataclass(frozen=True)
class _Codec:
    encoder: str
    decoder: str
    least_size: int
    """Least edge in pixels; smaller frames are padded to it."""
    qualities: range
    options: Callable[[int, int], dict[str, str]]
    """(quality, consecutive B-frames) -> options of libav's encoder."""


def _x264(crf: int, b_frames: int) -> dict[str, str]:
    # The default preset, as most clips use: psychovisual optimisation and trellis leave marks of their own. Without
    # the lookahead, which sees too little in a few frames, it costs half a millisecond more than the fastest.
    params = f"bframes={b_frames}:b-adapt=0:mbtree=0:rc-lookahead=0:sync-lookahead=0:scenecut=0"
    return {"preset": "medium", "crf": str(crf), "x264-params": params}


def _x265(crf: int, b_frames: int) -> dict[str, str]:
    # cutree=0: cuTree of x265 (build 216) writes beyond its memory where frames are smaller than 52 pixels.
    # Its lookahead has to be longer than the run of B-frames; pools=none and one frame thread keep it to this core.
    params = (
        f"log-level=none:cutree=0:bframes={b_frames}:b-adapt=0:rc-lookahead={b_frames + 1}:scenecut=0:"
        "ctu=32:pools=none:frame-threads=1:wpp=0:info=0"
    )
    return {"preset": "medium", "crf": str(crf), "x265-params": params}


def _mpeg(quantiser: int, b_frames: int) -> dict[str, str]:
    return {"qmin": str(quantiser), "qmax": str(quantiser), "bf": str(b_frames)}


def _flv(quantiser: int, b_frames: int) -> dict[str, str]:
    return {"qmin": str(quantiser), "qmax": str(quantiser)}  # it has no B-frames


_CODECS = {
    "h264": _Codec("libx264", "h264", 16, range(52), _x264),
    # 34: for a single row of its 32x32 units, the output of x265 differs between calls.
    "h265": _Codec("libx265", "hevc", 34, range(52), _x265),
    "mpeg2": _Codec("mpeg2video", "mpeg2video", 16, range(1, 32), _mpeg),
    "mpeg4": _Codec("mpeg4", "mpeg4", 16, range(1, 32), _mpeg),
    "flv": _Codec("flv", "flv", 16, range(1, 32), _flv),
}
_CHROMA = {
    "mpeg2": {"yuv444p": "yuv422p"},
    "mpeg4": dict.fromkeys(("yuv422p", "yuv444p"), "yuv420p"),
    "flv": dict.fromkeys(("yuv422p", "yuv444p"), "yuv420p"),
}
"""The substitutes for pixel formats that a codec does not support."""


def compress(
    frames: Frames, *, codec: str, quality: int, pixel_format: str, b_frames: int = 2, keyframes: int | None = None
) -> Frames:
    """Encode frames and return the decoded ones: one intra frame, then predicted frames.

    Frames of any size are padded to a size that the codec supports by repeating their edges, and cropped afterwards.

    Args:
        frames: (T, H, W, 3) uint8 RGB, at least one.
        codec: h264, h265, mpeg2, mpeg4 (part 2) or flv (Sorenson's H.263).
        quality: a constant rate factor of 0..51 for H.264 and H.265, a quantiser of 1..31 for the others; a
            greater value is worse.
        pixel_format: how chroma is stored: yuv420p, yuv422p or yuv444p. MPEG-2 has no 4:4:4 and uses 4:2:2
            instead; MPEG-4 and Sorenson's H.263 always use 4:2:0.
        b_frames: greatest number of consecutive bidirectional frames.
        keyframes: greatest number of frames from one intra frame to the next; None means the encoder's default.

    Returns:
        (T, H, W, 3) uint8 RGB, in the same order.

    Raises:
        ValueError: the frames have another shape or dtype, or the codec, quality or pixel format does not exist.
        UsageError: this build of libav lacks the codec.
        TrainingError: the codec fails.
    """
    if codec not in _CODECS:
        raise ValueError(f"codec must be one of {', '.join(_CODECS)}, got {codec!r}")
    chosen = _CODECS[codec]
    if quality not in chosen.qualities:
        raise ValueError(f"{codec} has qualities {chosen.qualities[0]} to {chosen.qualities[-1]}, got {quality}")
    if b_frames < 0:
        raise ValueError(f"b_frames must not be negative, got {b_frames}")
    pixel_format = _CHROMA.get(codec, {}).get(pixel_format, pixel_format)
    planes = _to_planes(frames, pixel_format, chosen.least_size)
    options = chosen.options(quality, b_frames)
    try:
        packets = _encode(planes, chosen.encoder, pixel_format, options, keyframes)
        decoded = list(_decode(packets, chosen.decoder, LAYOUTS[pixel_format]))
    except UnknownCodecError as exc:
        raise UsageError(f"this build of libav has no {chosen.encoder}; train without the codec {codec}.") from exc
    except LibavError as exc:
        raise TrainingError(f"{chosen.encoder} failed with {options}: {exc.strerror}.") from exc
    if len(decoded) != len(frames):
        raise TrainingError(f"{chosen.encoder} with {options} made {len(decoded)} frames of {len(frames)}.")
    return _to_rgb(decoded, pixel_format, frames.shape)


def subsample(frames: Frames, *, pixel_format: str) -> Frames:
    """Convert frames to the planes of a pixel format and back, without compression.

    Args:
        frames: (T, H, W, 3) uint8 RGB, at least one.
        pixel_format: how chroma is stored: yuv420p, yuv422p or yuv444p.

    Returns:
        (T, H, W, 3) uint8 RGB.

    Raises:
        ValueError: the frames have another shape or dtype, or the pixel format does not exist.
    """
    return _to_rgb(_to_planes(frames, pixel_format, 1), pixel_format, frames.shape)


def _to_planes(frames: Frames, pixel_format: str, least_size: int) -> list[tuple[Plane, ...]]:
    """Return Y, Cb and Cr of each frame, padded to an even size of at least ``least_size``."""
    if pixel_format not in LAYOUTS:
        raise ValueError(f"pixel_format must be one of {', '.join(LAYOUTS)}, got {pixel_format!r}")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != np.uint8:
        raise ValueError(f"expected frames (T, H, W, 3) of uint8, got {frames.shape} of {frames.dtype}")
    below, right = (max(size + size % 2, least_size) - size for size in frames.shape[1:3])
    # With NumPy, for the same reason as in _to_rgb.
    grown = np.pad(frames, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    rgb = torch.from_numpy(grown).permute(0, 3, 1, 2).to(torch.float32).div_(255)
    planes = rgb_to_planes(rgb, LAYOUTS[pixel_format], COLOUR)
    return list(zip(*(plane.numpy() for plane in planes), strict=True))


def _to_rgb(planes: Sequence[tuple[Plane, ...]], pixel_format: str, shape: tuple[int, ...]) -> Frames:
    """Invert ``_to_planes`` and crop to ``shape`` (T, H, W, 3)."""
    stacked = [torch.from_numpy(np.stack(same)) for same in zip(*planes, strict=True)]
    rgb = planes_to_rgb(stacked, LAYOUTS[pixel_format], COLOUR)[:, :, : shape[1], : shape[2]]
    # Without round_, for which PyTorch wakes all of its threads while the network needs them.
    codes = rgb.mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
    return cast(Frames, codes.permute(0, 2, 3, 1).contiguous().numpy())


def _encode(
    frames: Sequence[tuple[Plane, ...]], encoder: str, pixel_format: str, options: dict[str, str], keyframes: int | None
) -> Iterator[Packet[Any]]:
    context = cast(VideoCodecContext, CodecContext.create(encoder, "w"))
    context.height, context.width = frames[0][0].shape
    context.pix_fmt = pixel_format
    context.framerate, context.time_base = RATE, 1 / RATE
    context.thread_count = 1  # parallel over the batch instead
    context.options = options
    if keyframes is not None:
        context.gop_size = keyframes
    for number, planes in enumerate(frames):
        frame = frame_of(planes, pixel_format)
        frame.pts, frame.time_base = number, context.time_base
        yield from context.encode(frame)
    yield from context.encode(None)


def _decode(packets: Iterator[Packet[Any]], decoder: str, layout: PixelLayout) -> Iterator[tuple[Plane, ...]]:
    context = cast(VideoCodecContext, CodecContext.create(decoder, "r"))
    context.thread_count = 1
    frames: list[VideoFrame] = []
    for packet in packets:
        frames += context.decode(packet)
    frames += context.decode(None)
    for frame in frames:
        yield planes_of(frame, layout)
