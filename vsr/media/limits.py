"""What a file may ask of the machine. Imports no libav, so that options can name it."""

from __future__ import annotations

import mmap

from vsr.errors import is_out_of_memory

MAX_PIXELS = 100_000_000
"""Of a frame, unless the user says otherwise: three times those of 8K."""

MAX_SIDE = 1 << 20
"""Rows or columns of a picture, in and out: OpenCV reads no more, and nothing that people look at has them."""

ROOM_FRAMES, BYTES_PER_PIXEL = 32, 2
"""What a codec takes at the least, as a round figure: x264, which looks ahead, took 40 frames and more."""


def has_room(width: int, height: int) -> bool:
    """Whether memory for some frames is to be had.

    Of x264 and its kin libav only learns that they failed, and a damaged packet may ask for more than any machine has:
    neither says of itself whether memory ran out.
    """
    try:
        mmap.mmap(-1, ROOM_FRAMES * BYTES_PER_PIXEL * width * height).close()
    except OSError as exc:
        return not is_out_of_memory(exc)
    return True
