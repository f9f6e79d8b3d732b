from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

import vsr
from vsr.errors import FFmpegError, OutputError, UsageError
from vsr.media.clip import ClipInfo, ColourTags, Cut, StreamInfo, VideoInfo
from vsr.media.ffmpeg import DiskError, bundled_program, ffmpeg_program
from vsr.media.formats import CODECS, CONTAINERS, container_of
from vsr.media.mux import StreamPlan, assemble, assemble_what_fits, check_assembled, count_packets, plan_streams
from vsr.media.probe import probe
from vsr.media.reader import Frame, read_frames
from vsr.media.writer import Encoder, VideoFormat

MakeClip = Callable[..., Path]
Ffmpeg = Callable[..., str]

COPIED = ("copy", "", "")


def decisions(clip: ClipInfo, ending: str, *, audio: str = "copy") -> dict[int, tuple[str, str, str]]:
    plans = plan_streams(clip, CONTAINERS[ending], audio=audio)
    return {plan.stream.index: (plan.action, plan.codec, plan.reason) for plan in plans}


REAL = {
    ("bigbuckbunny.mp4", ".mp4"): {1: COPIED},
    ("bigbuckbunny.mp4", ".mkv"): {1: COPIED},
    ("sar_2x1.mp4", ".mp4"): {},
    ("nasa_13013.mp4", ".mp4"): {
        0: ("drop", "", "one video stream is upscaled"), 1: COPIED, 2: COPIED, 4: COPIED, 5: COPIED,
    },
    ("nasa_13013.mp4", ".mkv"): {
        0: ("drop", "", "one video stream is upscaled"), 1: COPIED,
        2: ("convert", "srt", "matroska cannot hold mov_text"), 4: COPIED,
        5: ("convert", "srt", "matroska cannot hold mov_text"),
    },
    ("multi_audio_opus_mp3_srt_attachment.mkv", ".mkv"): {1: COPIED, 2: COPIED, 3: COPIED, 4: COPIED},
    ("multi_audio_opus_mp3_srt_attachment.mkv", ".mp4"): {
        1: COPIED, 2: COPIED, 3: ("convert", "mov_text", "mp4 cannot hold subrip"),
        4: ("drop", "", "mp4 cannot hold it"),
    },
    ("multi_audio_opus_mp3_srt_attachment.mkv", ".mov"): {
        1: ("convert", "aac", "mov cannot hold opus"), 2: COPIED,
        3: ("convert", "mov_text", "mov cannot hold subrip"), 4: ("drop", "", "mov cannot hold it"),
    },
    ("sample_with_ass_subtitles.mkv", ".mkv"): {1: COPIED, 2: COPIED},
    ("sample_with_ass_subtitles.mkv", ".mp4"): {1: COPIED, 2: ("convert", "mov_text", "mp4 cannot hold ass")},
    ("ffv1_444p10.mkv", ".mp4"): {1: COPIED},
    ("ffv1_444p10.mkv", ".mov"): {1: ("convert", "aac", "mov cannot hold vorbis")},
    ("sample_h262_mpeg_audio.ts", ".mov"): {1: COPIED},
    ("sample_with_chapters.mp4", ".mkv"): {1: COPIED, 2: ("rewrite", "", "")},
    ("sample_with_chapters.mp4", ".ts"): {1: COPIED, 2: ("drop", "", "mpegts cannot hold it")},
}  # fmt: skip


@pytest.mark.parametrize(("name", "ending"), REAL)
def test_plans_for_real_clips(name: str, ending: str, shared_data: Path) -> None:
    assert decisions(probe(shared_data / "clips" / name), ending) == REAL[name, ending]


VIDEO = VideoInfo(0, "h264", 16, 16, "yuv420p", Fraction(1, 1000), Fraction(25), 3, None, ColourTags())


