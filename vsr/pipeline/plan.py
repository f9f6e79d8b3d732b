"""Plan a clip's video before any frame is computed: size, pixel format, colour, encoder, and memory.

``plan_video`` decides sizes, formats and colour; ``check_frame_fits`` and ``queue_bytes`` bound the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import wraps
from math import ceil
from pathlib import Path
from typing import Any, TypeVar, cast

from vsr.errors import OutOfMemoryError, UsageError, memory_explained, setting
from vsr.imaging.colour import ColourSpec, PixelLayout
from vsr.inference.device import available_memory, free_memory, free_swap
from vsr.inference.engine import Engine
from vsr.media.clip import (
    CENTRE,
    FULL,
    LEFT,
    LIMITED,
    UNSPECIFIED,
    UPRIGHT,
    ClipInfo,
    ColourTags,
    Orientation,
    VideoInfo,
    colour_of,
    has_alpha,
    layout_of,
    orientation_of,
)
from vsr.media.formats import Codec
from vsr.media.reader import decoded_format
from vsr.media.writer import VideoFormat, encoded_format
from vsr.pipeline.options import UpscaleOptions

RGB_MATRIX, BT709, BT2020 = 0, 1, 9
"""Codes of H.273 for matrices and, except for the first, for primaries."""


SIDE_DATA = {
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "AMBIENT_VIEWING_ENVIRONMENT": "the description of the viewing environment",
    "A53_CC": "closed captions inside the video",
    "STEREO3D": "the arrangement of a stereoscopic picture",
    "SPHERICAL": "the projection of a spherical picture",
    "FILM_GRAIN_PARAMS": "the parameters of synthetic film grain",
    "ICC_PROFILE": "the colour profile (ICC)",
    "PANSCAN": "pan and scan windows",
    "AFD": "the active format description",
    "S12M_TIMECODE": "the time code inside the video",
}
"""Descriptions of side data that the new video may not be able to hold, by libav's names."""


@dataclass(frozen=True)
class Conversion:
    """The conversion of code values: from the decoded planes to RGB, and from RGB to the planes to encode.

    Attributes:
        source: layout of the decoded planes.
        source_colour: meaning of their codes.
        target: layout of the planes to encode.
        target_colour: meaning of their codes.
        width: columns of the planes to encode.
        height: rows of the planes to encode.
        padded: whether the engine's frames are extended to that size by repeating their last rows and columns; else
            they are resized.
        orientation: how the pixels are turned, for outputs that cannot store an orientation.
    """

    source: PixelLayout
    source_colour: ColourSpec
    target: PixelLayout
    target_colour: ColourSpec
    width: int
    height: int
    padded: bool = False
    orientation: Orientation = UPRIGHT


@dataclass(frozen=True)
class Geometry:
    """Sizes in pixels as coded, and how the pixels are turned."""

    width: int
    height: int
    sample_aspect_ratio: Fraction | None
    display_matrix: tuple[int, ...] | None
    orientation: Orientation

    def rounded_up(self, across: int, down: int) -> Geometry:
        """Return the next larger size whose width and height are multiples of ``across`` and ``down``."""
        return replace(self, width=ceil(self.width / across) * across, height=ceil(self.height / down) * down)


def plan_geometry(video: VideoInfo, options: UpscaleOptions, native_scale: float, *, turns: bool = True) -> Geometry:
    """Return the size that the options ask for.

    Args:
        video: the source.
        options: hold a scale, a size or a height.
        native_scale: the scale if none of them is given.
        turns: whether the output can store an orientation; if not, the pixels are turned.
    """
    wanted = orientation_of(video.display_matrix)
    turned = wanted is not None and wanted.transposed
    baked = wanted if wanted is not None and not turns else UPRIGHT
    width, height = (video.height, video.width) if baked.transposed else (video.width, video.height)
    ratio = video.sample_aspect_ratio
    if ratio and baked.transposed:
        ratio = 1 / ratio
    shown_sideways = turned and not baked.transposed  # what the user sees as height is coded as width
    if options.size is not None:
        new_width, new_height = options.size[::-1] if shown_sideways else options.size
        stretch = Fraction(new_height * width, new_width * height)
        if abs(stretch - 1) > Fraction(1, min(new_width, new_height)):  # more than rounding: proportions stay as shown
            ratio = (ratio or 1) * stretch
    elif options.height is not None:
        factor = Fraction(options.height, width if shown_sideways else height)
        new_width, new_height = max(1, round(width * factor)), max(1, round(height * factor))
    else:
        factor = Fraction(native_scale if options.scale is None else options.scale)
        new_width, new_height = max(1, round(width * factor)), max(1, round(height * factor))
    matrix = video.display_matrix if turns else None
    return Geometry(new_width, new_height, ratio, matrix, baked)


