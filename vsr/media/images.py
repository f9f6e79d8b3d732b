"""Picture files, members of zip archives among them, <-> arrays."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from vsr.errors import InputError
from vsr.files import write_whole
from vsr.media.opening import files_only

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_FORMATS = ("JPEG", "PNG", "BMP", TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format)
"""What Pillow is asked to recognise. It would load the last two only after all of its other plugins."""

_TIFF_STARTS = (b"II*\0", b"MM\0*")
_WIDTH, _HEIGHT, _ORIENTATION, _EXTRA_SAMPLES = 256, 257, 274, 338
"""Tags of TIFF 6.0."""
_LONG = 4
"""The type of a value of four bytes in TIFF 6.0; sizes and orientations are else of two."""
_TURNED = (5, 6, 7, 8)
"""Orientations that stand for a quarter turn: rows and columns are exchanged."""

_HEAD_BYTES = 1 << 16
"""Read of a member in search of the size of its picture: enough for nearly all JPEG headers."""


def read_picture(path: Path) -> Picture:
    """Decode a picture file; see :func:`decode_picture`.

    Raises:
        InputError: the file cannot be read or is no picture.
    """
    try:
        with open(path, "rb", opener=files_only) as file:
            encoded = file.read()
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc
    return decode_picture(encoded, str(path))


def decode_picture(encoded: bytes, name: str) -> Picture:
    """Decode the content of a picture file to (H, W, 3) uint8 RGB.

    Grey is repeated, alpha dropped, CMYK converted without a profile, EXIF rotation applied; of 16 bits the high byte
    is taken.

    Args:
        encoded: the whole file.
        name: what an error calls it.

    Raises:
        InputError: it is no picture, or a damaged one.
    """
    try:
        if encoded.startswith(_TIFF_STARTS) and (opaque := _without_alpha(encoded)) is not None:
            return opaque
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    except cv2.error as exc:
        raise InputError(f"{name} is a damaged picture: {exc.err}") from exc
    if bgr is None:
        raise InputError(f"{name} is not a picture that can be decoded")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def picture_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """(height, width) in pixels behind the EXIF rotation, by the header alone.

    Args:
        source: a picture file, or its content; the first part of a JPEG or PNG that holds the header will do.
        name: what an error calls it; the path, where there is one.

    Raises:
        InputError: the file cannot be read, is no picture, or has more pixels than Pillow opens (179 million).
    """
    name = str(source) if isinstance(source, Path) else name
    try:
        # Opened here, as Pillow leaves a file open that it fails on.
        with open(source, "rb", opener=files_only) if isinstance(source, Path) else io.BytesIO(source) as file:
            return _size_in_header(file)
    except Image.DecompressionBombError as exc:
        raise InputError(f"{name} is too large a picture: {exc}") from exc
    except (UnidentifiedImageError, ValueError, KeyError, SyntaxError, struct.error) as exc:
        raise InputError(f"{name} is not a picture that can be decoded") from exc
    except OSError as exc:
        if exc.errno is not None:
            raise InputError(f"cannot read {name}: {exc.strerror}") from exc
        raise InputError(f"{name} is a damaged picture: {exc}") from exc


def write_picture(path: Path, picture: Picture) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, whatever the name; a file that stands there gives way.

    Raises:
        OutputError: the file cannot be written.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size or picture.dtype != np.uint8:
        raise ValueError(f"a picture is (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    write_whole(path, encoded.tobytes())


class Stored(NamedTuple):
    """Where a member lies in a zip archive, so that it is read without the archive's list."""

    offset: int
    """Of its local header, in bytes."""
    compressed: int
    """Its length in the archive, in bytes."""
    method: int
    """``ZIP_STORED`` or ``ZIP_DEFLATED``."""
    crc: int
    """CRC-32 of the content."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture file in a folder, or a member of a zip archive. Small, and can be pickled."""

    path: Path
    """The file or the archive."""
    member: str = ""
    """Inside the archive; empty for a plain file."""
    relative: str = field(default="", compare=False)
    """Below the folder or archive in which it was found, as if archives were unpacked; with forward slashes."""
    stored: Stored | None = field(default=None, compare=False, repr=False)
    """For members that are stored or deflated; others are looked up by name."""

    def __post_init__(self) -> None:
        if not self.relative:
            object.__setattr__(self, "relative", self.member or self.path.name)

    @property
    def name(self) -> str:
        """For messages: ``photos/1.jpg`` or ``coco.zip:train2017/1.jpg``."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """The encoded picture. Safe from several threads.

        Raises:
            InputError: the file cannot be read (an ``OSError`` is then the cause), or the member is damaged.
        """
        try:
            if not self.member:
                return self.path.read_bytes()
            if self.stored is None:
                with ZipFile(self.path) as archive:
                    return archive.read(self.member)
            content = self._unpacked(self.stored, self.stored.compressed)
            if zlib.crc32(content) != self.stored.crc:
                raise BadZipFile("checksums differ")
            return content
        except OSError as exc:
            raise InputError(f"cannot read {self.name}: {exc.strerror}") from exc
        except (BadZipFile, zlib.error, struct.error, EOFError, KeyError, NotImplementedError, RuntimeError) as exc:
            raise InputError(f"{self.name} is damaged, or packed in a way that cannot be read: {exc}") from exc

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels behind the EXIF rotation, by the header alone.

        Raises:
            InputError: the file cannot be read or is no picture.
        """
        if not self.member:
            return picture_size(self.path)
        if self.stored is not None and self.stored.compressed > _HEAD_BYTES:
            try:
                head = self._unpacked(self.stored, _HEAD_BYTES)
                if head.startswith((b"\xff\xd8", b"\x89PNG")):  # others keep their sizes anywhere
                    return picture_size(head, self.name)
            except (InputError, OSError, BadZipFile, zlib.error, struct.error):
                pass  # a long header, or damage, which reading all of it will tell
        return picture_size(self.read(), self.name)

    def _unpacked(self, stored: Stored, length: int) -> bytes:
        with open(self.path, "rb") as archive:
            archive.seek(stored.offset)
            # The local header repeats the name, and its extra field may differ from the one in the archive's list.
            signature, name, extra = struct.unpack("<4s22xHH", archive.read(30))
            if signature != b"PK\3\4":
                raise BadZipFile("no member where the archive's list has one")
            archive.seek(name + extra, os.SEEK_CUR)
            content = archive.read(length)
        return content if stored.method == ZIP_STORED else zlib.decompressobj(-zlib.MAX_WBITS).decompress(content)


