from __future__ import annotations

import io
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from PIL import Image

from vsr.errors import InputError, OutputError
from vsr.imaging.pictures import ENDINGS, PictureFile, Stored, decode_picture, picture_size, read_picture, write_picture

HALVES = np.zeros((4, 6, 3), np.uint8)
HALVES[:, :3] = (200, 30, 10)
HALVES[:, 3:] = (20, 60, 220)
"""(H, W, 3) RGB: left red, right blue."""


def store(path: Path, picture: np.ndarray) -> Path:
    """Writes grey, BGR or BGRA as OpenCV has it, under any name."""
    written, encoded = cv2.imencode(path.suffix, picture)
    assert written
    path.write_bytes(encoded.tobytes())
    return path


def check(picture: np.ndarray, expected: np.ndarray) -> None:
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and picture.flags.writeable
    assert picture.shape == expected.shape and np.array_equal(picture, expected)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".tiff", ".webp", ".PNG"])
def test_colours_are_in_order(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{ending}"
    store(path.with_suffix(ending.lower()), HALVES[..., ::-1]).rename(path)
    picture = read_picture(path)
    if ending == ".webp":  # lossy, if only a little
        assert picture.shape == HALVES.shape and picture[0, 0].argmax() == 0 and picture[0, 5].argmax() == 2
    else:
        check(picture, HALVES)
    assert ending.lower() in ENDINGS


def test_jpeg(tmp_path: Path) -> None:
    flat = np.full((16, 24, 3), (200, 30, 10), np.uint8)
    picture = read_picture(store(tmp_path / "picture.jpg", flat[..., ::-1]))
    assert picture.shape == flat.shape and np.abs(picture.astype(int) - flat).max() <= 2


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    check(read_picture(store(tmp_path / "grey.png", grey)), np.stack([grey] * 3, -1))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.array([[0, 50, 100, 150, 200, 255]] * 4, np.uint8)
    check(read_picture(store(tmp_path / "rgba.png", np.dstack([HALVES[..., ::-1], alpha]))), HALVES)


def test_the_high_byte_of_16_bits(tmp_path: Path) -> None:
    wide = HALVES[..., ::-1].astype(np.uint16) * 257
    check(read_picture(store(tmp_path / "wide.png", wide)), HALVES)
    check(read_picture(store(tmp_path / "wide.tif", wide)), HALVES)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Puts an EXIF block with nothing but an orientation behind the first marker."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", 1) + entry + bytes(4)
    block = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


@pytest.mark.parametrize(
    ("orientation", "shape", "reddest"),
    [
        (1, (16, 32), "left"),
        (2, (16, 32), "right"),
        (3, (16, 32), "right"),
        (6, (32, 16), "top"),
        (8, (32, 16), "bottom"),
    ],
)
def test_exif_rotation(orientation: int, shape: tuple[int, int], reddest: str, tmp_path: Path) -> None:
    halves = np.repeat(np.repeat(HALVES, 4, 0), 6, 1)[:, 2:34]
    path = store(tmp_path / "picture.jpg", halves[..., ::-1])
    path.write_bytes(with_orientation(path.read_bytes(), orientation))
    picture = read_picture(path)
    assert picture.shape == (*shape, 3)
    edges = {"left": picture[:, 0], "right": picture[:, -1], "top": picture[0], "bottom": picture[-1]}
    assert max(edges, key=lambda edge: edges[edge][..., 0].mean()) == reddest


@pytest.mark.parametrize("name", ["Füße 映画.png", "sp ace.png", "#?%20.png", os.fsdecode(b"latin-\xf6.png")])
def test_names(name: str, tmp_path: Path) -> None:
    store(tmp_path / "plain.png", HALVES[..., ::-1]).rename(tmp_path / name)
    check(read_picture(tmp_path / name), HALVES)


