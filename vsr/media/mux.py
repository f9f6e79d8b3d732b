"""The output file: encoded parts joined, the other streams of the source added, and what arrived checked."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import av
import ffmpeg
from av.container import OutputContainer
from av.error import FFmpegError as LibavError
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from vsr.errors import FFmpegError, InputError, OutputError, UsageError
from vsr.imaging.pictures import repeats
from vsr.media.clip import UNSPECIFIED, WHOLE, ClipInfo, Cut, StreamInfo
from vsr.media.ffmpeg import DiskError, audio_encoders, has_option, run
from vsr.media.formats import TEXT_SUBTITLES, Container, Timing, decoding_times, holds
from vsr.media.libav import fraction_of, readable
from vsr.media.probe import open_clip, packets_of
from vsr.media.writer import VideoFormat, clear_between_frames, muxer_options

logger = logging.getLogger(__name__)

BRANDS = ("major_brand", "minor_version", "compatible_brands")
"""What libav tells of an MP4's kind as if it were metadata."""

TIMECODE = "timecode"
"""The key of the metadata from which muxers make a track of time codes."""

BROADCASTS, LATE_CLOCK_SECONDS = frozenset({"mpegts", "mpeg", "wtv"}), 10
"""Formats whose clock runs since the sender was started; a beginning by it later than so many seconds is not kept."""

LATE_SECONDS = Fraction(1, 20)
"""By how much sound may begin later than the picture before silence is put there: about two of its packets."""

LATE = "silence fills its late beginning"
"""The reason of plans for a container in which all streams begin together."""

AS_ASKED = "as asked"
"""The reason of plans that follow from what the user chose."""

Options = dict[str, str | int]
"""The program's, as ffmpeg-python takes them."""


@dataclass(frozen=True)
class StreamPlan:
    """What becomes of one of the source's other streams.

    Attributes:
        stream: the stream.
        action: ``copy`` leaves every packet as it is; ``rewrite`` takes none, as the muxer makes the stream anew.
        codec: what it is converted to, empty unless ``action`` is ``convert``.
        reason: why it is not copied, for the user.
        filled: silence is put where it begins late or has gaps.
    """

    stream: StreamInfo
    action: Literal["copy", "convert", "rewrite", "drop"]
    codec: str = ""
    reason: str = ""
    filled: bool = False

    @property
    def is_read(self) -> bool:
        """Whether the output takes packets of the source's stream."""
        return self.action in ("copy", "convert")

    @property
    def is_kept(self) -> bool:
        """Whether the output has all that the stream says, as it said it."""
        return self.action in ("copy", "rewrite")

    def __str__(self) -> str:
        what = {
            "copy": "copied", "convert": f"converted to {self.codec}", "rewrite": "written anew", "drop": "left out",
        }[self.action]  # fmt: skip
        return f"{self.stream}: {what}{f' ({self.reason})' if self.reason else ''}"


def plan_streams(
    clip: ClipInfo,
    container: Container,
    *,
    audio: str = "copy",
    subtitles: Literal["copy", "none"] = "copy",
    cut: Cut = WHOLE,
) -> list[StreamPlan]:
    """Decide, before any frame is computed, what becomes of each of the source's other streams.

    What is decided here follows from what formats are said to hold; ``assemble_sample`` shows what the program can do.

    Args:
        clip: the source.
        container: what the output can hold.
        audio: ``copy``: as it is, where the container holds it; ``none``: left out; else the encoder to convert it by.
        subtitles: ``copy``: as they are, or converted where the container demands it; ``none``: left out.
        cut: the part of the source that is wanted.

    Raises:
        UsageError: there is no such encoder, or the container does not hold what it makes.
    """
    if audio not in ("copy", "none"):
        _check_audio_encoder(audio, container)
    plans = [_plan(stream, container, audio, subtitles) for stream in clip.others]
    rewritten = {"chapters"} if container.chapters else set()
    if TIMECODE in (*clip.metadata, *clip.video.metadata) and container.timecode and cut.start is None:
        rewritten.add("timecode")
    plans = [replace(plan, action="rewrite", reason="") if plan.stream.carries in rewritten else plan for plan in plans]
    return [_filled(plan, plans, clip, container, cut) for plan in plans] if container.one_rate else plans


