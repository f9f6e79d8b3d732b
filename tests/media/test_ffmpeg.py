from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import ffmpeg
import imageio_ffmpeg
import pytest

from vsr.errors import FFmpegError
from vsr.media.ffmpeg import TAIL_LINES, DiskError, Program, ffmpeg_program, find_program, run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stands scripts in for the program")

MakeClip = Callable[..., Path]


@pytest.fixture(autouse=True)
def program_cache_cleared() -> Iterator[None]:
    ffmpeg_program.cache_clear()
    yield
    ffmpeg_program.cache_clear()


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("blocked")

    usual = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, usual)


VERSION = """ffmpeg version 9.0.2-4 Copyright (c) 2000-2026 the FFmpeg developers
libavutil      59. 39.100 / 59. 39.100
libavformat    63.  1.102 / 63.  1.102"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Replace the program by a shell script, using the environment variable."""

    def put(script: str, version: str = VERSION) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "ffmpeg"
        told = f"case \"$*\" in *-version*) cat <<'END'\n{version}\nEND\nexit;; esac"
        program.write_text(f"#!/bin/sh\n{told}\n{script}\n")
        program.chmod(stat.S_IRWXU)
        monkeypatch.setenv("VSR_FFMPEG", str(program))
        return program

    return put


def command() -> ffmpeg.nodes.OutputStream:
    return ffmpeg.output(ffmpeg.input("file:in.mp4"), "file:out.mp4", c="copy")


def test_the_program_in_the_variable_is_preferred(stand_in: Callable[[str], Path]) -> None:
    program = stand_in("exit 0")
    assert find_program() == str(program)
    assert ffmpeg_program() == Program(str(program), "9.0.2-4", (63, 1))
    assert str(ffmpeg_program()) == f"ffmpeg 9.0.2-4 ({program})"


def test_the_bundled_program_is_preferred_to_path(
    stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = stand_in("exit 0")
    monkeypatch.delenv("VSR_FFMPEG")
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=os.pathsep)
    program = find_program()
    assert program == imageio_ffmpeg.get_ffmpeg_exe()
    assert "ffmpeg version" in subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout


def test_without_a_bundled_program_the_one_on_path_is_used(
    stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = stand_in("exit 0")
    monkeypatch.delenv("VSR_FFMPEG")
    monkeypatch.setenv("PATH", str(on_path.parent), prepend=os.pathsep)
    monkeypatch.setattr("vsr.media.ffmpeg.bundled_program", lambda: None)
    assert find_program() == str(on_path)


def test_a_missing_program_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("vsr.media.ffmpeg.bundled_program", lambda: None)
    with pytest.raises(FFmpegError) as caught:
        run(command())
    assert str(caught.value) == (
        "no ffmpeg program: imageio-ffmpeg has none for this system, and none is on PATH; install ffmpeg."
    )


def test_a_variable_without_a_program_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSR_FFMPEG", "/nowhere/ffmpeg")
    with pytest.raises(FFmpegError) as caught:
        find_program()
    assert str(caught.value) == "VSR_FFMPEG is set to /nowhere/ffmpeg, which is not a program; correct or unset it."


def test_another_program_is_refused(stand_in: Callable[..., Path]) -> None:
    program = stand_in("exit 0", version="convert 7")
    with pytest.raises(FFmpegError) as caught:
        find_program()
    assert str(caught.value) == f"{program} is not an ffmpeg program: it does not print a version."


@pytest.mark.parametrize(
    ("carried", "way_out"), [("/carried/ffmpeg", "unset VSR_FFMPEG"), (None, "set VSR_FFMPEG to a newer one")]
)
def test_an_old_program_is_refused(
    carried: str | None, way_out: str, stand_in: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = stand_in("exit 0", version="ffmpeg version 5.1.9-0+deb12u1 Copyright\nlibavformat    59. 27.100 / 59. 27")
    monkeypatch.setattr("vsr.media.ffmpeg.bundled_program", lambda: carried)
    with pytest.raises(FFmpegError) as caught:
        find_program()
    assert str(caught.value) == (
        f"ffmpeg 5.1.9-0+deb12u1 ({program}) is older than 9.0 and would lose parts of clips: {way_out}."
    )


@pytest.mark.parametrize(
    "words",
    [
        "[out#0/mp4 @ 0x5581] Error writing trailer: Invalid argument",
        "[out#0/mp4 @ 0x5581] Error closing file: Input/output error",
        "[aost#0:1/copy @ 0x5581] Error submitting a packet to the muxer: Broken pipe",
    ],
)
def test_an_incomplete_file_is_a_failure_whatever_the_exit_code(
    words: str, stand_in: Callable[[str], Path], leaves_nothing: None
) -> None:
    stand_in(f"echo '{words}' >&2; exit 0")
    with pytest.raises(FFmpegError) as caught:
        run(command())
    assert str(caught.value) == f"ffmpeg failed: {words}"


@pytest.mark.parametrize("code", [0, 228])
def test_a_full_disk_is_a_disk_error(code: int, stand_in: Callable[[str], Path], leaves_nothing: None) -> None:
    stand_in(f"echo 'Error writing trailer: No space left on device' >&2; exit {code}")
    with pytest.raises(DiskError, match="^ffmpeg failed: No space left on device$"):
        run(command())


def test_a_program_that_cannot_be_started(stand_in: Callable[[str], Path], leaves_nothing: None) -> None:
    program = stand_in("exit 0")
    find_program()
    program.write_bytes(b"\x7fELF of another machine")
    with pytest.raises(FFmpegError, match=rf"^cannot start {re.escape(str(program))}: "):
        run(command())


def test_arguments_are_passed_without_a_shell(stand_in: Callable[[str], Path], tmp_path: Path) -> None:
    stand_in(f'for word; do printf "%s\\n" "$word"; done > "{tmp_path}/words"')
    run(ffmpeg.output(ffmpeg.input("file:a b;$(c)'\".mp4"), "file:-out.mp4", c="copy").global_args("-copyts"))
    words = (tmp_path / "words").read_text().splitlines()
    assert words == [
        "-i", "file:a b;$(c)'\".mp4", "-c", "copy", "file:-out.mp4", "-copyts", "-nostdin", "-hide_banner", "-loglevel",
        "error",
    ]  # fmt: skip


def test_messages_alone_are_no_failure(stand_in: Callable[[str], Path], leaves_nothing: None) -> None:
    stand_in("echo a warning >&2; exit 0")
    run(command())


def test_a_failure_reports_the_last_messages(stand_in: Callable[[str], Path], leaves_nothing: None) -> None:
    stand_in("for number in $(seq 100); do echo line $number >&2; done; exit 7")
    with pytest.raises(FFmpegError) as caught:
        run(command())
    last = "; ".join(f"line {number}" for number in range(101 - TAIL_LINES, 101))
    assert str(caught.value) == f"ffmpeg failed with code 7: {last}"


def test_a_failure_without_a_message(stand_in: Callable[[str], Path], leaves_nothing: None) -> None:
    stand_in("exit 3")
    with pytest.raises(FFmpegError) as caught:
        run(command())
    assert str(caught.value) == "ffmpeg failed with code 3: it gave no reason"


def test_messages_in_any_encoding(stand_in: Callable[[str], Path], leaves_nothing: None) -> None:
    stand_in(r"printf 'no file Sch\366n.mp4\n' >&2; exit 1")
    with pytest.raises(FFmpegError, match="^ffmpeg failed with code 1: no file Sch\ufffdn.mp4$"):
        run(command())


def test_many_messages_do_not_block(stand_in: Callable[[str], Path], leaves_nothing: None) -> None:
    # More than the capacity of a pipe, on both outputs: a writer without a reader would block.
    stand_in("yes 'as many words as fit' | head -n 50000 >&2; yes | head -c 1000000; echo the end >&2; exit 1")
    with pytest.raises(FFmpegError, match=r"as many words as fit; .*; the end$"):
        run(command())


def test_the_real_program_fails(make_clip: MakeClip, tmp_path: Path, leaves_nothing: None) -> None:
    target = tmp_path / "out.mp4"
    with pytest.raises(FFmpegError, match=r"^ffmpeg failed with code \d+: .*gone\.mp4.*No such file or directory"):
        run(ffmpeg.output(ffmpeg.input(f"file:{tmp_path / 'gone.mp4'}"), f"file:{target}", c="copy"))
    assert not target.exists()


def test_the_real_program_works(make_clip: MakeClip, tmp_path: Path, leaves_nothing: None) -> None:
    target = tmp_path / "out.mkv"
    run(ffmpeg.output(ffmpeg.input(f"file:{make_clip()}"), f"file:{target}", c="copy"))
    assert target.stat().st_size > 0


@pytest.fixture
def lines_on_standard_input() -> Iterator[int]:
    """Make a pipe with three lines the standard input of this process; return its reading end."""
    reading, writing = os.pipe()
    os.write(writing, b"one\ntwo\nthree\n")
    os.close(writing)
    kept = os.dup(0)
    os.dup2(reading, 0)
    yield reading
    os.dup2(kept, 0)
    os.close(kept)
    os.close(reading)


def test_standard_input_is_not_read(
    stand_in: Callable[[str], Path], lines_on_standard_input: int, tmp_path: Path
) -> None:
    stand_in(f'cat > "{tmp_path}/eaten"')
    run(command())
    assert (tmp_path / "eaten").read_bytes() == b""
    assert os.read(lines_on_standard_input, 100) == b"one\ntwo\nthree\n"


def test_the_real_program_leaves_standard_input(
    make_clip: MakeClip, lines_on_standard_input: int, tmp_path: Path
) -> None:
    run(ffmpeg.output(ffmpeg.input(f"file:{make_clip()}"), f"file:{tmp_path / 'out.mkv'}", c="copy"))
    assert os.read(lines_on_standard_input, 100) == b"one\ntwo\nthree\n"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_interrupt_kills_and_reaps_the_child(
    stubborn: bool, stand_in: Callable[[str], Path], tmp_path: Path, leaves_nothing: None
) -> None:
    number = tmp_path / "pid"
    ignore = "trap '' INT TERM;" if stubborn else ""
    stand_in(f"{ignore} echo working >&2; echo $$ > {number}.new; mv {number}.new {number}; exec sleep 60")

    waiting = threading.main_thread().ident or 0

    def interrupt() -> None:
        while not number.exists() or sys._current_frames()[waiting].f_code is not run.__code__:
            time.sleep(0.05)  # until the child is running and its parent waits
        time.sleep(0.05)
        signal.pthread_kill(waiting, signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        run(command())
    sender.join()
    assert not is_alive(int(number.read_text()))
