from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vsr.errors import OutputError, UsageError
from vsr.media.clip import ColourTags, VideoInfo, layout_of
from vsr.media.formats import CODECS, Codec
from vsr.media.probe import probe
from vsr.media.reader import Frame, read_frames
from vsr.media.writer import Encoder, VideoFormat, check_encoder

FrameListing = Callable[[Path, int, str], list[tuple[int, int, str]]]

H264 = CODECS["h264"]
LOSSLESS = {"crf": "0", "preset": "ultrafast"}
MILLISECONDS = Fraction(1, 1000)
PLAIN = VideoFormat(width=48, height=32, pix_fmt="yuv420p", time_base=Fraction(1, 12800), rate=Fraction(25))


def noise(video: VideoFormat, pts: int, duration: int = 0) -> Frame:
    """Return a frame of noise over all codes."""
    layout = layout_of(video.pix_fmt)
    assert layout is not None
    random = np.random.default_rng(abs(pts))
    dtype = np.uint8 if layout.bit_depth == 8 else np.uint16
    shapes = layout.plane_shapes(video.height, video.width)
    return Frame(tuple(random.integers(0, 2**layout.bit_depth, shape, dtype) for shape in shapes), pts, duration)


def encode(
    path: Path, video: VideoFormat, stamps: Sequence[tuple[int, int]], options: dict[str, str], codec: Codec = H264
) -> list[Frame]:
    """Write a frame of noise for each timestamp and duration."""
    frames = [noise(video, pts, duration) for pts, duration in stamps]
    with Encoder(path, codec, options, video) as encoder:
        for frame in frames:
            encoder.write(frame)
    assert encoder.num_frames == len(frames)
    return frames


def packets_of(path: Path) -> list[tuple[int | None, int | None]]:
    """Return timestamp and duration of each packet, in the order of presentation."""
    with av.open(str(path)) as container:
        return sorted((packet.pts, packet.duration) for packet in container.demux(video=0) if packet.size)


def timed(stamps: Sequence[int], last: int) -> list[tuple[int, int]]:
    """Return timestamps with the time until the next one, the last with ``last``."""
    return list(zip(stamps, [after - before for before, after in zip(stamps, [*stamps[1:], stamps[-1] + last])]))  # noqa: B905


IRREGULAR = (333, 334, 351, 391, 1391, 1392, 1642, 1643, 1660, 2660, 2700, 2740)
TIMES = {
    "constant": (Fraction(1, 12800), timed(range(0, 6144, 512), 512)),
    "late": (Fraction(1, 12800), timed(range(100_000, 106_144, 512), 512)),
    "ntsc": (Fraction(1, 30000), timed(range(1001, 13013, 1001), 1001)),
    "fine clock": (Fraction(1, 1_200_000), timed(range(0, 576_000, 48_000), 48_000)),
    "far": (Fraction(1, 90000), timed(range(2**33, 2**33 + 36_000, 3000), 3000)),
    "irregular": (MILLISECONDS, timed(IRREGULAR, 123)),
    "single": (MILLISECONDS, [(77, 40)]),
}
NO_B_FRAMES = {"preset": "ultrafast"}
B_FRAMES = {"preset": "medium", "bf": "3", "x264-params": "b-adapt=0:scenecut=0"}  # three in a row, even for noise
ORDERS = pytest.mark.parametrize("options", [NO_B_FRAMES, B_FRAMES], ids=["no B-frames", "B-frames"])


@ORDERS
@pytest.mark.parametrize("case", TIMES)
def test_timestamps(
    case: str, options: dict[str, str], tmp_path: Path, frame_listing: FrameListing, leaves_nothing: None
) -> None:
    time_base, stamps = TIMES[case]
    path = tmp_path / "out.mp4"
    encode(path, replace(PLAIN, time_base=time_base), stamps, options)
    video = probe(path).video
    assert video.time_base == time_base
    if case == "irregular" and options is B_FRAMES:
        # MP4 stores no durations but the distances of decoding timestamps, which B-frames permute.
        assert [pts for pts, _ in packets_of(path)] == [pts for pts, _ in stamps]
    else:
        assert packets_of(path) == stamps
    read = [(frame.pts, frame.duration) for frame in read_frames(path, video)]
    assert read == packets_of(path) == [(pts, duration) for pts, duration, _ in frame_listing(path, 0, "yuv420p")]


