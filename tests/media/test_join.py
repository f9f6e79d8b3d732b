"""Joined parts of a video keep every frame and every timestamp."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vsr.errors import InputError, OutputError
from vsr.media.clip import layout_of
from vsr.media.formats import CODECS, Codec, Timing, decoding_times
from vsr.media.mux import Part, join
from vsr.media.probe import probe
from vsr.media.reader import Frame, read_frames
from vsr.media.writer import Encoder, VideoFormat, encoded_suffix

pytestmark = pytest.mark.usefixtures("leaves_nothing")

H264 = CODECS["h264"]
B_FRAMES = {"preset": "medium", "bf": "3", "x264-params": "b-adapt=0:scenecut=0"}
PLAIN = VideoFormat(width=64, height=48, pix_fmt="yuv420p", time_base=Fraction(1, 1000), rate=Fraction(25), threads=1)
STAMPS = [33, 73, 113, 114, 153, 1193, 1233, 1273, 1313, 1353, 1393, 1433, 1473, 1474]
SIZES = (6, 1, 4, 3)
"""Frames per part."""


@pytest.mark.parametrize(
    ("shown", "decoded"),
    [
        ([], []),
        ([7], [7]),
        ([0, 1, 2], [0, 1, 2]),
        ([0, 3, 1, 2], [-1, 0, 1, 2]),
        ([0, 40, 20, 10, 30], [-20, -10, 0, 10, 20]),
        ([0, 100, 3], [-3, 0, 3]),
        ([0, 3, 1, 2, 4, 7, 5, 6], [-1, 0, 1, 2, 3, 4, 5, 6]),  # two parts
        ([500, 540, 580, 660, 620], [460, 500, 540, 580, 620]),
    ],
)
def test_decoding_times_by_hand(shown: list[int], decoded: list[int]) -> None:
    assert decoding_times(shown) == decoded


def test_decoding_times_of_any_order() -> None:
    dice = random.Random(0)
    for _ in range(500):
        count = dice.randint(1, 12)
        ordered = sorted(dice.sample(range(-50, 200), count))
        shown = dice.sample(ordered, count)
        decoded = decoding_times(shown)
        assert len(decoded) == count
        assert all(before < after for before, after in zip(decoded, decoded[1:], strict=False))
        assert all(dts <= pts for dts, pts in zip(decoded, shown, strict=True))
        depth = next(
            depth for depth in range(count) if all(ordered[i - depth] <= shown[i] for i in range(depth, count))
        )
        assert decoded[depth:] == ordered[: count - depth]
        assert all(dts < ordered[0] for dts in decoded[:depth])


def encode(path: Path, codec: Codec, options: dict[str, str], video: VideoFormat, stamps: Sequence[int]) -> Part:
    """Encode a noisy moving pattern, one frame for each timestamp."""
    layout = layout_of(video.pix_fmt)
    assert layout is not None
    dtype, step = (np.uint8, 1) if layout.bit_depth == 8 else (np.uint16, 2 ** (layout.bit_depth - 8))
    with Encoder(path, codec, options, video) as encoder:
        for pts in stamps:
            noise = np.random.default_rng(pts)
            planes = [
                noise.integers(0, 30, shape) + np.add.outer(np.arange(shape[0]), np.arange(shape[1]) + pts // 8) % 200
                for shape in layout.plane_shapes(video.height, video.width)
            ]
            encoder.write(Frame(tuple((step * plane).astype(dtype) for plane in planes), pts, 40))
    return Part(path, tuple(encoder.packets))


def encode_parts(folder: Path, codec: Codec, options: dict[str, str], video: VideoFormat) -> list[Part]:
    left, parts, suffix = iter(STAMPS), [], encoded_suffix(codec)
    # In some processes libav's libx265 fails on one or two frames: "Not yet implemented in FFmpeg, patches welcome".
    sizes = (5, 5, 4) if codec is CODECS["hevc"] else SIZES
    for number, size in enumerate(sizes):
        stamps = [next(left) for _ in range(size)]
        parts.append(encode(folder / f"{number}{suffix}", codec, options, video, stamps))
    return parts


def content(path: Path) -> list[tuple[int, bytes]]:
    return [
        (frame.pts, b"".join(plane.tobytes() for plane in frame.planes))
        for frame in read_frames(path, probe(path).video)
    ]


@pytest.mark.parametrize(
    ("name", "options", "pix_fmt"),
    [
        ("h264", B_FRAMES, "yuv420p"),
        ("h264", {"preset": "ultrafast"}, "yuv444p"),
        ("hevc", {"preset": "ultrafast", "x265-params": "bframes=3:b-adapt=0"}, "yuv420p10le"),
        pytest.param(
            "av1",
            {"preset": "11"},
            "yuv420p",
        ),
        ("vp9", {"cpu-used": "8", "deadline": "realtime"}, "yuv420p"),
        ("vp9", {"cpu-used": "5", "lag-in-frames": "5", "auto-alt-ref": "1"}, "yuv420p"),
        ("prores", {}, "yuv422p10le"),
        ("ffv1", {}, "yuv420p"),
    ],
)
def test_the_content_of_the_parts_is_kept(name: str, options: dict[str, str], pix_fmt: str, tmp_path: Path) -> None:
    codec, video = CODECS[name], replace(PLAIN, pix_fmt=pix_fmt)
    parts = encode_parts(tmp_path, codec, options, video)
    joined = tmp_path / f"joined{encoded_suffix(codec)}"
    join(parts, joined, video)
    one_by_one = [frame for part in parts for frame in content(part.path)]
    assert [pts for pts, _ in one_by_one] == STAMPS
    assert len({planes for _, planes in one_by_one}) == len(STAMPS)
    assert content(joined) == one_by_one
    assert probe(joined).video.time_base == video.time_base
    with av.open(str(joined)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    sent = [packet.pts for packet in packets]
    assert sent == [timing.pts for part in parts for timing in part.packets]
    assert [packet.dts for packet in packets] == decoding_times(sent)
    if options is B_FRAMES:
        assert sent != sorted(sent)


def test_the_last_frame_keeps_its_duration(tmp_path: Path) -> None:
    """There is no following frame from which to derive it."""
    parts = [
        Part(part.path, [*part.packets[:-1], Timing(part.packets[-1].pts, 77)])
        for part in encode_parts(tmp_path, H264, {"preset": "ultrafast"}, PLAIN)
    ]
    join(parts, tmp_path / "joined.mp4", PLAIN)
    with av.open(str(tmp_path / "joined.mp4")) as container:
        assert [packet.duration for packet in container.demux(video=0) if packet.size][-1] == 77


@pytest.mark.parametrize(
    "name",
    [
        "h264",
        pytest.param(
            "prores",
        ),
    ],
)
def test_tags_of_the_video_are_kept(name: str, tmp_path: Path) -> None:
    matrix = (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824)
    pix_fmt = "yuv422p10le" if name == "prores" else "yuv420p"
    video = replace(PLAIN, pix_fmt=pix_fmt, display_matrix=matrix, sample_aspect_ratio=Fraction(4, 3))
    parts, suffix = encode_parts(tmp_path, CODECS[name], {}, video), encoded_suffix(CODECS[name])
    join(parts, tmp_path / f"joined{suffix}", video)
    joined, part = probe(tmp_path / f"joined{suffix}").video, probe(parts[0].path).video
    assert joined.display_matrix == matrix
    assert joined.sample_aspect_ratio == part.sample_aspect_ratio
    assert joined.tags == part.tags


def test_a_part_with_other_settings_is_refused(tmp_path: Path) -> None:
    one = encode(tmp_path / "one.mp4", H264, B_FRAMES, PLAIN, STAMPS[:4])
    other = encode(tmp_path / "other.mp4", H264, {"preset": "ultrafast"}, PLAIN, STAMPS[4:])
    message = r"other\.mp4 was encoded differently from the parts before it; .*resume=False"
    with pytest.raises(OutputError, match=message):
        join([one, other], tmp_path / "joined.mp4", PLAIN)


@pytest.mark.parametrize("more", [1, -1])
def test_a_part_with_missing_or_extra_packets_is_refused(more: int, tmp_path: Path) -> None:
    first, *rest = encode_parts(tmp_path, H264, B_FRAMES, PLAIN)
    packets = [*first.packets, Timing(20_000, 40)] if more > 0 else first.packets[:-1]
    said = r"0\.mp4 has lost frames" if more > 0 else r"0\.mp4 contains more than was written to it"
    with pytest.raises(OutputError, match=f"{said}; run again with resume=False"):
        join([Part(first.path, packets), *rest], tmp_path / "joined.mp4", PLAIN)


@pytest.mark.parametrize("number", [0, 2])
def test_a_missing_part_is_an_error(number: int, tmp_path: Path) -> None:
    parts = encode_parts(tmp_path, H264, B_FRAMES, PLAIN)
    parts[number].path.unlink()
    with pytest.raises(InputError, match=rf"{number}\.mp4: No such file"):
        join(parts, tmp_path / "joined.mp4", PLAIN)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    parts = encode_parts(tmp_path, H264, B_FRAMES, PLAIN)
    target = tmp_path / "joined.mp4"
    target.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"^cannot join the encoded parts to .*joined\.mp4: No space left on device"):
        join(parts, target, PLAIN)


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    parts = encode_parts(tmp_path, H264, B_FRAMES, PLAIN)
    with pytest.raises(OutputError, match=r"cannot join the encoded parts to .*: No such file or directory\.$"):
        join(parts, tmp_path / "nowhere" / "joined.mp4", PLAIN)