def _size_in_header(file: IO[bytes]) -> tuple[int, int]:
    if file.read(4) in _TIFF_STARTS:
        tags = _tags(file)
        height, width, orientation = tags[_HEIGHT], tags[_WIDTH], tags.get(_ORIENTATION, 1)
    else:
        with Image.open(file, formats=_FORMATS) as image:
            (width, height), exif = image.size, image.info.get("exif", b"")
        # Not image.getexif(), which decodes a whole PNG in search of it and warns of what it cannot read.
        orientation = 1
        with suppress(struct.error):
            orientation = _tags(io.BytesIO(exif.removeprefix(b"Exif\0\0"))).get(_ORIENTATION, 1)
    return (width, height) if orientation in _TURNED else (height, width)


def _tags(tiff: IO[bytes]) -> dict[int, int]:
    """The first value of each tag in the first directory of a TIFF, which an EXIF block is, too.

    Raises:
        struct.error: there is none, or not all of it.
    """
    tiff.seek(0)
    start = tiff.read(8)
    order = "<" if start.startswith(b"II") else ">"
    tiff.seek(*struct.unpack(order + "4xI", start))
    (count,) = struct.unpack(order + "H", tiff.read(2))
    entries = struct.iter_unpack(order + "HH4x4s", tiff.read(12 * count))
    return {tag: struct.unpack_from(order + ("I" if kind == _LONG else "H"), value)[0] for tag, kind, value in entries}


def _without_alpha(tiff: bytes) -> Picture | None:
    """RGB of a TIFF with alpha, by Pillow, as libtiff in OpenCV's hands multiplies the two; None for any other."""
    try:
        if _EXTRA_SAMPLES in _tags(io.BytesIO(tiff)):
            with Image.open(io.BytesIO(tiff), formats=_FORMATS) as image:
                if image.mode == "RGBA":
                    return np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(image))[..., :3])
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
        pass  # OpenCV has the last word
    return None