def _filled(
    plan: StreamPlan, plans: Sequence[StreamPlan], clip: ClipInfo, container: Container, cut: Cut
) -> StreamPlan:
    """The plan with silence at the beginning where the container cannot say that a stream begins late."""
    begins = _beginning_of(plan.stream, cut)
    if plan.stream.kind != "audio" or not plan.is_read or not plan.stream.sample_rate or begins is None:
        return plan
    if begins - earliest_beginning(clip, plans, cut) <= LATE_SECONDS:
        return plan
    codec = plan.codec or container.audio
    return replace(plan, action="convert", codec=codec, reason=LATE, filled=True)


def _beginning_of(stream: StreamInfo, cut: Cut) -> Fraction | None:
    """When what is wanted of a stream begins, in seconds of the source's clock; None where nobody knows."""
    return stream.start if cut.start is None or stream.start is None else max(stream.start, cut.start)


def earliest_beginning(clip: ClipInfo, plans: Sequence[StreamPlan], cut: Cut) -> Fraction:
    """When the first of the streams that are kept begins, in seconds of the source's clock."""
    video = (clip.video.first_pts or 0) * clip.video.time_base
    played = [_beginning_of(plan.stream, cut) for plan in plans if plan.is_read and plan.stream.is_timed]
    shown = video if cut.start is None else max(video, cut.start)
    return min([shown, *(begins for begins in played if begins is not None)])


def _check_audio_encoder(name: str, container: Container) -> None:
    encoders = audio_encoders()
    if name not in encoders:
        raise UsageError(
            f"ffmpeg has no audio encoder called {name}: take copy, none, aac, libopus or another that "
            "`ffmpeg -encoders` lists."
        )
    if not holds(container, encoders[name]):
        fitting = container.audio or "none"
        raise UsageError(f"{container.muxer} cannot hold {encoders[name]} audio; take {fitting}.")


def _plan(stream: StreamInfo, container: Container, audio: str, subtitles: str) -> StreamPlan:
    held = holds(container, stream.codec)
    cannot = f"{container.muxer} cannot hold {stream.codec or 'it'}"
    match stream.kind:
        case "audio" if audio == "none":
            return StreamPlan(stream, "drop", reason=AS_ASKED)
        case "audio" if not stream.codec:
            return StreamPlan(stream, "drop", reason="it cannot be decoded")
        case "audio" if audio != "copy":
            return StreamPlan(stream, "convert", audio, AS_ASKED)
        case "audio" if held:
            return StreamPlan(stream, "copy")
        case "audio" if container.audio:
            return StreamPlan(stream, "convert", container.audio, cannot)
        case "subtitle" if subtitles == "none":
            return StreamPlan(stream, "drop", reason=AS_ASKED)
        case "subtitle" if held:
            return StreamPlan(stream, "copy")
        case "subtitle" if container.subtitle is not None and stream.codec in TEXT_SUBTITLES:
            return StreamPlan(stream, "convert", container.subtitle, cannot)
        case "attachment" if container.attachments:
            return StreamPlan(stream, "copy")
        case "video" if stream.cover_art and container.cover_art and held:
            return StreamPlan(stream, "copy")
        case "video" if not stream.cover_art:
            return StreamPlan(stream, "drop", reason="one video stream is upscaled")
        case _:
            return StreamPlan(stream, "drop", reason=cannot)


