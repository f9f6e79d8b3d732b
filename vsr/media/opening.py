"""Opening a file to read it, and nothing that would wait for a writer."""

from __future__ import annotations

import errno
import os
import stat


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
