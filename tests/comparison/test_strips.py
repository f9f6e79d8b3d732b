from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from vsr.comparison import draw
from vsr.comparison.compare import compare
from vsr.comparison.draw import BACKGROUND, MARKS, draw_strip, find_regions
from vsr.comparison.options import CompareOptions, Region
from vsr.comparison.sources import Moment, Panel
from vsr.errors import OutputError, UsageError
from vsr.imaging.pictures import Picture, read_picture, write_picture

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]


def noise(height: int, width: int, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def candidates(*pictures: Picture) -> list[Panel]:
    return [Panel(f"candidate {number}", "candidate", picture) for number, picture in enumerate(pictures)]


def planted(picture: Picture, *places: tuple[int, int, int]) -> Picture:
    """A copy that differs by ``amount`` in a patch of 10 x 10 pixels around each (x, y, amount)."""
    result = picture.copy()
    for x, y, amount in places:
        patch = result[y - 5 : y + 5, x - 5 : x + 5]
        patch[:] = np.where(patch > 127, patch - amount, patch + amount)
    return result


def holds(region: Region, x: int, y: int) -> bool:
    """Whether a region contains the whole patch around a position."""
    across = region.x <= x - 5 and x + 5 <= region.x + region.width
    return across and region.y <= y - 5 and y + 5 <= region.y + region.height


def test_regions_are_found_where_the_candidates_differ_most() -> None:
    one = noise(120, 160)
    two = planted(one, (30, 100, 90), (130, 20, 120), (80, 60, 20))
    first, second = find_regions(candidates(one, two), 2)
    assert (first.width, first.height) == (40, 30) == (second.width, second.height)
    assert holds(first, 130, 20) and holds(second, 30, 100)


def test_any_two_of_three_candidates_may_differ() -> None:
    one = noise(80, 80)
    (region,) = find_regions(candidates(one, one, planted(one, (60, 20, 50))), 1)
    assert holds(region, 60, 20)


@pytest.mark.parametrize(("others", "place"), [(("lr", "bicubic", "hr"), 20), (("lr", "bicubic"), 40), (("lr",), 60)])
def test_a_single_candidate_is_compared_with_hr_bicubic_or_lr(others: Sequence[str], place: int) -> None:
    one = noise(80, 80)
    shown = {"hr": planted(one, (20, 20, 60)), "bicubic": planted(one, (40, 40, 60)), "lr": planted(one, (60, 60, 60))}
    panels = [Panel(role, role, shown[role]) for role in others]  # type: ignore[arg-type]
    (region,) = find_regions([*panels, *candidates(one)], 1)
    assert holds(region, place, place)


def test_regions_do_not_overlap_and_are_in_the_picture() -> None:
    found = find_regions(candidates(noise(67, 101, 1), noise(67, 101, 2)), 9)
    covered = np.zeros((67, 101), int)
    for region in found:
        part = covered[region.y : region.y + region.height, region.x : region.x + region.width]
        assert part.shape == (region.height, region.width) == (16, 25)
        part += 1
    assert len(found) == 9 and covered.max() == 1


def test_regions_that_cannot_be_found_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    one = noise(20, 20)
    with caplog.at_level(logging.WARNING, "vsr"):
        (region,) = find_regions(candidates(one, one), 3)
    assert region.width == region.height == 16
    assert caplog.messages == [
        "the candidates do not differ anywhere in the picture.",
        "the picture has room for 1 of 3 regions.",
    ]
    caplog.clear()
    assert find_regions(candidates(one, one), 0) == [] and not caplog.messages
    assert find_regions(candidates(noise(5, 9), noise(5, 9, 1)), 1) == [Region(0, 0, 9, 5)]


def test_every_pixel_is_exact_and_at_its_position() -> None:
    lr, one, hr = noise(15, 20, 1), noise(60, 80, 2), noise(60, 80, 3)
    panels = (Panel("LR", "lr", lr, 4), *candidates(one), Panel("HR", "hr", hr))
    regions = [Region(30, 20, 20, 15), Region(0, 40, 33, 20)]
    strip = draw_strip(Moment(panels), regions)
    assert strip.factors == (4, 2) and strip.panels == () and strip.overview is not None
    x, y = strip.overview
    overview = strip.picture[y : y + 60, x : x + 80]
    marked = (overview != one).any(2)
    marks = np.zeros((60, 80), bool)
    for region in regions:  # a frame of two pixels and a dark edge of one, around the region
        rows = slice(max(0, region.y - 3), region.y + region.height + 3)
        marks[rows, max(0, region.x - 3) : region.x + region.width + 3] = True
    for region in regions:
        marks[region.y : region.y + region.height, region.x : region.x + region.width] = False
    assert not marked[~marks].any() and marked[marks].all()
    assert tuple(overview[19, 40]) == MARKS[0] and tuple(overview[17, 40]) == (0, 0, 0)
    for number, picture in enumerate([lr.repeat(4, 0).repeat(4, 1), one, hr]):
        for region, factor, places in zip(regions, strip.factors, strip.zooms, strict=True):
            x, y = places[number]
            part = picture[region.y : region.y + region.height, region.x : region.x + region.width]
            zoomed = strip.picture[y : y + factor * region.height, x : x + factor * region.width]
            assert np.array_equal(zoomed, part.repeat(factor, 0).repeat(factor, 1))


def test_panels_zooms_and_labels_do_not_overlap() -> None:
    """Panels and zooms cover no common pixel, and labels are above each panel on the background."""
    panels = tuple(candidates(*(noise(60, 80, seed) for seed in range(3))))
    strip = draw_strip(Moment(panels), [Region(0, 0, 20, 15), Region(40, 30, 20, 15)])
    assert strip.overview is not None
    covered, near = (np.zeros(strip.picture.shape[:2], int) for _ in range(2))
    for x, y in (strip.overview, *strip.zooms[0], *strip.zooms[1]):
        covered[y : y + 60, x : x + 80] += 1
        near[y - 2 : y + 62, x - 2 : x + 82] += 1
    assert covered.sum() == 7 * 60 * 80 and near.max() == 1 and near.sum() == 7 * 64 * 84, "at a distance"
    written = (strip.picture != BACKGROUND).any(2) & (covered == 0)
    for x, y in (strip.overview, *strip.zooms[0], *strip.zooms[1]):
        assert written[y - 20 : y, x : x + 80].any()
    right = strip.zooms[0][0][0]
    assert not written[:, strip.overview[0] + 80 : right].any()


@pytest.mark.parametrize(
    ("count", "places"),
    [(2, [(0, 0), (1, 0)]), (3, [(0, 0), (1, 0), (0, 1)]), (4, [(0, 0), (1, 0), (0, 1), (1, 1)])],
)
def test_two_panels_are_in_a_row_and_more_in_a_grid(count: int, places: list[tuple[int, int]]) -> None:
    moment = Moment(tuple(candidates(*(noise(60, 80, seed) for seed in range(count)))))
    zoomed = draw_strip(moment, [Region(0, 0, 20, 15)])
    assert zoomed.overview is not None
    cells = [zoomed.overview, *zoomed.zooms[0]] if count == 3 else zoomed.zooms[0]  # of three, one is free for it
    for found, expected in ((draw_strip(moment, []).panels, places), (cells, [*places, (1, 1)][: len(cells)])):
        left, rows = min(x for x, _ in found), sorted({y for _, y in found})
        assert [((x - left) // 80, rows.index(y)) for x, y in found] == expected
    without = draw_strip(moment, [])
    assert without.overview is None and without.regions == without.zooms == ()


@pytest.mark.parametrize("panels", [2, 3])
def test_regions_keep_a_distance_from_each_other_and_from_the_edges(panels: int) -> None:
    one = noise(120, 160)
    others = [planted(one, (5, 5, 120), (70, 60, 90), (100, 60, 80), (155, 115, 100))] * (panels - 1)
    found = find_regions(candidates(one, *others), 3)
    covered = np.zeros((120, 160), int)
    for region in found:
        assert 5 <= region.x <= 115 and 4 <= region.y <= 86
        covered[region.y - 7 : region.y + region.height + 7, region.x - 9 : region.x + region.width + 9] += 1
    assert len(found) == 3 and covered.max() == 1


def saved(tmp_path: Path, **pictures: Picture) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.png" for name in pictures}
    for name, picture in pictures.items():
        write_picture(paths[name], picture)
    return paths


def test_a_strip_of_pictures_is_written(tmp_path: Path) -> None:
    lr, one = noise(15, 20), noise(60, 80, 1)
    files = saved(tmp_path, lr=lr, one=one, hr=planted(one, (60, 30, 80)))
    target = tmp_path / "strip.png"
    options = CompareOptions(inputs=(files["one"],), lr=files["lr"], hr=files["hr"], target=target, num_regions=1)
    reports: list[object] = []
    summary = compare(options, reports.append)
    assert summary.labels == ("LR, 20x15", "bicubic, 80x60", "one.png, 80x60", "HR, 80x60")
    assert (summary.kind, summary.frames) == ("strip", 1)
    assert len(reports) == 1 and summary.num_bytes == target.stat().st_size
    picture = read_picture(target)
    assert picture.shape == (summary.height, summary.width, 3)
    bicubic = cv2.resize(lr, (80, 60), interpolation=cv2.INTER_CUBIC)
    panels = (Panel("LR", "lr", lr, 4), Panel("bicubic", "bicubic", bicubic), *candidates(one))
    overview = draw_strip(Moment((*panels, Panel("HR", "hr", one))), [Region(0, 0, 20, 16)]).overview
    assert overview is not None
    x, y = overview
    assert np.array_equal(picture[y : y + 15, x : x + 30], one[:15, :30])


def test_the_suffix_of_a_png_strip_may_be_in_capitals(tmp_path: Path) -> None:
    files = saved(tmp_path, a=noise(40, 60), b=noise(40, 60, 1))
    target = tmp_path / "OUT.PNG"
    compare(CompareOptions(inputs=tuple(files.values()), target=target))
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_jpeg_strip_is_close_and_one_of_low_quality_small(tmp_path: Path) -> None:
    one = cv2.GaussianBlur(noise(60, 80), (0, 0), 3)
    files = saved(tmp_path, one=one, two=cv2.GaussianBlur(one, (0, 0), 3))
    png, good, poor = tmp_path / "s.png", tmp_path / "good.jpg", tmp_path / "poor.jpeg"
    both = (files["one"], files["two"])
    for target, quality in ((png, None), (good, None), (poor, 20)):
        compare(CompareOptions(inputs=both, target=target, quality=quality))
    difference = np.abs(read_picture(good).astype(int) - read_picture(png))
    assert good.read_bytes().startswith(b"\xff\xd8") and 0 < difference.mean() < 2
    assert poor.stat().st_size < good.stat().st_size / 2


def test_a_jpeg_that_would_be_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw.JPEG_EDGE == 2**16 - 1
    monkeypatch.setattr(draw, "JPEG_EDGE", 171)  # two panels of 80 and three gaps of 4 make 172
    files = saved(tmp_path, one=noise(60, 80), two=noise(60, 80, 1))
    with pytest.raises(OutputError, match=r"a strip of 172x\d+ is larger than a JPEG can be .*: name a .png"):
        compare(CompareOptions(inputs=tuple(files.values()), target=tmp_path / "s.jpg", num_regions=0))
    assert not (tmp_path / "s.jpg").exists()


@pytest.mark.parametrize("region", [Region(70, 0, 11, 5), Region(0, 56, 5, 5), Region(-1, 0, 5, 5), Region(0, 0, 0, 5)])
def test_regions_outside_of_the_picture_are_refused(tmp_path: Path, region: Region) -> None:
    files = saved(tmp_path, one=noise(60, 80), two=noise(60, 80, 1))
    with pytest.raises(UsageError, match=rf"the region {region} \(x, y, width, height\) is outside of the 80x60"):
        compare(CompareOptions(inputs=tuple(files.values()), target=tmp_path / "s.png", regions=(region,)))


def frames_of(clip: Path) -> list[Picture]:
    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


LOSSLESS: Any = {"codec": "libx264rgb", "pix_fmt": "rgb24", "options": {"qp": "0"}}


@pytest.mark.parametrize(
    ("chosen", "frames"),
    [({"frames": (5, 1)}, [1, 5]), ({"times": (0.2, 0.05)}, [1, 5]), ({"times": (0.0, 0.319)}, [0, 7]), ({}, [4])],
)
def test_strips_of_frames_are_one_below_the_other(
    make_clip: MakeClip, tmp_path: Path, chosen: dict[str, tuple[float, ...]], frames: list[int]
) -> None:
    """Frames of a lossless clip are exact; if none is chosen, the one in the middle is shown."""
    clips = [make_clip("one.mkv", size=(80, 60), **LOSSLESS), make_clip("two.mkv", size=(80, 60), **LOSSLESS)]
    target = tmp_path / "strip.png"
    summary = compare(CompareOptions(inputs=tuple(clips), target=target, num_regions=0, **chosen))  # type: ignore[arg-type]
    assert summary.frames == len(frames)
    content = frames_of(clips[0])
    panels = tuple(candidates(content[0], content[0]))
    alone = draw_strip(Moment(panels, 0, Fraction(0)), [])
    rows = alone.picture.shape[0]
    picture = read_picture(target)
    assert picture.shape == (rows * len(frames), *alone.picture.shape[1:])
    for index, number in enumerate(frames):
        for x, y in alone.panels:
            assert np.array_equal(picture[index * rows + y : index * rows + y + 60, x : x + 80], content[number])


def test_a_frame_has_a_caption() -> None:
    panels = tuple(candidates(noise(60, 80)))
    moment = Moment(panels, 12, Fraction(12, 25))
    assert moment.caption == "0.480 s, frame 12"
    without, captioned = draw_strip(Moment(panels), []), draw_strip(moment, [])
    added = captioned.panels[0][1] - without.panels[0][1]
    assert added > 0 and (captioned.picture[: added + 4] != BACKGROUND).any()
