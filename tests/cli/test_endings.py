"""However the command ends: soon, in one sentence, with the exit code that says it, and leaving no process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import without_plan, workers

from vsr.cli.terminal import clean_end_on_signals
from vsr.media.probe import _File, index_packets, probe
from vsr.signals import shielded

pytestmark = [
    pytest.mark.usefixtures("leaves_nothing"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes and files by /proc"),
]

MakeClip = Callable[..., Path]
LONG = {"size": (96, 64), "pts": range(0, 2000 * 512, 512)}


@pytest.fixture(autouse=True)
def signals_are_heard() -> Iterator[None]:
    """Here, and in what is started; in the background of a shell, or by nohup, some are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def words(source: Path, *more: object, target: str = "out.mp4") -> list[str]:
    command = ["upscale", source, "-o", source.parent / target, "--model", "bicubic", "--preset", "ultrafast", *more]
    return [sys.executable, "-m", "vsr", *map(str, command)]


def shell(command: str, source: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell in which ``"$@"`` is the command."""
    return subprocess.run(
        ["bash", "-c", command, "bash", *words(source, *more)], capture_output=True, text=True, timeout=120
    )


def assert_one_sentence(stderr: str, part: str) -> None:
    stderr = without_plan(stderr)
    assert len(stderr.splitlines()) == 1 and stderr.startswith("error: "), stderr
    assert part in stderr and "a bug" not in stderr, stderr


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a session of its own, all of which is killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def run(source: Path, *more: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            words(source, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        for pid in [process.pid, *workers(process.pid)] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_holds_up_no_interrupt(
    number: signal.Signals, make_clip: MakeClip, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(make_clip(**LONG), "--jobs", 2)
    wait_until(lambda: list(tmp_path.glob("out.mp4.vsr-job/.0*-*")), process)
    stopped = workers(process.pid)
    os.kill(stopped[0], signal.SIGSTOP)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "vsr: interrupted." and "Traceback" not in stderr
    assert not [pid for pid in stopped if Path(f"/proc/{pid}").exists()]
    _remove_kept(tmp_path)


def _remove_kept(folder: Path) -> None:
    for path in sorted(folder.glob("out.mp4.vsr-job/**/*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for path in folder.glob("out.mp4.vsr-job"):
        path.rmdir()


@pytest.mark.parametrize("group", [False, True])
def test_sigterm_at_the_birth_of_a_worker(
    group: bool, make_clip: MakeClip, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(make_clip(**LONG), "--jobs", 2)
    wait_until(lambda: workers(process.pid), process)
    born = workers(process.pid)
    if group:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, without_plan(stderr)) == (130, "vsr: interrupted.\n")
    assert not [pid for pid in born if Path(f"/proc/{pid}").exists()]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_worker_that_is_ended_at_its_birth_is_replaced(
    make_clip: MakeClip, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(make_clip(), "--jobs", 2, "--json")
    wait_until(lambda: workers(process.pid), process)
    os.kill(workers(process.pid)[0], signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["frames"] == 8
    assert "Traceback" not in stderr and "warning: a worker ended with " in stderr


LATE_SIGNAL = """
import ctypes, sys
from vsr.__main__ import main

libc = ctypes.CDLL(None)
libc.on_exit.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
libc.on_exit(ctypes.cast(libc["raise"], ctypes.c_void_p), None)  # which is given the exit code, and SIGINT is 2
sys.argv = ["vsr", "--no-such-option"]
main()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="on_exit(3) is of glibc")
def test_a_signal_while_libraries_are_unloaded_changes_no_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", LATE_SIGNAL], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "no such option" in done.stderr) == (2, True)