@pytest.mark.parametrize(
    ("stream", "ending", "decision"),
    [
        (StreamInfo(1, "audio", "truehd", None), ".mkv", COPIED),
        (StreamInfo(1, "audio", "truehd", None), ".mp4", ("convert", "aac", "mp4 cannot hold truehd")),
        (StreamInfo(1, "audio", "dts", None), ".mp4", COPIED),
        (StreamInfo(1, "audio", "amr_nb", None), ".mp4", ("convert", "aac", "mp4 cannot hold amr_nb")),
        (StreamInfo(1, "audio", "wmav2", None), ".mkv", ("convert", "flac", "matroska cannot hold wmav2")),
        (StreamInfo(1, "audio", "", None), ".mkv", ("drop", "", "it cannot be decoded")),
        (StreamInfo(1, "subtitle", "dvb_subtitle", None), ".mkv", COPIED),
        (StreamInfo(1, "subtitle", "dvb_subtitle", None), ".mp4", ("drop", "", "mp4 cannot hold dvb_subtitle")),
        (StreamInfo(1, "subtitle", "dvd_subtitle", None), ".mp4", COPIED),
        (StreamInfo(1, "subtitle", "webvtt", None), ".m4v", ("convert", "mov_text", "mp4 cannot hold webvtt")),
        (StreamInfo(1, "data", "bin_data", None), ".mkv", ("drop", "", "matroska cannot hold bin_data")),
        (StreamInfo(1, "attachment", "ttf", None), ".mkv", COPIED),
        (StreamInfo(1, "attachment", "ttf", None), ".mp4", ("drop", "", "mp4 cannot hold ttf")),
        (StreamInfo(1, "unknown", "", None), ".mkv", ("drop", "", "matroska cannot hold it")),
    ],
)
def test_plan_for_one_stream(stream: StreamInfo, ending: str, decision: tuple[str, str, str]) -> None:
    assert decisions(ClipInfo(Path("in.mkv"), VIDEO, (stream,)), ending) == {1: decision}


def test_subtitles_are_left_out_on_request() -> None:
    others = (StreamInfo(1, "audio", "aac", None), StreamInfo(2, "subtitle", "subrip", None))
    plans = plan_streams(ClipInfo(Path("in.mkv"), VIDEO, others), CONTAINERS[".mkv"], subtitles="none")
    assert [str(plan) for plan in plans] == [
        "stream 1, aac audio: copied", "stream 2, subrip subtitle: left out (as requested)",
    ]  # fmt: skip


def test_audio_is_left_out_on_request() -> None:
    others = (StreamInfo(1, "audio", "aac", None), StreamInfo(2, "subtitle", "subrip", None))
    clip = ClipInfo(Path("in.mkv"), VIDEO, others)
    assert decisions(clip, ".mkv", audio="none") == {1: ("drop", "", "as requested"), 2: COPIED}


def test_plans_as_text() -> None:
    stream = StreamInfo(2, "subtitle", "ass", "deu")
    assert str(StreamPlan(stream, "copy")) == "stream 2, ass subtitle (deu): copied"
    assert str(StreamPlan(stream, "convert", "mov_text", "mp4 cannot hold ass")) == (
        "stream 2, ass subtitle (deu): converted to mov_text (mp4 cannot hold ass)"
    )
    left_out = StreamPlan(stream, "drop", reason="as requested")
    assert str(left_out) == "stream 2, ass subtitle (deu): left out (as requested)"


@pytest.mark.parametrize(
    ("name", "muxer"), [("a.mp4", "mp4"), ("a.b.MKV", "matroska"), ("a.mov", "mov"), ("a.m4v", "mp4")]
)
def test_container_by_name(name: str, muxer: str) -> None:
    assert container_of(Path(name)).muxer == muxer


@pytest.mark.parametrize("name", ["out.wmv", "out", "mp4", ".mkv"])
def test_unknown_suffixes_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        container_of(Path(name))
    assert str(caught.value) == f"cannot determine the format of {name}: its name must end in {', '.join(CONTAINERS)}."


@dataclass
class Track:
    """A stream as read from a file: the bytes of its packets with their times in seconds, in file order."""

    kind: str
    codec: str
    language: str | None
    metadata: dict[str, str]
    packets: list[bytes] = field(default_factory=list)
    seconds: list[Fraction] = field(default_factory=list)


def tracks_of(path: Path) -> list[Track]:
    with av.open(f"file:{path}") as container:
        tracks = []
        for stream in container.streams:
            codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
            metadata = {key.lower(): value for key, value in stream.metadata.items()}
            tracks.append(Track(stream.type, codec, stream.language, metadata))
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                tracks[packet.stream_index].packets.append(bytes(packet))
                tracks[packet.stream_index].seconds.append(packet.pts * packet.time_base)
        return tracks


def write_grey_video(clip: ClipInfo, path: Path) -> list[Fraction]:
    """Write a small grey video with the clip's timestamps; return them in seconds."""
    video = clip.video
    with av.open(f"file:{clip.path}") as container:
        packets = [packet for packet in container.demux(container.streams[video.index]) if packet.pts is not None]
    stamps = sorted((packet.pts or 0, packet.duration or 0) for packet in packets if not packet.is_discard)
    small = VideoFormat(width=16, height=16, pix_fmt="gray", time_base=video.time_base, rate=video.average_rate)
    grey = (np.full((16, 16), 90, np.uint8),)
    with Encoder(path, CODECS["h264"], {"preset": "ultrafast"}, small) as encoder:
        for pts, duration in stamps:
            encoder.write(Frame(grey, pts, duration))
    return [pts * video.time_base for pts, _ in stamps]


