"""A job's source, and whether it is still what it was when the job began."""

from __future__ import annotations

from pathlib import Path

from vsr.errors import InputError
from vsr.files import Stamp, stamp_of
from vsr.media.clip import ClipInfo
from vsr.pipeline.segments import Segment


class SourceWatch:
    """Remembers size, time and inode of each file of a source.

    Raises:
        InputError: a file is missing.
    """

    def __init__(self, clip: ClipInfo) -> None:
        self._is_sequence = bool(clip.pictures) and clip.pictures != (clip.path,)
        self._files = clip.pictures or (clip.path,)
        self._stamps = [_stamp_or_none(path) for path in self._files]
        if None in self._stamps:
            raise InputError(f"{self._files[self._stamps.index(None)]} has disappeared; put it back and run again.")

    def check(self, segment: Segment | None = None) -> None:
        """See to it that nobody has written to the source.

        Args:
            segment: look at what lies in it alone; None: at everything.

        Raises:
            InputError: a file is another than it was, or is gone.
        """
        numbers = range(len(self._files))
        if segment is not None and self._is_sequence:
            numbers = numbers[segment.first or 0 : segment.end]
        for number in numbers:
            if _stamp_or_none(self._files[number]) != self._stamps[number]:
                raise InputError(
                    f"{self._files[number]} was changed while it was being upscaled, and the output would mix both: "
                    "put the old one back to go on from what is finished, or begin anew with --no-resume."
                )


def _stamp_or_none(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None
