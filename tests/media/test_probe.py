from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import av.logging
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from vsr.errors import InputError
from vsr.media.clip import ColourTags, StreamInfo, VideoInfo
from vsr.media.formats import LightLevels, MasteringDisplay
from vsr.media.probe import open_clip, probe

MakeClip = Callable[..., Path]
Ffmpeg = Callable[..., str]

BT709 = ColourTags(range=1, matrix=1, primaries=1, transfer=1, chroma_location=1)
LEFT = ColourTags(chroma_location=1)
SHOWN = int(Disposition.default)
HDR10 = MasteringDisplay((12250, 35150, 6899, 2600, 33899, 16099, 15634, 16449), (10_000_000, 0))

REAL = {
    "bigbuckbunny.mp4": VideoInfo(
        0, "h264", 1280, 720, "yuv420p", Fraction(1, 12800), Fraction(25), 132, Fraction(1), LEFT,
        duration=67584, disposition=SHOWN,
    ),
    "bt601.mp4": VideoInfo(
        0, "h264", 360, 240, "yuv420p", Fraction(1, 30000), Fraction(30000, 1001), 30, Fraction(1),
        ColourTags(1, 6, 6, 6, 1), duration=30030, disposition=SHOWN,
    ),
    "bt709_full_range.mp4": VideoInfo(
        0, "h264", 1280, 720, "yuvj420p", Fraction(1, 15360), Fraction(30), 30, Fraction(1),
        ColourTags(2, 1, 1, 1, 1), duration=15360, disposition=SHOWN,
    ),
    "edts.mp4": VideoInfo(
        0, "h264", 854, 480, "yuv420p", Fraction(1, 12800), Fraction(25), 225, Fraction(1280, 1281), BT709,
        duration=115200, disposition=SHOWN,
    ),
    "ffv1_444p10.mkv": VideoInfo(
        0, "ffv1", 320, 180, "yuv444p10le", Fraction(1, 1000), Fraction(20), 20, None,
        ColourTags(range=1, chroma_location=1), disposition=SHOWN,
    ),
    "gray8.mkv": VideoInfo(
        0, "ffv1", 320, 180, "gray", Fraction(1, 1000), Fraction(20), 20, None,
        ColourTags(range=2, chroma_location=1), disposition=SHOWN,
    ),
    "h264_540i_bff_51audio.mts": VideoInfo(
        0, "h264", 960, 540, "yuv420p", Fraction(1, 90000), Fraction(25), 50, Fraction(1), LEFT,
        duration=180000, interlaced=True,
    ),
    "hlg10-color-test.mp4": VideoInfo(
        1, "hevc", 1920, 1080, "yuv420p10le", Fraction(1, 90000), Fraction(90000, 3001), 9, None,
        ColourTags(1, 9, 9, 18, 1), duration=27009, disposition=SHOWN,
    ),
    "nasa_13013.mp4": VideoInfo(
        3, "h264", 480, 270, "yuv420p", Fraction(1, 30000), Fraction(30000, 1001), 390, Fraction(1), BT709,
        duration=390390, disposition=SHOWN,
    ),
    "rotate-buck-bunny.mp4": VideoInfo(
        0, "h264", 1920, 1080, "yuv420p", Fraction(1, 57600), Fraction(24), 45, None, BT709,
        duration=108000, disposition=SHOWN, display_matrix=(0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824),
    ),
    "sample_h262_mpeg_audio.ts": VideoInfo(
        0, "mpeg2video", 640, 426, "yuv420p", Fraction(1, 90000), Fraction(30000, 1001), 3, Fraction(1),
        ColourTags(range=1, chroma_location=1), duration=9009,
    ),
    "sample_with_colr_mdcv_and_clli.mp4": VideoInfo(
        0, "av1", 1920, 1080, "yuv420p10le", Fraction(1, 60000), Fraction(60000, 1001), 60, Fraction(1),
        ColourTags(1, 9, 9, 16), duration=60060, disposition=SHOWN, mastering_display=HDR10,
        light_levels=LightLevels(1100, 180),
    ),
    "sar_2x1.mp4": VideoInfo(
        0, "h264", 640, 360, "yuv420p", Fraction(1, 15360), Fraction(30), 150, Fraction(2), LEFT,
        duration=76800, disposition=SHOWN,
    ),
}  # fmt: skip


