from __future__ import annotations

import av
import numpy as np
import pytest
from av.video.format import names as ALL_FORMATS

from vsr.imaging.colour import PixelLayout
from vsr.media.clip import PLANAR, frame_of, layout_of, nearest_format, planes_of

LAYOUTS = {
    "gray": PixelLayout("grey", 8),
    "gray9le": PixelLayout("grey", 9),
    "gray10le": PixelLayout("grey", 10),
    "gray16le": PixelLayout("grey", 16),
    "yuv420p": PixelLayout("yuv", 8, 1, 1),
    "yuvj420p": PixelLayout("yuv", 8, 1, 1),
    "yuv422p": PixelLayout("yuv", 8, 1, 0),
    "yuv444p": PixelLayout("yuv", 8, 0, 0),
    "yuv440p": PixelLayout("yuv", 8, 0, 1),
    "yuv411p": PixelLayout("yuv", 8, 2, 0),
    "yuv410p": PixelLayout("yuv", 8, 2, 2),
    "yuv420p9le": PixelLayout("yuv", 9, 1, 1),
    "yuv420p10le": PixelLayout("yuv", 10, 1, 1),
    "yuv422p10le": PixelLayout("yuv", 10, 1, 0),
    "yuv444p12le": PixelLayout("yuv", 12, 0, 0),
    "yuv420p14le": PixelLayout("yuv", 14, 1, 1),
    "yuv420p16le": PixelLayout("yuv", 16, 1, 1),
    "gbrp": PixelLayout("rgb", 8),
    "gbrp10le": PixelLayout("rgb", 10),
    "gbrp16le": PixelLayout("rgb", 16),
    "yuva420p": PixelLayout("yuv", 8, 1, 1, alpha=True),
    "yuva444p10le": PixelLayout("yuv", 10, 0, 0, alpha=True),
    "gbrap": PixelLayout("rgb", 8, alpha=True),
    "gbrap16le": PixelLayout("rgb", 16, alpha=True),
}
NOT_PLANES = (
    "nv12", "nv21", "nv16", "p010le", "p016le", "yuyv422", "uyvy422", "rgb24", "bgra", "rgb48le", "pal8", "ya8",
    "monow", "yuv420p10be", "gray16be", "gbrp12be", "yuv444p10msble", "rgb565le", "bayer_rggb8",
    "xyz12le",
)  # fmt: skip
FLOATING_POINT = ("grayf32le", "gbrpf32le", "grayf16le", "gbrpf16le", "gbrapf16le")
OF_A_DEVICE = ("cuda", "vaapi", "qsv", "vulkan", "videotoolbox_vld")


@pytest.mark.parametrize("pix_fmt", LAYOUTS)
def test_layout_of_planar_formats(pix_fmt: str) -> None:
    assert layout_of(pix_fmt) == LAYOUTS[pix_fmt]


@pytest.mark.parametrize("pix_fmt", [*NOT_PLANES, *FLOATING_POINT, *OF_A_DEVICE])
def test_other_formats_have_no_layout(pix_fmt: str) -> None:
    if pix_fmt not in ALL_FORMATS:
        pytest.skip(f"this build of libav has no {pix_fmt}")
    assert layout_of(pix_fmt) is None


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(ValueError, match="nope"):
        layout_of("nope")


WITH_LAYOUT = [name for name in sorted(ALL_FORMATS) if layout_of(name) is not None]


@pytest.mark.parametrize("pix_fmt", WITH_LAYOUT)
def test_layouts_agree_with_the_planes_of_libav(pix_fmt: str) -> None:
    layout = layout_of(pix_fmt)
    assert layout is not None
    frame = av.VideoFrame(37, 23, pix_fmt)
    assert [(plane.height, plane.width) for plane in frame.planes] == layout.plane_shapes(23, 37)
    bits = {component.bits for component in frame.format.components}
    assert bits == {layout.bit_depth}


