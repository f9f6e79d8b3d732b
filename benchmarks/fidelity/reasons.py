"""The ways that a clip goes in the table, what became of it, and why it may differ from what it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from code_values import Pixels
from differences import Deviation, Pair, Way
from independent import Clip

IDENTITY = Way("A", ".mkv", 1, True, ("--model", "identity", "--codec", "ffv1"))
WITH_FIELDS = Way("A without deinterlacing", ".mkv", 1, True, (*IDENTITY.options, "--deinterlace", "no"))
DOUBLED = Way("B", ".mp4", 2, False, ("--model", "bicubic", "--scale", "2"))


@dataclass(frozen=True)
class Case:
    """One clip that went one way.

    Attributes:
        name: the file's name.
        way: which way.
        source: what went in; None where ffmpeg reads no video either.
        output: what came out, None where nothing did.
        cut: whether only the first seconds were asked for.
        code: exit code of the command.
        said: what it wrote on stderr.
        pixels: None where they cannot be compared.
        found: all that differs.
    """

    name: str
    way: Way
    source: Clip | None
    output: Clip | None
    cut: bool
    code: int
    said: tuple[str, ...]
    pixels: Pixels | None = None
    found: tuple[Deviation, ...] = ()

    @property
    def title(self) -> str:
        """The clip's name, and what of the way's own is unusual."""
        return f"{self.name}, {' '.join(WITH_FIELDS.options[-2:])}" if self.way is WITH_FIELDS else self.name

    @property
    def pair(self) -> Pair | None:
        """Both ends, where there are two."""
        return Pair(self.source, self.output, self.way, self.cut) if self.source and self.output else None

    @property
    def codec(self) -> str:
        """Of the output's video, empty where there is none."""
        return self.output.video.codec if self.output else ""

    @property
    def is_grey(self) -> bool:
        """Whether the source has no chroma."""
        return self.source is not None and self.source.track.frames[0].pix_fmt.startswith("gray")

    @property
    def complaints(self) -> int:
        """How often ffmpeg complains of damage in the source."""
        return len(self.source.track.complaints) if self.source else 0

    def says(self, *words: str) -> bool:
        """Whether one line of the command holds all the words."""
        return any(all(re.search(rf"\b{word}\b", line) for word in words) for line in self.said)


@dataclass(frozen=True)
class Reason:
    """Why something may differ: a pattern for what it is about, when it holds, and the reason in words."""

    about: str
    holds: Callable[[Case, Deviation], bool]
    words: str


def _becomes(before: str, after: str) -> Callable[[Case, Deviation], bool]:
    """Where a value of ``before`` became one of ``after``, both patterns."""
    return lambda _, one: re.search(rf": ({before}) became ({after})$", one.what) is not None


def _within_milliseconds(case: Case, one: Deviation) -> bool:
    # Both ends of an offset are rounded, sound and picture.
    return one.size <= (1 if one.about == "offset" else 0.5) + 1e-9


def _has_default(case: Case, one: Deviation) -> bool:
    """Whether the source calls a stream of that kind its default; the number of the one that changed is its size."""
    streams = case.source.header.streams if case.source else ()
    kind = next(stream.kind for stream in streams if stream.index == one.size)
    return any("default" in stream.dispositions for stream in streams if stream.kind == kind)


def _is_of_chapters(case: Case, one: Deviation) -> bool:
    if case.source is None or not case.source.header.chapters or any(each.about == "chapters" for each in case.found):
        return False
    return any(stream.index == one.size and stream.kind == "data" for stream in case.source.header.streams)


def _grows_past_720(case: Case) -> bool:
    heights = [clip.track.frames[0].size[1] for clip in (case.source, case.output) if clip is not None]
    return len(heights) == 2 and heights[0] < 720 <= heights[1]