@dataclass
class Assembled:
    source: list[Track]
    result: list[Track]
    plans: list[StreamPlan]
    stamps: list[Fraction]
    path: Path


@pytest.fixture
def assembled(tmp_path: Path) -> Callable[..., Assembled]:
    """Assemble a replacement for the upscaled video with the other streams of a clip."""

    def join(source: Path, ending: str, **options: bool) -> Assembled:
        clip, video, target = probe(source), tmp_path / "video.mp4", tmp_path / f"result{ending}"
        stamps = write_grey_video(clip, video)
        plans = plan_streams(clip, container_of(target), **options)
        assemble(video, clip, plans, target, container_of(target))
        return Assembled(tracks_of(source), tracks_of(target), plans, stamps, target)

    return join


def check_copies(joined: Assembled, tolerance: Fraction = Fraction(0)) -> None:
    """Check that every stream is there, and that the copied ones are equal in bytes and relative times."""
    kept = [plan for plan in joined.plans if plan.is_read]
    result = [track for track in joined.result if track.kind != "data"]  # chapters are a track of their own in MP4
    assert [track.kind for track in result] == ["video", *(plan.stream.kind for plan in kept)]
    stamps = sorted(result[0].seconds)
    assert len(stamps) == len(joined.stamps)
    assert max(abs(new - old) for new, old in zip(stamps, joined.stamps, strict=True)) <= tolerance
    for plan, track in zip(kept, result[1:], strict=True):
        if plan.action == "copy":
            old = joined.source[plan.stream.index]
            layer_2_in_mp4 = (old.codec, track.codec) == ("mp2", "mp3")  # MP4 has one name for all layers
            assert track.codec == old.codec or layer_2_in_mp4
            assert track.packets == old.packets
            assert all(abs(new - old) <= tolerance for new, old in zip(track.seconds, old.seconds, strict=True))
        else:
            assert track.packets


EXACT = Fraction(0)
MILLISECOND = Fraction(1, 1000)


@pytest.mark.parametrize(
    ("name", "ending", "tolerance"),
    [
        # MP4 and QuickTime take the clock of the source's video; an edit list puts audio to a tick of that clock.
        ("bigbuckbunny.mp4", ".mp4", EXACT),
        ("bt601.mp4", ".mp4", EXACT),
        ("bt601.mp4", ".mov", EXACT),
        ("edts.mp4", ".mp4", EXACT),
        ("rotate-buck-bunny.mp4", ".mp4", EXACT),
        ("nasa_13013.mp4", ".mp4", EXACT),
        ("hlg10-color-test.mp4", ".mp4", EXACT),
        ("h264_540i_bff_51audio.mts", ".mp4", EXACT),
        ("sample_h262_mpeg_audio.ts", ".mp4", Fraction(1, 90000)),
        ("sample_av1.mp4", ".mp4", Fraction(1, 30000)),
        ("vfr_irregular.mkv", ".mp4", EXACT),
        ("sample_with_srt.mkv", ".mp4", 2 * MILLISECOND),
        ("multi_audio_opus_mp3_srt_attachment.mkv", ".mp4", MILLISECOND),
        ("multi_audio_opus_mp3_srt_attachment.mkv", ".mov", MILLISECOND),
        ("ffv1_444p10.mkv", ".mov", EXACT),
        # Matroska counts milliseconds.
        ("bt601.mp4", ".mkv", MILLISECOND / 2),
        ("rotate-buck-bunny.mp4", ".mkv", MILLISECOND / 2),
        ("sample_h262_mpeg_audio.ts", ".mkv", MILLISECOND / 2),
        ("sample_with_chapters.mp4", ".mkv", MILLISECOND / 2),
        ("nasa_13013.mp4", ".mkv", MILLISECOND / 2),
        ("vfr_irregular.mkv", ".mkv", EXACT),
        ("multi_audio_opus_mp3_srt_attachment.mkv", ".mkv", EXACT),
        ("sample_with_ass_subtitles.mkv", ".mkv", EXACT),
        ("sample_with_srt.mkv", ".mkv", EXACT),
        ("truncated_60pct.mkv", ".mkv", EXACT),
    ],
)
def test_streams_of_real_clips_are_copied(
    name: str, ending: str, tolerance: Fraction, shared_data: Path, assembled: Callable[..., Assembled],
    leaves_nothing: None,
) -> None:  # fmt: skip
    check_copies(assembled(shared_data / "clips" / name, ending), tolerance)


