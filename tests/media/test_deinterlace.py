"""Deinterlacing of interlaced and progressive frames."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from vsr.media.probe import probe
from vsr.media.reader import Frame, read_frames

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Ffmpeg = Callable[..., str]

MOVING = ("-f", "lavfi", "-i", "testsrc2=s=128x96:r=50:d=0.8", "-vf", "tinterlace=interleave_top")
FLAGGED = ("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "2", "-bf", "0")
UNFLAGGED = ("-c:v", "ffv1", "-pix_fmt", "yuv420p")


@pytest.fixture
def interlaced(ffmpeg: Ffmpeg, tmp_path: Path) -> Callable[[bool], Path]:
    """Make a clip of twenty interlaced frames of a moving picture, flagged as interlaced or not."""

    def make(flagged: bool) -> Path:
        path = tmp_path / ("woven.ts" if flagged else "woven.mkv")
        first = "setfield=tff" if flagged else "setfield=prog"
        ffmpeg(*MOVING[:-1], f"{MOVING[-1]},{first}", *(FLAGGED if flagged else UNFLAGGED), path)
        return path

    return make


def read(path: Path, mode: str) -> list[Frame]:
    return list(read_frames(path, probe(path).video, deinterlace=mode))  # type: ignore[arg-type]


def combing(frames: list[Frame]) -> float:
    """Return how much more neighbouring rows differ than rows of the same field."""
    luma = np.stack([frame.planes[0] for frame in frames]).astype(float)
    across = np.abs(luma[:, 1:-1] - (luma[:, :-2] + luma[:, 2:]) / 2).mean()
    within = np.abs(luma[:, :-2] - luma[:, 2:]).mean()
    return float(across / within)


def test_flagged_frames_are_deinterlaced(interlaced: Callable[[bool], Path]) -> None:
    path = interlaced(True)
    assert probe(path).video.interlaced
    woven, progressive = read(path, "no"), read(path, "auto")
    assert len(woven) == 20
    assert [(frame.pts, frame.duration) for frame in progressive] == [(frame.pts, frame.duration) for frame in woven]
    assert combing(progressive) < 0.75 * combing(woven)


def test_frames_without_the_flag_are_deinterlaced_only_on_request(interlaced: Callable[[bool], Path]) -> None:
    path = interlaced(False)
    assert not probe(path).video.interlaced
    woven, auto, forced = (read(path, mode) for mode in ("no", "auto", "yes"))
    assert len(woven) == 20
    for before, after in zip(woven, auto, strict=True):
        assert all(map(np.array_equal, before.planes, after.planes))
    assert [frame.pts for frame in forced] == [frame.pts for frame in woven]
    assert combing(forced) < 0.75 * combing(woven)


def test_a_part_equals_the_same_part_of_the_whole(interlaced: Callable[[bool], Path]) -> None:
    """The frames at the edges differ, since they have one neighbour less."""
    path = interlaced(True)
    video, whole = probe(path).video, read(path, "auto")
    part = list(read_frames(path, video, start=whole[4].pts, end=whole[12].pts, deinterlace="auto"))
    assert [frame.pts for frame in part] == [frame.pts for frame in whole[4:12]]
    for before, after in zip(whole[6:11], part[2:7], strict=True):
        assert all(map(np.array_equal, before.planes, after.planes))


def test_a_single_frame(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    path = tmp_path / "one.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.04", *UNFLAGGED, path)
    assert [frame.pts for frame in read(path, "yes")] == [frame.pts for frame in read(path, "no")] == [0]


def test_a_real_clip(shared_data: Path) -> None:
    path = shared_data / "clips" / "h264_540i_bff_51audio.mts"
    video = probe(path).video
    woven, progressive = (list(islice(read_frames(path, video, deinterlace=mode), 8)) for mode in ("no", "auto"))
    assert [(frame.pts, frame.duration) for frame in progressive] == [(frame.pts, frame.duration) for frame in woven]
    assert combing(progressive) < combing(woven)
