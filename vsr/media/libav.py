"""Access to PyAV where its majors (17 to 19) differ or hide what libav knows, such as side data and field order."""

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
"""The major version of the installed PyAV."""

CHROMA_LOCATIONS = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")
"""libav's names of the chroma locations, in the order of its numbers."""


def open_input(file: Any, options: dict[str, str]) -> InputContainer:
    """Open a file object for reading, whatever the encoding of its metadata (see ``readable``)."""
    # Old files hold their titles in any encoding; PyAV 19 keeps the bytes as surrogates.
    choices: dict[str, Any] = {} if MAJOR >= 19 else {"metadata_errors": "replace"}
    return cast("InputContainer", av.open(file, "r", options=options, **choices))


def fraction_of(value: Any) -> Fraction | None:
    """Return a time base, a rate or a ratio as a ``Fraction``; None where libav does not know it.

    PyAV 18 and earlier have a ``Fraction`` or None; 19 has an ``AVRational``, which may be 0/1, 0/0 or 1/0.
    """
    return Fraction(int(value.numerator), int(value.denominator)) if value else None


def field_order_of(context: VideoCodecContext) -> int:
    """Return the field order in the header, in libav's numbers: 0 unknown, 1 progressive, else the order of the fields.

    PyAV 17 does not provide it; then only the flag of the first frame is known.
    """
    return int(cast(Any, context).field_order) if MAJOR >= 18 else 0


def crop_exactly(context: VideoCodecContext) -> None:
    """Make a decoder crop exactly; by default it skips a crop that would leave the planes unaligned in memory."""
    context.flags |= Flags.unaligned


def side_data_of(frame: VideoFrame) -> dict[str, bytes]:
    """Return the side data of a frame by libav's names of its types, without types that PyAV has no name for."""
    try:
        return _side_data(frame)
    except ValueError:  # one type is unknown to PyAV, which then returns none
        return _side_data(_without_unknown_side_data(frame))


def _side_data(frame: VideoFrame) -> dict[str, bytes]:
    # Accessed once: each access makes a reference cycle that keeps the frame alive.
    container = cast(Any, frame.side_data)
    entries = container.values() if MAJOR >= 19 else container  # older ones iterate over the values
    return {entry.type.name: bytes(entry) for entry in entries}


NUM_SIDE_DATA_TYPES = 48
"""More than the types of side data in libav; libav 63 has 33."""


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
"""Side data of frames that libav's encoders write into the stream."""

EXTRAS_SIZE = 16

_reformatter = local()


def extras_of(frame: VideoFrame) -> VideoFrame | None:
    """Return a frame of a few pixels with the side data of another; None where no encoder would write any of it."""
    if not hasattr(_reformatter, "of_thread"):
        _reformatter.of_thread = VideoReformatter()
    # PyAV cannot make side data, but its reformatter copies it. Reading it from the large frame would keep that alive.
    small = _reformatter.of_thread.reformat(frame, EXTRAS_SIZE, EXTRAS_SIZE, interpolation="POINT")
    return small if WRITABLE_SIDE_DATA & side_data_of(small).keys() else None


def with_extras(extras: VideoFrame, width: int, height: int, pix_fmt: str) -> VideoFrame:
    """Return a new frame with the side data of ``extras``; the caller fills its pixels."""
    frame = extras.reformat(width, height, pix_fmt, interpolation="POINT")
    frame.pict_type = PictureType.NONE  # else the encoder would be forced to use the source's
    return frame


def readable(text: str) -> str:
    """Replace undecodable bytes in metadata, as PyAV 18 does; PyAV 19 returns surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def chroma_location_of(frame: VideoFrame) -> int:
    """Return the chroma location of a frame, in libav's numbers; 0 where unspecified."""
    if MAJOR >= 19:
        return int(cast(Any, frame).chroma_location)
    return _chroma_location_by_filter(frame)


_LOG_LEVEL = threading.Lock()
"""Held while libav's log level is changed: the level is global, and two threads would restore each other's."""


def _chroma_location_by_filter(frame: VideoFrame) -> int:
    """Read the location from a filter's report; older PyAV has no attribute for it."""
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
        except (LibavError, ValueError) as exc:  # the frame is damaged
            logger.debug("no filter accepts the first frame: %s", exc)
            return 0
        finally:
            av.logging.set_level(level)
    found = re.search(r"\bcl:(\w+)", "".join(text for _, _, text in messages))
    return CHROMA_LOCATIONS.index(found[1]) if found and found[1] in CHROMA_LOCATIONS else 0
