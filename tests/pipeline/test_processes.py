"""Several processes for one clip: the same output even if one dies, and no process is left."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing import resource_tracker
from pathlib import Path

import av
import pytest
from PIL import Image

import vsr
from vsr.errors import InputError, OutputError, VsrError
from vsr.pipeline import processes, scheduler
from vsr.pipeline.job import executor_for, open_source, plan_clip, upscale_clip
from vsr.pipeline.journal import job_folder_of
from vsr.pipeline.options import UpscaleOptions
from vsr.pipeline.outputs import output_for
from vsr.pipeline.processes import Processes
from vsr.pipeline.scheduler import InProcess, Work

MakeClip = Callable[..., Path]

LONG = {"pts": range(0, 60_000, 500), "time_base": Fraction(1, 1000)}
"""120 frames in 13 segments of 4.5 s, more than two workers hold at once."""
ASKED = {"model": "identity", "preset": "ultrafast", "batch_size": 3}


@pytest.fixture(autouse=True)
def no_process_left(leaves_nothing: None) -> Iterator[None]:
    """End Python's resource tracker too, so that child processes can be counted."""
    yield
    assert multiprocessing.active_children() == []
    resource_tracker._resource_tracker._stop()


def content(path: Path) -> list[tuple[int, str]]:
    with av.open(str(path)) as container:
        return [
            (frame.pts, hashlib.md5(frame.to_ndarray().tobytes()).hexdigest()) for frame in container.decode(video=0)
        ]


def kill_one_when(ready: Callable[[], bool], executor: Processes) -> Callable[[object], None]:
    """Return a callback that once kills a worker that is computing a segment."""
    killed = []

    def progress(_: object) -> None:
        busy = [worker for worker in executor._workers if worker.busy]
        if not killed and busy and ready():
            worker = busy[0]
            killed.append(worker._process.pid)
            os.kill(worker._process.pid or 0, signal.SIGKILL)

    return progress


def same_time_twice(source: Path, target: Path) -> Path:
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(video=0) if packet.size]
        packets[3].pts = packets[2].pts
        for packet in packets:
            packet.dts, packet.stream = packet.pts, stream
            written.mux(packet)
    return target


def test_two_workers_serve_several_clips(
    make_clip: MakeClip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip, options = make_clip(**LONG, audio=["aac"]), UpscaleOptions(**ASKED, jobs=2)
    alone = vsr.upscale(clip, tmp_path / "alone.mp4", **ASKED)
    seen: list[vsr.pipeline.job.UpscaleProgress] = []
    with executor_for(options) as executor:
        assert isinstance(executor, Processes)
        together = upscale_clip(clip, tmp_path / "together.mp4", options, seen.append, executor)
        workers = {process.pid for process in multiprocessing.active_children()}
        assert len(workers) == 2
        assert together.target.read_bytes() == alone.target.read_bytes()
        assert content(together.target) == content(alone.target)
        assert (together.frames, together.segments, together.resumed) == (120, 13, 0)
        assert seen[-1].frames == 120 and {at.num_frames for at in seen} == {120}

        # What is logged in a worker is heard here.
        short = make_clip("short.mkv", codec="ffv1", pts=range(0, 320, 40), time_base=Fraction(1, 1000))
        twice = same_time_twice(short, tmp_path / "twice.mkv")
        with caplog.at_level(logging.WARNING):
            assert upscale_clip(twice, tmp_path / "twice.mp4", options, executor=executor).frames == 8
        assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
            ("vsr.media.reader", "WARNING", f"{twice}: 1 frames had no usable timestamp and got the next free one.")
        ]

        # A worker that dies is replaced, and its segments are computed again.
        caplog.clear()
        counts: list[int] = []
        kill = kill_one_when(lambda: any(worker.busy for worker in executor._workers), executor)

        def progress(at: vsr.pipeline.job.UpscaleProgress) -> None:
            counts.append(at.frames)
            kill(at)

        with caplog.at_level(logging.WARNING):
            recovered = upscale_clip(clip, tmp_path / "recovered.mp4", options, progress, executor)
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 1
        assert messages[0].startswith("a worker ended with signal 9; segments to compute again: ")
        assert counts[-1] == max(counts) == 120, "frames that were lost do not count"
        assert recovered.target.read_bytes() == alone.target.read_bytes()
        assert len({process.pid for process in multiprocessing.active_children()} & workers) == 1

        # An error is raised here with its type, and ends the workers; the next clip gets others.
        pictures = tmp_path / "pictures"
        pictures.mkdir()
        for number, size in enumerate([(48, 32), (64, 48)]):
            Image.new("RGB", size).save(pictures / f"{number}.png")
        with pytest.raises(InputError, match=r"all pictures of a sequence must have the same size"):
            upscale_clip(pictures, tmp_path / "joined.mp4", options, executor=executor)
        assert not (tmp_path / "joined.mp4").exists()
        assert multiprocessing.active_children() == []


