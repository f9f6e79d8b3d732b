"""Outputs: seen to before the work begins, and written whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vsr.errors import OutputError


def check_target(target: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """See to it that a file can be written, before the work that fills it.

    Args:
        target: the file.
        overwrite: replace an existing one.
        inputs: files that it must not be, however they are called.

    Raises:
        OutputError: it exists already, is a folder or an input, or its folder does not exist.
    """
    try:
        if target.is_dir():
            raise OutputError(f"{target} is a folder; name a file in it.")
        if target.exists():
            if any(source.exists() and target.samefile(source) for source in inputs):
                raise OutputError(f"{target} is one of the inputs; give the output another name.")
            if not overwrite:
                raise OutputError(f"{target} exists already; --overwrite replaces it.")
        elif not target.parent.is_dir():
            raise OutputError(f"the folder {target.parent} does not exist; create it first.")
    except OSError as exc:  # a name too long, say
        raise OutputError(f"cannot write {target}: {exc.strerror}.") from exc


def write_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file under a temporary name beside it, then rename it; one that stands there gives way.

    Args:
        path: the file.
        content: of it.
        durable: wait until the disk has it, so that not even a power cut leaves an empty file.

    Raises:
        OutputError: it cannot be written; what stood there before still does.
    """
    temporary = path.with_name(f".vsr-{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(content)
        if durable:
            sync(temporary)
        temporary.replace(path)
    except OSError as exc:
        raise OutputError(f"cannot write {path}: {exc.strerror}.") from exc
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or what a folder says of its files, is on the disk.

    Raises:
        OSError: the disk refuses.
    """
    if path.is_dir() and sys.platform == "win32":  # knows no such thing
        return
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