def factor_of(video: VideoInfo, options: UpscaleOptions) -> float | None:
    """Return output size over input size along the axis that grows more; None: the model's own scale."""
    if options.size is None and options.height is None:
        return options.scale
    geometry = plan_geometry(video, options, 1)
    return max(geometry.width / video.width, geometry.height / video.height)


def plan_video(
    clip: ClipInfo,
    codec: Codec,
    options: UpscaleOptions,
    scale: float,
    *,
    turns: bool = True,
    planes: str | None = None,
    kept: frozenset[str] = frozenset(),
) -> tuple[VideoFormat, Conversion, list[str]]:
    """Plan the video to encode, the conversion to it, and a sentence for each thing that the output will lack.

    Args:
        clip: the source.
        codec: the encoder.
        options: the user's options.
        scale: the engine's scale.
        turns: as in ``plan_geometry``.
        planes: the pixel format to write; None: the encoder's format that loses least.
        kept: the side data of frames that the output keeps, by libav's names.

    Raises:
        UsageError: the encoder cannot write the size or the pixel format.
        InputError: the source has a pixel format that cannot be read.
    """
    video = clip.video
    decoded, source_layout = decoded_format(video)
    encoded, planes = (planes, planes) if planes else encoded_format(codec, decoded, requested=options.pix_fmt)
    target_layout = layout_of(planes)
    assert target_layout is not None
    requested = plan_geometry(video, options, scale, turns=turns)
    geometry = requested.rounded_up(*_size_multiples(codec, target_layout))
    _check_size(clip, codec, geometry)
    tags, target_colour = _plan_colour(video, geometry.height, source_layout, target_layout)
    native = (round(video.width * scale), round(video.height * scale))
    computed = native[::-1] if geometry.orientation.transposed else native
    conversion = Conversion(
        source_layout,
        colour_of(video, video.height),
        target_layout,
        target_colour,
        geometry.width,
        geometry.height,
        padded=(requested.width, requested.height) == computed,
        orientation=geometry.orientation,
    )
    losses = _losses(clip, source_layout, encoded, target_layout, kept)
    before, size = f"{requested.width}x{requested.height}", f"{geometry.width}x{geometry.height}"
    if size != before:
        losses.append(f"{clip.path.name}: {before} becomes {size}, the next size that {codec.encoder} can hold.")
    return _video_format(video, geometry, encoded, planes, tags), conversion, losses


def _video_format(video: VideoInfo, geometry: Geometry, encoded: str, planes: str, tags: ColourTags) -> VideoFormat:
    """Return the format for the encoder."""
    return VideoFormat(
        width=geometry.width,
        height=geometry.height,
        pix_fmt=encoded,
        planes=planes,
        time_base=video.time_base,
        shift=max(0, -(video.first_pts or 0)),
        rate=video.average_rate,
        sample_aspect_ratio=geometry.sample_aspect_ratio,
        tags=tags,
        display_matrix=geometry.display_matrix,
        mastering_display=video.mastering_display,
        light_levels=video.light_levels,
    )


def _size_multiples(codec: Codec, layout: PixelLayout) -> tuple[int, int]:
    """Return the numbers of which widths and heights have to be multiples."""
    if codec.sizes == "any":
        return 1, 1
    least = 2 if codec.sizes == "even" else 1
    return max(1 << layout.subsampling_x, least), max(1 << layout.subsampling_y, least)


def _check_size(clip: ClipInfo, codec: Codec, geometry: Geometry) -> None:
    size = f"{geometry.width}x{geometry.height}"
    if max(geometry.width, geometry.height) > codec.largest:
        raise UsageError(f"{clip.path} would become {size}; {codec.encoder} writes up to {codec.largest} pixels.")
    if geometry.width < codec.narrowest:
        raise UsageError(f"{clip.path} would become {size}; {codec.encoder} needs {codec.narrowest} columns.")


