"""Read and write picture files: 8-bit RGB, members of zip archives, and stills of 8 or 16 bits with alpha and ICC."""

from __future__ import annotations

import bz2
import io
import logging
import lzma
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from vsr.errors import InputError, OutputError, is_out_of_memory, setting
from vsr.files import MAX_SIDE, files_only, write_whole

Picture = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""
_Pixels = npt.NDArray[Any]
"""(rows, columns, 1..4) uint8 or uint16: grey, grey and alpha, RGB, or RGBA."""

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_PNG_START = b"\x89PNG\r\n\x1a\n"
_OPENERS: dict[type[ImageFile], tuple[bytes, ...]] = {
    PngImagePlugin.PngImageFile: (_PNG_START,),
    JpegImagePlugin.JpegImageFile: (b"\xff\xd8\xff",),
    WebPImagePlugin.WebPImageFile: (b"WEBP",),
    TiffImagePlugin.TiffImageFile: (b"II*\0", b"MM\0*", b"II+\0"),
    BmpImagePlugin.BmpImageFile: (b"BM",),
    GifImagePlugin.GifImageFile: (b"GIF87a", b"GIF89a"),
}
"""First bytes of each format, after RIFF's header. Image.open() is not used, as its limit on pixels is global."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _ORIENTATION = 256, 257, 258, 259, 262, 273, 274
_DESCRIPTION = 270
_SAMPLES, _STRIP_LENGTHS, _PLANAR, _PREDICTOR, _EXTRA, _FORMAT = 277, 279, 284, 317, 338, 339
_ICC, _DEFLATE = 34675, 8  # the tag in ICC.1; those above, and the compression, are TIFF 6.0's
_NEW_SUBFILE_TYPE, _DNG_VERSION = 254, 50706  # a thumbnail has the first one's lowest bit; the second is of DNG 1.0

_TURNED = (5, 6, 7, 8)
"""Orientations that include a quarter turn: rows and columns are exchanged."""

_NO_SIZE = (UnidentifiedImageError, ValueError, KeyError, IndexError, TypeError, SyntaxError, struct.error)
"""Exceptions for an invalid header."""

_DAMAGE = (OSError, *_NO_SIZE, EOFError, OverflowError, zlib.error, cv2.error, Image.DecompressionBombError)
"""Exceptions of Pillow, OpenCV and this module for a damaged file."""

_DAMAGED_MEMBER = (BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError)
"""Exceptions for a damaged member of an archive."""

MAX_DECODED_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
"""Most pixels of a picture: 179 million, also Pillow's limit."""

MAX_MEMBER_BYTES = 1 << 30
"""Of a picture file: eight bits of ``MAX_DECODED_PIXELS`` in full, and a half more."""

# Both libraries write about damage to the standard error, Pillow by warnings; damage is raised as an error instead.
# The filter is set once, as threads that set and restore it around a picture would undo each other's.
warnings.filterwarnings("ignore", module=r"PIL\.")
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_HEAD_BYTES = 1 << 16
"""Bytes of a member to read for the size of its picture: enough for nearly all JPEG headers."""


def read_picture(path: Path) -> Picture:
    """Decode a picture file; see :func:`decode_picture`.

    Raises:
        InputError: the file cannot be read or is no picture.
    """
    return decode_picture(_content_of(path), str(path))


def _content_of(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=files_only) as file:
            content = file.read(MAX_MEMBER_BYTES + 1)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc
    if len(content) > MAX_MEMBER_BYTES:
        raise InputError(f"{path} is too large a picture: more than {MAX_MEMBER_BYTES >> 20} MiB")
    return content


def decode_picture(encoded: bytes, name: str) -> Picture:
    """Decode the content of a picture file to (H, W, 3) uint8 RGB.

    Grey is repeated, alpha dropped, CMYK converted without a profile, EXIF rotation applied; of 16 bits the high byte
    is used.

    Args:
        encoded: the whole file.
        name: name in error messages.

    Raises:
        InputError: it is no picture, a damaged one, or has more pixels than ``MAX_DECODED_PIXELS``.
    """
    try:
        with suppress(*_NO_SIZE, OSError):  # the decoder reports damage
            _check_pixels(_size_in_header(io.BytesIO(encoded)), name)
        picture = _rgb(encoded)
    except _DAMAGE as exc:
        if is_out_of_memory(exc):
            raise
        raise InputError(f"{name} is a damaged picture: {getattr(exc, 'err', exc)}") from exc
    if picture is None:
        raise InputError(f"{name} is not a picture that can be decoded")
    return np.ascontiguousarray(picture, dtype=np.uint8)


