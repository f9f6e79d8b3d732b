"""What PyAV calls differently in two of its majors (17 to 19), or hides, in one place."""

from __future__ import annotations

import logging
import re
import threading
from fractions import Fraction
from threading import local
from typing import Any, cast

import av
from av import VideoFrame
from av.codec.context import Flags
from av.container import InputContainer
from av.error import FFmpegError as LibavError
from av.filter import Graph
from av.sidedata.sidedata import Type as SideDataType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

logger = logging.getLogger(__name__)

MAJOR = int(av.__version__.partition(".")[0])
"""Of the PyAV that is installed."""

CHROMA_LOCATIONS = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")
"""By libav's numbers."""


def open_input(file: Any, options: dict[str, str]) -> InputContainer:
    """Open a file object for reading, whatever the encoding of its metadata (see ``readable``)."""
    # Old files hold their titles in any encoding; PyAV 19 keeps the bytes as surrogates.
    choices: dict[str, Any] = {} if MAJOR >= 19 else {"metadata_errors": "replace"}
    return cast("InputContainer", av.open(file, "r", options=options, **choices))


def fraction_of(value: Any) -> Fraction | None:
    """A time base, a rate or a ratio as a ``Fraction``; None where libav does not state one.

    PyAV 18 and earlier have a ``Fraction`` or None; 19 has an ``AVRational``, which may be 0/1, 0/0 or 1/0.
    """
    return Fraction(int(value.numerator), int(value.denominator)) if value else None


def field_order_of(context: VideoCodecContext) -> int:
    """What the header says of interlacing, in libav's numbers: 0 unknown, 1 progressive, else the order of the fields.

    PyAV 17 does not tell; what the first frame says of itself is all there is then.
    """
    return int(cast(Any, context).field_order) if MAJOR >= 18 else 0


def crop_exactly(context: VideoCodecContext) -> None:
    """Have a decoder crop as the stream says; by itself it leaves what would lie at odd addresses of the memory."""
    context.flags |= Flags.unaligned


def side_data_of(frame: VideoFrame) -> dict[str, bytes]:
    """What a frame carries beside its pixels, by libav's names of the types; not what PyAV has no name for."""
    try:
        return _side_data(frame)
    except ValueError:  # one of its types is unknown, and PyAV tells of none
        return _side_data(_without_unknown_side_data(frame))


def _side_data(frame: VideoFrame) -> dict[str, bytes]:
    # Asked for once: each call makes a cycle that keeps the frame.
    container = cast(Any, frame.side_data)
    entries = container.values() if MAJOR >= 19 else container  # which iterated over its values
    return {entry.type.name: bytes(entry) for entry in entries}


NUM_SIDE_DATA_TYPES = 48
"""libav 63 has 33."""


def _without_unknown_side_data(frame: VideoFrame) -> VideoFrame:
    known = {int(cast(Any, kind).value) for kind in SideDataType}
    graph = Graph()
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    for number in range(NUM_SIDE_DATA_TYPES):
        if number not in known:
            following = graph.add("sidedata", f"mode=delete:type={number}")
            last.link_to(following)
            last = following
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    graph.push(frame)
    return cast(VideoFrame, graph.pull())


WRITABLE_SIDE_DATA = frozenset({"A53_CC", "STEREO3D"})
"""What encoders of libav write into the stream, if a frame carries it."""

EXTRAS_SIZE = 16

_reformatter = local()


def extras_of(frame: VideoFrame) -> VideoFrame | None:
    """A frame of a few pixels with the side data of another; None where no encoder would write any of them."""
    if not hasattr(_reformatter, "of_thread"):
        _reformatter.of_thread = VideoReformatter()
    # PyAV cannot make side data, but its reformatter copies them. The large frame would be kept by asking it.
    small = _reformatter.of_thread.reformat(frame, EXTRAS_SIZE, EXTRAS_SIZE, interpolation="POINT")
    return small if WRITABLE_SIDE_DATA & side_data_of(small).keys() else None


def with_extras(extras: VideoFrame, width: int, height: int, pix_fmt: str) -> VideoFrame:
    """A new frame with the side data of ``extras``, whose pixels are to be filled."""
    frame = extras.reformat(width, height, pix_fmt, interpolation="POINT")
    frame.pict_type = PictureType.NONE  # that of the source would be forced upon the encoder
    return frame


def readable(text: str) -> str:
    """Metadata in an unknown encoding, with replacement characters, as PyAV 18 gives it; 19 has surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def chroma_location_of(frame: VideoFrame) -> int:
    """Where a frame says that its chroma lies, in libav's numbers; 0 where it does not say."""
    if MAJOR >= 19:
        return int(cast(Any, frame).chroma_location)
    return _chroma_location_by_filter(frame)


_LOG_LEVEL = threading.Lock()
"""Held while libav's is changed: it is the whole process's, and two threads would set back each other's."""


def _chroma_location_by_filter(frame: VideoFrame) -> int:
    """Read the location from a filter's report, for want of an attribute."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    report, sink = graph.add("showinfo"), graph.add("buffersink")
    source.link_to(report)
    report.link_to(sink)
    with _LOG_LEVEL:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            graph.configure()
            with av.logging.Capture() as messages:
                graph.push(frame)
                graph.pull()
        except (LibavError, ValueError) as exc:  # of a damaged frame
            logger.debug("no filter takes the first frame: %s", exc)
            return 0
        finally:
            av.logging.set_level(level)
    found = re.search(r"\bcl:(\w+)", "".join(text for _, _, text in messages))
    return CHROMA_LOCATIONS.index(found[1]) if found and found[1] in CHROMA_LOCATIONS else 0
