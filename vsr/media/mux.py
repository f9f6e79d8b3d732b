"""The output file: plan the source's other streams, assemble the file, join encoded parts, and check the result."""

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

from vsr.errors import FFmpegError, InputError, OutputError, UsageError, did_you_mean, setting
from vsr.imaging.pictures import repeats
from vsr.media.clip import UNSPECIFIED, WHOLE, ClipInfo, Cut, StreamInfo
from vsr.media.ffmpeg import DiskError, audio_encoders, has_option, run
from vsr.media.formats import TEXT_SUBTITLES, Container, Timing, decoding_times, holds
from vsr.media.libav import fraction_of, readable
from vsr.media.probe import open_clip, packets_of
from vsr.media.provenance import Provenance, key_for
from vsr.media.writer import VideoFormat, clear_between_frames, muxer_options

logger = logging.getLogger(__name__)

BRANDS = ("major_brand", "minor_version", "compatible_brands")
"""Keys under which libav reports the type of an MP4 file as metadata."""

TIMECODE = "timecode"
"""The metadata key from which muxers create a timecode track."""

BROADCASTS, LATE_CLOCK_SECONDS = frozenset({"mpegts", "mpeg", "wtv"}), 10
"""Formats whose clock starts with the sender, and the start time in seconds above which it is not kept."""

LATE_SECONDS = Fraction(1, 20)
"""Seconds by which sound may begin after the picture without added silence: about two audio packets."""

LATE = "silence is added before it"
"""The reason of plans for a container in which all streams begin together."""

AS_REQUESTED = "as requested"
"""The reason of plans that the user chose."""

Options = dict[str, str | int]
"""Options of the ffmpeg program for ffmpeg-python."""


