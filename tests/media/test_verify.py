"""Losses in the conversion to another container are reported before the work."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import vsr
from vsr.media.formats import CONTAINERS
from vsr.media.mux import cues_overlap
from vsr.media.probe import probe

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
Ffmpeg = Callable[..., str]


def upscaled(clip: Path, name: str, **options: object) -> Path:
    return vsr.upscale(clip, clip.with_name(name), model="identity", **options).target


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def tagged(ffmpeg: Ffmpeg, source: Path, name: str, **metadata: str) -> Path:
    """Make a copy of a clip with metadata, and a title and language of its sound."""
    pairs = [argument for key, value in metadata.items() for argument in ("-metadata", f"{key}={value}")]
    of_sound = ("-metadata:s:a", "title=Director", "-metadata:s:a", "language=fra")
    ffmpeg("-i", source, "-c", "copy", *pairs, *of_sound, source.with_name(name))
    return source.with_name(name)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("out.mkv", []),
        ("out.mp4", ["in.mkv: the metadata MOOD cannot be kept in mp4."]),
        (
            "out.ts",
            [
                "in.mkv: the metadata title, MOOD, ARTIST cannot be kept in mpegts.",
                "in.mkv: the title of stream 1, aac audio (fra) cannot be kept in mpegts.",
            ],
        ),
        (
            "out.avi",
            [
                "out.avi: an AVI has one frame rate; other timestamps move to the next tick.",
                "in.mkv: the metadata MOOD cannot be kept in avi.",
                "in.mkv: the language of stream 1, aac audio (fra) cannot be kept in avi.",
            ],
        ),
    ],
)
def test_metadata_that_a_container_cannot_keep_is_reported(
    target: str, said: list[str], make_clip: MakeClip, ffmpeg: Ffmpeg, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tagged(ffmpeg, make_clip(audio=["aac"]), "in.mkv", title="A", MOOD="calm", artist="B")
    upscaled(clip, target)
    assert [said.replace(f"{clip.parent}/", "") for said in warnings_in(caplog)] == said


@pytest.mark.parametrize("target", ["out.mp4", "out.mov"])
def test_keys_with_dots_do_not_hide_the_title(
    target: str, make_clip: MakeClip, ffmpeg: Ffmpeg, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tagged(ffmpeg, make_clip(audio=["aac"]), "in.mkv", title="A", **{"com.maker.model": "X"})
    out = upscaled(clip, target)
    with av.open(str(out)) as container:
        told = {key.lower() for key in container.metadata}
    assert "title" in told
    assert ("com.maker.model" in told) is (target == "out.mov")
    assert any("COM.MAKER.MODEL cannot be kept" in warning for warning in warnings_in(caplog)) is (target == "out.mp4")


def test_metadata_with_only_dotted_keys_is_kept(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    told = ("-metadata", "com.android.version=14", "-metadata", "location-eng=+10.0-020.0/")
    ffmpeg("-i", make_clip("source.mp4"), "-c", "copy", "-movflags", "use_metadata_tags", *told, tmp_path / "in.mp4")
    with av.open(str(upscaled(tmp_path / "in.mp4", "out.mp4"))) as container:
        assert container.metadata["com.android.version"] == "14"


@pytest.mark.parametrize("target", ["out.mkv", "out.mov", "out.mp4"])
def test_the_title_of_a_stream_is_kept(target: str, make_clip: MakeClip, ffmpeg: Ffmpeg) -> None:
    clip = tagged(ffmpeg, make_clip("source.mp4", audio=["aac"]), "in.mp4")
    with av.open(str(upscaled(clip, target))) as container:
        told = container.streams.audio[0].metadata
    assert "Director" in (told.get("title"), told.get("name"))


def test_lost_chapters_are_reported(
    make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chapters = tmp_path / "chapters.txt"
    chapters.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=100\ntitle=One\n")
    ffmpeg("-i", make_clip("source.mp4"), "-i", chapters, "-map_metadata", 1, "-c", "copy", tmp_path / "in.mkv")
    assert probe(tmp_path / "in.mkv").num_chapters == 1
    upscaled(tmp_path / "in.mkv", "out.mp4")
    assert not warnings_in(caplog)
    upscaled(tmp_path / "in.mkv", "out.ts")
    assert warnings_in(caplog) == ["in.mkv: its chapters cannot be kept in mpegts."]


TIMECODED = ("-timecode", "01:02:03:04")


@pytest.mark.parametrize(
    ("target", "kept"), [("out.mov", True), ("out.mp4", True), ("out.mkv", True), ("out.ts", False)]
)
def test_a_timecode_track_is_kept_or_reported_as_lost(
    target: str, kept: bool, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tmp_path / "in.mov"
    ffmpeg("-i", make_clip("source.mp4"), "-c", "copy", *TIMECODED, clip)
    with av.open(str(upscaled(clip, target))) as container:
        told = [dict(stream.metadata) for stream in container.streams]
    assert any("01:02:03:04" in entries.values() for entries in told) is kept
    assert any("left out" in warning for warning in warnings_in(caplog)) is not kept


def test_the_timecode_of_another_frame_is_not_kept(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "in.mov"
    ffmpeg("-i", make_clip("source.mp4"), "-c", "copy", *TIMECODED, clip)
    with av.open(str(upscaled(clip, "out.mov", start=Fraction(1, 10)))) as container:
        told = [dict(stream.metadata) for stream in container.streams] + [container.metadata]
    assert not any("timecode" in entries for entries in told)


def write_pgs(path: Path) -> None:
    """Write a stream of picture subtitles, two display sets without objects."""
    screen = struct.pack(">HHBHBBBB", 48, 32, 0x10, 0, 0x80, 0, 0, 0)
    window = struct.pack(">BBHHHH", 1, 0, 0, 0, 8, 8)
    units = b""
    for seconds in (0.04, 0.2):
        for kind, content in ((0x16, screen), (0x17, window), (0x80, b"")):
            units += b"PG" + struct.pack(">IIBH", round(seconds * 90000), 0, kind, len(content)) + content
    path.write_bytes(units)


@pytest.mark.parametrize(
    ("target", "kept"), [("out.m2ts", True), ("out.mkv", True), ("out.ts", False), ("out.mp4", False)]
)
def test_blu_ray_subtitles(
    target: str, kept: bool, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pgs(tmp_path / "in.sup")
    clip = tmp_path / "in.mkv"
    ffmpeg("-i", make_clip("source.mp4"), "-i", tmp_path / "in.sup", "-map", 0, "-map", 1, "-c", "copy", clip)
    assert [stream.codec for stream in probe(clip).others] == ["hdmv_pgs_subtitle"]
    out = probe(upscaled(clip, target))
    assert [stream.codec for stream in out.others] == (["hdmv_pgs_subtitle"] if kept else [])
    assert any("subtitle: left out" in warning for warning in warnings_in(caplog)) is not kept


@pytest.mark.parametrize(("second", "overlap"), [("00:00:00,150", True), ("00:00:00,250", False)])
def test_overlapping_subtitles_are_reported_where_only_one_is_shown(
    second: str, overlap: bool, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = tmp_path / "lines.srt"
    lines.write_text(f"1\n00:00:00,000 --> 00:00:00,200\nOne\n\n2\n{second} --> 00:00:00,300\nTwo\n")
    clip = tmp_path / "in.mkv"
    ffmpeg("-i", make_clip("source.mp4"), "-i", lines, "-c", "copy", clip)
    assert cues_overlap(clip, 1) is overlap
    upscaled(clip, "out.mkv")
    assert "overlap" not in caplog.text
    upscaled(clip, "out.mp4")
    said = "in.mkv: stream 1, subrip subtitle: some lines overlap; mov_text shows one at a time"
    assert (said in caplog.text) is overlap


def onset_seconds(ffmpeg: Ffmpeg, path: Path) -> float:
    """Return when the sound becomes audible, on the file's clock; ``aresample`` fills gaps with silence."""
    heard = path.with_suffix(".pcm")
    ffmpeg("-copyts", "-i", path, "-vn", "-af", "aresample=8000:async=1:first_pts=0", "-f", "s16le", "-ac", "1", heard)
    return float(np.argmax(np.abs(np.fromfile(heard, np.int16)) > 500)) / 8000