def test_a_segment_that_ends_every_worker_ends_the_job(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MAX_ATTEMPTS", 1)
    clip, target, options = make_clip(**LONG), tmp_path / "out.mp4", UpscaleOptions(**ASKED, jobs=1)
    with Processes(options) as executor:
        kill = kill_one_when(lambda: any(job_folder_of(target).glob("[0-9]*")), executor)
        with pytest.raises(
            VsrError, match=r"^workers ended with signal 9, 1 times .* a smaller tile_size\. \d+ frames are kept in "
        ):
            upscale_clip(clip, target, options, kill, executor)
        assert multiprocessing.active_children() == []
    finished = {path.name for path in job_folder_of(target).glob("[0-9]*")}
    assert finished
    assert not list(job_folder_of(target).glob(".0*"))
    summary = vsr.upscale(clip, target, **ASKED)
    assert summary.resumed == 9 * len(finished)
    assert content(target) == content(vsr.upscale(clip, tmp_path / "alone.mp4", **ASKED).target)


def test_a_workers_write_error_ends_the_job(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its decoder waits for a third segment until the first is written, which never happens."""
    target, options, hung = tmp_path / "out.mp4", UpscaleOptions(**ASKED, jobs=1), threading.Event()

    monkeypatch.setattr(scheduler, "MAX_ATTEMPTS", 1)  # so that one that hangs ends the job when it is killed

    def give_up() -> None:
        hung.set()
        for process in multiprocessing.active_children():
            process.kill()

    watch = threading.Timer(4, give_up)

    def vanish(at: vsr.pipeline.job.UpscaleProgress) -> None:
        if at.frames and job_folder_of(target).exists():  # the worker has started, which may take long
            job_folder_of(target).rename(tmp_path / "away")
            watch.start()

    try:
        with (
            Processes(options) as executor,
            pytest.raises(OutputError, match=r"cannot write .*\.vsr-job.*: No such file"),
        ):
            upscale_clip(make_clip(**LONG), target, options, vanish, executor)
    finally:
        watch.cancel()
    assert not hung.is_set()


def test_workers_that_die_at_their_start_end_the_job(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As if the system killed each of them at once."""
    starts, start = [], processes._Worker.start

    def counted(self: object) -> None:
        starts.append(self)
        if len(starts) > 20:
            raise AssertionError("for ever and ever")
        start(self)  # type: ignore[arg-type]

    monkeypatch.setattr(processes._Worker, "start", counted)
    monkeypatch.setattr(processes, "_serve", os._exit)  # fails, since it accepts other arguments
    with pytest.raises(VsrError, match="workers ended with code 1, 3 times"):
        vsr.upscale(make_clip(**LONG), tmp_path / "out.mp4", jobs=2, **ASKED)


UNGUARDED = """
import sys
from pathlib import Path
import vsr
print("runs")
Path("made-once").mkdir()
vsr.upscale("in.mp4", "out.mp4", model="identity", preset="ultrafast", jobs=2)
print("done", __name__)
"""


@pytest.mark.parametrize("how", ["a file", "standard input"])
def test_a_script_without_a_guard_runs_once(how: str, make_clip: MakeClip, tmp_path: Path) -> None:
    """A process of multiprocessing would run it again, and fail."""
    make_clip("in.mp4", **LONG)
    (tmp_path / "script.py").write_text(UNGUARDED)
    ended = subprocess.run(
        [sys.executable, "script.py" if how == "a file" else "-"], input=UNGUARDED, cwd=tmp_path, timeout=60, text=True,
        capture_output=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "runs\ndone __main__\n", "")
    assert len(content(tmp_path / "out.mp4")) == 120


class StubListener:
    """A listener that notes tile sizes, with a worker's message."""

    def __init__(self, *message: object) -> None:
        self.message, self.tiles = list(message), list[int]()

    def smaller_tile(self, tile_size: int) -> None:
        self.tiles.append(tile_size)


def test_a_worker_whose_memory_runs_out_reports_its_smaller_tile(make_clip: MakeClip, tmp_path: Path) -> None:
    clip, listener = make_clip(), StubListener("tile", [24])
    options = UpscaleOptions(**ASKED)
    opened = open_source(clip, options)
    job = plan_clip(opened, output_for(opened, tmp_path / "out.mp4", options), options, {}).job
    work = Work(Processes(options), job, [], listener)  # type: ignore[arg-type]
    processes.handle_message(processes._Worker("cpu", 1), *listener.message, work)
    assert listener.tiles == [24] and work._job.engine.tile_size == 24


def test_devices_of_several_kinds_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(processes, "choose_device", lambda name: name)
    monkeypatch.setattr(processes, "kind_of", lambda name: "a CPU" if name == "cpu" else "a GPU")
    for devices, times in (("cuda:0,cuda:1", 0), ("cuda:0,cpu,cuda:1", 1)):
        with Processes(UpscaleOptions(device=devices, jobs=6)):
            assert len(caplog.records) == times
    assert caplog.messages == ["a CPU and a GPU share the work: where they meet, pixels may differ by a code value."]


def test_one_job_stays_in_this_process() -> None:
    assert isinstance(executor_for(UpscaleOptions()), InProcess)
    assert isinstance(executor_for(UpscaleOptions(jobs=1)), InProcess)
    assert isinstance(executor_for(UpscaleOptions(device="cuda:0,cuda:1")), Processes)
