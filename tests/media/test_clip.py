"""The colour specification of a clip, and streams as text."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from vsr.media.clip import ColourTags, StreamInfo, VideoInfo, colour_of

PLAIN = VideoInfo(0, "h264", 640, 360, "yuv420p", Fraction(1, 15360), Fraction(30), 150, Fraction(2), ColourTags())


@pytest.mark.parametrize(
    ("height", "matrix"), [(1, "bt601"), (576, "bt601"), (719, "bt601"), (720, "bt709"), (2160, "bt709")]
)
def test_an_unspecified_matrix_depends_on_the_height(height: int, matrix: str) -> None:
    assert colour_of(PLAIN, height).matrix == matrix


@pytest.mark.parametrize(
    ("code", "matrix"),
    [(1, "bt709"), (4, "fcc"), (5, "bt601"), (6, "bt601"), (7, "smpte240m"), (9, "bt2020"), (10, "bt2020")],
)
@pytest.mark.parametrize("height", [240, 2160])
def test_a_stated_matrix_is_used_at_any_height(code: int, matrix: str, height: int) -> None:
    assert colour_of(replace(PLAIN, tags=ColourTags(matrix=code)), height).matrix == matrix


@pytest.mark.parametrize(
    ("stated", "pix_fmt", "full"),
    [(0, "yuv420p", False), (1, "yuv420p", False), (2, "yuv420p", True), (0, "yuvj420p", True), (2, "yuvj422p", True),
     (2, "gray", True), (1, "yuv420p10le", False), (0, "gray", False), (0, "gbrp", True), (0, "rgb24", True),
     (0, "pal8", True), (1, "gbrp", False), (2, "gbrap16le", True), (0, "nv12", False)],
)  # fmt: skip
def test_range(stated: int, pix_fmt: str, full: bool) -> None:
    assert colour_of(replace(PLAIN, pix_fmt=pix_fmt, tags=ColourTags(range=stated)), 360).full_range is full


@pytest.mark.parametrize(
    ("location", "siting"),
    [(0, ("cosited", "centred")), (1, ("cosited", "centred")), (2, ("centred", "centred")),
     (3, ("cosited", "cosited")), (4, ("centred", "cosited")), (5, ("cosited", "centred"))],
)  # fmt: skip
def test_chroma_siting(location: int, siting: tuple[str, str]) -> None:
    colour = colour_of(replace(PLAIN, tags=ColourTags(chroma_location=location)), 360)
    assert (colour.chroma_x, colour.chroma_y) == siting


@pytest.mark.parametrize("height", [240, 2160])
def test_an_exotic_matrix_is_converted_as_bt709(height: int) -> None:
    assert colour_of(replace(PLAIN, tags=ColourTags(matrix=14)), height).matrix == "bt709"  # ICtCp


def test_cover_art_as_text() -> None:
    assert str(StreamInfo(1, "video", "mjpeg", None, cover_art=True)) == "stream 1, mjpeg cover art"
