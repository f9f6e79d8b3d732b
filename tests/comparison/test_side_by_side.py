from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vsr.comparison import draw
from vsr.comparison.compare import compare
from vsr.comparison.draw import BACKGROUND, VIDEO_INK, arrange, compose
from vsr.comparison.options import CompareOptions, CompareProgress
from vsr.comparison.sources import Panel
from vsr.errors import UsageError
from vsr.imaging.pictures import Picture
from vsr.media.clip import TURN, ColourTags
from vsr.media.formats import CODECS
from vsr.media.probe import probe
from vsr.media.provenance import Provenance
from vsr.media.reader import Frame
from vsr.media.writer import Encoder, VideoFormat

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]

IRREGULAR = (100, 612, 800, 2000, 2148, 4100)
"""In ticks of 1/12800 s, as ``make_clip`` counts them."""


def noise(height: int, width: int, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def flat_clip(
    path: Path, luma: int, pts: Sequence[int] = IRREGULAR, size: tuple[int, int] = (192, 128), **more: Any
) -> Path:
    """Write a clip of one shade of grey, without sound."""
    width, height = size
    video = VideoFormat(
        width=width, height=height, pix_fmt="gray", time_base=Fraction(1, 12800), rate=Fraction(25),
        tags=ColourTags(range=2), **more,
    )  # fmt: skip
    with Encoder(path, CODECS["h264"], {"preset": "ultrafast"}, video) as encoder:
        for stamp in pts:
            encoder.write(Frame((np.full((height, width), luma, np.uint8),), stamp, 500))
    return path


def panels(*pictures: Picture) -> list[Panel]:
    return [Panel("", "candidate", picture) for picture in pictures]


def frames_of(clip: Path) -> list[av.VideoFrame]:
    with av.open(str(clip)) as container:
        return list(container.decode(video=0))


def sound_of(clip: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(clip)) as container:
        stream = container.streams.audio[0]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size]


