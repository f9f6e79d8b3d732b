"""Pairing by time: drops, offsets, rounding and other rates, with times that can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from vsr.errors import InputError
from vsr.evaluation.pairing import name_frames, pair_times, require_pairs

FRAME = Fraction(1, 25)


def milliseconds(*values: float) -> list[Fraction]:
    return [Fraction(value) / 1000 for value in values]


def regular(count: int, step: Fraction = FRAME, start: Fraction = Fraction(0)) -> list[Fraction]:
    return [start + number * step for number in range(count)]


def test_equal_times_are_pairs() -> None:
    found = pair_times(regular(5), regular(5))
    assert found.pairs == ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4))
    assert (found.reference_unpaired, found.output_unpaired) == ((), ())
    assert found.same_rate and found.largest_offset == 0


def test_a_dropped_frame_does_not_shift_the_others() -> None:
    times = regular(10)
    found = pair_times(times, times[:3] + times[4:8] + times[9:])
    assert found.reference_unpaired == (3, 8)
    assert found.output_unpaired == ()
    assert found.pairs == ((0, 0), (1, 1), (2, 2), (4, 3), (5, 4), (6, 5), (7, 6), (9, 7))
    assert found.same_rate


def test_an_additional_frame_has_no_partner() -> None:
    times = regular(6)
    found = pair_times(times, sorted([*times, Fraction(50, 1000)]))
    assert found.output_unpaired == (2,)
    assert [second for _, second in found.pairs] == [0, 1, 3, 4, 5, 6]


def test_irregular_times_pair_in_spite_of_rounding_to_milliseconds() -> None:
    exact = [Fraction(ticks, 90000) for ticks in (0, 1500, 3003, 6006, 6500, 30030, 31531)]
    rounded = [Fraction(round(time * 1000), 1000) for time in exact]
    assert exact != rounded
    found = pair_times(exact, rounded)
    assert found.pairs == tuple((number, number) for number in range(7))
    assert 0 < found.largest_offset <= Fraction(1, 2000)


def test_a_small_offset_is_bridged_and_reported() -> None:
    found = pair_times(regular(5), regular(5, start=Fraction(19, 1000)))
    assert len(found.pairs) == 5 and found.largest_offset == Fraction(19, 1000)


def test_frames_half_an_interval_apart_do_not_pair() -> None:
    assert pair_times(regular(5), regular(5, start=FRAME / 2)).pairs == ()


def test_a_clip_one_frame_late_pairs_with_the_neighbours() -> None:
    found = pair_times(regular(5), regular(5, start=FRAME))
    assert found.pairs == ((1, 0), (2, 1), (3, 2), (4, 3))
    assert (found.reference_unpaired, found.output_unpaired) == ((0,), (4,))


@pytest.mark.parametrize(
    ("rate", "count", "pairs"),
    [
        (50, 20, [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12), (7, 14), (8, 16), (9, 18)]),
        (30, 12, [(0, 0), (5, 6)]),
        (Fraction(25, 2), 5, [(0, 0), (2, 1), (4, 2), (6, 3), (8, 4)]),
    ],
)
def test_other_rates_pair_where_both_have_a_frame(rate: Fraction, count: int, pairs: list[tuple[int, int]]) -> None:
    found = pair_times(regular(10), regular(count, 1 / Fraction(rate)))
    assert not found.same_rate
    assert list(found.pairs) == pairs


def test_gaps_and_rounding_do_not_change_the_frame_rate() -> None:
    times = regular(60, Fraction(1, 60))
    rounded = [Fraction(round(time * 1000), 1000) for time in times]
    assert pair_times(times, rounded[:20] + rounded[35:]).same_rate


def test_a_single_frame_pairs_only_at_its_time() -> None:
    assert pair_times([Fraction(1)], [Fraction(1001, 1000)]).pairs == ((0, 0),)
    assert pair_times([Fraction(1)], [Fraction(102, 100)]).pairs == ()
    assert pair_times([Fraction(1)], []).pairs == ()


def test_the_nearer_of_two_frames_is_the_partner() -> None:
    found = pair_times(milliseconds(0, 40, 80), milliseconds(0, 30, 41, 80))
    assert found.pairs == ((0, 0), (1, 2), (2, 3))
    assert found.output_unpaired == (1,)


def require(first: Sequence[Fraction], second: Sequence[Fraction], max_unpaired: float = 0.05) -> None:
    require_pairs(pair_times(first, second), (Path("ref.mp4"), first), (Path("out.mp4"), second), max_unpaired)


def test_the_error_without_pairs_names_the_times_of_both() -> None:
    with pytest.raises(InputError) as caught:
        require(regular(5), regular(5, start=Fraction(7, 5)))
    assert str(caught.value) == (
        "no frame of out.mp4 has the time of a frame of ref.mp4: their times are 1.400 to 1.560 s and 0.000 to "
        "0.160 s; align='start' compares both from their first frames."
    )


def test_too_many_dropped_frames_are_refused_and_named() -> None:
    times = regular(25)
    with pytest.raises(InputError) as caught:
        require(times, [time for number, time in enumerate(times) if number not in (7, 12)])
    assert str(caught.value) == (
        "2 of 25 frames of ref.mp4 have no partner in out.mp4 (frames 7 at 0.280 s, 12 at 0.480 s); "
        "max_unpaired allows more than 5 %."
    )
    require(times, times[:7] + times[8:])
    require(times, times[::3][:5] + times[15:], max_unpaired=0.5)


def test_too_many_additional_frames_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 of 13 frames of out.mp4 have no partner in ref.mp4"):
        require(regular(10), regular(13))


def test_for_clips_of_different_rates_one_pair_is_enough() -> None:
    require(regular(10), regular(12, Fraction(1, 30)))


def test_only_the_first_of_many_frames_are_named() -> None:
    assert name_frames([1], regular(3)) == "frame 1 at 0.040 s"
    assert name_frames(range(20), regular(20)).endswith("7 at 0.280 s, ...")
