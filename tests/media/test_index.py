"""The packet index, compared with the decoder's output."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import PatchWelcomeError
from PIL import Image

from vsr.errors import InputError
from vsr.media.mux import count_packets
from vsr.media.probe import PacketIndex, index_packets, probe
from vsr.media.reader import read_frames

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
Ffmpeg = Callable[..., str]

MILLISECONDS = Fraction(1, 1000)
FORTY = range(0, 1600, 40)
GROUPS = "keyint=10:min-keyint=10:scenecut=0:bframes=3:b-adapt=0"
CLOSED = {"preset": "medium", "x264-params": GROUPS}
OPEN = {"preset": "medium", "x264-params": f"{GROUPS}:open-gop=1"}


def indexed(path: Path) -> PacketIndex:
    return index_packets(path, probe(path).video)


def decoded(path: Path, most: int | None = None) -> list[int]:
    with av.open(str(path)) as container:
        stream = container.streams[probe(path).video.index]
        stream.thread_type = "AUTO"
        return [frame.pts for frame in islice(container.decode(stream), most)]


def key_packets(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def every_tenth(stamps: Sequence[int]) -> list[int]:
    return list(stamps[::10])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.mov"])
def test_b_frames(name: str, make_clip: MakeClip) -> None:
    path = make_clip(name, pts=FORTY, time_base=MILLISECONDS, options=CLOSED)
    index, shown = indexed(path), decoded(path)
    with av.open(str(path)) as container:
        sent = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert sent != sorted(sent), "no B-frames in this clip"
    assert index.timestamps.tolist() == shown == sorted(sent)
    assert index.keyframes.tolist() == every_tenth(shown)
    assert index.num_frames == 40


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts"])
def test_only_idr_frames_of_h264_are_keyframes(name: str, make_clip: MakeClip) -> None:
    """MP4 has lengths before the NAL units, TS has start codes."""
    path = make_clip(name, pts=FORTY, time_base=MILLISECONDS, options=OPEN)
    assert key_packets(path) == 4
    assert indexed(path).keyframes.tolist() == decoded(path)[:1]


def test_all_keyframes_of_hevc_are_keyframes(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    path = tmp_path / "open.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1.6", "-c:v", "libx265", "-pix_fmt", "yuv420p",
           "-x265-params", "keyint=10:min-keyint=10:open-gop=1:bframes=3:scenecut=0:log-level=none", path)  # fmt: skip
    index = indexed(path)
    assert len(index.keyframes) == key_packets(path) == 4
    assert index.timestamps.tolist() == decoded(path)


def test_variable_rate_and_a_late_start(make_clip: MakeClip) -> None:
    stamps = [5000, 5001, 5007, 5040, 5041, 7100, 9000, 9001]
    index = indexed(make_clip(pts=stamps, time_base=MILLISECONDS, options={"bf": "2"}))
    assert index.timestamps.tolist() == stamps
    assert index.keyframes.tolist() == stamps[:1]


def test_frames_of_vp8_that_are_never_shown_do_not_count(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    path = tmp_path / "clip.webm"
    for turn in ("1", "2"):
        ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2.4", "-c:v", "libvpx", "-auto-alt-ref", "1",
               "-lag-in-frames", "16", "-b:v", "200k", "-pass", turn,
               "-passlogfile", tmp_path / "log", path)  # fmt: skip
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) > 60
    index = indexed(path)
    assert index.timestamps.tolist() == decoded(path) == list(range(0, 2400, 40))
    assert index.num_frames == 60


def test_what_an_edit_list_hides_does_not_count(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    path = tmp_path / "edited.mp4"
    ffmpeg("-ss", "0.6", "-i", make_clip(pts=FORTY, time_base=MILLISECONDS, options=CLOSED), "-c", "copy", path)
    index = indexed(path)
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) > index.num_frames
    assert index.timestamps.tolist() == decoded(path)


def test_an_avi_has_no_timestamps(make_clip: MakeClip) -> None:
    path = make_clip("clip.avi", codec="mpeg4", time_base=Fraction(1, 25), pts=range(8))
    index = indexed(path)
    assert index.timestamps.tolist() == []
    assert index.num_frames == len(decoded(path)) == 8


def test_a_raw_stream_has_no_timestamps(make_clip: MakeClip) -> None:
    index = indexed(make_clip("clip.h264"))
    assert (index.timestamps.tolist(), index.num_frames) == ([], 8)


def with_repeated_timestamp(source: Path, target: Path) -> Path:
    """Make a copy whose fourth frame has the timestamp of the third."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(video=0) if packet.size]
        packets[3].pts = packets[2].pts
        for packet in packets:
            packet.dts, packet.stream = packet.pts, stream
            written.mux(packet)
    return target


