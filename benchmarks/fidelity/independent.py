"""Read a file with the ffmpeg program alone, for the table.

Nothing here uses vsr or PyAV, so that their mistakes cannot hide. The program is the one bundled with imageio-ffmpeg,
which has no ffprobe; so the streams are read from what ``ffmpeg -i`` prints, the frames
from the filter ``showinfo``, the packets from the muxer ``framecrc``, and the code values from raw video on a pipe.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(rows, columns) code values."""

DISPOSITIONS = frozenset({"default", "dub", "original", "comment", "lyrics", "karaoke", "forced", "hearing impaired",
                          "visual impaired", "attached pic", "captions", "descriptions", "dependent", "metadata",
                          "still image", "timed thumbnails"})  # fmt: skip

SUBSAMPLING = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "440": (1, 2), "411": (4, 1), "410": (4, 4)}
"""Columns and rows of luma for each of chroma."""

COMPLAINTS = re.compile(r"error while decoding|corrupt decoded frame|ended prematurely|Invalid data|partial file")
"""What the program prints for a damaged file."""


@dataclass(frozen=True)
class Stream:
    """A stream as ``ffmpeg -i`` prints it, its kind such as ``video`` or ``attachment``."""

    index: int
    kind: str
    codec: str
    language: str
    dispositions: frozenset[str]
    size: tuple[int, int]
    kilobits: int
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The title, or empty; MP4 calls it the name of the track."""
        return self.tags.get("title", self.tags.get("name", ""))

    def __str__(self) -> str:
        parts = [self.codec, self.language if self.language != "und" else "", *sorted(self.dispositions)]
        parts += [self.title, self.tags.get("filename", "")]
        return f"{self.kind} {' '.join(filter(None, parts))}"


@dataclass(frozen=True)
class Header:
    """A file as ``ffmpeg -i`` prints it; chapters are (start and end in seconds, title)."""

    start_seconds: Fraction
    duration_seconds: float | None
    tags: dict[str, str]
    chapters: tuple[tuple[str, str, str], ...]
    streams: tuple[Stream, ...]


@dataclass(frozen=True)
class FrameInfo:
    """A frame as ``showinfo`` prints it; times in ticks, ``field_order`` P, T or B."""

    pts: int
    duration: int
    pix_fmt: str
    size: tuple[int, int]
    field_order: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Track:
    """The frames of a video stream, and the lines of the program that complain about them."""

    time_base: Fraction
    frames: tuple[FrameInfo, ...]
    complaints: tuple[str, ...]

    def seconds(self, number: int) -> Fraction:
        """The time of a frame."""
        return self.frames[number].pts * self.time_base


@dataclass(frozen=True)
class Sound:
    """A decoded audio stream: the time of its first sample, and the number of samples."""

    start_seconds: Fraction
    samples: int


@dataclass(frozen=True)
class Packet:
    """A packet of any stream: its time in seconds and its content."""

    pts_seconds: Fraction
    content: tuple[str, str]


@dataclass(frozen=True)
class Clip:
    """A file with a video: all of the above, by number of the stream if there are several."""

    path: Path
    header: Header
    video: Stream
    track: Track
    packets: dict[int, list[Packet]]
    sounds: dict[int, Sound]
    attached: dict[int, str]
    orientation: str

    @property
    def others(self) -> list[Stream]:
        """All streams except the compared video."""
        return [stream for stream in self.header.streams if stream.index != self.video.index]


def program() -> str:
    """Return the path of imageio-ffmpeg's ffmpeg."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def version() -> str:
    """Return the version, such as ``9.0.2-static``."""
    messages = subprocess.run([program(), "-version"], check=True, capture_output=True, text=True).stdout
    return messages.split()[2]


def run(*arguments: str) -> tuple[str, str]:
    """Return stdout and stderr, whatever the exit code: the program reads damaged files too."""
    command = [program(), "-hide_banner", "-nostdin", "-nostats", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    return done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def read_clip(path: Path) -> Clip | None:
    """Read a file; None if the program finds no video that it can decode."""
    header = read_header(path)
    video = best_video(header) if header else None
    track = read_track(path, video.index) if video else None
    if header is None or video is None or track is None or not track.frames:
        return None
    way = orientation(path, video.index, track.frames[0]) if "rotation" in track.frames[0].tags else "as stored"
    return Clip(path, header, video, track, read_packets(path, header), read_sounds(path, header),
                attached_files(path, header), way)  # fmt: skip


def read_header(path: Path) -> Header | None:
    """Read the streams of a file; None if the program finds none."""
    _, messages = run("-i", f"file:{path}")
    lines = messages.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("Input #0")), None)
    if start is None:
        return None
    begin, duration, tags, chapters, streams = Fraction(0), None, {}, [], []
    into: dict[str, str] = tags
    for line in lines[start + 1 :]:
        if found := re.match(r"  Duration: (?:(\d+):(\d+):([\d.]+)|N/A)(?:, start: (-?[\d.]+))?", line):
            begin = Fraction(found[4] or 0)
            duration = 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3]) if found[1] else None
        elif found := re.match(r"    Chapter #0:\d+: start ([\d.]+), end ([\d.]+)", line):
            into = {}
            chapters.append((*found.groups(), into))
        elif line.startswith("  Stream #0:"):
            streams.append(_stream(line))
            into = streams[-1].tags
        elif line.startswith("  Program "):
            into = {}  # a transport stream's service, which no other container has
        elif found := re.match(r" +(\S[^:]*?) *: (.*)", line):
            into[found[1].lower()] = found[2]
    titled = tuple((first, last, own.get("title", "")) for first, last, own in chapters)
    return Header(begin, duration, tags, titled, tuple(streams))


