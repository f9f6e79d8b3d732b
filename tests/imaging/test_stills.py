"""Still pictures against Pillow, OpenCV, ffmpeg and files put together by hand."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageSequence, PngImagePlugin, TiffImagePlugin

from vsr.errors import InputError, OutputError
from vsr.files import MAX_PIXELS, MAX_SIDE
from vsr.imaging.pictures import STILL_ENDINGS, Still, holds, is_animated, read_picture, read_still, write_still

LIMIT = 1 << 20
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS = pytest.mark.parametrize(("grey", "alpha"), [(True, False), (True, True), (False, False), (False, True)])
DEPTHS = pytest.mark.parametrize("depth", [8, 16])


def noise(shape: tuple[int, ...], depth: int = 8, seed: int = 0) -> np.ndarray:
    """Of every code value."""
    kind = np.uint8 if depth == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << depth, shape, kind)


def still_of(grey: bool, alpha: bool, depth: int, size: tuple[int, int] = (5, 7), icc: bytes | None = None) -> Still:
    count = (1 if grey else 3) + alpha
    return Still(tuple(noise((count, *size), depth)), grey, alpha, depth, icc)


def rgb(still: Still) -> np.ndarray:
    """(H, W, 3 or 4) RGB(A) of a still, grey repeated."""
    planes = still.planes
    colours = [planes[0]] * 3 if still.is_grey else [planes[2], planes[0], planes[1]]
    return np.stack([*colours, planes[-1]] if still.has_alpha else colours, -1)


def check(still: Still, expected: np.ndarray) -> None:
    """``expected``: grey (H, W), or grey and alpha, RGB, RGBA as (H, W, 2..4)."""
    expected = np.atleast_3d(expected)
    channels = expected.shape[2]
    assert (still.is_grey, still.has_alpha) == (channels <= 2, channels % 2 == 0)
    assert (still.height, still.width) == expected.shape[:2] and still.bit_depth == 8 * expected.itemsize
    order = (0, 1)[:channels] if channels <= 2 else (1, 2, 0, 3)[:channels]
    assert len(still.planes) == channels
    for plane, channel in zip(still.planes, order, strict=True):
        assert plane.dtype == expected.dtype and plane.flags.c_contiguous and plane.flags.writeable
        assert np.array_equal(plane, expected[..., channel])


def same(first: Still, second: Still) -> bool:
    kind = (first.is_grey, first.has_alpha, first.bit_depth)
    return kind == (second.is_grey, second.has_alpha, second.bit_depth) and all(
        map(np.array_equal, first.planes, second.planes)
    )


# Files put together by hand


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(pixels: np.ndarray, colour_type: int, *, before: bytes = b"", behind: bytes = b"") -> bytes:
    """Of 16 bits, unfiltered, with chunks before and behind the pixels."""
    rows, columns = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", columns, rows, 16, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels))
    chunks = chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + behind + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(
    pixels: np.ndarray, tags: dict[int, tuple[str, tuple[int, ...]]], order: str = "<", big: bool = False
) -> bytes:
    """Uncompressed, in one strip, of the tags given and those that follow from the pixels."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    rows, columns, samples = np.atleast_3d(pixels).shape
    header, pointer, number = (16, "Q", "Q") if big else (8, "I", "H")
    room = struct.calcsize(order + pointer)
    entries = {
        256: ("I", (columns,)), 257: ("I", (rows,)), 258: ("H", (8 * pixels.itemsize,) * samples), 259: ("H", (1,)),
        262: ("H", (1 if samples <= 2 else 2,)), 273: ("I", (header,)), 277: ("H", (samples,)), 278: ("I", (rows,)),
        279: ("I", (len(data),)), **tags,
    }  # fmt: skip
    start = header + len(data)
    behind, listing = b"", struct.pack(order + number, len(entries))
    end = start + len(listing) + len(entries) * (4 + 2 * room) + room
    for tag, (code, values) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(value) > room:
            value, behind = struct.pack(order + pointer, end + len(behind)), behind + value
        listing += struct.pack(f"{order}HH{pointer}{room}s", tag, {"H": 3, "I": 4}[code], len(values), value)
    mark = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    mark += struct.pack(order + "HHQ", 8, 0, start) if big else struct.pack(order + "I", start)
    return mark + data + listing + bytes(room) + behind


