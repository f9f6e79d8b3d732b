"""Every kind of output: decoded again by ffmpeg, turned, stretched, rounded, or refused at the start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import vsr
from vsr.errors import FFmpegError, OutputError, UsageError
from vsr.media.probe import probe
from vsr.media.reader import Damage, read_frames
from vsr.media.writer import Encoder

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
Ffmpeg = Callable[..., str]
Listing = Callable[[Path, int, str], list[tuple[int, int, str]]]

BOTH = {
    ".mp4": ("h264", "hevc", "av1", "vp9", "ffv1", "libx264rgb"),
    ".mov": ("h264", "hevc", "prores", "libx264rgb"),
    ".mkv": ("h264", "hevc", "av1", "vp9", "prores", "ffv1"),
    ".webm": ("vp9", "av1"),
    ".ts": ("h264", "hevc"),
    ".m2ts": ("h264",),
    ".avi": ("h264", "mpeg4", "ffv1"),
    ".gif": (None,),
}


@pytest.mark.parametrize(("ending", "codec"), [(ending, codec) for ending, codecs in BOTH.items() for codec in codecs])
def test_every_frame_can_be_decoded(
    ending: str, codec: str | None, make_clip: MakeClip, frame_listing: Listing, tmp_path: Path
) -> None:
    clip = make_clip(size=(64, 48), options={"bf": "2"}, audio=["aac"])
    summary = vsr.upscale(clip, tmp_path / f"out{ending}", model="identity", codec=codec)
    listed = frame_listing(summary.target, 0, "yuv420p")
    assert len(listed) == summary.frames == 8
    assert len({md5 for _, _, md5 in listed}) == 8
    stamps = [float(pts * probe(summary.target).video.time_base) for pts, _, _ in listed]
    late = stamps[0] if ending in (".ts", ".m2ts") else 0
    # In AVI all but the first frame come later by what primes the decoder of AAC, rounded up to a tick.
    tolerance = 0.0011 if ending != ".avi" else 0.0401
    assert stamps == pytest.approx([late + number / 25 for number in range(8)], abs=tolerance)
    with av.open(str(summary.target)) as container:
        assert len(container.streams.audio) == (ending != ".gif")


def test_an_avi_output_is_not_damaged(make_clip: MakeClip, tmp_path: Path) -> None:
    damage = Damage()
    target = vsr.upscale(make_clip(), tmp_path / "out.avi", model="identity").target
    assert len(list(read_frames(target, probe(target).video, damage=damage))) == 8
    assert not damage, str(damage)
    assert probe(target).video.average_rate == 25


def test_irregular_timestamps_in_avi_are_warned_of(
    make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(pts=[0, 40, 120, 130, 300], time_base=Fraction(1, 1000))
    target = vsr.upscale(clip, tmp_path / "out.avi", model="identity").target
    assert "an AVI has one frame rate; other timestamps move to the next tick." in caplog.text
    video = probe(target).video
    times = [float(frame.pts * video.time_base) for frame in read_frames(target, video)]
    assert times == pytest.approx([0, 0.04, 0.12, 0.13, 0.3], abs=2 / float(video.average_rate or 1))


def test_a_gif_drops_other_streams(make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    summary = vsr.upscale(make_clip(audio=["aac"]), tmp_path / "out.gif", model="identity")
    assert summary.streams == ("stream 1, aac audio: left out (gif cannot hold aac)",)
    assert summary.streams[0] in caplog.text


# How a clip is shown


@pytest.fixture
def turned(ffmpeg: Ffmpeg, make_clip: MakeClip, tmp_path: Path) -> Callable[..., Path]:
    """A clip whose left half is bright, to be shown a number of degrees to the left, or mirrored."""

    def make(degrees: int, *, mirrored: bool = False) -> Path:
        path = tmp_path / "turned.mp4"
        flip = ("-display_hflip",) if mirrored else ()
        ffmpeg("-f", "lavfi", "-i", "color=black:s=64x32:r=25:d=0.6,drawbox=0:0:32:32:white:fill", "-pix_fmt",
               "yuv420p", tmp_path / "plain.mp4")  # fmt: skip
        ffmpeg("-display_rotation", str(degrees), *flip, "-i", tmp_path / "plain.mp4", "-c", "copy", path)
        return path

    return make


def shown(path: Path, ffmpeg: Ffmpeg, tmp_path: Path) -> np.ndarray:
    """The first frame as a player shows it, in grey."""
    picture = tmp_path / "shown.pgm"
    ffmpeg("-i", path, "-frames:v", "1", "-pix_fmt", "gray", picture)
    content = picture.read_bytes()
    width, height = map(int, content.split()[1:3])
    return np.frombuffer(content[-width * height :], np.uint8).reshape(height, width)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".avi", ".ts", ".gif", ".png", ".webm"])
def test_turned_clips_are_shown_as_before(
    ending: str, degrees: int, mirrored: bool, turned: Callable[..., Path], ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    clip = turned(degrees, mirrored=mirrored)
    assert probe(clip).video.display_matrix is not None
    (tmp_path / "frames").mkdir()
    target = tmp_path / ("frames/%d.png" if ending == ".png" else f"out{ending}")
    vsr.upscale(clip, target, model="identity")
    target = tmp_path / "frames" / "1.png" if ending == ".png" else target
    before, after = shown(clip, ffmpeg, tmp_path), shown(target, ffmpeg, tmp_path)
    assert before.shape == after.shape == ((64, 32) if degrees != 180 else (32, 64))
    assert np.abs(before.astype(int) - after).mean() < 4
    carried = ending in (".mp4", ".mov", ".mkv", ".webm")
    if ending != ".png":
        assert (probe(target).video.display_matrix is not None) is carried


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_the_height_is_that_of_the_displayed_picture(
    ending: str, turned: Callable[..., Path], ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    target = vsr.upscale(turned(90), tmp_path / f"out{ending}", model="bicubic", height=128).target
    assert shown(target, ffmpeg, tmp_path).shape == (128, 64)
    target = vsr.upscale(turned(90), tmp_path / f"size{ending}", model="bicubic", size=(96, 128)).target
    assert shown(target, ffmpeg, tmp_path).shape == (128, 96)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm", ".ts"])
def test_the_shape_of_pixels_is_kept(ending: str, make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(options={"x264-params": "sar=4/3"})
    assert probe(clip).video.sample_aspect_ratio == Fraction(4, 3)
    for options, ratio in [
        ({"scale": 2}, Fraction(4, 3)), ({"height": 48}, Fraction(4, 3)), ({"size": (96, 96)}, Fraction(2)),
    ]:  # fmt: skip
        summary = vsr.upscale(clip, tmp_path / f"out{ending}", model="bicubic", overwrite=True, **options)
        video = probe(summary.target).video
        assert video.sample_aspect_ratio == ratio
        assert Fraction(video.width, video.height) * ratio == Fraction(48, 32) * Fraction(4, 3)


@pytest.mark.parametrize(
    ("options", "size"),
    [({"scale": 1.5}, (72, 48)), ({"scale": 0.5}, (24, 16)), ({"height": 64}, (96, 64)), ({"size": (100, 50)}, (100, 50)),  # noqa: E501
     ({"scale": 49 / 48}, (50, 34)), ({"height": 33}, (50, 34)), ({"scale": 3.7}, (178, 118))],
)  # fmt: skip
@pytest.mark.parametrize("model", ["bicubic", "tiny"])
def test_sizes_of_outputs(
    model: str, options: dict[str, object], size: tuple[int, int], make_clip: MakeClip, tiny_weights: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    summary = vsr.upscale(
        make_clip(pts=[0, 512]), tmp_path / "out.mp4", model=str(tiny_weights) if model == "tiny" else model, **options
    )
    video = probe(summary.target).video
    assert (summary.width, summary.height) == (video.width, video.height) == size


def test_padding_of_an_odd_size_repeats_the_edge(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = make_clip("in.mkv", codec="ffv1", size=(47, 31), pix_fmt="yuv444p", pts=[0], time_base=Fraction(1, 25))
    target = vsr.upscale(clip, tmp_path / "out.mp4", model="identity", pix_fmt="yuv420p", crf=0).target
    before, after = shown(clip, ffmpeg, tmp_path).astype(int), shown(target, ffmpeg, tmp_path).astype(int)
    assert after.shape == (32, 48)
    assert np.abs(after[:31, :47] - before).max() <= 1
    assert np.abs(after[31] - after[30]).max() <= 1 and np.abs(after[:, 47] - after[:, 46]).max() <= 1


def test_a_family_of_models_uses_the_next_larger_scale(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(model: str, **keywords: object) -> object:
        asked.append(model)
        raise UsageError("far enough")

    monkeypatch.setattr("vsr.pipeline.segment.load_model", load)
    for options in ({}, {"scale": 1.5}, {"height": 128}):
        with pytest.raises(UsageError, match="far enough"):
            vsr.upscale(make_clip(), tmp_path / "out.mp4", **options)
    assert asked == ["video-x4", "video-x2", "video-x4"]


# What is refused, before any frame is computed


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.webm", {"codec": "h264"}, r"^\.webm cannot hold h264: take codec='av1' or 'vp9', or another ending\.$"),
        (
            "out.mp4",
            {"codec": "prores"},
            r"^\.mp4 cannot hold prores: take codec='h264' or 'hevc' or 'av1' or 'vp9' or 'ffv1',",
        ),
        ("out.mov", {"codec": "vp9"}, r"^\.mov cannot hold vp9: take codec='h264' or 'hevc' or 'prores',"),
        ("out.mov", {"codec": "av1"}, r"^\.mov cannot hold av1: take codec='h264' or 'hevc' or 'prores',"),
        ("out.ts", {"codec": "ffv1"}, r"^\.ts cannot hold ffv1: take codec='h264' or 'hevc',"),
        ("out.gif", {"codec": "h264"}, r"^a GIF holds no h264; leave codec out, or name another output\.$"),
        ("out.webm", {"codec": "libvpx"}, r"^vsr cannot write vp8, which neither MP4 nor QuickTime holds;"),
        ("out.avi", {"codec": "huffyuv"}, r"^vsr cannot write huffyuv, which neither MP4 nor QuickTime holds;"),
        (
            "out.mp4",
            {"codec": "h266"},
            r"has no video encoder 'h266': use h264, hevc, av1, vp9, prores, ffv1, or an enc",
        ),
        ("out.mp4", {"encoder": {"crff": "3"}}, r"encoder libx264 has no option crff: use .*; did you mean crf\?$"),
        (
            "out.mp4",
            {"encoder": {"crf": "best"}},
            r"^the encoder libx264 refuses 48x32 yuv420p with \{'crf': 'best'\}: ",
        ),
        ("out.mp4", {"pix_fmt": "yuv410p"}, r"^the encoder libx264 does not accept yuv410p: use gray, gray10le,"),
        ("out.webm", {"crf": 64}, r"^the crf of vp9 lies in 0\.\.63, got 64\.$"),
        ("out.mov", {"codec": "prores", "preset": "fast"}, r"^prores has no preset 'fast': use proxy, lt, standard,"),
    ],
)
def test_impossible_outputs_are_refused_at_the_start(
    name: str, options: dict[str, object], message: str, make_clip: MakeClip, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Encoder, "write", lambda *_: pytest.fail("a frame was computed"))
    clip = make_clip()
    with pytest.raises((UsageError, OutputError), match=message):
        vsr.upscale(clip, tmp_path / name, model="identity", **options)
    assert list(tmp_path.iterdir()) == [clip]


def test_a_relative_name_with_a_colon(make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip("clip.mp4", audio=["aac"]).rename(tmp_path / "a:b.mp4")
    monkeypatch.chdir(tmp_path)
    assert vsr.upscale("a:b.mp4", "c:d.mkv", model="identity").frames == 8
    assert Path("c:d.mkv").exists()


def test_a_missing_program_is_reported_first(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise FFmpegError("no ffmpeg program")

    monkeypatch.setattr("vsr.pipeline.outputs.ffmpeg_program", missing)
    monkeypatch.setattr("vsr.pipeline.segment.load_model", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(FFmpegError, match="no ffmpeg program"):
        vsr.upscale(make_clip(), tmp_path / "out.mp4", model="identity")


def test_damage_is_in_the_summary(make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = make_clip("in.mkv", codec="ffv1", pts=range(0, 1600, 40), time_base=Fraction(1, 1000))
    with clip.open("r+b") as file:
        file.truncate(clip.stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        summary = vsr.upscale(clip, tmp_path / "out.mkv", model="identity")
    assert 5 < summary.frames < 40 and summary.target.exists()
    assert "missing at the end: " in summary.damage
    assert f"{clip} is damaged: {summary.damage}. {summary.target} is kept." in caplog.text


def test_an_output_that_appears_during_the_job_keeps_the_segments(make_clip: MakeClip, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with pytest.raises(OutputError, match=r"exists already.* 8 frames are kept in .*out\.mp4\.vsr-job; run again"):
        vsr.upscale(make_clip(), target, model="identity", progress=lambda _: target.touch())
    assert target.stat().st_size == 0
    target.unlink()
    assert vsr.upscale(tmp_path / "clip.mp4", target, model="identity").resumed == 8
    with av.open(str(target)) as container:
        assert len(list(container.decode(video=0))) == 8


def test_pictures_that_appear_during_the_job_are_not_replaced(make_clip: MakeClip, tmp_path: Path) -> None:
    third = tmp_path / "f3.png"
    with pytest.raises(OutputError, match=r"f3\.png exists now; overwrite=True replaces it\. 8 frames are kept"):
        vsr.upscale(make_clip(), tmp_path / "f%d.png", model="identity", progress=lambda _: third.touch())
    assert [path.name for path in tmp_path.glob("*.png")] == ["f3.png"]
    assert third.stat().st_size == 0
    third.unlink()
    assert vsr.upscale(tmp_path / "clip.mp4", tmp_path / "f%d.png", model="identity").resumed == 8
    assert len(list(tmp_path.glob("*.png"))) == 8


def test_a_header_with_too_few_frames_is_an_error_for_one_picture(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsr.pipeline.outputs._has_one_frame", lambda clip: True)
    with pytest.raises(UsageError, match=r"one\.png is one picture, and there are more frames; name a pattern"):
        vsr.upscale(make_clip(), tmp_path / "one.png", model="identity")
    assert not (tmp_path / "one.png").exists()


def test_one_frame_selected_by_time_becomes_a_picture(make_clip: MakeClip, tmp_path: Path) -> None:
    target = tmp_path / "one.png"
    summary = vsr.upscale(make_clip(), target, model="identity", start=Fraction(1, 25), end=Fraction(2, 25))
    assert summary.frames == 1 and target.is_file()
