"""Pair the frames of clips: by their times, or in step.

Two clips that are measured are paired by time, not by frame number: a dropped frame changes all later numbers, and
every figure with them, but no time. A clip that shows a part of its source, as its metadata say, is placed on the clock
of the source. Then: reading the headers, times and RGB frames of a clip; and decoding several clips in step, with the
choice of frames to show by number, by time or at even spacing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice, pairwise, zip_longest
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vsr.errors import InputError, UsageError, setting
from vsr.evaluation.options import Align
from vsr.imaging.colour import ColourSpec, PixelLayout, planes_to_rgb, rgb_to_codes
from vsr.imaging.pictures import Picture
from vsr.media.clip import UPRIGHT, ClipInfo, VideoInfo, colour_of, orientation_of
from vsr.media.probe import PacketIndex, index_packets, open_clip, probe
from vsr.media.provenance import read_provenance
from vsr.media.reader import Frame, decoded_format, read_frames

ROUNDING = Fraction(1, 1000)
"""Seconds by which containers round times: Matroska and FLV count milliseconds."""

SAME_RATE = Fraction(1, 100)
"""Clips whose typical intervals differ by no more, as a share, have one frame rate; 24 and 23.976 differ by 1/1000."""

MAX_NAMED = 8
"""Frames without a partner that a message lists one by one."""


@dataclass(frozen=True)
class Pairing:
    """The frames of two clips that show the same moments.

    Attributes:
        pairs: (number in the reference, number in the output) from 0, both ascending.
        reference_unpaired: numbers of the reference's frames without a partner.
        output_unpaired: numbers of the output's frames without a partner.
        same_rate: whether both clips have the same frame rate.
        largest_offset: largest distance between the two frames of a pair, in seconds.
    """

    pairs: tuple[tuple[int, int], ...]
    reference_unpaired: tuple[int, ...]
    output_unpaired: tuple[int, ...]
    same_rate: bool
    largest_offset: Fraction


def pair_times(reference: Sequence[Fraction], output: Sequence[Fraction]) -> Pairing:
    """Pair the frames of two clips by their times.

    Two frames are a pair if each is the other's nearest in time (the earlier of two equally near) and they are apart
    by at most ``ROUNDING`` or, if both clips have the same frame rate, by less than half the interval to the nearest
    neighbour of either in its own clip. Clips of different rates get no such tolerance: a frame that is half an
    interval away shows another moment.

    Args:
        reference: times of its frames in seconds, strictly ascending.
        output: times of its frames in seconds, strictly ascending.
    """
    same_rate = _have_same_rate(reference, output)
    to_output, to_reference = _nearest(reference, output), _nearest(output, reference)
    pairs, largest = [], Fraction(0)
    for first, second in enumerate(to_output):
        if to_reference[second] != first:
            continue
        apart = abs(reference[first] - output[second])
        if apart <= ROUNDING or (same_rate and apart < min(_reach(reference, first), _reach(output, second))):
            pairs.append((first, second))
            largest = max(largest, apart)
    paired = {first for first, _ in pairs}, {second for _, second in pairs}
    return Pairing(
        pairs=tuple(pairs),
        reference_unpaired=tuple(index for index in range(len(reference)) if index not in paired[0]),
        output_unpaired=tuple(index for index in range(len(output)) if index not in paired[1]),
        same_rate=same_rate,
        largest_offset=largest,
    )


def pair_parts(reference: Sequence[Fraction], output: Sequence[Fraction]) -> Pairing:
    """Pair the frames of two clips of which one shows a part of the other, or both show parts that overlap.

    As ``pair_times``, but frames before the start and after the end of what both show are not without a partner.
    """
    found = pair_times(reference, output)
    if not found.pairs:
        return found
    (first, own_first), (last, own_last) = found.pairs[0], found.pairs[-1]
    return replace(
        found,
        reference_unpaired=tuple(number for number in found.reference_unpaired if first < number < last),
        output_unpaired=tuple(number for number in found.output_unpaired if own_first < number < own_last),
    )


def require_pairs(
    pairing: Pairing,
    reference: tuple[Path, Sequence[Fraction]],
    output: tuple[Path, Sequence[Fraction]],
    max_unpaired: float,
) -> None:
    """Refuse to compare clips that do not belong together.

    Args:
        pairing: the pairs of the two clips.
        reference: its file and times.
        output: its file and times.
        max_unpaired: largest share, 0..1, of either clip's frames that may be without a partner. Of clips of different
            frame rates only the frames before the start and after the end of the other count.

    Raises:
        InputError: there are no pairs, or too few.
    """
    (reference_path, reference_times), (output_path, output_times) = reference, output
    if not pairing.pairs:
        raise InputError(
            f"no frame of {output_path} has the time of a frame of {reference_path}: their times are "
            f"{_span(output_times)} and {_span(reference_times)}; "
            f"{setting('align', 'start')} compares both from their first frames."
        )
    for path, times, unpaired, other, other_times in (
        (reference_path, reference_times, pairing.reference_unpaired, output_path, output_times),
        (output_path, output_times, pairing.output_unpaired, reference_path, reference_times),
    ):
        compared = len(pairing.pairs) + len(unpaired)
        if not pairing.same_rate:
            unpaired = _outside(unpaired, times, other_times)
        if len(unpaired) > max_unpaired * compared:
            raise InputError(
                f"{len(unpaired)} of {compared} frames of {path} have no partner in {other} "
                f"({name_frames(unpaired, times)}); {setting('max_unpaired')} allows more than "
                f"{100 * max_unpaired:g} %."
            )


def _outside(numbers: Sequence[int], times: Sequence[Fraction], others: Sequence[Fraction]) -> tuple[int, ...]:
    """Return the numbers of the frames that are shown before the first of ``others``, or a frame after the last."""
    step = max(_typical_interval(times), _typical_interval(others))
    return tuple(number for number in numbers if not others[0] - step < times[number] < others[-1] + step)


def name_frames(numbers: Sequence[int], times: Sequence[Fraction]) -> str:
    """Return the numbers, from 0, and times of frames as text; of many frames only the first few."""
    named = ", ".join(f"{number} at {float(times[number]):.3f} s" for number in numbers[:MAX_NAMED])
    return f"{'frame' if len(numbers) == 1 else 'frames'} {named}{', ...' if len(numbers) > MAX_NAMED else ''}"


def _span(times: Sequence[Fraction]) -> str:
    return f"{float(times[0]):.3f} to {float(times[-1]):.3f} s" if times else "nothing"


def _have_same_rate(first: Sequence[Fraction], second: Sequence[Fraction]) -> bool:
    intervals = [_typical_interval(times) for times in (first, second)]
    shorter, longer = min(intervals), max(intervals)
    return shorter == 0 or longer - shorter <= SAME_RATE * shorter


def _typical_interval(times: Sequence[Fraction]) -> Fraction:
    """Return the mean of the intervals near the median, which ignores rounding and gaps; 0 for a single frame."""
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    if not gaps:
        return Fraction(0)
    median = gaps[len(gaps) // 2]
    near = [gap for gap in gaps if median / 2 <= gap <= median * 3 / 2]
    return sum(near, Fraction(0)) / len(near)


def _nearest(times: Sequence[Fraction], others: Sequence[Fraction]) -> list[int]:
    """Return for each time the index of the nearest of ``others`` (the earlier of two equally near); empty if none."""
    found: list[int] = []
    if not others:
        return found
    place = 0
    for time in times:
        while place + 1 < len(others) and abs(others[place + 1] - time) < abs(others[place] - time):
            place += 1
        found.append(place)
    return found


def _reach(times: Sequence[Fraction], index: int) -> Fraction:
    """Return half the interval to the nearest neighbour; 0 for a single frame."""
    gaps = [later - earlier for earlier, later in pairwise(times[max(0, index - 1) : index + 2])]
    return min(gaps, default=Fraction(0)) / 2


@dataclass(frozen=True)
class Clip:
    """A clip, as its headers describe it.

    Attributes:
        path: the file.
        video: the stream that is compared.
        layout: layout of the decoded planes.
        colour: matrix and range of their code values.
        part_start: where the part that it shows begins, in seconds from the start of its source; None: it shows the
            whole, or its metadata do not say so.
    """

    path: Path
    video: VideoInfo
    layout: PixelLayout
    colour: ColourSpec
    part_start: Fraction | None = None

    @property
    def size(self) -> str:
        """Columns and rows as coded, as text."""
        return f"{self.video.width}x{self.video.height}"


@dataclass(frozen=True)
class Schedule:
    """When the frames of a clip are shown.

    Attributes:
        times: exact times in seconds, strictly ascending, one for each decoded frame; of a part of a source on the
            source's clock.
        display_matrix: the container's transformation for display; None if there is none.
    """

    times: tuple[Fraction, ...]
    display_matrix: tuple[int, ...] | None


def identify(path: Path) -> Clip:
    """Read the headers of a clip.

    Raises:
        InputError: the file is missing, damaged, empty, without video, of an unsupported pixel format, or a picture.
    """
    with open_clip(path) as container:
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            models, data = setting("models", flag="--model"), setting("data")
            raise InputError(f"{path} is a picture, not a clip; pictures are compared with {models} and {data}.")
    video = probe(path).video
    _, layout = decoded_format(video)
    return Clip(path, video, layout, colour_of(video, video.height), read_part_start(path))


def read_part_start(path: Path) -> Fraction | None:
    """Return where the part that a clip shows begins, in seconds from the start of its source.

    Returns:
        None for a clip that shows the whole of its source, or whose metadata do not say that it shows a part.
    """
    made = read_provenance(path)
    if made is None or (not made.start and made.end is None):
        return None
    return made.start or Fraction(0)


def read_schedule(clip: Clip, progress: Callable[[int], None] | None = None) -> Schedule:
    """Decode a clip to get the times of its frames.

    Packets would be faster to read, but packets and frames differ because of edit lists, hidden frames, fields and
    damage, and the frames are what is compared.

    Args:
        clip: the clip to read.
        progress: called with the number of frames read.

    Raises:
        InputError: nothing can be decoded, or the frames change their size.
    """
    times: list[Fraction] = []
    with closing(read_frames(clip.path, clip.video)) as frames:
        for frame in frames:
            times.append(frame.pts * clip.video.time_base + (clip.part_start or 0))
            if progress is not None:
                progress(len(times))
    return Schedule(tuple(times), clip.video.display_matrix)


def read_rgb(clip: Clip, first: int = 0) -> Generator[Tensor, None, None]:
    """Yield all frames from number ``first`` on as RGB (1, 3, H, W) float32, with the clip's own matrix and range.

    Black is 0 and white is 1; nothing is clipped, and depths above 8 bits are kept.
    """
    with closing(read_frames(clip.path, clip.video)) as frames:
        for frame in islice(frames, first, None):
            yield to_rgb(frame, clip.layout, clip.colour)


def to_rgb(frame: Frame, layout: PixelLayout, colour: ColourSpec) -> Tensor:
    """Convert a decoded frame to RGB (1, 3, H, W) float32, not clipped."""
    return planes_to_rgb([torch.from_numpy(plane[None].copy()) for plane in frame.planes], layout, colour)


@contextmanager
def warnings_once() -> Iterator[None]:
    """Suppress duplicate warnings of the reader while the context is open: clips are decoded twice."""
    reader = logging.getLogger(read_frames.__module__)
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in seen
        seen.add(message)
        return new

    reader.addFilter(is_new)
    try:
        yield
    finally:
        reader.removeFilter(is_new)


logger = logging.getLogger(__name__)

TYPED_ROUNDING = Fraction(1, 10**6)
"""Seconds by which a time given in decimals may be before the frame that it means."""


SAME_DURATION = Fraction(1, 50)
"""Share of the longer duration, besides a frame, by which the durations of clips of one source may differ."""


@dataclass(frozen=True)
class Placement:
    """Where the frames of a clip lie on the clock that all clips of a comparison share.

    Attributes:
        shift: seconds from the clip's timestamps to the shared clock.
        num_packets: number of its packets that are compared, one a frame in most clips.
        start: timestamp of the first frame that is compared, in ticks; None: its first.
        end: timestamp at which the comparison ends, in ticks; None: after its last frame.
    """

    shift: Fraction
    num_packets: int
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class _Extent:
    """A clip, the timestamps of its packets, and the part of its source that it shows."""

    clip: ClipInfo
    index: PacketIndex
    part_start: Fraction | None

    @property
    def step(self) -> Fraction:
        """Duration of a frame in seconds."""
        rate = self.clip.video.average_rate
        return 1 / rate if rate else Fraction(1, 25)

    @property
    def first(self) -> Fraction:
        """Time of the first frame on the clock of the source, in seconds."""
        stamps = self.index.timestamps
        first = int(stamps[0]) if len(stamps) else self.clip.video.first_pts or 0
        return first * self.clip.video.time_base + (self.part_start or 0)

    @property
    def last(self) -> Fraction:
        """Time of the last frame on the clock of the source; estimated where the packets do not determine it."""
        stamps = self.index.timestamps
        if len(stamps):
            return int(stamps[-1]) * self.clip.video.time_base + (self.part_start or 0)
        return self.first + (self.index.num_frames - 1) * self.step

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        return self.last - self.first + self.step

    def nearest(self, at: Fraction) -> int:
        """Return the timestamp, in ticks, of the frame nearest to a time on the clock of the source."""
        wanted, stamps = (at - (self.part_start or 0)) / self.clip.video.time_base, self.index.timestamps
        if not len(stamps):
            return round(wanted)
        place = int(np.searchsorted(stamps, float(wanted)))
        return min((int(stamp) for stamp in stamps[max(0, place - 1) : place + 1]), key=lambda it: abs(it - wanted))


def place_clips(clips: Sequence[ClipInfo], align: Align = "time") -> tuple[Placement, ...]:
    """Place clips on one clock, by the parts of the source that they show according to their metadata.

    Args:
        clips: the clips of a comparison.
        align: ``time``: by their times, on the clock of the source for those that show a part of it; ``start``: by
            their first frames.

    Returns:
        A placement for each clip, which leaves out the frames that another clip does not show.

    Raises:
        InputError: the clips show no common part, or their durations differ and nothing says which part they show.
    """
    extents = [_Extent(clip, index_packets(clip.path, clip.video), read_part_start(clip.path)) for clip in clips]
    if align == "start":
        firsts = [extent.first - (extent.part_start or 0) for extent in extents]
        return tuple(
            Placement(firsts[0] - first, extent.index.num_frames)
            for first, extent in zip(firsts, extents, strict=True)
        )
    _require_equal_durations([extent for extent in extents if extent.part_start is None])
    if all(extent.part_start is None for extent in extents):
        return tuple(Placement(Fraction(0), extent.index.num_frames) for extent in extents)
    return _place_parts(extents)


def _place_parts(extents: Sequence[_Extent]) -> tuple[Placement, ...]:
    """Return the placements of clips of which at least one shows a part of the source."""
    latest = max(extents, key=lambda extent: extent.first)
    earliest = min(extents, key=lambda extent: extent.last)
    if latest.first > earliest.last + ROUNDING:
        raise InputError(
            f"{latest.clip.path} begins at {float(latest.first):.3f} s of the source and {earliest.clip.path} ends at "
            f"{float(earliest.last + earliest.step):.3f} s: they show no common part; {setting('align', 'start')} "
            "compares both from their first frames."
        )
    placements = []
    for extent in extents:
        start, end = extent.nearest(latest.first), extent.nearest(earliest.last) + 1
        count = len(extent.index.between(start, end)) or round((earliest.last - latest.first) / extent.step) + 1
        placements.append(Placement(extent.part_start or Fraction(0), count, start, end))
    return tuple(placements)


def _require_equal_durations(extents: Sequence[_Extent]) -> None:
    """Refuse clips of unequal durations, of which nothing says which part of the source they show."""
    for one in extents[:1]:
        for other in extents[1:]:
            shorter, longer = sorted((one, other), key=lambda extent: extent.duration)
            if longer.duration - shorter.duration > SAME_DURATION * longer.duration + max(one.step, other.step):
                raise InputError(
                    f"{shorter.clip.path} lasts {float(shorter.duration):.3f} s and {longer.clip.path} "
                    f"{float(longer.duration):.3f} s, and nothing in them says which part of the source they show; "
                    f"{setting('align', 'start')} compares both from their first frames."
                )


@dataclass(frozen=True)
class Instant:
    """The same moment in all clips, decoded but not yet converted.

    Attributes:
        number: number of the frames, from 0, counted from the first that all clips show.
        time_seconds: their time: the timestamp in the first clip, on the clock of the source if a clip shows a part.
        duration_seconds: how long they are shown; from the frame rate if the first clip does not state it.
        frames: one frame of each clip.
    """

    number: int
    time_seconds: Fraction
    duration_seconds: Fraction
    frames: tuple[Frame, ...]


def iterate_in_step(
    clips: Sequence[ClipInfo], placements: Sequence[Placement] | None = None
) -> Generator[Instant, None, None]:
    """Decode clips together, up to the end of the shortest, with a warning if others are longer.

    Args:
        clips: the clips.
        placements: where they lie on one clock; None: at their own timestamps.

    Raises:
        InputError: frames of the same number are more than half a frame apart, or a clip is damaged.
    """
    first = clips[0].video
    step = 1 / first.average_rate if first.average_rate else Fraction(1, 25)
    placed = placements or [Placement(Fraction(0), 0)] * len(clips)
    with ExitStack() as stack:
        readers = [
            stack.enter_context(closing(read_frames(clip.path, clip.video, start=place.start, end=place.end)))
            for clip, place in zip(clips, placed, strict=True)
        ]
        for number, frames in enumerate(zip_longest(*readers)):
            ended = [clip.path for clip, frame in zip(clips, frames, strict=True) if frame is None]
            if ended:
                logger.warning("%s ends after %d frames; the comparison ends there.", ended[0], number)
                return
            times = [
                frame.pts * clip.video.time_base + place.shift
                for clip, frame, place in zip(clips, frames, placed, strict=True)
            ]
            duration = frames[0].duration * first.time_base or step
            for clip, at in zip(clips, times, strict=True):
                if abs(at - times[0]) > duration / 2:
                    raise InputError(
                        f"{clip.path} and {clips[0].path} are not in step: frame {number} is at {float(at):.3f} s "
                        f"and at {float(times[0]):.3f} s; compare clips of one source, with equal timestamps."
                    )
            yield Instant(number, times[0], duration, frames)


def at_numbers(instants: Iterator[Instant], numbers: Collection[int]) -> Iterator[Instant]:
    """Yield the instants with the given numbers, in order.

    Raises:
        UsageError: there are fewer frames.
    """
    number, last = -1, max(numbers)
    for instant in instants:
        number = instant.number
        if number in numbers:
            yield instant
        if number == last:
            return
    raise UsageError(f"there is no frame {last}: the clip has {number + 1} frames, counted from 0.")


def at_times(instants: Iterator[Instant], times: Collection[float]) -> Iterator[Instant]:
    """Yield the instants shown at the given times, in order, each of them once.

    Raises:
        UsageError: a time is outside of the clip.
    """
    wanted = deque(sorted(Fraction(at) + TYPED_ROUNDING for at in times))
    shown: Instant | None = None
    for instant in chain(instants, [None]):
        if shown is not None:
            until = instant.time_seconds if instant else shown.time_seconds + shown.duration_seconds
            is_wanted = wanted[0] < until
            while wanted and wanted[0] < until:
                wanted.popleft()
            if is_wanted:
                yield shown
            if not wanted:
                return
        elif instant is not None and wanted[0] < instant.time_seconds:
            raise UsageError(
                f"{float(wanted[0]):.3f} s is before the start of the clip, at {float(instant.time_seconds):.3f} s."
            )
        shown = instant or shown
    end = shown.time_seconds + shown.duration_seconds if shown else Fraction(0)
    raise UsageError(f"{float(wanted[0]):.3f} s is after the end of the clip, at {float(end):.3f} s.")


def at_even_spacing(instants: Iterator[Instant], count: int, num_packets: int) -> Iterator[Instant]:
    """Yield at most ``count`` instants, each in the middle of an equal share of the clip.

    The clip's length is its number of packets, as counting frames would mean decoding them. Damage and fields make
    frames fewer than packets: a warning then reports the missing instants, and at least one instant is yielded.

    Args:
        instants: all instants of the clip, in order.
        count: how many to yield.
        num_packets: the expected number of instants.
    """
    count = max(1, min(count, num_packets))
    wanted = {(2 * index + 1) * num_packets // (2 * count) for index in range(count)}
    found, instant = 0, None
    for instant in instants:
        if instant.number in wanted:
            yield instant
            found += 1
        if found == len(wanted):
            return
    if instant is not None and not found:
        yield instant
    logger.warning("fewer frames could be decoded than the clip has packets: %d are shown.", max(1, found))


def to_picture(frame: Frame, video: VideoInfo) -> Picture:
    """Convert a decoded frame to RGB, rounded to 8 bits and rotated as the container states."""
    _, layout = decoded_format(video)
    rgb = to_rgb(frame, layout, colour_of(video, video.height))
    upright = (orientation_of(video.display_matrix) or UPRIGHT).upright(rgb)
    return cast(Picture, rgb_to_codes(upright)[0])