@dataclass(frozen=True)
class StreamPlan:
    """The plan for one of the source's other streams.

    Attributes:
        stream: the stream.
        action: ``copy`` keeps every packet; ``rewrite`` reads none, since the muxer creates the stream anew.
        codec: the encoder for ``convert``; else empty.
        reason: why the stream is not copied, for the user.
        filled: whether silence is added where it begins late or has gaps.
    """

    stream: StreamInfo
    action: Literal["copy", "convert", "rewrite", "drop"]
    codec: str = ""
    reason: str = ""
    filled: bool = False

    @property
    def is_read(self) -> bool:
        """Whether packets of the source's stream are read."""
        return self.action in ("copy", "convert")

    @property
    def is_kept(self) -> bool:
        """Whether the output has the stream's content unchanged."""
        return self.action in ("copy", "rewrite")

    def __str__(self) -> str:
        what = {
            "copy": "copied", "convert": f"converted to {self.codec}", "rewrite": "rewritten", "drop": "left out",
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
    """Plan each of the source's other streams, before any frame is computed.

    The plans follow from what the formats are documented to contain; ``assemble_sample`` tries them with the program.

    Args:
        clip: the source.
        container: the format of the output.
        audio: ``copy``: copied where the container can contain it; ``none``: left out; else the encoder to use.
        subtitles: ``copy``: copied, or converted where the container requires it; ``none``: left out.
        cut: the selected part of the source.

    Raises:
        UsageError: there is no such encoder, or the container cannot contain its format.
    """
    if audio not in ("copy", "none"):
        _check_audio_encoder(audio, container)
    plans = [_plan(stream, container, audio, subtitles) for stream in clip.others]
    rewritten = {"chapters"} if container.chapters else set()
    if TIMECODE in (*clip.metadata, *clip.video.metadata) and container.timecode and cut.start is None:
        rewritten.add("timecode")
    plans = [replace(plan, action="rewrite", reason="") if plan.stream.carries in rewritten else plan for plan in plans]
    return [_with_silence(plan, plans, clip, container, cut) for plan in plans] if container.one_rate else plans


def _with_silence(
    plan: StreamPlan, plans: Sequence[StreamPlan], clip: ClipInfo, container: Container, cut: Cut
) -> StreamPlan:
    """Add silence to the plan of a late audio stream in a container where all streams begin together."""
    begins = _start_of(plan.stream, cut)
    if plan.stream.kind != "audio" or not plan.is_read or not plan.stream.sample_rate or begins is None:
        return plan
    if begins - earliest_beginning(clip, plans, cut) <= LATE_SECONDS:
        return plan
    codec = plan.codec or container.audio
    return replace(plan, action="convert", codec=codec, reason=LATE, filled=True)


def _start_of(stream: StreamInfo, cut: Cut) -> Fraction | None:
    """Return the start of a stream's selected part, in seconds of the source's clock; None where unknown."""
    return stream.start if cut.start is None or stream.start is None else max(stream.start, cut.start)


def earliest_beginning(clip: ClipInfo, plans: Sequence[StreamPlan], cut: Cut) -> Fraction:
    """Return the start of the earliest stream that is kept, in seconds of the source's clock."""
    video = (clip.video.first_pts or 0) * clip.video.time_base
    played = [_start_of(plan.stream, cut) for plan in plans if plan.is_read and plan.stream.is_timed]
    shown = video if cut.start is None else max(video, cut.start)
    return min([shown, *(begins for begins in played if begins is not None)])


def _check_audio_encoder(name: str, container: Container) -> None:
    encoders = audio_encoders()
    if name not in encoders:
        raise UsageError(
            f"ffmpeg has no audio encoder called {name}: use copy, none, aac, libopus or another that "
            f"`ffmpeg -encoders` lists{did_you_mean(name, ('copy', 'none', *encoders))}"
        )
    if not holds(container, encoders[name]):
        fitting = container.audio or "none"
        raise UsageError(f"{container.muxer} cannot hold {encoders[name]} audio; use {fitting}.")


def _plan(stream: StreamInfo, container: Container, audio: str, subtitles: str) -> StreamPlan:
    held = holds(container, stream.codec)
    cannot = f"{container.muxer} cannot hold {stream.codec or 'it'}"
    match stream.kind:
        case "audio" if audio == "none":
            return StreamPlan(stream, "drop", reason=AS_REQUESTED)
        case "audio" if not stream.codec:
            return StreamPlan(stream, "drop", reason="it cannot be decoded")
        case "audio" if audio != "copy":
            return StreamPlan(stream, "convert", audio, AS_REQUESTED)
        case "audio" if held:
            return StreamPlan(stream, "copy")
        case "audio" if container.audio:
            return StreamPlan(stream, "convert", container.audio, cannot)
        case "subtitle" if subtitles == "none":
            return StreamPlan(stream, "drop", reason=AS_REQUESTED)
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
    made: Provenance | None = None,
) -> None:
    """Join the encoded video with the planned streams of the source, its metadata and chapters.

    Packets are copied with their own timestamps, so that sound and picture stay in sync.

    Args:
        video: file with the new video stream, with the source's timestamps.
        clip: the source.
        streams: the plans for the source's other streams.
        target: the file to write; an existing one is replaced.
        container: the target's format.
        encoded: the format of the new video, for tags and HDR10 metadata; None uses what its file contains.
        cut: the part of the source that the new video shows.
        last: times of the packet of the new video that is shown last, whose duration its file does not keep where
            packets are reordered. None uses the duration in the file.
        sample_seconds: seconds of the source to read from its beginning; None reads all.
        made: how the new video was made, for the metadata.

    Raises:
        DiskError: the disk is full or read-only.
        FFmpegError: the program failed.
        OutputError: the program wrote no file.
    """
    new = ffmpeg.input(f"file:{video}", **_hdr_options(encoded))
    options: Options = {
        "c": "copy",
        "disposition:0": _disposition(clip.video.disposition),
        "f": container.muxer,
        **dict(container.options),
        **_video_options(video, clip, container, encoded),
    }
    if container.muxer in ("mp4", "mov"):
        options |= _mp4_options(clip, streams, container)
    if made is not None and (key := key_for(clip, container, free="movflags" in options)):
        options[f"metadata:g:{len(BRANDS)}"] = f"{key}={made}"
    if last is not None and last.duration and container.muxer != "gif":
        options["bsf:0"] = f"setts=pts=PTS:dts=DTS:duration='if(eq(PTS,{last.pts}),{last.duration},DURATION)'"
    if container.one_rate and clip.video.average_rate:
        options["r:0"] = str(clip.video.average_rate)  # else it writes 600 frames a second, nearly all of them repeats
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
        raise OutputError(f"ffmpeg wrote no file {target}.")
    if container.muxer == "gif":
        try:
            clear_between_frames(target)
        except OSError as exc:
            raise OutputError(f"cannot write {target}: {exc.strerror}.") from exc


