"""Clips from video files: consecutive frames of one window, without a cut, for any kind of file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vsr.errors import InputError, TrainingDataError
from vsr.training import clips as videos_module
from vsr.training.clips import VideoSet
from vsr.training.degradation import Clip

MakeClip = Callable[..., Path]


def write(path: Path, frames: Iterable[np.ndarray], rate: int = 25) -> Path:
    """Write a lossless video of (H, W, 3) uint8 RGB frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        for number, rgb in enumerate(frames):
            if not number:
                stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], "bgr0"
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def atlas(number: int, height: int = 40, width: int = 56) -> np.ndarray:
    """Return a frame whose pixels encode frame, row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, number), rows, columns], -1).astype(np.uint8)


def drawn(videos: VideoSet, seed: int, size: int = 16) -> Clip:
    return videos.draw(size, np.random.default_rng(seed))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("vsr"), "propagate", True)
    return caplog


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos_module, "PIECE", 10)


def test_a_clip_is_consecutive_frames_of_one_window_in_every_orientation(tmp_path: Path, short_pieces: None) -> None:
    videos = VideoSet([write(tmp_path / "a.mkv", map(atlas, range(47)))], min_size=16, frames=5)
    assert len(videos) == 4
    seen, begins = set(), set()
    for seed in range(120):
        clip = drawn(videos, seed).astype(int)
        assert clip.shape == (5, 16, 16, 3)
        assert (clip[0, ..., 1:] == clip[-1, ..., 1:]).all()
        step = np.unique(np.diff(clip[..., 0], axis=0))
        down, across = np.unique(np.diff(clip[0], axis=0)[..., 1:]), np.unique(np.diff(clip[0], axis=1)[..., 1:])
        assert len(step) == 1 and abs(step[0]) == 1
        turned = bool((np.diff(clip[0], axis=0)[..., 1] == 0).all())
        seen.add((step[0], turned, *down[down != 0], *across[across != 0]))
        begins.add(clip[..., 0].min())
    assert len(seen) == 16  # forwards or backwards, eight orientations
    assert {0, 42} <= begins and len(begins) > 20


def test_a_piece_decodes_to_the_same_frames_as_the_whole(
    make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch, short_pieces: None
) -> None:
    groups = {"preset": "medium", "x264-params": "keyint=7:scenecut=0:bframes=3"}
    path = make_clip(size=(64, 48), pts=range(512, 41 * 512, 512), options=groups)
    pieces = VideoSet([path], min_size=48, frames=4)
    monkeypatch.setattr(videos_module, "PIECE", 64)
    whole = VideoSet([path], min_size=48, frames=4)
    assert (len(pieces), len(whole)) == (4, 1)
    decoded = [run for number in range(4) for run in pieces._runs(pieces._pieces[number])]
    assert [len(run) for run in decoded] == [10] * 4
    assert (np.concatenate(decoded) == whole._runs(whole._pieces[0])[0]).all()


def test_no_clip_has_a_cut(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scenes = [cv2.resize(random.integers(256, size=(5, 7, 3), dtype=np.uint8), (64, 48)) for _ in range(3)]
    frames = [np.roll(scene, 2 * number, 1) for scene in scenes for number in range(8)]
    videos = VideoSet([write(tmp_path / "a.mkv", frames)], min_size=16, frames=6)
    steps = [np.abs(np.diff(drawn(videos, seed, 48).astype(float), axis=0)).mean((1, 2, 3)).max() for seed in range(40)]
    assert max(steps) < 24
    fast = write(tmp_path / "b.mkv", [np.roll(scenes[0], 9 * number, 1) for number in range(8)])
    assert len(drawn(VideoSet([fast], min_size=16, frames=8), 0)) == 8  # constant fast motion is not a cut


def test_windows_are_reduced_to_the_size_of_small_videos(tmp_path: Path) -> None:
    videos = VideoSet([write(tmp_path / "a.mkv", map(atlas, range(8)))], min_size=32, frames=4)
    assert sorted({drawn(videos, seed, 48).shape[1:3] for seed in range(12)}) == [(40, 48), (48, 40)]


def test_large_videos_are_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos_module, "LARGE", 40)
    videos = VideoSet([write(tmp_path / "a.mkv", map(atlas, range(8)))], min_size=20, frames=4)
    clip = drawn(videos, 0, 64)
    assert sorted(clip.shape[1:3]) == [20, 28]
    assert clip[..., 2].max() in (54, 55)  # the mean of 54 and 55
    assert len(VideoSet(videos.paths, min_size=21, frames=4)) == 0


def test_colours_are_those_of_the_file(make_clip: MakeClip) -> None:
    path = make_clip(size=(64, 48), pix_fmt="yuv444p", options={"qp": "0", "preset": "medium"})
    videos = VideoSet([path], min_size=48, frames=8)
    with av.open(str(path)) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(videos._runs(videos._pieces[0])[0].astype(int) - expected).max() <= 2


def test_unusable_videos_are_left_out_by_name(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    good = write(tmp_path / "good.mkv", map(atlas, range(8)))
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    small = write(tmp_path / "small.mkv", (atlas(n, 16, 16) for n in range(8)))
    paths = [tmp_path / "text.mp4", good, tmp_path / "empty.mp4", small]
    videos = VideoSet(paths, min_size=32, frames=4)
    assert videos.paths == [good] and videos.left_out == 3 and len(videos) == 1
    assert "small.mkv is 16x16, smaller than 32" in log.text and "text.mp4 is not a video" in log.text
    assert "left out 3 of 4 videos" in log.text


def test_damaged_or_short_pieces_are_replaced(
    tmp_path: Path, make_clip: MakeClip, log: pytest.LogCaptureFixture
) -> None:
    broken = make_clip("broken.mkv", size=(64, 48), pts=range(0, 40 * 512, 512))
    content = broken.read_bytes()
    short = write(tmp_path / "short.mkv", map(atlas, range(3)))
    good = write(tmp_path / "good.mkv", map(atlas, range(30)))
    videos = VideoSet([broken, short, good], min_size=32, frames=4)
    broken.write_bytes(content[:800])  # after the headers were read
    clips = [drawn(videos, seed, 32) for seed in range(30)]
    assert all(len(clip) == 4 and np.ptp(clip[0, ..., 0]) == 0 for clip in clips)  # all from the good one
    assert log.text.count("left out and replaced by another") == 2 and "short.mkv has no 4 frames" in log.text
    with pytest.raises(TrainingDataError, match="none of the videos has 4 frames without a cut"):
        drawn(VideoSet([short], min_size=32, frames=4), 0)


def test_a_file_that_vanished_ends_the_run(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", map(atlas, range(8)))
    videos = VideoSet([path], min_size=32, frames=4)
    path.unlink()
    with pytest.raises(InputError, match=r"cannot read .*a\.mkv: No such file"):
        drawn(videos, 0)


def test_pieces_are_cached_up_to_the_limit(tmp_path: Path, short_pieces: None) -> None:
    path = write(tmp_path / "a.mkv", map(atlas, range(40)))
    free, none, one = (
        VideoSet([path], min_size=16, frames=4, cache_bytes=limit) for limit in (1 << 30, 0, 10 * 40 * 56 * 3)
    )
    for seed in range(20):
        clip = drawn(free, seed)
        assert (clip == drawn(none, seed)).all() and (clip == drawn(one, seed)).all()
    assert (len(free._cache), len(none._cache), len(one._cache)) == (4, 0, 1)
    with ThreadPoolExecutor(4) as pool:
        for seed, clip in enumerate(pool.map(lambda seed: drawn(one, seed), range(20))):
            assert (clip == drawn(free, seed)).all()


def test_pieces_are_held_out(tmp_path: Path, short_pieces: None) -> None:
    videos = VideoSet([write(tmp_path / "a.mkv", map(atlas, range(40)))], min_size=16, frames=4)
    whole = videos.fingerprint()
    held_out = videos.hold_out(1)
    assert (len(videos), len(held_out)) == (3, 1)
    assert len({whole, videos.fingerprint(), held_out.fingerprint()}) == 3
    assert {int(drawn(held_out, seed)[..., 0].max()) for seed in range(20)} <= set(range(10))
    assert min(int(drawn(videos, seed)[..., 0].min()) for seed in range(40)) == 10