def exif(orientation: int) -> bytes:
    """A TIFF of nothing but an orientation."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + bytes(4)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """By NumPy's own turns: where row 0 and column 0 of the file are seen, by the table of EXIF."""
    return {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: np.rot90,
    }[orientation](pixels)


# Both ways


@KINDS
@DEPTHS
@pytest.mark.parametrize("ending", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 1), (1, 4)])
def test_lossless_round_trips(
    ending: str, depth: int, grey: bool, alpha: bool, size: tuple[int, int], tmp_path: Path, leaves_nothing: None
) -> None:
    path = tmp_path / f"Füße, zwei\n{ending}"
    path.write_bytes(b"what stood there before")
    still = still_of(grey, alpha, depth, size)
    write_still(path, still)
    back = read_still(path, max_pixels=size[0] * size[1])
    assert same(still, back) and back.icc is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@KINDS
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_pictures_of_many_bands(ending: str, grey: bool, alpha: bool, tmp_path: Path) -> None:
    """More than the megabyte that is compressed at a time, and no multiple of it."""
    still = still_of(grey, alpha, 16, (701, 1203))
    write_still(tmp_path / f"large{ending}", still)
    assert same(still, read_still(tmp_path / f"large{ending}", max_pixels=LIMIT))


@pytest.mark.parametrize("grey", [True, False])
def test_bmp_round_trips(grey: bool, tmp_path: Path) -> None:
    still = still_of(grey, False, 8, icc=ICC)
    write_still(tmp_path / "picture.bmp", still)
    back = read_still(tmp_path / "picture.bmp", max_pixels=LIMIT)
    assert same(still, back) and back.icc is None


@KINDS
@DEPTHS
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_others_read_what_is_written(
    ending: str, depth: int, grey: bool, alpha: bool, tmp_path: Path, ffmpeg: Callable[..., str]
) -> None:
    """The ffmpeg program shares no decoder with ours; it has no TIFF of grey with alpha of 16 bits either."""
    path = tmp_path / f"picture{ending}"
    still = still_of(grey, alpha, depth, (9, 14), ICC)
    write_still(path, still)
    if (ending, grey, alpha) == (".tif", True, True):
        tifffile = pytest.importorskip("tifffile")
        assert np.array_equal(tifffile.imread(path), np.stack(still.planes, -1))
        return
    form = {(True, False): "gray", (True, True): "ya", (False, False): "gbrp", (False, True): "gbrap"}[grey, alpha]
    form += "16le" if depth == 16 else "8" if form == "ya" else ""
    ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", form, tmp_path / "raw")
    raw = np.fromfile(tmp_path / "raw", np.uint8 if depth == 8 else "<u2")
    planes = raw.reshape(9, 14, 2).transpose(2, 0, 1) if form.startswith("ya") else raw.reshape(-1, 9, 14)
    assert np.array_equal(planes, np.stack(still.planes))


@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("name", ["8.png", "16.png", "8.tif", "16.tif", "8.jpg", "8.webp"])
def test_profiles_are_kept(name: str, grey: bool, tmp_path: Path) -> None:
    profile = ICC + noise((100_000,)).tobytes()  # more than a segment of JPEG holds
    still = still_of(grey, False, int(name.split(".")[0]), (16, 16), profile)
    write_still(tmp_path / name, still)
    assert read_still(tmp_path / name, max_pixels=LIMIT).icc == profile
    if name != "16.tif" or grey:
        with Image.open(tmp_path / name) as image:
            assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".webp"])
@KINDS
def test_lossy_formats_come_close(ending: str, grey: bool, alpha: bool, tmp_path: Path) -> None:
    x, y = np.meshgrid(np.arange(96), np.arange(64))
    smooth = [128 + 100 * np.sin(x / 15), 128 + 90 * np.cos(y / 11), 2.0 * x + y, 255 - 2.0 * x]
    planes = tuple(plane.clip(0, 255).astype(np.uint8) for plane in smooth)
    still = Still((*planes[: 1 if grey else 3], *planes[3:][:alpha]), grey, alpha, 8)
    if alpha and ending != ".webp":
        with pytest.raises(ValueError, match=r"^JPEG cannot hold 8 bits and alpha: .*picture\.jp"):
            write_still(tmp_path / f"picture{ending}", still)
        return
    write_still(tmp_path / f"picture{ending}", still)
    back = read_still(tmp_path / f"picture{ending}", max_pixels=LIMIT)
    assert back.has_alpha == alpha and back.is_grey == (grey and ending != ".webp")
    assert np.abs(rgb(back)[..., :3].astype(int) - rgb(still)[..., :3]).mean() < 2
    if alpha:
        assert np.array_equal(back.planes[-1], still.planes[-1])


