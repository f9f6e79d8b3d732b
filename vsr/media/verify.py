"""What an assembled file holds, against what was to be in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from av.stream import Stream

from vsr.errors import InputError, OutputError
from vsr.media.assemble import BRANDS, StreamPlan
from vsr.media.clip import WHOLE, ClipInfo, Cut
from vsr.media.containers import Container
from vsr.media.libav import fraction_of, readable
from vsr.media.probe import open_clip, packets_of


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


NOT_TOLD = frozenset({*BRANDS, "encoder", "duration", "vendor_id", "handler_name"})
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
    wanted = [key for key in clip.metadata if key.lower() not in NOT_TOLD and not key.startswith("_")]
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
