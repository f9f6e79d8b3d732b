"""Video files to cut clips from: a piece is decoded when it is drawn, and kept as far as memory reaches. Needs PyAV."""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from av.error import FFmpegError as LibavError

from vsr.errors import InputError, TrainingDataError
from vsr.imaging.colour import ColourSpec, PixelLayout, planes_to_rgb, rgb_to_codes
from vsr.imaging.motion import Codes
from vsr.inference.device import available_memory
from vsr.media.clip import VideoInfo, colour_of
from vsr.media.probe import probe
from vsr.media.reader import Damage, Frame, decoded_format, read_frames
from vsr.training.degradation import Clip

logger = logging.getLogger(__name__)

PIECE = 64
"""Frames that are decoded at a time, about."""
LONGEST_PIECE = 2 * PIECE
"""Frames of a piece whose video has more of them in its time than its header says."""
LARGE = 1080
"""Lines from which a video is reduced: cameras and codecs leave less detail than it has pixels."""
CUT = 24.0
"""8-bit codes by which frames differ across a cut, on average and at the least; around it by less than a third."""
_NAMED = 5
"""Files left out that are named; the others are counted."""


@dataclass(frozen=True)
class _Piece:
    """Frames of a video that follow each other."""

    path: Path
    video: VideoInfo
    start: int | None
    """In ticks of the stream; None is the beginning."""
    end: int | None
    """The first tick that is no longer wanted; None is the end."""
    frames: int
    """By the header."""

    @property
    def reduction(self) -> int:
        """HR is the video reduced by this."""
        return max(1, min(self.video.width, self.video.height) * 2 // LARGE)


class VideoSet:
    """Video files to cut clips from. Safe from several threads.

    A long video is several pieces, each decoded by itself. Files that cannot be read, or whose frames are smaller than
    a crop, are left out with a warning; where a piece turns out to be damaged, or to have no run of frames between two
    cuts that is long enough, the next one stands in for it.

    Args:
        paths: the files.
        min_size: least length of either edge of a frame in pixels.
        frames: of a clip.
        workers: threads that read headers.
        cache_bytes: memory for decoded pieces, which are kept as they are drawn; None takes a quarter of what is free.

    Attributes:
        paths: those that are used.
        left_out: how many are not.
        cache_bytes: as above; may be changed.
    """

    def __init__(
        self, paths: Sequence[Path], *, min_size: int, frames: int, workers: int = 2, cache_bytes: int | None = None
    ) -> None:
        self.cache_bytes = available_memory() // 4 if cache_bytes is None else cache_bytes
        self._frames = frames
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(lambda path: _pieces(path, min_size, max(PIECE, 2 * frames)), paths))
        reasons = [words for words in found if isinstance(words, str)]
        for words in reasons[:_NAMED]:
            logger.warning("left out: %s", words)
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
        # Not by area, as places in one scene resemble each other more than two scenes do.
        self._ends = np.cumsum([piece.frames for piece in pieces], dtype=np.int64)

    def hold_out(self, count: int) -> VideoSet:
        """Take ``count`` pieces, evenly spread over the set, out of it into one of their own; at most all."""
        count = min(count, len(self))
        chosen = {number * len(self) // count for number in range(count)}
        held_out = copy.copy(self)
        held_out._reduce_to([self._pieces[number] for number in sorted(chosen)])
        self._reduce_to([piece for number, piece in enumerate(self._pieces) if number not in chosen])
        return held_out

    def fingerprint(self) -> str:
        """16 hex digits that name the pieces: their files' names, their sizes and their times, in order."""
        listed = "".join(
            f"{piece.path.name}\0{piece.video.height}x{piece.video.width}\0{piece.start}\0{piece.frames}\n"
            for piece in self._pieces
        )
        return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._pieces)

    def draw(self, size: int, random: np.random.Generator) -> Clip:
        """Draw a clip: a window that stands, in a video that runs forwards or backwards, mirrored and turned.

        Each frame of the videos is about as likely to be in it as any other.

        Args:
            size: edge of the window in HR pixels; of smaller videos it is as large as they are.
            random: decides everything.

        Returns:
            (T, H, W, 3) uint8 RGB, H and W at most ``size``, without a cut; not to be written to.

        Raises:
            TrainingDataError: no video has frames enough.
        """
        number = int(np.searchsorted(self._ends, random.integers(self._ends[-1]), side="right"))
        runs = self._stand_in(number)
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

    def _stand_in(self, number: int) -> list[Clip]:
        """The runs of frames of the first piece from ``number`` on, and from the start again, that has any."""
        for found in chain(range(number, len(self)), range(number)):
            if runs := self._runs(self._pieces[found]):
                return runs
        raise TrainingDataError(f"none of the videos has {self._frames} frames without a cut. Choose other videos.")

    def _runs(self, piece: _Piece) -> list[Clip]:
        """The runs of a piece between cuts that are long enough; none where it is damaged."""
        runs = self._cache.get(piece)
        if runs is not None:
            return runs
        words = f"{piece.path} has no {self._frames} frames without a cut from tick {piece.start or 0} on"
        try:
            decoded = _decode(piece)
            runs = [run for run in _between_cuts(decoded) if len(run) >= self._frames] if len(decoded) else []
        except InputError as exc:
            if isinstance(exc.__cause__, OSError) and not isinstance(exc.__cause__, LibavError):
                raise  # of a disk that has gone: no reason to go on without
            runs, words = [], str(exc)
        with self._lock:
            size = sum(run.nbytes for run in runs)
            if piece not in self._cache and self._cached_bytes[0] + size <= self.cache_bytes:
                self._cache[piece] = runs
                self._cached_bytes[0] += size
                if not runs:
                    logger.warning("left out, another takes its place: %s", words)
        return runs


def _pieces(path: Path, min_size: int, length: int) -> list[_Piece] | str:
    """The pieces of a video of ``length`` frames or more, or why there are none."""
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
    """All frames of a piece, reduced."""
    _, layout = decoded_format(piece.video)
    colour = colour_of(piece.video, piece.video.height)
    damage = Damage()  # of a piece nobody need be told
    frames = read_frames(piece.path, piece.video, start=piece.start, end=piece.end, deinterlace="auto", damage=damage)
    with closing(frames):
        rgb = [_rgb(frame, layout, colour, piece.reduction) for frame in islice(frames, LONGEST_PIECE)]
    return np.stack(rgb) if rgb else np.empty((0, 0, 0, 3), np.uint8)


def _rgb(frame: Frame, layout: PixelLayout, colour: ColourSpec, reduction: int) -> Codes:
    """(H, W, 3)."""
    rgb = planes_to_rgb([torch.from_numpy(plane[None].copy()) for plane in frame.planes], layout, colour)
    codes = cast(Codes, rgb_to_codes(rgb)[0])
    if reduction > 1:
        height, width = (length // reduction for length in codes.shape[:2])
        codes = codes[: height * reduction, : width * reduction]
        codes = cast(Codes, cv2.resize(codes, (width, height), interpolation=cv2.INTER_AREA))
    return codes


def _between_cuts(clip: Clip) -> list[Clip]:
    """A clip taken apart where the picture changes all at once."""
    small = np.stack([cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA) for frame in clip]).astype(np.float32)
    steps = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
    padded = np.pad(steps, 1, mode="reflect") if len(steps) > 1 else np.pad(steps, 1)
    around = np.maximum(padded[:-2], padded[2:])
    cuts = np.flatnonzero((steps > CUT) & (steps > 3 * around)) + 1
    return list(np.split(clip, cuts))
