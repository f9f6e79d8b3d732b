"""What libav's encoder of GIFs leaves wrong, set right in the file that it wrote."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

EXTENSION, CONTROL, END = 0x21, 0xF9, 0x3B
"""Of GIF89a: what blocks begin with."""

DISPOSAL, CLEAR, TRANSPARENT = 0x1C, 2 << 2, 0x01
"""Flags of a graphic control: what becomes of a frame when its time is over, that it is cleared, and that one of the
colours is transparent."""

PALETTE = 0x80
"""Flag of a picture, and of the whole: a palette follows."""

LAST_COLOUR = 255
"""Of the palette that all frames share; what the filter palettegen keeps for transparent pixels."""


def clear_between_frames(path: Path) -> None:
    """Clear every frame of a GIF before the next is drawn, if any frame is cleared.

    The encoder clears those alone in which it finds a transparent pixel: what an opaque one showed would stay under the
    transparent pixels of the next. Nor does it say of opaque ones which colour is transparent, without which Pillow and
    libav clear to the colour of the background.

    Args:
        path: a GIF whose frames are all as large as the whole, and whose shared palette is one of palettegen's; it is
            changed in place.

    Raises:
        OSError: it cannot be read or written.
    """
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        frames = list(_frames(content))
        if not any(content[control] & DISPOSAL == CLEAR for control, _ in frames):
            return
        for control, picture in frames:
            content[control] = content[control] & ~DISPOSAL | CLEAR
            if not content[control] & TRANSPARENT and not content[picture] & PALETTE:
                content[control] |= TRANSPARENT
                content[control + 3] = LAST_COLOUR


def _frames(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where the flags of each frame's graphic control and of its picture stand."""
    control, at = 0, 13 + _palette_bytes(content[10])
    while content[at] != END:
        if content[at] == EXTENSION:
            control = at + 3 if content[at + 1] == CONTROL else control
            at = _after_sub_blocks(content, at + 2)
        else:  # a picture: its place, its flags, perhaps a palette, and the size of the first code
            yield control, at + 9
            at = _after_sub_blocks(content, at + 11 + _palette_bytes(content[at + 9]))


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & PALETTE else 0


def _after_sub_blocks(content: mmap.mmap, at: int) -> int:
    while length := content[at]:
        at += 1 + length
    return at + 1
