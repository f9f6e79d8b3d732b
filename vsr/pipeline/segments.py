"""Cut a clip into segments, which are upscaled, resumed, retried and sent to workers as a unit. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from vsr.media.formats import Timing
from vsr.media.probe import PacketIndex, Timestamps
from vsr.media.reader import Damage

MIN_SECONDS, MAX_SECONDS = 3, 6
"""Duration of a segment: up to the first keyframe in this range, or to the middle of the range if there is none."""

PICTURES = 100
"""Number of pictures in a segment of a sequence."""

FEWEST_FRAMES = 8
"""Frames of a segment at least, since each segment begins with a keyframe, which is large."""

STATE_WARM_UP, STEADY_WARM_UP = 16, 24
"""Warm-up frames of a segment, for a generator with a state and for a steadied one. In nearly still clips the change
across the cut was then 1.00 and 1.02 times the change between the frames beside it (with 8 frames 1.01 and 2.65)."""

WARM_SECONDS = 6, 12
"""As ``MIN_SECONDS`` and ``MAX_SECONDS``, for segments with a warm-up."""

WARM_SHARE = 4
"""A segment has at least this many times the frames of its warm-up."""

LEAD_IN = 4
"""Frames that a deinterlacer needs before the first requested one."""


@dataclass(frozen=True)
class Segment:
    """A run of consecutive frames. Timestamps are in ticks of the stream.

    Attributes:
        number: its number, from 0.
        first: the first timestamp to upscale; None: from the beginning. Frames before the start are upscaled as a
            warm-up for later ones, and dropped.
        start: the first timestamp of the segment; None: from the beginning.
        end: the first timestamp after it; None: to the end.
        entry: the timestamp of the keyframe to decode from; None: the last one before the start.
        num_frames: number of its frames; None if that is unknown before decoding.
        earlier_entry: the keyframe before the entry, to decode from if the segment turns out to be damaged: lost parts
            are concealed from the frames before, and a decoder learns on its way how far frames are reordered. None if
            the entry is the beginning.
        num_warm_up: number of frames from ``first`` to the start; 0 if that is unknown before decoding.
    """

    number: int
    first: int | None
    start: int | None
    end: int | None
    entry: int | None = None
    num_frames: int | None = None
    earlier_entry: int | None = None
    num_warm_up: int = 0

    def warms_up_at(self, timestamp: int) -> bool:
        """Whether a frame is before the segment's start, and only upscaled as a warm-up."""
        return self.start is not None and timestamp < self.start


@dataclass(frozen=True)
class FinishedSegment:
    """The record of a finished segment.

    Attributes:
        number: the segment's number.
        frames: number of frames that were read and written.
        repeated: number of them that were equal to the one before, whose result was reused.
        damage: the damage of its part of the source.
        packets: packets of the encoded file, in decoding order.
        overflowed: number of frames that overflowed in half precision, and were computed in float32.
        files: the digest of each file in its folder, by name; empty until the folder is sealed.
    """

    number: int
    frames: int
    repeated: int
    damage: Damage
    packets: tuple[Timing, ...] = ()
    overflowed: int = 0
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> FinishedSegment:
        """Build a record from what ``dataclasses.asdict`` returned, after conversion to JSON and back.

        Raises:
            TypeError, KeyError: the fields are not those of a record.
        """
        damage, packets = Damage(**fields["damage"]), tuple(Timing(*timing) for timing in fields["packets"])
        return cls(**fields | {"damage": damage, "packets": packets})