def picture_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Return (height, width) in pixels after the EXIF rotation, from the header alone.

    Args:
        source: a picture file, or its content; the first part of a JPEG or PNG that holds the header will do.
        name: name in error messages; the path if there is one.

    Raises:
        InputError: the file cannot be read, is no picture, or has more pixels than ``MAX_DECODED_PIXELS``.
    """
    name = str(source) if isinstance(source, Path) else name
    try:
        # Opened here, as Pillow leaves a file open if it fails.
        with open(source, "rb", opener=files_only) if isinstance(source, Path) else io.BytesIO(source) as file:
            size = _size_in_header(file)
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
    if height * width > MAX_DECODED_PIXELS:
        raise InputError(f"{name} is too large a picture: {width}x{height}, more than {MAX_DECODED_PIXELS} pixels")


def write_picture(path: Path, picture: Picture) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, whatever the name; an existing file is replaced.

    Raises:
        OutputError: the file cannot be written.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size or picture.dtype != np.uint8:
        raise ValueError(f"a picture is (H, W, 3) uint8, got {picture.shape} {picture.dtype}")
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    write_whole(path, encoded.tobytes())


class Stored(NamedTuple):
    """Position of a member in a zip archive, to read it without the archive's list."""

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
        """Return the entry of a member in the archive's list."""
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
    """None if it must be looked up by name."""

    def __post_init__(self) -> None:
        if not self.relative:
            object.__setattr__(self, "relative", self.member or self.path.name)

    @property
    def name(self) -> str:
        """For messages: ``photos/1.jpg`` or ``coco.zip:train2017/1.jpg``."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """Return the encoded picture; may be called from several threads.

        Raises:
            InputError: the file cannot be read (an ``OSError`` is then the cause), the member is damaged, or either is
                larger than ``MAX_MEMBER_BYTES``.
        """
        try:
            if not self.member:
                return _content_of(self.path)
            stored = self.stored or self._look_up()
            if max(stored.size, stored.compressed) > MAX_MEMBER_BYTES:
                raise BadZipFile(f"its content has more than {MAX_MEMBER_BYTES >> 20} MiB")
            content = self._unpack(stored, stored.compressed, stored.size + 1)
            if len(content) != stored.size or zlib.crc32(content) != stored.crc:
                raise BadZipFile("its size or checksum is another than the archive's list says")
            return content
        except OSError as exc:
            raise InputError(f"cannot read {self.name}: {exc.strerror}") from exc
        except (*_DAMAGED_MEMBER, KeyError, NotImplementedError, RuntimeError) as exc:
            raise InputError(f"{self.name} is damaged, or packed in a way that cannot be read: {exc}") from exc

    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels after the EXIF rotation, from the header alone.

        Raises:
            InputError: the file cannot be read or is no picture.
        """
        if not self.member:
            return picture_size(self.path)
        if self.stored is not None and self.stored.compressed > _HEAD_BYTES:
            try:
                head = self._unpack(self.stored, _HEAD_BYTES, 4 * _HEAD_BYTES)
                if _find_opener(io.BytesIO(head)) in (JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile):
                    # others keep their sizes anywhere
                    return picture_size(head, self.name)
            except (InputError, OSError, *_DAMAGED_MEMBER):
                pass  # a long header, or damage, which the full read reports
        return picture_size(self.read(), self.name)

    def _look_up(self) -> Stored:
        with open(self.path, "rb", opener=files_only) as file, ZipFile(file) as archive:
            return Stored.of(archive.getinfo(self.member))

    def _unpack(self, stored: Stored, length: int, most: int) -> bytes:
        """Decompress ``length`` bytes of the archive to at most ``most``, as a bomb is larger than declared."""
        with open(self.path, "rb", opener=files_only) as archive:
            archive.seek(stored.offset)
            # The local header repeats the name, and its extra field may differ from the one in the archive's list.
            signature, name, extra = struct.unpack("<4s22xHH", archive.read(30))
            if signature != b"PK\3\4":
                raise BadZipFile("no member where the archive's list has one")
            archive.seek(name + extra, os.SEEK_CUR)
            content = archive.read(length)
        return _decompress(content, stored.method, most)


