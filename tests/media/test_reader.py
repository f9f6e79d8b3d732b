from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from io import FileIO
from pathlib import Path

import av
import numpy as np
import pytest

import vsr.media.probe
from vsr.errors import InputError
from vsr.media.probe import probe
from vsr.media.reader import Frame, _Clock, decoded_format, read_frames

MakeClip = Callable[..., Path]
Ffmpeg = Callable[..., str]
FrameListing = Callable[[Path, int, str], list[tuple[int, int, str]]]

MILLISECONDS = Fraction(1, 1000)


def frames_of(path: Path) -> list[Frame]:
    return list(read_frames(path, probe(path).video))


def listing_of(frames: list[Frame]) -> list[tuple[int, int, str]]:
    """Return timestamp, duration and a hash of the unpadded planes of each frame."""
    return [
        (frame.pts, frame.duration, hashlib.md5(b"".join(plane.tobytes() for plane in frame.planes)).hexdigest())
        for frame in frames
    ]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vfr_irregular.mkv", 26),
        ("iibbibb_editlist_videoonly.mp4", 12),
        ("edts.mp4", 225),
        ("bt601.mp4", 30),
        ("rotate-buck-bunny.mp4", 45),
        ("single_frame.mp4", 1),
        ("multi_audio_opus_mp3_srt_attachment.mkv", 60),
        ("nasa_13013.mp4", 390),
        ("odd_321x181_444.mp4", 20),
        ("bear-vp9-odd-dimensions.webm", 30),
        ("gray8.mkv", 20),
        ("ffv1_444p10.mkv", 20),
        ("h264_10bits.mp4", 30),
        ("h265_10bits.mp4", 30),
        ("sample_av1.mp4", 30),
        ("h264_540i_bff_51audio.mts", 50),
        ("sample_h262_mpeg_audio.ts", 3),
        ("bbb_176x144_128kbps_15fps_h263.3gp", 15),
        ("sample_mdat_too_long.mp4", 30),
        ("truncated_60pct.mkv", 142),
    ],
)
def test_real_clips(
    name: str, count: int, shared_data: Path, frame_listing: FrameListing, caplog: pytest.LogCaptureFixture
) -> None:
    path = shared_data / "clips" / name
    video = probe(path).video
    frames = listing_of(frames_of(path))
    assert frames == frame_listing(path, video.index, decoded_format(video)[0])
    assert len(frames) == count
    lost = "missing at the end: 4.32 s; 142 frames could be read."
    assert warnings_in(caplog) == ([f"{path} is damaged: {lost}"] if "truncated" in name else [])


B_FRAMES = {"preset": "medium", "bf": "3"}
IRREGULAR = (333, 334, 351, 391, 1391, 1392, 1642, 1643, 1660, 2660, 2700, 2740)


@pytest.mark.parametrize("options", [{}, B_FRAMES], ids=["no B-frames", "B-frames"])
@pytest.mark.parametrize(
    ("name", "pts", "time_base"),
    [
        ("constant.mp4", range(0, 6144, 512), Fraction(1, 12800)),
        ("late.mp4", range(100_000, 106_144, 512), Fraction(1, 12800)),
        ("far.mp4", range(2**33, 2**33 + 36_000, 3000), Fraction(1, 90000)),
        ("ntsc.mp4", range(2002, 2002 + 12 * 1001, 1001), Fraction(1, 30000)),
        ("irregular.mp4", IRREGULAR, MILLISECONDS),
        ("irregular.mkv", IRREGULAR, MILLISECONDS),
        ("constant.mkv", range(0, 480, 40), MILLISECONDS),
        ("single.mp4", [77], MILLISECONDS),
    ],
)
def test_timestamps(
    name: str, pts: range, time_base: Fraction, options: dict[str, str], make_clip: MakeClip,
    frame_listing: FrameListing, leaves_nothing: None,
) -> None:  # fmt: skip
    clock = {"movie_timescale": str(time_base.denominator)} if name.endswith(".mp4") else {}
    path = make_clip(name, pts=pts, time_base=time_base, options=options, container_options=clock)
    assert probe(path).video.time_base == time_base
    frames = listing_of(frames_of(path))
    assert [stamp for stamp, _, _ in frames] == list(pts)
    assert frames == frame_listing(path, 0, "yuv420p")