def assemble(
    video: Path,
    clip: ClipInfo,
    streams: Sequence[StreamPlan],
    target: Path,
    container: Container,
    *,
    encoded: VideoFormat | None = None,
    cut: Cut = WHOLE,
    last: Timing | None = None,
    sample_seconds: float | None = None,
) -> None:
    """Join the encoded video with the planned streams of the source, its metadata and chapters.

    Packets are copied with their own timestamps, so that sound and picture stay apart by what they were apart.

    Args:
        video: file with the new video stream, with the source's timestamps.
        clip: the source.
        streams: what becomes of the source's other streams.
        target: the file to write; an existing one is replaced.
        container: the target's format.
        encoded: the new video, for what its own file does not tell; None: what that says will do.
        cut: the part of the source that the new video shows.
        last: the packet of the new video that is shown last; its file tells durations in the order of decoding, by
            which a later one may last as long. None: that will do.
        sample_seconds: read no more of the source than this from its beginning; None: all.

    Raises:
        DiskError: the disk takes no more.
        FFmpegError: the program failed.
        OutputError: it left no file.
    """
    new = ffmpeg.input(f"file:{video}", **_light(encoded))
    options: Options = {
        "c": "copy",
        "disposition:0": _disposition(clip.video.disposition),
        "f": container.muxer,
        **dict(container.options),
        **_video_options(video, clip, container, encoded),
    }
    if container.muxer in ("mp4", "mov"):
        options |= _mp4_options(clip, streams, container)
    if last is not None and last.duration and container.muxer != "gif":
        options["bsf:0"] = f"setts=pts=PTS:dts=DTS:duration='if(eq(PTS,{last.pts}),{last.duration},DURATION)'"
    if container.one_rate and clip.video.average_rate:
        options["r:0"] = str(clip.video.average_rate)  # else 600 a second, nearly all of them fillers
    mapped = [new["v:0"]]
    shift = encoded.shift * clip.video.time_base if encoded else Fraction(0)
    if not clip.pictures:
        mapped += _source_streams(clip, streams, container, cut, options, shift, sample_seconds)
    if later := -cut.shift - _offset(clip, container, streams, cut, shift):
        options["output_ts_offset"] = f"{float(later):.6f}"
    if cut != WHOLE:
        options["map_chapters"] = -1
        if container.chapters and (chapters := _chapters(clip, cut)):
            listing = video.with_name("chapters.txt")
            listing.write_text(chapters, encoding="utf-8")
            mapped.append(ffmpeg.input(f"file:{listing}", f="ffmetadata")["0?"])
            options["map_chapters"] = 2
    run(ffmpeg.output(*mapped, f"file:{target}", **options).global_args("-copyts").overwrite_output())
    if not target.is_file():
        raise OutputError(f"ffmpeg left no file at {target}.")
    if container.muxer == "gif":
        try:
            clear_between_frames(target)
        except OSError as exc:
            raise OutputError(f"cannot write {target}: {exc.strerror}.") from exc


SAMPLE_SECONDS = 0.5
"""Of the source, by which it is tried out what the program can write."""

NO_PACKETS = "received no packets"
"""What the program says where a stream that it converts begins later than the sample ends."""


def assemble_sample(
    video: Path,
    clip: ClipInfo,
    streams: Sequence[StreamPlan],
    target: Path,
    container: Container,
    *,
    encoded: VideoFormat,
    cut: Cut = WHOLE,
) -> list[StreamPlan]:
    """Try the assembly out on the beginning of the source, before any frame is computed.

    Args:
        video: a file with a frame or two, encoded as the new video will be.
        target: a file to write; the caller removes it.
        clip, streams, container, encoded, cut: as ``assemble``.

    Returns:
        the plans; what the program cannot write is converted in them, or left out.

    Raises:
        FFmpegError: not even the video can be written.
    """

    def attempt(plans: Sequence[StreamPlan]) -> None:
        try:
            assemble(
                video, clip, plans, target, container, encoded=encoded, cut=cut, sample_seconds=SAMPLE_SECONDS
            )  # fmt: skip
        except FFmpegError as exc:
            if NO_PACKETS not in str(exc):
                raise

    return assemble_what_fits(streams, container, attempt)


def assemble_what_fits(
    streams: Sequence[StreamPlan], container: Container, attempt: Callable[[Sequence[StreamPlan]], None]
) -> list[StreamPlan]:
    """Write an output; where that fails, find the streams that are to blame, and write it without them.

    Args:
        streams: what shall become of each of the source's other streams.
        container: what the output can hold.
        attempt: writes the output with some of the streams.

    Returns:
        what has become of each: those that were to blame are converted now, or left out.

    Raises:
        FFmpegError: the streams are not to blame.
    """
    try:
        attempt(streams)
        return list(streams)
    except DiskError:
        raise
    except FFmpegError as exc:
        if not any(plan.is_read for plan in streams):
            raise
        logger.info("not all streams can be written: %s", exc)
    attempt([])
    fitting = [_fitting(plan, container, attempt) if plan.is_read else plan for plan in streams]
    attempt(fitting)
    return fitting


def _fitting(
    plan: StreamPlan, container: Container, attempt: Callable[[Sequence[StreamPlan]], None]
) -> StreamPlan:  # fmt: skip
    """The plan, if it can be carried out for a stream alone; else another that can."""
    reason = ""
    for candidate in [plan, *_conversions(plan, container)]:
        try:
            attempt([candidate])
            return candidate
        except DiskError:
            raise
        except FFmpegError as exc:
            reason = reason or _first_words(exc)
    return replace(plan, action="drop", codec="", reason=f"ffmpeg: {reason}")


