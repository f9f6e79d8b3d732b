"""A pass over the packets of a video, without decoding: every timestamp, every keyframe, the exact number of frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.stream import VideoStream

from vsr.media.clip import VideoInfo
from vsr.media.limits import MAX_PIXELS
from vsr.media.probe import open_clip, packets_of
from vsr.media.reader import WITHOUT_PTS

H264_IDR = 5
"""The type of a slice across which nothing looks back; other keyframes of H.264 may only begin a gradual refresh."""

Timestamps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PacketIndex:
    """What the packets of a video stream tell.

    Attributes:
        timestamps: of the frames in ticks, sorted; empty where they cannot be told from the packets.
        keyframes: of the frames at which decoding can begin, sorted: all that is shown from there on comes out as in a
            run from the beginning.
        num_frames: how many frames there are; of a video without timestamps, how many packets.
        num_bytes: of the packets in all.
        digest: of every packet.
    """

    timestamps: Timestamps
    keyframes: Timestamps
    num_frames: int
    num_bytes: int
    digest: str

    def between(self, start: int | None, end: int | None) -> Timestamps:
        """The timestamps from ``start`` on and before ``end``."""
        bounds = [None if at is None else int(np.searchsorted(self.timestamps, at)) for at in (start, end)]
        return self.timestamps[slice(*bounds)]

    def entry(self, timestamp: int) -> int:
        """The last keyframe at or before a timestamp; where there is none, the beginning."""
        place = int(np.searchsorted(self.keyframes, timestamp, side="right"))
        return int(self.keyframes[place - 1] if place else self.timestamps[0])


def index_packets(path: Path, video: VideoInfo, *, max_pixels: int = MAX_PIXELS) -> PacketIndex:
    """Read every packet of a stream once; takes what reading the file takes.

    Raises:
        InputError: the file cannot be read.
    """
    stamps: list[int] = []
    keyframes: list[int] = []
    num_frames = num_bytes = 0
    digest = hashlib.blake2b(digest_size=16)
    with open_clip(path, max_pixels) as container:
        stream = container.streams[video.index]
        assert isinstance(stream, VideoStream)
        told = container.format.name not in WITHOUT_PTS
        for packet in packets_of(container, stream):
            if not packet.size:
                continue
            digest.update(packet)
            num_bytes += packet.size
            if packet.is_discard or _is_hidden(packet, video.codec):
                continue
            num_frames += 1
            if packet.pts is None:
                told = False
                continue
            stamps.append(packet.pts)
            if packet.is_keyframe and (video.codec != "h264" or H264_IDR in _nal_types(packet, stream)):
                keyframes.append(packet.pts)
    timestamps = np.sort(np.array(stamps, np.int64))
    if not told or (np.diff(timestamps) <= 0).any():
        timestamps = np.array([], np.int64)
    return PacketIndex(timestamps, np.unique(np.array(keyframes, np.int64)), num_frames, num_bytes, digest.hexdigest())


def _is_hidden(packet: Packet[Any], codec: str) -> bool:
    """Whether a packet holds only a frame to refer to; in VP8 that is a packet of its own (RFC 6386, 9.1)."""
    return codec == "vp8" and not memoryview(packet)[0] >> 4 & 1


def _nal_types(packet: Packet[Any], stream: VideoStream) -> Iterator[int]:
    """The types of the units in a packet of H.264 (ISO/IEC 14496-15 where lengths stand before them, else Annex B)."""
    data, extradata = bytes(packet), stream.codec_context.extradata or b""
    if extradata[:1] == b"\1" and len(extradata) > 4:
        size, at = (extradata[4] & 3) + 1, 0
        while at + size < len(data):
            yield data[at + size] & 31
            at += size + int.from_bytes(data[at : at + size], "big")
    else:
        at = data.find(b"\0\0\1")
        while 0 <= at < len(data) - 3:
            yield data[at + 3] & 31
            at = data.find(b"\0\0\1", at + 3)
