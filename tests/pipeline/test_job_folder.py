"""The folder where finished segments wait: who may work there, what is taken over, and what stays."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import pytest

import vsr
from vsr.errors import OutputError, UnknownModelError, UsageError, VsrError
from vsr.files import write_whole
from vsr.media.reader import Damage
from vsr.media.timing import Timing
from vsr.pipeline.job_folder import MANIFEST, RECORD, JobFolder, job_folder, job_folder_of, seal
from vsr.pipeline.segments import Finished

MakeClip = Callable[..., Path]

SETTINGS = {"the model": "a", "its options": "crf=18", "the batch size": 4}
DONE = Finished(0, 3, 1, Damage(), (Timing(0, 40), Timing(80, 40), Timing(40, 40)))


class Stop(Exception):
    """Ends a job."""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.mp4"


def finish(folder: JobFolder, number: int, frames: int = 3) -> Path:
    """Commits a segment as those who upscale do."""
    done = Finished(number, frames, 1, Damage(), DONE.packets[:frames])
    half = folder.path / f".{number:06}-{os.getpid()}"
    half.mkdir()
    (half / "video.mp4").write_bytes(b"video")
    seal(half, {RECORD: json.dumps(asdict(done)).encode()})
    folder.commit(done, half)
    return folder.segment(number)


def leave_behind(target: Path, *numbers: int, settings: dict[str, object] = SETTINGS, frames: int = 3) -> Path:
    """A folder of a job that was interrupted."""
    with pytest.raises(Stop), job_folder(target) as folder:
        folder.adopt(settings)
        for number in numbers:
            finish(folder, number, frames)
        raise Stop
    return job_folder_of(target)


def listed(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


# Commit and seal


def test_a_commit_names_the_folder(target: Path) -> None:
    with job_folder(target) as folder:
        assert folder.adopt(SETTINGS) == []
        segment = finish(folder, 7)
        assert segment == target.parent / "out.mp4.vsr-job" / "000007"
        assert listed(segment) == {"video.mp4", RECORD}
        assert listed(folder.path) == {"lock", MANIFEST, "000007"}
        assert folder.finished[7].packets == DONE.packets
        assert json.loads((folder.path / MANIFEST).read_bytes()) == SETTINGS


def test_the_disk_has_a_segment_before_it_gets_its_name(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    sync, rename = os.fsync, Path.rename

    def synced(file: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        sync(file)

    def renamed(self: Path, to: Path) -> Path:
        seen.append(f"-> {to.name}")
        return rename(self, to)

    with job_folder(target) as folder:
        folder.adopt(SETTINGS)
        monkeypatch.setattr("os.fsync", synced)
        monkeypatch.setattr(Path, "rename", renamed)
        finish(folder, 0)
        monkeypatch.undo()
    half = f".000000-{os.getpid()}"
    assert sorted(seen[:2]) == [RECORD, "video.mp4"]
    assert seen[2:] == [half, "-> 000000", "out.mp4.vsr-job"]


def test_a_commit_that_the_disk_refuses(target: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write to .*vsr-job: No such file"), job_folder(target) as folder:
        folder.commit(DONE, folder.path / ".000000-1")
    with pytest.raises(OutputError, match=r"cannot write to .*: No such file"):
        seal(target.parent / "nowhere", {RECORD: b""})
    assert not job_folder_of(target).exists()


def test_write_whole_waits_for_the_disk_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr("os.fsync", lambda file: seen.append(next(tmp_path.glob(".vsr-*")).read_bytes()))
    write_whole(tmp_path / "plain", b"abc")
    assert seen == []
    write_whole(tmp_path / "durable", b"abc", durable=True)
    assert seen == [b"abc"], "flushed first"
    assert (tmp_path / "durable").read_bytes() == b"abc"
    assert listed(tmp_path) == {"plain", "durable"}


# What stays


def test_the_end_removes_the_folder(target: Path) -> None:
    with job_folder(target) as folder:
        folder.adopt(SETTINGS)
        finish(folder, 0)
    assert listed(target.parent) == set()


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_an_exception_leaves_what_is_finished(error: type[BaseException], target: Path) -> None:
    with pytest.raises(error), job_folder(target) as folder:
        folder.adopt(SETTINGS)
        segment = finish(folder, 0)
        half = folder.path / ".000001-4711"
        half.mkdir()
        (half / "video.mp4").write_bytes(b"half")
        (folder.path / "video.mp4").write_bytes(b"joined, or half of it")
        raise error
    assert listed(job_folder_of(target)) == {"lock", MANIFEST, "000000"}
    assert (segment / "video.mp4").read_bytes() == b"video"


def test_where_nothing_is_finished_nothing_is_left(target: Path) -> None:
    with pytest.raises(Stop), job_folder(target) as folder:
        folder.adopt(SETTINGS)
        (folder.path / ".000000-4711").mkdir()
        raise Stop
    assert listed(target.parent) == set()


def test_segments_without_frames_are_nothing(target: Path) -> None:
    leave_behind(target, 0, frames=0)
    assert listed(target.parent) == set()


def test_an_exception_before_the_settings_are_known_leaves_an_earlier_run_alone(target: Path) -> None:
    left = leave_behind(target, 0, 1)
    with pytest.raises(Stop), job_folder(target):
        raise Stop
    assert listed(left) == {"lock", MANIFEST, "000000", "000001"}


# What is taken over


def test_the_same_settings_go_on(target: Path) -> None:
    left = leave_behind(target, 0, 2)
    (left / ".000001-4711").mkdir()
    (left / "video.mp4").write_bytes(b"half joined")
    before = {path: path.stat().st_mtime_ns for path in left.glob("0*/*")}
    with job_folder(target) as folder:
        assert folder.earlier() == SETTINGS
        assert folder.adopt(dict(SETTINGS)) == []
        assert set(folder.finished) == {0, 2}
        assert folder.finished[0] == DONE
        assert listed(left) == {"lock", MANIFEST, "000000", "000002"}
        assert {path: path.stat().st_mtime_ns for path in left.glob("0*/*")} == before


def test_other_settings_begin_anew_and_say_what_differs(target: Path) -> None:
    left = leave_behind(target, 0, 1)
    with job_folder(target) as folder:
        differing = folder.adopt(SETTINGS | {"its options": "crf=20", "the size": "96x64"})
        assert differing == ["its options was crf=18, now crf=20", "the size was None, now 96x64"]
        assert folder.finished == {}
        assert listed(left) == {"lock", MANIFEST}
        assert folder.earlier()["its options"] == "crf=20"


def test_nothing_differs_where_nothing_was_done(target: Path) -> None:
    path = job_folder_of(target)
    path.mkdir()
    (path / MANIFEST).write_text(json.dumps({"the model": "b"}))
    with job_folder(target) as folder:
        assert folder.adopt(SETTINGS) == []


@pytest.mark.parametrize("manifest", [None, b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_manifest_that_says_nothing(manifest: bytes | None, target: Path) -> None:
    left = leave_behind(target, 0)
    (left / MANIFEST).unlink()
    if manifest is not None:
        (left / MANIFEST).write_bytes(manifest)
    with job_folder(target) as folder:
        assert folder.earlier() == {}
        assert folder.adopt(SETTINGS) == []
        assert folder.finished == {}
        assert listed(left) == {"lock", MANIFEST}


@pytest.mark.parametrize("record", [None, b"", b"null", b"[]", b"{}", b'{"number": 1}', "that of another"])
def test_a_record_that_says_nothing(record: bytes | str | None, target: Path) -> None:
    """Its segment is done again: the folder gives way."""
    left = leave_behind(target, 0, 1)
    spoiled = left / "000001" / RECORD
    content = (left / "000000" / RECORD).read_bytes() if isinstance(record, str) else record
    spoiled.unlink()
    if content is not None:
        spoiled.write_bytes(content)
    with job_folder(target) as folder:
        assert folder.adopt(dict(SETTINGS)) == []
        assert set(folder.finished) == {0}
        finish(folder, 1)
        assert set(folder.finished) == {0, 1}


def test_clear(target: Path) -> None:
    left = leave_behind(target, 0)
    with job_folder(target) as folder:
        folder.clear()
        assert listed(left) == {"lock"}
        assert folder.adopt(SETTINGS | {"the model": "b"}) == []


# Who may work there


HOLD = """
import fcntl, sys
lock = open(sys.argv[1])
fcntl.flock(lock, fcntl.LOCK_EX)
print("here", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_work_in_one_folder(target: Path) -> None:
    pytest.importorskip("fcntl")
    left = leave_behind(target, 0)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(left / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        with pytest.raises(OutputError, match=r"another vsr is writing .*out\.mp4; wait for it, or name another"):
            job_folder(target).__enter__()
        assert listed(left) == {"lock", MANIFEST, "000000"}
        other.kill()
    with job_folder(target) as folder:
        assert folder.adopt(dict(SETTINGS)) == [], "the dead hold no locks"
        assert set(folder.finished) == {0}


def test_who_works_there_holds_the_lock(target: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with job_folder(target) as folder, open(folder.path / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_disk_without_locks(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some that lie elsewhere in the network have none."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with job_folder(target) as folder:
        assert folder.adopt(SETTINGS) == []


def test_where_no_folder_can_be(target: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write to the folder .*nowhere: No such file or directory\.$"):
        job_folder(target.parent / "nowhere" / "out.mp4").__enter__()
    job_folder_of(target).write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write to the folder .*: File exists"):
        job_folder(target).__enter__()


# Whole jobs


LONG = {"pts": range(0, 24_000, 500)}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "vidoe"}, UnknownModelError),
        ({"model": "identity", "pix_fmt": "yuv410p"}, VsrError),
        ({"model": "identity", "encoder": {"crff": "1"}}, UsageError),
        ({"model": "identity", "codec": "libvpx"}, UsageError),
    ],
)
def test_a_wrong_word_costs_nothing(
    options: dict[str, object],
    error: type[VsrError],
    make_clip: MakeClip,
    target: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clip = make_clip(**LONG, time_base=Fraction(1, 1000))

    def stop(at: vsr.UpscaleProgress) -> None:
        if at.frames == at.num_frames:
            raise Stop

    with pytest.raises(Stop):
        vsr.upscale(clip, target, model="identity", batch_size=1, progress=stop)
    left = job_folder_of(target)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in left.rglob("*") if path.name != "lock"}
    assert left / "000000" in before
    with pytest.raises(error):
        vsr.upscale(clip, target, **options)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
    with caplog.at_level(logging.WARNING):
        assert vsr.upscale(clip, target, model="identity").resumed > 0
    assert "anew" not in caplog.text