def cut_by_time(
    index: PacketIndex,
    time_base: Fraction,
    *,
    start: int | None = None,
    end: int | None = None,
    lead_in: int = 0,
    warm_up: int = 0,
    seconds: tuple[Fraction | int, Fraction | int] = (MIN_SECONDS, MAX_SECONDS),
) -> list[Segment]:
    """Cut a clip into segments of some seconds that begin at keyframes if possible, so that no frame is decoded twice.

    With a warm-up the whole clip is cut, and the segments between start and end are returned: so a frame is upscaled
    after the same frames, whichever part of the clip is requested.

    Args:
        index: the packets; without timestamps the clip is one segment.
        time_base: seconds per tick.
        start: the first requested timestamp; None: from the beginning.
        end: the first timestamp after the requested ones; None: to the end.
        lead_in: number of frames before a segment that have to be decoded.
        warm_up: number of frames before a segment that have to be upscaled.
        seconds: the shortest and the longest duration of a segment.
    """
    stamps = index.timestamps if warm_up else index.between(start, end)
    wanted = len(index.between(start, end))
    if not wanted:
        whole = start is None and end is None
        count = index.num_frames if whole else 0 if len(index.timestamps) else None
        return [Segment(0, None if warm_up else start, start, end, None, count)]
    least, most = (round(length / time_base) for length in seconds)
    cuts = [0]
    while (place := _next_cut(stamps, index.keyframes, cuts[-1], least, most)) is not None:
        cuts.append(place)
    skipped = len(index.between(None, start)) if warm_up and start is not None else 0
    segments: list[Segment] = []
    for cut, following in zip(cuts, [*cuts[1:], len(stamps)], strict=True):
        begins, ends = max(cut, skipped), min(following, skipped + wanted)
        if begins >= ends:
            continue
        warm_start = max(0, cut - warm_up) if warm_up else begins
        from_tick = start if begins == skipped else int(stamps[begins])
        to_tick = end if ends == skipped + wanted else int(stamps[ends])
        first = from_tick if warm_start == begins else int(stamps[warm_start]) if warm_start else None
        entry = None if first is None else index.entry(_frames_before(index, first, lead_in))
        earlier = None if entry is None or entry <= index.timestamps[0] else index.entry(entry - 1)
        segments.append(
            Segment(len(segments), first, from_tick, to_tick, entry, ends - begins, earlier, begins - warm_start)
        )
    return segments


def halvings(frames: int, frame_seconds: float, most_seconds: float, fewest: int = FEWEST_FRAMES) -> int:
    """Return how often to halve segments to be computed in ``most_seconds`` each, with ``fewest`` frames at least.

    Args:
        frames: number of frames in a segment before halving.
        frame_seconds: computing time per frame.
        most_seconds: computing time per segment at most.
        fewest: number of frames in a segment at least.
    """
    count = 0
    while frames * frame_seconds > most_seconds * 2**count and frames >= 2 * fewest * 2**count:
        count += 1
    return count


def _next_cut(stamps: Timestamps, keyframes: Timestamps, place: int, least: int, most: int) -> int | None:
    """Return the index of the first frame after the segment that begins at ``place``; None: it ends with the clip."""
    begins = stamps[place]
    if stamps[-1] - begins < most:
        return None
    latest = min(begins + most, stamps[-1] - least // 3)  # the rest has more than a frame or two
    found = keyframes[(keyframes >= begins + least) & (keyframes <= latest)]
    ends = found[0] if len(found) else begins + (least + most) // 2
    after = max(int(np.searchsorted(stamps, ends)), place + 1)
    return after if after < len(stamps) else None


def _frames_before(index: PacketIndex, timestamp: int, frames: int) -> int:
    place = int(np.searchsorted(index.timestamps, timestamp))
    return int(index.timestamps[max(0, place - frames)])


def cut_by_number(
    count: int, *, start: int | None = None, end: int | None = None, warm_up: int = 0, halved: int = 0
) -> list[Segment]:
    """Cut pictures, whose timestamps are their numbers, into segments of ``PICTURES``, halved ``halved`` times.

    A warm-up is treated as in ``cut_by_time``.
    """
    pictures = max(1, PICTURES >> halved)
    first = start or 0
    after = max(first, count if end is None else min(end, count))
    segments: list[Segment] = []
    for at in range(0 if warm_up else first, max(after, first + 1), pictures):
        begins, ends = max(at, first), min(at + pictures, after)
        if begins < ends or not (warm_up or segments):
            warm_start = max(0, at - warm_up) if warm_up else begins
            segments.append(
                Segment(len(segments), warm_start, begins, ends, None, ends - begins, None, begins - warm_start)
            )
    return segments
