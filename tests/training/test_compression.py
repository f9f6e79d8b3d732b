from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from textures import moving

from vsr.errors import TrainingError, UsageError
from vsr.training import compression
from vsr.training.compression import compress, subsample

BEST = {"h264": 4, "h265": 4, "mpeg2": 1, "mpeg4": 1, "flv": 1}
MIDDLE = {"h264": 26, "h265": 28, "mpeg2": 6, "mpeg4": 6, "flv": 6}
WORST = {"h264": 44, "h265": 44, "mpeg2": 28, "mpeg4": 28, "flv": 28}
CODECS = sorted(BEST)


def error(left: np.ndarray, right: np.ndarray) -> float:
    """Return the root of the mean squared difference, in codes."""
    return float(np.sqrt(np.mean((left.astype(np.float64) - right) ** 2)))


@pytest.mark.parametrize("codec", CODECS)
def test_a_higher_quality_value_is_further_from_the_source(codec: str) -> None:
    frames = moving()
    errors = [
        error(compress(frames, codec=codec, quality=table[codec], pixel_format="yuv420p"), frames)
        for table in (BEST, MIDDLE, WORST)
    ]
    assert errors[0] * 1.1 < errors[1] and errors[1] * 1.1 < errors[2]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("codec", CODECS)
def test_at_the_best_quality_little_but_chroma_is_lost(codec: str, pixel_format: str) -> None:
    frames = moving(grain=2)
    decoded = compress(frames, codec=codec, quality=BEST[codec], pixel_format=pixel_format)
    taken = {"mpeg2": pixel_format.replace("444", "422"), "mpeg4": "yuv420p", "flv": "yuv420p"}
    stored = subsample(frames, pixel_format=taken.get(codec, pixel_format))
    assert [round(error(decoded[t], stored[t])) for t in range(4)] <= [2] * 4  # each in its own place
    assert error(decoded[0], stored[1]) > 10


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 33), (31, 48), (50, 40), (97, 24)])
@pytest.mark.parametrize("codec", CODECS)
def test_the_shape_is_kept_for_any_size_and_number_of_frames(codec: str, size: tuple[int, int]) -> None:
    for count, b_frames in ((1, 2), (2, 1), (5, 0), (5, 3)):
        frames = moving(*size, count=count, grain=3)
        decoded = compress(frames, codec=codec, quality=MIDDLE[codec] // 2, pixel_format="yuv420p", b_frames=b_frames)
        assert decoded.shape == frames.shape and decoded.dtype == np.uint8 and decoded.flags.c_contiguous
        assert error(decoded.mean((1, 2)), frames.mean((1, 2))) < 6


@pytest.mark.parametrize("codec", CODECS)
def test_frames_are_predicted_from_each_other(codec: str) -> None:
    frames = moving(grain=2)
    alone = compress(frames[2:3], codec=codec, quality=MIDDLE[codec], pixel_format="yuv420p")[0]
    none, two = (
        compress(frames, codec=codec, quality=MIDDLE[codec], pixel_format="yuv420p", b_frames=number)
        for number in (0, 2)
    )
    assert (none[2] != alone).any()
    assert (none != two).any() or codec == "flv"  # which has no bidirectional frames


@pytest.mark.parametrize("size", [(8, 8), (32, 48), (40, 40)])
@pytest.mark.parametrize("codec", CODECS)
def test_the_result_is_always_the_same_in_any_thread(codec: str, size: tuple[int, int]) -> None:
    frames = moving(*size)

    def decoded(number: int) -> np.ndarray:
        memory = [np.full(60_000, number * 37 % 256, np.uint8) for _ in range(16)]
        del memory  # memory that a codec reads without writing it differs now
        return compress(frames, codec=codec, quality=20, pixel_format="yuv420p")

    with ThreadPoolExecutor(4) as pool:
        same = list(pool.map(decoded, range(12)))
    assert all((other == same[0]).all() for other in same)


def test_subsampling_loses_fine_chroma() -> None:
    stripes = np.zeros((1, 16, 16, 3), np.uint8)
    stripes[:, :, ::2] = (200, 40, 40)
    stripes[:, :, 1::2] = (40, 40, 200)
    lying = stripes.transpose(0, 2, 1, 3)
    lost = {
        name: (error(subsample(stripes, pixel_format=name), stripes), error(subsample(lying, pixel_format=name), lying))
        for name in ("yuv420p", "yuv422p", "yuv444p")
    }
    assert max(lost["yuv444p"]) < 1 and lost["yuv422p"][1] < 1
    assert min(lost["yuv420p"]) > 30 and lost["yuv422p"][0] > 30


def test_grey_survives_subsampling() -> None:
    grey = np.random.default_rng(0).integers(256, size=(2, 7, 9, 1), dtype=np.uint8).repeat(3, 3)
    for name in ("yuv420p", "yuv422p", "yuv444p"):
        assert np.abs(subsample(grey, pixel_format=name).astype(int) - grey).max() <= 1


def test_views_are_accepted() -> None:
    frames = moving()
    mirrored = frames[:, ::-1, ::-1].transpose(0, 2, 1, 3)
    expected = compress(np.ascontiguousarray(mirrored), codec="mpeg2", quality=4, pixel_format="yuv420p")
    assert (compress(mirrored, codec="mpeg2", quality=4, pixel_format="yuv420p") == expected).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads and memory as Linux tells them")
def test_no_memory_leaks(codec: str) -> None:
    def used() -> tuple[int, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return len(os.listdir("/proc/self/task")), pages * os.sysconf("SC_PAGESIZE")

    frames = moving(count=2)
    for _ in range(30):
        compress(frames, codec=codec, quality=30 if codec in ("h264", "h265") else 9, pixel_format="yuv420p")
    threads, memory = used()
    for _ in range(150):
        compress(frames, codec=codec, quality=30 if codec in ("h264", "h265") else 9, pixel_format="yuv420p")
    threads_after, memory_after = used()
    assert threads_after == threads
    assert memory_after - memory < 12 << 20  # a leaked encoder takes at least a tenth of a megabyte


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codec": "vp9"}, "codec must be one of"),
        ({"quality": 52}, "h264 has qualities 0 to 51, got 52"),
        ({"quality": -1}, "got -1"),
        ({"codec": "mpeg2", "quality": 0}, "mpeg2 has qualities 1 to 31, got 0"),
        ({"pixel_format": "rgb24"}, "pixel_format must be one of yuv420p, yuv422p, yuv444p"),
        ({"b_frames": -1}, "b_frames"),
    ],
)
def test_invalid_arguments_are_named(changed: dict[str, object], message: str) -> None:
    given = {"codec": "h264", "quality": 20, "pixel_format": "yuv420p", **changed}
    with pytest.raises(ValueError, match=message):
        compress(moving(), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((1, 8, 8, 3)),
        np.zeros((0, 8, 8, 3), "u1"),
    ],
)
def test_invalid_frames_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected frames"):
        compress(frames, codec="h264", quality=20, pixel_format="yuv420p")
    with pytest.raises(ValueError, match="expected frames"):
        subsample(frames, pixel_format="yuv420p")