def test_each_slice_shows_its_part_of_its_panel() -> None:
    one, two, three = noise(60, 90, 1), noise(60, 90, 2), noise(60, 90, 3)
    composition = arrange("split", 3, 60, 90)
    assert (composition.frame_height, composition.frame_width, composition.divider) == (60, 90, 2)
    picture = compose(composition, panels(one, two, three))
    below = slice(40, 60)  # the labels are above
    assert np.array_equal(picture[below, :28], one[below, :28])
    assert np.array_equal(picture[below, 32:58], two[below, 32:58])
    assert np.array_equal(picture[below, 62:], three[below, 62:])
    assert (picture[below, 29:31] == VIDEO_INK).all() and (picture[below, 59:61] == VIDEO_INK).all()
    assert np.array_equal(picture[below, 28], one[below, 28] // 3)  # a dark edge keeps the line visible


@pytest.mark.parametrize(
    ("layout", "count", "size", "places"),
    [
        ("side-by-side", 3, (60, 278), [(0, 0), (94, 0), (188, 0)]),
        ("grid", 3, (124, 184), [(0, 0), (94, 0), (0, 64)]),
        ("grid", 4, (124, 184), [(0, 0), (94, 0), (0, 64), (94, 64)]),
        ("grid", 5, (124, 278), [(0, 0), (94, 0), (188, 0), (0, 64), (94, 64)]),
    ],
)
def test_whole_panels_are_in_rows(
    layout: Any, count: int, size: tuple[int, int], places: list[tuple[int, int]]
) -> None:
    pictures = [noise(60, 90, seed) for seed in range(count)]
    picture = compose(arrange(layout, count, 60, 90), panels(*pictures))
    assert picture.shape == (*size, 3)
    covered = np.zeros(size, bool)
    for (x, y), panel in zip(places, pictures, strict=True):
        assert np.array_equal(picture[y + 40 : y + 60, x : x + 90], panel[40:])
        covered[y : y + 60, x : x + 90] = True
    assert (picture[~covered] == BACKGROUND).all()


def test_odd_edges_are_padded_and_nothing_is_lost() -> None:
    picture = compose(arrange("split", 2, 61, 91), panels(noise(61, 91), noise(61, 91, 1)))
    assert picture.shape == (62, 92, 3)
    assert np.array_equal(picture[40:61, 50:91], noise(61, 91, 1)[40:, 50:])
    assert (picture[61] == BACKGROUND).all() or (picture[61, 50:] == BACKGROUND).all()


def test_labels_are_in_the_corner_of_their_slice() -> None:
    white = np.full((120, 640, 3), 255, np.uint8)
    composition = arrange("split", 2, 120, 640)
    plain = compose(composition, panels(white, white))
    named = compose(composition, [Panel("one.mp4", "candidate", white), Panel("Bär – 2.mp4", "candidate", white)])
    changed = (plain != named).any(2)
    assert changed[:40, :120].any() and changed[:40, 320:440].any()
    assert not changed[40:].any() and not changed[:, 140:320].any() and not changed[:, 480:].any()
    corner = named[6:30, 6:80]
    assert corner.min() < 100 and (corner == VIDEO_INK).all(2).any(), "bright letters on a shaded background"


def test_a_frame_that_h264_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match=r"5 panels of 3840x2160 make a frame of 19296x2160, .* use layout='grid'"):
        arrange("side-by-side", 5, 2160, 3840)
    with pytest.raises(UsageError, match="use layout='split'"):
        arrange("grid", 4, 2160, 8190)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_a_split_screen_keeps_times_and_sound(make_clip: MakeClip, tmp_path: Path, ending: str) -> None:
    # A finer time scale for the edit list; otherwise the start is rounded to milliseconds.
    lr = make_clip("lr.mp4", pts=IRREGULAR, audio=["aac"], container_options={"movie_timescale": "12800"})
    one, two = flat_clip(tmp_path / "one.mp4", 60), flat_clip(tmp_path / "two.mp4", 180)
    target = tmp_path / f"out{ending}"
    reports: list[CompareProgress] = []
    options = CompareOptions(inputs=(one, two), lr=lr, bicubic=False, target=target, layout="split")
    summary = compare(options, reports.append)
    assert (summary.kind, summary.frames) == ("video", 6)
    assert summary.labels == ("LR, 48x32", "one.mp4, 192x128", "two.mp4, 192x128")
    assert [report.frames for report in reports] == [1, 2, 3, 4, 5, 6]
    frames = frames_of(target)
    rounding = Fraction(1, 2000) if ending == ".mkv" else 0
    for frame, stamp in zip(frames, IRREGULAR, strict=True):
        assert abs(frame.pts * frame.time_base - Fraction(stamp, 12800)) <= rounding
        grey = frame.to_ndarray(format="rgb24", src_colorspace="ITU709")
        assert np.abs(grey[60:, 70:122].astype(int) - 60).max() <= 3
        assert np.abs(grey[60:, 134:].astype(int) - 180).max() <= 3
    assert [content for _, content in sound_of(target)] == [content for _, content in sound_of(lr)]
    for (at, _), (expected, _) in zip(sound_of(target), sound_of(lr), strict=True):
        assert abs(at - expected) <= rounding
    info = probe(target).video
    assert (info.width, info.height, info.pix_fmt, info.codec) == (192, 128, "yuv420p", "h264")
    assert (info.tags.range, info.tags.matrix) == (1, 1)


def test_a_video_shows_bicubic_instead_of_lr(make_clip: MakeClip, tmp_path: Path) -> None:
    lr, one = make_clip("lr.mp4", pts=IRREGULAR), flat_clip(tmp_path / "one.mp4", 60)
    summary = compare(CompareOptions(inputs=(one,), lr=lr, target=tmp_path / "o.mp4", layout="side-by-side"))
    assert summary.labels == ("bicubic, 192x128", "one.mp4, 192x128") and (summary.width, summary.height) == (388, 128)
    assert probe(tmp_path / "o.mp4").others == ()


@pytest.mark.parametrize(("count", "size"), [(2, (192, 128)), (3, (388, 260)), (4, (388, 260))])
def test_more_than_two_panels_are_in_a_grid(tmp_path: Path, count: int, size: tuple[int, int]) -> None:
    clips = tuple(flat_clip(tmp_path / f"{number}.mp4", 60) for number in range(count))
    summary = compare(CompareOptions(inputs=clips, target=tmp_path / "out.mp4"))
    assert (summary.width, summary.height) == size


def test_a_grid_that_h264_cannot_hold_becomes_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "CODEC", replace(CODECS["h264"], largest=300))
    clips = tuple(flat_clip(tmp_path / f"{number}.mp4", 60) for number in range(3))
    summary = compare(CompareOptions(inputs=clips, target=tmp_path / "out.mp4"))
    assert (summary.width, summary.height) == (192, 128)


