"""The job folder: locking, taking over segments of an earlier run, and clean-up."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

import vsr
from vsr.errors import OutputError, UnknownModelError, UsageError, VsrError
from vsr.files import digest_of, write_whole
from vsr.media.formats import Timing
from vsr.media.reader import Damage
from vsr.pipeline.journal import (
    MANIFEST,
    RECORD,
    Command,
    JobFolder,
    Manifest,
    job_folder,
    job_folder_of,
    read_job,
    read_record,
    resumable_job,
    seal,
)
from vsr.pipeline.segments import FinishedSegment

MakeClip = Callable[..., Path]

SETTINGS = {"the model": "a", "its options": "crf=18", "the batch size": 4}
DONE = FinishedSegment(0, 3, 1, Damage(), (Timing(0, 40), Timing(80, 40), Timing(40, 40)))


def manifest_of(settings: dict[str, object], target: str = "/film/out.mp4") -> Manifest:
    return Manifest("/film/in.mp4", target, Command(("/film/in.mp4",), target), {"audio": "copy"}, settings, 48)


class Stop(Exception):
    """Ends a job."""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.mp4"


def finish(folder: JobFolder, number: int, frames: int = 3) -> Path:
    """Commits a segment as upscaling does."""
    done = FinishedSegment(number, frames, 1, Damage(), DONE.packets[:frames])
    half = folder.path / f".{number:06}-{os.getpid()}"
    half.mkdir()
    (half / "video.mp4").write_bytes(b"video")
    folder.commit(seal(half, done), half)
    return folder.segment(number)


def leave_behind(target: Path, *numbers: int, settings: dict[str, object] = SETTINGS, frames: int = 3) -> Path:
    """Make the folder of a job that was interrupted."""
    with pytest.raises(Stop), job_folder(target) as folder:
        folder.adopt(manifest_of(settings))
        for number in numbers:
            finish(folder, number, frames)
        raise Stop
    return job_folder_of(target)


def listed(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


# Commit and seal


def test_a_commit_names_the_folder(target: Path) -> None:
    with job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        segment = finish(folder, 7)
        assert segment == target.parent / "out.mp4.vsr-job" / "000007"
        assert listed(segment) == {"video.mp4", RECORD}
        assert listed(folder.path) == {"lock", MANIFEST, "000007"}
        assert folder.finished[7].packets == DONE.packets
        assert read_record(segment).files == {"video.mp4": digest_of(segment / "video.mp4")}
        assert Manifest.from_json((folder.path / MANIFEST).read_bytes()) == manifest_of(SETTINGS)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records what is synced, renamed and removed, in order, by name."""
    seen: list[str] = []
    sync, rename, replaces, unlink, rmtree = os.fsync, os.rename, os.replace, os.unlink, shutil.rmtree

    def name(path: object) -> str:
        return Path(os.fspath(path)).name  # type: ignore[call-overload]

    def record(kind: str, call: Callable[..., object]) -> Callable[..., object]:
        def recorded(*arguments: object, **keywords: object) -> object:
            result = call(*arguments, **keywords)
            if not isinstance(arguments[0], int) and "dir_fd" not in keywords:
                seen.append(" ".join([kind, *map(name, arguments[: 2 if kind == "rename" else 1])]))
            return result

        return recorded

    def synced(file: int) -> None:
        seen.append(f"sync {name(os.readlink(f'/proc/self/fd/{file}'))}")
        sync(file)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.rename", record("rename", rename))
    monkeypatch.setattr("os.replace", record("rename", replaces))
    monkeypatch.setattr("os.unlink", record("remove", unlink))
    monkeypatch.setattr("shutil.rmtree", record("remove", rmtree))
    return seen


def test_a_segment_is_synced_before_it_gets_its_name(target: Path, calls: list[str]) -> None:
    with job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        calls.clear()
        finish(folder, 0)
        half = f".000000-{os.getpid()}"
        assert sorted(calls[:2]) == [f"sync {RECORD}", "sync video.mp4"]
        assert calls[2:] == [f"sync {half}", f"rename {half} 000000", "sync out.mp4.vsr-job"]


def test_the_output_is_synced_before_a_segment_is_removed(
    make_clip: MakeClip, target: Path, calls: list[str]
) -> None:
    vsr.upscale(make_clip(), target, model="identity")
    parent, manifest = target.parent.name, f".vsr-{os.getpid()}-{MANIFEST}"
    written = [f"sync {manifest}", f"rename {manifest} {MANIFEST}", "sync out.mp4.vsr-job"]
    assert calls[: 1 + len(written)] == [f"sync {parent}", *written]
    half = f".000000-{os.getpid()}"
    begins = calls.index(f"rename {half} 000000")
    published = ["sync assembled.mp4", "rename assembled.mp4 out.mp4", f"sync {parent}"]
    tail = [call for call in calls[begins:] if call != "remove assembly"]
    assert tail == [
        f"rename {half} 000000", "sync out.mp4.vsr-job", *written, *published, *written,
        "remove 000000", f"remove {MANIFEST}", "remove lock",
    ]  # fmt: skip