def test_jpeg_keeps_fine_chroma(tmp_path: Path) -> None:
    """Single columns of red and blue, which 4:2:0 would melt into one violet."""
    stripes = np.zeros((16, 16), np.uint8)
    stripes[:, ::2] = 255
    write_still(tmp_path / "picture.jpg", Still((stripes * 0, 255 - stripes, stripes), False, False, 8))
    back = read_still(tmp_path / "picture.jpg", max_pixels=LIMIT)
    assert np.abs(back.planes[2].astype(int) - stripes).max() < 60


def test_endings() -> None:
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"} == STILL_ENDINGS
    kinds = {ending: holds(Path(f"a.b{ending}")) for ending in STILL_ENDINGS}
    assert kinds[".png"] == kinds[".tif"] == kinds[".tiff"] == holds(Path("a.PNG")) == (16, True)
    assert kinds[".jpg"] == kinds[".jpeg"] == kinds[".bmp"] == (8, False) and kinds[".webp"] == (8, True)
    for name in ("a.gif", "png", "a.mp4"):
        with pytest.raises(ValueError, match=rf"a still picture ends in \.png.*, got '{re.escape(name)}'"):
            holds(Path(name))


@pytest.mark.parametrize(
    ("name", "depth", "alpha"),
    [("a.jpg", 16, False), ("a.jpg", 8, True), ("a.webp", 16, True), ("a.bmp", 8, True), ("a.gif", 8, False)],
)
def test_what_a_format_cannot_hold(name: str, depth: int, alpha: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot hold|a still picture ends in"):
        write_still(tmp_path / name, still_of(False, alpha, depth))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "longest"), [("a.webp", 16383), ("a.jpg", 65500)])
def test_the_longest_side(name: str, longest: int, tmp_path: Path, leaves_nothing: None) -> None:
    still = Still((np.zeros((1, longest), np.uint8),), True, False, 8)
    write_still(tmp_path / name, still)
    assert read_still(tmp_path / name, max_pixels=LIMIT).width == longest
    with pytest.raises(OutputError, match=rf"cannot write .*{name}: .* at most {longest} rows and columns; choose"):
        write_still(tmp_path / name, Still((np.zeros((longest + 1, 1), np.uint8),), True, False, 8))
    assert read_still(tmp_path / name, max_pixels=LIMIT).width == longest


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves_nothing: None) -> None:
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "folder.png", tmp_path / "gone" / "picture.tif"):
        with pytest.raises(OutputError, match=re.escape(f"cannot write {path}: ")):
            write_still(path, still_of(False, False, 8))

    def fail(*_: object, **__: object) -> None:
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match=r"cannot write .*a\.jpg: encoder error -2; choose another format"):
        write_still(tmp_path / "a.jpg", still_of(False, False, 8))
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.png"]


def test_stills_that_contradict_themselves() -> None:
    eight, sixteen = np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint16)
    for planes, grey, alpha, depth in [
        ((), True, False, 8),
        ((eight, eight), True, False, 8),
        ((eight, eight, eight), False, True, 8),
        ((eight, eight[:1]), True, True, 8),
        ((eight, sixteen), True, True, 8),
        ((eight,), True, False, 16),
        ((eight.astype(np.uint32),), True, False, 32),
        ((eight[None],), True, False, 8),
        ((eight[:0],), True, False, 8),
    ]:
        with pytest.raises(ValueError, match="planes"):
            Still(planes, grey, alpha, depth)


# Reading what others wrote


