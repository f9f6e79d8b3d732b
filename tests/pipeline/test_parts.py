"""Video and audio keep their offset, in whole clips and in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import pytest

import vsr
from vsr.errors import InputError

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Ffmpeg = Callable[..., str]

PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=48x32:r=25:d=2")
SOUND = ("-f", "lavfi", "-i", "sine=r=48000:d=2")
H264 = ("-c:v", "libx264", "-bf", "2", "-g", "12", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
AAC = ("-c:a", "aac", "-ar", "48000")
TICKS = {".mp4": Fraction(1, 10**4), ".mov": Fraction(1, 10**4), ".mkv": Fraction(1, 10**3), ".ts": Fraction(1, 45000)}


@dataclass
class Track:
    """The displayed packets of a stream: their bytes and their times in seconds, ordered by time."""

    packets: list[bytes]
    seconds: list[Fraction]

    def part(self, start: Fraction, end: Fraction) -> Track:
        """Return the packets from ``start`` to before ``end``, with times relative to ``start``."""
        kept = [index for index, at in enumerate(self.seconds) if start <= at < end]
        return Track([self.packets[index] for index in kept], [self.seconds[index] - start for index in kept])

    def late(self, other: Track) -> Fraction:
        """Return how much later than another stream it begins."""
        return self.seconds[0] - other.seconds[0]


def tracks_of(path: Path) -> dict[str, Track]:
    tracks: dict[str, list[tuple[Fraction, bytes]]] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None and not packet.is_discard:
                tracks.setdefault(packet.stream.type, []).append((packet.pts * packet.time_base, bytes(packet)))
    ordered = {kind: sorted(packets, key=lambda packet: packet[0]) for kind, packets in tracks.items()}
    return {kind: Track([data for _, data in packets], [at for at, _ in packets]) for kind, packets in ordered.items()}


@pytest.fixture
def offset_clip(ffmpeg: Ffmpeg, tmp_path: Path) -> Callable[..., Path]:
    """Two seconds of video, and of a tone that begins later or earlier."""

    def make(ending: str, late: str) -> Path:
        path = tmp_path / f"in{ending}"
        # Matroska as an intermediate: it holds every timestamp as it is.
        offset = ("-itsoffset", late) if not late.startswith("-") else ()
        delay = () if offset else ("-itsoffset", late[1:])
        ffmpeg(*delay, *PICTURE, *offset, *SOUND, *H264, *AAC, "-map", "0", "-map", "1", path)
        return path

    return make


def check(source: dict[str, Track], result: dict[str, Track], tick: Fraction, *, absolute: bool = True) -> None:
    """Every frame and packet is there, its bytes where it was copied, at its time or, for all of them, a bit later.

    But for the first packet of AAC, which primes the decoder: not every format says that it is not to be heard.
    """
    assert source.keys() == result.keys()
    moved = Fraction(0) if absolute else result["video"].seconds[0] - source["video"].seconds[0]
    for kind, before in source.items():
        after = result[kind]
        count = min(len(before.seconds), len(after.seconds))
        assert max(len(before.seconds), len(after.seconds)) - count <= (kind == "audio")
        pairs = zip(after.seconds[-count:], before.seconds[-count:], strict=True)
        assert max(abs(new - old - moved) for new, old in pairs) <= tick, kind
        if kind == "audio":
            assert after.packets[-count:] == before.packets[-count:] or not (after.packets and before.packets)


@pytest.mark.parametrize("late", ["0.3", "-0.3", "0"])
@pytest.mark.parametrize("target", TICKS)
@pytest.mark.parametrize("source", [".mp4", ".mkv", ".ts"])
def test_the_whole_clip_keeps_its_offset(
    source: str, target: str, late: str, offset_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = offset_clip(source, late)
    before = tracks_of(clip)
    assert float(before["audio"].late(before["video"])) == pytest.approx(float(late), abs=0.05)
    after = tracks_of(vsr.upscale(clip, tmp_path / f"out{target}", model="identity", preset="ultrafast").target)
    if target == ".ts" or source == ".ts":  # AAC has other headers there
        for tracks in (before, after):
            tracks["audio"].packets.clear()
    tick = max(TICKS[target], TICKS[source] if source == ".mkv" else 0)  # Matroska counts milliseconds
    check(before, after, tick, absolute=target != ".ts")


@pytest.mark.parametrize("late", ["0.3", "-0.3"])
@pytest.mark.parametrize("target", TICKS)
@pytest.mark.parametrize("source", [".mp4", ".ts"])
def test_a_part_keeps_its_offset(
    source: str, target: str, late: str, offset_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = offset_clip(source, late)
    before = tracks_of(clip)
    first = min(track.seconds[0] for track in before.values())
    start, end = Fraction("0.5"), Fraction("1.2")
    wanted = {kind: track.part(first + start, first + end) for kind, track in before.items()}
    for track in wanted.values():  # the part begins where the clip began
        track.seconds = [at + first for at in track.seconds]
    summary = vsr.upscale(clip, tmp_path / f"out{target}", model="identity", start=start, end=end)
    after = tracks_of(summary.target)
    assert summary.frames == len(wanted["video"].seconds)
    if target == ".ts" or source == ".ts":
        for tracks in (wanted, after):
            tracks["audio"].packets.clear()
    check(wanted, after, max(TICKS[target], Fraction(1, 10**4)), absolute=target != ".ts")


def test_a_part_before_the_audio_begins(offset_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = offset_clip(".mp4", "1.5")
    after = tracks_of(
        vsr.upscale(clip, tmp_path / "out.mp4", model="identity", start=Fraction(1, 5), end=Fraction(1)).target
    )
    assert len(after["video"].seconds) == 20 and "audio" not in after


def test_a_part_without_frames_is_an_error(offset_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = offset_clip(".mp4", "0")
    with pytest.raises(InputError, match=r"in\.mp4 has no frame in the requested part\.$"):
        vsr.upscale(clip, tmp_path / "out.mp4", model="identity", start=Fraction(100))
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("target", [".ts", ".mp4", ".mkv"])
def test_timestamps_that_wrap_around(target: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """MPEG-TS counts to 2^33 ticks of 90 kHz, 95443.7 seconds, and wraps around in the middle of this clip."""
    clip = tmp_path / "in.ts"
    ffmpeg(*PICTURE, *SOUND, *H264, *AAC, "-output_ts_offset", "95442.5", clip)
    before = tracks_of(clip)
    assert len(before["video"].seconds) == 50
    after = tracks_of(vsr.upscale(clip, tmp_path / f"out{target}", model="identity").target)
    for tracks in (before, after):
        tracks["audio"].packets.clear()
    check(before, after, TICKS[target], absolute=False)


@pytest.mark.parametrize("target", [".ts", ".mkv", ".mp4", ".mov"])
def test_negative_timestamps_are_kept(target: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "in.ts"
    delay = ("-muxdelay", "0", "-muxpreload", "0")
    ffmpeg(*PICTURE, *SOUND, *H264, *AAC, *delay, "-output_ts_offset", "-0.4", "-avoid_negative_ts", "disabled", clip)
    before = tracks_of(clip)
    assert min(before["video"].seconds) < 0
    after = tracks_of(vsr.upscale(clip, tmp_path / f"out{target}", model="identity").target)
    for tracks in (before, after):
        tracks["audio"].packets.clear()
    check(before, after, TICKS[target], absolute=False)


def test_a_clip_without_timestamps(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "in.h264"
    ffmpeg(*PICTURE, *H264, clip)
    after = tracks_of(vsr.upscale(clip, tmp_path / "out.mp4", model="identity").target)
    assert after["video"].seconds == [Fraction(number, 25) for number in range(50)]


CHAPTERS = """;FFMETADATA1
title=The whole
[CHAPTER]
TIMEBASE=1/1000
START=0
END=400
title=First
[CHAPTER]
TIMEBASE=1/1000
START=400
END=1000
title=Sec\\=ond; \\# ü
[CHAPTER]
TIMEBASE=1/1000
START=1000
END=2000
title=Third
"""
LINES = "1\n00:00:00,100 --> 00:00:00,300\nOne\n\n2\n00:00:00,700 --> 00:00:00,900\nTwo\n\n3\n00:00:01,500 --> 00:00:01,700\nThree\n"  # noqa: E501


@pytest.fixture
def rich_clip(ffmpeg: Ffmpeg, tmp_path: Path) -> Path:
    """A Matroska file with two audio streams, subtitles, chapters, titles, a font and cover art."""
    (tmp_path / "lines.srt").write_text(LINES)
    (tmp_path / "chapters.txt").write_text(CHAPTERS)
    (tmp_path / "font.ttf").write_bytes(bytes(range(256)))
    path = tmp_path / "rich.mkv"
    ffmpeg(
        *PICTURE, *SOUND, "-i", tmp_path / "lines.srt", "-f", "ffmetadata", "-i", tmp_path / "chapters.txt",
        "-map", "0", "-map", "1", "-map", "1", "-map", "2", "-map_metadata", "3", "-map_chapters", "3", *H264, *AAC,
        "-metadata:s:v", "title=Picture", "-metadata:s:a:0", "language=eng", "-metadata:s:a:0", "title=Stereo",
        "-metadata:s:a:1", "language=deu", "-metadata:s:s:0", "language=fra", "-metadata:s:s:0", "title=Lines",
        "-disposition:a:0", "0", "-disposition:a:1", "default+comment", "-disposition:s:0", "forced",
        "-attach", tmp_path / "font.ttf", "-metadata:s:t", "mimetype=font/ttf", path,
    )  # fmt: skip
    return path


def chapters_of(path: Path) -> list[tuple[Fraction, Fraction, str]]:
    with av.open(str(path)) as container:
        return [
            (one["start"] * one["time_base"], one["end"] * one["time_base"], one["metadata"]["title"])
            for one in container.chapters()
        ]


@pytest.mark.parametrize("ending", [".mkv", ".mp4", ".mov"])
def test_chapters_and_subtitles_of_a_part(ending: str, rich_clip: Path, tmp_path: Path) -> None:
    start, end = Fraction("0.6"), Fraction("1.4")
    target = vsr.upscale(rich_clip, tmp_path / f"out{ending}", model="identity", start=start, end=end).target
    assert chapters_of(target) == [
        (Fraction(0), Fraction(2, 5), "Sec=ond; # ü"), (Fraction(2, 5), Fraction(4, 5), "Third"),
    ]  # fmt: skip
    with av.open(str(target)) as container:
        lines = [packet for packet in container.demux(subtitles=0) if packet.size > 2]
        assert len(lines) == 1 and b"Two" in bytes(lines[0])
        assert abs(lines[0].pts * lines[0].time_base - Fraction("0.1")) <= Fraction(1, 1000)
        assert abs(lines[0].duration * lines[0].time_base - Fraction("0.2")) <= Fraction(1, 500)


def test_everything_kept_in_matroska(rich_clip: Path, tmp_path: Path) -> None:
    target = vsr.upscale(rich_clip, tmp_path / "out.mkv", model="identity").target
    assert chapters_of(target) == chapters_of(rich_clip)
    with av.open(str(rich_clip)) as source, av.open(str(target)) as result:
        assert result.metadata["title"] == "The whole"
        for before, after in zip(source.streams, result.streams, strict=True):
            assert (after.type, after.language, after.disposition) == (before.type, before.language, before.disposition)
            for key in ("title", "filename", "mimetype"):
                assert after.metadata.get(key) == before.metadata.get(key), key


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_everything_kept_in_mp4(ending: str, rich_clip: Path, tmp_path: Path) -> None:
    summary = vsr.upscale(rich_clip, tmp_path / f"out{ending}", model="identity")
    assert chapters_of(summary.target) == chapters_of(rich_clip)
    assert summary.streams[3] == f"stream 4, unknown attachment: left out ({ending[1:]} cannot hold it)"
    with av.open(str(summary.target)) as container:
        assert container.metadata["title"] == "The whole"
        sounds, lines = container.streams.audio, container.streams.subtitles[0]
        german = "deu" if ending == ".mp4" else None  # QuickTime has numbers for languages, and libav few of them
        assert [stream.language for stream in (*sounds, lines)] == ["eng", german, "fra"]
        assert [bool(stream.disposition & 1) for stream in sounds] == [False, True]
        assert [stream.metadata["handler_name"] for stream in (sounds[0], lines)] == ["Stereo", "Lines"]


def test_cover_art_is_kept_in_mp4(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip, cover = tmp_path / "in.mp4", tmp_path / "cover.png"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=20x20:d=0.04", "-frames:v", "1", cover)
    ffmpeg(
        *PICTURE, *SOUND, "-i", cover, "-map", "0", "-map", "1", "-map", "2", *H264, *AAC, "-c:v:1", "copy",
        "-disposition:v:1", "attached_pic", clip,
    )  # fmt: skip
    for options in ({}, {"start": Fraction(1, 2)}):
        summary = vsr.upscale(clip, tmp_path / "out.mp4", model="identity", overwrite=True, **options)
        assert summary.streams[1] == "stream 2, png cover art: copied"
        with av.open(str(clip)) as source, av.open(str(summary.target)) as result:
            assert [str(stream.disposition.name) for stream in result.streams.video] == ["default", "attached_pic"]
            covers = [bytes(next(iter(file.demux(file.streams.video[1])))) for file in (source, result)]
            assert covers[0] == covers[1]
    left = vsr.upscale(clip, tmp_path / "out.ts", model="identity").streams[1]
    assert left == "stream 2, png cover art: left out (mpegts cannot hold png)"
