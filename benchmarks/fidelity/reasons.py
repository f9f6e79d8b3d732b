"""The ways through the command in the table, the results, and the reasons for expected differences."""

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
    """The result of one clip and one way.

    Attributes:
        name: the name of the file.
        way: the way through the command.
        source: the source; None if ffmpeg reads no video either.
        output: the output; None if there is none.
        cut: whether only the first seconds were requested.
        code: exit code of the command.
        messages: the lines that it wrote to stderr.
        pixels: the differences of pixels; None if they cannot be compared.
        found: all differences.
    """

    name: str
    way: Way
    source: Clip | None
    output: Clip | None
    cut: bool
    code: int
    messages: tuple[str, ...]
    pixels: Pixels | None = None
    found: tuple[Deviation, ...] = ()

    @property
    def title(self) -> str:
        """The name of the clip, and the unusual options of the way."""
        return f"{self.name}, {' '.join(WITH_FIELDS.options[-2:])}" if self.way is WITH_FIELDS else self.name

    @property
    def pair(self) -> Pair | None:
        """Source and output, if there are both."""
        return Pair(self.source, self.output, self.way, self.cut) if self.source and self.output else None

    @property
    def codec(self) -> str:
        """The codec of the output's video; empty if there is none."""
        return self.output.video.codec if self.output else ""

    @property
    def is_grey(self) -> bool:
        """Whether the source has no chroma."""
        return self.source is not None and self.source.track.frames[0].pix_fmt.startswith("gray")

    @property
    def complaints(self) -> int:
        """Number of ffmpeg's complaints about damage in the source."""
        return len(self.source.track.complaints) if self.source else 0

    def says(self, *words: str) -> bool:
        """Whether one line of the command contains all the words."""
        return any(all(re.search(rf"\b{word}\b", line) for word in words) for line in self.messages)


@dataclass(frozen=True)
class Reason:
    """A reason for a difference: a pattern for its subject, when it holds, and the reason as text."""

    about: str
    holds: Callable[[Case, Deviation], bool]
    words: str


def _becomes(before: str, after: str) -> Callable[[Case, Deviation], bool]:
    """Return a condition that a value matching ``before`` became one matching ``after``."""
    return lambda _, one: re.search(rf": ({before}) became ({after})$", one.what) is not None


def _within_milliseconds(case: Case, one: Deviation) -> bool:
    # An offset has the rounding of sound and picture.
    return one.size <= (1 if one.about == "offset" else 0.5) + 1e-9


def _has_default(case: Case, one: Deviation) -> bool:
    """Whether the source has a default stream of that kind; the size is the number of the stream that changed."""
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
        "damaged, as ffmpeg and vsr report",
    ),
    Reason(
        "time",
        lambda case, one: case.complaints > 0 and case.says("no usable timestamp"),
        "a damaged timestamp is replaced by the next free one, as vsr reports",
    ),
    Reason(
        "time|packet times|offset|chapters",
        lambda case, one: case.way.suffix == ".mkv" and _within_milliseconds(case, one),
        "Matroska's clock is 1 ms",
    ),
    Reason(
        "packet times|offset",
        lambda case, one: case.name.endswith((".mkv", ".webm")) and one.size <= 0.5 + 1000 / 44100,
        "the source's Matroska clock is 1 ms, that of its sound is finer",
    ),
    Reason(
        "metadata creation_time",
        lambda case, one: case.way.suffix == ".mp4" and _becomes("1970-01-01 00:00:00", "nothing")(case, one),
        "MP4 has no such date; it means none",
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
    Reason("stream left out", lambda case, one: case.says(f"stream {one.size:.0f}", "left out"), "reported by vsr"),
    Reason("content .*", lambda case, one: case.says(f"stream {one.size:.0f}", "converted"), "reported by vsr"),
    Reason(
        "tag fields",
        lambda case, one: _becomes(".*", "progressive")(case, one) and "no" not in case.way.options,
        "deinterlaced by default, the pixels compared with ffmpeg's bwdif",
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
        "the output is marked progressive; its frames still contain the fields",
    ),
    Reason(
        "metadata location.*",
        lambda _, one: (places := re.search(r": (\S+) became (\S+)$", one.what)) is not None
        and [float(part) for part in re.findall(r"[-+][\d.]+", places[1])]
        == [float(part) for part in re.findall(r"[-+][\d.]+", places[2])],
        "the same location with another number of digits",
    ),
    Reason("tag chroma location", _becomes("-", "left"), "left is the default if none is stated"),
    Reason("tag chroma location", lambda case, _: case.is_grey, "grey has no chroma"),
    Reason(
        "tag chroma location",
        lambda case, _: case.source is not None and "444" in case.source.track.frames[0].pix_fmt,
        "4:4:4 has chroma at each pixel",
    ),
    Reason(
        "tag pixel format",
        lambda case, one: case.is_grey and case.codec == "h264" and _becomes("gray", "yuv420p")(case, one),
        "players need H.264 with chroma, which is neutral here",
    ),
    Reason("tag pixel aspect", _becomes("-", "1/1"), "square is the default if none is stated"),
    Reason(
        "tag range",
        lambda case, one: _becomes("tv", "-")(case, one) and case.codec == "h264",
        "limited is the default of H.264 if none is stated",
    ),
    Reason(
        "tag matrix|tag range",
        lambda case, one: _grows_past_720(case) and _becomes("-", "bt709|tv")(case, one),
        "no matrix was stated, and players assume another from 720 lines up, so the written one is stated",
    ),
    Reason(
        "disposition",
        lambda case, one: _becomes("none", "default")(case, one) and not _has_default(case, one),
        "no track of its kind was the default, so the container makes the first one the default",
    ),
    Reason(
        "samples",
        lambda case, one: case.way.suffix == ".mp4" and 0 < one.size < 1152,
        "MP4 ends with a whole packet of sound",
    ),
)  # fmt: skip


def explain(case: Case) -> tuple[str, ...]:
    """Return a sentence for each reason with the differences that it explains, and one for those without a reason."""
    explained: dict[str, list[str]] = {}
    for one in case.found:
        known = (
            reason.words for reason in REASONS if re.fullmatch(reason.about, one.about) and reason.holds(case, one)
        )
        explained.setdefault(next(known, "UNEXPLAINED"), []).append(one.what)
    return tuple(f"{words} ({'; '.join(whats)})" if words != "UNEXPLAINED" else f"{words}: {'; '.join(whats)}"
                 for words, whats in explained.items())  # fmt: skip
