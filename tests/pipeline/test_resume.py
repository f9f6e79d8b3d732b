"""Interrupted jobs: a second run resumes, with the output of an uninterrupted run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from torch import Tensor

import vsr
from vsr.errors import FFmpegError, InputError, OutputError, VsrError
from vsr.inference.engine import Engine
from vsr.inference.torch_backend import TorchRuntime
from vsr.pipeline.journal import MANIFEST, RECORD, JobFolder, job_folder_of

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
    """Return a callback that ends the job when so many segments are finished."""

    def progress(_: object) -> None:
        if len(segments_in(target)) >= segments:
            raise Stop

    return progress


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute no frame before the ones before are written, so that the progress of a stopped job is known."""
    monkeypatch.setattr("vsr.pipeline.segment.QUEUE_BYTES", 1)


def interrupt(clip: Path, target: Path, segments: int = 2, **options: object) -> list[str]:
    """Run a job until so many segments, or some more, are finished; return their names."""
    with pytest.raises(Stop):
        vsr.upscale(clip, target, progress=stop_after(segments, target), **{**ASKED, **options})
    assert not target.exists()
    left = segments_in(target)
    assert segments <= len(left) < len(SEGMENTS)
    assert left == [f"{number:06}" for number in range(len(left))]
    return left


def state(target: Path) -> dict[str, tuple[int, int, int]]:
    """Return name, time and size of every file of a finished segment."""
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
def test_a_resumed_job_equals_an_uninterrupted_one(
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
    "crf": ({"crf": 30}, r"the encoder's options were preset=ultrafast and are now crf=30 preset=ultrafast"),
    "codec": ({"codec": "ffv1", "preset": None}, r"the encoder was libx264 and is now ffv1"),
    "size": ({"scale": 3}, r"the size was 96x64 and is now 144x96\."),
    "model": ({"model": "identity", "scale": None}, r"the model was bicubic and is now identity"),
    "part": ({"end": Fraction(20)}, r"the part was all of it and is now 0 s to 20 s\."),
    "batch": ({"batch_size": 2}, r"the batch size was 3 and is now 2\."),
}


