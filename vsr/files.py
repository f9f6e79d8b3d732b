"""Files: outputs checked before the work begins and written whole or not at all; inputs opened within limits."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from vsr.errors import OutputError, is_out_of_memory

LONGEST_NAME = 255
"""Bytes of a file name, on all filesystems in use."""

_NO_SUCH_SYNC = {errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""What folders answer that cannot be synced: not readable, or on a filesystem that does it by itself."""


def check_target(target: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """See to it that a file can be written, before the work that fills it.

    Args:
        target: the file.
        overwrite: replace an existing one.
        inputs: files that it must not be, however they are called.

    Raises:
        OutputError: it exists already, is a folder or an input, its folder does not exist, or its name is too long.
    """
    try:
        if target.is_dir():
            raise OutputError(f"{target} is a folder; name a file in it.")
        if os.path.lexists(target) and target.exists():
            if any(source.exists() and target.samefile(source) for source in inputs):
                raise OutputError(f"{target} is one of the inputs; give the output another name.")
            if not overwrite:
                raise OutputError(f"{target} exists already; --overwrite replaces it.")
        elif not target.parent.is_dir():
            raise OutputError(f"the folder {target.parent} does not exist; create it first.")
        else:
            with suppress(FileNotFoundError):
                os.lstat(target)  # newer Pythons answer the questions above with no where a name is too long
    except OSError as exc:
        raise OutputError(f"cannot write {target}: {exc.strerror}.") from exc


def write_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file under a temporary name beside it, then rename it; one that stands there gives way.

    Args:
        path: the file.
        content: of it.
        durable: wait until the disk has it under its name, so that not even a power cut leaves an empty file.

    Raises:
        OutputError: it cannot be written; what stood there before still does.
    """
    temporary = path.with_name(name_of_at_most(LONGEST_NAME, f".vsr-{os.getpid()}-", path.name))
    try:
        temporary.write_bytes(content)
        if durable:
            publish(temporary, path)
        else:
            temporary.replace(path)
    except OSError as exc:
        raise OutputError(f"cannot write {path}: {exc.strerror}.") from exc
    finally:
        with suppress(OSError):
            temporary.unlink()


def publish(path: Path, target: Path) -> None:
    """As ``publish_all``, of one file.

    Raises:
        OSError: the disk refuses, or the name cannot be written.
    """
    publish_all([(path, target)])


def publish_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Give finished files their names, durably: contents are on the disk before they have them, names on return.

    Args:
        moves: files and their names, which are in the same filesystem.

    Raises:
        OSError: the disk refuses, or a name cannot be written.
    """
    for path, _ in moves:
        sync(path)
    for path, target in moves:
        path.replace(target)
    for folder in {target.parent for _, target in moves}:
        sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or what a folder says of its files, is on the disk.

    Raises:
        OSError: the disk refuses.
    """
    is_folder = path.is_dir()
    if is_folder and sys.platform == "win32":  # knows no such thing
        return
    try:
        file = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as exc:
        if not is_folder or exc.errno not in _NO_SUCH_SYNC:
            raise


def read_regular(path: Path) -> bytes:
    """Read a file that is one: no link is followed, no pipe or device waited for.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    with _open_regular(path) as file:
        return file.read()


def digest_of(path: Path) -> str:
    """A digest of a regular file's content, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with _open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _open_regular(path: Path) -> IO[bytes]:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(file, "rb")


def lock_file(path: Path, target: Path) -> int:
    """Open a file, made where it is missing, and lock it until it is closed or this process ends, however it ends.

    Where the system knows no such locks, nothing is locked.

    Args:
        path: the file; who holds the lock may remove it.
        target: what is written under the lock, for messages.

    Returns:
        Its descriptor.

    Raises:
        OutputError: another process holds the lock, or what lies there is not a regular file.
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    lock = os.open(path, flags, 0o666)
    try:
        _lock(lock, path, target)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _lock(lock: int, path: Path, target: Path) -> None:
    if not stat.S_ISREG(os.fstat(lock).st_mode):
        raise OutputError(f"{path} is not a regular file; move {path.parent} away, or name another output.")
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise OutputError(f"another vsr is writing {target}; wait for it, or name another output.") from exc
    except OSError:  # a filesystem without locks
        return
    try:
        same = os.path.samestat(os.fstat(lock), path.lstat())
    except FileNotFoundError:
        same = False
    if not same:  # the other has ended in between
        raise OutputError(f"another vsr was writing {target}; run again.")


Stamp = tuple[int, int, int]
"""Size, time of the last change in nanoseconds, and inode of a file: they stay as long as nobody writes to it, renamed
or not."""


def stamp_of(path: Path) -> Stamp:
    """Which file a name stands for, and in which state.

    Raises:
        OSError: there is none.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def name_of_at_most(length: int, prefix: str, name: str, suffix: str = "") -> str:
    """A name between two others, or where that is too long a digest of it, which is as much its own.

    Args:
        length: bytes that the result has at most.
        prefix: kept.
        name: of a file.
        suffix: kept.
    """
    whole = f"{prefix}{name}{suffix}"
    if len(os.fsencode(whole)) <= length:
        return whole
    digest = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f"{prefix}{digest}{suffix}"


def files_only(path: str, flags: int) -> int:
    """Open a file; an ``opener`` for ``open``.

    Raises:
        OSError: it cannot be opened, or is a pipe, a socket or a device whose content has no end and no positions.
    """
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # or a pipe would block here until it has a writer
    kind = os.fstat(number).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind) or stat.S_ISDIR(kind)):
        os.close(number)
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file; save it as a file first")
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(number, True)
    return number


MAX_PIXELS = 100_000_000
"""Of a frame, unless the user says otherwise: three times those of 8K."""

MAX_SIDE = 1 << 20
"""Rows or columns of a picture, in and out: OpenCV reads no more, and nothing that people look at has them."""

ROOM_FRAMES, BYTES_PER_PIXEL = 32, 2
"""What a codec takes at the least, as a round figure: x264, which looks ahead, took 40 frames and more."""


def has_room(width: int, height: int) -> bool:
    """Whether memory for some frames is to be had.

    Of x264 and its kin libav only learns that they failed, and a damaged packet may ask for more than any machine has:
    neither says of itself whether memory ran out.
    """
    try:
        mmap.mmap(-1, ROOM_FRAMES * BYTES_PER_PIXEL * width * height).close()
    except OSError as exc:
        return not is_out_of_memory(exc)
    return True