FORMATS = {
    "yuv420p": "yuv420p",
    "yuv422p": "yuv422p",
    "yuv444p": "yuv444p",
    "yuv420p10le": "yuv420p10le",
    "yuv444p12le": "yuv444p12le",
    "gray": "gray",
    "gray10le": "gray10le",
    "gbrp": "gbrp",
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "yuyv422": "yuv422p",
    "uyvy422": "yuv422p",
    "rgb24": "gbrp",
    "bgra": "gbrap",
    "pal8": "gbrap",
    "rgb48be": "gbrp16le",
    "yuva420p": "yuva420p",
    "yuv411p": "yuv411p",
    "yuv440p": "yuv440p",
    "gbrap16le": "gbrap16le",
    "yuv422p10be": "yuv422p10le",
    "gray16be": "gray16le",
}


@pytest.mark.parametrize("stored", FORMATS)
def test_pixel_formats(
    stored: str, ffmpeg: Ffmpeg, frame_listing: FrameListing, tmp_path: Path, leaves_nothing: None
) -> None:
    path = tmp_path / "raw.nut"
    picture = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.12,format=rgb24,crop=51:37")
    ffmpeg(*picture, "-c:v", "rawvideo", "-pix_fmt", stored, path)
    video = probe(path).video
    assert video.pix_fmt == stored
    pix_fmt, layout = decoded_format(video)
    assert pix_fmt == FORMATS[stored]
    frames = frames_of(path)
    shapes = [(plane.shape, plane.itemsize) for plane in frames[0].planes]
    assert shapes == [(shape, layout.dtype.itemsize) for shape in layout.plane_shapes(37, 51)]
    assert listing_of(frames) == frame_listing(path, 0, pix_fmt)
    assert len(frames) == 3


def test_nv12_by_hand(tmp_path: Path) -> None:
    luma = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    chroma = np.arange(100, 124, dtype=np.uint8).reshape(3, 4, 2)
    path = tmp_path / "nv12.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 8, 6, "nv12"
        frame = av.VideoFrame(8, 6, "nv12")
        for plane, values in zip(frame.planes, (luma, chroma), strict=True):
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            rows[:, :8] = values.reshape(-1, 8)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (frame,) = frames_of(path)
    for plane, values in zip(frame.planes, (luma, chroma[..., 0], chroma[..., 1]), strict=True):
        assert np.array_equal(plane, values)
    assert frame.nbytes == 6 * 8 + 2 * 3 * 4


@pytest.mark.parametrize(("stored", "delivered"), [("yuvj420p", "yuv420p"), ("yuvj422p", "yuv422p")])
def test_full_range_is_not_converted(
    stored: str, delivered: str, ffmpeg: Ffmpeg, frame_listing: FrameListing, tmp_path: Path
) -> None:
    path = tmp_path / "full.avi"
    ffmpeg("-f", "lavfi", "-i", "color=white:s=32x32:r=25:d=0.08", "-c:v", "mjpeg", "-pix_fmt", stored, path)
    video = probe(path).video
    assert (video.pix_fmt, decoded_format(video)[0]) == (stored, delivered)
    frames = frames_of(path)
    assert {int(code) for frame in frames for code in np.unique(frame.planes[0])} == {255}
    assert listing_of(frames) == frame_listing(path, 0, stored)


def test_h264_with_b_frames_in_avi(make_clip: MakeClip, frame_listing: FrameListing) -> None:
    path = make_clip("clip.avi", pts=range(12), time_base=Fraction(1, 25), options=B_FRAMES)
    assert listing_of(frames_of(path)) == frame_listing(path, 0, "yuv420p")