NEAREST = {
    "yuv420p": "yuv420p",
    "yuvj420p": "yuv420p",
    "yuvj444p": "yuv444p",
    "gray": "gray",
    "gray10le": "gray10le",
    "nv12": "yuv420p",
    "nv24": "yuv444p",
    "p010le": "yuv420p10le",
    "p016le": "yuv420p16le",
    "p210le": "yuv422p10le",
    "yuyv422": "yuv422p",
    "y210le": "yuv422p10le",
    "rgb24": "gbrp",
    "bgra": "gbrap",
    "rgb48le": "gbrp16le",
    "x2rgb10le": "gbrp10le",
    "pal8": "gbrap",
    "yuva420p": "yuva420p",
    "yuva444p10le": "yuva444p10le",
    "gbrap12le": "gbrap12le",
    "ya8": "gbrap",
    "ya16le": "gbrap16le",
    "monow": "gray",
    "yuv420p10be": "yuv420p10le",
    "gray16be": "gray16le",
    "gbrp12be": "gbrp12le",
    "yuv420p9le": "yuv420p9le",
    "yuv440p": "yuv440p",
    "yuv411p": "yuv411p",
    "yuv410p": "yuv410p",
    "gbrpf32le": "gbrp16le",
}


@pytest.mark.parametrize("pix_fmt", NEAREST)
def test_nearest_planar_format(pix_fmt: str) -> None:
    assert nearest_format(pix_fmt) == NEAREST[pix_fmt]


@pytest.mark.parametrize("pix_fmt", PLANAR)
def test_the_nearest_format_of_planes_is_itself(pix_fmt: str) -> None:
    assert nearest_format(pix_fmt) == pix_fmt


@pytest.mark.parametrize(
    ("pix_fmt", "choices", "nearest"),
    [
        ("yuv420p10le", ("yuv420p", "yuv420p10le", "yuv444p10le"), "yuv420p10le"),
        ("yuv420p10le", ("yuv420p", "yuv422p10le"), "yuv422p10le"),
        ("yuvj420p", ("yuvj420p", "yuv420p", "yuv444p"), "yuv420p"),
        ("yuv420p", ("nv12", "yuv422p", "cuda"), "yuv422p"),
        ("gray", ("yuv420p10le", "yuv444p"), "yuv444p"),
        ("yuv420p", ("nv12", "rgb24", "cuda"), None),
        ("yuv420p", ("yuvj420p",), None),
        ("yuv420p", (), None),
    ],
)
def test_nearest_format_among_choices(pix_fmt: str, choices: tuple[str, ...], nearest: str | None) -> None:
    assert nearest_format(pix_fmt, choices) == nearest


SIZES = [(1, 1), (2, 2), (5, 3), (33, 17), (64, 48), (321, 181)]


@pytest.mark.parametrize("pix_fmt", WITH_LAYOUT)
def test_round_trip(pix_fmt: str) -> None:
    layout = layout_of(pix_fmt)
    assert layout is not None
    random = np.random.default_rng(0)
    dtype = np.uint8 if layout.bit_depth == 8 else np.uint16
    for width, height in SIZES:
        planes = [random.integers(0, 2**layout.bit_depth, shape, dtype) for shape in layout.plane_shapes(height, width)]
        frame = frame_of(planes, pix_fmt)
        assert (frame.width, frame.height, frame.format.name) == (width, height, pix_fmt)
        for plane, same in zip(planes, planes_of(frame, layout), strict=True):
            assert same.dtype == dtype and same.shape == plane.shape and np.array_equal(same, plane)


def test_frames_hold_copies() -> None:
    plane = np.zeros((4, 6), np.uint8)
    frame = frame_of([plane], "gray")
    plane[:] = 9
    assert not planes_of(frame, PixelLayout("grey"))[0].any()


def test_planes_keep_the_memory_of_the_frame() -> None:
    def planes() -> tuple[np.ndarray, ...]:
        values = [np.full(shape, 7 + number, np.uint8) for number, shape in enumerate([(48, 64), (24, 32), (24, 32)])]
        return planes_of(frame_of(values, "yuv420p"), PixelLayout("yuv", 8, 1, 1))

    kept = planes()
    for _ in range(50):
        frame_of([np.zeros((48, 64), np.uint8), np.zeros((24, 32), np.uint8), np.zeros((24, 32), np.uint8)], "yuv420p")
    assert [(int(plane.min()), int(plane.max())) for plane in kept] == [(7, 7), (8, 8), (9, 9)]


def test_planes_after_conversion_by_libav() -> None:
    """Packed pixels with known components."""
    packed = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    frame = av.VideoFrame.from_ndarray(packed, "rgb24").reformat(format="gbrp")
    planes = planes_of(frame, PixelLayout("rgb"))
    for plane, channel in zip(planes, (1, 2, 0), strict=True):  # G, B, R
        assert np.array_equal(plane, packed[..., channel])


def test_planes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError):
        frame_of([np.zeros((4, 6), np.uint8)], "yuv420p")
    with pytest.raises(ValueError):
        frame_of([np.zeros((4, 6), np.uint8), np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)], "yuv420p")