def test_the_video_has_b_frames(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    encode(path, PLAIN, TIMES["constant"][1], B_FRAMES)
    with av.open(str(path)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)


@ORDERS
def test_a_time_base_with_1001(options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    video = replace(PLAIN, time_base=Fraction(1001, 30000), rate=Fraction(30000, 1001))
    encode(path, video, timed(range(5, 15), 1), options)
    assert probe(path).video.time_base == Fraction(1, 30000)
    assert packets_of(path) == timed(range(5005, 15015, 1001), 1001)


@ORDERS
def test_timestamps_below_zero(options: dict[str, str], tmp_path: Path) -> None:
    """They are written unchanged; MP4 does not show times before zero, so a decoder drops those frames."""
    path = tmp_path / "out.mp4"
    stamps = timed(range(-80, 400, 40), 40)
    encode(path, replace(PLAIN, time_base=MILLISECONDS), stamps, options)
    assert packets_of(path) == stamps
    assert [frame.pts for frame in read_frames(path, probe(path).video)] == list(range(0, 400, 40))


@ORDERS
def test_frames_without_durations(options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    encode(path, replace(PLAIN, time_base=MILLISECONDS, rate=None), [(pts, 0) for pts in IRREGULAR], options)
    assert [pts for pts, _ in packets_of(path)] == list(IRREGULAR)


# For 48 columns or fewer x265 writes beyond its memory.
X265 = Codec("libx265", (0, 51), (), {"preset": "ultrafast"})
X265_LOSSLESS = {"x265-params": "lossless=1:log-level=none:pools=1:frame-threads=1"}


@pytest.mark.parametrize(
    ("codec", "options", "pix_fmt", "width", "height"),
    [
        (H264, LOSSLESS, "yuv420p", 48, 32),
        (H264, {"crf": "0", "preset": "medium"}, "yuv420p", 50, 34),
        (H264, LOSSLESS, "yuv422p", 50, 33),
        (H264, LOSSLESS, "yuv444p", 51, 33),
        (X265, X265_LOSSLESS, "yuv420p10le", 64, 32),
        (X265, X265_LOSSLESS, "yuv444p12le", 67, 33),
        (X265, X265_LOSSLESS, "gbrp", 67, 33),
    ],
)
def test_lossless_round_trip(
    codec: Codec, options: dict[str, str], pix_fmt: str, width: int, height: int, tmp_path: Path, leaves_nothing: None
) -> None:
    path = tmp_path / "out.mp4"
    video = replace(PLAIN, width=width, height=height, pix_fmt=pix_fmt)
    written = encode(path, video, timed(range(0, 2560, 512), 512), options, codec)
    info = probe(path).video
    assert (info.width, info.height, info.pix_fmt) == (width, height, pix_fmt)
    read = list(read_frames(path, info))
    assert [(frame.pts, frame.duration) for frame in read] == [(frame.pts, frame.duration) for frame in written]
    for before, after in zip(written, read, strict=True):
        for plane, same in zip(before.planes, after.planes, strict=True):
            assert plane.dtype == same.dtype and np.array_equal(plane, same)


def test_lossless_round_trip_of_grey(tmp_path: Path) -> None:
    """H.264 stores only luma; its decoder adds neutral chroma."""
    path = tmp_path / "out.mp4"
    written = encode(path, replace(PLAIN, width=51, height=33, pix_fmt="gray"), [(0, 512), (512, 512)], LOSSLESS)
    read = list(read_frames(path, probe(path).video))
    for before, after in zip(written, read, strict=True):
        assert np.array_equal(before.planes[0], after.planes[0])
        assert {int(code) for plane in after.planes[1:] for code in np.unique(plane)} <= {128}


def written_info(path: Path, video: VideoFormat) -> VideoInfo:
    encode(path, video, [(0, 512), (512, 512)], {"preset": "ultrafast"})
    return probe(path).video


@pytest.mark.parametrize(
    "tags",
    [ColourTags(), ColourTags(1, 1, 1, 1), ColourTags(1, 6, 6, 6), ColourTags(2, 5, 5, 1), ColourTags(1, 9, 9, 16),
     ColourTags(1, 9, 9, 18), ColourTags(2, 2, 2, 2),
     ColourTags(1, 9, 9, 16, 3), ColourTags(chroma_location=2)],
)  # fmt: skip
def test_colour_tags(tags: ColourTags, tmp_path: Path) -> None:
    """Unspecified chroma of H.264 is on the left, and libav reports that."""
    expected = replace(tags, chroma_location=tags.chroma_location or 1)
    assert written_info(tmp_path / "out.mp4", replace(PLAIN, tags=tags)).tags == expected


def test_limited_range_alone_is_not_written(tmp_path: Path) -> None:
    assert written_info(tmp_path / "out.mp4", replace(PLAIN, tags=ColourTags(range=1))).tags == ColourTags(
        chroma_location=1
    )


@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(1280, 1281), Fraction(64, 45), Fraction(1)])
def test_sample_aspect_ratio(ratio: Fraction, tmp_path: Path) -> None:
    assert written_info(tmp_path / "out.mp4", replace(PLAIN, sample_aspect_ratio=ratio)).sample_aspect_ratio == ratio


def test_an_unspecified_sample_aspect_ratio(tmp_path: Path) -> None:
    assert written_info(tmp_path / "out.mp4", PLAIN).sample_aspect_ratio is None


@pytest.mark.parametrize(
    "matrix",
    [None, (0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824), (-65536, 0, 0, 0, 65536, 0, 0, 0, 1073741824)],
    ids=["none", "a quarter turn", "mirrored"],
)
def test_display_matrix(matrix: tuple[int, ...] | None, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    info = written_info(path, replace(PLAIN, display_matrix=matrix))
    assert (info.display_matrix, info.width, info.height) == (matrix, 48, 32)


def test_the_program_decodes_what_was_written(tmp_path: Path, frame_listing: FrameListing) -> None:
    path = tmp_path / "out.mp4"
    frames = encode(path, PLAIN, timed(range(0, 2560, 512), 512), LOSSLESS)
    assert len({md5 for _, _, md5 in frame_listing(path, 0, "yuv420p")}) == len(frames) == 5


@pytest.mark.parametrize(
    ("video", "options", "message"),
    [
        (replace(PLAIN, width=47), {}, r"refuses 47x32 yuv420p with its defaults: .+\."),
        (replace(PLAIN, height=31), {}, r"refuses 48x31 yuv420p with its defaults: .+\."),
        (replace(PLAIN, pix_fmt="rgb24"), {}, r"refuses 48x32 rgb24 with its defaults: .+\."),
        (PLAIN, {"crf": "best"}, r"refuses 48x32 yuv420p with \{'crf': 'best'\}: .+\."),
        (PLAIN, {"bf": "-7"}, r"refuses 48x32 yuv420p with \{'bf': '-7'\}: .+\."),
        (PLAIN, {"sharpness": "9"}, r"has no option sharpness: use 8x8dct, .+, x264-params, x264opts\."),
    ],
)
def test_refused_formats_and_options(
    video: VideoFormat, options: dict[str, str], message: str, tmp_path: Path, leaves_nothing: None
) -> None:
    for refuse in (
        lambda: Encoder(tmp_path / "out.mp4", H264, options, video),
        lambda: check_encoder(H264, options, video),
    ):
        with pytest.raises((OutputError, UsageError)) as caught:
            refuse()
        assert re.fullmatch(rf"the encoder libx264 {message}", str(caught.value))
    assert str(tmp_path / "out.mp4") not in open_files()


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [os.readlink(link) for link in folder.iterdir() if link.exists()] if folder.exists() else []


def test_an_invalid_format_leaves_no_open_file(tmp_path: Path, leaves_nothing: None) -> None:
    with pytest.raises(ValueError, match="h266"):
        Encoder(tmp_path / "out.mp4", Codec("h266", (0, 51), ()), {}, PLAIN)
    with pytest.raises((ValueError, OutputError), match="nope"):
        Encoder(tmp_path / "out.mp4", H264, {}, replace(PLAIN, pix_fmt="nope"))


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere/out.mp4", "No such file or directory"), (".", "Is a directory")]
)
def test_an_unwritable_path_is_an_output_error(name: str, reason: str, tmp_path: Path, leaves_nothing: None) -> None:
    with pytest.raises(OutputError) as caught:
        Encoder(tmp_path / name, H264, {}, PLAIN)
    assert str(caught.value) == f"cannot write {tmp_path / name}: {reason}."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("frames", [1, 200])
def test_a_full_disk_is_an_output_error(frames: int, leaves_nothing: None) -> None:
    with pytest.raises(OutputError, match=r"^(encoding failed|cannot finish) .*: No space left on device\.$"):
        encode(Path("/dev/full"), PLAIN, timed(range(0, frames * 512, 512), 512), LOSSLESS)
    assert "/dev/full" not in open_files()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc")
def test_an_exception_closes_the_file_and_is_passed_on(tmp_path: Path, leaves_nothing: None) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt), Encoder(path, H264, {}, PLAIN) as encoder:
        encoder.write(noise(PLAIN, 0))
        assert str(path) in open_files()
        raise KeyboardInterrupt
    assert str(path) not in open_files()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("under_way", [None, KeyError])