def test_a_missing_or_failing_codec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = compression._CODECS["h264"]
    missing = dataclasses.replace(original, encoder="no_such_encoder")
    monkeypatch.setitem(compression._CODECS, "h264", missing)
    with pytest.raises(UsageError, match="no no_such_encoder; train without the codec h264"):
        compress(moving(), codec="h264", quality=20, pixel_format="yuv420p")
    failing = dataclasses.replace(original, options=lambda quality, b_frames: {"preset": "no such preset"})
    monkeypatch.setitem(compression._CODECS, "h264", failing)
    with pytest.raises(TrainingError, match="libx264 failed with .*no such preset"):
        compress(moving(), codec="h264", quality=20, pixel_format="yuv420p")


@pytest.mark.parametrize("codec", CODECS)
def test_the_interval_of_keyframes_is_kept(codec: str) -> None:
    frames = moving(64, 64, 4)
    often, seldom, alone = (
        compress(part, codec=codec, quality=MIDDLE[codec], pixel_format="yuv420p", b_frames=0, keyframes=keyframes)
        for part, keyframes in ((frames, 3), (frames, 250), (frames[3:], 3))
    )
    assert (often[3] != seldom[3]).any()
    assert (often[3] == alone[0]).all() or codec == "h265"  # its rate control depends on earlier frames
