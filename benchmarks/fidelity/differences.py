"""Compare a clip with its output by ``vsr upscale``: the differences in the table.

Both are read by ``independent.py``. Whether a difference is a fault is decided in ``reasons.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from independent import Clip, Packet, Stream

CUT_SECONDS = 2
"""The length of the start that x2 uses of clips that are larger or longer than the following limits."""
CUT_ABOVE_PIXELS, CUT_ABOVE_SECONDS = 1280 * 720, 4


@dataclass(frozen=True)
class Way:
    """One way through the command; ``lossless`` if every code value should be preserved."""

    name: str
    suffix: str
    scale: int
    lossless: bool
    options: tuple[str, ...]


@dataclass(frozen=True)
class Deviation:
    """A difference: its subject, and its description as text and as a number."""

    about: str
    what: str
    size: float = 0


@dataclass(frozen=True)
class Pair:
    """A clip and its output.

    Attributes:
        source: the source.
        output: the output.
        way: the way through the command.
        cut: whether only the first seconds were requested.
    """

    source: Clip
    output: Clip
    way: Way
    cut: bool

    @property
    def is_deinterlaced(self) -> bool:
        """Whether interlaced frames should have become progressive ones."""
        return any(frame.field_order != "P" for frame in self.source.track.frames) and "no" not in self.way.options

    @property
    def wanted(self) -> list[int]:
        """The requested frames of the source."""
        track = self.source.track
        end = self.source.header.start_seconds + CUT_SECONDS
        return [number for number in range(len(track.frames)) if not self.cut or track.seconds(number) < end]

    @property
    def frames(self) -> list[tuple[int, int]]:
        """The pairs of matching frames: in order if the numbers agree, else by time."""
        wanted, before, after = self.wanted, self.source.track, self.output.track
        if len(wanted) == len(after.frames):
            return list(zip(wanted, range(len(wanted)), strict=True))
        near = before.frames[0].duration * before.time_base / 4
        found, number = [], 0
        for frame in wanted:
            while number < len(after.frames) - 1 and after.seconds(number) < before.seconds(frame) - near:
                number += 1
            if abs(after.seconds(number) - before.seconds(frame)) <= near:
                found.append((frame, number))
        return found

    @property
    def time_error(self) -> Fraction:
        """The largest error of a frame's time, in seconds."""
        before, after = self.source.track, self.output.track
        return max((abs(after.seconds(new) - before.seconds(old)) for old, new in self.frames), default=Fraction(0))


def is_large(clip: Clip) -> bool:
    """Whether x2 uses only the start of a clip."""
    width, height = clip.video.size
    return width * height > CUT_ABOVE_PIXELS or (clip.header.duration_seconds or 0) > CUT_ABOVE_SECONDS


def deviations(pair: Pair) -> Iterator[Deviation]:
    """Yield all differences except those of pixels."""
    yield from _time_deviations(pair)
    before, after = tags_of(pair.source), tags_of(pair.output)
    for name, value in before.items():
        if after[name] != value:
            yield Deviation(f"tag {name}", f"{name}: {value} became {after[name]}")
    yield from _stream_deviations(pair)
    yield from _file_deviations(pair)


def _time_deviations(pair: Pair) -> Iterator[Deviation]:
    wanted, came, paired = len(pair.wanted), len(pair.output.track.frames), len(pair.frames)
    if not wanted == came == paired:
        yield Deviation("frames", f"{wanted} frames became {came}, {paired} of them at their time", came - wanted)
    if error := float(1000 * pair.time_error):
        yield Deviation("time", f"timestamps are off by up to {error:.3f} ms", error)
    before, after = pair.source.track, pair.output.track
    lengths = [track.frames[-1].duration * track.time_base for track in (before, after)]
    if came == wanted and abs(lengths[0] - lengths[1]) > Fraction(1, 1000):
        shown = [f"{float(1000 * length):.1f}" for length in lengths]
        yield Deviation("length", f"the last frame lasted {shown[0]} ms, now {shown[1]} ms")


def _stream_deviations(pair: Pair) -> Iterator[Deviation]:
    yield from _label_deviations(pair.source.video, pair.output.video)
    for had, got in match_streams(pair):
        if had is None or got is None:
            what = f"stream {had.index}, {had}, is left out" if had else f"{got} is new"
            yield Deviation("stream left out" if had else "stream new", what, had.index if had else 0)
            continue
        yield from _label_deviations(had, got)
        if not _same_content(pair, had, got):
            what = f"{had.kind} {had.index} became other packets, {had.codec} to {got.codec}"
            yield Deviation(f"content {had.kind}", what, had.index)
        elif error := _packet_time_error(pair, had, got):
            yield Deviation("packet times", f"packets of {had.kind} {had.index} are off by up to {error:.3f} ms", error)
        if had.index in pair.source.sounds and got.index in pair.output.sounds:
            yield from _sound_deviations(pair, had, got)


def _label_deviations(had: Stream, got: Stream) -> Iterator[Deviation]:
    labels = {
        "language": (had.language, got.language),
        "disposition": (" ".join(sorted(had.dispositions)), " ".join(sorted(got.dispositions))),
        "title": (had.title, got.title),
        "file name": (had.tags.get("filename"), got.tags.get("filename")),
    }
    for name, (before, after) in labels.items():
        if before != after:
            what = f"{name} of {had.kind} {had.index}: {before or 'none'} became {after or 'none'}"
            yield Deviation(name, what, had.index)