def test_all_pictures_are_synced_before_a_segment_is_removed(
    make_clip: MakeClip, tmp_path: Path, calls: list[str]
) -> None:
    vsr.upscale(make_clip(), tmp_path / "%d.png", model="identity")
    pictures = [f"rename {number:08}.png {number}.png" for number in range(1, 9)]
    begins = calls.index(pictures[0])
    assert [f"sync {number:08}.png" for number in range(1, 9)] == calls[begins - 8 : begins]
    assert calls[begins : begins + 9] == [*pictures, f"sync {tmp_path.name}"]
    removed = calls.index("remove 000000")
    assert removed > begins + 9 and not [call for call in calls[:begins] if call.startswith("remove 0")]


def test_the_system_calls_are_made_in_that_order(make_clip: MakeClip, target: Path, tmp_path: Path) -> None:
    """Traced system calls of the whole command."""
    strace = shutil.which("strace")
    if strace is None:
        return  # the same is seen from within, above
    trace = tmp_path / "trace"
    clip = make_clip()
    traced = "fsync,rename,renameat,renameat2,unlink,unlinkat,rmdir"
    command = [sys.executable, "-m", "vsr", "upscale", str(clip), "-o", str(target), "--model", "identity", "-q"]
    subprocess.run([strace, "-f", "-y", "-e", f"trace={traced}", "-o", str(trace), *command], check=True, timeout=120)
    lines = [line for line in trace.read_text().splitlines() if str(tmp_path) in line and "ENOENT" not in line]
    synced = next(at for at, line in enumerate(lines) if "fsync(" in line and "assembled.mp4>" in line)
    renamed = next(at for at, line in enumerate(lines) if "rename" in line and f'{target}"' in line)
    folder = next(at for at, line in enumerate(lines) if at > renamed and "fsync(" in line and f"{tmp_path}>" in line)
    removed = next(at for at, line in enumerate(lines) if "unlink" in line and RECORD in line)
    assert synced < renamed < folder < removed


def test_a_commit_that_fails_is_an_output_error(target: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write to .*vsr-job: No such file"), job_folder(target) as folder:
        folder.commit(DONE, folder.path / ".000000-1")
    with pytest.raises(OutputError, match=r"cannot write to .*: No such file"):
        seal(target.parent / "nowhere", DONE)
    assert not job_folder_of(target).exists()


def test_write_whole_syncs_if_durable(tmp_path: Path, calls: list[str]) -> None:
    write_whole(tmp_path / "plain", b"abc")
    assert calls == [f"rename .vsr-{os.getpid()}-plain plain"]
    calls.clear()
    write_whole(tmp_path / "durable", b"abc", durable=True)
    temporary = f".vsr-{os.getpid()}-durable"
    assert calls == [f"sync {temporary}", f"rename {temporary} durable", f"sync {tmp_path.name}"]
    assert (tmp_path / "durable").read_bytes() == b"abc"
    assert listed(tmp_path) == {"plain", "durable"}


# What stays


def test_the_end_removes_the_folder(target: Path) -> None:
    with job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        finish(folder, 0)
    assert listed(target.parent) == set()


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_an_exception_keeps_finished_segments(error: type[BaseException], target: Path) -> None:
    with pytest.raises(error), job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        segment = finish(folder, 0)
        half = folder.path / ".000001-4711"
        half.mkdir()
        (half / "video.mp4").write_bytes(b"half")
        (folder.assembly() / "video.mp4").write_bytes(b"joined, or half of it")
        raise error
    assert listed(job_folder_of(target)) == {"lock", MANIFEST, "000000"}
    assert (segment / "video.mp4").read_bytes() == b"video"


def test_without_finished_segments_the_folder_is_removed(target: Path) -> None:
    with pytest.raises(Stop), job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        (folder.path / ".000000-4711").mkdir()
        raise Stop
    assert listed(target.parent) == set()


def test_segments_without_frames_are_not_kept(target: Path) -> None:
    leave_behind(target, 0, frames=0)
    assert listed(target.parent) == set()


def test_an_exception_before_the_settings_are_known_leaves_an_earlier_run_alone(target: Path) -> None:
    left = leave_behind(target, 0, 1)
    with pytest.raises(Stop), job_folder(target):
        raise Stop
    assert listed(left) == {"lock", MANIFEST, "000000", "000001"}


# What is taken over


def test_the_same_settings_resume(target: Path) -> None:
    left = leave_behind(target, 0, 2)
    (left / ".000001-4711").mkdir()
    (left / "assembly").mkdir()
    (left / "assembly" / "video.mp4").write_bytes(b"half joined")
    before = {path: path.stat().st_mtime_ns for path in left.glob("0*/*")}
    with job_folder(target) as folder:
        assert folder.earlier_settings() == SETTINGS
        folder.adopt(manifest_of(dict(SETTINGS)))
        assert set(folder.finished) == {0, 2}
        assert folder.finished[0] == replace(DONE, files={"video.mp4": digest_of(left / "000000" / "video.mp4")})
        assert listed(left) == {"lock", MANIFEST, "000000", "000002"}
        assert {path: path.stat().st_mtime_ns for path in left.glob("0*/*")} == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"its options": "crf=20"}, "its options were crf=18 and are now crf=20. `vsr resume /film/out.mp4`, or"),
        ({"the size": "96x64"}, "the size was not set and is now 96x64. `vsr resume /film/out.mp4`, or"),
        (
            {"the colours": "Colours(a)", "the model": "b"},
            "begun with other settings: the model was a and is now b. `vsr resume",
        ),
        ({"the colours": "Colours(a)"}, "begun with other settings: the colours are not the same. `vsr resume"),
        ({"the source": "4f"}, "begun with other settings: the source is not the same. Once that is restored, the"),
        ({"the version of vsr": "3"}, "the version of vsr was not set and is now 3. Once that is restored, the"),
    ],
)
def test_other_settings_are_refused_with_the_differences(changed: dict[str, object], said: str, target: Path) -> None:
    left = leave_behind(target, 0, 1)
    before = {path: path.stat().st_mtime_ns for path in left.rglob("*") if path.is_file() and path.name != "lock"}
    with (
        pytest.raises(OutputError) as caught,
        job_folder(target) as folder,
    ):
        folder.adopt(manifest_of(SETTINGS | changed))
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"resumes from the 6 frames in {left}; resume=False starts over.")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with job_folder(target) as folder:
        folder.clear()
        folder.adopt(manifest_of(SETTINGS | changed))
        assert folder.finished == {}