def _first_words(error: FFmpegError) -> str:
    """Of all that the program says, what came first, without the names of its parts."""
    words = str(error).partition(": ")[2].partition("; ")[0]
    return re.sub(r"^(\[[^]]*\] )+", "", words)


def _conversions(plan: StreamPlan, container: Container) -> list[StreamPlan]:
    """What a stream that cannot be copied may be converted to."""
    why = f"ffmpeg cannot copy it into {container.muxer}"
    if plan.action == "copy" and plan.stream.kind == "audio" and container.audio in audio_encoders():
        return [replace(plan, action="convert", codec=container.audio, reason=why)]
    if plan.action == "copy" and plan.stream.codec in TEXT_SUBTITLES and container.subtitle:
        return [replace(plan, action="convert", codec=container.subtitle, reason=why)]
    return []


def _source_streams(
    clip: ClipInfo, streams: Sequence[StreamPlan], container: Container, cut: Cut, options: Options, shift: Fraction,
    sample_seconds: float | None,
) -> list[ffmpeg.nodes.FilterableStream]:  # fmt: skip
    """The streams that travel, and into ``options`` what is said of them."""
    demuxer = {"f": clip.format.split(",")[0]} if clip.format else {}  # what was probed, and no list
    later = {"itsoffset": f"{float(shift):.6f}"} if shift else {}
    sample = {} if sample_seconds is None else {"t": sample_seconds}
    source = ffmpeg.input(f"file:{clip.path}", protocol_whitelist="file", **demuxer, **later, **sample)
    # One such option turns off what ffmpeg does by itself, so each stream gets its own.
    options |= {"map_metadata": 1, "map_metadata:s:0": f"1:s:{clip.video.index}"}
    said = ["encoder="]  # the source's, not that of the new video
    if cut.start is not None:
        said.append(f"{TIMECODE}=")  # that of another frame
        options["metadata"] = f"{TIMECODE}="
    options |= _metadata(0, said)
    # They describe the file that was. The number is there to make the options differ.
    options |= {f"metadata:g:{number}": f"{key}=" for number, key in enumerate(BRANDS) if key in clip.metadata}
    options["map_chapters"] = 1 if container.chapters else -1
    kept = [plan for plan in streams if plan.is_read]
    for number, plan in enumerate(kept, start=1):  # output stream 0 is the video
        options |= _stream_options(number, plan, container, cut.drop(shift))
        if plan.filled and plan.stream.sample_rate:
            begins = earliest_beginning(clip, streams, cut) + shift
            first = round(begins * plan.stream.sample_rate)
            options[f"filter:{number}"] = f"aresample=async=1:min_hard_comp=0.01:first_pts={first}"
    # ffmpeg-python passes on only inputs that are mapped, and the metadata need the source even where no stream does:
    # the question mark lets a stream be missing, and there is none of that number.
    return [*(source[str(plan.stream.index)] for plan in kept), source[f"{len(clip.others) + 1}?"]]


def _mp4_options(clip: ClipInfo, streams: Sequence[StreamPlan], container: Container) -> Options:
    # One clock for track and edit list, so that no timestamp is rounded.
    ticks, common = clip.video.time_base.denominator, _common_clock(clip, streams)
    options: Options = {"video_track_timescale": ticks, "movie_timescale": common}
    return options | ({"movflags": "use_metadata_tags"} if _has_keys_of_its_own(clip, container) else {})


def _has_keys_of_its_own(clip: ClipInfo, container: Container) -> bool:
    """Whether metadata are better written under their own names than in the list that players know.

    That list has no ``com.android.version``; where names are free, a player finds no title, and no cover art.
    """
    every = {*BRANDS, "encoder", "creation_time", "location"}  # which both ways keep, with a language behind or without
    keys = {key for key in clip.metadata if key.partition("-")[0] not in every}
    own = {key for key in keys if "." in key}
    return bool(own) and (container.muxer == "mov" or own == keys)