FIRST = {
    "ffv1_444p10.mkv": 16,
    "h264_540i_bff_51audio.mts": 133200,
    "rotate-buck-bunny.mp4": 4800,
    "sample_h262_mpeg_audio.ts": 129003,
}
"""First timestamps other than zero."""


@pytest.mark.parametrize("name", REAL)
def test_video_of_real_clips(shared_data: Path, name: str) -> None:
    found = replace(probe(shared_data / "clips" / name).video, side_data=(), metadata=())
    assert found == replace(REAL[name], first_pts=FIRST.get(name, 0))


OTHERS = {
    "sar_2x1.mp4": (),
    "bigbuckbunny.mp4": ((1, "audio", "aac", "und"),),
    "hlg10-color-test.mp4": ((0, "audio", "aac", "eng"),),
    "nasa_13013.mp4": (
        (0, "video", "h264", "eng"),
        (1, "audio", "aac", "eng"),
        (2, "subtitle", "mov_text", "eng"),
        (4, "audio", "aac", "eng"),
        (5, "subtitle", "mov_text", "eng"),
    ),
    "multi_audio_opus_mp3_srt_attachment.mkv": (
        (1, "audio", "opus", "eng"),
        (2, "audio", "mp3", "deu"),
        (3, "subtitle", "subrip", None),
        (4, "attachment", "", None),
    ),
    "sample_with_ass_subtitles.mkv": ((1, "audio", "ac3", None), (2, "subtitle", "ass", None)),
    "sample_with_chapters.mp4": ((1, "audio", "aac", "und"), (2, "data", "", "eng")),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_streams_of_real_clips(shared_data: Path, name: str) -> None:
    streams = probe(shared_data / "clips" / name).others
    assert tuple((stream.index, stream.kind, stream.codec, stream.language) for stream in streams) == OTHERS[name]


def test_a_generated_clip(make_clip: MakeClip, leaves_nothing: None) -> None:
    path = make_clip(size=(64, 48), pts=range(0, 5 * 3600, 3600), time_base=Fraction(1, 90000), audio=["aac", "ac3"])
    clip = probe(path)
    assert clip.path == path
    assert replace(clip.video, side_data=(), metadata=()) == VideoInfo(
        0, "h264", 64, 48, "yuv420p", Fraction(1, 90000), Fraction(25), 5, None, LEFT, duration=18000, first_pts=0,
        disposition=SHOWN,
    )  # fmt: skip
    assert (clip.format, clip.start, clip.pictures, clip.icc) == ("mov,mp4,m4a,3gp,3g2,mj2", 0, (), None)
    assert [(stream.kind, stream.codec) for stream in clip.others] == [("audio", "aac"), ("audio", "ac3")]


def test_frames_are_estimated_by_duration_where_the_header_has_no_count(make_clip: MakeClip) -> None:
    path = make_clip("clip.mkv", pts=range(0, 400, 40), time_base=Fraction(1, 1000))
    assert probe(path).video.num_frames_estimated == 10


def test_nothing_is_estimated_where_nothing_is_stated(make_clip: MakeClip) -> None:
    assert probe(make_clip("clip.h264")).video.num_frames_estimated is None


def test_the_aspect_ratio_of_the_container_is_preferred(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    inner = make_clip(options={"x264-params": "sar=4/3"})
    assert probe(inner).video.sample_aspect_ratio == Fraction(4, 3)
    wide = tmp_path / "wide.mp4"
    ffmpeg("-i", inner, "-c", "copy", "-aspect", "3:1", wide)
    assert probe(wide).video.sample_aspect_ratio == 2


def test_streams_as_text() -> None:
    assert str(StreamInfo(1, "audio", "aac", "deu")) == "stream 1, aac audio (deu)"
    assert str(StreamInfo(2, "audio", "aac", "und")) == "stream 2, aac audio"
    assert str(StreamInfo(3, "attachment", "", None)) == "stream 3, unknown attachment"


def test_metadata_in_another_encoding_is_read(make_clip: MakeClip) -> None:
    path = make_clip("clip.avi", codec="mpeg4", time_base=Fraction(1, 25), pts=range(8))
    size = path.stat().st_size
    chunk = b"LIST\x12\x00\x00\x00INFOINAM\x05\x00\x00\x00Sch\xf6n\x00"
    path.write_bytes(path.read_bytes() + chunk)
    assert path.stat().st_size == size + len(chunk)
    assert probe(path).video.width == 48


def cover(folder: Path) -> Path:
    path = folder / "cover.png"
    cv2.imwrite(str(path), np.full((200, 200, 3), 80, np.uint8))
    return path


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_cover_art_is_not_the_video(ending: str, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    target = tmp_path / f"covered{ending}"
    ffmpeg(
        "-i", cover(tmp_path), "-i", make_clip(), "-map", "0", "-map", "1", "-c", "copy",
        "-disposition:0", "attached_pic", target,
    )  # fmt: skip
    clip = probe(target)
    assert (clip.video.codec, clip.video.width, clip.video.height) == ("h264", 48, 32)
    assert [(stream.kind, stream.codec) for stream in clip.others] == [("video", "png")]


def test_a_song_with_cover_art_is_refused(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    song = tmp_path / "song.mp3"
    tone = ("-f", "lavfi", "-i", "sine=d=0.2")
    ffmpeg(*tone, "-i", cover(tmp_path), "-map", "0", "-map", "1", "-disposition:1", "attached_pic", song)
    with pytest.raises(InputError) as caught:
        probe(song)
    assert str(caught.value) == f"{song} holds no video, only audio, cover art."


def test_a_song_is_refused(ffmpeg: Ffmpeg, tmp_path: Path, leaves_nothing: None) -> None:
    song = tmp_path / "song.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", song)
    with pytest.raises(InputError) as caught:
        probe(song)
    assert str(caught.value) == f"{song} holds no video, only audio."


def test_a_video_of_an_unknown_format_is_refused(make_clip: MakeClip, leaves_nothing: None) -> None:
    path = make_clip("clip.mkv", pts=range(0, 320, 40), time_base=Fraction(1, 1000))
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))
    with pytest.raises(InputError) as caught:
        probe(path)
    assert str(caught.value) == f"the video of {path} is of a format that this build of libav cannot decode."


@pytest.mark.parametrize("name", ["zero_bytes.mp4", "random_4k.mp4"])
def test_real_files_without_video_are_refused(shared_data: Path, name: str) -> None:
    path = shared_data / "clips" / name
    reasons = {
        "zero_bytes.mp4": f"{path} is empty: the file holds no byte.",
        "random_4k.mp4": f"{path} is not a video that can be read: Invalid data found when processing input.",
    }
    with pytest.raises(InputError) as caught:
        probe(path)
    assert str(caught.value) == reasons[name]


def test_a_text_file_is_refused(tmp_path: Path, leaves_nothing: None) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("There is no film in here.\n" * 100)
    with pytest.raises(InputError) as caught:
        probe(path)
    assert str(caught.value).startswith(f"{path} ")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        probe(tmp_path / "nothing.mp4")
    assert str(caught.value) == f"cannot read {tmp_path / 'nothing.mp4'}: No such file or directory."


def test_a_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        probe(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a folder, not a video."


def test_a_link_to_itself_is_an_input_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop.mp4"
    loop.symlink_to(loop)
    with pytest.raises(InputError) as caught:
        probe(loop)
    assert str(caught.value) == f"cannot read {loop}: Too many levels of symbolic links."


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run as a user to whom permissions apply."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_an_unreadable_file_is_an_input_error(locked: str, make_clip: MakeClip, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    path = Path(shutil.move(make_clip(), folder))
    (path if locked == "file" else folder).chmod(0)
    try:
        with unprivileged(), pytest.raises(InputError) as caught:
            probe(path)
    finally:
        folder.chmod(0o700)
    assert str(caught.value) == f"cannot read {path}: Permission denied."


LISTS = {
    "list.ffconcat": "ffconcat version 1.0\nfile clip.mp4\n",
    "list.mp4": "ffconcat version 1.0\nfile clip.mp4\n",
    "list.m3u8": "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nclip.ts\n#EXT-X-ENDLIST\n",
    "map.m3u8": '#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-MAP:URI="clip.mp4"\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_opens_no_other_file(name: str, make_clip: MakeClip, tmp_path: Path, leaves_nothing: None) -> None:
    make_clip("clip.mp4")
    make_clip("clip.ts", time_base=Fraction(1, 90000), pts=range(0, 28800, 3600))
    listed = tmp_path / name
    listed.write_text(LISTS[name])
    with pytest.raises(InputError) as caught:
        probe(listed)
    said = str(caught.value)
    other = f"{listed} is a list of other files (hls); name the files themselves."
    assert said == other if name.endswith("m3u8") else said.startswith(f"{listed} is not a video that can be read: ")


def test_an_encrypted_video_is_reported_as_such(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = tmp_path / "in.mp4"
    ffmpeg("-i", make_clip("source.mp4", audio=["aac"]), "-c", "copy", "-encryption_scheme", "cenc-aes-ctr",
           "-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb",
           "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8", clip)  # fmt: skip
    with pytest.raises(InputError) as caught:
        probe(clip)
    assert str(caught.value).startswith(f"{clip} is encrypted: without the key no frame of it can be decoded")


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "ffv1", "prores_ks"])
def test_a_segment_and_its_header_have_different_errors(
    codec: str, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    whole, source = tmp_path / "whole.mov", make_clip("source.mov")
    pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    ffmpeg("-i", source, "-c:v", codec, "-pix_fmt", pix_fmt, "-movflags", "frag_keyframe+empty_moov", whole)
    content = whole.read_bytes()
    at = content.index(b"moof") - 4
    header, segment = tmp_path / "header.mp4", tmp_path / "segment.m4s"
    header.write_bytes(content[:at])
    segment.write_bytes(content[at:])
    with pytest.raises(InputError) as caught:
        probe(header)
    said = "is a header without a frame, such as the first part of a stream in segments."
    assert str(caught.value) == f"{header} {said}"
    with pytest.raises(InputError) as caught:
        probe(segment)
    said = "is a segment of a stream without its header; join it to its initialisation segment."
    assert str(caught.value) == f"{segment} {said}"


def test_mng_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "in.mng"
    path.write_bytes(b"\x8aMNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError) as caught:
        probe(path)
    assert str(caught.value).startswith(f"{path} is an MNG animation, which libav cannot decode")


@pytest.mark.parametrize(
    "name",
    ["concat:a|b", "http:x.mp4", "file:y.mp4", "pipe:0", "a%03d.mp4", "-i.mp4", "sp ace #?&%20.mp4", "Füße 映画.mp4",
     os.fsdecode(b"latin-\xf6.mp4"), "new\nline.mp4"],
)  # fmt: skip
def test_a_name_like_a_protocol_is_a_file(
    name: str, make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves_nothing: None
) -> None:
    make_clip("clip.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe(Path(name)).video.num_frames_estimated == 8


def test_open_clip_passes_on_what_its_user_raises(make_clip: MakeClip, leaves_nothing: None) -> None:
    with pytest.raises(FileNotFoundError, match="of the user"), open_clip(make_clip()):
        raise FileNotFoundError("of the user")


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("bigbuckbunny.mp4", None),
        ("rotate-buck-bunny.mp4", (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)),
        ("sample_rotate_and_reflect.mp4", (0, 65536, 0, 65536, 0, 0, 0, 0, 1073741824)),
    ],
)
def test_display_matrix(shared_data: Path, name: str, matrix: tuple[int, ...] | None) -> None:
    assert probe(shared_data / "clips" / name).video.display_matrix == matrix


def test_probing_in_threads_restores_the_log_level_of_libav(make_clip: MakeClip) -> None:
    clip, before = make_clip(), av.logging.get_level()
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: probe(clip).video.tags, range(64)))) == 1
    assert av.logging.get_level() == before