def test_a_disk_that_is_full_at_the_end(
    under_way: type[Exception] | None, tmp_path: Path, leaves_nothing: None
) -> None:
    path = tmp_path / "out.mp4"
    at_once = {"preset": "ultrafast", "tune": "zerolatency"}
    with pytest.raises(under_way or OutputError) as caught, Encoder(path, H264, at_once, PLAIN) as encoder:
        encoder.write(noise(PLAIN, 0))
        encoder.write(noise(PLAIN, 512))
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), encoder._file.fileno())
        if under_way:
            raise under_way
    if not under_way:
        assert str(caught.value) == "cannot finish the encoded video: No space left on device."
    assert "/dev/full" not in open_files()


def test_decreasing_timestamps_are_refused(tmp_path: Path, leaves_nothing: None) -> None:
    with (
        pytest.raises(OutputError, match=r"^encoding failed after 1 frames: "),
        Encoder(tmp_path / "out.mp4", H264, {"preset": "ultrafast", "tune": "zerolatency"}, PLAIN) as encoder,
    ):
        encoder.write(noise(PLAIN, 512))
        encoder.write(noise(PLAIN, 0))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_hevc_with_one_or_two_frames(count: int, tmp_path: Path) -> None:
    """x265 returns uninitialised decoding timestamps for so few frames."""
    video = replace(PLAIN, width=64, height=64, pix_fmt="yuv420p10le")
    for number in range(3):
        path = tmp_path / f"{number}.mp4"
        with Encoder(path, CODECS["hevc"], {"preset": "ultrafast"}, video) as encoder:
            for index in range(count):
                planes = [np.full((size, size), 512, np.uint16) for size in (64, 32, 32)]
                encoder.write(Frame(tuple(planes), index * 512, 512))
        with av.open(str(path)) as container:
            assert [frame.pts for frame in container.decode(video=0)] == [index * 512 for index in range(count)]