def test_three_times_ctrl_c(make_clip: MakeClip, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(make_clip(**LONG), "--jobs", 2)
    wait_until(lambda: list(tmp_path.glob("out.mp4.vsr-job/.0*-*")), process)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr and "Exception ignored" not in stderr
    assert stderr.splitlines()[-1] == "vsr: interrupted."
    _remove_kept(tmp_path)


@pytest.mark.parametrize("jobs", [1, 2])
def test_stderr_is_closed(jobs: int, make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip()
    done = shell('exec "$@" 2>&-', clip, "--jobs", jobs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'out.mp4'}: 8 frames")
    done = shell('exec "$@" 2>&-', clip)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", ""), "it exists already"


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_stdout_is_full(options: list[str], unbuffered: str, make_clip: MakeClip, tmp_path: Path) -> None:
    done = shell(f'PYTHONUNBUFFERED={unbuffered} exec "$@" >/dev/full', make_clip(), *options)
    assert done.returncode == 1
    assert_one_sentence(done.stderr, "cannot write to the standard output: No space left on device.")
    assert (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("command", [["--help"], ["upscale", "--help"], ["models"], ["--version"]])
def test_stdout_is_full_of_help(command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vsr", *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert_one_sentence(done.stderr, "cannot write to the standard output: No space left on device.")


def test_stdout_is_full_and_stderr_closed(make_clip: MakeClip) -> None:
    assert shell('exec "$@" >/dev/full 2>&-', make_clip()).returncode == 1


@pytest.mark.parametrize("files", [8, 12, 14, 16, 20, 30, 40])
def test_few_open_files(files: int, make_clip: MakeClip, tmp_path: Path) -> None:
    done = shell(f'ulimit -n {files}; exec "$@"', make_clip(), "--jobs", 2)
    if done.returncode:
        assert done.returncode == 1
        assert_one_sentence(done.stderr, "Too many open files")
        assert not (tmp_path / "out.mp4").exists()
    else:
        assert without_plan(done.stderr) == "" and (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.png", "clip.webp", "clip"])
def test_a_pipe_as_the_source(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    done = shell('exec "$@"', tmp_path / name)
    assert done.returncode == 1
    assert_one_sentence(done.stderr, "it is a pipe or a device, not a file")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_pipe_in_a_folder_of_clips(make_clip: MakeClip, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    make_clip().rename(folder / "clip.mp4")
    os.mkfifo(folder / "pipe.mp4")
    done = subprocess.run(
        [sys.executable, "-m", "vsr", "upscale", str(folder), "-o", str(tmp_path / "out"), "--model", "bicubic"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    assert (tmp_path / "out" / "clip.mp4").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kibibytes", [64, 48, 24])
def test_the_disk_is_full(kibibytes: int, jobs: int, make_clip: MakeClip, small_disk: Path) -> None:
    clip = make_clip(size=(96, 64), pts=range(0, 100 * 512, 512))
    (small_disk / "other").write_bytes(bytes(kibibytes << 10))
    done = shell(f'exec "$@" -o {small_disk}/out.mp4', clip, "--jobs", jobs)
    assert done.returncode == 1
    assert_one_sentence(done.stderr, "No space left on device")
    assert not (small_disk / "out.mp4").exists()


def test_an_interrupt_in_what_libav_calls_is_not_lost(make_clip: MakeClip, capfd: pytest.CaptureFixture[str]) -> None:
    """PyAV drops what is raised there, and libav takes it for the end of the file."""
    clip = make_clip()
    video, sent = probe(clip).video, []

    def send(frame: object, event: str, _: object) -> None:
        if event == "call" and getattr(frame, "f_code", None) is _File.read.__code__ and not sent:
            sent.append(event)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), clean_end_on_signals():
        sys.setprofile(send)
        try:
            index = index_packets(clip, video)
        finally:
            sys.setprofile(None)
        assert index.num_frames == 8
        time.sleep(5)
    assert sent and capfd.readouterr() == ("", "")


def test_an_interrupt_in_a_finaliser_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), clean_end_on_signals():
        Interrupted()
        time.sleep(5)
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_that_waits_when_the_work_is_done_does_no_harm() -> None:
    @shielded
    def last() -> None:
        signal.raise_signal(signal.SIGINT)

    with clean_end_on_signals():
        last()
    time.sleep(0.1)  # by SIGALRM it would have ended this process
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_second_interrupt_disturbs_no_cleaning_up() -> None:
    cleaned = False
    with pytest.raises(KeyboardInterrupt), clean_end_on_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned = True
    assert cleaned
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_an_interrupt_makes_a_library_raise_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), clean_end_on_signals():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("a callback failed") from None


MAIN = """
import signal, sys
import vsr.cli

def work():
    signal.raise_signal(signal.SIGINT) if when == "exec" else None

def command():
    if when == "before":
        signal.raise_signal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exec("work()")
    except KeyboardInterrupt:
        pass
    sys.exit(3)

when = sys.argv[1]
vsr.cli.main = command
from vsr.__main__ import main
main() if when != "after" else None
if when == "after":
    try:
        main()
    finally:
        signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize(("when", "code"), [("before", 130), ("exec", 3), ("after", 3)])
def test_the_exit_code_is_ours_whenever_a_signal_comes(when: str, code: int, tmp_path: Path) -> None:
    """Also where it left an exec() of text, after which Python would end itself by SIGINT."""
    (tmp_path / "ending.py").write_text(MAIN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-m", "ending", when], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "vsr: interrupted.\n" if when == "before" else "")