def test_frames_do_not_change_while_others_are_read(make_clip: MakeClip) -> None:
    path = make_clip(options={"crf": "0"}, pix_fmt="yuv444p")
    video = probe(path).video
    kept = list(read_frames(path, video))
    assert listing_of(kept) == [listing_of([frame])[0] for frame in read_frames(path, video)]
    assert len({md5 for _, _, md5 in listing_of(kept)}) == 8


def test_no_timestamps_at_all(make_clip: MakeClip, caplog: pytest.LogCaptureFixture) -> None:
    path = make_clip("clip.h264", options=B_FRAMES)
    frames = frames_of(path)
    step = Fraction(1, 25) / probe(path).video.time_base
    assert [frame.pts for frame in frames] == [number * step for number in range(8)]
    assert warnings_in(caplog) == [f"{path}: 8 frames had no usable timestamp and got the next free one."]


def rewrite_packets(source: Path, target: Path, spoil: Callable[[int, bytes], bytes]) -> None:
    """Copy the video packet by packet, passing the bytes of each through ``spoil``."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            spoiled = av.Packet(spoil(number, bytes(packet)))
            spoiled.pts, spoiled.dts, spoiled.duration = packet.pts, packet.dts, packet.duration
            spoiled.time_base, spoiled.is_keyframe, spoiled.stream = packet.time_base, packet.is_keyframe, stream
            written.mux(spoiled)


def test_damaged_packets_are_counted(
    make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture, leaves_nothing: None
) -> None:
    whole = make_clip("whole.mkv", codec="ffv1", pts=range(0, 400, 40), time_base=MILLISECONDS, options={"g": "1"})
    damaged = tmp_path / "damaged.mkv"
    rewrite_packets(whole, damaged, lambda number, content: b"\xff" * 9 if number in (3, 7, 9) else content)
    left = [frame for number, frame in enumerate(listing_of(frames_of(whole))) if number not in (3, 7, 9)]
    assert [(pts, md5) for pts, _, md5 in listing_of(frames_of(damaged))] == [(pts, md5) for pts, _, md5 in left]
    assert warnings_in(caplog) == [
        f"{damaged} is damaged: packets that could not be decoded: 3; 7 frames could be read."
    ]


def test_a_clip_without_decodable_frames(make_clip: MakeClip, tmp_path: Path, leaves_nothing: None) -> None:
    whole = make_clip("whole.mkv", codec="ffv1", pts=range(0, 400, 40), time_base=MILLISECONDS)
    damaged = tmp_path / "damaged.mkv"
    rewrite_packets(whole, damaged, lambda number, content: b"\xff" * 9)
    with pytest.raises(InputError) as caught:
        list(read_frames(damaged, probe(whole).video))
    assert str(caught.value) == f"{damaged} is damaged: not one frame of its video can be decoded."


def test_the_decoder_is_drained_at_a_truncation(
    make_clip: MakeClip, frame_listing: FrameListing, caplog: pytest.LogCaptureFixture, leaves_nothing: None
) -> None:
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    path = make_clip(pts=range(0, 24 * 512, 512), options={**B_FRAMES, "g": "8"}, container_options=fragments)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"tfhd") + 12] = 0x7F  # the last fragment has a time far beyond the end of the file
    path.write_bytes(content)
    frames = listing_of(frames_of(path))
    assert frames == frame_listing(path, 0, "yuv420p")
    assert len(frames) == 16
    assert warnings_in(caplog) == [
        f"{path} is damaged: packets that could not be decoded: 1; missing at the end: 0.24 s; 16 frames could be read."
    ]


def test_bit_flips(shared_data: Path, frame_listing: FrameListing) -> None:
    """Two frames with damaged timestamps may have other times than in the program; no later one may."""
    path = shared_data / "clips" / "bitflips40.ts"
    stamps = [frame.pts for frame in frames_of(path)]
    assert all(before < after for before, after in zip(stamps, stamps[1:], strict=False))
    program = [pts for pts, _, _ in frame_listing(path, 0, "yuv420p")]
    assert sum(ours != theirs for ours, theirs in zip(stamps, program, strict=True)) <= 2


class BrokenDisk(FileIO):
    """A file that cannot be read beyond 40 kilobytes."""

    def read(self, size: int | None = -1, /) -> bytes | None:
        if self.tell() >= 40_000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


class FileOnBrokenDisk(vsr.media.probe._File, BrokenDisk):
    """vsr's file class on a broken disk."""


