"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vsr.errors import OutputError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename it; one that stands there gives way.

    Raises:
        OutputError: it cannot be written; what stood there before still does.
    """
    temporary = path.with_name(f".vsr-{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as exc:
        raise OutputError(f"cannot write {path}: {exc.strerror}.") from exc
    finally:
        with suppress(OSError):
            temporary.unlink()
