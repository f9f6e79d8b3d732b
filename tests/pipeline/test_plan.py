"""Sizes, proportions and orientation, against values computed by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from vsr.errors import UsageError
from vsr.imaging.colour import ColourSpec
from vsr.media.clip import UPRIGHT, ClipInfo, ColourTags, Orientation, VideoInfo
from vsr.media.formats import CODECS
from vsr.media.writer import codec_named
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.plan import Geometry, factor_of, plan_geometry, plan_video

QUARTER = (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)
MIRRORED = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1073741824)
SLANTED = (46341, 46341, 0, -46341, 46341, 0, 0, 0, 1073741824)
PLAIN = VideoInfo(0, "h264", 320, 180, "yuv420p", Fraction(1, 1000), Fraction(25), 9, None, ColourTags())
WIDE = replace(PLAIN, sample_aspect_ratio=Fraction(4, 3))
TURNED = replace(PLAIN, display_matrix=QUARTER, sample_aspect_ratio=Fraction(4, 3))


@pytest.mark.parametrize(
    ("video", "options", "size", "ratio"),
    [
        (PLAIN, {}, (1280, 720), None),
        (PLAIN, {"scale": 1.5}, (480, 270), None),
        (PLAIN, {"scale": 1 / 3}, (107, 60), None),
        (PLAIN, {"scale": 0.001}, (1, 1), None),
        (WIDE, {"scale": 2.0}, (640, 360), Fraction(4, 3)),
        (PLAIN, {"height": 270}, (480, 270), None),
        (PLAIN, {"height": 1}, (2, 1), None),
        (WIDE, {"height": 361}, (642, 361), Fraction(4, 3)),
        (PLAIN, {"size": (640, 360)}, (640, 360), None),
        (PLAIN, {"size": (640, 480)}, (640, 480), Fraction(4, 3)),  # shown 640 wide as 16:9 before and after
        (PLAIN, {"size": (720, 360)}, (720, 360), Fraction(8, 9)),
        (WIDE, {"size": (640, 480)}, (640, 480), Fraction(16, 9)),
        (PLAIN, {"size": (642, 361)}, (642, 361), None),  # no more than rounding
    ],
)
def test_sizes_of_upright_clips(
    video: VideoInfo, options: dict[str, object], size: tuple[int, int], ratio: Fraction | None
) -> None:
    geometry = plan_geometry(video, UpscaleOptions(**options), 4)  # type: ignore[arg-type]
    assert geometry == Geometry(*size, ratio, None, UPRIGHT)


@pytest.mark.parametrize(
    ("options", "coded", "ratio"),
    [
        ({"scale": 2.0}, (640, 360), Fraction(4, 3)),
        ({"height": 640}, (640, 360), Fraction(4, 3)),  # what is seen as height is coded as width
        ({"size": (360, 640)}, (640, 360), Fraction(4, 3)),
        ({"size": (480, 640)}, (640, 480), Fraction(16, 9)),
    ],
)
def test_a_quarter_turn_that_the_output_stores(
    options: dict[str, object], coded: tuple[int, int], ratio: Fraction
) -> None:
    geometry = plan_geometry(TURNED, UpscaleOptions(**options), 4)  # type: ignore[arg-type]
    assert geometry == Geometry(*coded, ratio, QUARTER, UPRIGHT)


@pytest.mark.parametrize(
    ("options", "coded", "ratio"),
    [
        ({"scale": 2.0}, (360, 640), Fraction(3, 4)),
        ({"height": 640}, (360, 640), Fraction(3, 4)),
        ({"size": (360, 640)}, (360, 640), Fraction(3, 4)),
        ({"size": (480, 640)}, (480, 640), Fraction(9, 16)),
    ],
)
def test_a_quarter_turn_of_the_pixels(options: dict[str, object], coded: tuple[int, int], ratio: Fraction) -> None:
    geometry = plan_geometry(TURNED, UpscaleOptions(**options), 4, turns=False)  # type: ignore[arg-type]
    assert geometry == Geometry(*coded, ratio, None, Orientation(True, False, True))


def test_mirrored_and_slanted_clips() -> None:
    options = UpscaleOptions(height=360)
    mirrored = plan_geometry(replace(PLAIN, display_matrix=MIRRORED), options, 4, turns=False)
    assert mirrored == Geometry(640, 360, None, None, Orientation(False, False, True))
    slanted = replace(PLAIN, display_matrix=SLANTED)
    assert plan_geometry(slanted, options, 4) == Geometry(640, 360, None, SLANTED, UPRIGHT)
    assert plan_geometry(slanted, options, 4, turns=False) == Geometry(640, 360, None, None, UPRIGHT)


@pytest.mark.parametrize(
    ("video", "options", "factor"),
    [
        (PLAIN, {}, None),
        (PLAIN, {"scale": 1.5}, 1.5),
        (PLAIN, {"height": 360}, 2),
        (PLAIN, {"size": (640, 720)}, 4),
        (PLAIN, {"size": (80, 45)}, 0.25),
        (TURNED, {"height": 640}, 2),
    ],
)
def test_factor_of(video: VideoInfo, options: dict[str, object], factor: float | None) -> None:
    assert factor_of(video, UpscaleOptions(**options)) == factor  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("h264", "yuv420p", (66, 36)), ("h264", "yuv422p", (66, 35)), ("h264", "yuv444p", (65, 35)),
        ("hevc", "yuv444p", (66, 36)), ("av1", "yuv420p", (66, 36)), ("vp9", "yuv420p", (65, 35)),
        ("ffv1", "yuv420p", (65, 35)), ("ffv1", "yuv410p", (65, 35)), ("prores", "yuv420p", (66, 35)),
    ],
)  # fmt: skip
def test_odd_sizes_grow_to_the_next_that_fits(codec: str, pix_fmt: str, size: tuple[int, int]) -> None:
    clip = ClipInfo(Path("a.mp4"), replace(PLAIN, width=65, height=35, pix_fmt=pix_fmt), ())
    video, conversion, losses = plan_video(clip, CODECS[codec], UpscaleOptions(codec=codec), 1)
    assert (video.width, video.height) == (conversion.width, conversion.height) == size
    assert conversion.padded
    becomes = f"a.mp4: 65x35 becomes {size[0]}x{size[1]}, the next size that {CODECS[codec].encoder} can hold."
    assert losses == ([] if size == (65, 35) else [becomes])


def test_resized_frames_are_not_padded() -> None:
    clip = ClipInfo(Path("a.mp4"), PLAIN, ())
    assert not plan_video(clip, CODECS["h264"], UpscaleOptions(height=181), 4)[1].padded
    assert plan_video(clip, CODECS["h264"], UpscaleOptions(height=720), 4)[1].padded


def test_beyond_the_models_scale_its_frames_are_resized() -> None:
    clip = ClipInfo(Path("a.mp4"), PLAIN, ())
    video, conversion, _ = plan_video(clip, CODECS["h264"], UpscaleOptions(height=810), 4)
    assert (video.height, conversion.height, conversion.padded) == (810, 810, False)


def test_sizes_that_cannot_be_reached_are_refused() -> None:
    clip = ClipInfo(Path("a.mp4"), PLAIN, ())
    with pytest.raises(UsageError, match=r"^a\.mp4 would become 62x36; libx265 needs 64 columns\.$"):
        plan_video(clip, CODECS["hevc"], UpscaleOptions(codec="hevc", size=(62, 36)), 4)
    with pytest.raises(UsageError, match=r"^a\.mp4 would become 16640x9360; libx264 writes up to 16384 pixels\.$"):
        plan_video(clip, CODECS["h264"], UpscaleOptions(), 52)


@pytest.mark.parametrize(
    ("pix_fmt", "tags", "codec", "written", "target"),
    [
        # As it was; what nobody stated is still unstated.
        ("yuv420p", ColourTags(), "h264", ColourTags(), ColourSpec("bt601", False)),
        ("yuv420p", ColourTags(1, 9, 9, 16, 3), "h264", ColourTags(1, 9, 9, 16, 3),
         ColourSpec("bt2020", False, "cosited", "cosited")),
        ("yuv420p", ColourTags(chroma_location=5), "h264", ColourTags(chroma_location=1), ColourSpec("bt601", False)),
        # A range that the name of the format stated becomes a tag.
        ("yuvj420p", ColourTags(0, 5, 5, 1, 2), "h264", ColourTags(2, 5, 5, 1, 2), ColourSpec("bt601", True, "centred")),  # noqa: E501
        # RGB into YCbCr, and as it is.
        ("gbrp", ColourTags(2, 0, 1, 13), "h264", ColourTags(1, 1, 1, 13), ColourSpec("bt709", False)),
        ("gbrp10le", ColourTags(2, 0, 9, 16), "av1", ColourTags(1, 9, 9, 16, 1), ColourSpec("bt2020", False)),
        ("gbrp", ColourTags(2, 0, 1, 13), "ffv1", ColourTags(2, 0, 1, 13), ColourSpec("bt709", True)),
        # More chroma than before lies nowhere special; less lies to the left.
        ("yuv444p", ColourTags(1, 1, 1, 1), "av1", ColourTags(1, 1, 1, 1, 1), ColourSpec("bt709", False)),
        ("yuv420p", ColourTags(1, 1, 1, 1, 1), "prores", ColourTags(1, 1, 1, 1, 1), ColourSpec("bt709", False)),
    ],
)  # fmt: skip
def test_colour_tags_and_matrix(
    pix_fmt: str, tags: ColourTags, codec: str, written: ColourTags, target: ColourSpec
) -> None:
    clip = ClipInfo(Path("a.mp4"), replace(PLAIN, pix_fmt=pix_fmt, tags=tags), ())
    video, conversion, _ = plan_video(clip, CODECS[codec], UpscaleOptions(codec=codec), 1)
    assert video.tags == written
    ours = conversion.target_colour
    if conversion.target.kind == "rgb":
        ours = replace(ours, matrix=target.matrix)
    assert ours == target


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "side_data", "words"),
    [
        ("yuva420p", "h264", (), ["a.mp4: its alpha channel is left out, as yuv420p holds none."]),
        ("bgra", "h264", (), ["a.mp4: its alpha channel is left out, as yuv444p holds none."]),
        ("yuva420p", "vp9", (), ["a.mp4: its alpha channel is left out, as yuv420p holds none."]),
        ("yuva420p", "ffv1", (), []),
        ("yuv422p12le", "h264", (), ["a.mp4: of its 12 bits yuv422p10le keeps 10."]),
        ("gray16le", "av1", (), ["a.mp4: of its 16 bits yuv420p10le keeps 10."]),
        ("yuv420p", "h264", ("DYNAMIC_HDR_PLUS",), ["a.mp4: HDR10+ metadata cannot be kept."]),
        ("yuv420p", "h264", ("ICC_PROFILE",), ["a.mp4: the colour profile (ICC) cannot be kept."]),
        ("yuv420p", "h264", ("PANSCAN",), ["a.mp4: pan and scan windows cannot be kept."]),
        ("yuv420p", "h264", ("S12M_TIMECODE",), ["a.mp4: the time code inside the video cannot be kept."]),
        ("yuv420p", "h264", ("SEI_UNREGISTERED", "MOTION_VECTORS"), []),
        ("yuv420p", "h264", (), []),
    ],
)
def test_losses_are_named(pix_fmt: str, codec: str, side_data: tuple[str, ...], words: list[str]) -> None:
    clip = ClipInfo(Path("a.mp4"), replace(PLAIN, pix_fmt=pix_fmt, side_data=side_data), ())
    assert plan_video(clip, codec_named(codec), UpscaleOptions(codec=codec), 1)[2] == words