@pytest.mark.usefixtures("slow", "tidied")
@pytest.mark.parametrize("change", CHANGES)
def test_options_that_affect_pixels_are_refused(change: str, make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    options, said = CHANGES[change]
    interrupt(clip, target, 1)
    before = state(target)
    with pytest.raises(OutputError) as caught:
        vsr.upscale(clip, target, **{**ASKED, **options})
    message = str(caught.value)
    assert re.search(said, message), message
    assert f"`vsr resume {target}`" in message and "resume=False starts over" in message
    assert not re.search(r"\w\(|None|Fraction|\{", message), "no repr of Python's"
    assert state(target) == before
    summary = vsr.upscale(clip, target, resume=False, **{**ASKED, **options})
    assert summary.resumed == 0 and len(content(target)) == summary.frames


@pytest.mark.usefixtures("slow", "tidied")
@pytest.mark.parametrize("module", ["vsr.pipeline.job.__version__", "av.__version__"])
def test_another_version_is_refused(
    module: str, make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target, 1)
    before = state(target)
    monkeypatch.setattr(module, "99.1")
    with pytest.raises(
        OutputError, match=r"the version of \w+ was \S+ and is now 99\.1\. Once that is restored,"
    ):
        vsr.upscale(clip, target, **ASKED)
    assert state(target) == before


@pytest.fixture
def tidied(tmp_path: Path, leaves_nothing: None) -> Iterator[None]:
    """Remove what these tests leave on purpose in the job folder, which is no leak."""
    yield
    for folder in tmp_path.rglob("*.vsr-job"):
        shutil.rmtree(folder)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("kept", "wanted"), [(["aac"], {"audio": "none"}), ([], {"overwrite": True}), ([], {"tolerant": True})]
)
def test_options_that_affect_no_pixel_resume(
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
def test_another_source_is_refused(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target)
    make_clip(**LONG, options={"crf": "35"})
    with pytest.raises(OutputError, match="with other settings: the source is not the same. Once that is restored"):
        vsr.upscale(clip, target, **ASKED)
    summary = vsr.upscale(clip, target, resume=False, **ASKED)
    assert summary.resumed == 0
    assert content(target) == content(vsr.upscale(clip, tmp_path / "whole.mp4", **ASKED).target)


@pytest.mark.usefixtures("slow")
def test_the_same_source_under_another_name_resumes(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target)
    assert vsr.upscale(clip.rename(tmp_path / "moved.mp4"), target, **ASKED).resumed >= 18


@pytest.mark.usefixtures("slow")
def test_no_resume_starts_over(
    make_clip: MakeClip, tmp_path: Path, computed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target)
    computed.clear()
    assert vsr.upscale(clip, target, resume=False, **ASKED).resumed == 0
    assert sum(computed) == 48
    assert not caplog.records


@pytest.mark.usefixtures("slow")
def test_settings_of_the_machine_are_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    """The second run may find another number of cores, or less memory."""
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    left = interrupt(clip, target, 2)
    assert vsr.upscale(clip, target, **{**ASKED, "batch_size": None}).resumed == sum(SEGMENTS[: len(left)])


@pytest.mark.usefixtures("slow")
def test_settings_of_the_machine_are_dropped_with_other_settings(make_clip: MakeClip, tmp_path: Path) -> None:
    """A batch or a tile that fits one network may be far too large, or far too small, for another."""
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    seen: list[object] = []
    interrupt(clip, target, 1, tile_size=24, batch_size=1)
    for to in (target, tmp_path / "anew.mp4"):

        def look(_: object, to: Path = to) -> None:
            seen.append(json.loads((job_folder_of(to) / MANIFEST).read_bytes())["job"]["settings"])
            raise Stop

        with pytest.raises(Stop):
            vsr.upscale(clip, to, progress=look, resume=False, **{**ASKED, "batch_size": None})
    assert seen[0] == seen[1]


# Where it is computed


@pytest.mark.usefixtures("slow")
def test_another_kind_of_device_resumes_with_a_warning(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    for number, kind in enumerate(("an old GPU", "an old GPU", "a new GPU", "an old GPU")):
        monkeypatch.setattr(Engine, "kind", kind)
        caplog.clear()
        if number < 3:
            interrupt(clip, target, number + 1)
        else:
            assert vsr.upscale(clip, target, **ASKED).resumed
        said = f"{target}: begun on an old GPU, continued on a new GPU: where they meet, pixels may differ by a code"
        said += " value."
        assert [record.getMessage() for record in caplog.records] == ([said] if kind == "a new GPU" else [])


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make memory run out for more than 24 pixels; return the tile sizes that were tried."""
    tried: list[int] = []
    run = TorchRuntime.__call__

    def limited(self: TorchRuntime, lr: Tensor) -> Tensor:
        tried.append(max(lr.shape[-2:]))
        if tried[-1] > 24:
            raise RuntimeError("CUDA out of memory.")
        return run(self, lr)

    monkeypatch.setattr(TorchRuntime, "__call__", limited)
    monkeypatch.setattr("vsr.inference.engine.OVERLAP", 4)
    monkeypatch.setattr("vsr.inference.engine.MIN_TILE_STEP", 4)
    return tried


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("tile_size", [None, 0, 48])
def test_a_tile_that_was_halved_is_kept(
    tile_size: int | None, make_clip: MakeClip, tmp_path: Path, small_memory: list[int]
) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target, 2, tile_size=tile_size)
    assert small_memory[0] == 48 and sum(edge > 24 for edge in small_memory) == 1
    small_memory.clear()
    assert vsr.upscale(clip, target, tile_size=tile_size, **ASKED).resumed
    assert small_memory and max(small_memory) <= 24, "what did not fit is not tried again"
    assert len(content(target)) == 48


@pytest.mark.usefixtures("slow", "tidied", "small_memory")
def test_another_tile_is_another_job_whatever_it_was_halved_to(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target, 1, tile_size=48)
    with pytest.raises(OutputError, match=r"with other settings: the tile size was 0 and is now 24\. `vsr resume"):
        vsr.upscale(clip, target, tile_size=24, **ASKED)


# How long a segment is


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The results of timing the network, one after the other; the last one is repeated."""
    told = [0.5]
    monkeypatch.setattr("vsr.inference.engine.Engine.seconds_of", lambda *_: told.pop(0) if len(told) > 1 else told[0])
    return told


def test_segments_are_bounded_by_work(
    make_clip: MakeClip, tmp_path: Path, tiny_weights: Path, timed: list[float]
) -> None:
    """Of 2 frames a second there are too few in a segment of 4.5 s to halve it; of 25 they are halved."""
    asked = {"model": str(tiny_weights), "device": "cpu", "engine": "torch", "preset": "ultrafast"}
    timed[:] = [100, 9]
    clip = make_clip("slow.mp4", **LONG)
    assert vsr.upscale(clip, tmp_path / "slow.mkv", **asked).segments == 5
    assert timed == [9], "timed twice"
    clip = make_clip("quick.mp4", pts=range(0, 400 * 40, 40), time_base=Fraction(1, 1000))
    counts = {}
    for seconds in (0.1, 0.5, 1.9, 50):
        timed[:] = [100, seconds]
        target = tmp_path / f"{seconds}.mkv"
        counts[seconds] = vsr.upscale(clip, target, **asked).segments
        assert len(content(target)) == 400
    assert counts == {0.1: 3, 0.5: 7, 1.9: 27, 50: 50}


def test_a_resumed_job_keeps_its_segments(
    make_clip: MakeClip, tmp_path: Path, tiny_weights: Path, timed: list[float], slow: None
) -> None:
    asked = {"model": str(tiny_weights), "device": "cpu", "engine": "torch", "preset": "ultrafast"}
    clip, target = make_clip(pts=range(0, 200 * 40, 40), time_base=Fraction(1, 1000)), tmp_path / "out.mkv"
    timed[:] = [100, 1.9]
    with pytest.raises(Stop):
        vsr.upscale(clip, target, progress=stop_after(2, target), **asked)
    timed[:] = [0]
    summary = vsr.upscale(clip, target, **asked)
    assert summary.segments > 10 and summary.resumed > 0
    timed[:] = [100, 1.9]
    assert content(target) == content(vsr.upscale(clip, tmp_path / "whole.mkv", **asked).target)


@pytest.mark.parametrize(("frames", "model", "times"), [(15, None, 0), (48, "bicubic", 0), (48, None, 1)])
def test_short_clips_are_timed_once(
    frames: int, model: str | None, times: int, make_clip: MakeClip, tmp_path: Path, tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    calls: list[object] = []
    monkeypatch.setattr("vsr.inference.engine.Engine.seconds_of", lambda *given: calls.append(given) or 1.2)
    clip = make_clip(pts=range(0, frames * 500, 500), time_base=Fraction(1, 1000))
    vsr.upscale(clip, tmp_path / "out.mp4", model=model or str(tiny_weights), device="cpu", engine="torch")
    assert len(calls) == times


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
        f"ffmpeg failed with code 1: no such luck. 48 frames are kept in {folder}; run again to resume."
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
def test_an_error_reports_the_frames_that_are_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"

    def progress(_: object) -> None:
        if segments_in(target):
            raise OutputError("the cat is on the keyboard.")

    with pytest.raises(
        OutputError,
        match=r"^the cat is on the keyboard\. 9 frames are kept in .*\.vsr-job; run again to resume\.$",
    ):
        vsr.upscale(clip, target, progress=progress, **ASKED)
    assert vsr.upscale(clip, target, **ASKED).resumed == 9


def test_an_error_at_the_first_frame_reports_no_kept_frames(make_clip: MakeClip, tmp_path: Path) -> None:
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


@pytest.fixture
def stop_renaming(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], AbstractContextManager[None]]:
    """Allow only some files of an ending to be moved out of the job folder."""

    @contextmanager
    def until(suffix: str, count: int) -> Iterator[None]:
        rename, moved = Path.replace, []

        def renamed(self: Path, to: Path) -> Path:
            if to.suffix == suffix and to.parent.suffix != ".vsr-job" and not self.name.startswith(".vsr"):
                if len(moved) == count:
                    raise Stop
                moved.append(to)
            return rename(self, to)

        with monkeypatch.context() as context:
            context.setattr(Path, "replace", renamed)
            yield

    return until


Until = Callable[[str, int], AbstractContextManager[None]]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("moved", [0, 1, 20, 47])
def test_publishing_pictures_resumes(
    moved: int, overwrite: bool, make_clip: MakeClip, tmp_path: Path, computed: list[int], stop_renaming: Until
) -> None:
    clip, target, asked = make_clip(**LONG), tmp_path / "%02d.png", {"model": "identity", "overwrite": overwrite}
    with stop_renaming(".png", moved), pytest.raises(Stop):
        vsr.upscale(clip, target, **asked)
    assert len(pictures_in(tmp_path)) == moved
    computed.clear()
    assert vsr.upscale(clip, target, **asked).resumed == 48
    assert computed == []
    (tmp_path / "whole").mkdir()
    vsr.upscale(clip, tmp_path / "whole" / "%02d.png", model="identity")
    assert pictures_in(tmp_path) == pictures_in(tmp_path / "whole")


def test_a_picture_of_another_program_is_not_replaced(
    make_clip: MakeClip, tmp_path: Path, stop_renaming: Until
) -> None:
    """Not even after publishing has begun: one instead of a published picture, and one under a name to come."""
    clip, target = make_clip(**LONG), tmp_path / "%02d.png"
    for number in (3, 30):
        with stop_renaming(".png", 20), pytest.raises(Stop):
            vsr.upscale(clip, target, model="identity")
        there = tmp_path / f"{number:02}.png"
        there.write_bytes(b"precious")
        with pytest.raises(
            OutputError, match=rf"{there.name} exists now; overwrite=True replaces it\. 48 frames are kept"
        ):
            vsr.upscale(clip, target, model="identity")
        assert there.read_bytes() == b"precious"
        there.unlink()
        assert vsr.upscale(clip, target, model="identity").frames == 48
        assert len(pictures_in(tmp_path)) == 48 and len(set(pictures_in(tmp_path).values())) == 48
        for path in tmp_path.glob("*.png"):
            path.unlink()


class Killed(BaseException):
    """Ends a job without any clean-up."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], AbstractContextManager[None]]:
    """Ends a job at the n-th call of a method of the job folder, as SIGKILL would: nothing is tidied up."""

    @contextmanager
    def at(method: str, after: int) -> Iterator[None]:
        call, calls = getattr(JobFolder, method), []

        def killed(self: JobFolder, *arguments: object) -> object:
            if len(calls) == after:
                raise Killed
            calls.append(arguments)
            return call(self, *arguments)

        with monkeypatch.context() as context:
            context.setattr(JobFolder, method, killed)
            context.setattr(JobFolder, "keep_finished", lambda self: None)
            with pytest.raises(Killed):
                yield

    return at


@pytest.mark.parametrize("name", ["out.mp4", "%02d.png"])
@pytest.mark.parametrize("method", ["end_publishing", "remove", "clear"])
def test_killed_between_publishing_and_cleaning(
    method: str, name: str, make_clip: MakeClip, tmp_path: Path, computed: list[int], kill_at: Until
) -> None:
    """The next run cleans up and returns the summary of the one before."""
    clip, target, asked = make_clip(**LONG), tmp_path / name, {"model": "identity"}
    with kill_at(method, 0):
        vsr.upscale(clip, target, **asked)
    assert job_folder_of(target).is_dir()
    there = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
    computed.clear()
    summary = vsr.upscale(clip, target, **asked)
    assert computed == []
    assert (summary.frames, summary.resumed, summary.segments, summary.width) == (48, 48, 5, 48)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == there, "nothing was written again"
    with pytest.raises(OutputError, match="exists already"):
        vsr.upscale(clip, target, **asked)


@pytest.mark.parametrize("name", ["out.mp4", "%02d.png"])
def test_a_file_that_replaced_a_published_output_is_refused(
    name: str, make_clip: MakeClip, tmp_path: Path, kill_at: Until
) -> None:
    clip, target = make_clip(**LONG), tmp_path / name
    for method in ("end_publishing", "remove"):
        with kill_at(method, 0):
            vsr.upscale(clip, target, model="identity")
        there = tmp_path / (name if name == "out.mp4" else "07.png")
        there.unlink()
        there.write_bytes(b"precious")
        with pytest.raises(OutputError, match=r"exists (already|now); overwrite=True replaces it"):
            vsr.upscale(clip, target, model="identity")
        assert there.read_bytes() == b"precious"
        vsr.upscale(clip, target, model="identity", overwrite=True, resume=False)
        for path in tmp_path.glob("*" + target.suffix):
            if path != clip:
                path.unlink()


def test_killed_while_segments_are_removed(make_clip: MakeClip, tmp_path: Path, kill_at: Until) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    with kill_at("remove", 0):
        vsr.upscale(clip, target, model="identity")
    for number in (0, 3):
        shutil.rmtree(job_folder_of(target) / f"{number:06}")
    assert vsr.upscale(clip, target, model="identity").frames == 48
    assert not job_folder_of(target).exists()


# Damage to what is finished, and to the source


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("what", ["flip", "cut", "delete"])
def test_only_a_damaged_segment_is_computed_again(
    what: str, make_clip: MakeClip, tmp_path: Path, computed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    left = interrupt(clip, target)
    (video,) = (path for path in (job_folder_of(target) / left[0]).iterdir() if path.name != RECORD)
    content_before = video.read_bytes()
    if what == "delete":
        video.unlink()
    else:
        spoiled = bytearray(content_before)
        spoiled[len(spoiled) // 2] ^= 16
        video.write_bytes(spoiled if what == "flip" else spoiled[:-1])
    computed.clear()
    summary = vsr.upscale(clip, target, **ASKED)
    assert summary.resumed == 9 * (len(left) - 1) and sum(computed) == 48 - summary.resumed
    (message,) = caplog.messages
    damage = "is missing" if what == "delete" else "has changed"
    assert f"{left[0]} is damaged: {video.name} {damage}. Its 9 frames are computed again." in message
    assert content(target) == content(vsr.upscale(clip, tmp_path / "whole.mp4", **ASKED).target)


@pytest.mark.usefixtures("slow", "tidied")
@pytest.mark.parametrize("how", ["written to", "touched", "replaced", "removed"])
def test_a_source_that_changes_ends_the_job(how: str, make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG, audio=["aac"]), tmp_path / "out.mp4"
    copy = tmp_path / "copy"

    def progress(_: object) -> None:
        if segments_in(target) and not copy.exists():
            shutil.copy2(clip, copy)
            if how == "written to":
                with clip.open("ab") as file:
                    file.write(b"more")
            elif how == "touched":
                os.utime(clip)
            else:
                clip.unlink()
                if how == "replaced":
                    shutil.copy2(copy, clip)

    with pytest.raises(InputError) as caught:
        vsr.upscale(clip, target, progress=progress, **ASKED)
    assert str(caught.value) == (
        f"{clip} was changed while it was being upscaled, and the output would mix both: "
        "restore the old one to resume, or start over with resume=False."
    )
    assert segments_in(target) == ["000000"] and not target.exists()
    shutil.copy2(copy, clip)
    assert vsr.upscale(clip, target, **ASKED).resumed == 9


def test_a_source_that_changes_during_the_assembly(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output must not mix old video and new audio."""
    from vsr.pipeline import outputs

    clip, target, assemble = make_clip(**LONG, audio=["aac"]), tmp_path / "out.mp4", outputs.assemble

    def exchanged(*arguments: object, **keywords: object) -> None:
        os.utime(clip)
        assemble(*arguments, **keywords)  # type: ignore[arg-type]

    with monkeypatch.context() as context:
        context.setattr("vsr.pipeline.outputs.assemble", exchanged)
        with pytest.raises(InputError, match="was changed while it was being upscaled"):
            vsr.upscale(clip, target, **ASKED)
    assert not target.exists()
    assert vsr.upscale(clip, target, **ASKED).resumed == 48


@pytest.mark.usefixtures("slow", "tidied")
@pytest.mark.parametrize("changed", [1, 9])
def test_a_picture_of_a_sequence_that_changes_ends_the_job(
    changed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of the current segment ends it at once, one of another at the end."""
    monkeypatch.setattr("vsr.pipeline.segments.PICTURES", 4)
    source, target = tmp_path / "in", tmp_path / "out.mkv"
    source.mkdir()
    for number in range(10):
        assert cv2.imwrite(str(source / f"{number}.png"), np.full((32, 48, 3), 20 * number, np.uint8))

    def progress(_: object) -> None:
        if segments_in(target):
            os.utime(source / f"{changed}.png")

    with pytest.raises(InputError, match=rf"in/{changed}\.png was changed while it was being upscaled"):
        vsr.upscale(source, target, progress=progress, **ASKED)
    assert not target.exists()
    assert segments_in(target) == ["000000", "000001", "000002"][: 3 if changed == 1 else 2]


@pytest.mark.usefixtures("slow")
def test_a_sequence_of_pictures_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(OutputError, match="the source is not the same"):
        vsr.upscale(source, target, **ASKED)
    assert vsr.upscale(source, target, resume=False, **ASKED).resumed == 0


# What is equal


def test_equal_frames_count_across_segments(make_clip: MakeClip, tmp_path: Path, computed: list[int]) -> None:
    """A still clip of 24 seconds: one frame is computed, in any segment."""
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


def test_a_job_that_was_killed_when_only_its_lock_was_left(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(), tmp_path / "out.mp4"
    vsr.upscale(clip, target, model="bicubic")
    job_folder_of(target).mkdir()
    (job_folder_of(target) / "lock").touch()
    with pytest.raises(OutputError, match="exists already"):
        vsr.upscale(clip, target, model="bicubic")
    assert not job_folder_of(target).exists()


def test_a_foreign_folder_is_not_used(make_clip: MakeClip, tmp_path: Path) -> None:
    """Whether the source exists or not."""
    clip, target = make_clip(), tmp_path / "out.mp4"
    job_folder_of(target).mkdir()
    (job_folder_of(target) / "notes.txt").write_text("mine")
    for source in (clip, tmp_path / "missing.mp4"):
        with pytest.raises(OutputError, match=r"is no job folder .* \(it holds notes\.txt\); move it away"):
            vsr.upscale(source, target, model="bicubic")
    assert [path.name for path in job_folder_of(target).iterdir()] == ["notes.txt"]
    shutil.rmtree(job_folder_of(target))


@pytest.mark.usefixtures("slow")
def test_a_missing_source_keeps_finished_segments(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, target = make_clip(**LONG), tmp_path / "out.mp4"
    interrupt(clip, target)
    before = state(target)
    away = clip.rename(tmp_path / "away.mp4")
    with pytest.raises(InputError):
        vsr.upscale(clip, target, resume=False, **ASKED)
    assert state(target) == before
    assert vsr.upscale(away, target, **ASKED).resumed >= 18