SAMPLE_SECONDS = 0.5
"""Seconds of the source with which the assembly is tried."""

NO_PACKETS = "received no packets"
"""The program's message where a converted stream begins after the end of the sample."""


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
    """Try the assembly with the beginning of the source, before any frame is computed.

    Args:
        video: a file with one or two frames, encoded as the new video will be.
        target: a file to write; the caller removes it.
        clip, streams, container, encoded, cut: as for ``assemble``.

    Returns:
        The plans, in which streams that the program cannot write are converted or left out.

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
    """Write an output; where that fails, find the streams that cause the failure, and write it without them.

    Args:
        streams: the plans for the source's other streams.
        container: the format of the output.
        attempt: writes the output with some of the streams.

    Returns:
        The plans that were carried out, in which failing streams are converted or left out.

    Raises:
        FFmpegError: the streams are not the cause.
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
    """Return the plan if it works for the stream alone; else another that does."""
    reason = ""
    for candidate in [plan, *_conversions(plan, container)]:
        try:
            attempt([candidate])
            return candidate
        except DiskError:
            raise
        except FFmpegError as exc:
            reason = reason or _first_message(exc)
    return replace(plan, action="drop", codec="", reason=f"ffmpeg: {reason}")


def _first_message(error: FFmpegError) -> str:
    """Return the first message of the program, without the names of its components."""
    message = str(error).partition(": ")[2].partition("; ")[0]
    return re.sub(r"^(\[[^]]*\] )+", "", message)


def _conversions(plan: StreamPlan, container: Container) -> list[StreamPlan]:
    """Return plans that convert a stream that cannot be copied."""
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
    """Return the streams to read from the source, and add their options to ``options``."""
    demuxer = {"f": clip.format.split(",")[0]} if clip.format else {}  # as probed, never a list of files
    later = {"itsoffset": f"{float(shift):.6f}"} if shift else {}
    sample = {} if sample_seconds is None else {"t": sample_seconds}
    source = ffmpeg.input(f"file:{clip.path}", protocol_whitelist="file", **demuxer, **later, **sample)
    # One such option turns off ffmpeg's default mapping of metadata, so each stream gets its own option.
    options |= {"map_metadata": 1, "map_metadata:s:0": f"1:s:{clip.video.index}"}
    pairs = ["encoder="]  # the source's encoder is not that of the new video
    if cut.start is not None:
        pairs.append(f"{TIMECODE}=")  # it belongs to the source's first frame
        options["metadata"] = f"{TIMECODE}="
    options |= _metadata(0, pairs)
    # These keys describe the source file. The number only makes the options differ.
    options |= {f"metadata:g:{number}": f"{key}=" for number, key in enumerate(BRANDS) if key in clip.metadata}
    options["map_chapters"] = 1 if container.chapters else -1
    kept = [plan for plan in streams if plan.is_read]
    for number, plan in enumerate(kept, start=1):  # output stream 0 is the video
        options |= _stream_options(number, plan, container, cut.drop_expression(shift))
        if plan.filled and plan.stream.sample_rate:
            begins = earliest_beginning(clip, streams, cut) + shift
            first = round(begins * plan.stream.sample_rate)
            options[f"filter:{number}"] = f"aresample=async=1:min_hard_comp=0.01:first_pts={first}"
    # ffmpeg-python passes on only mapped inputs, and the metadata needs the source even where no stream does: the
    # question mark allows a stream to be missing, and no stream has this number.
    return [*(source[str(plan.stream.index)] for plan in kept), source[f"{len(clip.others) + 1}?"]]