REASONS = (
    Reason("exit", lambda case, _: case.code == 1 and not (case.source or case.output), "no video for ffmpeg either"),
    Reason(
        "exit|frames|length",
        lambda case, _: case.code == 1 and case.complaints > 0 and case.says("damaged"),
        "damaged, as ffmpeg and vsr say",
    ),
    Reason(
        "time",
        lambda case, one: case.complaints > 0 and case.says("no usable timestamp"),
        "a damaged timestamp is replaced by the next free one, as vsr says",
    ),
    Reason(
        "time|packet times|offset|chapters",
        lambda case, one: case.way.suffix == ".mkv" and _within_milliseconds(case, one),
        "Matroska's clock is 1 ms",
    ),
    Reason(
        "packet times|offset",
        lambda case, one: case.name.endswith((".mkv", ".webm")) and one.size <= 0.5 + 1000 / 44100,
        "the source's Matroska clock is 1 ms, the sound's own is finer",
    ),
    Reason(
        "metadata creation_time",
        lambda case, one: case.way.suffix == ".mp4" and _becomes("1970-01-01 00:00:00", "nothing")(case, one),
        "MP4 has no such date: it means none",
    ),
    Reason(
        "packet times|offset",
        lambda case, one: case.way.suffix == ".mp4" and one.size <= 500 / 44100,
        "the clock of sound in MP4 is its sampling rate",
    ),
    Reason(
        "length",
        lambda case, _: case.name.endswith((".mkv", ".webm")),
        "Matroska states no length of the last frame, only a rate",
    ),
    Reason("stream left out", lambda case, one: _is_of_chapters(case, one), "a track of the chapters, which are kept"),
    Reason("stream left out", lambda case, one: case.says(f"stream {one.size:.0f}", "left out"), "vsr names it"),
    Reason("content .*", lambda case, one: case.says(f"stream {one.size:.0f}", "converted"), "vsr names it"),
    Reason(
        "tag fields",
        lambda case, one: _becomes(".*", "progressive")(case, one) and "no" not in case.way.options,
        "deinterlaced by default, the pixels set beside those of ffmpeg's bwdif",
    ),
    Reason(
        "luma|chroma",
        lambda case, _: case.pair is not None
        and case.pair.is_deinterlaced
        and case.pixels is not None
        and max(case.pixels.mean) < 0.001,
        "the bwdif of PyAV 18.1's libav and that of ffmpeg 9.0 differ in three rows of the first frame",
    ),
    Reason(
        "tag fields",
        lambda case, one: _becomes(".*", "progressive")(case, one),
        "what vsr writes is progressive; fields that were left lie in its frames as they were",
    ),
    Reason(
        "metadata location.*",
        lambda _, one: (said := re.search(r": (\S+) became (\S+)$", one.what)) is not None
        and [float(part) for part in re.findall(r"[-+][\d.]+", said[1])]
        == [float(part) for part in re.findall(r"[-+][\d.]+", said[2])],
        "the same place with another number of digits",
    ),
    Reason("tag chroma location", _becomes("-", "left"), "left is what is meant where none is stated"),
    Reason("tag chroma location", lambda case, _: case.is_grey, "grey has no chroma"),
    Reason(
        "tag chroma location",
        lambda case, _: case.source is not None and "444" in case.source.track.frames[0].pix_fmt,
        "4:4:4 has chroma at each pixel",
    ),
    Reason(
        "tag pixel format",
        lambda case, one: case.is_grey and case.codec == "h264" and _becomes("gray", "yuv420p")(case, one),
        "players want H.264 with chroma, which is neutral here",
    ),
    Reason("tag pixel aspect", _becomes("-", "1/1"), "square is what is meant where none is stated"),
    Reason(
        "tag range",
        lambda case, one: _becomes("tv", "-")(case, one) and case.codec == "h264",
        "limited is what H.264 means where none is stated",
    ),
    Reason(
        "tag matrix|tag range",
        lambda case, one: _grows_past_720(case) and _becomes("-", "bt709|tv")(case, one),
        "nobody stated a matrix, and players guess another from 720 lines up: the one that was written is stated",
    ),
    Reason(
        "disposition",
        lambda case, one: _becomes("none", "default")(case, one) and not _has_default(case, one),
        "no track of its kind was the default one: the container makes the first it",
    ),
    Reason(
        "samples",
        lambda case, one: case.way.suffix == ".mp4" and 0 < one.size < 1152,
        "MP4 ends with a whole packet of sound",
    ),
)  # fmt: skip


def explain(case: Case) -> tuple[str, ...]:
    """A sentence for each reason, with all that it explains; then what has none."""
    explained: dict[str, list[str]] = {}
    for one in case.found:
        known = (
            reason.words for reason in REASONS if re.fullmatch(reason.about, one.about) and reason.holds(case, one)
        )
        explained.setdefault(next(known, "UNEXPLAINED"), []).append(one.what)
    return tuple(f"{words} ({'; '.join(whats)})" if words != "UNEXPLAINED" else f"{words}: {'; '.join(whats)}"
                 for words, whats in explained.items())  # fmt: skip