def _plan_colour(
    video: VideoInfo, height: int, source: PixelLayout, target: PixelLayout
) -> tuple[ColourTags, ColourSpec]:
    """Return the tags of the output and the meaning of its code values: those of the source where the format allows.

    An unspecified matrix is written explicitly if the clip grows past 720 lines, where players change their guess of
    the matrix, and do not agree how.
    """
    location = _chroma_location(video, source, target)
    tags = replace(video.tags, chroma_location=location)
    colour = replace(colour_of(replace(video, tags=tags), height))
    if colour.full_range and source.kind != "rgb":
        tags = replace(tags, range=FULL)
    if source.kind == "rgb" and target.kind != "rgb":
        wide = tags.primaries == BT2020
        colour = replace(colour, matrix="bt2020" if wide else "bt709", full_range=False)
        tags = replace(tags, matrix=BT2020 if wide else BT709, range=LIMITED)
    elif target.kind == "yuv" and tags.matrix == UNSPECIFIED and colour.matrix != colour_of(video, video.height).matrix:
        tags = replace(tags, matrix=BT709)
    elif target.kind == "rgb":
        colour = replace(colour, full_range=True)
        known = tags.matrix != UNSPECIFIED or source.kind == "rgb"
        tags = replace(tags, matrix=RGB_MATRIX if known else UNSPECIFIED, range=FULL)
    return tags, colour


def _chroma_location(video: VideoInfo, source: PixelLayout, target: PixelLayout) -> int:
    if not (target.subsampling_x or target.subsampling_y):
        return 0
    stated = video.tags.chroma_location
    if (source.subsampling_x, source.subsampling_y) == (0, 0):
        return LEFT
    return {5: LEFT, 6: CENTRE}.get(stated, stated)  # positions at the bottom, which encoders do not write


def _losses(
    clip: ClipInfo, source: PixelLayout, encoded: str, target: PixelLayout, kept: frozenset[str]
) -> list[str]:
    """Return a sentence for each thing in the frames that the output cannot keep."""
    name, losses = clip.path.name, []
    if has_alpha(clip.video.pix_fmt) and not target.alpha and not clip.video.pix_fmt.startswith("pal"):
        losses.append(f"{name}: its alpha channel is left out, as {encoded} holds none.")
    if source.bit_depth > target.bit_depth:
        losses.append(f"{name}: of its {source.bit_depth} bits {encoded} keeps {target.bit_depth}.")
    for kind, description in SIDE_DATA.items():
        if kind in clip.video.side_data and kind not in kept:
            losses.append(f"{name}: {description} cannot be kept.")
    return losses



def less_memory() -> str:
    """Return the advice if memory runs out."""
    tile, batch = setting("tile_size", flag="--tile"), setting("batch_size", 1, flag="--batch")
    return f"take a smaller {tile}, {batch}, fewer {setting('jobs')} or a smaller size"


QUEUE_SHARE = 16
"""Frames waiting on one side of the network, in all workers, use at most 1/16 of the free memory."""

BYTES_PER_PIXEL = 12
"""Bytes of a frame while it is computed: red, green and blue in float32."""

Work = TypeVar("Work", bound=Callable[..., Any])


def explains_out_of_memory(work: Work) -> Work:
    """Make a function, whose first argument is a source, raise ``OutOfMemoryError`` for any library's memory error."""

    @wraps(work)
    def explained(source: Path, *args: Any, **kwargs: Any) -> Any:
        with memory_explained(f"upscaling {source}", less_memory()):
            return work(source, *args, **kwargs)

    return cast(Work, explained)


def queue_bytes(options: UpscaleOptions, most: int) -> int:
    """Return how many bytes may wait on one side of the network in a worker: ``most``, or a share of free memory."""
    return min(most, available_memory() // (QUEUE_SHARE * options.workers_sharing("cpu")))


def check_frame_fits(clip: ClipInfo, engine: Engine, conversion: Conversion, workers: int) -> None:
    """Refuse frames that do not fit into memory with any tile size: the system might kill the process otherwise.

    Args:
        clip: the source.
        engine: the engine.
        conversion: holds the output size.
        workers: number of workers that compute a frame each in the same memory.

    Raises:
        OutOfMemoryError: the frames alone are larger than the free memory.
    """
    upscaled = round(clip.video.height * engine.scale) * round(clip.video.width * engine.scale)
    resized = 0 if conversion.padded else conversion.width * conversion.height
    needed = BYTES_PER_PIXEL * (upscaled + resized) * workers
    free = free_memory(engine.device) + (free_swap() if engine.device.type == "cpu" else 0)
    if needed > free:
        raise OutOfMemoryError(
            f"{clip.path}: a frame of {conversion.width}x{conversion.height} takes {needed / 1e9:.1f} GB on "
            f"{engine.device}{f' in {workers} workers' if workers > 1 else ''}, and {free / 1e9:.1f} GB are free; "
            f"take a smaller size or fewer {setting('jobs')}."
        )
