"""The check for leaked resources: it fails the test that leaked them, and the next test begins clean."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads processes and files from /proc")

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def shared() -> ModuleType:
    """Return the module under test, loaded as a separate module."""
    spec = importlib.util.spec_from_file_location("shared_by_tests", Path(__file__).parent / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def complaint_on(shared: ModuleType, folder: Path, test: Callable[[], object]) -> str:
    """Return the fixture's complaint about a test; empty where nothing was leaked."""
    check = shared.leaves_nothing.__wrapped__(folder)
    next(check)
    test()
    try:
        next(check)
    except StopIteration:
        return ""
    except AssertionError as exc:
        return str(exc)
    raise AssertionError("the fixture has not ended")


def test_a_leaked_child_fails_its_test_and_is_killed(shared: ModuleType, tmp_path: Path) -> None:
    left: list[subprocess.Popen[bytes]] = []
    assert "child processes left" in complaint_on(shared, tmp_path, lambda: left.append(subprocess.Popen(SLEEP)))
    assert not Path(f"/proc/{left[0].pid}").exists(), "ended and reaped"
    left[0].wait()
    assert complaint_on(shared, tmp_path, lambda: None) == ""


def test_a_child_from_before_the_test_is_ignored(shared: ModuleType, tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as child:
        assert complaint_on(shared, tmp_path, lambda: None) == ""
        assert child.poll() is None, "it is not killed either"
        child.kill()


def test_a_child_of_another_thread_is_found(shared: ModuleType, tmp_path: Path) -> None:
    left: list[subprocess.Popen[bytes]] = []
    go_on = threading.Event()

    def hold() -> None:
        left.append(subprocess.Popen(SLEEP))
        go_on.wait(30)

    def test() -> None:
        holder.start()
        while not left:
            go_on.wait(0.01)

    holder = threading.Thread(target=hold)
    assert "child processes left" in complaint_on(shared, tmp_path, test)
    go_on.set()
    holder.join()
    left[0].wait()


def test_leaked_threads_files_and_folders_fail_the_test(shared: ModuleType, tmp_path: Path) -> None:
    end = threading.Event()
    before = threading.Thread(target=end.wait, name="vsr-before", daemon=True)
    before.start()
    assert complaint_on(shared, tmp_path, lambda: None) == ""
    assert "vsr-left" in complaint_on(
        shared, tmp_path, lambda: threading.Thread(target=end.wait, name="vsr-left", daemon=True).start()
    )
    assert complaint_on(shared, tmp_path, lambda: None) == "", "the next test does not fail for it"
    end.set()
    opened: list[int] = []
    path = tmp_path / "file"
    assert "open files left" in complaint_on(
        shared, tmp_path, lambda: opened.append(os.open(path, os.O_CREAT | os.O_WRONLY))
    )
    with pytest.raises(OSError):
        os.fstat(opened[0])
    assert "temporary files left" in complaint_on(shared, tmp_path, (tmp_path / "out.vsr-job").mkdir)
    assert complaint_on(shared, tmp_path, lambda: None) == ""