def seconds_of(clip: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames_of(clip)]


@pytest.mark.parametrize("heard", ["whole", "part"])
def test_a_part_beside_its_source_has_the_sound_of_the_part(
    make_clip: MakeClip, tmp_path: Path, state_origin: Callable[..., Path], heard: str
) -> None:
    audio: dict[str, Any] = {"audio": ["aac"]}
    whole = make_clip("whole.mp4", pts=range(0, 50 * 512, 512), **(audio if heard == "whole" else {}))
    part = make_clip("part.mp4", pts=range(0, 20 * 512, 512), **(audio if heard == "part" else {}))
    state_origin(part, Provenance("1", "m", 1, 4, start=Fraction(1), end=Fraction("1.8")))
    target = tmp_path / "out.mp4"
    assert compare(CompareOptions(inputs=(whole, part), target=target)).frames == 20
    shown = seconds_of(target)
    assert shown == [shown[0] + Fraction(number, 25) for number in range(20)] and shown[0] < Fraction(1, 20)
    found, packets = sound_of(target), [content for _, content in sound_of(whole if heard == "whole" else part)]
    place = packets.index(found[3][1])
    assert [content for _, content in found] == packets[place - 3 : place - 3 + len(found)]
    begins = sound_of(whole if heard == "whole" else part)[place][0] - (1 if heard == "whole" else 0)
    assert found[3][0] - shown[0] == pytest.approx(begins, abs=0.002)
    assert 0.7 < len(found) * 1024 / 48000 < 0.9


def test_the_sound_is_that_of_the_first_clip_with_some(make_clip: MakeClip, tmp_path: Path) -> None:
    """Its time base is not that of the clip that gives the timestamps."""
    silent = flat_clip(tmp_path / "silent.mp4", 60, size=(48, 32))
    pts = [round(stamp / 12.8) for stamp in IRREGULAR]
    heard = make_clip("heard.mkv", pts=pts, time_base=Fraction(1, 1000), audio=["aac", "aac"])
    other = make_clip("other.mp4", pts=IRREGULAR, audio=["libmp3lame"])
    target = tmp_path / "out.mp4"
    compare(CompareOptions(inputs=(silent, heard, other), target=target, layout="grid"))
    assert [frame.pts * frame.time_base for frame in frames_of(target)] == [Fraction(p, 12800) for p in IRREGULAR]
    assert [stream.codec for stream in probe(target).others] == ["aac", "aac"]
    assert [content for _, content in sound_of(target)] == [content for _, content in sound_of(heard)]


def test_sound_that_the_container_cannot_hold_is_converted_with_a_warning(
    make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip("one.mkv", audio=["libopus"])
    with caplog.at_level(logging.WARNING, "vsr"):
        compare(CompareOptions(inputs=(clip, clip), target=tmp_path / "out.mov"))
    assert [stream.codec for stream in probe(tmp_path / "out.mov").others] == ["aac"]
    assert caplog.messages == ["one.mkv: stream 1, opus audio: converted to aac (mov cannot hold opus)"]


def test_rotated_clips_are_shown_upright_with_their_pixel_aspect_ratio(tmp_path: Path) -> None:
    turned = {"display_matrix": (0, TURN, 0, -TURN, 0, 0, 0, 0, 1 << 30), "sample_aspect_ratio": Fraction(2)}
    one, two = flat_clip(tmp_path / "1.mp4", 60, **turned), flat_clip(tmp_path / "2.mp4", 180, **turned)
    summary = compare(CompareOptions(inputs=(one, two), target=tmp_path / "out.mp4"))
    assert (summary.width, summary.height) == (128, 192)
    assert probe(tmp_path / "out.mp4").video.sample_aspect_ratio == Fraction(1, 2)


def test_an_interrupted_video_leaves_no_file(make_clip: MakeClip, tmp_path: Path) -> None:
    one, two = flat_clip(tmp_path / "1.mp4", 60), flat_clip(tmp_path / "2.mp4", 60)

    def stop(at: CompareProgress) -> None:
        if at.frames == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(CompareOptions(inputs=(one, two), target=tmp_path / "out.mp4"), stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.mp4", "2.mp4"]
