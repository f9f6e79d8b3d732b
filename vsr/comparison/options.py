"""What can be chosen about a comparison, and what it reports. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vsr.errors import UsageError

Kind = Literal["strip", "video", "page"]
Layout = Literal["split", "side-by-side", "grid"]

KINDS: dict[str, Kind] = {
    ".png": "strip",
    ".jpg": "strip",
    ".jpeg": "strip",
    ".mp4": "video",
    ".m4v": "video",
    ".mov": "video",
    ".mkv": "video",
    ".html": "page",
    ".htm": "page",
}
"""What is made, by the ending of the output's name."""

TAKEN_BY: dict[str, tuple[Kind, ...]] = {
    "layout": ("video",),
    "regions": ("strip",),
    "num_regions": ("strip",),
    "times": ("strip", "page"),
    "frames": ("strip", "page"),
    "num_frames": ("page",),
    "quality": ("strip", "page"),
}
"""Options that only some outputs have a use for."""

OPTION_NAMES = {
    "regions": "--region",
    "num_regions": "--regions",
    "times": "--time",
    "frames": "--frame",
    "num_frames": "--frames",
}
"""Where the option of the command is called otherwise than the field."""


@dataclass(frozen=True)
class Region:
    """A rectangle, in pixels of the candidates."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """One run of ``vsr compare``.

    Raises:
        UsageError: values out of their range, or ones that contradict each other; all of them are reported at once.
    """

    inputs: tuple[Path, ...]
    """The candidates in order: pictures, or clips."""
    target: Path
    """What to write; its ending says which kind."""
    lr: Path | None = None
    """What the candidates were upscaled from."""
    hr: Path | None = None
    """What they should be like."""
    labels: tuple[str, ...] = ()
    """One for each candidate; none: the names of the files."""
    bicubic: bool | None = None
    """Add the bicubic interpolation of LR; None: where there is LR."""
    regions: tuple[Region, ...] = ()
    """Strips: parts to magnify."""
    num_regions: int | None = None
    """Strips: how many parts to choose where none is given, there where the candidates differ most; None: 2."""
    times: tuple[float, ...] = ()
    """Strips and pages of clips: seconds; the frame on display then is taken."""
    frames: tuple[int, ...] = ()
    """Strips and pages of clips: numbers of frames, from 0."""
    num_frames: int | None = None
    """Pages of clips: how many frames to take at even spacing; None: 8."""
    layout: Layout | None = None
    """Videos; ``split``: one frame, of which each candidate has a slice; None: that."""
    quality: int | Literal["lossless"] | None = None
    """Of the pictures in a page, and of a JPEG strip: 1..100. None: of a page lossless until it grows large."""
    overwrite: bool = False
    """Replace an existing output."""

    def __post_init__(self) -> None:
        wrong = list(self._contradictions())
        if self.layout is not None and self.layout not in get_args(Layout):
            wrong.append(f"the layout is one of {', '.join(get_args(Layout))}, got {self.layout!r}")
        if len(self.inputs) == 0 or (len(self.inputs) == 1 and not (self.lr or self.hr)):
            wrong.append("there is nothing to compare with: name a second candidate, --lr or --hr")
        if self.labels and len(self.labels) != len(self.inputs):
            wrong.append(f"{len(self.inputs)} candidates want as many labels, got {len(self.labels)}")
        if self.num_regions is not None and self.num_regions < 0:
            wrong.append(f"the number of regions must not be negative, got {self.num_regions}")
        if self.num_frames is not None and self.num_frames < 1:
            wrong.append(f"the number of frames must be at least 1, got {self.num_frames}")
        wrong += [f"frames are counted from 0, got {number}" for number in self.frames if number < 0]
        wrong += [f"the time must be a number of seconds, got {at}" for at in self.times if not abs(at) < float("inf")]
        if isinstance(self.quality, int) and not 1 <= self.quality <= 100:
            wrong.append(f"the quality lies in 1..100, got {self.quality}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    def _contradictions(self) -> Iterator[str]:
        if self.bicubic and self.lr is None:
            yield "--bicubic needs the picture to interpolate: name it by --lr"
        if self.regions and self.num_regions is not None:
            yield "--region gives the parts to magnify, so --regions has nothing to choose"
        if len([given for given in (self.times, self.frames, self.num_frames) if given not in ((), None)]) > 1:
            yield "--time, --frame and --frames exclude each other"
        kind = KINDS.get(self.target.suffix.lower())
        if kind is None:
            yield f"cannot tell what to write to {self.target}: its name must end in {', '.join(KINDS)}"
            return
        for name, kinds in TAKEN_BY.items():
            if kind not in kinds and getattr(self, name) not in ((), None):
                option = OPTION_NAMES.get(name, f"--{name}")
                yield f"{option} is for a {' or a '.join(kinds)}, and {self.target.name} is a {kind}"
        if self.quality is not None and self.target.suffix.lower() == ".png":
            yield "a .png is lossless, so --quality says nothing"
        if self.quality == "lossless" and self.target.suffix.lower() in (".jpg", ".jpeg"):
            yield "a JPEG is not lossless: name a .png"

    @property
    def kind(self) -> Kind:
        """What is made."""
        return KINDS[self.target.suffix.lower()]


@dataclass(frozen=True)
class CompareProgress:
    """Where a comparison stands.

    Attributes:
        frames: frames that are done.
        num_frames_estimated: frames in all; None where nobody knows.
    """

    frames: int
    num_frames_estimated: int | None


@dataclass(frozen=True)
class CompareSummary:
    """What was made.

    Attributes:
        target: the output.
        kind: what it is.
        labels: of the panels, in order.
        width: of the strip or the video, or of one picture of the page, in pixels.
        height: the same.
        frames: frames that are shown; 1 for pictures.
        num_bytes: size of the output.
        seconds: wall time.
    """

    target: Path
    kind: Kind
    labels: tuple[str, ...]
    width: int
    height: int
    frames: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class RenderResult:
    """What a maker of one kind of output hands back; as in ``CompareSummary``."""

    labels: tuple[str, ...]
    width: int
    height: int
    frames: int


Progress = Callable[[CompareProgress], None]
