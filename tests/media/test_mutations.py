"""Damaged clips give frames in order or a VsrError, within a time limit. ``benchmarks/damage.py`` tests more."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from vsr.errors import VsrError
from vsr.media.probe import probe
from vsr.media.reader import read_frames

MUTATIONS = runpy.run_path(str(Path(__file__).parents[1] / "mutations.py"))
MakeClip = Callable[..., Path]

SECONDS = 5
MILLISECONDS = {"pts": range(0, 960, 40), "time_base": Fraction(1, 1000)}
CLIPS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"pts": range(0, 24 * 512, 512), "options": {"preset": "medium", "g": "12"}, "audio": ["aac"]},
    "lossless.mkv": {"codec": "ffv1", "audio": ["libopus"], **MILLISECONDS},
    "broadcast.ts": {"pts": range(0, 24 * 3600, 3600), "time_base": Fraction(1, 90000)},
}


@pytest.mark.parametrize(("name", "kind"), [*product(CLIPS, MUTATIONS["KINDS"])])
def test_a_damaged_clip_gives_ordered_frames_or_a_vsr_error(
    name: str, kind: str, make_clip: MakeClip, capfd: pytest.CaptureFixture[str], leaves_nothing: None
) -> None:
    path = make_clip(name, **CLIPS[name])
    path.write_bytes(MUTATIONS["mutate"](path.read_bytes(), kind, f"{name} {kind}"))
    stamps: list[int] = []
    error = exception_of(lambda: stamps.extend(frame.pts for frame in read_frames(path, probe(path).video)))
    assert error is None or (isinstance(error, VsrError) and str(path) in str(error)), repr(error)
    assert all(before < after for before, after in zip(stamps, stamps[1:], strict=False))
    assert stamps or error
    assert capfd.readouterr() == ("", "")


def exception_of(work: Callable[[], None]) -> BaseException | None:
    """Return what a function raised, in a thread that cannot block the tests."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            raised.append(exc)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), f"still reading after {SECONDS} s"
    return raised[0] if raised else None