def _offset(
    clip: ClipInfo, container: Container, streams: Sequence[StreamPlan], cut: Cut, shift: Fraction
) -> Fraction:
    """By how much earlier everything comes than the source's clock says, a part's shift apart.

    They are whole ticks of the video. A container without timestamps has no clock, and players of MP4 and Matroska wait
    for hours where that of a broadcast began long ago.
    """
    begins = earliest_beginning(clip, streams, cut) + shift - cut.shift
    of_sender = clip.format in BROADCASTS and container.muxer not in BROADCASTS and begins > LATE_CLOCK_SECONDS
    if not (container.one_rate or of_sender):
        return Fraction(0)
    return math.floor(begins / clip.video.time_base) * clip.video.time_base


def _common_clock(clip: ClipInfo, streams: Sequence[StreamPlan]) -> int:
    """Ticks in a second at which every stream that is kept can begin; the video's alone where they are too many."""
    rates = [plan.stream.sample_rate for plan in streams if plan.is_read]
    ticks = clip.video.time_base.denominator
    common = math.lcm(ticks, *(rate for rate in rates if rate))
    return common if common < 2**31 else ticks


def _light(encoded: VideoFormat | None) -> dict[str, str]:
    """HDR10's metadata for the container; in the stream they stand already."""
    if encoded is None or not (encoded.mastering_display or encoded.light_levels):
        return {}
    if not has_option("mastering_display"):
        logger.warning("this ffmpeg cannot write HDR10's metadata into the container; the video stream has them.")
        return {}
    display = {"mastering_display:v:0": encoded.mastering_display.text()} if encoded.mastering_display else {}
    return display | ({"content_light:v:0": str(encoded.light_levels)} if encoded.light_levels else {})


def _video_options(video: Path, clip: ClipInfo, container: Container, encoded: VideoFormat | None) -> Options:
    """What the container is told of the new video: its tags, and what players want."""
    if container.muxer == "gif":
        # A palette for each frame. What shows through needs a colour of its own.
        palettes = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:alpha_threshold=128"
        # Whole frames: the encoder compares a frame that has the first one's palette with the frame before, whose
        # palette may be another, and leaves out what has changed in nothing but colour.
        return {"c:0": "gif", "gifflags:0": "-offsetting-transdiff", "filter:0": palettes, "loop": repeats(clip.path),
                "fps_mode:0": "passthrough", "enc_time_base:0": "1/100"}  # fmt: skip
    with av.open(f"file:{video}") as file:  # a name such as a:b is no protocol
        codec = file.streams.video[0].codec_context.codec.canonical_name
    apple = {"tag:0": "hvc1"} if codec == "hevc" and container.muxer in ("mp4", "mov") else {}
    if encoded is None:
        return {**apple}
    tags = encoded.tags
    stated = {
        "color_range:0": tags.range,
        "colorspace:0": tags.matrix if tags.matrix != UNSPECIFIED else 0,
        "color_primaries:0": tags.primaries if tags.primaries != UNSPECIFIED else 0,
        "color_trc:0": tags.transfer if tags.transfer != UNSPECIFIED else 0,
        "chroma_sample_location:0": tags.chroma_location,
    }
    return {**apple, **{name: value for name, value in stated.items() if value}}


def _stream_options(number: int, plan: StreamPlan, container: Container, drop: str) -> Options:
    options: Options = {f"map_metadata:s:{number}": f"1:s:{plan.stream.index}"}
    said = [f"title={plan.stream.title}"] if plan.stream.title else []  # which MP4 calls the name
    if plan.action == "convert":
        options[f"c:{number}"] = plan.codec
    if plan.stream.kind == "attachment" and plan.stream.mimetype is None:
        said.append("mimetype=application/octet-stream")  # Matroska demands one
    if plan.stream.title and container.muxer in ("mp4", "mov"):
        said.append(f"handler_name={plan.stream.title}")  # where players of these look for a title
    if plan.stream.cover_art:
        options[f"disposition:{number}"] = "attached_pic"
    elif drop and plan.stream.kind in ("audio", "subtitle"):
        options[f"bsf:{number}"] = f"noise=drop='{drop}'"
    return options | _metadata(number, said)


def _metadata(number: int, said: Sequence[str]) -> Options:
    """Options that say ``key=value`` of an output stream; zeros before its number make them differ."""
    return {f"metadata:s:{'0' * place}{number}": pair for place, pair in enumerate(said)}


def _disposition(flags: int) -> str:
    return "+".join(flag.name for flag in Disposition if flag & flags and flag.name) or "0"