def _stream(line: str) -> Stream:
    found = re.match(r"  Stream #0:(\d+)(?:\[\w+\])?(?:\((\w+)\))?: (\w+): (\w+)(.*)", line)
    assert found is not None, line
    index, language, kind, codec, rest = found.groups()
    words = {word.strip() for word in re.findall(r" \(([a-z ]+)\)", rest)}
    size, rate = re.search(r", (\d+)x(\d+)", rest), re.search(r"(\d+) kb/s", rest)
    return Stream(int(index), kind.lower(), codec, language or "und", frozenset(words & DISPOSITIONS),
                  (int(size[1]), int(size[2])) if size else (0, 0), int(rate[1]) if rate else 0)  # fmt: skip


def best_video(header: Header) -> Stream | None:
    """Return the stream that libav's ``best`` selects: default ones first, then the largest bit rate; no cover art."""
    videos = [stream for stream in header.streams if stream.kind == "video"]
    videos = [stream for stream in videos if "attached pic" not in stream.dispositions and all(stream.size)]
    return max(videos, key=lambda one: ("default" in one.dispositions, one.kilobits, -one.index), default=None)


def _decoding(path: Path, index: int, *, turned: bool = False) -> list[str]:
    # One thread, as the program then conceals damage in the same way every time.
    return ["-threads", "1", "-copyts", "-autorotate" if turned else "-noautorotate", "-i", f"file:{path}",
            "-map", f"0:{index}", "-fps_mode", "passthrough"]  # fmt: skip


def read_track(path: Path, index: int) -> Track:
    """Decode a video stream and record the properties of each frame."""
    _, messages = run(*_decoding(path, index), "-vf", "showinfo=checksum=0", "-f", "null", "-")
    time_base, frames, tags = Fraction(0), [], {}
    for line in messages.splitlines():
        if "showinfo" not in line:
            continue
        if found := re.search(r"config in time_base: (\d+/\d+)", line):
            time_base = Fraction(found[1])
        elif " n:" in line and " pts:" in line:
            fields = dict(re.findall(r"(\w+): *(\S+)", line))
            columns, rows = map(int, fields["s"].split("x"))
            tags = {"chroma location": fields["cl"], "pixel aspect": fields["sar"]}
            pts, duration = int(fields["pts"]), int(fields["duration"])
            frames.append(FrameInfo(pts, duration, fields["fmt"], (columns, rows), fields["i"], tags))
        elif found := re.search(r"side data - (3x3 displaymatrix|Mastering display|Content light)[^:]*: *(.*)", line):
            name = {"3": "rotation", "M": "mastering display", "C": "content light"}[found[1][0]]
            tags[name] = found[2].strip()
        elif "color_range:" in line:
            fields = dict(re.findall(r"color_(\w+):(\S+)", line))
            names = {"range": "range", "space": "matrix", "primaries": "primaries", "trc": "transfer"}
            tags.update({names[name]: value for name, value in fields.items()})
    return Track(time_base, tuple(frames), tuple(filter(COMPLAINTS.search, messages.splitlines())))


