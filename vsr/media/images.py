"""Picture files, members of zip archives among them, <-> arrays."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from vsr.errors import InputError, is_out_of_memory
from vsr.files import write_whole
from vsr.media.opening import files_only

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_FORMATS = ("JPEG", "PNG", "BMP", TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format)
"""What Pillow is asked to recognise. It would load the last two only after all of its other plugins."""

_TIFF_STARTS = (b"II*\0", b"MM\0*")
_JPEG_START, _PNG_START = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_WIDTH, _HEIGHT, _ORIENTATION, _EXTRA_SAMPLES = 256, 257, 274, 338
"""Tags of TIFF 6.0."""
_LONG = 4
"""The type of a value of four bytes in TIFF 6.0; sizes and orientations are else of two."""
_TURNED = (5, 6, 7, 8)
"""Orientations that stand for a quarter turn: rows and columns are exchanged."""

_NO_SIZE = (UnidentifiedImageError, ValueError, KeyError, SyntaxError, struct.error)
"""What is raised where a header is none."""

_DAMAGED_MEMBER = (BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError)
"""What unpacking a member of an archive raises."""

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
"""Of a picture, 179 million; Pillow opens no larger ones either."""

MOST_BYTES = 1 << 30
"""Of a picture file: eight bits of ``MOST_PIXELS`` in full, and a half more."""

# The decoders of both libraries write to the standard error what they find damaged. An error says so.
warnings.filterwarnings("ignore", module=r"PIL\.")
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_HEAD_BYTES = 1 << 16
"""Read of a member in search of the size of its picture: enough for nearly all JPEG headers."""


def read_picture(path: Path) -> Picture:
    """Decode a picture file; see :func:`decode_picture`.

    Raises:
        InputError: the file cannot be read or is no picture.
    """
    return decode_picture(_content_of(path), str(path))


def _content_of(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=files_only) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} is too large a picture: more than {MOST_BYTES >> 20} MiB")
    return content


def decode_picture(encoded: bytes, name: str) -> Picture:
    """Decode the content of a picture file to (H, W, 3) uint8 RGB.

    Grey is repeated, alpha dropped, CMYK converted without a profile, EXIF rotation applied; of 16 bits the high byte
    is taken.

    Args:
        encoded: the whole file.
        name: what an error calls it.

    Raises:
        InputError: it is no picture, a damaged one, or has more pixels than ``MOST_PIXELS``.
    """
    try:
        with suppress(*_NO_SIZE, OSError):  # of what is damaged the decoder tells
            _check_pixels(_size_in_header(io.BytesIO(encoded)), name)
        if encoded.startswith(_TIFF_STARTS) and (opaque := _without_alpha(encoded)) is not None:
            return opaque
        if encoded.startswith(_JPEG_START) and (picture := _jpeg(encoded)) is not None:
            return picture
        if encoded.startswith(_PNG_START):
            encoded = _without_extras(encoded)
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    except Image.DecompressionBombError as exc:
        raise InputError(f"{name} is too large a picture: {exc}") from exc
    except (cv2.error, OSError, ValueError, SyntaxError, struct.error) as exc:
        if is_out_of_memory(exc):
            raise
        raise InputError(f"{name} is a damaged picture: {getattr(exc, 'err', exc)}") from exc
    if bgr is None:
        raise InputError(f"{name} is not a picture that can be decoded")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def picture_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """(height, width) in pixels behind the EXIF rotation, by the header alone.

    Args:
        source: a picture file, or its content; the first part of a JPEG or PNG that holds the header will do.
        name: what an error calls it; the path, where there is one.

    Raises:
        InputError: the file cannot be read, is no picture, or has more pixels than ``MOST_PIXELS``.
    """
    name = str(source) if isinstance(source, Path) else name
    try:
        # Opened here, as Pillow leaves a file open that it fails on.
        with open(source, "rb", opener=files_only) if isinstance(source, Path) else io.BytesIO(source) as file:
            size = _size_in_header(file)
    except Image.DecompressionBombError as exc:
        raise InputError(f"{name} is too large a picture: {exc}") from exc
    except _NO_SIZE as exc:
        raise InputError(f"{name} is not a picture that can be decoded") from exc
    except OSError as exc:
        if exc.errno is not None:
            raise InputError(f"cannot read {name}: {exc.strerror}") from exc
        raise InputError(f"{name} is a damaged picture: {exc}") from exc
    _check_pixels(size, name)
    return size


def _check_pixels(size: tuple[int, int], name: str) -> None:
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"{name} is a damaged picture: it has {width}x{height} pixels")
    if height * width > MOST_PIXELS:
        raise InputError(f"{name} is too large a picture: {width}x{height}, more than {MOST_PIXELS} pixels")


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
    """One of zipfile's: ``ZIP_STORED``, ``ZIP_DEFLATED``, ``ZIP_BZIP2`` or ``ZIP_LZMA``."""
    crc: int
    """CRC-32 of the content."""
    size: int
    """Length of the content, in bytes, as the archive's list has it."""

    @classmethod
    def of(cls, info: ZipInfo) -> Stored:
        """What the archive's list says of a member."""
        return cls(info.header_offset, info.compress_size, info.compress_type, info.CRC, info.file_size)


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
    """None: to be looked up by name."""

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
            InputError: the file cannot be read (an ``OSError`` is then the cause), the member is damaged, or either is
                larger than ``MOST_BYTES``.
        """
        try:
            if not self.member:
                return _content_of(self.path)
            stored = self.stored or self._looked_up()
            if max(stored.size, stored.compressed) > MOST_BYTES:
                raise BadZipFile(f"its content has more than {MOST_BYTES >> 20} MiB")
            content = self._unpacked(stored, stored.compressed, stored.size + 1)
            if len(content) != stored.size or zlib.crc32(content) != stored.crc:
                raise BadZipFile("its size or checksum is another than the archive's list says")
            return content
        except OSError as exc:
            raise InputError(f"cannot read {self.name}: {exc.strerror}") from exc
        except (*_DAMAGED_MEMBER, KeyError, NotImplementedError, RuntimeError) as exc:
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
                head = self._unpacked(self.stored, _HEAD_BYTES, 4 * _HEAD_BYTES)
                if head.startswith((_JPEG_START, _PNG_START)):  # others keep their sizes anywhere
                    return picture_size(head, self.name)
            except (InputError, OSError, *_DAMAGED_MEMBER):
                pass  # a long header, or damage, which reading all of it will tell
        return picture_size(self.read(), self.name)

    def _looked_up(self) -> Stored:
        with open(self.path, "rb", opener=files_only) as file, ZipFile(file) as archive:
            return Stored.of(archive.getinfo(self.member))

    def _unpacked(self, stored: Stored, length: int, most: int) -> bytes:
        """What ``length`` bytes of the archive hold, but no more than ``most``: a bomb is larger than it says."""
        with open(self.path, "rb", opener=files_only) as archive:
            archive.seek(stored.offset)
            # The local header repeats the name, and its extra field may differ from the one in the archive's list.
            signature, name, extra = struct.unpack("<4s22xHH", archive.read(30))
            if signature != b"PK\3\4":
                raise BadZipFile("no member where the archive's list has one")
            archive.seek(name + extra, os.SEEK_CUR)
            content = archive.read(length)
        return _expanded(content, stored.method, most)


def _expanded(packed: bytes, method: int, most: int) -> bytes:
    """The first ``most`` bytes at most of what a zip archive holds; zipfile itself makes more than is asked for.

    Raises:
        Exception: of ``_DAMAGED_MEMBER``: damaged, or packed otherwise.
    """
    if method == ZIP_STORED:
        return packed
    if method == ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
    try:
        if method == ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(packed, most)
        if method == ZIP_LZMA:
            length, first, dictionary = struct.unpack_from("<2xHBI", packed)
            rest, lc = divmod(first, 9)
            pb, lp = divmod(rest, 5)
            size = min(dictionary, MOST_BYTES)
            filters = [{"id": lzma.FILTER_LZMA1, "dict_size": size, "lc": lc, "lp": lp, "pb": pb}]
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(packed[4 + length :], most)
    except (OSError, ValueError) as exc:  # bz2's, which is none of the system's
        raise BadZipFile(str(exc)) from exc
    raise BadZipFile(f"by method {method}")


def _size_in_header(file: IO[bytes]) -> tuple[int, int]:
    if file.read(4) in _TIFF_STARTS:
        tags = _tags(file)
        height, width, orientation = tags[_HEIGHT], tags[_WIDTH], tags.get(_ORIENTATION, 1)
    else:
        with Image.open(file, formats=_FORMATS) as image:
            (width, height), exif = image.size, image.info.get("exif", b"")
        orientation = _orientation(exif)
    return (width, height) if orientation in _TURNED else (height, width)


def _orientation(exif: bytes) -> int:
    """Of an EXIF block; not image.getexif(), which decodes a whole PNG in search of it and warns of damage."""
    with suppress(struct.error, ValueError, OSError):
        return _tags(io.BytesIO(exif.removeprefix(b"Exif\0\0"))).get(_ORIENTATION, 1)
    return 1


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


def _jpeg(encoded: bytes) -> Picture | None:
    """A JPEG by Pillow, to the same codes, as OpenCV's decoder writes what it finds damaged to the standard error; None
    for CMYK, which Pillow converts otherwise."""
    with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
        if image.mode not in ("RGB", "L"):
            return None
        picture = np.array(image.convert("RGB"))
        orientation = _orientation(image.info.get("exif", b""))
    picture = picture.transpose(1, 0, 2) if orientation in _TURNED else picture
    picture = picture[::-1] if orientation in (3, 4, 7, 8) else picture
    return np.ascontiguousarray(picture[:, ::-1] if orientation in (2, 3, 6, 7) else picture)


def _without_extras(png: bytes) -> bytes:
    """A PNG of which only those chunks are left that make its pixels: of all others libpng may complain aloud.

    Raises:
        ValueError: it is cut short, or sums differ.
    """
    kept, start = [_PNG_START], len(_PNG_START)
    while start + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, start)
        chunk = png[start : start + length + 12]
        intact = len(chunk) == length + 12 and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if not intact and kind[:1].isupper():
            raise ValueError("cut short, or checksums differ")
        if intact and (kind[:1].isupper() or kind in (b"tRNS", b"eXIf")):
            kept.append(chunk)
        if kind == b"IEND":
            return b"".join(kept)
        start += length + 12
    raise ValueError("cut short")