def test_with_a_repeated_timestamp_there_are_none(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("in.mkv", codec="ffv1", pts=FORTY[:8], time_base=MILLISECONDS)
    index = indexed(with_repeated_timestamp(clip, tmp_path / "repeated.mkv"))
    assert (index.timestamps.tolist(), index.num_frames) == ([], 8)


def test_the_digest_depends_on_every_packet(make_clip: MakeClip, tmp_path: Path) -> None:
    path = make_clip("clip.mkv", codec="ffv1", pts=FORTY[:8], time_base=MILLISECONDS)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    before, content = indexed(path), path.read_bytes()
    assert before.num_bytes == sum(map(len, packets))
    assert indexed(path).digest == before.digest
    for packet in (packets[0], packets[-1]):
        spoiled, place = bytearray(content), content.index(packet) + len(packet) - 1
        spoiled[place] ^= 1
        path.write_bytes(spoiled)
        assert indexed(path).digest != before.digest


def test_the_digest_does_not_depend_on_the_name_or_the_sound(make_clip: MakeClip) -> None:
    one, other = make_clip("one.mp4"), make_clip("other.mp4", audio=["aac"])
    assert one.read_bytes() != other.read_bytes()
    assert indexed(one).digest == indexed(other).digest


STAMPS = PacketIndex(np.array([0, 10, 20, 35, 50]), np.array([10, 35]), 5, 0, "")


@pytest.mark.parametrize(
    ("start", "end", "between"),
    [(None, None, [0, 10, 20, 35, 50]), (10, 35, [10, 20]), (11, 36, [20, 35]), (None, 0, []), (51, None, [])],
)
def test_between(start: int | None, end: int | None, between: list[int]) -> None:
    assert STAMPS.between(start, end).tolist() == between


@pytest.mark.parametrize(("timestamp", "entry"), [(9, 0), (10, 10), (34, 10), (35, 35), (1000, 35)])
def test_entry(timestamp: int, entry: int | None) -> None:
    assert STAMPS.entry(timestamp) == entry


def test_a_missing_file_is_an_input_error(make_clip: MakeClip) -> None:
    video = probe(path := make_clip()).video
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        index_packets(path, video)


DAMAGED = {"bitflips40.ts", "truncated_60pct.mkv"}
UNREADABLE = {"random_4k.mp4", "zero_bytes.mp4"}


def test_real_clips(shared_data: Path) -> None:
    paths = [path for path in sorted((shared_data / "clips").iterdir()) if path.name not in UNREADABLE]
    assert len(paths) > 20
    for path in paths:
        index, shown = indexed(path), decoded(path, 100)
        if path.name in DAMAGED:
            assert set(shown) <= set(index.timestamps.tolist()), path.name
        else:
            assert index.timestamps[:100].tolist() == shown, path.name
            assert len(shown) == 100 or index.num_frames == len(shown), path.name
        assert set(index.keyframes.tolist()) <= set(index.timestamps.tolist()), path.name


def test_the_index_ends_where_the_file_cannot_be_read(tmp_path: Path) -> None:
    """An APNG frame wider than the picture makes libav's demuxer fail in the middle of the packets."""
    pictures = [Image.new("RGB", (48, 32), (60 * index, 0, 0)) for index in range(4)]
    clip = tmp_path / "in.apng"
    pictures[0].save(clip, "PNG", save_all=True, append_images=pictures[1:], duration=40)
    content = bytearray(clip.read_bytes())
    third = [found.start() for found in re.finditer(b"fcTL", content)][2]
    content[third + 9] = 0x40
    clip.write_bytes(content)
    with av.open(str(clip)) as container, pytest.raises(PatchWelcomeError):
        list(container.demux())
    index = indexed(clip)
    assert index.num_frames == len(list(read_frames(clip, probe(clip).video))) == 2
    assert [count.packets for count in count_packets(clip)] == [2]
