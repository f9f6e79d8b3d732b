"""Jobs that were stopped: run again they go on, and what comes out is what an uninterrupted run makes."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from torch import Tensor

import vsr
from vsr.errors import FFmpegError, OutputError, VsrError
from vsr.inference.engine import Engine
from vsr.pipeline.job_folder import MANIFEST, RECORD, job_folder_of

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]

LONG = {"pts": range(0, 24_000, 500), "time_base": Fraction(1, 1000)}
"""Frames of half a second, no keyframe but the first: segments of 4.5 s, which is nine frames; the last has twelve."""
SEGMENTS = [9, 9, 9, 9, 12]
ASKED = {"model": "bicubic", "scale": 2, "preset": "ultrafast", "batch_size": 3}


class Stop(Exception):
    """Ends a job."""


def segments_in(target: Path) -> list[str]:
    folder = job_folder_of(target)
    return sorted(path.name for path in folder.glob("[0-9]*")) if folder.exists() else []


def stop_after(segments: int, target: Path) -> Callable[[object], None]:
    """A callback that ends the job when so many segments are finished."""

    def progress(_: object) -> None:
        if len(segments_in(target)) >= segments:
            raise Stop

    return progress


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame is computed while the ones before are not yet written: how far a stopped job came is then known."""
    monkeypatch.setattr("vsr.pipeline.segment.QUEUE_BYTES", 1)


def interrupt(clip: Path, target: Path, segments: int = 2, **options: object) -> list[str]:
    """Runs a job until so many segments, or some more, are finished; returns which."""
    with pytest.raises(Stop):
        vsr.upscale(clip, target, progress=stop_after(segments, target), **{**ASKED, **options})
    assert not target.exists()
    left = segments_in(target)
    assert segments <= len(left) < len(SEGMENTS)
    assert left == [f"{number:06}" for number in range(len(left))]
    return left