def _decompress(packed: bytes, method: int, most: int) -> bytes:
    """Decompress at most ``most`` bytes of a member; zipfile itself may return more than requested.

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
            size = min(dictionary, MAX_MEMBER_BYTES)
            filters = [{"id": lzma.FILTER_LZMA1, "dict_size": size, "lc": lc, "lp": lp, "pb": pb}]
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(packed[4 + length :], most)
    except (OSError, ValueError) as exc:  # bz2's, which is none of the system's
        raise BadZipFile(str(exc)) from exc
    raise BadZipFile(f"by method {method}")


def _find_opener(file: IO[bytes]) -> type[ImageFile] | None:
    start = file.read(12)
    file.seek(0)
    start = start[8:] if start.startswith(b"RIFF") else start
    return next((opener for opener, starts in _OPENERS.items() if start.startswith(starts)), None)


def _size_in_header(file: IO[bytes]) -> tuple[int, int]:
    opener = _find_opener(file)
    if opener is None:
        raise UnidentifiedImageError
    if opener is TiffImagePlugin.TiffImageFile:
        tags = _directory(file)
        height, width, orientation = int(tags[_HEIGHT]), int(tags[_WIDTH]), tags.get(_ORIENTATION, 1)
    else:
        image = opener(file)
        width, height = image.size
        orientation = _orientation(image.info.get("exif", b""))
    return (width, height) if orientation in _TURNED else (height, width)


def _orientation(exif: bytes) -> int:
    """Return the orientation in an EXIF block; not image.getexif(), which decodes a whole PNG in search of it."""
    with suppress(*_DAMAGE):
        return int(_directory(io.BytesIO(exif.removeprefix(b"Exif\0\0"))).get(_ORIENTATION, 1))
    return 1


def _directory(tiff: IO[bytes]) -> TiffImagePlugin.ImageFileDirectory_v2:
    """Return the first directory of a TIFF; an EXIF block is one too.

    Raises:
        Exception: of ``_DAMAGE``: there is none.
    """
    tiff.seek(0)
    start = tiff.read(16)
    directory = TiffImagePlugin.ImageFileDirectory_v2(start if start[2] == ord("+") else start[:8])
    tiff.seek(directory.next)
    directory.load(tiff)
    return directory


def _rgb(encoded: bytes) -> _Pixels | None:
    """Decode to (H, W, 3) uint8, turned upright; None: it is no picture.

    By OpenCV, which takes half of Pillow's time for WebP and BMP, takes the high byte of grey, too, and a PNG with
    damage beside its pixels. By Pillow: JPEG, as OpenCV's decoder writes damage to the standard error, and TIFF with
    alpha, by which OpenCV would multiply the colours.
    """
    opener = _find_opener(io.BytesIO(encoded))
    if opener is JpegImagePlugin.JpegImageFile:
        return _rgb_by_pillow(encoded, opener)
    if opener is TiffImagePlugin.TiffImageFile:
        with suppress(*_DAMAGE):  # damage is left to OpenCV
            if _EXTRA in _directory(io.BytesIO(encoded)):
                return _rgb_by_pillow(encoded, opener)
    if opener is PngImagePlugin.PngImageFile:
        encoded = _without_extras(encoded)
    bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    return None if bgr is None else bgr[..., ::-1]


def _rgb_by_pillow(encoded: bytes, opener: type[ImageFile]) -> _Pixels:
    image = opener(io.BytesIO(encoded))
    pixels = np.array(image.convert("RGB"))
    return _turn_upright(pixels, _orientation(image.info.get("exif", b"")))  # a TIFF has been turned by Pillow


def _without_extras(png: bytes) -> bytes:
    """Return a PNG without the chunks that its pixels do not need, about which libpng may print warnings.

    Raises:
        ValueError: it is cut short, or sums differ.
    """
    start = len(_PNG_START)
    kept = [png[:start]]
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


logger = logging.getLogger(__name__)

Plane = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""(rows, columns)."""

_WRITTEN_FORMATS = {
    ".png": ("PNG", 16, True), ".jpg": ("JPEG", 8, False), ".jpeg": ("JPEG", 8, False), ".webp": ("WEBP", 8, True),
    ".tif": ("TIFF", 16, True), ".tiff": ("TIFF", 16, True), ".bmp": ("BMP", 8, False),
}  # fmt: skip
"""By the ending: Pillow's name, the most bits of a sample, and whether there can be alpha."""

