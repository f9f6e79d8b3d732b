"""Small inputs that vsr once handled wrongly, each with the right outcome."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import vsr
from vsr.media.probe import probe

pytestmark = pytest.mark.usefixtures("leaves_nothing")

Ffmpeg = Callable[..., str]


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> Path:
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    return folder


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def packets_of(path: Path) -> list[tuple[str, list[float]]]:
    """Return the kind of each stream and the start times of its packets, in seconds."""
    with av.open(str(path)) as container:
        found = [(stream.type, list[float]()) for stream in container.streams]
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                found[packet.stream_index][1].append(float(packet.pts * packet.time_base))
    return found


def test_flac_into_mp4_keeps_its_sound(cases: Path, tmp_path: Path) -> None:
    summary = vsr.upscale(cases / "flac.mkv", tmp_path / "out.mp4", model="identity")
    (video, shown), (audio, heard) = packets_of(summary.target)
    assert (video, len(shown), audio, len(heard), summary.damage) == ("video", 15, "audio", 7, "")


def test_cropping_left_and_top_in_the_header_is_applied(
    cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = vsr.upscale(cases / "crop.mp4", tmp_path / "out.mp4", model="bicubic", scale=2)
    assert (summary.frames, summary.width, summary.height, summary.damage) == (10, 316, 204, "")
    assert not warnings_in(caplog)


@pytest.mark.parametrize(
    ("start", "end", "frames", "resized"),
    [(None, None, 30, 15), (None, Fraction(1, 2), 13, 0), (Fraction(3, 5), None, 15, 15), (Fraction(1), None, 5, 5)],
)
def test_a_change_of_size_is_resized_and_reported(
    start: Fraction | None, end: Fraction | None, frames: int, resized: int, cases: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    clip = cases / "reschange.ts"
    summary = vsr.upscale(clip, tmp_path / "out.mp4", model="bicubic", scale=2, start=start, end=end)
    assert (summary.frames, summary.width, summary.height, summary.damage) == (frames, 320, 180, "")
    said = [f"{clip} changes its size: {resized} frames were resized to the 160x90 of the first."]
    assert warnings_in(caplog) == (said if resized else [])


def heard_from(ffmpeg: Ffmpeg, path: Path) -> float:
    """Return the seconds from the file's time 0 to the first sound."""
    pcm = path.with_name("heard.pcm")
    ffmpeg("-copyts", "-i", path, "-vn", "-af", "aresample=8000:async=1:first_pts=0", "-f", "s16le", "-ac", 1, pcm)
    return float(np.argmax(np.abs(np.fromfile(pcm, np.int16)) > 500)) / 8000


def test_late_sound_stays_late_in_an_avi(cases: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    clip = tmp_path / "late_audio.mp4"
    clip.write_bytes((cases / clip.name).read_bytes())
    target = vsr.upscale(clip, tmp_path / "out.avi", model="identity").target
    before, after = heard_from(ffmpeg, clip), heard_from(ffmpeg, target)
    assert before > 0.476 and abs(after - before) < 0.03


def test_streams_that_begin_late_together_begin_an_avi_together(cases: Path, tmp_path: Path) -> None:
    target = vsr.upscale(cases / "ts_start_1400ms.ts", tmp_path / "out.avi", model="identity").target
    (_, shown), (_, heard) = packets_of(target)
    assert len(shown) == 15 and shown[0] < 0.05 and heard[0] < 0.05


@pytest.mark.parametrize("target", ["out.mkv", "out.mp4"])
def test_a_stereoscopic_arrangement_is_kept(
    target: str, cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = vsr.upscale(cases / "stereo_sbs.mkv", tmp_path / target, model="identity").target
    assert "STEREO3D" in probe(out).video.side_data
    assert not warnings_in(caplog)


def test_a_time_code_track_is_kept(cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = vsr.upscale(cases / "tmcd.mov", tmp_path / "out.mov", model="identity").target
    with av.open(str(out)) as container:
        assert [stream.metadata.get("timecode") for stream in container.streams if stream.type == "data"] == [
            "01:02:03;04"
        ]
    assert not warnings_in(caplog)


def test_the_last_frame_of_a_gif_lasts_as_long_in_a_video(cases: Path, tmp_path: Path) -> None:
    """Encoders reorder frames, and files store durations in decoding order."""
    shown = {}
    for ending in (".mkv", ".webm", ".mp4"):
        out = vsr.upscale(cases / "transp_dispose.gif", tmp_path / f"out{ending}", model="identity").target
        (_, begins), *_ = packets_of(out)
        assert sorted(begins) == pytest.approx([0, 0.05, 0.25, 0.35, 0.85])
        with av.open(str(out)) as container:
            shown[ending] = container.duration
    assert shown[".mkv"] == shown[".webm"] == 920000
    edits = out.read_bytes().partition(b"elst")[2]
    assert int.from_bytes(edits[8:12], "big") == 92  # hundredths, of the one edit
