"""Check, write, lock, digest and open files, and limits on the size of frames and pictures; where weights are.

Outputs are checked before the work begins and are written completely or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import vsr
from vsr.errors import OutputError, is_out_of_memory, setting

LONGEST_NAME = 255
"""Bytes in a file name, on all common filesystems."""

_FOLDER_SYNC_UNSUPPORTED = {errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""Errors for folders that cannot be synced: not readable, or the filesystem does not support it."""


def check_target(
    target: Path, *, overwrite: bool, inputs: Iterable[Path] = (), makes_folder: bool = False
) -> None:
    """Check that a file can be written, before the work that produces it.

    Args:
        target: the file.
        overwrite: allow an existing file to be replaced.
        inputs: files that the target must not be, under any name.
        makes_folder: whether a missing folder will be made.

    Raises:
        OutputError: the target exists already, is a folder or an input, its folder does not exist, or its name is too
            long.
    """
    try:
        if target.is_dir():
            raise OutputError(f"{target} is a folder; name a file in it.")
        if os.path.lexists(target) and target.exists():
            if any(source.exists() and target.samefile(source) for source in inputs):
                raise OutputError(f"{target} is one of the inputs; give the output another name.")
            if not overwrite:
                raise OutputError(f"{target} exists already; {setting('overwrite', True)} replaces it.")
        elif not target.parent.is_dir() and not makes_folder:
            raise OutputError(f"the folder {target.parent} does not exist; create it first.")
        else:
            folder = next((path for path in target.parents if path.is_dir()), target.parent)
            with suppress(FileNotFoundError):
                # Raises for a name that is too long; the checks above return False in newer Pythons.
                os.lstat(folder / target.name)
    except OSError as exc:
        raise OutputError(f"cannot write {target}: {exc.strerror}.") from exc


@contextmanager
def folder_made(folder: Path) -> Iterator[None]:
    """Make a folder, and those that it lies in; if the block fails, remove those that were made and are empty.

    Raises:
        OutputError: it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"cannot make the folder {folder}: {exc.strerror}.") from exc
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in missing:
                path.rmdir()
        raise


def write_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file under a temporary name beside it, then rename it; an existing file is replaced.

    Args:
        path: the file.
        content: the bytes to write.
        durable: wait until the file is on the disk under its name, so that not even a power cut leaves an empty file.

    Raises:
        OutputError: the file cannot be written; a previous file is unchanged.
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
    """Do ``publish_all`` for one file.

    Raises:
        OSError: the file cannot be synced or renamed.
    """
    publish_all([(path, target)])


def publish_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename finished files durably: contents are on the disk before the renames, the new names on return.

    Args:
        moves: pairs of a file and its new name, on the same filesystem.

    Raises:
        OSError: a file cannot be synced or renamed.
    """
    for path, _ in moves:
        sync(path)
    for path, target in moves:
        path.replace(target)
    for folder in {target.parent for _, target in moves}:
        sync(folder)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk.

    Raises:
        OSError: syncing failed.
    """
    is_folder = path.is_dir()
    if is_folder and sys.platform == "win32":  # cannot sync folders
        return
    try:
        file = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as exc:
        if not is_folder or exc.errno not in _FOLDER_SYNC_UNSUPPORTED:
            raise


def read_regular(path: Path) -> bytes:
    """Read a regular file, without following a link or waiting for a pipe or device.

    Raises:
        OSError: the file does not exist, is not regular, or cannot be read.
    """
    with _open_regular(path) as file:
        return file.read()


def digest_of(path: Path) -> str:
    """Return a digest of a regular file's content, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
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
    """Open or create a file, and lock it until it is closed or this process ends for any reason.

    Where the system has no such locks, nothing is locked.

    Args:
        path: the lock file; the holder of the lock may remove it.
        target: the file that the lock protects, for messages.

    Returns:
        The file descriptor.

    Raises:
        OutputError: another process holds the lock, or ``path`` is not a regular file.
        OSError: the file cannot be opened.
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
    if not same:  # the other process has ended in the meantime
        raise OutputError(f"another vsr was writing {target}; run again.")


Stamp = tuple[int, int, int]
"""Size, modification time in nanoseconds, and inode of a file. Renaming does not change them; writing does."""


def stamp_of(path: Path) -> Stamp:
    """Return the ``Stamp`` of a file.

    Raises:
        OSError: the file does not exist.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def name_of_at_most(length: int, prefix: str, name: str, suffix: str = "") -> str:
    """Join a prefix, a file name and a suffix; a digest replaces the name where the result would be too long.

    Args:
        length: the most bytes of the result.
        prefix: kept as it is.
        name: a file name.
        suffix: kept as it is.
    """
    whole = f"{prefix}{name}{suffix}"
    if len(os.fsencode(whole)) <= length:
        return whole
    digest = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f"{prefix}{digest}{suffix}"


def files_only(path: str, flags: int) -> int:
    """Open a file that is not a pipe or a device; an ``opener`` for ``open``.

    Raises:
        OSError: the file cannot be opened, or is a pipe, a socket or a character device, which cannot seek.
    """
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else a pipe blocks here until it has a writer
    kind = os.fstat(number).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind) or stat.S_ISDIR(kind)):
        os.close(number)
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file; save it as a file first")
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(number, True)
    return number


MAX_PIXELS = 100_000_000
"""The default limit on the pixels of a frame: three times those of 8K."""

MAX_SIDE = 1 << 20
"""Most rows or columns of a picture, as input and output: OpenCV reads no more."""

CODEC_FRAMES, BYTES_PER_PIXEL = 32, 2
"""The least memory of a codec, as a round figure: x264, which looks ahead, used 40 frames and more."""


def has_memory_for(width: int, height: int) -> bool:
    """Whether memory for a codec's frames of this size can be allocated.

    libav only learns that x264 and similar libraries failed, and a damaged packet may request more memory than any
    machine has: neither error shows whether memory ran out.
    """
    try:
        mmap.mmap(-1, CODEC_FRAMES * BYTES_PER_PIXEL * width * height).close()
    except OSError as exc:
        return not is_out_of_memory(exc)
    return True


GENERATOR_FILE = "generator.safetensors"
"""The generator's weights in the folder of a run of ``vsr train``."""


def models_folder() -> Path:
    """Return the folder of the shipped weights: ``vsr/models`` if installed, ``models`` beside it in a source tree."""
    package = Path(vsr.__file__).parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"
