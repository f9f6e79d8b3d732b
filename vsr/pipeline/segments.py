"""The segments of a clip: the unit in which it is upscaled, resumed, retried, and sent elsewhere. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from vsr.media.formats import Timing
from vsr.media.probe import PacketIndex, Timestamps
from vsr.media.reader import Damage

MIN_SECONDS, MOST_SECONDS = 3, 6
"""How long a segment is: to the first keyframe within, or to the middle of the two where there is none."""

PICTURES = 100
"""In a segment of a sequence of pictures."""

FEWEST_FRAMES = 8
"""In a segment, however long they take: each begins with a keyframe, which is large."""

STATE_WARM_UP, STEADY_WARM_UP = 16, 24
"""Frames before a segment by which a generator with a state, and a steadied one, come to know the scene. In clips that
stand nearly still the change across the cut was then 1.00 and 1.02 of that between the frames beside it (with 8 frames
1.01 and 2.65)."""

WARM_SECONDS = 6, 12
"""As ``MIN_SECONDS`` and ``MOST_SECONDS``, of segments that have to be warmed up."""

WARM_SHARE = 4
"""A segment has at least so many times the frames of its warm-up."""

LEAD_IN = 4
"""Frames that a deinterlacer has to see before the first that it is asked for."""


@dataclass(frozen=True)
class Segment:
    """A run of frames.

    Attributes:
        number: its place, from 0.
        first: the first timestamp to upscale, in ticks of the stream; None: from the beginning. What lies before the
            start is upscaled for what later frames take from it, and dropped.
        start: the first timestamp of the segment; None: from the beginning.
        end: the first timestamp behind it; None: to the end.
        entry: the timestamp of the keyframe to decode from; None: whichever lies before the start.
        num_frames: how many frames lie in it; None where only decoding tells.
        earlier_entry: the keyframe before the entry, to decode from where the segment turns out to be damaged: what is
            lost is made up from the frames before, and a decoder learns on its way how far frames are reordered. None
            where the entry is the beginning.
        num_warm_up: how many frames lie from ``first`` to the start; 0 where only decoding tells.
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
        """Whether a frame lies before the segment, and is upscaled for the sake of later ones alone."""
        return self.start is not None and timestamp < self.start


@dataclass(frozen=True)
class FinishedSegment:
    """What became of a segment.

    Attributes:
        number: of the segment.
        frames: how many were read and written.
        repeated: how many of them were equal to the one before, whose result was taken.
        damage: what was wrong with its part of the source.
        packets: of the encoded file, in the order of decoding.
        overflowed: how many frames half precision could not hold, and were computed in float32.
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
        """What ``dataclasses.asdict`` made, after a journey through JSON.

        Raises:
            TypeError, KeyError: it is something else.
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
    seconds: tuple[Fraction | int, Fraction | int] = (MIN_SECONDS, MOST_SECONDS),
) -> list[Segment]:
    """Segments of some seconds that begin at keyframes where there are any, so that no frame is decoded twice.

    With a warm-up the whole clip is cut, and of that is taken what lies between start and end: so a frame is upscaled
    by the same frames before it, whatever part of the clip is wanted.

    Args:
        index: of the packets; without timestamps everything is one segment.
        time_base: seconds for each tick.
        start: the first timestamp wanted; None: all from the beginning.
        end: the first no longer wanted; None: all to the end.
        lead_in: frames before a segment that have to be decoded too.
        warm_up: frames before a segment that have to be upscaled too.
        seconds: the shortest and the longest segment.
    """
    stamps = index.timestamps if warm_up else index.between(start, end)
    wanted = len(index.between(start, end))
    if not wanted:
        whole = start is None and end is None
        return [Segment(0, None if warm_up else start, start, end, None, index.num_frames if whole else None)]
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
        warms = max(0, cut - warm_up) if warm_up else begins
        from_tick = start if begins == skipped else int(stamps[begins])
        to_tick = end if ends == skipped + wanted else int(stamps[ends])
        first = from_tick if warms == begins else int(stamps[warms]) if warms else None
        entry = None if first is None else index.entry(_earlier(index, first, lead_in))
        earlier = None if entry is None or entry <= index.timestamps[0] else index.entry(entry - 1)
        segments.append(
            Segment(len(segments), first, from_tick, to_tick, entry, ends - begins, earlier, begins - warms)
        )
    return segments


def halvings(frames: int, frame_seconds: float, most_seconds: float, fewest: int = FEWEST_FRAMES) -> int:
    """How often a segment has to be halved so that it takes about so long, and has no less than the fewest frames.

    Args:
        frames: in a segment that is not halved.
        frame_seconds: of computing, for each of them.
        most_seconds: of computing, for a segment.
        fewest: frames in a segment.
    """
    count = 0
    while frames * frame_seconds > most_seconds * 2**count and frames >= 2 * fewest * 2**count:
        count += 1
    return count


def _next_cut(stamps: Timestamps, keyframes: Timestamps, place: int, least: int, most: int) -> int | None:
    """Where the segment that begins at a place ends: the place of the first frame behind it; None: with the clip."""
    begins = stamps[place]
    if stamps[-1] - begins < most:
        return None
    latest = min(begins + most, stamps[-1] - least // 3)  # what is left is more than a frame or two
    found = keyframes[(keyframes >= begins + least) & (keyframes <= latest)]
    ends = found[0] if len(found) else begins + (least + most) // 2
    behind = max(int(np.searchsorted(stamps, ends)), place + 1)
    return behind if behind < len(stamps) else None


def _earlier(index: PacketIndex, timestamp: int, frames: int) -> int:
    place = int(np.searchsorted(index.timestamps, timestamp))
    return int(index.timestamps[max(0, place - frames)])


def cut_by_number(
    count: int, *, start: int | None = None, end: int | None = None, warm_up: int = 0, halved: int = 0
) -> list[Segment]:
    """Segments of pictures, whose timestamps are their numbers; of ``PICTURES``, halved so often.

    With a warm-up as ``cut_by_time``.
    """
    pictures = max(1, PICTURES >> halved)
    first = start or 0
    behind = max(first, count if end is None else min(end, count))
    segments: list[Segment] = []
    for at in range(0 if warm_up else first, max(behind, first + 1), pictures):
        begins, ends = max(at, first), min(at + pictures, behind)
        if begins < ends or not (warm_up or segments):
            warms = max(0, at - warm_up) if warm_up else begins
            segments.append(
                Segment(len(segments), warms, begins, ends, None, ends - begins, None, begins - warms)
            )
    return segments