@pytest.mark.parametrize(
    ("name", "late"),
    [
        ("bt601.mp4", Fraction(-838, 44100)),
        ("rotate-buck-bunny.mp4", Fraction(1, 12)),
        ("sample_h262_mpeg_audio.ts", Fraction(982, 90000)),
    ],
)
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_picture_and_sound_stay_in_sync(
    name: str, late: Fraction, ending: str, shared_data: Path, assembled: Callable[..., Assembled]
) -> None:
    joined = assembled(shared_data / "clips" / name, ending)
    assert joined.stamps[0] - joined.source[1].seconds[0] == late
    apart = min(joined.result[0].seconds) - joined.result[1].seconds[0]
    assert abs(apart - late) <= (MILLISECOND if ending == ".mkv" else Fraction(1, 90000))


CHAPTERS = """;FFMETADATA1
title=The whole
artist=Who made it
comment==; # \\= words
[CHAPTER]
TIMEBASE=1/1000
START=0
END=120
title=First
[CHAPTER]
TIMEBASE=1/1000
START=120
END=320
title=Second
"""


@pytest.fixture
def full_clip(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> Path:
    """Make a Matroska file with two languages, subtitles, a font, chapters and titles."""
    video = make_clip("inner.mkv", pts=range(0, 320, 40), time_base=MILLISECOND, audio=["aac", "flac"])
    subtitles, font, chapters = tmp_path / "lines.srt", tmp_path / "font.ttf", tmp_path / "chapters.txt"
    subtitles.write_text("1\n00:00:00,040 --> 00:00:00,200\nOne <i>line</i>\n\n2\n00:00:00,210 --> 00:00:00,300\nTwo\n")
    font.write_bytes(bytes(range(256)))
    chapters.write_text(CHAPTERS)
    target = tmp_path / "full.mkv"
    ffmpeg(
        "-i", video, "-i", subtitles, "-f", "ffmetadata", "-i", chapters, "-map", "0", "-map", "1", "-c", "copy",
        "-map_metadata", "2", "-map_chapters", "2",
        "-metadata:s:0", "title=Picture", "-metadata:s:1", "language=eng", "-metadata:s:1", "title=Stereo",
        "-metadata:s:2", "language=deu", "-metadata:s:3", "language=fra", "-metadata:s:3", "title=Lines",
        "-disposition:s:0", "forced", "-attach", font, "-metadata:s:4", "mimetype=font/ttf", target,
    )  # fmt: skip
    return target


def chapters_of(path: Path) -> list[tuple[Fraction, Fraction, str]]:
    with av.open(f"file:{path}") as container:
        return [
            (
                chapter["start"] * chapter["time_base"],
                chapter["end"] * chapter["time_base"],
                chapter["metadata"]["title"],
            )
            for chapter in container.chapters()
        ]


def titles_of(path: Path) -> dict[str, str]:
    with av.open(f"file:{path}") as container:
        return {key.lower(): value for key, value in container.metadata.items()}


def test_matroska_keeps_everything(
    full_clip: Path, ffmpeg: Ffmpeg, tmp_path: Path, assembled: Callable[..., Assembled], leaves_nothing: None
) -> None:
    joined = assembled(full_clip, ".mkv")
    check_copies(joined)
    assert [track.kind for track in joined.result] == ["video", "audio", "audio", "subtitle", "attachment"]
    assert [track.codec for track in joined.result[1:4]] == ["aac", "flac", "subrip"]
    assert [track.language for track in joined.result[1:4]] == ["eng", "deu", "fra"]
    assert [track.metadata.get("title") for track in joined.result[:4]] == ["Picture", "Stereo", None, "Lines"]
    assert joined.result[4].metadata["filename"] == "font.ttf"
    assert joined.result[4].metadata["mimetype"] == "font/ttf"
    assert titles_of(joined.path)["title"] == "The whole"
    assert titles_of(joined.path)["artist"] == "Who made it"
    assert titles_of(joined.path)["comment"] == "=; # = words"
    expected = [(Fraction(0), Fraction(3, 25), "First"), (Fraction(3, 25), Fraction(8, 25), "Second")]
    assert chapters_of(joined.path) == expected
    with av.open(str(joined.path)) as container:
        assert container.streams.subtitles[0].disposition == Disposition.forced
    dumped = tmp_path / "dumped"
    ffmpeg("-dump_attachment:t:0", dumped, "-i", joined.path, "-t", "0", "-f", "null", "-")
    assert dumped.read_bytes() == bytes(range(256))


def test_an_attachment_without_a_type(full_clip: Path, tmp_path: Path) -> None:
    clip, video, target = probe(full_clip), tmp_path / "video.mp4", tmp_path / "out.mkv"
    write_grey_video(clip, video)
    font = StreamPlan(replace(clip.others[3], mimetype=None), "copy")
    assemble(video, clip, [font], target, CONTAINERS[".mkv"])
    assert tracks_of(target)[1].metadata["filename"] == "font.ttf"
    assert tracks_of(target)[1].metadata["mimetype"] == "application/octet-stream"


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_mp4_keeps_what_it_can_contain(ending: str, full_clip: Path, assembled: Callable[..., Assembled]) -> None:
    joined = assembled(full_clip, ending)
    check_copies(joined, MILLISECOND)
    tracks = [track for track in joined.result if track.kind != "data"]
    assert [track.codec for track in tracks] == ["h264", "aac", "flac" if ending == ".mp4" else "aac", "mov_text"]
    assert tracks[1].language == "eng"
    if ending == ".mp4":
        assert [track.language for track in tracks[1:]] == ["eng", "deu", "fra"]
    assert titles_of(joined.path)["title"] == "The whole"
    assert [title for _, _, title in chapters_of(joined.path)] == ["First", "Second"]
    texts = [packet[2:] for packet in tracks[3].packets if len(packet) > 2]
    assert [text.split(b"\x00")[0] for text in texts] == [b"One line", b"Two"]


def test_without_any_other_stream(
    make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, assembled: Callable[..., Assembled]
) -> None:
    source = tmp_path / "titled.mkv"
    ffmpeg("-i", make_clip(), "-c", "copy", "-metadata", "title=Alone", source)
    joined = assembled(source, ".mkv")
    assert [track.kind for track in joined.result] == ["video"]
    assert titles_of(joined.path)["title"] == "Alone"


def test_output_without_audio(full_clip: Path, assembled: Callable[..., Assembled]) -> None:
    joined = assembled(full_clip, ".mkv", audio="none")
    assert [track.kind for track in joined.result] == ["video", "subtitle", "attachment"]
    assert joined.result[1].language == "fra"


CONVERTED = {
    ("wmav2", ".asf", ".mp4"): "aac",
    ("wmav2", ".asf", ".mkv"): "flac",
    ("pcm_u8", ".wav", ".mp4"): "aac",
    ("pcm_mulaw", ".mov", ".mkv"): "flac",
    ("flac", ".mkv", ".mov"): "aac",
    ("libopus", ".mkv", ".mov"): "aac",
    ("truehd", ".mkv", ".mp4"): "aac",
    ("truehd", ".mkv", ".mov"): "aac",
    ("libvorbis", ".mkv", ".mov"): "aac",
    ("tta", ".mkv", ".mp4"): "aac",
    ("pcm_s16le", ".mkv", ".mp4"): "aac",
}
COPIES = {
    ("flac", ".mkv", ".mp4"): "flac",
    ("libopus", ".mkv", ".mp4"): "opus",
    ("pcm_s24be", ".mov", ".mov"): "pcm_s24be",
    ("alac", ".mkv", ".mp4"): "alac",
    ("truehd", ".mkv", ".mkv"): "truehd",
    ("dca", ".mkv", ".mp4"): "dts",
    ("eac3", ".mkv", ".mov"): "eac3",
    ("libmp3lame", ".mkv", ".mp4"): "mp3",
}


@pytest.mark.parametrize(("encoder", "source", "target"), [*CONVERTED, *COPIES])
def test_every_plan_for_audio_can_be_carried_out(
    encoder: str, source: str, target: str, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path,
    assembled: Callable[..., Assembled],
) -> None:  # fmt: skip
    picture = make_clip("inner.mkv", codec="mpeg4", pts=range(0, 400, 40), time_base=MILLISECOND)
    path = tmp_path / f"source{'.mkv' if source == '.wav' else source}"
    tone = ("-f", "lavfi", "-i", "sine=r=48000:d=0.4")
    ffmpeg("-i", picture, *tone, "-c:v", "copy", "-c:a", encoder, "-ac", "2", "-strict", "-2", path)
    joined = assembled(path, target)
    (plan,) = joined.plans
    case = encoder, source, target
    assert plan.action == ("copy" if case in COPIES else "convert")
    assert joined.result[1].codec == {**CONVERTED, **COPIES}[case]
    with av.open(str(joined.path)) as container:
        samples = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert samples == pytest.approx(0.4, abs=0.09)


def test_unknown_audio_is_left_out(make_clip: MakeClip, assembled: Callable[..., Assembled]) -> None:
    path = make_clip("clip.mkv", pts=range(0, 320, 40), time_base=MILLISECOND, audio=["flac", "aac"])
    path.write_bytes(path.read_bytes().replace(b"A_FLAC", b"A_FLOC"))
    joined = assembled(path, ".mkv")
    assert [plan.action for plan in joined.plans] == ["drop", "copy"]
    assert [track.codec for track in joined.result] == ["h264", "aac"]


@pytest.mark.parametrize("name", ["concat:a|b.mkv", "sp ace 'q\" #?%20.mkv", "-i.mkv", "Füße 映画.mkv"])
def test_unusual_file_names(
    name: str, make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves_nothing: None
) -> None:
    make_clip("clip.mkv", pts=range(0, 320, 40), time_base=MILLISECOND, audio=["aac"]).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    clip, video, target = probe(Path(name)), Path(f"v{name}.mp4"), Path(f"o{name}")
    write_grey_video(clip, video)
    assemble(video, clip, plan_streams(clip, CONTAINERS[".mkv"]), target, CONTAINERS[".mkv"])
    assert [track.codec for track in tracks_of(target)] == ["h264", "aac"]


def test_an_existing_target_is_replaced(
    make_clip: MakeClip, tmp_path: Path, assembled: Callable[..., Assembled]
) -> None:
    (tmp_path / "result.mkv").write_text("older")
    assert [track.kind for track in assembled(make_clip(), ".mkv").result] == ["video"]


def test_a_failure_of_the_program(make_clip: MakeClip, tmp_path: Path, leaves_nothing: None) -> None:
    clip = probe(make_clip())
    target = tmp_path / "nowhere" / "out.mp4"
    with pytest.raises(FFmpegError, match=r"^ffmpeg failed with code \d+: .*No such file or directory"):
        assemble(clip.path, clip, [], target, CONTAINERS[".mp4"])


def test_a_missing_output_file_is_an_error(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves_nothing: None
) -> None:
    clip = probe(make_clip())
    monkeypatch.setattr("vsr.media.mux.run", lambda output: None)
    with pytest.raises(OutputError) as caught:
        assemble(clip.path, clip, [], tmp_path / "out.mp4", CONTAINERS[".mp4"])
    assert str(caught.value) == f"ffmpeg wrote no file {tmp_path / 'out.mp4'}."


def test_the_result_plays(make_clip: MakeClip, assembled: Callable[..., Assembled]) -> None:
    joined = assembled(make_clip(pts=range(900, 900 + 8 * 512, 512), audio=["aac"]), ".mp4")
    video = probe(joined.path).video
    assert video.time_base == Fraction(1, 12800)
    assert [frame.pts for frame in read_frames(joined.path, video)] == [int(stamp * 12800) for stamp in joined.stamps]


def test_audio_by_another_encoder(full_clip: Path, assembled: Callable[..., Assembled]) -> None:
    joined = assembled(full_clip, ".mkv", audio="libopus")
    assert {stream.codec for stream in probe(joined.path).others if stream.kind == "audio"} == {"opus"}


@pytest.mark.parametrize(
    ("audio", "ending", "message"),
    [
        ("mp9", ".mkv", "ffmpeg has no audio encoder called mp9: use copy, none, aac, libopus or another that"),
        ("libx264", ".mkv", "ffmpeg has no audio encoder called libx264: use copy, none, aac"),
        ("aac", ".webm", "webm cannot hold aac audio; use libopus."),
        ("aac", ".gif", "gif cannot hold aac audio; use none."),
    ],
)
def test_unknown_audio_encoders_are_refused(audio: str, ending: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_streams(ClipInfo(Path("in.mkv"), VIDEO, ()), CONTAINERS[ending], audio=audio)
    assert str(caught.value).startswith(message)


# What the program can write, and whether it is complete

AUDIO, TEXT = StreamInfo(1, "audio", "flac", None), StreamInfo(2, "subtitle", "subrip", "deu")
BOTH_COPIED = [StreamPlan(AUDIO, "copy"), StreamPlan(TEXT, "copy")]


class Attempts:
    """Replacement for writing an output, which fails if one of the plans is among those that cannot work."""

    def __init__(self, *refused: StreamPlan, error: FFmpegError | None = None) -> None:
        self.refused, self.error = refused, error or FFmpegError("ffmpeg failed with code 1: [mp4 @ 0x1] no; [b] also")
        self.made: list[list[StreamPlan]] = []

    def __call__(self, plans: Sequence[StreamPlan]) -> None:
        self.made.append(list(plans))
        refused = [(plan.stream, plan.action) for plan in self.refused]
        if any((plan.stream, plan.action) in refused for plan in plans):
            raise self.error


def test_all_streams_at_once_where_they_can_be_written() -> None:
    attempts = Attempts()
    assert assemble_what_fits(BOTH_COPIED, CONTAINERS[".mp4"], attempts) == BOTH_COPIED
    assert attempts.made == [BOTH_COPIED]


def test_a_stream_that_cannot_be_copied_is_converted() -> None:
    attempts = Attempts(BOTH_COPIED[0])
    converted = StreamPlan(AUDIO, "convert", "aac", "ffmpeg cannot copy it into mp4")
    assert assemble_what_fits(BOTH_COPIED, CONTAINERS[".mp4"], attempts) == [converted, BOTH_COPIED[1]]
    assert attempts.made[-1] == [converted, BOTH_COPIED[1]]


def test_a_stream_that_cannot_be_converted_either_is_left_out() -> None:
    converted = StreamPlan(AUDIO, "convert", "aac", "ffmpeg cannot copy it into mp4")
    attempts = Attempts(BOTH_COPIED[0], converted)
    result = assemble_what_fits(BOTH_COPIED, CONTAINERS[".mp4"], attempts)
    assert result == [StreamPlan(AUDIO, "drop", reason="ffmpeg: no"), BOTH_COPIED[1]]
    assert attempts.made[-1] == result


def test_streams_are_kept_after_a_full_disk() -> None:
    attempts = Attempts(BOTH_COPIED[0], error=DiskError("ffmpeg failed: No space left on device"))
    with pytest.raises(DiskError):
        assemble_what_fits(BOTH_COPIED, CONTAINERS[".mp4"], attempts)
    assert len(attempts.made) == 1


def test_streams_are_kept_where_the_video_cannot_be_written() -> None:
    def refuse(plans: Sequence[StreamPlan]) -> None:
        raise FFmpegError(f"not with {len(plans)} streams")

    with pytest.raises(FFmpegError, match="not with 0 streams"):
        assemble_what_fits(BOTH_COPIED, CONTAINERS[".mp4"], refuse)


@pytest.fixture
def program_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Replace the bundled program by one that refuses commands with certain words, as older ones do."""

    def put(words: str) -> None:
        script = tmp_path / "ffmpeg"
        refusal = "echo '[mp4 @ 0x1] flac in MP4 support is experimental' >&2; exit 1"
        script.write_text(f"""#!/bin/sh\ncase " $* " in {words}) {refusal};; esac\nexec {bundled_program()} "$@"\n""")
        script.chmod(0o700)
        monkeypatch.setenv("VSR_FFMPEG", str(script))
        ffmpeg_program.cache_clear()

    yield put
    ffmpeg_program.cache_clear()


def test_what_the_program_cannot_write_is_known_before_the_first_frame(
    program_that_refuses: Callable[[str], None], make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip("in.mkv", pts=range(0, 320, 40), time_base=MILLISECOND, audio=["flac"])
    program_that_refuses("*' -c:1 aac '*) ;; *' -map 1:1 '*")
    said: list[str] = []
    summary = vsr.upscale(
        clip, tmp_path / "out.mp4", model="identity", progress=lambda _: said.append(caplog.text)
    )  # fmt: skip
    words = "stream 1, flac audio: converted to aac (ffmpeg cannot copy it into mp4)"
    assert f"in.mkv: {words}" in said[0]
    assert (summary.streams, summary.damage) == ((words,), "")
    assert [track.codec for track in tracks_of(summary.target)] == ["h264", "aac"]


def test_a_program_that_can_write_nothing_ends_the_job_before_the_first_frame(
    program_that_refuses: Callable[[str], None], make_clip: MakeClip, tmp_path: Path
) -> None:
    clip = make_clip(audio=["aac"])
    program_that_refuses("*' -map 0:v:0 '*")
    with pytest.raises(FFmpegError, match=r"^ffmpeg failed with code 1: .* experimental$"):
        vsr.upscale(clip, tmp_path / "out.mp4", model="identity", progress=lambda _: pytest.fail("a frame"))
    assert not (tmp_path / "out.mp4").exists()


@pytest.fixture
def damaged_streams(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> Path:
    """Make a clip with sound that cannot be decoded, and two subtitles, one of which is not UTF-8."""
    lines, whole, target = tmp_path / "lines.srt", tmp_path / "whole.mkv", tmp_path / "damaged.mkv"
    lines.write_bytes(
        b"1\n00:00:00,040 --> 00:00:00,200\nOne \xff\xfe\xfa line\n\n2\n00:00:00,210 --> 00:00:00,300\nTwo\n"
    )
    picture = make_clip("inner.mkv", pts=range(0, 400, 40), time_base=MILLISECOND)
    tone = ("-f", "lavfi", "-i", "sine=r=48000:d=0.4")
    coded = ("-c", "copy", "-c:a", "truehd", "-strict", "-2", "-ac", "2")
    ffmpeg("-i", picture, *tone, "-f", "srt", "-i", lines, "-map", "0", "-map", "1", "-map", "2", *coded, whole)
    noise = random.Random(0)
    with av.open(str(whole)) as source, av.open(str(target), "w") as garbled:
        streams = {stream.index: garbled.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            if packet.stream.type == "audio" and packet.size:
                content = av.Packet(noise.randbytes(packet.size))
                content.pts, content.dts, content.time_base = packet.pts, packet.dts, packet.time_base
                content.is_keyframe, content.stream = True, streams[packet.stream_index]
                garbled.mux(content)
            elif packet.size:
                packet.stream = streams[packet.stream_index]
                garbled.mux(packet)
    return target


def test_a_stream_that_cannot_be_decoded_is_the_only_loss(
    damaged_streams: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = vsr.upscale(damaged_streams, tmp_path / "out.mp4", model="identity")
    assert summary.frames == 10
    assert [track.codec for track in tracks_of(summary.target)] == ["h264", "mov_text"]
    sound, lines = summary.damage.split("; ")
    assert sound.startswith("stream 1, truehd audio: left out (ffmpeg: ")
    assert lines == "stream 2, subrip subtitle arrived with 1 of 2 packets"
    assert f"{damaged_streams} is damaged: {summary.damage}. {summary.target} is kept." in caplog.text


def test_damaged_streams_are_copied_without_loss(damaged_streams: Path, tmp_path: Path) -> None:
    summary = vsr.upscale(damaged_streams, tmp_path / "out.mkv", model="identity")
    assert summary.damage == ""
    assert [len(track.packets) for track in tracks_of(summary.target)][2] == 2


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts", ".avi"])
def test_missing_packets_are_counted(ending: str, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    source = make_clip(audio=["aac"])
    clip, whole, short, shorter = probe(source), *(tmp_path / f"{name}{ending}" for name in ("whole", "few", "fewer"))
    plans = plan_streams(clip, CONTAINERS[".mkv"])
    ffmpeg("-i", source, "-c", "copy", whole)
    both = ("-map", "0:v", "-map", "1:a", "-c", "copy")
    ffmpeg("-i", source, "-t", "0.05", "-i", source, *both, short)
    ffmpeg("-t", "0.26", "-i", source, "-i", source, *both, shorter)
    packets, few = count_packets(source)[1].packets, count_packets(short)[1].packets
    assert 0 < few < packets - 2
    assert check_assembled(whole, clip, plans, num_frames=8) == []
    assert check_assembled(short, clip, plans, num_frames=8) == [
        f"stream 1, aac audio arrived with {few} of {packets} packets"
    ]
    with pytest.raises(OutputError, match=rf"^ffmpeg wrote 7 of 8 frames to fewer\{ending} without an error\.$"):
        check_assembled(shorter, clip, plans, num_frames=8)


def test_only_packets_in_the_part_count(make_clip: MakeClip) -> None:
    clip = make_clip(pts=range(0, 50 * 512, 512), audio=["aac"])
    video, sound = count_packets(clip, Cut(Fraction(1, 2), Fraction(1)))
    assert video.packets == 12  # at 0.52, 0.56, ... 0.96
    assert sound.packets == pytest.approx(0.5 * 48000 / 1024, abs=1)


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_stream_without_packets_in_the_part_is_no_loss(ending: str, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """MP4 omits such a stream, Matroska keeps it empty; neither is a loss."""
    source = tmp_path / "in.mkv"
    late, early = ("-itsoffset", "1.5", "-f", "lavfi", "-i", "sine=d=0.5"), ("-f", "lavfi", "-i", "sine=d=2")
    picture = ("-f", "lavfi", "-i", "testsrc2=s=48x32:r=25:d=2")
    ffmpeg(*picture, *late, *early, "-map", "0", "-map", "1", "-map", "2", "-c:a", "aac", "-c:v", "mpeg4", source)
    summary = vsr.upscale(source, tmp_path / f"out{ending}", model="identity", end=Fraction(1))
    assert summary.damage == ""
    assert [track.kind for track in tracks_of(summary.target) if track.packets] == ["video", "audio"]
