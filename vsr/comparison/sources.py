"""Open the files that are compared, and read panels that show the same moment."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vsr.comparison.options import CompareOptions, moments
from vsr.errors import InputError, UsageError, setting
from vsr.evaluation.pairing import (
    Instant,
    Placement,
    at_even_spacing,
    at_numbers,
    at_times,
    iterate_in_step,
    place_clips,
    to_picture,
)
from vsr.imaging.pictures import ENDINGS, Picture, read_picture
from vsr.imaging.resize import resize_bicubic
from vsr.media.clip import ClipInfo
from vsr.media.probe import probe
from vsr.media.provenance import Provenance, read_provenance

logger = logging.getLogger(__name__)

Role = Literal["lr", "bicubic", "candidate", "hr"]


@dataclass(frozen=True)
class Source:
    """A file that is compared.

    Attributes:
        path: the file.
        role: its role in the comparison.
        label: the label of its panel; one that was not given is followed there by the size.
        clip: the clip in it; None for a picture.
        is_labelled: whether the label was given.
    """

    path: Path
    role: Role
    label: str
    clip: ClipInfo | None
    is_labelled: bool = False


@dataclass(frozen=True)
class Panel:
    """One of the pictures that are shown side by side.

    Attributes:
        label: one printable line.
        role: its role in the comparison.
        picture: (H, W, 3) uint8 RGB, every pixel as it was read.
        factor: by which the picture is enlarged in height and width; 1 except for LR.
    """

    label: str
    role: Role
    picture: Picture
    factor: int = 1

    @property
    def shown(self) -> Picture:
        """The picture at the size of its panel, with repeated pixels."""
        return self.picture.repeat(self.factor, 0).repeat(self.factor, 1) if self.factor > 1 else self.picture


@dataclass(frozen=True)
class Moment:
    """All panels at one moment, of equal size.

    Attributes:
        panels: in the order LR, bicubic, candidates, HR.
        frame: number of the frame, as in ``Instant``; None for pictures.
        time_seconds: its time, as in ``Instant``; None for pictures.
        duration_seconds: how long it is shown; 0 for pictures.
        stamps: the timestamp of the frame in each clip, in the clip's ticks; empty for pictures.
    """

    panels: tuple[Panel, ...]
    frame: int | None = None
    time_seconds: Fraction | None = None
    duration_seconds: Fraction = Fraction(0)
    stamps: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of each panel."""
        height, width, _ = next(panel.picture.shape for panel in self.panels if panel.role == "candidate")
        return height, width

    @property
    def caption(self) -> str:
        """Time and number of the frame; empty for pictures."""
        return "" if self.time_seconds is None else f"{float(self.time_seconds):.3f} s, frame {self.frame}"


@dataclass(frozen=True)
class Sources:
    """The files of a comparison, all of one kind: LR, candidates, HR.

    Attributes:
        files: in the order of the panels. The timestamps are those of the first clip: LR, if given.
        bicubic: whether the interpolation of LR is one of the panels.
        placements: where each clip lies on the clock that all share; empty for pictures.
    """

    files: tuple[Source, ...]
    bicubic: bool
    placements: tuple[Placement, ...] = ()

    @property
    def clips(self) -> tuple[ClipInfo, ...]:
        """The clips in the files; empty for pictures."""
        return tuple(file.clip for file in self.files if file.clip is not None)

    @property
    def num_frames_estimated(self) -> int:
        """Number of frames that all clips show; 1 for pictures."""
        return min((place.num_packets for place in self.placements), default=1)

    def moments(self, options: CompareOptions, num_frames: int) -> Iterator[Moment]:
        """Yield the moments that the options name, else ``num_frames`` of them at even spacing.

        Raises:
            UsageError: a frame or a time is outside of the clip, or given for pictures.
            InputError: a file is damaged, of another size, or out of step.
        """
        if not self.clips:
            if options.times or options.frames or options.num_frames:
                raise UsageError(f"{moments()} are for clips, and these are pictures.")
            yield self._moment([read_picture(file.path) for file in self.files])
            return
        for clip in self.clips:
            if clip.video.sample_aspect_ratio not in (None, 1):
                logger.warning("%s has pixels that are not square; they are shown as square ones.", clip.path)
        with closing(self.instants()) as instants:
            if options.times:
                chosen = at_times(instants, options.times)
            elif options.frames:
                chosen = at_numbers(instants, options.frames)
            else:
                chosen = at_even_spacing(instants, num_frames, self.num_frames_estimated)
            yield from map(self.moment_of, chosen)

    def instants(self) -> Generator[Instant, None, None]:
        """Yield every frame of the clips, not yet converted.

        Raises:
            InputError: a file is damaged, of another size, or out of step.
        """
        with closing(iterate_in_step(self.clips, self.placements)) as instants:
            first = next(instants)
            self.moment_of(first, warn=True)  # refuse unequal sizes before hours of decoding
            yield from chain([first], instants)

    def following(self, moment: Moment, seconds: float, most: int) -> Iterator[Moment]:
        """Yield a moment of clips again, and all that follow it within ``seconds``, but at most ``most``."""
        assert moment.frame is not None and moment.time_seconds is not None
        placed = [replace(place, start=at) for place, at in zip(self.placements, moment.stamps, strict=True)]
        with closing(iterate_in_step(self.clips, placed)) as instants:
            for instant in islice(instants, most):
                if instant.time_seconds >= moment.time_seconds + Fraction(seconds).limit_denominator(10**6):
                    return
                yield self.moment_of(replace(instant, number=moment.frame + instant.number))

    def moment_of(self, instant: Instant, *, warn: bool = False) -> Moment:
        """Return the panels of a frame; ``warn``: log warnings."""
        frames = zip(instant.frames, self.clips, strict=True)
        moment = self._moment([to_picture(frame, clip.video) for frame, clip in frames], warn=warn)
        return replace(
            moment, frame=instant.number, time_seconds=instant.time_seconds, duration_seconds=instant.duration_seconds,
            stamps=tuple(frame.pts for frame in instant.frames),
        )  # fmt: skip

    def _moment(self, pictures: Sequence[Picture], *, warn: bool = True) -> Moment:
        candidates = [number for number, file in enumerate(self.files) if file.role == "candidate"]
        first = candidates[0]
        height, width, _ = pictures[first].shape
        panels: list[Panel] = []
        factor = 1
        for file, picture in zip(self.files, pictures, strict=True):
            if file.role == "lr":
                factor = _factor(file.path, picture, self.files[first].path, (height, width))
                panels.append(Panel(f"{file.label}, {_size(picture)}", "lr", picture, factor))
                if self.bicubic:
                    enlarged = _bicubic(picture, height, width)
                    panels.append(Panel(f"bicubic, {_size(enlarged)}", "bicubic", enlarged))
                continue
            rest = (picture.shape[0] - height, picture.shape[1] - width)
            if file.role == "hr" and rest != (0, 0) and all(0 <= pixels < factor for pixels in rest):
                # Benchmarks crop HR to a multiple of the scale before they make LR from it.
                if warn:
                    logger.warning("%s is cut to %dx%d, the size of the candidates.", file.path, width, height)
                picture = np.ascontiguousarray(picture[:height, :width])
            elif rest != (0, 0):
                raise InputError(
                    f"{file.path} is {_size(picture)} and {self.files[first].path} is {width}x{height}: "
                    "nothing is rescaled, bring them to one size first."
                )
            label = file.label if file.is_labelled else f"{file.label}, {_size(picture)}"
            panels.append(Panel(label, file.role, picture))
        return Moment(tuple(panels))