@pytest.mark.parametrize(
    ("ending", "mode"),
    [(".png", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    + [(".tif", mode) for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16")]
    + [(".bmp", mode) for mode in ("1", "L", "P", "RGB")]
    + [(".gif", mode) for mode in ("1", "L", "P")],
)
def test_modes_of_pillow(mode: str, ending: str, tmp_path: Path) -> None:
    colours = np.zeros((6, 9, 3), np.uint8)
    colours[:3], colours[3:] = (255, 0, 0), (0, 60, 255)
    grey = np.repeat(np.array([0, 0, 0, 255, 255, 255], np.uint8), 9).reshape(6, 9)
    alpha = np.full((6, 9), 100, np.uint8)
    if mode == "I;16":
        expected = grey.astype(np.uint16) * 200 + 77
        image = Image.fromarray(expected)
    elif mode in ("1", "L", "LA"):
        image = Image.fromarray(grey).convert(mode)
        expected = np.dstack([grey, alpha]) if mode == "LA" else grey
    else:
        image = Image.fromarray(colours).convert("P" if mode == "PA" else mode)
        expected = np.dstack([colours, alpha]) if "A" in mode else colours
        if mode == "P":
            expected = np.asarray(image.convert("RGB"))
        if mode == "PA":
            image, expected = image.convert("PA"), np.dstack([np.asarray(image.convert("RGB")), alpha])
    if image.mode in ("LA", "PA", "RGBA"):
        image.putalpha(100)
    path = tmp_path / f"picture{ending}"
    image.save(path)
    still = read_still(path, max_pixels=54)
    if ending == ".gif" or (ending, mode) == (".bmp", "1"):  # they may come as palettes of greys
        assert np.array_equal(rgb(still), np.dstack([expected] * 3) if expected.ndim == 2 else expected)
    else:
        check(still, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_transparent_colours_become_alpha(mode: str, tmp_path: Path) -> None:
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[:, 3:] = (200, 20, 30)
    image = Image.fromarray(colours if mode != "L" else colours[..., 0])
    image = image.quantize(2, dither=Image.Dither.NONE) if mode == "P" else image
    image.save(tmp_path / "a.png", transparency=image.getpixel((5, 0)))
    still = read_still(tmp_path / "a.png", max_pixels=LIMIT)
    assert still.has_alpha and still.is_grey == (mode == "L")
    assert np.array_equal(still.planes[-1] == 0, np.broadcast_to(np.arange(6) >= 3, (4, 6)))
    assert np.array_equal(rgb(still)[:, :3, 3], np.full((4, 3), 255))


def test_palettes_with_degrees_of_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putdata([0, 1, 2])
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    expected = [[[10, 20, 30, 0], [40, 50, 60, 128], [70, 80, 90, 255]]]
    check(read_still(tmp_path / "a.png", max_pixels=LIMIT), np.array(expected, np.uint8))


@pytest.mark.parametrize(("colour_type", "shape"), [(0, (5, 7)), (2, (5, 7, 3)), (4, (5, 7, 2)), (6, (5, 7, 4))])
def test_png_of_16_bits(colour_type: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = noise(shape, 16)
    profile = chunk(b"iCCP", b"a name\0\0" + zlib.compress(ICC))
    (tmp_path / "a.png").write_bytes(
        png(pixels, colour_type, before=profile + chunk(b"gAMA", struct.pack(">I", 45455)))
    )
    still = read_still(tmp_path / "a.png", max_pixels=LIMIT)
    check(still, pixels)
    assert still.icc == ICC


def test_transparent_colours_of_16_bits(tmp_path: Path) -> None:
    """Equal high bytes are not enough."""
    for colour_type, channels in ((0, 1), (2, 3)):
        pixels = np.full((3, 4, channels), 0x1234, np.uint16)
        pixels[1, 2, -1] = 0x1235
        key = chunk(b"tRNS", struct.pack(f">{channels}H", *pixels[1, 2]))
        (tmp_path / "a.png").write_bytes(png(pixels, colour_type, before=key))
        alpha = np.full((3, 4), 65535, np.uint16)
        alpha[1, 2] = 0
        check(read_still(tmp_path / "a.png", max_pixels=LIMIT), np.dstack([pixels, alpha]))


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
@DEPTHS
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_every_order(order: str, big: bool, depth: int, channels: int, tmp_path: Path) -> None:
    pixels = noise((5, 7, channels), depth)
    (tmp_path / "a.tif").write_bytes(tiff(pixels, {338: ("H", (2,))} if channels == 4 else {}, order, big))
    check(read_still(tmp_path / "a.tif", max_pixels=LIMIT), pixels)


@pytest.mark.parametrize(("compression", "name"), [(5, "LZW"), (8, "Deflate")])
def test_compressed_tiff_of_16_bits(compression: int, name: str, tmp_path: Path) -> None:
    pixels = noise((40, 30, 3), 16)
    written, encoded = cv2.imencode(".tif", pixels[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    assert written, name
    (tmp_path / "a.tif").write_bytes(encoded.tobytes())
    check(read_still(tmp_path / "a.tif", max_pixels=LIMIT), pixels)


@DEPTHS
def test_what_the_fourth_sample_of_a_tiff_is(depth: int, tmp_path: Path) -> None:
    top = (1 << depth) - 1
    pixels = np.zeros((1, 3, 4), np.uint8 if depth == 8 else np.uint16)
    pixels[0] = [(top // 5, top // 5 * 2, 0, top // 5 * 2), (0, 0, 0, 0), (top, 0, top, top)]
    path = tmp_path / "a.tif"
    for meaning, expected in (
        (0, pixels[..., :3]),
        (1, [[(top // 2 + 1, top, 0, top // 5 * 2), (0, 0, 0, 0), (top, 0, top, top)]]),
        (2, pixels),
    ):
        path.write_bytes(tiff(pixels, {338: ("H", (meaning,))}))
        still = read_still(path, max_pixels=LIMIT)
        assert still.has_alpha == (meaning > 0)
        assert np.abs(rgb(still).astype(int) - np.array(expected, int)).max() <= (meaning == 1)


@pytest.mark.parametrize("depth", [8, 16])
def test_tiff_in_which_white_is_zero(depth: int, tmp_path: Path) -> None:
    pixels = noise((5, 7), depth)
    (tmp_path / "a.tif").write_bytes(tiff(pixels, {262: ("H", (0,))}))
    check(read_still(tmp_path / "a.tif", max_pixels=LIMIT), ~pixels)


@pytest.mark.parametrize(
    ("ending", "depth"), [(".png", 8), (".tif", 8), (".jpg", 8), (".webp", 8), (".png", 16), (".tif", 16)]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation: int, ending: str, depth: int, tmp_path: Path, leaves_nothing: None) -> None:
    path = tmp_path / f"picture{ending}"
    pixels = np.repeat(np.repeat(noise((2, 3, 3), depth, seed=5), 16, 0), 16, 1)
    if ending == ".tif":
        path.write_bytes(tiff(pixels, {274: ("H", (orientation,))}))
    elif depth == 16:
        place = {"before" if orientation % 2 else "behind": chunk(b"eXIf", exif(orientation))}
        path.write_bytes(png(pixels, 2, **place))
    else:
        options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(ending, {})
        Image.fromarray(pixels).save(path, exif=b"Exif\0\0" + exif(orientation), **options)
    still, expected = read_still(path, max_pixels=LIMIT), upright(pixels, orientation)
    if ending == ".jpg":
        assert (still.height, still.width) == expected.shape[:2]
        assert np.abs(rgb(still).astype(int) - expected).max() < 12
    else:
        check(still, np.ascontiguousarray(expected))
    write_still(path, still)
    again = read_still(path, max_pixels=LIMIT)
    assert (again.height, again.width) == expected.shape[:2], "turned twice"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_of_grey_with_alpha(orientation: int, tmp_path: Path) -> None:
    """Put into what is written: no other program at hand writes such a TIFF."""
    still = still_of(True, True, 16)
    write_still(tmp_path / "a.tif", still)
    content = (tmp_path / "a.tif").read_bytes()
    entry = struct.pack("<HHIHH", 284, 3, 1, 1, 0)  # of no consequence: the planes are together
    assert content.count(entry) == 1
    content = content.replace(entry, struct.pack("<HHIHH", 274, 3, 1, orientation, 0))
    (tmp_path / "a.tif").write_bytes(content)
    expected = upright(np.stack(still.planes, -1), orientation)
    check(read_still(tmp_path / "a.tif", max_pixels=LIMIT), expected)


@pytest.mark.parametrize(
    "content", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09\0\0", exif(0), exif(9)]
)
@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp"])
def test_damaged_exif_is_none(content: bytes, ending: str, tmp_path: Path) -> None:
    """And warns of nothing: in tests, warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.fromarray(noise((4, 6, 3))).save(tmp_path / f"a{ending}", exif=content)
    still = read_still(tmp_path / f"a{ending}", max_pixels=LIMIT)
    assert (still.height, still.width) == (4, 6)


def test_cmyk_loses_its_profile(tmp_path: Path) -> None:
    ink = noise((2, 3, 4)).repeat(16, 0).repeat(16, 1)
    for ending in (".jpg", ".tif"):
        Image.fromarray(ink, "CMYK").save(tmp_path / f"a{ending}", icc_profile=ICC, quality=95)
        still = read_still(tmp_path / f"a{ending}", max_pixels=LIMIT)
        share = ink.astype(float) / 255
        expected = 255 * (1 - share[..., :3]) * (1 - share[..., 3:])
        assert still.icc is None and not still.has_alpha and not still.is_grey
        assert np.abs(rgb(still) - expected)[8::16, 8::16].max() < 8


def test_the_first_of_several_pages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = noise((4, 6)), noise((4, 6), seed=1)
    Image.fromarray(first).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(second)])
    check(read_still(tmp_path / "a.tif", max_pixels=LIMIT), first)
    assert "has several pages; only the first is used" in caplog.text
    caplog.clear()
    Image.fromarray(first).save(tmp_path / "b.tif")
    check(read_still(tmp_path / "b.tif", max_pixels=LIMIT), first)
    assert not caplog.text


def test_what_the_name_says_does_not_count(tmp_path: Path) -> None:
    write_still(tmp_path / "a.png", still_of(False, False, 16))
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert same(read_still(tmp_path / "a.jpg", max_pixels=LIMIT), still_of(False, False, 16))


def test_real_pictures(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "test"
    grey = read_still(folder / "Set14" / "bridge.png", max_pixels=LIMIT)
    colour = read_still(folder / "Set5" / "butterfly.png", max_pixels=LIMIT)
    assert np.array_equal(rgb(grey), read_picture(folder / "Set14" / "bridge.png"))
    assert np.array_equal(rgb(colour), read_picture(folder / "Set5" / "butterfly.png"))
    for ending in (".jpg", ".webp"):
        write_still(tmp_path / f"a{ending}", colour)
        back = read_still(tmp_path / f"a{ending}", max_pixels=LIMIT)
        error = np.mean((rgb(back).astype(float) - rgb(colour)) ** 2)
        assert 10 * np.log10(255**2 / error) > 33  # WebP's chroma has half the rows and columns


# Refused


def bomb(name: str, width: int = 100_000, height: int = 100_000) -> bytes:
    """A small file whose header says 100000x100000, or what is asked for."""
    small = io.BytesIO()
    if name == "tif":
        return tiff(noise((2, 2, 3)), {256: ("I", (width,)), 257: ("I", (height,))})
    if name == "tif16":
        return tiff(noise((2, 2, 3), 16), {256: ("I", (width,)), 257: ("I", (height,))})
    if name.startswith("png"):
        header = struct.pack(">IIBBBBB", width, height, 8 if name == "png" else 16, 2, 0, 0, 0)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + chunks
    Image.new("RGB", (8, 8)).save(small, "BMP")
    content = bytearray(small.getvalue())
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


@pytest.mark.parametrize("name", ["png", "png16", "tif", "tif16", "bmp"])
def test_bombs(name: str, tmp_path: Path, leaves_nothing: None) -> None:
    path = tmp_path / name
    path.write_bytes(bomb(name))
    with pytest.raises(InputError) as caught:
        read_still(path, max_pixels=200_000_000)
    message = f"{path} has 100000x100000 pixels, more than 200000000; raise max_pixels to read it."
    assert str(caught.value) == message and not is_animated(path)


@pytest.mark.parametrize(("width", "height"), [(99_999_999, 1), (1, 99_999_999), (MAX_SIDE + 1, 2)])
@pytest.mark.parametrize("name", ["png", "png16", "tif", "tif16", "bmp"])
def test_absurd_shapes(name: str, width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by the header: none of the decoders is asked."""
    path = tmp_path / name
    path.write_bytes(bomb(name, width, height))
    for decoder in ("PIL.ImageFile.ImageFile.load", "PIL.TiffImagePlugin.TiffImageFile.load", "cv2.imdecode"):
        monkeypatch.setattr(decoder, None)
    with pytest.raises(InputError) as caught:
        read_still(path, max_pixels=200_000_000)
    said = f"{path} has {width}x{height} pixels, and a side of more than {MAX_SIDE}; cut it into parts."
    assert str(caught.value) == said


def test_the_canvas_of_a_webp(tmp_path: Path) -> None:
    """It says twice how large it is. Pillow refuses what is beyond its limit, and Pillow 12 what contradicts itself."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    content = bytearray((tmp_path / "a.webp").read_bytes())
    assert content[12:16] == b"VP8X"
    for side in (1000, 100_000):
        content[24:30] = (side - 1).to_bytes(3, "little") * 2
        (tmp_path / "a.webp").write_bytes(content)
        with pytest.raises(
            InputError, match=r"a\.webp (has (1000x1000 pixels, more than|more pixels than can)|is a damaged)"
        ):
            read_still(tmp_path / "a.webp", max_pixels=999_999)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_the_limit_is_exact(ending: str, tmp_path: Path) -> None:
    write_still(tmp_path / f"a{ending}", still_of(False, False, 8, (5, 7)))
    assert read_still(tmp_path / f"a{ending}", max_pixels=35).width == 7
    with pytest.raises(InputError, match=r"has 7x5 pixels, more than 34; raise max_pixels"):
        read_still(tmp_path / f"a{ending}", max_pixels=34)


def test_the_limit_is_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's would warn from 90 million pixels on, and refuse twice as many: it does in WebP and compressed TIFF."""
    for limit in (200, 10):  # 256 are at first worth a warning, then refused
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for name, depth in (("a.png", 8), ("a.jpg", 8), ("a.bmp", 8), ("b.png", 16), ("b.tif", 16), ("a.tif", 8)):
            write_still(tmp_path / name, still_of(False, False, depth, (16, 16)))
            if (limit, name) != (10, "a.tif"):
                assert read_still(tmp_path / name, max_pixels=256).width == 16
        assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match=r"a\.tif has more pixels than can be read of its format; convert it to PNG"):
        read_still(tmp_path / "a.tif", max_pixels=256)


@pytest.mark.parametrize(
    "name", ["8.png", "16.png", "8.tif", "16.tif", "8.jpg", "8.webp", "8.bmp", "alpha.png", "alpha.tif"]
)
def test_cut_short(name: str, tmp_path: Path, leaves_nothing: None) -> None:
    path = tmp_path / name
    alpha = name.startswith("alpha")
    write_still(path, still_of(alpha, alpha, 16 if alpha or name.startswith("16") else 8, (64, 64)))
    whole = path.read_bytes()
    for length in (16, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))} is a damaged picture \(.+\); fetch or export"):
            read_still(path, max_pixels=LIMIT)


@pytest.mark.parametrize("name", ["8.png", "16.png"])
def test_flipped_bits(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_still(path, still_of(False, False, int(name.split(".")[0]), (64, 64)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match="is a damaged picture"):
        read_still(path, max_pixels=LIMIT)


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all\n", bytes(range(256)) * 8, b"RIFF\0\0\0\0WAVEfmt ", b"%PDF-1.7", b"\x89PNG"]
)
def test_no_picture(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_still(path, max_pixels=LIMIT)
    assert str(caught.value) == f"{path} is not a picture that can be read; PNG, JPEG, WebP, TIFF, BMP and GIF can."
    assert not is_animated(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "gone.png", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError) as caught:
            read_still(path, max_pixels=LIMIT)
        assert str(caught.value) == f"cannot read {path}: {reason}." and not is_animated(path)


@pytest.mark.parametrize(
    ("pixels", "tags", "message"),
    [
        (np.zeros((2, 3), np.float32), {339: ("H", (3,))}, "has floating-point samples of 32 bits; convert it to 8"),
        (np.zeros((2, 3, 3), np.float32), {339: ("H", (3, 3, 3))}, "has floating-point samples of 32 bits"),
        (np.zeros((2, 3, 3), np.float16), {339: ("H", (3, 3, 3))}, "has floating-point samples of 16 bits"),
        (np.zeros((2, 3), np.int16), {339: ("H", (2,))}, "has signed samples of 16 bits"),
        (np.zeros((2, 3), np.uint32), {}, "has unsigned samples of 32 bits"),
        (np.zeros((2, 3, 4), np.uint16), {262: ("H", (5,))}, "16-bit TIFF of a rare layout; convert it"),
        (np.zeros((2, 3, 3), np.uint16), {284: ("H", (2,))}, "16-bit TIFF of a rare layout"),
        (np.zeros((2, 3, 2), np.uint16), {}, "damaged picture .*Deflate with a predictor only"),
        (np.zeros((2, 3, 3), np.uint8), {262: ("H", (8,))}, "has samples of the kind LAB; convert it to RGB"),
    ],
)
def test_tiffs_of_other_kinds(
    pixels: np.ndarray, tags: dict[int, tuple[str, tuple[int, ...]]], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(pixels, tags))
    with pytest.raises(InputError, match=rf"a\.tif .*{message}"):
        read_still(tmp_path / "a.tif", max_pixels=LIMIT)


def test_hdr_is_no_picture_of_ours(tmp_path: Path) -> None:
    written, encoded = cv2.imencode(".hdr", np.ones((4, 6, 3), np.float32))
    assert written
    (tmp_path / "a.hdr").write_bytes(encoded.tobytes())
    with pytest.raises(InputError, match="is not a picture that can be read"):
        read_still(tmp_path / "a.hdr", max_pixels=LIMIT)


def test_damaged_exif_warns_of_nothing(tmp_path: Path) -> None:
    """Outside of pytest, which has filters of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.fromarray(noise((4, 6, 3))).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\0\0")
    code = (
        "import sys, warnings\nfrom pathlib import Path\nfrom vsr.imaging.pictures import read_picture, read_still\n"
        "path = Path(sys.argv[1])\nread_picture(path), read_still(path, max_pixels=24)\n"
        "warnings.warn('still heard')"
    )
    command = [sys.executable, "-W", "always", "-c", code, tmp_path / "a.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "PIL" not in done.stderr and "UserWarning: still heard" in done.stderr


def test_threads_leave_the_filters_of_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And read at the same time."""
    write_still(tmp_path / "a.png", still_of(False, False, 8))
    before, opened, together = list(warnings.filters), PngImagePlugin.PngImageFile._open, Barrier(4, timeout=30)

    def slow_open(image: PngImagePlugin.PngImageFile) -> object:
        together.wait()
        return opened(image)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", slow_open)
    with ThreadPoolExecutor(4) as pool:
        stills = list(pool.map(lambda _: read_still(tmp_path / "a.png", max_pixels=35), range(8)))
    assert all(same(still, stills[0]) for still in stills) and list(warnings.filters) == before


# Animations


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_animations(ending: str, tmp_path: Path, leaves_nothing: None) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    moving, standing, lone = (tmp_path / f"{name}{ending}" for name in ("moving", "standing", "lone"))
    frames[0].save(moving, save_all=True, append_images=frames[1:], duration=100)
    frames[0].save(standing)
    frames[0].save(lone, save_all=True)
    with Image.open(moving) as image:
        assert len(list(ImageSequence.Iterator(image))) == 3
    assert [is_animated(path) for path in (moving, standing, lone)] == [True, False, False]
    first = rgb(read_still(moving, max_pixels=LIMIT))
    assert (first[..., 0] > 240).all() and (first[..., 1:3] < 15).all()


def test_pages_do_not_move(tmp_path: Path) -> None:
    pages = [Image.fromarray(noise((4, 6), seed=seed)) for seed in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    write_still(tmp_path / "a.jpg", still_of(False, False, 8))
    write_still(tmp_path / "a.bmp", still_of(False, False, 8))
    assert not any(is_animated(tmp_path / f"a{ending}") for ending in (".tif", ".jpg", ".bmp"))


def test_an_animation_cut_short(tmp_path: Path, leaves_nothing: None) -> None:
    frames = [Image.fromarray(noise((64, 64, 3), seed=seed)) for seed in range(2)]
    for ending in (".gif", ".webp", ".png"):
        path = tmp_path / f"a{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        for length in (13, 40, path.stat().st_size // 3):
            path.write_bytes(path.read_bytes()[:length])
            assert is_animated(path) in (True, False)


def test_text_of_a_png_does_not_matter(tmp_path: Path) -> None:
    """A profile called otherwise, text, and a resolution: none of it becomes part of the picture."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "ä" * 1000, zip=True)
    pixels = noise((4, 6, 3))
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info, dpi=(300, 300))
    check(read_still(tmp_path / "a.png", max_pixels=LIMIT), pixels)


@pytest.mark.parametrize(("tag", "value"), [(50706, b"\1\4\0\0"), (254, 1)])
def test_a_raw_photograph_is_not_taken_for_its_thumbnail(tag: int, value: int | bytes, tmp_path: Path) -> None:
    """The camera's own formats are TIFFs whose first picture is small, or made of single colours."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[tag] = value
    directory.tagtype[tag] = 1 if isinstance(value, bytes) else 4
    path = tmp_path / "in.dng"
    Image.new("RGB", (8, 6)).save(path, "TIFF", tiffinfo=directory)
    with pytest.raises(InputError) as caught:
        read_still(path, max_pixels=MAX_PIXELS)
    assert str(caught.value).startswith(f"{path} is a raw photograph, or a thumbnail comes first in it")
