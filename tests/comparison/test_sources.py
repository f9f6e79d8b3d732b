"""The sources of a comparison: kinds, names, sizes, frames of the same moment, and rotation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from vsr.comparison.options import CompareOptions
from vsr.comparison.sources import Moment, Sources, open_sources
from vsr.errors import InputError, UsageError
from vsr.evaluation.pairing import at_even_spacing, at_numbers, at_times, iterate_in_step, place_clips
from vsr.imaging.pictures import Picture, write_picture
from vsr.imaging.resize import resize_bicubic
from vsr.media.clip import TURN, ColourTags
from vsr.media.formats import CODECS
from vsr.media.probe import probe
from vsr.media.provenance import Provenance
from vsr.media.reader import Frame
from vsr.media.writer import Encoder, VideoFormat

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]


def noise(height: int, width: int, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(path: Path, height: int, width: int, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_picture(path, noise(height, width, seed))
    return path


def opened(tmp_path: Path, *inputs: Path, **options: object) -> Sources:
    return open_sources(CompareOptions(inputs=inputs, target=tmp_path / "out.html", **options))  # type: ignore[arg-type]


def the_moment(tmp_path: Path, *inputs: Path, **options: object) -> Moment:
    chosen = CompareOptions(inputs=inputs, target=tmp_path / "out.html", **options)  # type: ignore[arg-type]
    (moment,) = open_sources(chosen).moments(chosen, 1)
    return moment


def test_pictures_become_panels_in_order(tmp_path: Path) -> None:
    lr, one, two, hr = (write(tmp_path / f"{name}.png", *size) for name, size in
                        (("lr", (15, 20)), ("one", (45, 60)), ("two", (45, 60)), ("hr", (45, 60))))  # fmt: skip
    moment = the_moment(tmp_path, one, two, lr=lr, hr=hr)
    labels = ["LR, 20x15", "bicubic, 60x45", "one.png, 60x45", "two.png, 60x45", "HR, 60x45"]
    assert [panel.label for panel in moment.panels] == labels
    assert [panel.factor for panel in moment.panels] == [3, 1, 1, 1, 1]
    assert [panel.shown.shape for panel in moment.panels] == [(45, 60, 3)] * 5
    assert moment.size == (45, 60) and moment.caption == ""
    assert np.array_equal(moment.panels[0].shown[::3, 2::3], noise(15, 20))
    planes = torch.from_numpy(noise(15, 20)).permute(2, 0, 1).float()
    expected = resize_bicubic(planes, 45, 60).round().clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.array_equal(moment.panels[1].picture, expected)
    without = the_moment(tmp_path, one, lr=lr, bicubic=False)
    assert [panel.role for panel in without.panels] == ["lr", "candidate"]


def test_labels_have_as_many_folders_as_needed(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a/out.png", 4, 4), write(tmp_path / "b/out.png", 4, 4)
    other = write(tmp_path / "line\nbreak.png", 4, 4)
    assert [file.label for file in opened(tmp_path, one, other).files] == ["out.png", "line\ufffdbreak.png"]
    assert [file.label for file in opened(tmp_path, one, two).files] == ["a/out.png", "b/out.png"]
    assert [file.label for file in opened(tmp_path, one, two, labels=("x", "ü")).files] == ["x", "ü"]
    twice = [file.label for file in opened(tmp_path, one, one).files]
    assert twice[0] == twice[1] and twice[0].endswith("a/out.png")


def test_unequal_sizes_are_refused(tmp_path: Path) -> None:
    one, two, lr = (write(tmp_path / f"{name}.png", *size) for name, size in
                    (("one", (40, 60)), ("two", (40, 61)), ("lr", (10, 16))))  # fmt: skip
    with pytest.raises(InputError, match=r"two\.png is 61x40 and .*one\.png is 60x40: nothing is rescaled"):
        the_moment(tmp_path, one, two)
    with pytest.raises(InputError, match=r"LR .*lr\.png is 16x10 and .*one\.png is 60x40, which is not a multiple"):
        the_moment(tmp_path, one, lr=lr)
    with pytest.raises(InputError, match=r"LR .*one\.png is 60x40 and .*lr\.png is 16x10, which is not a multiple"):
        the_moment(tmp_path, lr, lr=one)


def test_hr_is_cropped_to_a_multiple_of_the_scale(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, lr, hr = (write(tmp_path / f"{name}.png", *size) for name, size in
                   (("one", (40, 60)), ("lr", (10, 15)), ("hr", (43, 61))))  # fmt: skip
    with caplog.at_level(logging.WARNING, "vsr"):
        moment = the_moment(tmp_path, one, lr=lr, hr=hr)
    assert np.array_equal(moment.panels[-1].picture, noise(43, 61)[:40, :60])
    assert caplog.messages == [f"{hr} is cut to 60x40, the size of the candidates."]
    with pytest.raises(InputError, match=r"hr\.png is 61x43 and .*one\.png is 60x40: nothing is rescaled"):
        the_moment(tmp_path, one, hr=hr)
    with pytest.raises(InputError, match="nothing is rescaled"):
        the_moment(tmp_path, one, lr=lr, hr=write(tmp_path / "larger.png", 44, 60))


def test_pictures_and_clips_together_are_refused(tmp_path: Path, make_clip: MakeClip) -> None:
    picture, clip = write(tmp_path / "one.PNG", 32, 48), make_clip("two.mp4")
    with pytest.raises(UsageError, match=r"one\.PNG is a picture and .*two\.mp4 is not: compare files of one kind"):
        opened(tmp_path, clip, picture)
    with pytest.raises(UsageError, match="is a picture and"):
        opened(tmp_path, picture, lr=clip)
    with pytest.raises(UsageError, match=r"pictures cannot become the video .*out\.mp4: name a \.png or a \.html"):
        open_sources(CompareOptions(inputs=(picture, picture), target=tmp_path / "out.mp4"))


def test_frames_of_pictures_are_refused(tmp_path: Path) -> None:
    picture = write(tmp_path / "one.png", 8, 8)
    with pytest.raises(UsageError, match="times, frames and num_frames are for clips, and these are pictures"):
        the_moment(tmp_path, picture, picture, frames=(0,))


IRREGULAR = (0, 512, 700, 1900, 2048, 4000)


def test_clips_are_decoded_in_step(make_clip: MakeClip) -> None:
    """One counts in 1/12800 s, the other in milliseconds; both are irregular in the same way."""
    one = probe(make_clip("one.mp4", pts=IRREGULAR))
    pts = [round(stamp / 12.8) for stamp in IRREGULAR]
    two = probe(make_clip("two.mkv", pts=pts, time_base=Fraction(1, 1000)))
    instants = list(iterate_in_step([one, two]))
    assert [instant.number for instant in instants] == list(range(6))
    assert [instant.time_seconds for instant in instants] == [Fraction(stamp, 12800) for stamp in IRREGULAR]
    assert [instant.frames[1].pts for instant in instants] == pts


def test_clips_out_of_step_are_refused(make_clip: MakeClip) -> None:
    one, late = probe(make_clip("one.mp4")), probe(make_clip("late.mp4", pts=range(300, 300 + 8 * 512, 512)))
    with pytest.raises(
        InputError, match=r"late\.mp4 and .*one\.mp4 are not in step: frame 0 is at 0.023 s and at 0.0"
    ):
        list(iterate_in_step([one, late]))
    near = probe(make_clip("near.mp4", pts=range(200, 200 + 8 * 512, 512)))
    assert len(list(iterate_in_step([one, near]))) == 8
    dropped = probe(make_clip("dropped.mp4", pts=[0, 512, 1024, 2048, 2560]))
    with pytest.raises(InputError, match="not in step: frame 3 is at 0.160 s and at 0.120 s"):
        list(iterate_in_step([one, dropped]))


def test_the_shortest_clip_ends_the_comparison(make_clip: MakeClip, caplog: pytest.LogCaptureFixture) -> None:
    clips = [probe(make_clip("one.mp4")), probe(make_clip("short.mp4", pts=range(0, 5 * 512, 512)))]
    with caplog.at_level(logging.WARNING, "vsr"):
        assert len(list(iterate_in_step(clips))) == 5
    assert caplog.messages == [f"{clips[1].path} ends after 5 frames; the comparison ends there."]


@pytest.mark.parametrize(
    ("times", "numbers"),
    [
        ([0], [0]),
        ([0.039], [0]),
        ([0.04], [1]),  # less than 512/12800 by the rounding of a double
        ([0.1484375], [4]),
        ([0.3125, 0.05], [1, 5]),
        ([0.01, 0.02, 0.3], [0, 4]),
    ],
)
def test_the_frame_shown_at_a_time_is_found(make_clip: MakeClip, times: list[float], numbers: list[int]) -> None:
    clip = probe(make_clip(pts=(0, 512, 700, 1000, 1900, 4000)))
    assert [instant.number for instant in at_times(iterate_in_step([clip]), times)] == numbers


def test_times_and_frames_outside_of_the_clip_are_refused(make_clip: MakeClip) -> None:
    clip = probe(make_clip(pts=range(1280, 1280 + 8 * 512, 512)))
    with pytest.raises(UsageError, match="0.050 s is before the start of the clip, at 0.100 s"):
        list(at_times(iterate_in_step([clip]), [0.2, 0.05]))
    with pytest.raises(UsageError, match="0.420 s is after the end of the clip, at 0.420 s"):
        list(at_times(iterate_in_step([clip]), [0.2, 0.42]))
    with pytest.raises(UsageError, match="there is no frame 8: the clip has 8 frames, counted from 0"):
        list(at_numbers(iterate_in_step([clip]), [0, 8]))


@pytest.mark.parametrize(
    ("count", "numbers"), [(1, [6]), (2, [3, 9]), (4, [1, 4, 8, 11]), (13, list(range(13))), (99, list(range(13)))]
)
def test_frames_are_evenly_spaced(make_clip: MakeClip, count: int, numbers: list[int]) -> None:
    clip = probe(make_clip(pts=range(0, 13 * 512, 512), options={"bf": "3"}, audio=["aac"]))
    assert place_clips([clip])[0].num_packets == 13
    assert [instant.number for instant in at_even_spacing(iterate_in_step([clip]), count, 13)] == numbers


@pytest.mark.parametrize(("count", "numbers"), [(1, [7]), (2, [5]), (5, [2, 6])])
def test_fewer_frames_than_packets_are_a_warning(
    make_clip: MakeClip, caplog: pytest.LogCaptureFixture, count: int, numbers: list[int]
) -> None:
    """This happens if two packets hold the fields of one frame."""
    with caplog.at_level(logging.WARNING, "vsr"):
        found = [instant.number for instant in at_even_spacing(iterate_in_step([probe(make_clip())]), count, 20)]
    assert found == numbers
    assert caplog.messages == [
        f"fewer frames could be decoded than the clip has packets: {len(numbers)} are shown."
    ]  # fmt: skip


def grey_clip(path: Path, **more: Any) -> Picture:
    """Write a lossless clip of one frame, and return its luma."""
    video = VideoFormat(
        width=48, height=32, pix_fmt="gray", time_base=Fraction(1, 25), rate=Fraction(25),
        tags=ColourTags(range=2), **more,
    )  # fmt: skip
    luma = np.arange(48 * 32, dtype=np.uint16).reshape(32, 48).astype(np.uint8)
    with Encoder(path, CODECS["h264"], {"crf": "0"}, video) as encoder:
        encoder.write(Frame((luma,), 0, 1))
    return luma


def test_a_rotated_clip_is_shown_upright(tmp_path: Path) -> None:
    clip = tmp_path / "turned.mp4"
    luma = grey_clip(clip, display_matrix=(0, TURN, 0, -TURN, 0, 0, 0, 0, 1 << 30))
    moment = the_moment(tmp_path, clip, clip)
    assert np.array_equal(moment.panels[0].picture, np.rot90(luma, -1)[..., None].repeat(3, 2))


def test_pixels_that_are_not_square_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = tmp_path / "wide.mp4"
    grey_clip(clip, sample_aspect_ratio=Fraction(2))
    with caplog.at_level(logging.WARNING, "vsr"):
        the_moment(tmp_path, clip, clip)
    assert caplog.messages == [f"{clip} has pixels that are not square; they are shown as square ones."] * 2


def test_the_colours_of_a_clip_are_exact(make_clip: MakeClip, tmp_path: Path) -> None:
    """RGB in a lossless codec is shown unchanged."""
    clip = make_clip("one.mkv", codec="libx264rgb", pix_fmt="rgb24", options={"qp": "0"})
    with av.open(str(clip)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(the_moment(tmp_path, clip, clip, frames=(3,)).panels[1].picture, expected[3])


MADE = Provenance("1.0", "video-x4", 0.5, 4)
StateOrigin = Callable[[Path, Provenance], Path]


def frames(first: int, count: int) -> range:
    """Timestamps for ``make_clip``, at 25 frames a second."""
    return range(first * 512, (first + count) * 512, 512)


def test_labels_say_model_detail_and_size_where_the_clip_says_so(
    make_clip: MakeClip, tmp_path: Path, state_origin: StateOrigin
) -> None:
    one, two = state_origin(make_clip("one.mp4"), MADE), state_origin(make_clip("two.mkv"), replace(MADE, detail=1.0))
    three = make_clip("three.mp4")
    labels = [panel.label for panel in the_moment(tmp_path, one, two, three).panels]
    assert labels == ["video-x4, detail 0.5, 48x32", "video-x4, detail 1, 48x32", "three.mp4, 48x32"]
    again = state_origin(make_clip("again.mp4"), MADE)
    labels = [panel.label for panel in the_moment(tmp_path, one, again).panels]
    assert labels == [f"{name}: video-x4, detail 0.5, 48x32" for name in ("one.mp4", "again.mp4")]
    given = [panel.label for panel in the_moment(tmp_path, one, two, labels=("x", "y")).panels]
    assert given == ["x", "y"]


@pytest.mark.parametrize("name", ["part.mp4", "part.mkv"])
def test_a_part_is_shown_beside_the_same_part_of_its_source(
    make_clip: MakeClip, tmp_path: Path, state_origin: StateOrigin, name: str
) -> None:
    """The part is of other frames, so that the test sees which ones of the source are beside it."""
    whole, part = make_clip("whole.mp4", pts=frames(0, 60), options={"g": "7"}), make_clip(name, pts=frames(0, 20))
    state_origin(part, replace(MADE, start=Fraction("1.2"), end=Fraction(2)))
    for inputs in ((whole, part), (part, whole)):
        sources = opened(tmp_path, *inputs)
        assert sources.num_frames_estimated == 20
        instants = list(sources.instants())
        times = [(instant.number, float(instant.time_seconds)) for instant in instants]
        assert times == [(number, pytest.approx(1.2 + number / 25, abs=1e-3)) for number in range(20)]
        place = inputs.index(whole)
        assert [instant.frames[place].pts for instant in instants] == list(frames(30, 20))


def test_parts_are_shown_where_they_overlap(make_clip: MakeClip, tmp_path: Path, state_origin: StateOrigin) -> None:
    one, two, late = (make_clip(f"{name}.mp4", pts=frames(0, 20)) for name in ("one", "two", "late"))
    for clip, start in ((one, "1.2"), (two, "1.6"), (late, "2.4")):
        state_origin(clip, replace(MADE, start=Fraction(start)))
    instants = list(opened(tmp_path, one, two).instants())
    assert [instant.frames[0].pts for instant in instants] == list(frames(10, 10))
    assert [instant.frames[1].pts for instant in instants] == list(frames(0, 10))
    words = r"late.mp4 begins at 2.400 s of the source and .*one.mp4 ends at 2.000 s: they show no common part; align="
    with pytest.raises(InputError, match=words):
        opened(tmp_path, one, late)
    instants = list(opened(tmp_path, one, late, align="start").instants())
    assert [float(instant.time_seconds) for instant in instants[:2]] == [0, 0.04] and len(instants) == 20


def test_a_part_that_begins_between_two_frames_is_in_step(
    make_clip: MakeClip, tmp_path: Path, state_origin: StateOrigin
) -> None:
    """The source counts in frames, so that its part begins up to half a frame beside the time asked for."""
    whole = make_clip("whole.mkv", pts=range(0, 2400, 40), time_base=Fraction(1, 1000))
    part = state_origin(make_clip("part.mp4", pts=frames(1, 10)), replace(MADE, start=Fraction("1.015")))
    instants = list(opened(tmp_path, whole, part).instants())
    assert [instant.frames[0].pts for instant in instants] == list(range(1040, 1440, 40))


@pytest.mark.parametrize(
    ("count", "accepted"), [(100, True), (99, True), (98, True), (97, True), (96, False), (50, False)]
)
def test_durations_that_disagree_are_refused(
    make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, accepted: bool
) -> None:
    """Two percent and a frame are allowed, as the last frames of a clip may be lost."""
    whole, short = make_clip("whole.mp4", pts=frames(0, 100)), make_clip("short.mp4", pts=frames(0, count))
    if accepted:
        assert len(list(opened(tmp_path, whole, short).instants())) == count
        return
    words = rf"short.mp4 lasts {count / 25:.3f} s and .*whole.mp4 4.000 s, and nothing in them says which part of"
    for inputs in ((whole, short), (short, whole)):
        with pytest.raises(InputError, match=words):
            opened(tmp_path, *inputs)
    with caplog.at_level(logging.WARNING, "vsr"):
        assert len(list(opened(tmp_path, whole, short, align="start").instants())) == count
    assert caplog.messages == [f"{short} ends after {count} frames; the comparison ends there."]


def test_align_start_ignores_when_clips_begin(make_clip: MakeClip, tmp_path: Path) -> None:
    one, late = make_clip("one.mp4"), make_clip("late.mp4", pts=frames(10, 8))
    instants = list(opened(tmp_path, late, one, align="start").instants())
    assert [float(instant.time_seconds) for instant in instants[:2]] == [0.4, 0.44]
    with pytest.raises(InputError, match="not in step"):
        list(opened(tmp_path, late, one).instants())
