"""Child processes from Linux's /proc, where any of them may end between two reads, and what a command has said."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """List the child processes of all threads of a process, including multiprocessing's resource tracker."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in listing.read_text().split()]
    return found


def workers(pid: int) -> list[int]:
    """List the children that are workers of multiprocessing."""
    return [child for child in children(pid) if b"spawn_main" in _command(child)]


def _command(pid: int) -> bytes:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def without_plan(stderr: str) -> str:
    """Leave out the line that says what will be done, and the advice that follows it."""
    return re.sub(r"(?m)^vsr: \S+: \d+x\d+ to \d+x\d+[,;] .*\n(vsr: --precision .*\n)?", "", stderr)