@pytest.mark.parametrize("audio", ["aac", "libmp3lame", "pcm_s16le"])
def test_late_sound_stays_late_in_an_avi(
    audio: str, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, clip = make_clip("source.mkv", pts=range(0, 20 * 512, 512), audio=[audio]), tmp_path / "in.mkv"
    ffmpeg("-i", source, "-itsoffset", "0.4", "-i", source, "-map", "0:v", "-map", "1:a", "-c", "copy", clip)
    onset = onset_seconds(ffmpeg, clip)
    assert onset > 0.35
    out = upscaled(clip, "out.avi")
    assert abs(onset_seconds(ffmpeg, out) - onset) < 0.04  # the MP3 encoder adds 25 ms at the beginning
    assert f"in.mkv: stream 1, {audio.removeprefix('lib').replace('mp3lame', 'mp3')} audio: converted" in caplog.text
    part = upscaled(clip, "part.avi", start=Fraction(1, 2))
    assert onset_seconds(ffmpeg, part) < 0.06, "there it has begun"


def test_a_late_picture_is_reported_for_an_avi(
    make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, clip = make_clip("source.mkv", pts=range(0, 20 * 512, 512), audio=["aac"]), tmp_path / "in.mkv"
    ffmpeg("-i", source, "-itsoffset", "0.4", "-i", source, "-map", "1:v", "-map", "0:a", "-c", "copy", clip)
    upscaled(clip, "out.avi")
    assert "in.mkv: its video begins 0.40 s after its audio, which an AVI cannot store" in caplog.text


@pytest.mark.parametrize("offset", [1.4, 1000, 95000])
@pytest.mark.parametrize("name", ["in.ts", "in.mpg"])
@pytest.mark.parametrize("target", ["out.avi", "out.mkv", "out.mp4", "out.ts"])
def test_the_clock_of_a_broadcast(
    offset: float, name: str, target: str, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    """A clock that started long ago is dropped; sound and picture stay in sync in any case."""
    clip = tmp_path / name
    source = make_clip("source.mkv", pts=range(0, 20 * 512, 512), audio=["mp2"])
    at_once = ("-output_ts_offset", offset, "-muxdelay", 0, "-muxpreload", 0)
    ffmpeg("-i", source, "-c:a", "copy", "-c:v", "mpeg2video", *at_once, clip)
    before, after = probe(clip), probe(upscaled(clip, target))
    begins = float(after.start)
    if target == "out.avi" or (target != "out.ts" and offset > 10):
        assert 0 <= begins < 0.05
    else:
        assert begins == pytest.approx(float(before.start), abs=0.002)
    apart = []
    for told in (before, after):
        assert told.others[0].start is not None and told.video.first_pts is not None
        apart.append(float(told.others[0].start - told.video.first_pts * told.video.time_base))
    assert apart[1] == pytest.approx(apart[0], abs=0.05 if target == "out.avi" else 0.002)


def test_every_container_without_timestamps_has_an_encoder_for_filled_sound() -> None:
    assert all(container.audio or container.muxer == "gif" for container in CONTAINERS.values())
