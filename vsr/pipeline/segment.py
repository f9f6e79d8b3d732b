"""A run of frames: decoded, upscaled and encoded into a file of its own, the three at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from vsr.imaging.colour import ColourSpec, PixelLayout, planes_to_rgb, rgb_to_planes
from vsr.inference.engine import Engine
from vsr.media.codecs import Codec
from vsr.media.encoder import Encoder, VideoFormat
from vsr.media.probe import ClipInfo
from vsr.media.reader import Frame, read_frames
from vsr.pipeline.flow import Ahead, Behind

QUEUE_BYTES = 128 << 20
"""What may wait on either side of the network: about forty frames of 1080p."""


@dataclass(frozen=True)
class Conversion:
    """How the code values change on their way: as decoded, to RGB, and as the encoder takes them."""

    source: PixelLayout
    source_colour: ColourSpec
    target: PixelLayout
    target_colour: ColourSpec


def upscale_segment(
    clip: ClipInfo,
    target: Path,
    engine: Engine,
    conversion: Conversion,
    codec: Codec,
    codec_options: dict[str, str],
    video: VideoFormat,
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Upscale all frames of a clip into a file with the video stream alone.

    Args:
        clip: the source.
        target: the file to write.
        engine: what upscales.
        conversion: layouts and colours of both ends.
        codec: what to encode with.
        codec_options: libav's options for it.
        video: what the encoded frames are like, but for the display matrix, which the first frame brings.
        batch_size: frames at once.
        progress: called with the number of frames handed to the encoder.

    Returns:
        the number of frames written.

    Raises:
        VsrError: whatever ends the reading, the computing or the writing.
    """
    done = 0
    frames = read_frames(clip.path, clip.video)
    with Ahead(frames, max_bytes=QUEUE_BYTES, name="vsr-decode") as decoded:
        first = next(decoded)
        video = replace(video, display_matrix=first.display_matrix)
        with (
            Encoder(target, codec, codec_options, video) as encoder,
            Behind(encoder.write, max_bytes=QUEUE_BYTES, name="vsr-encode") as encoded,
        ):
            rest = chain([first], decoded)
            while batch := list(islice(rest, batch_size)):
                for frame in _upscale_batch(batch, engine, conversion):
                    encoded.put(frame)
                    done += 1
                if progress is not None:
                    progress(done)
    return done


def _upscale_batch(batch: Sequence[Frame], engine: Engine, conversion: Conversion) -> Iterator[Frame]:
    """The frames of a batch, upscaled; planes cross to the device and back once, as they are stored."""
    stacked = (np.stack(planes) for planes in zip(*(frame.planes for frame in batch), strict=True))
    decoded = [torch.from_numpy(planes).to(engine.device) for planes in stacked]
    lr = planes_to_rgb(decoded, conversion.source, conversion.source_colour)
    sr = rgb_to_planes(engine(lr), conversion.target, conversion.target_colour)
    planes = [plane.cpu().numpy() for plane in sr]
    for index, frame in enumerate(batch):
        yield Frame(tuple(plane[index] for plane in planes), frame.pts, frame.duration)