def test_other_settings_are_accepted_if_nothing_was_done(target: Path) -> None:
    path = job_folder_of(target)
    path.mkdir()
    (path / MANIFEST).write_bytes(manifest_of({"the model": "b"}).to_json())
    with job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        assert folder.earlier_settings() == SETTINGS


def damage_of(manifest: bytes, kind: str) -> bytes:
    return {
        "empty": b"", "cut": manifest[:-20], "a list": b"[1]", "no text": b"\xff\xfe",
        "another format": manifest.replace(b"vsr-job-2", b"vsr-job-9"), "a flipped bit": manifest.replace(b"18", b"19"),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "a list", "no text", "another format", "a flipped bit"])
def test_a_folder_without_a_manifest_is_left_alone(kind: str, target: Path) -> None:
    left = leave_behind(target, 0)
    content = (left / MANIFEST).read_bytes()
    (left / MANIFEST).unlink()
    if kind != "missing":
        (left / MANIFEST).write_bytes(damage_of(content, kind))
    before = listed(left)
    for look in (lambda: read_job(target), lambda: job_folder(target).__enter__()):
        with pytest.raises(OutputError, match=r"is no job folder of this version of vsr.*move it away"):
            look()
    assert listed(left) == before
    (left / MANIFEST).write_bytes(content)
    with job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        assert set(folder.finished) == {0}


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link": lambda path: (path.rename(path.with_name("other")), path.symlink_to("other")),
}