STILL_ENDINGS = frozenset(_WRITTEN_FORMATS)

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95}}
_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}  # in pixels, by libjpeg and by the format of WebP

_ANIMATED_FORMATS = (GifImagePlugin.GifImageFile, PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile)

_MODES = {"1": "L", "La": "LA", "P": "RGB", "PA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
"""What Pillow's modes are converted to, besides those that stay."""

_BAND_BYTES = 1 << 20  # of samples, compressed at a time and a strip of TIFF; OpenCV refuses one of a gigabyte
_DEFLATE_LEVEL = 1  # level 6 made a filtered 16-bit photograph 4 to 8 percent smaller, and took four times as long


@dataclass(frozen=True, eq=False)
class Still:
    """A decoded picture, turned upright by its EXIF orientation. Planes that contradict the rest are a ValueError."""

    planes: tuple[Plane, ...]
    """Grey: (Y,). Else (G, B, R), as in libav's gbrp. With alpha: its plane last; the others not multiplied by it."""
    is_grey: bool
    has_alpha: bool
    bit_depth: Literal[8, 16]
    """White is 255 or 65535."""
    icc: bytes | None = None
    """The ICC profile as it was stored."""

    def __post_init__(self) -> None:
        kinds = {(plane.shape, str(plane.dtype)) for plane in self.planes}
        if len(self.planes) != (1 if self.is_grey else 3) + self.has_alpha:
            raise ValueError(f"is_grey={self.is_grey}, has_alpha={self.has_alpha}, but {len(self.planes)} planes")
        shape, dtype = next(iter(kinds))
        fits = (self.bit_depth, dtype) in ((8, "uint8"), (16, "uint16")) and len(shape) == 2 and 0 not in shape
        if len(kinds) > 1 or not fits:
            raise ValueError(f"planes are (rows, columns) of {self.bit_depth} bits, 8 or 16, got {kinds}")

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.planes[0].shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.planes[0].shape[1])


def read_still(path: Path, *, max_pixels: int) -> Still:
    """Decode a PNG, JPEG, WebP, TIFF, BMP or GIF, which is known by its content and not by its name.

    Palettes are resolved, fewer than 8 bits widened, and a transparent colour becomes alpha. CMYK is converted without
    its profile, which is dropped, as it fits no longer. Of several frames or pages the first is used.

    Args:
        max_pixels: refuse what has more, or a side of more than ``MAX_SIDE``, by its header, before it is decoded.

    Raises:
        InputError: it is missing, unreadable, damaged, no such picture, too large, or of neither 8 nor 16 bits.
    """
    try:
        with open(path, "rb", opener=files_only) as file:
            if (opener := _find_opener(file)) is None:
                raise InputError(f"{path} is not a picture that can be read; PNG, JPEG, WebP, TIFF, BMP and GIF can.")
            if opener is TiffImagePlugin.TiffImageFile and (still := _read_tiff16(path, file, max_pixels)):
                return still
            return _read_with_pillow(path, file, opener, max_pixels)
    except _DAMAGE as exc:
        if is_out_of_memory(exc):
            raise
        if isinstance(exc, OSError) and exc.errno is not None:
            raise InputError(f"cannot read {path}: {exc.strerror}.") from exc
        if isinstance(exc, Image.DecompressionBombError):  # in WebP and compressed TIFF, Pillow's own limit holds, too
            raise InputError(f"{path} has more pixels than can be read of its format; convert it to PNG.") from exc
        reason = " ".join(str(exc.err if isinstance(exc, cv2.error) else exc).split()).rstrip(".")
        raise InputError(f"{path} is a damaged picture ({reason}); fetch or export it again.") from exc


def still_kind(path: Path) -> str:
    """Return the format by a file's first bytes: PNG, JPEG, WEBP, TIFF, BMP or GIF; empty if none or unreadable."""
    with suppress(OSError), open(path, "rb", opener=files_only) as file:
        opener = _find_opener(file)
        return "" if opener is None else str(opener.format)
    return ""


def is_animated(path: Path) -> bool:
    """Whether it is a GIF, WebP or PNG of more than one frame; False for all else, unreadable files included."""
    with suppress(*_DAMAGE), _header(path) as image:
        return bool(getattr(image, "is_animated", False))
    return False


