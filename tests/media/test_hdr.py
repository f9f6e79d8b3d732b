"""HDR10 metadata, from libav's bytes to the options of the encoders."""

from __future__ import annotations

import struct

import pytest

from vsr.media.formats import CODECS, LightLevels, MasteringDisplay

# Display P3 at 1000 cd/m2, as in the examples of x265's manual, in units of ST 2086: green, blue, red, white.
P3 = MasteringDisplay((13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450), (10_000_000, 1))
PRIMARIES = ((34000, 16000), (13250, 34500), (7500, 3000))  # red, green, blue: the order of libav's structure
WHITE, LEAST, GREATEST = (15635, 16450), 1, 10_000_000


def structure(*, primaries: int = 1, luminances: int = 1, zoom: int = 1) -> bytes:
    """Pack an AVMasteringDisplayMetadata: ten ratios and two flags."""
    coordinates = [value for pair in (*PRIMARIES, WHITE) for value in pair]
    ratios = [(value * zoom, 50000 * zoom) for value in coordinates]
    ratios += [(LEAST * zoom, 10000 * zoom), (GREATEST, 10000)]
    return struct.pack("=22i", *(number for ratio in ratios for number in ratio), primaries, luminances)


@pytest.mark.parametrize("zoom", [1, 3])
def test_a_mastering_display_is_parsed(zoom: int) -> None:
    assert MasteringDisplay.from_bytes(structure(zoom=zoom)) == P3
    assert MasteringDisplay.from_bytes(structure(zoom=zoom) + b"more") == P3


@pytest.mark.parametrize(("primaries", "luminances"), [(0, 1), (1, 0), (0, 0)])
def test_missing_primaries_or_luminances_are_no_mastering_display(primaries: int, luminances: int) -> None:
    assert MasteringDisplay.from_bytes(structure(primaries=primaries, luminances=luminances)) is None


def test_a_ratio_over_zero_is_no_error() -> None:
    content = bytearray(structure())
    content[4:8] = bytes(4)  # the denominator of red's x
    found = MasteringDisplay.from_bytes(bytes(content))
    assert found is not None and found.luminances == P3.luminances


def test_a_mastering_display_as_text() -> None:
    assert P3.text() == "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    assert P3.text(decimal=True) == "G(0.265,0.69)B(0.15,0.06)R(0.68,0.32)WP(0.3127,0.329)L(1000,0.0001)"


def test_light_levels() -> None:
    levels = LightLevels.from_bytes(struct.pack("=2I", 1100, 180) + b"more")
    assert levels == LightLevels(max_content=1100, max_frame_average=180)
    assert str(levels) == "1100,180"


@pytest.mark.parametrize(
    ("codec", "both", "light"),
    [
        ("h264", f"mastering-display={P3.text()}:cll=1100,180", "cll=1100,180"),
        ("hevc", f"master-display={P3.text()}:max-cll=1100,180", "max-cll=1100,180"),
        ("av1", f"mastering-display={P3.text(decimal=True)}:content-light=1100,180", "content-light=1100,180"),
    ],
)
def test_parameters_of_the_encoders(codec: str, both: str, light: str) -> None:
    hdr = CODECS[codec].hdr
    assert hdr is not None
    assert hdr.parameters(P3, LightLevels(1100, 180)) == both
    assert hdr.parameters(None, LightLevels(1100, 180)) == light
    assert hdr.parameters(None, None) == ""