@pytest.mark.parametrize("name", ["video.mp4", RECORD])
@pytest.mark.parametrize("damage", DAMAGES)
def test_only_a_damaged_segment_is_removed(
    damage: str, name: str, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = leave_behind(target, 0, 1, 2)
    DAMAGES[damage](left / "000001" / name)
    with job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        assert set(folder.finished) == {0, 2}
        (message,) = caplog.messages
        assert message.startswith(f"{left / '000001'} is damaged: {name} ") and "computed again" in message
        finish(folder, 1)
        assert set(folder.finished) == {0, 1, 2}


def test_published_files_are_looked_for_at_their_target(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Stop), job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        for number in range(3):
            finish(folder, number)
        folder.begin_publishing({"frames": [3, 3, 3]})
        for number in range(2):
            (folder.segment(number) / "video.mp4").rename(target.parent / f"{number}.mp4")
        raise Stop
    (target.parent / "1.mp4").write_bytes(b"another's")

    def published(begun: dict[str, object], number: int, name: str) -> Path:
        assert (begun, name) == ({"frames": [3, 3, 3]}, "video.mp4")
        return target.parent / f"{number}.mp4"

    with job_folder(target) as folder:
        assert folder.is_publishing and not folder.is_done
        folder.adopt(manifest_of(SETTINGS), published)  # type: ignore[arg-type]
        assert set(folder.finished) == {0, 2}
        assert folder.is_publishing
    assert len(caplog.messages) == 1 and "000001" in caplog.text


# Whose folder it is


def test_a_link_is_left_alone(target: Path) -> None:
    treasure = target.parent / "treasure"
    treasure.mkdir()
    (treasure / MANIFEST).write_bytes(manifest_of(SETTINGS).to_json())
    job_folder_of(target).symlink_to(treasure)
    for look in (lambda: read_job(target), lambda: job_folder(target).__enter__()):
        with pytest.raises(OutputError, match=r"is not a job folder of vsr; move it away"):
            look()
    assert listed(treasure) == {MANIFEST} and job_folder_of(target).is_symlink()


@pytest.mark.parametrize("name", ["lock", MANIFEST])
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_lock_or_manifest_that_is_no_file_is_an_error(name: str, kind: str, target: Path) -> None:
    path = job_folder_of(target)
    path.mkdir()
    bait = target.parent / "bait"
    bait.write_bytes(b"precious")
    makes: dict[str, Callable[[Path], None]] = {
        "pipe": os.mkfifo, "link": lambda place: place.symlink_to(bait), "folder": Path.mkdir,
    }  # fmt: skip
    makes[kind](path / name)
    with pytest.raises(OutputError):
        job_folder(target).__enter__()
    assert listed(path) == {name} and bait.read_bytes() == b"precious"


def test_foreign_files_are_kept(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = leave_behind(target, 0)
    (left / "notes.txt").write_text("mine")
    (left / "12").mkdir()
    (left / "000007").symlink_to(target.parent)
    with job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))
        assert listed(left) == {"lock", MANIFEST, "000000", "notes.txt", "12", "000007"}
    assert listed(left) == {"notes.txt", "12", "000007"}
    assert caplog.messages == [f"{left} stays: it holds 000007, 12, notes.txt, which vsr did not write."]
    assert target.parent.is_dir()
    with pytest.raises(OutputError, match="it holds 000007"):
        job_folder(target).__enter__()


def test_names_of_the_greatest_length_work(tmp_path: Path) -> None:
    for length in (247, 248, 255):
        target = tmp_path / ("x" * (length - 4) + ".mp4")
        leave_behind(target, 0)
        with job_folder(target) as folder:
            folder.adopt(manifest_of(SETTINGS))
            assert set(folder.finished) == {0}
            assert folder.path.name.endswith(".vsr-job") and len(folder.path.name) <= 255
    assert job_folder_of(tmp_path / ("x" * 251 + ".mp4")) != job_folder_of(tmp_path / ("y" * 251 + ".mp4"))


# What waits


def test_a_job_is_found_by_the_name_of_its_output(target: Path) -> None:
    with pytest.raises(UsageError, match=r"there is nothing to resume for .*out\.mp4"):
        resumable_job(target)
    leave_behind(target, 0)
    assert resumable_job(target).command == Command(("/film/in.mp4",), str(target))


def test_a_command_is_found_in_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "out" / "deeper"
    out.mkdir(parents=True)
    leave_behind(out / "a.mp4", 0)
    assert resumable_job(tmp_path / "out").command.target == "/film/out.mp4"
    with pytest.raises(Stop), job_folder(out / "b.mp4") as folder:
        folder.adopt(manifest_of(SETTINGS, "/film/another.mp4"))
        finish(folder, 0)
        raise Stop
    with pytest.raises(UsageError, match=r"out has several jobs; resume them one by one: .*out\.mp4, .*another"):
        resumable_job(tmp_path / "out")


def test_clear_removes_an_earlier_run(target: Path) -> None:
    left = leave_behind(target, 0)
    with job_folder(target) as folder:
        folder.clear()
        assert listed(left) == {"lock"}
        folder.adopt(manifest_of(SETTINGS | {"the model": "b"}))


# Who may work there


HOLD = """
import fcntl, sys
lock = open(sys.argv[1])
fcntl.flock(lock, fcntl.LOCK_EX)
print("here", flush=True)
sys.stdin.read()
"""


def test_two_processes_cannot_use_one_folder(target: Path) -> None:
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
        folder.adopt(manifest_of(dict(SETTINGS)))
        assert set(folder.finished) == {0}


def test_the_working_process_holds_the_lock(target: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with job_folder(target) as folder, open(folder.path / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_filesystem_without_locks_works(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network filesystems have none."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with job_folder(target) as folder:
        folder.adopt(manifest_of(SETTINGS))


def test_a_folder_that_cannot_be_created_is_an_error(target: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write to the folder .*nowhere: No such file or directory\.$"):
        job_folder(target.parent / "nowhere" / "out.mp4").__enter__()
    job_folder_of(target).write_bytes(b"")
    with pytest.raises(OutputError, match=r"is not a job folder of vsr"):
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
def test_a_usage_error_keeps_finished_segments(
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