@lru_cache(maxsize=64)
def shapes_of(pix_fmt: str, width: int, height: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return (rows, columns) of each plane of a planar format, and the bits per value.

    Raises:
        ValueError: the format is not planar YUV or grey of 8 to 16 bits.
    """
    found = re.fullmatch(r"(?:yuvj?(?P<sub>4[1-4][0-4])p|gray)(?P<bits>\d+)?(?:le)?", pix_fmt)
    if found is None:
        raise ValueError(f"no planar YUV or grey: {pix_fmt}")
    bits, luma = int(found["bits"] or 8), (height, width)
    if found["sub"] is None:
        return (luma,), bits
    across, down = SUBSAMPLING[found["sub"]]
    chroma = (-(-height // down), -(-width // across))
    return (luma, chroma, chroma), bits


def read_planes(path: Path, index: int, first: FrameInfo, *options: str, turned: bool = False) -> Iterator[list[Plane]]:
    """Yield the code values of each frame in the stream's own pixel format, one frame in memory at a time.

    Args:
        path: the file.
        index: number of the stream.
        first: the first frame; all have its format.
        options: options of the output, such as a filter.
        turned: whether to rotate frames as for display.
    """
    shapes, bits = shapes_of(first.pix_fmt, *first.size)
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    sizes = [rows * columns * dtype.itemsize for rows, columns in shapes]
    command = [program(), "-hide_banner", "-nostdin", "-loglevel", "quiet", *_decoding(path, index, turned=turned)]
    command += ["-pix_fmt", first.pix_fmt, *options, "-f", "rawvideo", "-"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            while len(raw := child.stdout.read(sum(sizes))) == sum(sizes):
                starts = [sum(sizes[:number]) for number in range(len(sizes))]
                yield [np.frombuffer(raw, dtype, size // dtype.itemsize, start).reshape(shape)
                       for size, start, shape in zip(sizes, starts, shapes, strict=True)]  # fmt: skip
        finally:
            child.kill()


def orientation(path: Path, index: int, first: FrameInfo) -> str:
    """Find how the program orients stored frames for display by comparing them, as it reports no mirroring.

    Frames are compared until a single orientation is left, as a black frame fits all of them.
    """
    width, height = first.size
    left = [(mirrored, quarters) for mirrored in (False, True) for quarters in range(4)]
    shown = read_planes(path, index, first, turned=True)
    for (stored, *_), (seen, *_) in zip(read_planes(path, index, first), shown, strict=False):
        for mirrored, quarters in tuple(left):
            turned = np.rot90(np.fliplr(stored) if mirrored else stored, -quarters)
            if not np.array_equal(seen.reshape(turned.shape), turned):
                left.remove((mirrored, quarters))
        if len(left) < 2:
            break
    ways = (f"{'mirrored and ' if mirrored else ''}{90 * quarters} degrees clockwise" for mirrored, quarters in left)
    return next(ways, "neither turned by quarters nor mirrored")


def read_packets(path: Path, header: Header) -> dict[int, list[Packet]]:
    """Read the packets of every stream except attachments and unknown ones, by the number of the stream."""
    numbers = [stream.index for stream in header.streams if stream.kind != "attachment" and stream.codec != "none"]
    maps = [argument for number in numbers for argument in ("-map", f"0:{number}")]
    output, _ = run("-copyts", "-i", f"file:{path}", *maps, "-c", "copy", "-f", "framecrc", "-")
    found: dict[int, list[Packet]] = {number: [] for number in numbers}
    for stream, time, _, *content in _lines(output):
        found[numbers[stream]].append(Packet(time, (content[0], content[1])))
    return found


def read_sounds(path: Path, header: Header) -> dict[int, Sound]:
    """Read the audible part of each audio stream, without the encoder's delay, as in a player."""
    numbers = [stream.index for stream in header.streams if stream.kind == "audio" and stream.codec != "none"]
    maps = [argument for number in numbers for argument in ("-map", f"0:{number}")]
    output, _ = run("-copyts", "-i", f"file:{path}", *maps, "-f", "framecrc", "-") if numbers else ("", "")
    found: dict[int, Sound] = {}
    for stream, time, samples, *_ in _lines(output):
        before = found.get(numbers[stream], Sound(time, 0))
        found[numbers[stream]] = replace(before, samples=before.samples + samples)
    return found


def _lines(output: str) -> Iterator[tuple[int, Fraction, int, str, str]]:
    """Parse the lines of ``framecrc``: stream, presentation time in seconds, duration in ticks, size, checksum."""
    bases: dict[int, Fraction] = {}
    for line in output.splitlines():
        if found := re.match(r"#tb (\d+): (\d+/\d+)", line):
            bases[int(found[1])] = Fraction(found[2])
        elif line and not line.startswith("#"):
            stream, _, pts, duration, size, checksum = (value.strip() for value in line.split(",")[:6])
            yield int(stream), int(pts) * bases[int(stream)], int(duration), size, checksum


def attached_files(path: Path, header: Header) -> dict[int, str]:
    """Return a checksum of each attachment."""
    attached = [stream.index for stream in header.streams if stream.kind == "attachment"]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for index in attached:
            file = Path(folder) / str(index)
            run(f"-dump_attachment:{index}", str(file), "-i", f"file:{path}")
            found[index] = sha256(file.read_bytes()).hexdigest()[:12] if file.exists() else "missing"
    return found