def _sound_deviations(pair: Pair, had: Stream, got: Stream) -> Iterator[Deviation]:
    before, after = sound_offsets(pair.source)[had.index], sound_offsets(pair.output)[got.index]
    if abs(after - before) > 1e-6:
        what = f"audio {had.index} started {before:.3f} ms after the picture, now {after:.3f} ms"
        yield Deviation("offset", what, abs(after - before))
    samples = pair.source.sounds[had.index].samples, pair.output.sounds[got.index].samples
    if samples[0] != samples[1] and not pair.cut:
        what = f"{samples[0]} samples of audio {had.index} became {samples[1]}"
        yield Deviation("samples", what, abs(samples[1] - samples[0]))


def _file_deviations(pair: Pair) -> Iterator[Deviation]:
    now = global_tags(pair.output)
    for name, value in global_tags(pair.source).items():
        if now.get(name) != value:
            yield Deviation(f"metadata {name}", f"metadata {name}: {value} became {now.get(name, 'nothing')}")
    if pair.cut:
        return
    before, after = (clip.header.chapters for clip in (pair.source, pair.output))
    if len(before) != len(after) or [chapter[2] for chapter in before] != [chapter[2] for chapter in after]:
        yield Deviation("chapters", f"{len(before)} chapters became {len(after)}, or other titles")
    elif error := max((abs(float(a) - float(b)) for x, y in zip(before, after, strict=True)
                       for a, b in zip(x[:2], y[:2], strict=True)), default=0):  # fmt: skip
        yield Deviation("chapters", f"chapters moved by up to {1000 * error:.0f} ms", 1000 * error)


def tags_of(clip: Clip) -> dict[str, str]:
    """Return the tags of the frames, ``-`` if unstated, and the pixel format."""
    names = ("matrix", "primaries", "transfer", "range", "chroma location", "pixel aspect")
    found = {}
    for name in (*names, "mastering display", "content light"):
        values = {frame.tags.get(name, "-") for frame in clip.track.frames}
        unstated = values & {"unknown", "unspecified", "0/1"}
        found[name] = " or ".join(sorted(values - unstated | ({"-"} if unstated else set())))
    fields = {"P": "progressive", "T": "top field first", "B": "bottom field first"}
    found["pixel format"] = clip.track.frames[0].pix_fmt.replace("yuvj", "yuv")
    found["fields"] = " or ".join(sorted({fields[frame.field_order] for frame in clip.track.frames}))
    return found | {"orientation": clip.orientation}


def global_tags(clip: Clip) -> dict[str, str]:
    """Return the metadata of a file, without the muxer's own tags."""
    own = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
    tags = {name: value for name, value in clip.header.tags.items() if name not in own}
    if date := tags.get("creation_time"):
        tags["creation_time"] = date.replace("T", " ")[:19]  # Matroska and MP4 write it differently
    return tags


def sound_offsets(clip: Clip) -> dict[int, float]:
    """Return the milliseconds from the first frame to the first audible sample, by audio stream."""
    return {index: float(1000 * (sound.start_seconds - clip.track.seconds(0))) for index, sound in clip.sounds.items()}


def match_streams(pair: Pair) -> list[tuple[Stream | None, Stream | None]]:
    """Match the streams other than the video in source and output: by content, else by language and codec."""
    left = list(pair.source.others)
    matched: list[tuple[Stream | None, Stream | None]] = []
    for got in pair.output.others:
        kin = [had for had in left if had.kind == got.kind]
        alike = [(_same_content(pair, had, got), had.language == got.language, had.codec == got.codec) for had in kin]
        best = kin[alike.index(max(alike))] if kin else None
        if best is not None:
            left.remove(best)
        matched.append((best, got))
    return [*matched, *((had, None) for had in left)]


def _same_content(pair: Pair, had: Stream, got: Stream) -> bool:
    """Whether the packets equal those of the source or, after a cut, a contiguous part of them."""
    if had.kind == "attachment":
        return pair.source.attached[had.index] == pair.output.attached[got.index]
    before = _contents(pair.source.packets.get(had.index, []))
    after = _contents(pair.output.packets.get(got.index, []))
    if not pair.cut:
        return before == after
    return any(before[start : start + len(after)] == after for start in range(len(before) - len(after) + 1))


def _contents(packets: Sequence[Packet]) -> list[tuple[str, str]]:
    return [packet.content for packet in packets]


def _packet_time_error(pair: Pair, had: Stream, got: Stream) -> float:
    """Return the largest difference of times of two streams with the same packets, in milliseconds."""
    before, after = pair.source.packets.get(had.index, []), pair.output.packets.get(got.index, [])
    contents = _contents(after)
    first = next(at for at in range(len(before) + 1) if _contents(before[at : at + len(after)]) == contents)
    pairs = zip(before[first:], after, strict=False)
    return max((float(1000 * abs(one.pts_seconds - other.pts_seconds)) for one, other in pairs), default=0.0)
