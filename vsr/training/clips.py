"""Clips to train on: drawn from pictures that a virtual camera films and from video files.

``Clips`` and ``clip_batch`` draw batches, each clip a function of the seed, the step and its number; ``film`` makes a
clip of a picture; ``VideoSet`` cuts clips from video files.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from av.error import FFmpegError as LibavError
from torch import Tensor

from vsr.errors import InputError, TrainingDataError
from vsr.imaging.colour import ColourSpec, PixelLayout, planes_to_rgb, rgb_to_codes
from vsr.imaging.motion import Codes
from vsr.imaging.pictures import Picture
from vsr.inference.device import available_memory
from vsr.media.clip import VideoInfo, colour_of
from vsr.media.probe import probe
from vsr.media.reader import Damage, Frame, decoded_format, read_frames
from vsr.training.degradation import Clip, Floats, clip_region_size, degrade_clip
from vsr.training.pictures import PictureSet
from vsr.training.recipes import Recipe

DRAWN, DEGRADED = 8, 9
"""Seed words that keep the random numbers of clips and of degradation apart from others of the same step."""


class Clips:
    """Draw clips from pictures and videos. Thread-safe.

    Args:
        pictures: the pictures to film, or None.
        videos: the videos to cut clips from, or None.

    Raises:
        TrainingDataError: there are neither pictures nor videos.
    """

    def __init__(self, pictures: PictureSet | None, videos: VideoSet | None) -> None:
        self.pictures = pictures if pictures is not None and len(pictures) else None
        self.videos = videos if videos is not None and len(videos) else None
        if self.pictures is None and self.videos is None:
            raise TrainingDataError("none of the pictures and videos can be used.")

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify the pictures and videos."""
        listed = "\n".join(part.fingerprint() if part is not None else "" for part in (self.pictures, self.videos))
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    def draw(self, frames: int, size: int, real_motion: float, random: np.random.Generator) -> Clip:
        """Draw a clip.

        Args:
            frames: T; at most the ``frames`` of the video set.
            size: edge of the window in HR pixels.
            real_motion: share of the clips from video files, if there are pictures and videos.
            random: source of all random numbers.

        Returns:
            (T, H, W, 3) uint8 RGB; H and W are ``size``, or less in small videos. Do not modify.
        """
        real = random.random() < real_motion
        if self.videos is not None and (real or self.pictures is None):
            return self.videos.draw(size, random)[:frames]
        draw_picture = self._picture_drawer()
        return film(draw_picture(random), frames, size, draw_picture, random)

    def _picture_drawer(self) -> Callable[[np.random.Generator], Picture]:
        pictures = self.pictures
        assert pictures is not None
        return lambda random: pictures[pictures.at_pixel(float(random.random()))]


