"""Damage to the bytes of a file, by kind and seed, as caused by disks, cables, interrupted copies and attackers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

HEADER = 4096
"""Bytes at either end of a file that contain headers."""


def flip_few(content: bytearray, random: Random) -> None:
    """Flip one to eight bits."""
    for _ in range(random.randint(1, 8)):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def flip_many(content: bytearray, random: Random) -> None:
    """Flip a bit in one of a thousand to one of fifty bytes."""
    for _ in range(max(1, round(len(content) * random.uniform(0.001, 0.02)))):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def truncate(content: bytearray, random: Random) -> None:
    """Cut off the end."""
    del content[random.randrange(1, len(content)) :]


def cut_middle(content: bytearray, random: Random) -> None:
    """Remove a block."""
    start, length = _block(content, random)
    del content[start : start + length]


def swap_blocks(content: bytearray, random: Random) -> None:
    """Swap two blocks of the same length that do not overlap."""
    length = random.randint(1, len(content) // 4)
    first, second = sorted(random.sample(range(len(content) // length), 2))
    one, two = slice(first * length, (first + 1) * length), slice(second * length, (second + 1) * length)
    content[one], content[two] = content[two], content[one]


def duplicate_block(content: bytearray, random: Random) -> None:
    """Duplicate a block."""
    start, length = _block(content, random)
    content[start:start] = content[start : start + length]


def zero_block(content: bytearray, random: Random) -> None:
    """Zero a block, as a failing disk does."""
    start, length = _block(content, random)
    content[start : start + length] = bytes(length)


def random_header(content: bytearray, random: Random) -> None:
    """Replace up to 64 bytes of a header by random ones."""
    first, last = _header(content, random)
    for _ in range(random.randint(1, 64)):
        content[random.randrange(first, last)] = random.randrange(256)


def header_field(content: bytearray, random: Random) -> None:
    """Replace one to three fields of 32 bits in a header by extreme numbers."""
    first, last = _header(content, random)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(first, last - 3)
        content[place : place + 4] = random.choice((0, 0xFFFFFFFF, 0x7FFFFFFF)).to_bytes(4, "big")


def _block(content: bytearray, random: Random) -> tuple[int, int]:
    length = random.randint(1, len(content) // 4)
    return random.randrange(len(content) - length), length


def _header(content: bytearray, random: Random) -> tuple[int, int]:
    """Return the range of the first bytes or, since MP4 may have its header at the end, of the last."""
    length = min(HEADER, len(content))
    return (0, length) if random.random() < 0.5 else (len(content) - length, len(content))


KINDS: dict[str, Callable[[bytearray, Random], None]] = {
    "flip few": flip_few,
    "flip many": flip_many,
    "truncate": truncate,
    "cut middle": cut_middle,
    "swap blocks": swap_blocks,
    "duplicate block": duplicate_block,
    "zero block": zero_block,
    "random header": random_header,
    "header field": header_field,
}


def mutate(content: bytes, kind: str, seed: str) -> bytes:
    """Return a damaged copy, the same for the same content, kind and seed on every machine."""
    damaged = bytearray(content)
    KINDS[kind](damaged, Random(seed))
    return bytes(damaged)