def repeats(path: Path) -> int:
    """Return how often an animation repeats: -1 for never, 0 for ever or unknown."""
    with suppress(*_DAMAGE), _header(path) as image:
        if image is not None and getattr(image, "is_animated", False):
            loop = image.info.get("loop")
            if image.format == "GIF":
                return -1 if loop is None else int(loop)
            return int(loop) - 1 or -1 if loop else 0  # PNG and WebP count how often it is shown in all
    return 0


@contextmanager
def _header(path: Path) -> Iterator[ImageFile | None]:
    """Open a file of a format that can be animated, without decoding it; None for all other formats."""
    with open(path, "rb", opener=files_only) as file:
        opener = _find_opener(file)
        yield opener(file) if opener in _ANIMATED_FORMATS else None


def write_still(path: Path, still: Still, comment: str = "") -> None:
    """Write a picture in the format that the ending names; an existing file is replaced.

    PNG, TIFF and BMP are lossless. JPEG and WebP are lossy, of quality 95, JPEG without chroma subsampling: a lossless
    WebP of a photograph would be several times as large as people expect. WebP knows no grey and gives it back as RGB.
    All formats keep the ICC profile and the comment but BMP, which has no place for them.

    Args:
        path: the file.
        still: the picture.
        comment: text for its metadata; characters outside of ASCII become question marks.

    Raises:
        ValueError: an ending that is none of `STILL_ENDINGS`, or a picture that is more than it `holds`.
        OutputError: the file cannot be written, or the format has no room for a picture of this size.
    """
    bit_depth, alpha = holds(path)
    name = _WRITTEN_FORMATS[path.suffix.lower()][0]
    if still.bit_depth > bit_depth or still.has_alpha > alpha:
        raise ValueError(f"{name} cannot hold {still.bit_depth} bits{' and alpha' * still.has_alpha}: {path}")
    if max(still.height, still.width) > (longest := _LONGEST_SIDE.get(name, math.inf)):
        raise OutputError(f"cannot write {path}: {name} has at most {longest} rows and columns; choose .png or .tif.")
    colours = still.planes[:1] if still.is_grey else (still.planes[2], *still.planes[:2])
    pixels = np.stack((*colours, still.planes[-1]) if still.has_alpha else colours, -1)
    text = comment.encode("ascii", "replace")
    try:
        if name == "TIFF":
            content = _encode_tiff(pixels, still.icc, text)
        elif still.bit_depth == 16:
            content = _encode_png16(pixels, still.icc, text)
        else:
            buffer, profile = io.BytesIO(), {"icc_profile": still.icc} if still.icc else {}
            image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            image.save(buffer, name, **_SAVE_OPTIONS.get(name, {}), **profile, **_comment_options(name, text))
            content = buffer.getvalue()
    except (OSError, ValueError, struct.error) as exc:
        if is_out_of_memory(exc):
            raise
        raise OutputError(f"cannot write {path}: {exc}; choose another format or a smaller size.") from exc
    write_whole(path, content)


def _comment_options(name: str, text: bytes) -> dict[str, Any]:
    """Return the options of Pillow that write a comment; none for a format without a place for it."""
    if not text:
        return {}
    if name == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", text.decode())
        return {"pnginfo": info}
    if name == "WEBP":
        exif = Image.Exif()
        exif[_DESCRIPTION] = text.decode()
        return {"exif": exif}
    return {"comment": text} if name == "JPEG" else {}


def read_comment(path: Path) -> str:
    """Return the comment that ``write_still`` wrote; empty if there is none."""
    with suppress(*_DAMAGE), open(path, "rb", opener=files_only) as file:
        if (opener := _find_opener(file)) is not None:
            image = opener(file)
            found = image.info.get("Comment") or image.info.get("comment") or image.getexif().get(_DESCRIPTION, "")
            return found.decode("ascii", "replace") if isinstance(found, bytes) else str(found)
    return ""


def holds(path: Path) -> tuple[int, bool]:
    """Return the most bits, 8 or 16, and whether alpha can be written, by ending; ValueError for an unknown one."""
    if path.suffix.lower() not in _WRITTEN_FORMATS:
        raise ValueError(f"a still picture ends in {', '.join(_WRITTEN_FORMATS)}, got {path.name!r}")
    return _WRITTEN_FORMATS[path.suffix.lower()][1:]