def test_real_pictures(shared_data: Path) -> None:
    grey = read_picture(shared_data / "test" / "Set14" / "bridge.png")
    assert grey.ndim == 3 and np.array_equal(grey[..., 0], grey[..., 2])
    colour = read_picture(shared_data / "test" / "Set5" / "butterfly.png")
    assert colour.shape == (256, 256, 3) and colour[..., 0].mean() > colour[..., 2].mean() + 20  # orange, not blue


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.png", b""), ("text.png", b"no picture at all\n"), ("noise.jpg", bytes(range(256)) * 8)],
)
def test_no_picture(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert str(caught.value) == f"{path} is not a picture that can be decoded"


def test_a_size_beyond_reason(tmp_path: Path) -> None:
    path = store(tmp_path / "huge.bmp", HALVES)
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<ii", 2_000_000, 2_000_000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"huge\.bmp is too large a picture: "):
        read_picture(path)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_cut_short(ending: str, tmp_path: Path) -> None:
    """Half a picture is none: what OpenCV makes up for the rest would be taken for a picture."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = store(tmp_path / f"half{ending}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"half{re.escape(ending)} is "):
        read_picture(path)


def absurd_tiff(width: int, height: int) -> bytes:
    """A header, and nothing behind it."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 1)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("width", "height"), [(65536, 32768), (1 << 31, 1), ((1 << 32) - 1, (1 << 32) - 1)])
def test_a_tiff_of_absurd_size(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "absurd.tif"
    path.write_bytes(absurd_tiff(width, height))
    for look in (read_picture, picture_size):
        with pytest.raises(InputError) as caught:
            look(path)
        assert str(caught.value) == f"{path} is too large a picture: {width}x{height}, more than 178956970 pixels"


def test_a_tiff_of_no_size(tmp_path: Path) -> None:
    path = tmp_path / "flat.tif"
    path.write_bytes(absurd_tiff(0, 10))
    with pytest.raises(InputError, match=r"flat\.tif is a damaged picture: it has 0x10 pixels"):
        picture_size(path)


def test_a_file_larger_than_any_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.imaging.pictures.MAX_MEMBER_BYTES", 1 << 20)
    path = store(tmp_path / "large.png", HALVES)
    with open(path, "ab") as file:
        file.truncate(1 << 21)
    for read in (read_picture, lambda path: PictureFile(path).read()):
        with pytest.raises(InputError, match=r"large\.png is too large a picture: more than 1 MiB"):
            read(path)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_decoders_write_nothing_of_damage(ending: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Cut short, and changed bytes, by chance: an error of ours, or a picture, and nothing on the terminal."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = cv2.imencode(ending, noise)[1].tobytes()
    random = Random(0)
    refused = 0
    for attempt in range(120):
        content = bytearray(whole)
        if attempt % 3 == 0:
            del content[random.randrange(len(content)) :]
        for _ in range(attempt % 3):
            content[random.randrange(300 if attempt % 2 else len(content))] = random.randrange(256)
        for look in (decode_picture, picture_size):
            try:
                look(bytes(content), "a name")
            except InputError as exc:
                refused += 1
                assert str(exc).startswith("a name is ")
    assert refused > 40
    assert capfd.readouterr() == ("", "")


def test_a_png_with_what_libpng_complains_of(capfd: pytest.CaptureFixture[str]) -> None:
    """Damage beside the pixels, and a profile that it takes for wrong."""

    def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
        crc = zlib.crc32(kind + content) if crc is None else crc
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    head = 8 + 25
    extras = chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(200))) + chunk(b"tEXt", b"a", 7) + chunk(b"zzZz", b"")
    check(decode_picture(PNG[:head] + extras + PNG[head:] + b"behind the end", "a name"), HALVES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_as_opencv_has_it(orientation: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for mode in ("RGB", "L"):
        stored = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(stored, "JPEG", quality=80, exif=exif)
        opencv = cv2.imdecode(np.frombuffer(stored.getvalue(), np.uint8), cv2.IMREAD_COLOR)
        assert opencv is not None and np.array_equal(decode_picture(stored.getvalue(), "a name"), opencv[..., ::-1])


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_picture(tmp_path / "gone.png")
    assert str(caught.value) == f"cannot read {tmp_path / 'gone.png'}: No such file or directory"
    with pytest.raises(InputError) as caught:
        read_picture(tmp_path)
    assert str(caught.value) == f"cannot read {tmp_path}: Is a directory"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_every_mode_becomes_rgb(mode: str, ending: str, tmp_path: Path) -> None:
    """Written by Pillow, so that no decoder is tested against its own encoder."""
    red = np.full((6, 9, 3), (255, 0, 0), np.uint8)
    red[:3] = (0, 0, 255)
    grey = np.repeat(np.array([[0], [255]], np.uint8), 9, 1).repeat(3, 0)
    if mode == "I;16":
        image, expected = Image.fromarray(grey.astype(np.uint16) * 200 + 77), np.array([0, 77 + 255 * 200]) >> 8
        expected = np.repeat(expected, 3)[:, None, None] * np.ones((1, 9, 3), np.int64)
    elif mode in ("1", "L", "LA"):
        image, expected = Image.fromarray(grey).convert(mode), np.stack([grey] * 3, -1)
    else:
        image, expected = Image.fromarray(red).convert(mode), red
    if image.mode in ("LA", "RGBA"):
        image.putalpha(100)
    path = tmp_path / f"picture{ending}"
    image.save(path)
    check(read_picture(path), expected)
    assert picture_size(path) == picture_size(path.read_bytes()) == (6, 9)


@pytest.mark.parametrize(("transform", "name"), [(0, "CMYK"), (2, "YCCK")])
def test_cmyk_jpeg(transform: int, name: str) -> None:
    """Adobe's inverted CMYK, against Pillow; the transform decides which of the two the same data are."""
    blocks = np.random.default_rng(0).integers(0, 256, (4, 4, 4), np.uint8)
    stored = io.BytesIO()
    Image.fromarray(blocks.repeat(16, 0).repeat(16, 1), "CMYK").save(stored, "JPEG", quality=95)
    content = bytearray(stored.getvalue())
    content[content.index(b"Adobe") + 11] = transform
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    picture = decode_picture(bytes(content), name)
    assert picture.shape == (64, 64, 3) and np.abs(picture - expected).max() <= 2
    if transform == 0:  # by the formula, in the middle of a block: R = (1 - C)(1 - K)
        ink = blocks[1, 2].astype(float) / 255
        assert np.abs(picture[24, 40] / 255 - (1 - ink[:3]) * (1 - ink[3])).max() < 0.03


@pytest.mark.parametrize(
    ("ending", "mode"), [(".jpg", "RGB"), (".png", "RGB"), (".webp", "RGB"), (".tif", "RGB"), (".tif", "RGBA")]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_behind_the_rotation(ending: str, mode: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture{ending}"
    Image.fromarray(HALVES.repeat(4, 0).repeat(8, 1)).convert(mode).save(path, exif=exif)
    expected = (16, 48) if orientation < 5 else (48, 16)
    assert picture_size(path) == picture_size(path.read_bytes(), "name") == expected
    assert read_picture(path).shape == (*expected, 3)


def test_a_size_takes_the_header_alone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    for ending in (".jpg", ".png"):
        path = store(tmp_path / f"cut{ending}", noise)
        assert path.stat().st_size > 2000
        assert picture_size(path.read_bytes()[:700]) == (64, 48)


@pytest.mark.filterwarnings("ignore:.*EXIF data:UserWarning")  # Pillow's own
@pytest.mark.parametrize("exif", [b"", b"II", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\0\0"])
def test_damaged_exif_is_none(exif: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(HALVES).save(path, exif=exif)
    assert picture_size(path) == read_picture(path).shape[:2] == (4, 6)


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.png", b""), ("text.jpg", b"no picture\n"), ("cut.tif", b"II*\0\x08\0\0\0\x05\0"), ("head.tif", b"II*\0")],
)
def test_no_size(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        picture_size(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name} is not a picture that can be decoded"
    with pytest.raises(InputError, match="^a name is not a picture"):
        picture_size(content, "a name")


def test_no_size_of_what_is_missing_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        picture_size(tmp_path / "gone.png")
    assert str(caught.value) == f"cannot read {tmp_path / 'gone.png'}: No such file or directory"
    content = bytearray(store(tmp_path / "huge.bmp", HALVES).read_bytes())
    content[18:26] = struct.pack("<ii", 2_000_000, 2_000_000)
    with pytest.raises(InputError, match="huge.bmp is too large a picture"):
        picture_size(bytes(content), "huge.bmp")


def test_written_pictures_come_back(tmp_path: Path, leaves_nothing: None) -> None:
    path = tmp_path / "Füße.sample"
    path.write_bytes(b"what stood there before")
    write_picture(path, HALVES[:, ::-1])
    assert path.read_bytes().startswith(b"\x89PNG")
    check(read_picture(path), HALVES[:, ::-1])
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written(tmp_path: Path, leaves_nothing: None) -> None:
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "folder.png", tmp_path / "gone" / "picture.png"):
        with pytest.raises(OutputError, match=re.escape(f"cannot write {path}: ")):
            write_picture(path, HALVES)
    for wrong in (HALVES[..., 0], HALVES.astype(float), HALVES[:0]):
        with pytest.raises(ValueError, match="a picture is"):
            write_picture(tmp_path / "picture.png", wrong)
    assert not (tmp_path / "picture.png").exists()


# Zip archives

PNG = cv2.imencode(".png", HALVES[..., ::-1])[1].tobytes()


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> list[PictureFile]:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        infos = archive.infolist()
    return [PictureFile(path, info.filename, stored=Stored.of(info)) for info in infos]


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
def test_members_are_read_in_place(method: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    large = {ending: cv2.imencode(ending, noise)[1].tobytes() for ending in (".png", ".tif", ".jpg")}
    assert min(map(len, large.values())) > 1 << 16
    contents = {"a.png": PNG, "f/ü.png": large[".png"], "f/b.tif": large[".tif"], "c.jpg": large[".jpg"]}
    files = zipped(tmp_path / "a.zip", contents, method)
    for file in [*files, *pickle.loads(pickle.dumps(files))]:
        assert file.read() == contents[file.member]
        assert file.size() == ((4, 6) if file.member == "a.png" else (200, 300))
        assert file.name == f"{tmp_path}/a.zip:{file.member}" and file.relative == file.member
    assert PictureFile(tmp_path / "a.zip", "f/ü.png").read() == large[".png"]
    assert len(pickle.dumps(files[0])) < 500


def test_what_stands_before_a_member(tmp_path: Path) -> None:
    """Archivers put times and owners between a member's name and its content."""
    info = zipfile.ZipInfo("a.png")
    info.extra = struct.pack("<HHI", 0x9999, 4, 0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("first.png", PNG)
        archive.writestr(info, PNG)
    info.extra = b""
    stored = Stored.of(info)
    assert info.header_offset > 0 and PictureFile(tmp_path / "a.zip", "a.png", stored=stored).read() == PNG


def test_a_header_beyond_the_first_part_of_a_member(tmp_path: Path) -> None:
    """A JPEG whose comments fill more than what is read at first."""
    jpeg = cv2.imencode(".jpg", HALVES)[1].tobytes()
    comment = b"\xff\xfe" + struct.pack(">H", 60002) + bytes(60000)
    file = zipped(tmp_path / "a.zip", {"a.jpg": jpeg[:2] + 2 * comment + jpeg[2:]}, zipfile.ZIP_STORED)[0]
    assert file.size() == (4, 6)


def test_members_that_are_damaged_or_gone(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(1000)
    for method in METHODS:
        path = tmp_path / f"{method}.zip"
        first, second = zipped(path, {"a.png": noise, "b.png": noise}, method)
        content = bytearray(path.read_bytes())
        content[100:120] = bytes(20)
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{method}\.zip:a\.png is damaged") as caught:
            first.read()
        assert not isinstance(caught.value.__cause__, OSError)
        assert second.read() == noise
        path.write_bytes(content[:500])
        for file in (second, PictureFile(path, "b.png")):
            with pytest.raises(InputError, match=r"zip:b\.png is damaged"):
                file.read()
    zipped(tmp_path / "0.zip", {"a.png": noise})
    with pytest.raises(InputError, match=r"0\.zip:gone\.png is damaged.*no item named 'gone\.png'"):
        PictureFile(tmp_path / "0.zip", "gone.png").read()
    path.unlink()
    for file in (second, PictureFile(path, "b.png"), PictureFile(path)):
        with pytest.raises(InputError, match=rf"^cannot read {re.escape(file.name)}: No such file") as caught:
            file.read()
        assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bombs(method: int, tmp_path: Path) -> None:
    """A thousand times as large as they are, and saying so or not."""
    path = tmp_path / "bomb.zip"
    (file,) = zipped(path, {"a.png": PNG + bytes(200 << 20)}, method)
    assert path.stat().st_size < 1 << 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vsr.imaging.pictures.MAX_MEMBER_BYTES", 100 << 20)
        with pytest.raises(InputError, match=r"bomb\.zip:a\.png is damaged, .* more than 100 MiB"):
            file.read()
    # The size in the archive's list, which is what is read first, is made small.
    content = path.read_bytes()
    true, false = struct.pack("<I", len(PNG) + (200 << 20)), struct.pack("<I", len(PNG))
    path.write_bytes(content.replace(true, false))
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
    assert info.file_size == len(PNG)
    tracemalloc.start()
    try:
        for liar in (replace(file, stored=Stored.of(info)), replace(file, stored=None)):
            with pytest.raises(InputError, match=r"bomb\.zip:a\.png is damaged"):
                liar.read()
            with suppress(InputError):
                liar.size()
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_a_member_that_says_to_be_larger_than_the_archive(tmp_path: Path) -> None:
    (file,) = zipped(tmp_path / "a.zip", {"a.png": PNG})
    assert file.stored is not None
    for stored in (file.stored._replace(compressed=1 << 40), file.stored._replace(size=1 << 40)):
        with pytest.raises(InputError, match=r"a\.png is damaged, .* more than 1024 MiB"):
            replace(file, stored=stored).read()
    with pytest.raises(InputError, match=r"a\.png is damaged, .* its size or checksum"):
        replace(file, stored=file.stored._replace(size=len(PNG) + 1)).read()


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for look in (read_picture, picture_size, lambda path: PictureFile(path).read()):
        with pytest.raises(InputError, match=r"cannot read .*pipe\.png: it is a pipe or a device"):
            look(tmp_path / "pipe.png")


def test_threads_read_one_archive(tmp_path: Path, leaves_nothing: None) -> None:
    contents = {f"{index}.png": bytes([index]) * 5000 + PNG for index in range(64)}
    files = zipped(tmp_path / "a.zip", contents)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(PictureFile.read, files)) == list(contents.values())
