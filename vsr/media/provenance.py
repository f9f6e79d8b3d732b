"""What an output's metadata say about its origin: the version of vsr, the model, and the part of the source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vsr.errors import VsrError
from vsr.imaging.pictures import is_animated, read_comment, still_kind
from vsr.media.clip import ClipInfo
from vsr.media.formats import Container
from vsr.media.libav import readable
from vsr.media.probe import open_clip

KEYS = ("vsr", "comment", "description")
"""The metadata keys that may hold the text, in the order of preference: not every container stores keys of its own."""

_TEXT = re.compile(r"made by vsr (?P<version>\S+) \((?P<values>[^()]*)\)")


@dataclass(frozen=True)
class Provenance:
    """How an output was made.

    Attributes:
        version: of vsr.
        model: name of the model, or of its weights file.
        detail: amount of texture, from 0 to 1.
        scale: output size over input size along the axis that grew more.
        start: where the part begins, in seconds from the start of the source; None: at its first frame. If the source
            is a part itself, from the start of what it is a part of.
        end: where the part ends, likewise; None: at its last frame.
    """

    version: str
    model: str
    detail: float
    scale: float
    start: Fraction | None = None
    end: Fraction | None = None

    def __str__(self) -> str:
        model = re.sub(r"[,()\s]", "_", self.model)
        values = {"model": model, "detail": f"{self.detail:g}", "scale": f"{self.scale:g}"}
        values |= {name: _exact(at) for name, at in (("start", self.start), ("end", self.end)) if at is not None}
        return f"made by vsr {self.version} ({', '.join(f'{name} {value}' for name, value in values.items())})"

    @classmethod
    def parse(cls, text: str) -> Provenance | None:
        """Parse the text of a provenance; return None where it is another text."""
        if (found := _TEXT.fullmatch(text.strip())) is None:
            return None
        try:
            values = dict(pair.split(" ", 1) for pair in found["values"].split(", "))
            start, end = (Fraction(values[name]) if name in values else None for name in ("start", "end"))
            return cls(found["version"], values["model"], float(values["detail"]), float(values["scale"]), start, end)
        except (ValueError, KeyError, ZeroDivisionError):
            return None


def _exact(seconds: Fraction) -> str:
    """Return seconds as decimals where they are exact, else as a ratio."""
    decimal = f"{float(seconds):.9f}".rstrip("0").rstrip(".")
    return decimal if Fraction(decimal) == seconds else str(seconds)


def read_provenance(path: Path) -> Provenance | None:
    """Return how a clip or a picture was made; None where its metadata do not say so, or it is neither."""
    return _find(path)[1]


def key_for(clip: ClipInfo, container: Container, *, free: bool) -> str | None:
    """Return the metadata key for the provenance of an output; no metadata of the source is replaced but a provenance.

    Args:
        clip: the source.
        container: the format of the output.
        free: whether the format stores keys of any name.

    Returns:
        The key; None: the format has none that is free.
    """
    if container.muxer in ("matroska", "webm") or free:
        return KEYS[0]
    if container.muxer not in ("mp4", "mov", "avi"):
        return None
    taken = set(map(str.lower, clip.metadata))
    former = None if clip.pictures else _find(clip.path)[0]
    return next((key for key in KEYS[1:] if key == former or key not in taken), None)


def _find(path: Path) -> tuple[str | None, Provenance | None]:
    if still_kind(path) and not is_animated(path):
        return None, Provenance.parse(read_comment(path))
    try:
        with open_clip(path) as container:
            metadata = {readable(key).lower(): readable(value) for key, value in container.metadata.items()}
    except VsrError:
        return None, None
    found = ((key, Provenance.parse(metadata[key])) for key in KEYS if key in metadata)
    return next(((key, made) for key, made in found if made), (None, None))