def _mp4_options(clip: ClipInfo, streams: Sequence[StreamPlan], container: Container) -> Options:
    # One clock for track and edit list, so that no timestamp is rounded.
    ticks, common = clip.video.time_base.denominator, _common_clock(clip, streams)
    options: Options = {"video_track_timescale": ticks, "movie_timescale": common}
    return options | ({"movflags": "use_metadata_tags"} if _has_custom_keys(clip, container) else {})


def _has_custom_keys(clip: ClipInfo, container: Container) -> bool:
    """Whether metadata is better written under its own keys than under the standard ones.

    The standard keys have no ``com.android.version``; with free keys a player finds no title and no cover art.
    """
    every = {*BRANDS, "encoder", "creation_time", "location"}  # kept in both cases
    keys = {key for key in clip.metadata if key.partition("-")[0] not in every}
    own = {key for key in keys if "." in key}
    return bool(own) and (container.muxer == "mov" or own == keys)


def _offset(
    clip: ClipInfo, container: Container, streams: Sequence[StreamPlan], cut: Cut, shift: Fraction
) -> Fraction:
    """Return the seconds by which all timestamps are earlier than on the source's clock, without a part's shift.

    They are whole ticks of the video. A container without timestamps begins at zero, and players of MP4 and Matroska
    would wait for hours where the clock of a broadcast started long ago.
    """
    begins = earliest_beginning(clip, streams, cut) + shift - cut.shift
    of_sender = clip.format in BROADCASTS and container.muxer not in BROADCASTS and begins > LATE_CLOCK_SECONDS
    if not (container.one_rate or of_sender):
        return Fraction(0)
    return math.floor(begins / clip.video.time_base) * clip.video.time_base


def _common_clock(clip: ClipInfo, streams: Sequence[StreamPlan]) -> int:
    """Return ticks per second at which every kept stream can begin; only the video's where there are too many."""
    rates = [plan.stream.sample_rate for plan in streams if plan.is_read]
    ticks = clip.video.time_base.denominator
    common = math.lcm(ticks, *(rate for rate in rates if rate))
    return common if common < 2**31 else ticks


def _hdr_options(encoded: VideoFormat | None) -> dict[str, str]:
    """Return the options for HDR10 metadata in the container; the video stream contains it already."""
    if encoded is None or not (encoded.mastering_display or encoded.light_levels):
        return {}
    if not has_option("mastering_display"):
        logger.warning("this ffmpeg cannot write HDR10 metadata into the container; only the video stream contains it.")
        return {}
    display = {"mastering_display:v:0": encoded.mastering_display.text()} if encoded.mastering_display else {}
    return display | ({"content_light:v:0": str(encoded.light_levels)} if encoded.light_levels else {})


def _video_options(video: Path, clip: ClipInfo, container: Container, encoded: VideoFormat | None) -> Options:
    """Return the options for the new video stream: its tags, and what players need."""
    if container.muxer == "gif":
        # A palette for each frame. Transparent pixels need a colour of their own.
        palettes = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:alpha_threshold=128"
        # Whole frames: the encoder compares palette indices of a frame with those of the frame before, whose palette
        # may differ, and would leave out pixels that change only in colour.
        return {"c:0": "gif", "gifflags:0": "-offsetting-transdiff", "filter:0": palettes, "loop": repeats(clip.path),
                "fps_mode:0": "passthrough", "enc_time_base:0": "1/100"}  # fmt: skip
    with av.open(f"file:{video}") as file:  # else a name such as a:b would be a protocol
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
    pairs = [f"title={plan.stream.title}"] if plan.stream.title else []  # called name in MP4
    if plan.action == "convert":
        options[f"c:{number}"] = plan.codec
    if plan.stream.kind == "attachment" and plan.stream.mimetype is None:
        pairs.append("mimetype=application/octet-stream")  # Matroska requires one
    if plan.stream.title and container.muxer in ("mp4", "mov"):
        pairs.append(f"handler_name={plan.stream.title}")  # players look for the title here
    if plan.stream.cover_art:
        options[f"disposition:{number}"] = "attached_pic"
    elif drop and plan.stream.kind in ("audio", "subtitle"):
        options[f"bsf:{number}"] = f"noise=drop='{drop}'"
    return options | _metadata(number, pairs)