def draw_clip(clips: Clips, recipe: Recipe, seed: int, step: int, number: int) -> Clip:
    """Draw HR clip ``number`` of the batch of a step, with the context and lead that ``degrade_clip`` needs."""
    size = clip_region_size(recipe.clip, recipe.crop_size, recipe.scale)
    random = np.random.default_rng([seed, step, number, DRAWN])
    clip = clips.draw(recipe.frames + recipe.clip.lead, size, recipe.real_motion, random)
    height, width = (length // recipe.scale * recipe.scale for length in clip.shape[1:3])
    return clip[:, :height, :width]


def clip_batch(
    clips: Clips, recipe: Recipe, seed: int, step: int, first: int = 0, count: int | None = None
) -> tuple[Tensor, Tensor]:
    """Make the batch of a step or a part of it; the parts equal those of the whole batch.

    Args:
        clips: the pictures and videos; clips of videos have at least ``recipe.frames + recipe.clip.lead`` frames.
        recipe: batch and crop size, scale, frames and degradation.
        seed: seed of the run; with ``step`` and a clip's number in the batch it determines the clip.
        step: number of the update.
        first: number in the batch of the first clip.
        count: number of clips; None means all from ``first`` on.

    Returns:
        LR (N, T, 3, crop_size / scale, crop_size / scale) and HR (N, T, 3, crop_size, crop_size), uint8 RGB.
    """
    count = recipe.batch_size - first if count is None else count
    pairs = []
    for number in range(first, first + count):
        clip = draw_clip(clips, recipe, seed, step, number)
        random = np.random.default_rng([seed, step, number, DEGRADED])
        pairs.append(degrade_clip(clip, recipe.frames, recipe.crop_size, recipe.scale, recipe.clip, random))
    lr, hr = (torch.from_numpy(np.stack(part)).movedim(-1, -3).contiguous() for part in zip(*pairs, strict=True))
    return lr, hr


STILL = 0.25
"""Share of the clips in which nothing moves."""
TRIPOD = 0.25
"""Share of the others in which the camera is_static still and layers move."""
FASTEST = 24.0
"""HR pixels per frame; speeds are this times the square of a uniform random number."""
STEEPEST = 0.15
"""Greatest relative change of the speed from frame to frame."""
SHAKE = 1.0
"""Greatest standard deviation of camera shake, in HR pixels."""
TURN = math.radians(1.5)
"""Greatest rotation per frame; small ones are drawn more often (the cube of a uniform random number)."""
ZOOM = 0.02
"""Greatest relative change of size per frame, drawn likewise."""
TILT = math.radians(5)
"""Greatest angle between a moving window and its picture."""
COARSEST = 2.0
"""Greatest number of picture pixels per HR pixel along an axis; the least is one."""
DENSITY = 1.5
"""Least number of pixels per HR pixel, along an axis, of the canvas that frames are sampled from."""
BLURRED = 0.3
"""Share of the moving clips with motion blur."""
MAX_MOMENTS = 6
"""Greatest number of moments of an exposure that are averaged for a frame."""
MOMENT = 1.5
"""Greatest motion between two of these moments in HR pixels, unless ``MAX_MOMENTS`` is too few for that."""
LAYERED = 0.4
"""Share of the clips of a moving camera that have layers in front of the background."""
MAX_LAYERS = 3
STATIC_LAYER = 0.25
"""Share of the layers that do not move, as a logo or a caption."""
PLAIN = 0.15
"""Share of the layers of a single colour, which occur in drawings and captions but not in photographs."""
LAYER_SIZE = (0.2, 0.8)
"""Range of the edge of a layer, relative to that of the window."""
MARGIN = 3
"""Pixels beyond a window that sampling reads."""

Matrix = npt.NDArray[np.float64]
"""(3, 3), an affine map of points (x, y, 1)."""
DrawPicture = Callable[[np.random.Generator], Picture]
"""Draws a picture at random."""


def film(picture: Picture, frames: int, size: int, draw_picture: DrawPicture, random: np.random.Generator) -> Clip:
    """Film a picture: a window moves over it, and layers move in front of it.

    Args:
        picture: (H, W, 3) uint8 RGB. If it is too small for the path of the window, the path is scaled; if it is too
            small for the window, it is mirrored at its edges.
        frames: T.
        size: edge of the window in HR pixels.
        draw_picture: draws the pictures that layers are cut from.
        random: source of all random numbers.

    Returns:
        (T, size, size, 3) uint8 RGB.
    """
    still = random.random() < STILL
    tripod = random.random() < TRIPOD
    camera = _no_motion(frames) if still or tripod else _draw_motion(frames, random)
    views = [_make_background(_reorient(picture, random), size, camera, random)]
    if tripod or random.random() < LAYERED:
        for number in range(int(random.integers(1, MAX_LAYERS + 1))):
            is_static = still or (random.random() < STATIC_LAYER and bool(number or not tripod))
            motion = _no_motion(frames) if is_static else _draw_motion(frames, random)
            plain = random.random() < PLAIN
            content = _draw_flat_colour(size, random) if plain else _reorient(draw_picture(random), random)
            views.append(_make_layer(content, size, motion, random))
    exposure = random.uniform(0.2, 1.0) if random.random() < BLURRED else 0.0
    if still:
        return np.repeat(_render_frame(views, size, 0, 0.0)[None], frames, 0)
    return np.stack([_render_frame(views, size, number, exposure) for number in range(frames)])


def _reorient(picture: Picture, random: np.random.Generator) -> Picture:
    """Return a view of a picture in one of its eight orientations."""
    rows, columns, swap = random.integers(2, size=3)
    picture = picture[:: 1 - 2 * int(rows), :: 1 - 2 * int(columns)]
    return picture.transpose(1, 0, 2) if swap else picture


@dataclass(frozen=True)
class _Motion:
    """The position of a window at each moment."""

    places: npt.NDArray[np.float64]
    """(T + 2, 4): x and y in HR pixels, angle, logarithm of the size, from the frame before the first to the one after
    the last; about zero in the middle."""

    def at(self, time: float) -> Matrix:
        """Map HR pixels around the window's centre to HR pixels around its centre in the middle of the clip.

        Args:
            time: number of a frame from -1 to T, with fractions.
        """
        before = min(int(time + 1), len(self.places) - 2)
        share = time + 1 - before
        x, y, angle, growth = (self.places[before] * (1 - share) + self.places[before + 1] * share).tolist()
        cos, sin = math.exp(growth) * math.cos(angle), math.exp(growth) * math.sin(angle)
        return np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])

    def scaled(self, share: float) -> _Motion:
        """Return the motion along a share of the same path."""
        return _Motion(self.places * share)


