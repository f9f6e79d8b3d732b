"""Interlaced frames -> progressive ones."""

from __future__ import annotations

from collections.abc import Iterator

import av
from av import VideoFrame
from av.filter import Graph
from av.video.stream import VideoStream

from vsr.media.libav import fraction_of


class Deinterlacer:
    """Fields -> frames, by libav's bwdif (the BBC's W3FDIF with the edges of YADIF): one for each, at its own time.

    Args:
        stream: where the frames come from.
        all_frames: take each for interlaced, not only those that are flagged so.
    """

    def __init__(self, stream: VideoStream, *, all_frames: bool = False) -> None:
        time_base = fraction_of(stream.time_base)
        assert time_base is not None
        self._time_base = time_base
        self._all = all_frames
        self._graph: Graph | None = None
        self._shape = (0, 0, "")

    def apply(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """As many frames as come in; progressive ones are unchanged."""
        for frame in frames:
            if self._graph is not None and self._shape != _shape(frame):  # which the filter does not take half-way
                yield from self._drain()
            if self._graph is None and (self._all or frame.interlaced_frame):
                self._graph = self._build(frame)
            if self._graph is None:
                yield frame
                continue
            self._graph.push(frame)
            yield from self._pull()
        if self._graph is not None:
            yield from self._drain()

    def _drain(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        self._graph.push(None)
        yield from self._pull()
        self._graph = None

    def _build(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=self._time_base
        )
        which = "all" if self._all else "interlaced"
        filtered, sink = graph.add("bwdif", f"mode=send_frame:deint={which}"), graph.add("buffersink")
        source.link_to(filtered)
        filtered.link_to(sink)
        graph.configure()
        self._shape = _shape(frame)
        return graph

    def _pull(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, EOFError):
                return
            assert isinstance(frame, VideoFrame)
            # The filter's clock ticks twice as fast, for the frames of two fields that are not asked for.
            if frame.pts is not None and (time_base := fraction_of(frame.time_base)):
                ticks = time_base / self._time_base
                frame.pts, frame.duration = round(frame.pts * ticks), round((frame.duration or 0) * ticks)
                frame.time_base = self._time_base
            yield frame


def _shape(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