def _metadata(number: int, pairs: Sequence[str]) -> Options:
    """Return options that set ``key=value`` pairs of an output stream; leading zeros make the options differ."""
    return {f"metadata:s:{'0' * place}{number}": pair for place, pair in enumerate(pairs)}


def _disposition(flags: int) -> str:
    return "+".join(flag.name for flag in Disposition if flag & flags and flag.name) or "0"


def _chapters(clip: ClipInfo, cut: Cut) -> str:
    """Return the chapters of a part as an ffmetadata file; empty where there are none."""
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
    """An encoded part of the video.

    Attributes:
        path: the file.
        packets: the times of its packets, in the order of decoding.
    """

    path: Path
    packets: Sequence[Timing]


def join(parts: Sequence[Part], target: Path, video: VideoFormat) -> None:
    """Write the packets of all parts into one file, each at its own time.

    Args:
        parts: at least one, in the order of presentation.
        target: the file to write, MP4 or QuickTime by its suffix, as the parts.
        video: the format of all parts.

    Raises:
        OutputError: the parts differ in format, have too few or too many packets, or the file cannot be written.
    """
    decoded = iter(decoding_times([timing.pts for part in parts for timing in part.packets]))
    try:
        with open(target, "wb") as file, open_clip(parts[0].path) as first:
            muxer = target.suffix.removeprefix(".")
            with av.open(file, "w", format=muxer, container_options=muxer_options(video)) as joined:
                # Opaque: the template's codec may be a decoder without an encoder of that name.
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


def _again() -> str:
    return f"run again with {setting('resume', False)}"


def _append(
    part: Part, joined: OutputContainer, stream: VideoStream, time_base: Fraction, decoded: Iterator[int]
) -> None:
    timings = iter(part.packets)
    with open_clip(part.path) as container:
        source = container.streams.video[0]
        if source.codec_context.extradata != stream.codec_context.extradata:
            raise OutputError(
                f"{part.path} was encoded differently from the parts before it; {_again()}."
            )
        for packet in container.demux(source):
            if not packet.size:
                continue
            if (timing := next(timings, None)) is None:
                raise OutputError(f"{part.path} contains more than was written to it; {_again()}.")
            packet.stream = stream
            packet.time_base = time_base
            packet.pts, packet.dts, packet.duration = timing.pts, next(decoded), timing.duration
            joined.mux(packet)
    if next(timings, None) is not None:
        raise OutputError(f"{part.path} has lost frames; {_again()}.")


class Count(NamedTuple):
    """The packets of a stream that are not empty; the kind is libav's name of the media type."""

    kind: str
    packets: int
    num_bytes: int


def count_packets(path: Path, cut: Cut = WHOLE) -> list[Count]:
    """Count the packets of every stream of a file.

    Args:
        path: the file.
        cut: the part in which packets count; packets without a timestamp always count.

    Raises:
        InputError: the file cannot be read.
    """
    with open_clip(path) as container:
        counts = [Count(stream.type, 0, 0) for stream in container.streams]
        # mov_text has an empty packet between two subtitles: a length of two bytes.
        least = [2 if _codec_of(stream) == "mov_text" else 0 for stream in container.streams]
        for packet in packets_of(container):
            time_base = fraction_of(packet.time_base)
            wanted = packet.pts is None or time_base is None or cut.contains(packet.pts * time_base)
            if wanted and packet.size > least[packet.stream_index]:
                kind, packets, num_bytes = counts[packet.stream_index]
                counts[packet.stream_index] = Count(kind, packets + 1, num_bytes + packet.size)
        return counts


