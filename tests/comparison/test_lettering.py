from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from vsr.comparison import draw
from vsr.comparison.draw import letter, line_height, paint, size_for


def test_letters_grow_with_the_panel() -> None:
    assert [size_for(width) for width in (100, 320, 1920, 3840)] == [13, 13, 64, 128]


@pytest.mark.parametrize("size", [13, 64])
def test_a_line_has_its_height_and_ink_in_the_middle(size: int) -> None:
    line = letter("Ägypten", size, 4000)
    assert line.shape[0] == line_height(size) > size
    assert line.max() == 255 and not line[-1].any()
    assert line.shape[1] == pytest.approx(ImageFont.truetype(str(draw._FIRST), size).getlength("Ägypten"), abs=1)


def test_long_names_lose_their_middle() -> None:
    name = "a_very_long_name_of_a_result_x4.png"
    assert draw._shortened(name, 13, 4000) == name
    shortened = draw._shortened(name, 13, 120)
    head, tail = shortened.split("…")
    assert head and tail and name.startswith(head) and name.endswith(tail)
    assert 100 < letter(name, 13, 120).shape[1] <= 120
    one_more = draw._without_middle(name, len(shortened))
    assert sum(font.getlength(part) for part, font in draw._runs(one_more, 13)) > 120
    assert draw._shortened(name, 13, 5) == "…" and letter(name, 13, 5).shape[1] <= 5


@pytest.mark.parametrize("text", ["Bär", "Ελληνικά", "русский", "שלום", "→ ∂"])
def test_scripts_that_come_with_us(text: str) -> None:
    assert {font.path for _, font in draw._runs(text, 13)} == {str(draw._FIRST)}
    line = letter(text, 20, 400)
    assert line.any() and not np.array_equal(line, letter("\ufffd" * len(text), 20, 400))


@pytest.fixture
def nothing_cached() -> Iterator[None]:
    """Fonts are looked for anew, and by the next test too."""
    caches = (draw._system_fonts, draw._font_with, draw._warn_of, letter)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_characters_without_a_font_are_framed_and_named(
    nothing_cached: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(draw, "_FONT_FOLDERS", ())
    with caplog.at_level(logging.WARNING, "vsr"):
        line = letter("Bär – 画像.png", 20, 400)
        letter("Bär – 画像.png", 30, 400)
    assert caplog.messages == [
        "no font of this system has 像画: labels show frames in their place; install a font, or give labels."
    ]
    assert line.any() and np.array_equal(line, letter("Bär – 絵文.png", 20, 400)), "the same frames"
    assert not np.array_equal(line, letter("Bär – .png", 20, 400))


MATPLOTLIBS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.mark.parametrize("path", [draw._FIRST, MATPLOTLIBS / "DejaVuSansMono.ttf", MATPLOTLIBS / "cmr10.ttf"])
def test_what_a_font_has_is_what_its_table_says(path: Path) -> None:
    table = FT2Font(str(path)).get_charmap()
    points = {*range(0x20, 0x600), *range(0x2000, 0x2800), *range(0x4E00, 0x4E40), 0xE000, 0x1F600, 0x10FFFF}
    assert {point for point in points if draw._has(path, chr(point))} == points & table.keys()


def test_fonts_of_the_system_are_found_and_asked(
    nothing_cached: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In folders below, of every ending, regular ones first; what is no font is passed over."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WINDIR", str(tmp_path / "windows"))
    (tmp_path / ".fonts" / "deep").mkdir(parents=True)
    (tmp_path / "windows" / "Fonts").mkdir(parents=True)
    names = (".fonts/broken-regular.otf", ".fonts/a.ttc", ".fonts/deep/all-Regular.TTF", "windows/Fonts/b.ttf")
    for name in (*names, ".fonts/readme.txt"):
        (tmp_path / name).write_bytes(b"no font")
    shutil.copyfile(MATPLOTLIBS / "LastResortHE-Regular.ttf", tmp_path / names[2])  # has every character
    monkeypatch.setattr(draw, "_FONT_FOLDERS", ("~/.fonts", "$WINDIR/Fonts", "$NOWHERE/Fonts", "~/gone"))
    broken, a, everything, b = (tmp_path / name for name in names)
    assert draw._system_fonts() == [broken, everything, a, b]
    assert draw._font_with("画") == everything and draw._font_with("B") == draw._FIRST
    assert letter("画", 20, 400).any() and not caplog.messages


def test_the_font_comes_with_its_licence() -> None:
    assert "Bitstream Vera" in draw._FIRST.with_name("LICENSE_DEJAVU").read_text()


def test_painting_blends_by_coverage_and_stops_at_the_edge() -> None:
    picture = np.full((4, 6, 3), 100, np.uint8)
    coverage = np.array([[0, 51, 255], [255, 255, 255]], np.uint8)
    paint(picture, coverage, 1, 1, (200, 100, 0))
    assert picture[1, 1:4].tolist() == [[100, 100, 100], [120, 100, 80], [200, 100, 0]]
    paint(picture, coverage, 5, 3, (0, 0, 0))
    assert picture[3].tolist() == [[100, 100, 100]] * 6
    paint(picture, coverage, 9, 9, (0, 0, 0))
    assert picture[0].tolist() == [[100, 100, 100]] * 6
