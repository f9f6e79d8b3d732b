"""Options, progress and results of ``vsr compare``. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from vsr.errors import UsageError, setting
from vsr.evaluation.options import Align
from vsr.options import contradictions, convert, described, documented, option, option_of

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
"""Kind of the output by its extension."""

OUTPUT_KINDS: dict[str, tuple[Kind, ...]] = {
    "layout": ("video",),
    "play": ("page",),
    "regions": ("strip",),
    "num_regions": ("strip",),
    "times": ("strip", "page"),
    "frames": ("strip", "page"),
    "num_frames": ("page",),
    "quality": ("strip", "page"),
}
"""Options that apply only to some kinds of output."""


@dataclass(frozen=True)
class Region:
    """A rectangle, in pixels of the candidates."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"


def moments() -> str:
    """Name the options that choose frames of clips."""
    times, frames = setting("times", flag="--time"), setting("frames", flag="--frame")
    return f"{times}, {frames} and {setting('num_frames', flag='--frames')}"


@documented
@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """One run of ``vsr compare``.

    Raises:
        UsageError: values out of their range, or ones that contradict each other; all of them are reported at once.
    """

    inputs: tuple[Path, ...] = field(metadata=described("The candidates in order: pictures, or clips."))
    target: Path = field(metadata=described(
        "A strip: .png, .jpg. A video: .mp4, .mov, .m4v, .mkv. A page with a slider: .html.", name="-o, --output",
        metavar="OUT",
    ))  # fmt: skip
    lr: Path | None = option(None, "The LR input of the candidates.", metavar="FILE")
    hr: Path | None = option(None, "The HR original.", metavar="FILE")
    labels: tuple[str, ...] = option(
        (), "Label; one for each INPUT.", name="--label", metavar="TEXT",
        default_text="model, detail and size, or file name and size", repeated=True,
    )  # fmt: skip
    bicubic: bool | None = option(None, "Add the bicubic enlargement of LR.", default_text="with --lr")
    regions: tuple[Region, ...] = option(
        (), "Strips: region to magnify, in output pixels; may be repeated.", name="--region", metavar="X,Y,W,H",
        repeated=True,
    )  # fmt: skip
    num_regions: int | None = option(
        None, "Strips: number of regions to magnify, where candidates differ most; 0: whole pictures.",
        name="--regions", metavar="N", default_text="2", at_least=0, subject="the number of regions",
    )  # fmt: skip
    times: tuple[float, ...] = option(
        (), "Strips and pages of clips: time of a frame; may be repeated.", name="--time", metavar="SECONDS",
        repeated=True,
    )  # fmt: skip
    frames: tuple[int, ...] = option(
        (), "Strips and pages of clips: a frame, counted from 0; may be repeated.", name="--frame", metavar="NUMBER",
        repeated=True,
    )  # fmt: skip
    num_frames: int | None = option(
        None, "Pages of clips: how many frames, at even spacing.", name="--frames", metavar="N", default_text="8",
        at_least=1, subject="the number of frames",
    )  # fmt: skip
    play: float | None = option(
        None, "Pages of clips: seconds of successive frames that the key P plays; 0: none.", metavar="SECONDS",
        default_text="1.5", at_least=0, subject="the time to play",
    )  # fmt: skip
    align: Align | None = option(
        None, "Align clips by time, or by their first frames.",
        note="By time on the clock of the source, where the metadata of a clip say which part of it the clip shows.",
        default_text="time",
    )  # fmt: skip
    layout: Layout | None = option(
        None, "Layout of a video.", note="split: one frame, with a slice of each candidate.",
        default_text="split for two, grid for more",
    )  # fmt: skip
    quality: int | Literal["lossless"] | None = option(
        None, "JPEG quality.", metavar="1..100|lossless", default_text="95; small pages lossless"
    )
    overwrite: bool = option(False, "Replace an existing output.", name="-y, --overwrite")

    def __post_init__(self) -> None:
        wrong = [*convert(self), *self._contradictions()]
        if len(self.inputs) == 0 or (len(self.inputs) == 1 and not (self.lr or self.hr)):
            originals = f"{setting('lr')} or {setting('hr')}"
            wrong.append(f"there is nothing to compare with: name a second candidate, {originals}")
        if self.labels and len(self.labels) != len(self.inputs):
            wrong.append(f"{len(self.inputs)} candidates need as many labels, got {len(self.labels)}")
        wrong += contradictions(self)
        wrong += [f"frames are counted from 0, got {number}" for number in self.frames if number < 0]
        wrong += [f"the time must be a number of seconds, got {at}" for at in self.times if not abs(at) < float("inf")]
        if isinstance(self.quality, int) and not 1 <= self.quality <= 100:
            wrong.append(f"the quality lies in 1..100, got {self.quality}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    def _contradictions(self) -> Iterator[str]:
        if self.bicubic and self.lr is None:
            yield f"{setting('bicubic', True)} needs the picture to interpolate: name it with {setting('lr')}"
        if self.regions and self.num_regions is not None:
            regions, count = setting("regions", flag="--region"), setting("num_regions", flag="--regions")
            yield f"{regions} gives the regions to magnify, so {count} has no effect: leave one out"
        if len([given for given in (self.times, self.frames, self.num_frames) if given not in ((), None)]) > 1:
            yield f"{moments()} exclude each other"
        kind = KINDS.get(self.target.suffix.lower())
        if kind is None:
            yield f"cannot tell what to write to {self.target}: its name must end in {', '.join(KINDS)}"
            return
        for each in fields(self):
            kinds = OUTPUT_KINDS.get(each.name, (kind,))
            if kind not in kinds and getattr(self, each.name) not in ((), None):
                name = setting(each.name, flag=option_of(each).name)
                yield f"{name} is for a {' or a '.join(kinds)}, and {self.target.name} is a {kind}"
        if self.quality is not None and self.target.suffix.lower() == ".png":
            yield f"a .png is lossless, so {setting('quality')} has no effect"
        if self.quality == "lossless" and self.target.suffix.lower() in (".jpg", ".jpeg"):
            yield "a JPEG is not lossless: name a .png"

    @property
    def kind(self) -> Kind:
        """Kind of the output."""
        return KINDS[self.target.suffix.lower()]


@dataclass(frozen=True)
class CompareProgress:
    """Progress of a comparison.

    Attributes:
        frames: frames that are done.
        num_frames_estimated: frames in all; None if unknown.
    """

    frames: int
    num_frames_estimated: int | None


@dataclass(frozen=True)
class CompareSummary:
    """Result of a comparison.

    Attributes:
        target: the output.
        kind: kind of the output.
        labels: labels of the panels, in order.
        width: width of the strip or video, or of one picture of the page, in pixels.
        height: height of the same.
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
    """Result of rendering one kind of output; fields as in ``CompareSummary``."""

    labels: tuple[str, ...]
    width: int
    height: int
    frames: int


Progress = Callable[[CompareProgress], None]