def _check_size(path: Path, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        limit = setting("max_pixels")
        raise InputError(f"{path} has {width}x{height} pixels, more than {max_pixels}; raise {limit} to read it.")
    if max(height, width) > MAX_SIDE:
        raise InputError(f"{path} has {width}x{height} pixels, and a side of more than {MAX_SIDE}; cut it into parts.")


def _still(pixels: _Pixels, bit_depth: Literal[8, 16], icc: bytes | None) -> Still:
    channels = pixels.shape[2]
    order = ((0, 1) if channels <= 2 else (1, 2, 0, 3))[:channels]
    planes = tuple(pixels[..., channel].copy() for channel in order)  # in C order, whatever the turn
    return Still(planes, channels <= 2, channels % 2 == 0, bit_depth, icc or None)


def _read_with_pillow(path: Path, file: IO[bytes], opener: type[ImageFile], max_pixels: int) -> Still:
    orientation, image = 1, opener(file)
    _check_size(path, image.height, image.width, max_pixels)
    image.load()  # of 16-bit PNG, too: it is strict with what is cut short, and EXIF may stand behind the pixels
    with suppress(*_DAMAGE):
        orientation = image.getexif().get(_ORIENTATION, 1)  # Pillow has turned a TIFF, and reset its tag
    icc, transparent = image.info.get("icc_profile"), image.info.get("transparency")
    if image.format == "PNG":
        file.seek(0)
        encoded = file.read()
        if encoded[24] == 16:  # bits of a sample, followed by the colour type
            return _still(_turn_upright(_decode_png16(encoded, transparent), orientation), 16, icc)
    mode = _MODES.get(image.mode, image.mode)
    mode += "A" if transparent is not None and mode in ("L", "RGB") else ""
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise InputError(f"{path} has samples of the kind {mode}; convert it to RGB or grey of 8 or 16 bits.")
    pixels = np.atleast_3d(np.asarray(image.convert(mode)))
    return _still(_turn_upright(pixels, orientation), 8, None if image.mode == "CMYK" else icc)


def _turn_upright(pixels: _Pixels, orientation: int) -> _Pixels:
    """Turn pixels upright by the Orientation of EXIF, 1..8."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def _decode16(encoded: bytes) -> _Pixels:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("its samples cannot be decoded")
    return np.atleast_3d(pixels) if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _decode_png16(encoded: bytes, transparent: int | tuple[int, ...] | None) -> _Pixels:
    """``transparent`` is the grey level or the (R, G, B) that means transparent."""
    pixels, colour_type = _decode16(encoded), encoded[25]
    if colour_type == 4:  # grey with alpha, which OpenCV repeats
        return pixels[..., [0, -1]]
    if transparent is None or colour_type == 6:
        return pixels
    colours = pixels[..., : 1 if colour_type == 0 else 3]
    opaque = (colours != np.asarray(transparent)).any(-1, keepdims=True)
    return np.concatenate([colours, opaque * np.uint16(65535)], -1)


def _read_tiff16(path: Path, file: IO[bytes], max_pixels: int) -> Still | None:
    """Read a TIFF of 16 bits; None if it has at most 8 bits, which Pillow reads."""
    directory = _directory(file)
    file.seek(8)
    if _DNG_VERSION in directory or directory.get(_NEW_SUBFILE_TYPE, 0) & 1 or file.read(2) == b"CR":
        raise InputError(f"{path} is a raw photograph, or a thumbnail comes first in it; develop it to a PNG.")
    tags: dict[int, Any] = {tag: directory[tag] for tag in directory if tag <= _FORMAT or tag == _ICC}
    height, width, bits, formats = tags[_HEIGHT], tags[_WIDTH], tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
    _check_size(path, height, width, max_pixels)
    if directory.next:
        logger.warning("%s has several pages; only the first is used.", path)
    if max(formats) != 1 or (max(bits) > 8 and set(bits) != {16}):
        kind = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(max(formats), "unusual")
        raise InputError(f"{path} has {kind} samples of {max(bits)} bits; convert it to 8 or 16 bits, unsigned.")
    file.seek(0)
    if max(bits) <= 8:
        return None
    photometric, samples = tags[_PHOTOMETRIC], tags.get(_SAMPLES, 1)
    apart = samples > 1 and tags.get(_PLANAR, 1) != 1
    if apart or (photometric, samples) not in {(0, 1), (1, 1), (1, 2), (2, 3), (2, 4)}:
        raise InputError(f"{path} is a 16-bit TIFF of a rare layout; convert it to grey or interleaved RGB, or to PNG.")
    encoded = file.read()
    pixels = _decode_grey_alpha(encoded, tags) if samples == 2 else _decode16(encoded)  # which turns it as well
    if photometric == 0:
        pixels = 65535 - pixels
    extra = tags.get(_EXTRA, (2,))[0]  # 0: anything; 1: alpha, by which the colours have been multiplied; 2: alpha
    if samples in (2, 4) and extra == 0:
        pixels = pixels[..., :-1]
    elif samples in (2, 4) and extra == 1:
        alpha = pixels[..., -1:].astype(np.uint32)
        colours = (pixels[..., :-1] * np.uint32(65535) + alpha // 2) // np.maximum(alpha, 1)
        pixels = np.concatenate([np.minimum(colours, 65535), alpha], -1).astype(np.uint16)
    return _still(pixels, 16, tags.get(_ICC))


def _decode_grey_alpha(encoded: bytes, tags: dict[int, Any]) -> _Pixels:
    """16 bits of grey and alpha in a TIFF as `_encode_tiff` writes it. Ours, as neither OpenCV nor Pillow decodes them,
    and tifffile expands a strip to whatever size it has."""
    shape, order = (tags[_HEIGHT], tags[_WIDTH], 2), "<u2" if encoded.startswith(b"II") else ">u2"
    if (tags[_COMPRESSION], tags.get(_PREDICTOR)) != (_DEFLATE, 2):
        raise ValueError("grey and alpha of 16 bits are read from Deflate with a predictor only")
    strips = [
        zlib.decompressobj().decompress(encoded[offset : offset + length], 2 * math.prod(shape))
        for offset, length in zip(tags[_STRIPS], tags[_STRIP_LENGTHS], strict=True)
    ]
    differences = np.frombuffer(b"".join(strips), order).reshape(shape)
    return _turn_upright(np.cumsum(differences, 1, np.uint16), tags.get(_ORIENTATION, 1))


def _encode_png16(pixels: _Pixels, icc: bytes | None, comment: bytes) -> bytes:
    """W3C PNG, third edition. Ours, as Pillow writes no 16 bits; OpenCV no grey with alpha, nor a profile that libpng
    rejects; and libav's encoder opens for no more than 264 million pixels, which a photograph has at x4."""
    rows, columns, channels = pixels.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0))]
    chunks += [(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))] if icc else []
    chunks += [(b"tEXt", b"Comment\0" + comment)] if comment else []
    deflate, band_rows = zlib.compressobj(_DEFLATE_LEVEL), _band_rows(pixels)
    for top in range(0, rows, band_rows):
        band = pixels[top : top + band_rows]
        samples = band.astype(">u2").view(np.uint8).reshape(len(band), -1)
        filtered = np.ones((len(band), 1 + samples.shape[1]), np.uint8)  # each row begins with its filter; 1 is "Sub"
        filtered[:, 1:] = samples
        filtered[:, 1 + 2 * channels :] -= samples[:, : -2 * channels]
        chunks.append((b"IDAT", deflate.compress(filtered.tobytes())))
    parts = [struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
             for name, content in (*chunks, (b"IDAT", deflate.flush()), (b"IEND", b""))]  # fmt: skip
    return _PNG_START + b"".join(parts)


def _encode_tiff(pixels: _Pixels, icc: bytes | None, comment: bytes) -> bytes:
    """Encode strips by Deflate with a predictor."""
    channels, content = pixels.shape[2], io.BytesIO()
    tifffile.imwrite(
        content, pixels if channels > 1 else pixels[..., 0], photometric="minisblack" if channels <= 2 else "rgb",
        planarconfig="contig", extrasamples=("unassalpha",) if channels % 2 == 0 else (), compression="adobe_deflate",
        compressionargs={"level": _DEFLATE_LEVEL}, predictor=True, rowsperstrip=_band_rows(pixels), iccprofile=icc,
        metadata=None, software=False, description=comment or None,
    )  # fmt: skip
    return content.getvalue()


def _band_rows(pixels: _Pixels) -> int:
    return max(1, _BAND_BYTES // int(pixels[0].nbytes))
