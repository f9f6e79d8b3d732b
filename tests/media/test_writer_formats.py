"""The choice of the encoder and its pixel format."""

from __future__ import annotations

import pytest
from av.codec import codecs_available

from vsr.errors import UsageError
from vsr.media.formats import CODECS, Codec
from vsr.media.writer import codec_named, encoded_format, format_of


@pytest.mark.parametrize(
    ("encoder", "decoded", "encoded", "planes"),
    [
        ("h264", "yuv420p", "yuv420p", "yuv420p"),
        ("h264", "yuv420p10le", "yuv420p10le", "yuv420p10le"),
        ("h264", "yuv422p12le", "yuv422p10le", "yuv422p10le"),
        ("h264", "gray", "gray", "gray"),
        ("h264", "gbrp", "yuv444p", "yuv444p"),
        ("h264", "yuva420p", "yuv420p", "yuv420p"),
        ("hevc", "yuv444p12le", "yuv444p12le", "yuv444p12le"),
        ("hevc", "gbrp", "gbrp", "gbrp"),
        ("hevc", "yuva420p", "yuv420p", "yuv420p"),  # x265 accepts alpha, but few players support it
        ("prores", "yuv420p", "yuv422p10le", "yuv422p10le"),
        ("prores", "gbrap", "yuva444p10le", "yuva444p10le"),
        ("vp9", "yuva420p", "yuv420p", "yuv420p"),  # as packet side data, which the segments' MP4 cannot contain
        ("vp9", "gray", "yuv420p", "yuv420p"),
        ("ffv1", "gbrp16le", "gbrp16le", "gbrp16le"),
        ("ffv1", "gbrp", "bgr0", "gbrp"),
        ("ffv1", "gbrap", "bgra", "gbrap"),
        ("ffv1", "yuv411p", "yuv411p", "yuv411p"),
        ("av1", "yuv444p", "yuv420p", "yuv420p"),
        ("av1", "gray16le", "yuv420p10le", "yuv420p10le"),
        ("libx264rgb", "yuv420p", "bgr24", "gbrp"),
    ],
)
def test_the_format_that_loses_least(encoder: str, decoded: str, encoded: str, planes: str) -> None:
    assert encoded_format(codec_named(encoder), decoded) == (encoded, planes)


@pytest.mark.skipif("h264_nvenc" not in codecs_available, reason="this build of libav has no NVENC")
@pytest.mark.parametrize(("decoded", "encoded"), [("yuv420p", "yuv420p"), ("yuv420p10le", "p010le")])
def test_encoders_that_also_accept_device_frames(decoded: str, encoded: str) -> None:
    assert encoded_format(Codec("h264_nvenc"), decoded) == (encoded, decoded)


def test_a_requested_format() -> None:
    assert encoded_format(CODECS["h264"], "yuv444p10le", requested="yuv420p") == ("yuv420p", "yuv420p")
    assert encoded_format(CODECS["h264"], "yuv420p", requested="nv12") == ("nv12", "yuv420p")


def test_formats_that_the_encoder_does_not_accept() -> None:
    with pytest.raises(
        UsageError, match=r"^the encoder libx264 does not accept gbrp: use gray, gray10le, nv12, .*yuvj444p\.$"
    ):
        encoded_format(CODECS["h264"], "yuv420p", requested="gbrp")
    with pytest.raises(UsageError, match=r"^the encoder gif accepts no rgb8 that vsr can write\.$"):
        encoded_format(Codec("gif"), "gbrp", requested="rgb8")


@pytest.mark.parametrize("name", ["h266", "aac", ""])
def test_unknown_encoders_are_refused(name: str) -> None:
    said = rf"^this build of libav has no video encoder '{name}': use h264, .*name(\.|; did you mean (h265|avc)\?)$"
    with pytest.raises(UsageError, match=said):
        codec_named(name)


def test_names_of_formats() -> None:
    assert [format_of(codec_named(name)) for name in ("h264", "vp9", "libx264rgb", "prores")] == [
        "h264", "vp9", "h264", "prores",
    ]  # fmt: skip
