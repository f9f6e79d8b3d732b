"""What PyAV calls differently in two of its majors (17 to 19), in one place."""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from typing import Any, cast

import av
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError as LibavError
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext

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


def side_data_of(frame: VideoFrame) -> dict[str, bytes]:
    """What a frame carries beside its pixels, by libav's names of the types."""
    # Asked for once: each call makes a cycle that keeps the frame.
    container = cast(Any, frame.side_data)
    entries = container.values() if MAJOR >= 19 else container  # which iterated over its values
    return {entry.type.name: bytes(entry) for entry in entries}


def readable(text: str) -> str:
    """Metadata in an unknown encoding, with replacement characters, as PyAV 18 gives it; 19 has surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def chroma_location_of(frame: VideoFrame) -> int:
    """Where a frame says that its chroma lies, in libav's numbers; 0 where it does not say."""
    if MAJOR >= 19:
        return int(cast(Any, frame).chroma_location)
    return _chroma_location_by_filter(frame)


def _chroma_location_by_filter(frame: VideoFrame) -> int:
    """Read the location from a filter's report, for want of an attribute."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    report, sink = graph.add("showinfo"), graph.add("buffersink")
    source.link_to(report)
    report.link_to(sink)
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