def open_sources(options: CompareOptions) -> Sources:
    """Read the headers of the files.

    Raises:
        UsageError: both pictures and clips are given, a video is to be made of pictures, or pictures to be aligned.
        InputError: a clip cannot be read, or the clips do not show the same part of their source.
    """
    inputs = [*(path for path in (options.lr,) if path), *options.inputs, *(path for path in (options.hr,) if path)]
    pictures = [path for path in inputs if path.suffix.lower() in ENDINGS]
    clips = [path for path in inputs if path not in pictures]
    if pictures and clips:
        raise UsageError(f"{pictures[0]} is a picture and {clips[0]} is not: compare files of one kind.")
    if pictures and options.kind == "video":
        raise UsageError(f"pictures cannot become the video {options.target}: name a .png or a .html.")
    if pictures and options.align:
        raise UsageError(f"{setting('align')} is for clips, and these are pictures.")
    opened = {path: probe(path) if clips else None for path in inputs}
    named: list[tuple[Path, Role, str]] = []
    if options.lr is not None:
        named.append((options.lr, "lr", "LR"))
    labels = options.labels or (_origins(options.inputs) if clips else _names(options.inputs))
    named += [(path, "candidate", label) for path, label in zip(options.inputs, labels, strict=True)]
    if options.hr is not None:
        named.append((options.hr, "hr", "HR"))
    files = [
        Source(path, role, _printable(label), opened[path], role == "candidate" and bool(options.labels))
        for path, role, label in named
    ]
    bicubic = options.lr is not None if options.bicubic is None else options.bicubic
    placements = place_clips([clip for file in files if (clip := file.clip)], options.align or "time") if clips else ()
    return Sources(tuple(files), bicubic, placements)


def _origins(paths: Sequence[Path]) -> list[str]:
    """Return the model and the detail that made each clip, where known; with its name if others are equal."""
    names = _names(paths)
    made = [_origin(read_provenance(path)) for path in paths]
    return [
        name if not origin else origin if made.count(origin) == 1 else f"{name}: {origin}"
        for name, origin in zip(names, made, strict=True)
    ]


def _origin(made: Provenance | None) -> str:
    return "" if made is None else f"{made.model}, detail {made.detail:g}"


def _names(paths: Sequence[Path]) -> list[str]:
    """Return file names, with as many of their folders as make them different."""
    names: list[str] = []
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _printable(label: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in label)


def _size(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _factor(path: Path, lr: Picture, candidate: Path, size: tuple[int, int]) -> int:
    """Return how many times as large as LR the candidates are."""
    height, width = size
    factor: int = height // lr.shape[0]
    if factor < 1 or (lr.shape[0] * factor, lr.shape[1] * factor) != size:
        raise InputError(
            f"LR {path} is {_size(lr)} and {candidate} is {width}x{height}, which is not a multiple of it."
        )
    return factor


def _bicubic(lr: Picture, height: int, width: int) -> Picture:
    planes = torch.from_numpy(lr.copy()).permute(2, 0, 1).float()
    resized = resize_bicubic(planes, height, width).round_().clamp_(0, 255).to(torch.uint8)
    picture: Picture = resized.permute(1, 2, 0).contiguous().numpy()
    return picture