def _chapters(clip: ClipInfo, cut: Cut) -> str:
    """The chapters of a part, in the format that ffmpeg reads; empty where there are none."""
    lines: list[str] = []
    if clip.pictures:
        return ""
    with open_clip(clip.path) as container:
        for chapter in container.chapters():
            base = fraction_of(chapter["time_base"]) or Fraction(1)
            start, end = (at * base for at in (chapter["start"], chapter["end"]))
            start, end = max(start, cut.start or start), min(end, end if cut.end is None else cut.end)
            if start < end:
                begins, ends = (round((at - cut.shift) * 1000) for at in (start, end))
                lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={begins}", f"END={ends}"]
                lines += [f"{key}={_escaped(readable(value))}" for key, value in chapter["metadata"].items()]
    return "\n".join([";FFMETADATA1", *lines, ""]) if lines else ""


def _escaped(text: str) -> str:
    return re.sub(r"([=;#\\\n])", r"\\\1", text)


@dataclass(frozen=True)
class Part:
    """What an encoder left.

    Attributes:
        path: the file.
        packets: when each is shown and for how long, in the order of decoding.
    """

    path: Path
    packets: Sequence[Timing]


def join(parts: Sequence[Part], target: Path, video: VideoFormat) -> None:
    """Write the packets of all parts behind each other, each at its own time.

    Args:
        parts: at least one, in the order of presentation.
        target: the file to write; its ending says MP4 or QuickTime, as that of the parts.
        video: what all parts were encoded as.

    Raises:
        OutputError: the parts are not alike, or the disk refuses.
    """
    decoded = iter(decoding_times([timing.pts for part in parts for timing in part.packets]))
    try:
        with open(target, "wb") as file, open_clip(parts[0].path) as first:
            muxer = target.suffix.removeprefix(".")
            with av.open(file, "w", format=muxer, container_options=muxer_options(video)) as joined:
                # Opaque: as it was decoded, for there is no encoder of that name.
                stream = joined.add_stream_from_template(first.streams.video[0], opaque=True)
                stream.time_base = video.time_base
                if video.sample_aspect_ratio:
                    stream.codec_context.sample_aspect_ratio = video.sample_aspect_ratio
                if video.display_matrix is not None:
                    stream.set_display_matrix(video.display_matrix)
                for part in parts:
                    _append(part, joined, stream, video.time_base, decoded)
    except (LibavError, OSError) as exc:
        raise OutputError(f"cannot join the encoded parts to {target}: {exc.strerror}.") from exc


def _append(
    part: Part, joined: OutputContainer, stream: VideoStream, time_base: Fraction, decoded: Iterator[int]
) -> None:
    timings = iter(part.packets)
    with open_clip(part.path) as container:
        source = container.streams.video[0]
        if source.codec_context.extradata != stream.codec_context.extradata:
            raise OutputError(
                f"{part.path} was encoded otherwise than the parts before it; run again with --no-resume."
            )
        for packet in container.demux(source):
            if not packet.size:
                continue
            if (timing := next(timings, None)) is None:
                raise OutputError(f"{part.path} holds more than was written to it; run again with --no-resume.")
            packet.stream = stream
            packet.time_base = time_base
            packet.pts, packet.dts, packet.duration = timing.pts, next(decoded), timing.duration
            joined.mux(packet)
    if next(timings, None) is not None:
        raise OutputError(f"{part.path} has lost frames; run again with --no-resume.")


class Count(NamedTuple):
    """Of the packets of a stream that hold something; its kind by libav's name."""

    kind: str
    packets: int
    num_bytes: int


def count_packets(path: Path, cut: Cut = WHOLE) -> list[Count]:
    """Count the packets of every stream of a file.

    Args:
        path: the file.
        cut: the part of it that counts; packets without a timestamp do in any case.

    Raises:
        InputError: it cannot be read.
    """
    with open_clip(path) as container:
        counts = [Count(stream.type, 0, 0) for stream in container.streams]
        # Between two lines of mov_text stands an empty one, which is a length of two bytes.
        least = [2 if _codec_of(stream) == "mov_text" else 0 for stream in container.streams]
        for packet in packets_of(container):
            time_base = fraction_of(packet.time_base)
            wanted = packet.pts is None or time_base is None or cut.holds(packet.pts * time_base)
            if wanted and packet.size > least[packet.stream_index]:
                kind, packets, num_bytes = counts[packet.stream_index]
                counts[packet.stream_index] = Count(kind, packets + 1, num_bytes + packet.size)
        return counts