def state(target: Path) -> dict[str, tuple[int, int, int]]:
    """Of every file of a finished segment: which it is, when it was written, and how large it is."""
    files = (path for folder in segments_in(target) for path in (job_folder_of(target) / folder).iterdir())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def content(path: Path) -> list[tuple[Fraction, str]]:
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, hashlib.md5(frame.to_ndarray().tobytes()).hexdigest())
            for frame in container.decode(video=0)
        ]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames went through the network, batch by batch."""
    counts: list[int] = []
    run = Engine.run

    def counting(self: Engine, lr: Tensor) -> Tensor:
        counts.append(len(lr))
        return run(self, lr)

    monkeypatch.setattr(Engine, "run", counting)
    return counts


@pytest.mark.usefixtures("slow")
def test_what_is_resumed_is_what_an_uninterrupted_run_makes(
    make_clip: MakeClip, tmp_path: Path, computed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    clip, target = make_clip(**LONG, audio=["aac"]), tmp_path / "out.mp4"
    whole = vsr.upscale(clip, tmp_path / "whole.mp4", **ASKED)
    assert (whole.frames, whole.segments, whole.resumed) == (48, 5, 0)
    left = interrupt(clip, target)
    done, before = sum(SEGMENTS[: len(left)]), state(target)
    assert len(before) == 2 * len(left)
    seen, touched = [], []

    def look(at: vsr.pipeline.job.UpscaleProgress) -> None:
        seen.append(at)
        now = state(target)
        touched.append({path for path in before if now.get(path) != before[path]})

    computed.clear()
    with caplog.at_level(logging.WARNING):
        summary = vsr.upscale(clip, target, progress=look, **ASKED)
    assert not any(touched) and touched
    assert sum(computed) == 48 - done
    assert (summary.frames, summary.segments, summary.resumed) == (48, 5, done)
    assert [at.frames for at in seen[:2]] == [done, done + 3] and seen[-1].frames == 48
    assert {(at.resumed, at.num_frames) for at in seen} == {(done, 48)}
    assert not caplog.records
    assert content(target) == content(tmp_path / "whole.mp4")
    assert len(content(target)) == 48
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not job_folder_of(target).exists()


@pytest.mark.usefixtures("slow")
def test_it_can_be_stopped_again_and_again(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    done = [len(interrupt(clip, target, segments)) for segments in (1, 3, 4)]
    assert done == sorted(done)
    assert vsr.upscale(clip, target, **ASKED).resumed == sum(SEGMENTS[: done[-1]])
    whole = vsr.upscale(clip, tmp_path / "whole.mp4", **ASKED).target
    assert content(target) == content(whole)


@pytest.mark.usefixtures("slow")
def test_a_part_is_resumed(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    part = {**ASKED, "start": Fraction(1), "end": Fraction(22)}
    with pytest.raises(Stop):
        vsr.upscale(clip, target, progress=stop_after(2, target), **part)
    summary = vsr.upscale(clip, target, **part)
    assert (summary.frames, summary.resumed) == (42, 18)
    assert content(target) == content(vsr.upscale(clip, tmp_path / "whole.mp4", **part).target)


CHANGES = {
    "crf": ({"crf": 30}, r"its options was preset=ultrafast, now crf=30 preset=ultrafast"),
    "codec": ({"codec": "ffv1", "preset": None}, r"the encoder was libx264, now ffv1"),
    "size": ({"scale": 3}, r"the size was 96x64, now 144x96"),
    "model": ({"model": "identity", "scale": None}, r"the model was bicubic \(\w+\), now identity \(\w+\)"),
    "part": ({"end": Fraction(20)}, r"the part was None to None, now None to 20"),
}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_pixel_begins_anew(
    change: str, make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    options, said = CHANGES[change]
    interrupt(clip, target, 1)
    with caplog.at_level(logging.WARNING):
        summary = vsr.upscale(clip, target, **{**ASKED, **options})
    assert summary.resumed == 0
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{job_folder_of(target)} was begun otherwise: ")
    assert message.endswith(". It begins anew.")
    assert re.search(said, message), message
    assert len(content(target)) == summary.frames


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("kept", "wanted"), [(["aac"], {"audio": "none"}), ([], {"overwrite": True}), ([], {"tolerant": True})]
)
def test_what_changes_no_pixel_goes_on(
    kept: list[str], wanted: dict[str, object], make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip, target = make_clip(**LONG, audio=kept), tmp_path / "out.mp4"
    left = interrupt(clip, target)
    summary = vsr.upscale(clip, target, **ASKED, **wanted)
    assert summary.resumed == sum(SEGMENTS[: len(left)])
    assert "anew" not in caplog.text
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.usefixtures("slow")
def test_another_source_begins_anew(make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target)
    make_clip(**LONG, options={"crf": "35"})
    summary = vsr.upscale(clip, target, **ASKED)
    assert summary.resumed == 0
    assert "the source was " in caplog.text
    assert content(target) == content(vsr.upscale(clip, tmp_path / "whole.mp4", **ASKED).target)


@pytest.mark.usefixtures("slow")
def test_the_same_source_under_another_name_goes_on(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target)
    assert vsr.upscale(clip.rename(tmp_path / "moved.mp4"), target, **ASKED).resumed >= 18


@pytest.mark.usefixtures("slow")
def test_no_resume(make_clip: MakeClip, tmp_path: Path, computed: list[int], caplog: pytest.LogCaptureFixture) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target)
    computed.clear()
    assert vsr.upscale(clip, target, resume=False, **ASKED).resumed == 0
    assert sum(computed) == 48
    assert not caplog.records


@pytest.mark.usefixtures("slow")
def test_what_the_machine_chose_stays_as_it_was(make_clip: MakeClip, tmp_path: Path) -> None:
    """The second run may find another number of cores, or less memory."""
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    left = interrupt(clip, target, 2)
    assert vsr.upscale(clip, target, **{**ASKED, "batch_size": None}).resumed == sum(SEGMENTS[: len(left)])


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    "change", [{"resume": False}, {"model": "bicubic", "scale": 3}], ids=["no resume", "other model"]
)
def test_what_the_machine_chose_goes_with_the_rest(
    change: dict[str, object], make_clip: MakeClip, tmp_path: Path
) -> None:
    """A batch or a tile that fits one network may be far too large, or far too small, for another."""
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    seen: list[dict[str, object]] = []
    interrupt(clip, target, 1, tile_size=24, batch_size=1)
    for to in (target, tmp_path / "anew.mp4"):

        def look(_: object, to: Path = to) -> None:
            seen.append(json.loads((job_folder_of(to) / MANIFEST).read_bytes()))
            raise Stop

        with pytest.raises(Stop):
            vsr.upscale(clip, to, progress=look, **{**ASKED, "batch_size": None, **change})
    assert seen[0] == seen[1]


def test_the_output_can_be_made_again(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    first = content(vsr.upscale(clip, target, **ASKED).target)
    target.unlink()
    summary = vsr.upscale(clip, target, **ASKED)
    assert summary.resumed == 0 and content(target) == first


def test_a_failed_assembly_costs_only_the_assembly(
    make_clip: MakeClip, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FFmpegError("ffmpeg failed with code 1: no such luck.")

    clip, target, folder = make_clip(**LONG), tmp_path / "out.mp4", tmp_path / "out.mp4.vsr-job"
    with monkeypatch.context() as context:
        context.setattr("vsr.pipeline.outputs.assemble", fails)
        with pytest.raises(FFmpegError) as caught:
            vsr.upscale(clip, target, **ASKED)
    assert str(caught.value) == (
        f"ffmpeg failed with code 1: no such luck. 48 frames are kept in {folder}; run again to go on."
    )
    assert len(segments_in(target)) == 5 and not list(folder.glob("video*"))
    computed.clear()
    seen: list[object] = []
    summary = vsr.upscale(clip, target, progress=seen.append, **ASKED)
    assert computed == []
    assert (summary.frames, summary.resumed) == (48, 48)
    assert content(target) == content(vsr.upscale(clip, tmp_path / "whole.mp4", **ASKED).target)
    assert [getattr(at, "frames", 0) for at in seen] == [48]


@pytest.mark.usefixtures("slow")
def test_an_error_says_what_is_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"

    def progress(_: object) -> None:
        if segments_in(target):
            raise OutputError("the cat is on the keyboard.")

    with pytest.raises(
        OutputError,
        match=r"^the cat is on the keyboard\. 9 frames are kept in .*\.vsr-job; run again to go on\.$",
    ):
        vsr.upscale(clip, target, progress=progress, **ASKED)
    assert vsr.upscale(clip, target, **ASKED).resumed == 9


def test_an_error_at_the_first_frame_promises_nothing(make_clip: MakeClip, tmp_path: Path) -> None:
    def progress(_: object) -> None:
        raise VsrError("the cat is on the keyboard.")

    with pytest.raises(VsrError, match=r"^the cat is on the keyboard\.$"):
        vsr.upscale(make_clip(), tmp_path / "out.mp4", progress=progress, **ASKED)


# Pictures


def pictures_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.mark.usefixtures("slow")
def test_pictures_are_resumed(make_clip: MakeClip, tmp_path: Path, computed: list[int]) -> None:
    asked = {key: value for key, value in ASKED.items() if key != "preset"}
    for name in ("frames", "whole"):
        (tmp_path / name).mkdir()
    clip, target = make_clip(**LONG), tmp_path / "frames" / "%06d.png"
    with pytest.raises(Stop):
        vsr.upscale(clip, target, progress=stop_after(2, target), **asked)
    assert pictures_in(tmp_path / "frames") == {}
    done = sum(SEGMENTS[: len(segments_in(target))])
    computed.clear()
    summary = vsr.upscale(clip, target, **asked)
    assert (summary.frames, summary.resumed, sum(computed)) == (48, done, 48 - done)
    vsr.upscale(clip, tmp_path / "whole" / "%06d.png", **asked)
    whole = pictures_in(tmp_path / "whole")
    assert list(whole) == [f"{number:06}.png" for number in range(1, 49)]
    assert pictures_in(tmp_path / "frames") == whole
    assert len(set(whole.values())) == 48
    assert not job_folder_of(target).exists()


def test_giving_pictures_their_names_goes_on_where_it_stopped(
    make_clip: MakeClip, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vsr.pipeline import outputs

    clip, target, asked = make_clip(**LONG), tmp_path / "%02d.png", {"model": "identity", "overwrite": True}
    publish, moved = outputs.publish, []

    def fails(path: Path, to: Path) -> None:
        if len(moved) == 20:
            raise OutputError("no space left on device.")
        publish(path, to)
        moved.append(to)

    with monkeypatch.context() as context:
        context.setattr("vsr.pipeline.outputs.publish", fails)
        with pytest.raises(OutputError, match="no space left on device. 48 frames are kept"):
            vsr.upscale(clip, target, **asked)
    assert len(pictures_in(tmp_path)) == 20
    computed.clear()
    assert vsr.upscale(clip, target, **asked).resumed == 48
    assert computed == []
    (tmp_path / "whole").mkdir()
    vsr.upscale(clip, tmp_path / "whole" / "%02d.png", model="identity")
    assert pictures_in(tmp_path) == pictures_in(tmp_path / "whole")


@pytest.mark.usefixtures("slow")
def test_a_sequence_of_pictures_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vsr.pipeline.segments.PICTURES", 4)
    source, target = tmp_path / "in", tmp_path / "out.mkv"
    source.mkdir()
    for number in range(10):
        assert cv2.imwrite(str(source / f"{number}.png"), np.full((32, 48, 3), 20 * number, np.uint8))
    with pytest.raises(Stop):
        vsr.upscale(source, target, progress=stop_after(1, target), **ASKED)
    summary = vsr.upscale(source, target, **ASKED)
    assert (summary.frames, summary.segments, summary.resumed) == (10, 3, 4)
    assert content(target) == content(vsr.upscale(source, tmp_path / "whole.mkv", **ASKED).target)
    target.unlink()
    with pytest.raises(Stop):
        vsr.upscale(source, target, progress=stop_after(1, target), **ASKED)
    assert cv2.imwrite(str(source / "9.png"), np.zeros((32, 48, 3), np.uint8))
    assert vsr.upscale(source, target, **ASKED).resumed == 0
    assert "the source was " in caplog.text


# What is equal


def test_equal_frames_count_across_segments(make_clip: MakeClip, tmp_path: Path, computed: list[int]) -> None:
    """A still of 24 seconds, as lossless as the codec: one frame is computed, in whichever segment it lies."""
    clip = make_clip("still.mkv", codec="ffv1", **LONG)
    with av.open(str(clip)) as read, av.open(str(tmp_path / "equal.mkv"), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(video=0) if packet.size]
        for packet in packets:
            same = av.Packet(bytes(packets[0]))
            same.pts, same.dts, same.time_base, same.stream = packet.pts, packet.dts, packet.time_base, stream
            same.is_keyframe = True
            written.mux(same)
    summary = vsr.upscale(tmp_path / "equal.mkv", tmp_path / "out.mp4", **ASKED)
    assert summary.segments > 3
    assert (summary.frames, summary.repeated, sum(computed)) == (48, 47, 1)
    assert len(content(summary.target)) == 48


def test_a_job_that_was_killed_while_it_tidied_up(make_clip: MakeClip, tmp_path: Path) -> None:
    """Its output stands; what is left of its folder goes."""
    clip, target = make_clip(), tmp_path / "out.mp4"
    vsr.upscale(clip, target, model="bicubic")
    left = job_folder_of(target) / "000001"
    left.mkdir(parents=True)
    (left / RECORD).touch()
    with pytest.raises(OutputError, match="exists already"):
        vsr.upscale(clip, target, model="bicubic")
    assert not job_folder_of(target).exists()