def _no_motion(frames: int) -> _Motion:
    return _Motion(np.zeros((frames + 2, 4)))


def _draw_motion(frames: int, random: np.random.Generator) -> _Motion:
    after_middle = np.arange(-1.0, frames + 1) - (frames - 1) / 2
    speed = FASTEST * random.random() ** 2
    direction, bend = random.uniform(0, 2 * math.pi, size=2)
    acceleration = STEEPEST * speed * random.random()
    turn, zoom = random.uniform(-1, 1, size=2) ** 3
    shake = SHAKE * random.random() ** 2 * random.standard_normal((2, frames + 4))
    shake = shake[:, :-2] / 4 + shake[:, 1:-1] / 2 + shake[:, 2:] / 4
    paths = [
        after_middle * speed * along + after_middle**2 / 2 * acceleration * bent + shaken
        for along, bent, shaken in zip(_unit_vector(direction), _unit_vector(bend), shake, strict=True)
    ]
    return _Motion(np.stack([*paths, TURN * turn * after_middle, ZOOM * zoom * after_middle], 1))


def _unit_vector(angle: float) -> tuple[float, float]:
    return math.cos(angle), math.sin(angle)


@dataclass(frozen=True)
class _View:
    """A background or a layer, and the position of the window on it."""

    canvas: Picture
    to_canvas: Matrix
    """Maps HR pixels around the window's centre in the middle of the clip to pixels of the canvas."""
    motion: _Motion
    mask: Floats | None = None
    """(rows, columns): the opacity of each pixel of a layer, 0 to 1."""

    def at(self, time: float, size: int) -> Matrix:
        """Return the map from pixels of the window to pixels of the canvas."""
        centre = (size - 1) / 2
        return self.to_canvas @ self.motion.at(time) @ _shift(-centre, -centre)


def _make_background(picture: Picture, size: int, motion: _Motion, random: np.random.Generator) -> _View:
    tilt = random.uniform(-TILT, TILT) if motion.places.any() else 0.0
    turn = np.array([[math.cos(tilt), -math.sin(tilt), 0], [math.sin(tilt), math.cos(tilt), 0], [0, 0, 1]])
    room = np.array(picture.shape[1::-1], float)
    whole = motion
    for share in (1.0, 0.5, 0.25, 0.0):
        motion = whole.scaled(share)
        least, most = _extent([turn @ motion.at(number - 1) for number in range(len(motion.places))], size)
        coarsest = float((room / (most - least)).min())
        if coarsest >= 1:
            break
    coarseness = _draw_coarseness(coarsest, random)
    # The range of the centre that keeps the window inside; the middle of a picture that is too small.
    low, high = -least * coarseness, room - most * coarseness
    place = np.where(low < high, random.uniform(np.minimum(low, high), np.maximum(low, high)), (low + high) / 2)
    box = np.stack([np.floor(place + least * coarseness), np.ceil(place + most * coarseness)])
    (left, top), (right, bottom) = np.clip(box, 0, room).astype(int).tolist()
    canvas, scaling = _make_canvas(picture[top:bottom, left:right], coarseness)
    to_picture = _shift(*(place - 0.5 - (left, top))) @ np.diag([coarseness, coarseness, 1]) @ turn
    return _View(canvas, scaling @ to_picture, motion)


