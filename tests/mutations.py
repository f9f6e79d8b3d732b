"""Damage done to the bytes of a file, by kind and from a seed: what disks, cables, broken-off copies and liars do."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

HEADER = 4096
"""Bytes at either end of a file in which headers lie."""


def flip_few(content: bytearray, random: Random) -> None:
    """Turn over one to eight bits."""
    for _ in range(random.randint(1, 8)):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def flip_many(content: bytearray, random: Random) -> None:
    """Turn over a bit in one byte of a thousand, up to one in fifty."""
    for _ in range(max(1, round(len(content) * random.uniform(0.001, 0.02)))):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def truncate(content: bytearray, random: Random) -> None:
    """Cut off the end."""
    del content[random.randrange(1, len(content)) :]


def cut_middle(content: bytearray, random: Random) -> None:
    """Take out a block."""
    start, length = _block(content, random)
    del content[start : start + length]


def swap_blocks(content: bytearray, random: Random) -> None:
    """Exchange two blocks of one length that do not touch."""
    length = random.randint(1, len(content) // 4)
    first, second = sorted(random.sample(range(len(content) // length), 2))
    one, two = slice(first * length, (first + 1) * length), slice(second * length, (second + 1) * length)
    content[one], content[two] = content[two], content[one]


def duplicate_block(content: bytearray, random: Random) -> None:
    """Say something twice."""
    start, length = _block(content, random)
    content[start:start] = content[start : start + length]


def zero_block(content: bytearray, random: Random) -> None:
    """Wipe a block, as a failing disk does."""
    start, length = _block(content, random)
    content[start : start + length] = bytes(length)


def random_header(content: bytearray, random: Random) -> None:
    """Replace up to 64 bytes of a header by random ones."""
    first, last = _header(content, random)
    for _ in range(random.randint(1, 64)):
        content[random.randrange(first, last)] = random.randrange(256)


def header_field(content: bytearray, random: Random) -> None:
    """Replace one to three fields of 32 bits in a header by the numbers that trip a reader."""
    first, last = _header(content, random)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(first, last - 3)
        content[place : place + 4] = random.choice((0, 0xFFFFFFFF, 0x7FFFFFFF)).to_bytes(4, "big")


def _block(content: bytearray, random: Random) -> tuple[int, int]:
    length = random.randint(1, len(content) // 4)
    return random.randrange(len(content) - length), length


def _header(content: bytearray, random: Random) -> tuple[int, int]:
    """The first or, since MP4 has its header where it likes, the last few bytes."""
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
    """A damaged copy: the same one for the same content, kind and seed, on every machine."""
    damaged = bytearray(content)
    KINDS[kind](damaged, Random(seed))
    return bytes(damaged)
