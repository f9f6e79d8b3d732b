"""Compare candidates side by side: as a strip, a video or a page. Imports no torch when it is imported."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vsr.comparison.options import CompareOptions, CompareSummary, Progress
from vsr.errors import OutputError
from vsr.files import check_target


def compare(options: CompareOptions, progress: Progress | None = None) -> CompareSummary:
    """Show candidates side by side in a strip, a video or a page, as the output's suffix selects.

    The output appears under its name when it is complete; an exception leaves no file.

    Args:
        options: what to compare, and how.
        progress: called after each frame.

    Raises:
        UsageError: the inputs cannot be compared, or a region, a time or a frame is outside of them.
        InputError: an input is missing, damaged, or of another size than the others.
        OutputError: the target exists, or cannot be written.
        FFmpegError: the sound cannot be added to a video.
    """
    started = time.monotonic()
    _check_target(options)
    # Imported after the check, and only as needed: libav, OpenCV and torch load slowly.
    from vsr.comparison.sources import open_sources

    sources = open_sources(options)
    report = progress or (lambda at: None)
    with _folder_beside(options.target) as folder:
        unfinished = folder / f"unfinished{options.target.suffix}"
        match options.kind:
            case "strip":
                from vsr.comparison.draw import write_strip

                drawn = write_strip(sources, options, unfinished, report)
            case "video":
                from vsr.comparison.draw import write_video

                drawn = write_video(sources, options.layout, unfinished, report)
            case "page":
                from vsr.comparison.page import write_page

                drawn = write_page(sources, options, unfinished, report)
        _check_target(options)  # again: a video may have taken hours
        num_bytes = unfinished.stat().st_size
        try:
            unfinished.replace(options.target)
        except OSError as exc:
            raise OutputError(f"cannot write {options.target}: {exc.strerror}.") from exc
    return CompareSummary(
        options.target, options.kind, drawn.labels, drawn.width, drawn.height, drawn.frames, num_bytes,
        time.monotonic() - started,
    )  # fmt: skip


def _check_target(options: CompareOptions) -> None:
    inputs = (path for path in (*options.inputs, options.lr, options.hr) if path is not None)
    check_target(options.target, overwrite=options.overwrite, inputs=inputs)


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """Make a folder for the incomplete output, on the same disk as the target; it is always removed."""
    try:
        folder = TemporaryDirectory(prefix=f".vsr-compare-{os.getpid()}-", dir=target.parent)
    except OSError as exc:
        raise OutputError(f"cannot write to the folder {target.parent}: {exc.strerror}.") from exc
    with folder as name:
        yield Path(name)