def _draw_flat_colour(size: int, random: np.random.Generator) -> Picture:
    """Return (size, size, 3) of one colour; a channel is 0 or 255 two times out of three, so that many saturate."""
    colour = random.choice([0, 255, int(random.integers(256))], 3)
    return np.tile(colour.astype(np.uint8), (size, size, 1))


def _make_layer(picture: Picture, size: int, motion: _Motion, random: np.random.Generator) -> _View:
    edge = size * random.uniform(*LAYER_SIZE)
    coarseness = _draw_coarseness(min(picture.shape[:2]) / edge, random)
    cut = min(math.ceil(edge * coarseness), *picture.shape[:2])
    top, left = (int(random.integers(length - cut + 1)) for length in picture.shape[:2])
    canvas, scaling = _make_canvas(picture[top : top + cut, left : left + cut], coarseness)
    place = random.uniform(-size / 2, size / 2, size=2)  # of the layer's centre
    to_picture = _shift(*[(cut - 1) / 2] * 2) @ np.diag([coarseness, coarseness, 1]) @ _shift(*-place)
    mask = _draw_mask(len(canvas), cut / coarseness, random)
    return _View(canvas, scaling @ to_picture, motion, mask)


def _draw_coarseness(coarsest: float, random: np.random.Generator) -> float:
    """Draw the number of picture pixels per HR pixel along an axis."""
    return float(np.clip(coarsest, 1, COARSEST) ** random.random())