def _codec_of(stream: Stream) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context else ""


def check_assembled(
    target: Path, clip: ClipInfo, streams: Sequence[StreamPlan], *, num_frames: int, cut: Cut = WHOLE
) -> list[str]:
    """Count what is in an assembled file against what was to be in it.

    Args:
        target: the file.
        clip: the source.
        streams: what was to become of its other streams.
        num_frames: packets of the new video.
        cut: the part of the source that the new video shows.

    Returns:
        what is missing of the other streams, or too much, in words.

    Raises:
        OutputError: the video is not whole.
    """
    kept = [plan for plan in streams if plan.is_read and plan.stream.is_timed]
    video, *others = count_packets(target) or [Count("none", 0, 0)]
    if video.packets != num_frames:
        raise OutputError(f"ffmpeg left {target.name} with {video.packets} of {num_frames} frames, and no word of it.")
    wanted = count_packets(clip.path, cut) if kept else []
    lost, slack = [], int(cut != WHOLE)
    for number, plan in enumerate(kept):
        want, kind = wanted[plan.stream.index], plan.stream.kind
        places = [place for place, count in enumerate(others) if count.kind == kind]
        if not want.packets and len(places) < sum(later.stream.kind == kind for later in kept[number:]):
            continue  # where a part has nothing of a stream, some formats leave it out
        got = others.pop(places[0]) if places else Count(kind, 0, 0)
        if not _arrived(plan, want, got, slack):
            lost.append(f"{plan.stream} arrived with {got.packets} of {want.packets} packets")
    return lost


def _arrived(plan: StreamPlan, want: Count, got: Count, slack: int) -> bool:
    """Whether a stream is whole. Packets at the ends of a part are a matter of rounding."""
    if plan.stream.kind == "subtitle":
        return got.packets >= want.packets - slack
    if plan.action == "convert":
        return bool(got.packets or not want.packets)
    # PCM comes in packets of any size, and AAC with headers or without.
    return abs(got.packets - want.packets) <= slack or got.num_bytes == want.num_bytes


def cues_overlap(path: Path, index: int) -> bool:
    """Whether a line of subtitles begins before the one before it has ended; reads the whole file.

    Args:
        path: the file.
        index: number of the stream.

    Raises:
        InputError: it cannot be read.
    """
    with open_clip(path) as container:
        end = None
        for packet in packets_of(container, container.streams[index]):
            if packet.pts is None or not packet.size:
                continue
            if end is not None and packet.pts < end:
                return True
            end = packet.pts + (packet.duration or 0)
    return False


IGNORED_METADATA = frozenset({*BRANDS, "encoder", "duration", "vendor_id", "handler_name"})
"""Metadata that describe the file as it was, and are no loss."""


def missing_metadata(target: Path, clip: ClipInfo, streams: Sequence[StreamPlan], container: Container) -> list[str]:
    """Look for what the source says of itself in a file that was assembled from it.

    Args:
        target: the file; the beginning will do.
        clip: the source.
        streams: what became of its other streams.
        container: the target's format.

    Returns:
        what is not there, in words; nothing where the file is no whole one.
    """
    try:
        with open_clip(target) as assembled:
            of_streams = [{key.lower() for key in stream.metadata} for stream in assembled.streams]
            told = {readable(key).lower() for key in assembled.metadata}.union(*of_streams)
    except InputError:
        return []
    wanted = [key for key in clip.metadata if key.lower() not in IGNORED_METADATA and not key.startswith("_")]
    keys = [key for key in wanted if key.lower() not in told]
    missing = [f"the metadata {', '.join(keys)}"] if keys else []
    if clip.num_chapters and not container.chapters:
        missing.append("its chapters")
    read = [plan.stream for plan in streams if plan.is_read]
    if len(of_streams) > len(read):
        titled = [(stream, told) for stream, told in zip(read, of_streams[1:], strict=False) if stream.title]
        missing += [f"the title of {stream}" for stream, told in titled if not told & {"title", "name", "handler_name"}]
        spoken = [stream for stream, told in zip(read, of_streams[1:], strict=False) if "language" not in told]
        missing += [f"the language of {stream}" for stream in spoken if stream.language not in (None, "und")]
    return missing
