"""Clips of one source, frame by frame together: paired by timestamp, in RGB as a player shows them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, zip_longest
from typing import cast

from vsr.errors import InputError, UsageError
from vsr.evaluation.clips import to_rgb
from vsr.imaging.colour import rgb_to_codes
from vsr.imaging.orientation import UPRIGHT, orientation_of
from vsr.media.clip import ClipInfo, VideoInfo, colour_of
from vsr.media.images import Picture
from vsr.media.probe import open_clip, packets_of
from vsr.media.reader import Frame, decoded_format, read_frames

logger = logging.getLogger(__name__)

ROUNDING = Fraction(1, 10**6)
"""Seconds by which a time that was typed in decimals may miss the frame that it names."""


@dataclass(frozen=True)
class Instant:
    """The same moment in all clips, decoded and not yet converted.

    Attributes:
        number: of the frames, from 0.
        time_seconds: their timestamp in the first clip.
        duration_seconds: how long they are shown; by the rate, where the first clip does not say.
        frames: one of each clip.
    """

    number: int
    time_seconds: Fraction
    duration_seconds: Fraction
    frames: tuple[Frame, ...]


def in_step(clips: Sequence[ClipInfo]) -> Generator[Instant, None, None]:
    """Decode clips together; ends with the shortest, and says so.

    Raises:
        InputError: frames of one number lie more than half a frame apart, or a clip is damaged.
    """
    first = clips[0].video
    step = 1 / first.average_rate if first.average_rate else Fraction(1, 25)
    with ExitStack() as stack:
        readers = [stack.enter_context(closing(read_frames(clip.path, clip.video))) for clip in clips]
        for number, frames in enumerate(zip_longest(*readers)):
            ended = [clip.path for clip, frame in zip(clips, frames, strict=True) if frame is None]
            if ended:
                logger.warning("%s ends after %d frames, and so does the comparison.", ended[0], number)
                return
            times = [frame.pts * clip.video.time_base for clip, frame in zip(clips, frames, strict=True)]
            duration = frames[0].duration * first.time_base or step
            for clip, at in zip(clips, times, strict=True):
                if abs(at - times[0]) > duration / 2:
                    raise InputError(
                        f"{clip.path} and {clips[0].path} are not in step: frame {number} lies at {float(at):.3f} s "
                        f"and at {float(times[0]):.3f} s. Clips of one source have equal timestamps."
                    )
            yield Instant(number, times[0], duration, frames)


def at_numbers(instants: Iterator[Instant], numbers: Collection[int]) -> Iterator[Instant]:
    """The instants of these numbers, in order.

    Raises:
        UsageError: there are fewer.
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
    """What is on display at these times, in order; an instant that is asked for twice comes once.

    Raises:
        UsageError: a time lies outside of the clip.
    """
    wanted = deque(sorted(Fraction(at) + ROUNDING for at in times))
    shown: Instant | None = None
    for instant in chain(instants, [None]):
        if shown is not None:
            until = instant.time_seconds if instant else shown.time_seconds + shown.duration_seconds
            asked = wanted[0] < until
            while wanted and wanted[0] < until:
                wanted.popleft()
            if asked:
                yield shown
            if not wanted:
                return
        elif instant is not None and wanted[0] < instant.time_seconds:
            raise UsageError(
                f"{float(wanted[0]):.3f} s lies before the clip, which starts at {float(instant.time_seconds):.3f} s."
            )
        shown = instant or shown
    end = shown.time_seconds + shown.duration_seconds if shown else Fraction(0)
    raise UsageError(f"{float(wanted[0]):.3f} s lies behind the clip, which ends at {float(end):.3f} s.")


def at_even_spacing(instants: Iterator[Instant], count: int, num_packets: int) -> Iterator[Instant]:
    """At most ``count`` instants, each in the middle of an equal share of the clip.

    Packets are counted where frames would have to be decoded. Damage and fields make frames fewer than packets: what is
    then missing at the end is said, and one instant comes in any case.

    Args:
        instants: in order.
        count: how many are wanted.
        num_packets: how many instants there should be.
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


def count_packets(clip: ClipInfo) -> int:
    """How many packets of a clip are to be shown; none is decoded."""
    with open_clip(clip.path) as container:
        stream = container.streams[clip.video.index]
        return sum(1 for packet in packets_of(container, stream) if packet.size and not packet.is_discard)


def to_picture(frame: Frame, video: VideoInfo) -> Picture:
    """A decoded frame in RGB, rounded to 8 bits, turned as the container says."""
    _, layout = decoded_format(video)
    rgb = to_rgb(frame, layout, colour_of(video, video.height))
    upright = (orientation_of(video.display_matrix) or UPRIGHT).upright(rgb)
    return cast(Picture, rgb_to_codes(upright)[0])
