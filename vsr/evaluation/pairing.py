"""Which frame of an output belongs to which frame of its reference: by their times, never by their numbers.

A dropped frame moves all later numbers by one, and every figure with them; it moves no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from vsr.errors import InputError

ROUNDING = Fraction(1, 1000)
"""Seconds by which containers move a time: Matroska and FLV count milliseconds, as what passed through them."""

SAME_RATE = Fraction(1, 100)
"""Clips whose typical intervals differ by no more, as a share, have one frame rate; 24 and 23.976 differ by 1/1000."""

MAX_NAMED = 8
"""Frames without a partner that a sentence names one by one."""


@dataclass(frozen=True)
class Pairing:
    """Frames of two clips that show the same moment.

    Attributes:
        pairs: (number in the reference, number in the output) from 0, both ascending.
        reference_unpaired: numbers of the reference's frames without a partner.
        output_unpaired: numbers of the output's frames without a partner.
        same_rate: whether both clips have one frame rate.
        largest_offset: seconds that lie between the two frames of a pair, at most.
    """

    pairs: tuple[tuple[int, int], ...]
    reference_unpaired: tuple[int, ...]
    output_unpaired: tuple[int, ...]
    same_rate: bool
    largest_offset: Fraction


def pair_times(reference: Sequence[Fraction], output: Sequence[Fraction]) -> Pairing:
    """Pair the frames of two clips by their times.

    Two frames are a pair where each is the other's nearest in time (of two equally near, the earlier), and they lie
    apart by no more than ``ROUNDING``, or, where both clips have one frame rate, by less than half the interval to the
    nearest neighbour of either in its own clip. Clips of different rates get no such room: a frame that is half an
    interval away shows another moment.

    Args:
        reference: seconds, strictly ascending.
        output: seconds, strictly ascending.
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


def require_pairs(
    pairing: Pairing,
    reference: tuple[Path, Sequence[Fraction]],
    output: tuple[Path, Sequence[Fraction]],
    max_unpaired: float,
) -> None:
    """Refuse to compare clips that do not belong together.

    Args:
        pairing: of the two.
        reference: its file and its times.
        output: its file and its times.
        max_unpaired: largest share, 0..1, of either clip's frames that may be without a partner. Clips of different
            frame rates need a single pair.

    Raises:
        InputError: no pairs, or too few.
    """
    (reference_path, reference_times), (output_path, output_times) = reference, output
    if not pairing.pairs:
        raise InputError(
            f"no frame of {output_path} has the time of a frame of {reference_path}: the one shows "
            f"{_span(output_times)}, the other {_span(reference_times)}; --align start compares both from their first "
            "frames."
        )
    if not pairing.same_rate:
        return
    for path, times, unpaired, other in (
        (reference_path, reference_times, pairing.reference_unpaired, output_path),
        (output_path, output_times, pairing.output_unpaired, reference_path),
    ):
        if len(unpaired) > max_unpaired * len(times):
            raise InputError(
                f"{len(unpaired)} of {len(times)} frames of {path} have no partner in {other} "
                f"({name_frames(unpaired, times)}); --max-unpaired allows more than {100 * max_unpaired:g} %."
            )


def name_frames(numbers: Sequence[int], times: Sequence[Fraction]) -> str:
    """The numbers, from 0, and times of frames as words; of many, the first few."""
    named = ", ".join(f"{number} at {float(times[number]):.3f} s" for number in numbers[:MAX_NAMED])
    return f"{'frame' if len(numbers) == 1 else 'frames'} {named}{', ...' if len(numbers) > MAX_NAMED else ''}"


def _span(times: Sequence[Fraction]) -> str:
    return f"{float(times[0]):.3f} to {float(times[-1]):.3f} s" if times else "nothing"


def _have_same_rate(first: Sequence[Fraction], second: Sequence[Fraction]) -> bool:
    intervals = [_typical_interval(times) for times in (first, second)]
    shorter, longer = min(intervals), max(intervals)
    return shorter == 0 or longer - shorter <= SAME_RATE * shorter


def _typical_interval(times: Sequence[Fraction]) -> Fraction:
    """The mean of the intervals that come near the median: free of rounding and of gaps; 0 of a single frame."""
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    if not gaps:
        return Fraction(0)
    median = gaps[len(gaps) // 2]
    near = [gap for gap in gaps if median / 2 <= gap <= median * 3 / 2]
    return sum(near, Fraction(0)) / len(near)


def _nearest(times: Sequence[Fraction], others: Sequence[Fraction]) -> list[int]:
    """For each time the number of the nearest of ``others``, the earlier of two equally near; empty without any."""
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
    """Half the interval to the nearest neighbour; 0 of a single frame."""
    gaps = [later - earlier for earlier, later in pairwise(times[max(0, index - 1) : index + 2])]
    return min(gaps, default=Fraction(0)) / 2