def _extent(matrices: Sequence[Matrix], size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the least and the greatest (x, y) that windows of a size reach, including the margin of sampling."""
    reach = size / 2 + MARGIN
    corners = np.array([[-reach, reach, -reach, reach], [-reach, -reach, reach, reach], [1, 1, 1, 1]])
    points = np.concatenate([matrix @ corners for matrix in matrices], 1)[:2]
    return points.min(1), points.max(1)


def _make_canvas(patch: Picture, coarseness: float) -> tuple[Picture, Matrix]:
    """Low-pass a part of a picture for HR pixels, and enlarge it where it is not dense enough for sampling.

    Returns:
        The canvas that frames are sampled from, and the map from pixels of the patch to pixels of the canvas.
    """
    kernel = _lowpass(coarseness)
    patch = np.ascontiguousarray(patch)
    if len(kernel) > 1:
        patch = cast(Picture, cv2.sepFilter2D(patch, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101))
    if coarseness >= DENSITY:
        return patch, np.eye(3)
    height, width = patch.shape[:2]
    columns, rows = (math.ceil(length * DENSITY / coarseness) for length in (width, height))
    canvas = cast(Picture, cv2.resize(patch, (columns, rows), interpolation=cv2.INTER_LANCZOS4))
    scaling = np.diag([columns / width, rows / height, 1])
    return canvas, _shift(-0.5, -0.5) @ scaling @ _shift(0.5, 0.5)


def _lowpass(coarseness: float) -> Floats:
    """Return the bicubic kernel, stretched against aliasing; a single weight if nothing is reduced."""
    reach = math.ceil(2 * coarseness) - 1
    at = np.abs(np.arange(-reach, reach + 1)) / coarseness
    near, far = (1.5 * at - 2.5) * at**2 + 1, ((-0.5 * at + 2.5) * at - 4) * at + 2
    weights = np.where(at < 1, near, np.where(at < 2, far, 0))
    return np.trim_zeros(weights / weights.sum()).astype(np.float32) if coarseness > 1 else np.ones(1, np.float32)


def _draw_mask(length: int, edge: float, random: np.random.Generator) -> Floats:
    """Draw a mask (length, length): a blob, a box or shreds, with soft edges of 0.7 to 3 HR pixels.

    Args:
        length: pixels of the canvas.
        edge: the same in HR pixels.
        random: source of all random numbers.
    """
    place: Floats = (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length) * 2 - 1
    softness = random.uniform(0.7, 3.0) * 2 / edge
    shape = random.random()
    if shape < 0.2:
        wide, high = random.uniform(0.3, 0.9, size=2)
        inside = np.minimum(wide - np.abs(place), (high - np.abs(place))[:, None])
    else:
        inside = _blob(place, random)
        if shape > 0.7:
            grid = random.standard_normal((int(random.integers(4, 12)),) * 2).astype(np.float32)
            shreds = cv2.resize(grid, (length, length), interpolation=cv2.INTER_CUBIC)
            inside = np.minimum(inside, shreds / len(grid))  # the slope is about that of the grid
    return cast(Floats, np.clip(inside / softness + 0.5, 0, 1).astype(np.float32))


def _blob(place: Floats, random: np.random.Generator) -> Floats:
    """Return how far each point of a square is inside a wavy closed line, relative to half of its edge."""
    angle, radius = np.arctan2(place[:, None], place), np.hypot(place[:, None], place)
    line = np.full_like(radius, 0.6)
    for waves in range(2, 7):
        line += np.float32(random.uniform(0, 0.4 / waves)) * np.cos(waves * angle + np.float32(random.uniform(0, 6.3)))
    return np.minimum(line, 0.95) - radius


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def _render_frame(views: Sequence[_View], size: int, number: int, exposure: float) -> Picture:
    """Render a frame (size, size, 3): the mean over an exposure, which is a share of the time between frames."""
    moments = 1
    if exposure:
        fastest = max(_distance_moved(view, number, exposure, size) for view in views)
        moments = int(np.clip(math.ceil(fastest / MOMENT), 1, MAX_MOMENTS))
    if moments == 1:
        return _compose(views, size, number)
    mean = np.zeros((size, size, 3), np.float32)
    for moment in range(moments):
        cv2.accumulate(_compose(views, size, number + exposure * ((moment + 0.5) / moments - 0.5)), mean)
    return np.rint(mean / moments).astype(np.uint8)


def _distance_moved(view: _View, number: int, exposure: float, size: int) -> float:
    """Return how far a corner of the window moves during an exposure, in HR pixels."""
    begin, end = (view.motion.at(number + half * exposure) for half in (-0.5, 0.5))
    corners = np.array([[-1, 1, -1, 1], [-1, -1, 1, 1], [2 / size] * 4]) * size / 2
    return float(np.hypot(*((end - begin) @ corners)[:2]).max())


def _compose(views: Sequence[_View], size: int, time: float) -> Picture:
    background, *layers = views
    frame = _sample(background.canvas, background.at(time, size), size, size)
    for layer in layers:
        _paste(frame, layer, layer.at(time, size))
    return frame


def _sample(canvas: Picture, matrix: Matrix, width: int, height: int) -> Picture:
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    sampled = cv2.warpAffine(canvas, matrix[:2], (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return cast(Picture, sampled)


def _paste(frame: Picture, layer: _View, matrix: Matrix) -> None:
    """Blend a layer over the frame."""
    assert layer.mask is not None
    rows, columns = layer.mask.shape
    corners = np.linalg.solve(matrix, np.array([[0, columns, 0, columns], [0, 0, rows, rows], [1, 1, 1, 1]]))[:2]
    size = np.array(frame.shape[1::-1])
    left, top = np.clip(np.floor(corners.min(1)), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(1)), 0, size).astype(int).tolist()
    if left >= right or top >= bottom:
        return
    matrix = matrix @ _shift(left, top)
    above = _sample(layer.canvas, matrix, right - left, bottom - top)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    opaque = cv2.warpAffine(layer.mask, matrix[:2], (right - left, bottom - top), flags=flags)
    part = np.ascontiguousarray(frame[top:bottom, left:right])
    frame[top:bottom, left:right] = cv2.blendLinear(above, part, opaque, 1 - opaque)


logger = logging.getLogger(__name__)

PIECE = 64
"""Approximate number of frames that are decoded at a time."""
LONGEST_PIECE = 2 * PIECE
"""Greatest number of frames of a piece, for videos with more frames than their header says."""
LARGE = 1080
"""Height from which videos are reduced: cameras and codecs leave less detail than there are pixels."""
CUT = 24.0
"""Least mean difference of frames across a cut in 8-bit codes; the differences around it are below a third of it."""
_NAMED = 5
"""Greatest number of skipped files that are named in warnings; the others are counted."""


@dataclass(frozen=True)
class _Piece:
    """A run of consecutive frames of a video that is decoded as a whole."""

    path: Path
    video: VideoInfo
    start: int | None
    """First tick in the stream's time base; None: the beginning."""
    end: int | None
    """First tick after the piece; None: the end."""
    frames: int
    """Number of frames according to the header."""

    @property
    def reduction(self) -> int:
        """Factor by which frames are reduced to make HR."""
        return max(1, min(self.video.width, self.video.height) * 2 // LARGE)


class VideoSet:
    """Video files to cut clips from. Thread-safe.

    A long video is split into pieces that are decoded separately. Files that cannot be read, or whose frames are
    smaller than a crop, are left out with a warning. A piece that is damaged, or has no long enough run of frames
    between two cuts, is replaced by the next one.

    Args:
        paths: the files.
        min_size: least length of either edge of a frame in pixels.
        frames: number of frames of a clip.
        workers: number of threads that read headers.
        cache_bytes: memory for decoded pieces, which are cached when drawn; None means a quarter of the free memory.

    Attributes:
        paths: the files that are used.
        left_out: number of files that are not used.
        cache_bytes: as above; may be changed.
    """

    def __init__(
        self, paths: Sequence[Path], *, min_size: int, frames: int, workers: int = 2, cache_bytes: int | None = None
    ) -> None:
        self.cache_bytes = available_memory() // 4 if cache_bytes is None else cache_bytes
        self._frames = frames
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(lambda path: _pieces(path, min_size, max(PIECE, 2 * frames)), paths))
        reasons = [reason for reason in found if isinstance(reason, str)]
        for reason in reasons[:_NAMED]:
            logger.warning("left out: %s", reason)
        self.left_out = len(reasons)
        if reasons:
            logger.warning("left out %d of %d videos", len(reasons), len(paths))
        self._reduce_to([piece for pieces in found if not isinstance(pieces, str) for piece in pieces])
        self._lock = threading.Lock()
        self._cache: dict[_Piece, list[Clip]] = {}
        self._cached_bytes = [0]

    def _reduce_to(self, pieces: list[_Piece]) -> None:
        self._pieces = pieces
        self.paths = list(dict.fromkeys(piece.path for piece in pieces))
        # Not weighted by area: places in one scene are more alike than two scenes.
        self._ends = np.cumsum([piece.frames for piece in pieces], dtype=np.int64)

    def hold_out(self, count: int) -> VideoSet:
        """Move ``count`` pieces, evenly spread over the set, into a new set; at most all."""
        count = min(count, len(self))
        chosen = {number * len(self) // count for number in range(count)}
        held_out = copy.copy(self)
        held_out._reduce_to([self._pieces[number] for number in sorted(chosen)])
        self._reduce_to([piece for number, piece in enumerate(self._pieces) if number not in chosen])
        return held_out

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify the pieces: names of the files, sizes and times, in order."""
        listed = "".join(
            f"{piece.path.name}\0{piece.video.height}x{piece.video.width}\0{piece.start}\0{piece.frames}\n"
            for piece in self._pieces
        )
        return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._pieces)

    def draw(self, size: int, random: np.random.Generator) -> Clip:
        """Draw a clip: a fixed window of a video that runs forwards or backwards, mirrored and transposed at random.

        All frames of the videos are about equally likely.

        Args:
            size: edge of the window in HR pixels; reduced to the size of smaller videos.
            random: source of all random numbers.

        Returns:
            (T, H, W, 3) uint8 RGB, H and W at most ``size``, without a cut. Do not modify.

        Raises:
            TrainingDataError: no video has enough frames.
        """
        number = int(np.searchsorted(self._ends, random.integers(self._ends[-1]), side="right"))
        runs = self._first_usable(number)
        choices = [len(run) - self._frames + 1 for run in runs]
        place = int(random.integers(sum(choices)))
        ends = np.cumsum(choices)
        chosen = int(np.searchsorted(ends, place, side="right"))
        begin = place - int(ends[chosen]) + choices[chosen]
        top, left = (int(random.integers(max(1, length - size + 1))) for length in runs[chosen].shape[1:3])
        clip = runs[chosen][begin : begin + self._frames, top : top + size, left : left + size]
        time, rows, columns = (1 - 2 * int(flip) for flip in random.integers(2, size=3))
        clip = clip[::time, ::rows, ::columns]
        return clip.transpose(0, 2, 1, 3) if random.integers(2) else clip

    def _first_usable(self, number: int) -> list[Clip]:
        """Return the runs of the first usable piece from ``number`` on, continuing at the start of the set."""
        for found in chain(range(number, len(self)), range(number)):
            if runs := self._runs(self._pieces[found]):
                return runs
        raise TrainingDataError(f"none of the videos has {self._frames} frames without a cut. Choose other videos.")

    def _runs(self, piece: _Piece) -> list[Clip]:
        """Return the long enough runs between cuts of a piece; none if it is damaged."""
        runs = self._cache.get(piece)
        if runs is not None:
            return runs
        reason = f"{piece.path} has no {self._frames} frames without a cut from tick {piece.start or 0} on"
        try:
            decoded = _decode(piece)
            runs = [run for run in _split_at_cuts(decoded) if len(run) >= self._frames] if len(decoded) else []
        except InputError as exc:
            if isinstance(exc.__cause__, OSError) and not isinstance(exc.__cause__, LibavError):
                raise  # the disk is gone: do not continue without the file
            runs, reason = [], str(exc)
        with self._lock:
            size = sum(run.nbytes for run in runs)
            if piece not in self._cache and self._cached_bytes[0] + size <= self.cache_bytes:
                self._cache[piece] = runs
                self._cached_bytes[0] += size
                if not runs:
                    logger.warning("left out and replaced by another: %s", reason)
        return runs


def _pieces(path: Path, min_size: int, length: int) -> list[_Piece] | str:
    """Split a video into pieces of at least ``length`` frames; returns the reason if it cannot be used."""
    try:
        video = probe(path).video
        decoded_format(video)
    except InputError as exc:
        return str(exc)
    whole = _Piece(path, video, None, None, video.num_frames_estimated or length)
    if min(video.width, video.height) // whole.reduction < min_size:
        return f"{path} is {video.width}x{video.height}, smaller than {min_size * whole.reduction}"
    count = whole.frames // length
    if count < 2 or video.average_rate is None or video.first_pts is None:
        return [whole]
    ticks = whole.frames / (video.average_rate * video.time_base)
    bounds = [None, *(video.first_pts + int(ticks * number / count) for number in range(1, count)), None]
    return [
        _Piece(path, video, start, end, whole.frames // count)
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def _decode(piece: _Piece) -> Clip:
    """Decode and reduce all frames of a piece."""
    _, layout = decoded_format(piece.video)
    colour = colour_of(piece.video, piece.video.height)
    damage = Damage()  # not reported for a piece
    frames = read_frames(piece.path, piece.video, start=piece.start, end=piece.end, deinterlace="auto", damage=damage)
    with closing(frames):
        rgb = [_to_rgb(frame, layout, colour, piece.reduction) for frame in islice(frames, LONGEST_PIECE)]
    return np.stack(rgb) if rgb else np.empty((0, 0, 0, 3), np.uint8)


def _to_rgb(frame: Frame, layout: PixelLayout, colour: ColourSpec, reduction: int) -> Codes:
    """Convert a frame to RGB and reduce it: (H, W, 3)."""
    rgb = planes_to_rgb([torch.from_numpy(plane[None].copy()) for plane in frame.planes], layout, colour)
    codes = cast(Codes, rgb_to_codes(rgb)[0])
    if reduction > 1:
        height, width = (length // reduction for length in codes.shape[:2])
        codes = codes[: height * reduction, : width * reduction]
        codes = cast(Codes, cv2.resize(codes, (width, height), interpolation=cv2.INTER_AREA))
    return codes


def _split_at_cuts(clip: Clip) -> list[Clip]:
    """Split a clip at its cuts."""
    small = np.stack([cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA) for frame in clip]).astype(np.float32)
    steps = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
    padded = np.pad(steps, 1, mode="reflect") if len(steps) > 1 else np.pad(steps, 1)
    around = np.maximum(padded[:-2], padded[2:])
    cuts = np.flatnonzero((steps > CUT) & (steps > 3 * around)) + 1
    return list(np.split(clip, cuts))