def test_a_failing_disk_is_an_error_after_the_readable_frames(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], leaves_nothing: None
) -> None:
    """The readable frames are followed by the error: a truncated clip must not look complete."""
    path = make_clip("clip.mkv", codec="ffv1", pts=range(0, 1600, 40), time_base=MILLISECONDS, size=(96, 64))
    video = probe(path).video
    monkeypatch.setattr(vsr.media.probe, "_File", FileOnBrokenDisk)
    frames = []
    with pytest.raises(InputError, match=r"cannot read .*clip.mkv to its end: Input/output error"):
        for frame in read_frames(path, video):
            frames.append(frame)
    assert 0 < len(frames) < 40
    assert "Traceback" not in capfd.readouterr().err


class Stamped:
    """The attributes of a frame that the clock uses."""

    def __init__(self, pts: int | None) -> None:
        self.pts, self.dts, self.duration = pts, None, 40


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 40, 80, 120], [0, 40, 80, 120]),
        ([0, 40, 10080, 120, 160], [0, 40, 80, 120, 160]),  # one far ahead
        ([0, 40, 121, 120, 160], [0, 40, 80, 120, 160]),  # one a little ahead
        ([0, 40, 0, 120, 160], [0, 40, 80, 120, 160]),  # one that runs backwards
        ([0, 40, None, 120, 160], [0, 40, 80, 120, 160]),  # one missing
        ([9000, 40, 80], [0, 40, 80]),  # the first
        ([0, 40, 9000], [0, 40, 9000]),  # the last: nothing contradicts it
        ([1000, 1040, 0, 40, 80], [1000, 1040, 1080, 1120, 1160]),  # a clock that restarts
        ([None, None, None], [0, 40, 80]),
        ([0, 40, 5000, 5040], [0, 40, 5000, 5040]),  # a gap is no error
        ([-80, -40, 0], [-80, -40, 0]),
        ([0, 0, 1], [0, 1, 41]),  # no room
    ],
)
def test_one_wrong_timestamp_moves_no_other_frame(
    make_clip: MakeClip, stamps: list[int | None], expected: list[int]
) -> None:
    video = replace(probe(make_clip()).video, time_base=MILLISECONDS, average_rate=Fraction(25))
    clock, frames = _Clock(video, "matroska,webm"), [Stamped(stamp) for stamp in stamps]
    timed = list(clock.timed(frames))  # type: ignore[arg-type]
    assert timed == list(zip(frames, expected, strict=True))


