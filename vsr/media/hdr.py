"""HDR10's metadata: the mastering display (SMPTE ST 2086) and the light levels of the content (CTA-861.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

CHROMATICITY = 50000
"""Units in one, of a chromaticity coordinate in ST 2086."""

LUMINANCE = 10000
"""Units in a candela for each square metre, of a luminance in ST 2086."""


@dataclass(frozen=True)
class MasteringDisplay:
    """The display that a clip was graded on, in the units of ST 2086.

    Attributes:
        chromaticities: x and y of green, blue, red and the white point, in 1/50000.
        luminances: the greatest and the least, in 1/10000 cd/m2.
    """

    chromaticities: tuple[int, int, int, int, int, int, int, int]
    luminances: tuple[int, int]

    @classmethod
    def from_bytes(cls, content: bytes) -> MasteringDisplay | None:
        """Of libav's ``AVMasteringDisplayMetadata``; None where it leaves the primaries or the luminances out."""
        numbers = struct.unpack("=22i", content[:88])
        ratios = [top / (bottom or 1) for top, bottom in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
        if not all(numbers[20:]):
            return None
        red, green, blue, white = (tuple(ratios[at : at + 2]) for at in (0, 2, 4, 6))
        scaled = [round(value * CHROMATICITY) for value in (*green, *blue, *red, *white)]
        return cls(tuple(scaled), (round(ratios[9] * LUMINANCE), round(ratios[8] * LUMINANCE)))

    def text(self, *, decimal: bool = False) -> str:
        """``G(x,y)B(x,y)R(x,y)WP(x,y)L(greatest,least)``, which encoders take: in units, or in plain numbers."""
        numbers: list[str] = []
        for values, unit in ((self.chromaticities, CHROMATICITY), (self.luminances, LUMINANCE)):
            numbers += [f"{value / unit:.6g}" if decimal else str(value) for value in values]
        return "G({},{})B({},{})R({},{})WP({},{})L({},{})".format(*numbers)


@dataclass(frozen=True)
class LightLevels:
    """The brightest pixel and the brightest frame on average, in cd/m2."""

    max_content: int
    max_frame_average: int

    @classmethod
    def from_bytes(cls, content: bytes) -> LightLevels:
        """Of libav's ``AVContentLightMetadata``."""
        return cls(*struct.unpack("=2I", content[:8]))

    def __str__(self) -> str:
        return f"{self.max_content},{self.max_frame_average}"
