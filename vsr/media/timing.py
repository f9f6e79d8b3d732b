"""When packets are shown and decoded. Imports no libav."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Timing(NamedTuple):
    """Of one packet, in ticks of the stream's time base.

    Attributes:
        pts: when it is shown, the format's shift included.
        duration: for how long; 0 where nobody says.
    """

    pts: int
    duration: int


def decoding_times(shown: Sequence[int]) -> list[int]:
    """Decoding timestamps for packets that are shown at given times.

    Muxers shift a file whose first decoding timestamp is negative, and those of two parts overlap where they meet: so
    they are made anew for the whole. With the timestamps sorted and the smallest depth at which no packet is shown
    before it is decoded, each is decoded when the one that lies so much deeper is shown.

    Args:
        shown: presentation timestamps in the order of decoding, all different.

    Returns:
        as many, each greater than the last and none greater than its presentation timestamp.
    """
    ordered = sorted(shown)
    depth = max((index - bisect_left(ordered, pts) for index, pts in enumerate(shown)), default=0)
    step = min((after - before for before, after in pairwise(ordered)), default=1)
    early = [ordered[0] - step * (depth - index) for index in range(depth)]
    return (early + ordered)[: len(shown)]
