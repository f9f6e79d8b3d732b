"""How far ``vsr upscale`` is: bars on a terminal, or events as JSON, a line each, on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click

from vsr.text import one_line

if TYPE_CHECKING:
    from vsr.pipeline.folder import FolderProgress, Outcome
    from vsr.pipeline.job import UpscaleProgress

EVENT_SECONDS = 1.0
"""Between two events of progress."""


class Shown(Protocol):
    """What the work tells."""

    def clip(self, at: UpscaleProgress) -> None:
        """Where one clip stands."""

    def folder(self, at: FolderProgress) -> None:
        """Where many stand."""

    def outcome(self, outcome: Outcome) -> None:
        """How one of many ended."""


@contextmanager
def progress_shown(as_json: bool, quiet: bool, of: int = 1) -> Iterator[Shown]:
    """What shows progress, for the length of the work.

    Args:
        as_json: as events.
        quiet: not at all, but for what fails.
        of: how many inputs there are.
    """
    if as_json:
        yield _Events(quiet)
        return
    from tqdm import tqdm

    hidden = quiet or None  # None: shown where stderr is a terminal
    with (
        tqdm(unit="frame", disable=hidden if of > 1 else True, position=0) as whole,
        tqdm(unit="frame", disable=hidden, position=int(of > 1), leave=of == 1) as clip,
    ):
        yield _Bars(whole, clip)


class _Bars:
    def __init__(self, whole: Any, clip: Any) -> None:
        self._whole, self._clip = whole, clip
        self._number = 0

    def clip(self, at: UpscaleProgress) -> None:
        if not self._clip.n:
            self._clip.reset(at.num_frames)
            self._clip.initial = at.resumed  # they count for no speed
            self._clip.n = min(at.resumed, at.frames)
        self._clip.total = at.num_frames
        self._clip.update(at.frames - self._clip.n)

    def folder(self, at: FolderProgress) -> None:
        if at.number != self._number:
            self._number = at.number
            self._clip.n = 0
            self._clip.set_description(one_line(at.pair.source.name), refresh=False)
            self._whole.set_description(f"{at.number} of {at.count}", refresh=False)
        self.clip(at.clip)
        self._whole.total = at.num_frames
        self._whole.update(at.frames - self._whole.n)

    def outcome(self, outcome: Outcome) -> None:
        if outcome.state == "failed":
            self._clip.write(one_line(f"vsr: {outcome.error}"), file=sys.stderr)


class _Events:
    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._begun = self._told = time.monotonic()
        self._before: int | None = None

    def clip(self, at: UpscaleProgress) -> None:
        self._tell(at.frames, at.num_frames, at.resumed, {})

    def folder(self, at: FolderProgress) -> None:
        clip = {"source": str(at.pair.source), "clip": at.number, "clips": at.count}
        self._tell(at.frames, at.num_frames, at.clip.resumed, clip)

    def _tell(self, frames: int, total: int | None, resumed: int, more: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._before is None:
            self._before = resumed
        if now - self._told < EVENT_SECONDS:
            return
        self._told = now
        rate = (frames - self._before) / (now - self._begun)
        left = (total - frames) / rate if total is not None and rate > 0 else None
        self._say(event="progress", frames=frames, num_frames=total, frames_per_second=rate, seconds_left=left, **more)

    def outcome(self, outcome: Outcome) -> None:
        paths = {"source": str(outcome.pair.source), "target": str(outcome.pair.target)}
        self._say(event="clip", **paths, state=outcome.state, error=outcome.error)

    def _say(self, **event: Any) -> None:
        if not self._quiet:
            click.echo(json.dumps(event), err=True)
