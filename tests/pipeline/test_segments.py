"""Cutting a clip: where, and that its segments together are the clip."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vsr.media.formats import Timing
from vsr.media.probe import PacketIndex, index_packets, probe
from vsr.media.reader import Damage, Frame, read_frames
from vsr.pipeline.segments import (
    FEWEST_FRAMES,
    PICTURES,
    FinishedSegment,
    Segment,
    cut_by_number,
    cut_by_time,
    halvings,
)

Ffmpeg = Callable[..., str]

SECONDS = Fraction(1)
TICKS = (3, 6)
"""The shortest and the longest segment in these tests, with one second per tick."""


def index_of(timestamps: Iterable[int], keyframes: Iterable[int]) -> PacketIndex:
    stamps = np.array(list(timestamps), np.int64)
    return PacketIndex(stamps, np.array(list(keyframes), np.int64), len(stamps), 0, "")


def cuts(segments: Sequence[Segment]) -> list[tuple[int | None, int | None, int | None, int | None]]:
    assert [segment.number for segment in segments] == list(range(len(segments)))
    return [(segment.start, segment.end, segment.entry, segment.num_frames) for segment in segments]


CUTS = {
    "too short to cut": (range(6), [0], [(None, None, None, 6)]),
    "first keyframe in the window": (range(12), [0, 2, 4, 5, 9], [(None, 4, None, 4), (4, 9, 4, 5), (9, None, 9, 3)]),
    "keyframes at both ends of the window": (range(14), [0, 3, 9], [(None, 3, None, 3), (3, 9, 3, 6), (9, None, 9, 5)]),
    "no keyframe in it: the middle": (range(12), [0, 1, 7], [(None, 4, None, 4), (4, 7, 1, 3), (7, None, 7, 5)]),
    "no keyframe but the first": (range(10), [0], [(None, 4, None, 4), (4, None, 0, 6)]),
    "a gap over the window": ([0, 1, 2, 50, 51], [0], [(None, 50, None, 3), (50, None, 0, 2)]),
    "one frame between two gaps": ([0, 50, 100], [0], [(None, 50, None, 1), (50, 100, 0, 1), (100, None, 0, 1)]),
    "many frames at once": ([0, 1, 1000, 1001, 1002, 1003], [0, 1001], [(None, 1000, None, 2), (1000, None, 0, 4)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CUTS)
def test_cuts_by_hand(case: str) -> None:
    timestamps, keyframes, expected = CUTS[case]
    assert cuts(cut_by_time(index_of(timestamps, keyframes), SECONDS, seconds=TICKS)) == expected


def test_seconds_become_ticks() -> None:
    stamps, keys = range(0, 30 * 90000, 3600), range(0, 30 * 90000, 90000)
    segments = cut_by_time(index_of(stamps, keys), Fraction(1, 90000))
    assert {segment.end - (segment.start or 0) for segment in segments[:-1] if segment.end} == {3 * 90000}
    assert len(segments) == 9, "the last is not cut where less than six seconds are left"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (5, None, [(5, 8, 4, 3), (8, None, 8, 6)]),
        (4, 9, [(4, 9, 4, 5)]),
        (5, 13, [(5, 8, 4, 3), (8, 13, 8, 5)]),
        (None, 5, [(None, 5, None, 5)]),
        (3, 3, [(3, 3, None, 0)]),
        (14, None, [(14, None, None, 0)]),
        (-5, None, [(-5, 4, 0, 4), (4, 8, 4, 4), (8, None, 8, 6)]),
    ],
)
def test_a_part_is_cut(start: int | None, end: int | None, expected: list[tuple[int | None, ...]]) -> None:
    index = index_of(range(14), [0, 4, 8, 12])
    assert cuts(cut_by_time(index, SECONDS, start=start, end=end, seconds=TICKS)) == expected


def test_frames_before_the_first_keyframe() -> None:
    """Of a recording that begins between two keyframes."""
    segments = cut_by_time(index_of(range(10), [2]), SECONDS, seconds=TICKS)
    assert cuts(segments) == [(None, 4, None, 4), (4, None, 2, 6)]


@pytest.mark.parametrize(
    ("lead_in", "entries"), [(0, [None, 4, 8]), (1, [None, 0, 4]), (4, [None, 0, 4]), (5, [None, 0, 0])]
)
def test_a_lead_in_is_decoded_too(lead_in: int, entries: list[int | None]) -> None:
    segments = cut_by_time(index_of(range(14), [0, 4, 8]), SECONDS, lead_in=lead_in, seconds=TICKS)
    assert [segment.start for segment in segments] == [None, 4, 8]
    assert [segment.entry for segment in segments] == entries


def test_the_keyframe_before_the_entry() -> None:
    """From the second keyframe on, there is one before, or at least the beginning."""
    segments = cut_by_time(index_of(range(14), [0, 4, 6, 8, 12]), SECONDS, seconds=TICKS)
    assert [(segment.entry, segment.earlier_entry) for segment in segments] == [(None, None), (4, 0), (8, 6)]
    segments = cut_by_time(index_of(range(14), [4, 8]), SECONDS, seconds=TICKS)
    assert [(segment.entry, segment.earlier_entry) for segment in segments] == [(None, None), (4, 0), (8, 4)]
    part = cut_by_time(index_of(range(14), [0, 4, 8, 12]), SECONDS, start=1, end=7, seconds=TICKS)
    assert [(segment.entry, segment.earlier_entry) for segment in part] == [(0, None)]


@pytest.mark.parametrize(("start", "end", "frames"), [(None, None, 7), (2, None, None), (None, 5, None)])
def test_without_timestamps_there_is_one_segment(start: int | None, end: int | None, frames: int | None) -> None:
    index = PacketIndex(np.array([], np.int64), np.array([0, 3]), 7, 0, "")
    found = cut_by_time(index, SECONDS, start=start, end=end, seconds=TICKS)
    assert found == [Segment(0, start, start, end, None, frames)]


def test_each_frame_is_in_one_segment() -> None:
    dice = random.Random(0)
    for _ in range(300):
        count = dice.randint(1, 40)
        stamps = sorted(dice.sample(range(dice.choice([50, 500])), count))
        keys = sorted({stamps[0], *dice.sample(stamps, dice.randint(0, count))})
        start, end = (dice.choice([None, dice.randint(0, 60)]) for _ in range(2))
        index = index_of(stamps, keys)
        wanted = index.between(start, end).tolist()
        segments = cut_by_time(index, SECONDS, start=start, end=end, lead_in=dice.randint(0, 5), seconds=TICKS)
        found = [index.between(segment.start, segment.end).tolist() for segment in segments]
        assert sum(found, []) == wanted
        assert (segments[0].start, segments[-1].end) == (start, end)
        for segment, frames in zip(segments, found, strict=True):
            if wanted:
                assert segment.num_frames == len(frames) > 0
            if segment.entry is not None:
                assert segment.entry in keys and segment.entry <= frames[0]


@pytest.mark.parametrize(
    ("count", "start", "end", "expected"),
    [
        (1, None, None, [(0, 1)]),
        (PICTURES, None, None, [(0, 100)]),
        (PICTURES + 1, None, None, [(0, 100), (100, 101)]),
        (250, 120, None, [(120, 220), (220, 250)]),
        (250, None, 120, [(0, 100), (100, 120)]),
        (250, 30, 1000, [(30, 130), (130, 230), (230, 250)]),
    ],
)
def test_pictures_are_cut_by_number(
    count: int, start: int | None, end: int | None, expected: list[tuple[int, int]]
) -> None:
    segments = cut_by_number(count, start=start, end=end)
    assert cuts(segments) == [(at, to, None, to - at) for at, to in expected]


def test_a_start_beyond_the_last_picture() -> None:
    assert [segment.num_frames for segment in cut_by_number(5, start=20)] == [0]


@pytest.mark.parametrize(("halved", "lengths"), [(0, [100, 100, 50]), (1, [50] * 5), (3, [12] * 20 + [10])])
def test_segments_of_pictures_are_halved(halved: int, lengths: list[int]) -> None:
    assert [segment.num_frames for segment in cut_by_number(250, halved=halved)] == lengths


@pytest.mark.parametrize(
    ("frames", "frame_seconds", "expected"),
    [(150, 0.1, 0), (150, 0.4, 0), (150, 0.41, 1), (150, 0.8, 1), (150, 1.0, 2), (150, 3.0, 3), (150, 1000, 4),
     (100, 10, 3), (16, 1000, 1), (15, 1000, 0)],
)  # fmt: skip
def test_a_segment_takes_about_a_minute_and_has_some_frames(frames: int, frame_seconds: float, expected: int) -> None:
    halved = halvings(frames, frame_seconds, 60)
    assert halved == expected
    assert frames * frame_seconds / 2**halved <= 60 or frames / 2**halved < 2 * FEWEST_FRAMES
    assert halved == 0 or frames / 2**halved >= FEWEST_FRAMES


def test_a_record_survives_json() -> None:
    done = FinishedSegment(3, 2, 1, Damage(1, 2, 0.5), (Timing(40, 7), Timing(0, 0)))
    again = FinishedSegment.from_dict(json.loads(json.dumps(asdict(done))))
    assert again == done
    assert isinstance(again.packets[0], Timing) and isinstance(again.damage, Damage)


@pytest.mark.parametrize(
    "spoiled", [None, [], {}, {"number": 0}, {"damage": 3, "packets": []}, {"damage": {}, "packets": [4]}]
)
def test_other_fields_are_no_record(spoiled: object) -> None:
    with pytest.raises((TypeError, KeyError)):
        FinishedSegment.from_dict(spoiled)  # type: ignore[arg-type]


# Read one by one, they are what a run from the beginning to the end reads


def content(frames: Iterable[Frame]) -> list[tuple[int, int, str]]:
    return [
        (frame.pts, frame.duration, hashlib.md5(b"".join(plane.tobytes() for plane in frame.planes)).hexdigest())
        for frame in frames
    ]


def check_segments(path: Path, least: int, *, seconds: float = 0.2, deinterlace: str = "no", lead_in: int = 0) -> None:
    """Read a clip in one run and in at least so many segments."""
    video = probe(path).video
    index = index_packets(path, video)
    length = Fraction(str(seconds))
    segments = cut_by_time(index, video.time_base, lead_in=lead_in, seconds=(length, 2 * length))
    assert len(segments) >= least
    whole = content(read_frames(path, video, deinterlace=deinterlace, damage=Damage()))  # type: ignore[arg-type]
    parts = [
        content(
            read_frames(
                path, video, start=segment.start, end=segment.end, entry=segment.entry, damage=Damage(),
                deinterlace=deinterlace,  # type: ignore[arg-type]
            )
        )
        for segment in segments
    ]  # fmt: skip
    assert sum(parts, []) == whole
    if len(whole) == index.num_frames:
        assert [len(part) for part in parts] == [segment.num_frames for segment in segments]


@pytest.mark.parametrize(
    ("name", "least", "seconds"),
    [
        ("edts.mp4", 4, 1.2),
        ("iibbibb_editlist_videoonly.mp4", 2, 0.1),
        ("vfr_irregular.mkv", 2, 0.2),
        ("bear-vp9-odd-dimensions.webm", 2, 0.2),
        ("bbb_176x144_128kbps_15fps_h263.3gp", 2, 0.2),
        ("h265_10bits.mp4", 2, 0.2),
        ("sample_av1.mp4", 2, 0.4),
        ("truncated_60pct.mkv", 3, 1),
        ("h264_540i_bff_51audio.mts", 2, 0.6),
    ],
)
def test_segments_of_real_clips(name: str, least: int, seconds: float, shared_data: Path) -> None:
    check_segments(shared_data / "clips" / name, least, seconds=seconds)


def test_segments_of_an_interlaced_clip(shared_data: Path) -> None:
    """The deinterlacer uses the frames on both sides."""
    check_segments(shared_data / "clips" / "h264_540i_bff_51audio.mts", 3, seconds=0.4, deinterlace="auto", lead_in=4)


MADE = {
    "closed.mp4": ("-c:v", "libx264", "-bf", "3", "-g", "10"),
    "open.mp4": ("-c:v", "libx264", "-x264-params", "keyint=10:min-keyint=10:open-gop=1:bframes=3:scenecut=0"),
    "open.ts": ("-c:v", "libx264", "-x264-params", "keyint=10:min-keyint=10:open-gop=1:bframes=3:scenecut=0"),
    "hevc.mp4": ("-c:v", "libx265", "-x265-params", "keyint=10:open-gop=1:bframes=3:log-level=none"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-q:v", "3"),
    "fragments.mp4": ("-c:v", "libx264", "-bf", "3", "-g", "10", "-movflags", "frag_keyframe+empty_moov"),
    "vp8.webm": ("-c:v", "libvpx", "-g", "10", "-deadline", "realtime", "-cpu-used", "8"),
    "late.mkv": ("-c:v", "libx264", "-bf", "3", "-g", "10", "-output_ts_offset", "77"),
}


@pytest.mark.parametrize("name", MADE)
def test_segments_of_made_clips(name: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    path = tmp_path / name
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2", *MADE[name], "-pix_fmt", "yuv420p", path)
    check_segments(path, 5)


def test_segments_of_a_recording_without_idr_frames(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """Broadcasts refresh the picture column by column; a decoder that begins later shows nothing before."""
    whole, path = tmp_path / "whole.ts", tmp_path / "recorded.ts"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=12", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-x264-params",
           "intra-refresh=1:keyint=50:bframes=0", whole)  # fmt: skip
    with av.open(str(whole)) as read, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in [packet for packet in read.demux(video=0) if packet.size][30:]:
            packet.stream = stream
            written.mux(packet)
    assert len(index_packets(path, probe(path).video).keyframes) == 0
    check_segments(path, 5, seconds=0.5)
