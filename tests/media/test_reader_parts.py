"""Parts of a clip equal the same frames of the whole clip, and damage is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vsr.media.clip import VideoInfo
from vsr.media.probe import probe
from vsr.media.reader import Damage, Frame, read_frames

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Ffmpeg = Callable[..., str]

KINDS = {
    "mp4": ("-c:v", "libx264", "-bf", "3", "-g", "10"),
    "fragments.mp4": ("-c:v", "libx264", "-bf", "3", "-g", "10", "-movflags", "frag_keyframe+empty_moov"),
    "open.mp4": ("-c:v", "libx265", "-x265-params", "keyint=10:open-gop=1:bframes=3:log-level=none"),
    "mkv": ("-c:v", "libx264", "-bf", "3", "-g", "10"),
    "ts": ("-c:v", "libx264", "-bf", "3", "-g", "10"),
    "refresh.ts": ("-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-q:v", "3"),
    "webm": ("-c:v", "libvpx-vp9", "-g", "10", "-deadline", "realtime", "-cpu-used", "8"),
    "avi": ("-c:v", "mpeg4", "-g", "10", "-q:v", "3"),
    "mov": ("-c:v", "mpeg4", "-bf", "2", "-g", "10", "-q:v", "3"),
}


@pytest.fixture
def make(ffmpeg: Ffmpeg, tmp_path: Path) -> Callable[..., Path]:
    """Write a clip of forty different frames with a tone, in any container."""

    def write(kind: str, *options: str) -> Path:
        path = tmp_path / f"clip.{kind}"
        ffmpeg(
            "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1.6", "-f", "lavfi", "-i", "sine=d=1.6", *KINDS[kind],
            *options, "-pix_fmt", "yuv420p", path,
        )  # fmt: skip
        return path

    return write


def content(frames: list[Frame]) -> list[tuple[int, str]]:
    return [
        (frame.pts, hashlib.md5(b"".join(plane.tobytes() for plane in frame.planes)).hexdigest()) for frame in frames
    ]


def seconds(video: VideoInfo, at: float) -> int:
    return round(at / video.time_base)


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_equals_the_same_part_of_the_whole(kind: str, make: Callable[..., Path]) -> None:
    path = make(kind)
    video = probe(path).video
    whole = content(list(read_frames(path, video)))
    assert len(whole) == 40
    for first, last in [(0, 3), (1, 2), (9, 11), (10, 30), (17, 18), (21, 40), (38, 40), (39, 40)]:
        end = whole[last][0] if last < 40 else None
        part = content(list(read_frames(path, video, start=whole[first][0], end=end)))
        assert part == whole[first:last], (first, last)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_a_part_begins_between_two_frames(kind: str, make: Callable[..., Path]) -> None:
    path = make(kind)
    video = probe(path).video
    whole = content(list(read_frames(path, video)))
    part = content(list(read_frames(path, video, start=whole[12][0] + 1, end=whole[20][0] + 1)))
    assert part == whole[13:21]


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_beyond_the_end_is_empty(kind: str, make: Callable[..., Path]) -> None:
    path = make(kind)
    video, damage = probe(path).video, Damage()
    assert list(read_frames(path, video, start=seconds(video, 1000), damage=damage)) == []
    assert not damage


def test_a_stream_without_seeking(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """A raw stream has no timestamps for seeking: it is read from its beginning."""
    path = tmp_path / "clip.h264"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", "-c:v", "libx264", "-bf", "0", "-g", "5", path)
    video = probe(path).video
    whole = content(list(read_frames(path, video)))
    assert content(list(read_frames(path, video, start=whole[13][0], end=whole[16][0]))) == whole[13:16]


@pytest.mark.parametrize("kind", KINDS)
def test_a_complete_clip_has_no_missing_seconds(kind: str, make: Callable[..., Path]) -> None:
    path, damage = make(kind), Damage()
    video = probe(path).video
    assert len(list(read_frames(path, video, damage=damage))) == 40
    assert not damage and str(damage) == ""


@pytest.mark.parametrize("longer", ["video", "audio"])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "webm", "avi"])
def test_streams_of_different_lengths_are_complete(kind: str, longer: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    path, damage = tmp_path / f"clip.{kind}", Damage()
    lengths = ("1.6", "0.5") if longer == "video" else ("0.5", "1.6")
    ffmpeg(
        "-f", "lavfi", "-i", f"testsrc2=s=64x48:r=25:d={lengths[0]}", "-f", "lavfi", "-i", f"sine=d={lengths[1]}",
        *KINDS[kind], "-pix_fmt", "yuv420p", path,
    )  # fmt: skip
    frames = list(read_frames(path, probe(path).video, damage=damage))
    assert len(frames) == (40 if longer == "video" else 13)
    assert not damage, str(damage)


def test_a_missing_end_of_matroska(make: Callable[..., Path]) -> None:
    path, damage = make("mkv"), Damage()
    video, size = probe(path).video, path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size * 6 // 10)
    frames = list(read_frames(path, video, damage=damage))
    assert 10 < len(frames) < 35
    assert damage.missing_seconds == pytest.approx(1.6 - len(frames) / 25, abs=0.15)
    assert str(damage).endswith(f"missing at the end: {damage.missing_seconds:.2f} s")


def test_a_missing_end_of_mp4(make: Callable[..., Path]) -> None:
    path, damage = make("mp4", "-movflags", "+faststart"), Damage()
    video, size = probe(path).video, path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size * 6 // 10)
    frames = list(read_frames(path, video, damage=damage))
    assert 10 < len(frames) < 40
    last = frames[-1].pts * video.time_base + Fraction(1, 25)
    assert damage.missing_seconds == pytest.approx(1.6 - float(last), abs=0.01)


def test_a_part_before_the_missing_end_is_complete(make: Callable[..., Path]) -> None:
    path, damage = make("mp4", "-movflags", "+faststart"), Damage()
    video = probe(path).video
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 6 // 10)
    assert len(list(read_frames(path, video, end=seconds(video, 0.2), damage=damage))) == 5
    assert damage.missing_seconds == 0


def test_concealed_frames_are_counted(make: Callable[..., Path]) -> None:
    """Slices with damaged content are concealed, and the decoder reports it."""
    path, damage = make("ts"), Damage()
    video = probe(path).video
    whole = list(read_frames(path, video))
    spoiled, random = bytearray(path.read_bytes()), np.random.default_rng(1)
    for place in random.integers(len(spoiled) // 4, len(spoiled), 60):
        if place % 188 > 20:  # not the headers of packets
            spoiled[place] ^= 0x10
    path.write_bytes(spoiled)
    frames = list(read_frames(path, video, damage=damage))
    assert damage.concealed + damage.undecodable > 0
    assert len(frames) >= len(whole) - damage.undecodable - 3
    assert all(one.pts < other.pts for one, other in zip(frames, frames[1:], strict=False))


def test_damage_as_text() -> None:
    assert str(Damage(undecodable=2, concealed=3, missing_seconds=0.5)) == (
        "packets that could not be decoded: 2; frames with damaged parts: 3; missing at the end: 0.50 s"
    )
    assert bool(Damage(concealed=1)) and not Damage()


def test_a_real_damaged_clip(shared_data: Path) -> None:
    path, damage = shared_data / "clips" / "bitflips40.ts", Damage()
    frames = list(read_frames(path, probe(path).video, damage=damage))
    assert frames and (damage.concealed or damage.undecodable)
