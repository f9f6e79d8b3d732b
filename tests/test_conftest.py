"""The watch over what tests leave behind: it blames the test that did, and the next begins clean."""

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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks at processes and files by /proc")

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def shared() -> ModuleType:
    """The module under test, as a module of its own."""
    spec = importlib.util.spec_from_file_location("shared_by_tests", Path(__file__).parent / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


def blamed(shared: ModuleType, folder: Path, test: Callable[[], object]) -> str:
    """What the fixture says of a test; empty where nothing was left."""
    watch = shared.leaves_nothing.__wrapped__(folder)
    next(watch)
    test()
    try:
        next(watch)
    except StopIteration:
        return ""
    except AssertionError as exc:
        return str(exc)
    raise AssertionError("it has not ended")


def test_a_child_is_blamed_on_its_test_and_ended(shared: ModuleType, tmp_path: Path) -> None:
    left: list[subprocess.Popen[bytes]] = []
    assert "child processes left" in blamed(shared, tmp_path, lambda: left.append(subprocess.Popen(SLEEP)))
    assert not Path(f"/proc/{left[0].pid}").exists(), "ended and reaped"
    left[0].wait()
    assert blamed(shared, tmp_path, lambda: None) == ""


def test_a_child_that_was_there_before_is_not_its_fault(shared: ModuleType, tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as child:
        assert blamed(shared, tmp_path, lambda: None) == ""
        assert child.poll() is None, "nor is it ended"
        child.kill()


def test_a_child_of_another_thread_is_seen(shared: ModuleType, tmp_path: Path) -> None:
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
    assert "child processes left" in blamed(shared, tmp_path, test)
    go_on.set()
    holder.join()
    left[0].wait()


def test_threads_and_files_and_folders(shared: ModuleType, tmp_path: Path) -> None:
    end = threading.Event()
    before = threading.Thread(target=end.wait, name="vsr-before", daemon=True)
    before.start()
    assert blamed(shared, tmp_path, lambda: None) == ""
    assert "vsr-left" in blamed(
        shared, tmp_path, lambda: threading.Thread(target=end.wait, name="vsr-left", daemon=True).start()
    )
    assert blamed(shared, tmp_path, lambda: None) == "", "the next one is not blamed for it"
    end.set()
    opened: list[int] = []
    path = tmp_path / "file"
    assert "open files left" in blamed(shared, tmp_path, lambda: opened.append(os.open(path, os.O_CREAT | os.O_WRONLY)))
    with pytest.raises(OSError):
        os.fstat(opened[0])
    assert "temporary files left" in blamed(shared, tmp_path, (tmp_path / "out.vsr-job").mkdir)
    assert blamed(shared, tmp_path, lambda: None) == ""