def _codec_of(stream: Stream) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context else ""


def check_assembled(
    target: Path, clip: ClipInfo, streams: Sequence[StreamPlan], *, num_frames: int, cut: Cut = WHOLE
) -> list[str]:
    """Compare the packets in an assembled file with those expected.

    Args:
        target: the file.
        clip: the source.
        streams: the plans for the source's other streams.
        num_frames: packets of the new video.
        cut: the part of the source that the new video shows.

    Returns:
        One text for each other stream with missing or extra packets.

    Raises:
        OutputError: the video is incomplete.
    """
    kept = [plan for plan in streams if plan.is_read and plan.stream.is_timed]
    video, *others = count_packets(target) or [Count("none", 0, 0)]
    if video.packets != num_frames:
        raise OutputError(f"ffmpeg wrote {video.packets} of {num_frames} frames to {target.name} without an error.")
    wanted = count_packets(clip.path, cut) if kept else []
    lost, slack = [], int(cut != WHOLE)
    for number, plan in enumerate(kept):
        want, kind = wanted[plan.stream.index], plan.stream.kind
        places = [place for place, count in enumerate(others) if count.kind == kind]
        if not want.packets and len(places) < sum(later.stream.kind == kind for later in kept[number:]):
            continue  # some formats omit a stream that has no packets in the part
        got = others.pop(places[0]) if places else Count(kind, 0, 0)
        if not _is_complete(plan, want, got, slack):
            lost.append(f"{plan.stream} arrived with {got.packets} of {want.packets} packets")
    return lost


def _is_complete(plan: StreamPlan, want: Count, got: Count, slack: int) -> bool:
    """Whether a stream is complete, but for ``slack`` packets at the ends of a part, which depend on rounding."""
    if plan.stream.kind == "subtitle":
        return got.packets >= want.packets - slack
    if plan.action == "convert":
        return bool(got.packets or not want.packets)
    # PCM comes in packets of any size, and AAC with headers or without.
    return abs(got.packets - want.packets) <= slack or got.num_bytes == want.num_bytes


def cues_overlap(path: Path, index: int) -> bool:
    """Whether a subtitle begins before the previous one has ended; reads the whole file.

    Args:
        path: the file.
        index: index of the stream.

    Raises:
        InputError: the file cannot be read.
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
"""Metadata that describes the source file itself; its absence is not reported."""


def missing_metadata(target: Path, clip: ClipInfo, streams: Sequence[StreamPlan], container: Container) -> list[str]:
    """Return the metadata of the source that an assembled file lacks.

    Args:
        target: the file; its beginning is enough.
        clip: the source.
        streams: the plans for the source's other streams.
        container: the target's format.

    Returns:
        One text for each loss; none where the file cannot be read.
    """
    try:
        with open_clip(target) as assembled:
            of_streams = [{key.lower() for key in stream.metadata} for stream in assembled.streams]
            written = {readable(key).lower() for key in assembled.metadata}.union(*of_streams)
    except InputError:
        return []
    wanted = [key for key in clip.metadata if key.lower() not in IGNORED_METADATA and not key.startswith("_")]
    keys = [key for key in wanted if key.lower() not in written]
    missing = [f"the metadata {', '.join(keys)}"] if keys else []
    if clip.num_chapters and not container.chapters:
        missing.append("its chapters")
    read = [plan.stream for plan in streams if plan.is_read]
    if len(of_streams) > len(read):
        pairs = list(zip(read, of_streams[1:], strict=False))
        titled = [(stream, found) for stream, found in pairs if stream.title]
        missing += [f"the title of {stream}" for stream, keys in titled if not {"title", "name", "handler_name"} & keys]
        unspoken = [stream for stream, found in pairs if "language" not in found]
        missing += [f"the language of {stream}" for stream in unspoken if stream.language not in (None, "und")]
    return missing