def open_files() -> list[str]:
    return [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc")
def test_closing_early_releases_the_file(make_clip: MakeClip, leaves_nothing: None) -> None:
    path = make_clip()
    frames = read_frames(path, probe(path).video)
    assert str(path) not in open_files()
    next(frames)
    assert str(path) in open_files()
    frames.close()
    assert str(path) not in open_files()


def test_frames_of_another_size_are_resized_to_the_first(
    make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture, leaves_nothing: None
) -> None:
    joined = tmp_path / "joined.h264"
    parts = [make_clip("small.h264"), make_clip("large.h264", size=(96, 64))]
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(read_frames(joined, probe(joined).video))
    assert [[plane.shape for plane in frame.planes] for frame in frames] == [[(32, 48), (16, 24), (16, 24)]] * 16
    said = f"{joined} changes its size: 8 frames were resized to the 48x32 of the first."
    assert warnings_in(caplog)[0] == said
    large = next(read_frames(parts[1], probe(parts[1]).video)).planes[0]
    halved = large.reshape(32, 2, 48, 2).mean((1, 3))
    assert np.abs(frames[8].planes[0] - halved).mean() < 2


@pytest.mark.parametrize("all_frames", [False, True])
def test_interlaced_frames_of_another_size(all_frames: bool, make_clip: MakeClip, tmp_path: Path) -> None:
    joined = tmp_path / "joined.h264"
    fields = {"options": {"flags": "+ildct", "x264-params": "tff=1"}}
    parts = [make_clip("small.h264", **fields), make_clip("large.h264", size=(64, 48), **fields)]
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(read_frames(joined, probe(joined).video, deinterlace="yes" if all_frames else "auto"))
    assert [frame.planes[0].shape for frame in frames] == [(32, 48)] * 16


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize(("left", "top"), [(2, 0), (0, 2), (6, 10)])
def test_a_crop_in_the_header(
    codec: str, left: int, top: int, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    whole = make_clip("whole.mp4", codec=codec, size=(96, 64))
    filtered = {"libx264": "h264_metadata", "libx265": "hevc_metadata"}[codec]
    window = tmp_path / "window.mp4"
    ffmpeg("-i", whole, "-c", "copy", "-bsf:v", f"{filtered}=crop_left={left}:crop_top={top}:crop_right=4", window)
    shape = (64 - top, 96 - left - 4)
    video = probe(window).video
    assert (video.height, video.width) == shape
    for cut, uncut in zip(frames_of(window), frames_of(whole), strict=True):
        assert np.array_equal(cut.planes[0], uncut.planes[0][top:, left:-4])
        assert np.array_equal(cut.planes[1], uncut.planes[1][top // 2 :, left // 2 : -2])


WHOLE_CLIPS = {
    "fragmented.mp4": ("-movflags", "frag_keyframe+empty_moov"),
    "fragmented.mov": ("-movflags", "frag_keyframe+empty_moov+default_base_moof"),
    "late.mp4": (),
    "late.mkv": (),
    "late.flv": (),
    "late.ts": (),
    "late.nut": (),
}


@pytest.mark.parametrize("offset", [0, 0.4, 1000])
@pytest.mark.parametrize("name", WHOLE_CLIPS)
def test_a_complete_clip_is_not_reported_as_damaged(
    name: str, offset: float, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, clip = make_clip("source.mp4", audio=["aac"]), tmp_path / name
    ffmpeg("-itsoffset", offset, "-i", source, "-c", "copy", "-copyts", *WHOLE_CLIPS[name], clip)
    assert len(frames_of(clip)) == 8
    assert not warnings_in(caplog)


@pytest.mark.parametrize("name", ["late.mkv", "late.flv", "fragmented.mp4"])
def test_a_truncated_late_clip_is_reported_as_damaged(
    name: str, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, clip = make_clip("source.mp4", pts=range(0, 250 * 512, 512), size=(160, 90)), tmp_path / name
    options = ("-movflags", "+faststart") if name == "fragmented.mp4" else ()
    ffmpeg("-itsoffset", 0.4, "-i", source, "-c", "copy", "-copyts", *options, clip)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    assert len(frames_of(clip)) < 200
    assert any("missing at the end" in warning for warning in warnings_in(caplog))


def test_change_of_pixel_format(make_clip: MakeClip, tmp_path: Path) -> None:
    joined = tmp_path / "joined.h264"
    parts = [make_clip("a.h264", pix_fmt="yuv420p"), make_clip("b.h264", pix_fmt="yuv444p")]
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    shapes = [[plane.shape for plane in frame.planes] for frame in read_frames(joined, probe(parts[0]).video)]
    assert shapes == [[(32, 48), (16, 24), (16, 24)]] * 16


def test_an_unreadable_file_is_an_input_error(make_clip: MakeClip, tmp_path: Path) -> None:
    video = probe(make_clip()).video
    with pytest.raises(InputError, match=r"cannot read .*gone\.mp4: No such file or directory\."):
        next(read_frames(tmp_path / "gone.mp4", video))