ENCODE = """
import hashlib, sys
from fractions import Fraction
from pathlib import Path
import av
import numpy as np
from vsr.media.formats import CODECS
from vsr.media.writer import Encoder, VideoFormat
from vsr.media.clip import layout_of, planes_of
from vsr.media.reader import Frame

path, size = Path(sys.argv[2]) / "out.mp4", (144, 80)  # nine macroblocks across: no multiple of four
x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
time = {"time_base": Fraction(1, 1000), "rate": Fraction(2)}
video = VideoFormat(width=size[0], height=size[1], pix_fmt="yuv420p", threads=1, **time)
with Encoder(path, CODECS[sys.argv[1]], {"crf": "30"}, video) as encoder:
    for number in range(18, 27):
        moving = x + 2 * number
        waves = [127 + 100 * np.sin(moving / 9), 127 + 100 * np.cos(y / 7), 127 + 100 * np.sin((moving + y) / 11)]
        picture = av.VideoFrame.from_ndarray(np.stack(waves, -1).astype(np.uint8), "rgb24").reformat(format="yuv420p")
        planes = [plane.copy() for plane in planes_of(picture, layout_of("yuv420p"))]
        encoder.write(Frame(tuple(planes), 500 * number, 500))
print(hashlib.md5(path.read_bytes()).hexdigest())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="fills memory by a setting of glibc")
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_uninitialised_memory_changes_no_bit(codec: str, tmp_path: Path) -> None:
    """x264's macroblock tree read uninitialised memory: a resumed job would differ from an uninterrupted one."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", ENCODE, codec, tmp_path], capture_output=True, text=True, check=True,
            env=os.environ | {"GLIBC_TUNABLES": f"glibc.malloc.perturb={filling}"},
        ).stdout
        for filling in (85, 170)
    }  # fmt: skip
    assert len(digests) == 1
