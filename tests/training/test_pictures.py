from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vsr.errors import InputError, TrainingDataError
from vsr.training.pictures import PictureSet, ahead, find_pictures


def atlas(number: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB whose every pixel tells its row, its column and the picture's number."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], -1).astype(np.uint8)


def write(path: Path, picture: np.ndarray) -> Path:
    """Writes grey, RGB or RGBA of 8 or 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {2: picture, 3: picture[..., :3][..., ::-1]}[picture.ndim]
    if picture.ndim == 3 and picture.shape[2] == 4:
        stored = np.concatenate([stored, picture[..., 3:]], -1)
    assert cv2.imwrite(str(path), stored)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Six atlases of 20 to 45 pixels."""
    return [write(tmp_path / f"{index}.png", atlas(index, 20 + index, 45 - 3 * index)) for index in range(6)]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, whatever a command that ran before has made of the loggers."""
    monkeypatch.setattr(logging.getLogger("vsr"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="vsr")
    return caplog


def test_folders_are_searched_through(tmp_path: Path) -> None:
    names = ["b.png", "a.JPG", "deep/er/c.webp", "deep/d.jpeg", "e.tif", "f.TIFF", "g.bmp"]
    for name in [*names, "notes.txt", "clip.mp4", "deep/raw.dng", "png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert find_pictures([tmp_path]) == sorted(tmp_path / name for name in names)


def test_sources_are_files_too_and_nothing_is_repeated(tmp_path: Path) -> None:
    for name in ("one/a.png", "two/b.png", "two/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sources = [tmp_path / "two/c.png", tmp_path / "one", tmp_path / "two/c.png"]
    assert find_pictures(sources) == [tmp_path / "one/a.png", tmp_path / "two/c.png"]
    assert find_pictures([tmp_path, *sources]) == [tmp_path / name for name in ("one/a.png", "two/b.png", "two/c.png")]


def test_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(TrainingDataError, match=r"no pictures in .*: looked for \.bmp, \.jpeg, .* in all subfolders"):
        find_pictures([tmp_path])


def test_a_folder_that_is_missing(tmp_path: Path, paths: list[Path]) -> None:
    with pytest.raises(TrainingDataError, match="the data .*/missing does not exist"):
        find_pictures([tmp_path, tmp_path / "missing"])


def test_every_kind_of_picture_becomes_rgb(tmp_path: Path) -> None:
    grey = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24) % 251
    colour = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    alpha = np.dstack([colour, grey.astype(np.uint8)])
    files = {
        "grey": (grey.astype(np.uint8), np.dstack([grey] * 3)),
        "colour": (colour, colour),
        "alpha": (alpha, colour),
        # The high byte is what counts.
        "grey16": (grey * 256 + 10, np.dstack([grey] * 3)),
        "colour16": (colour.astype(np.uint16) * 256 + 10, colour),
    }
    written = [write(tmp_path / f"{name}.png", stored) for name, (stored, _) in files.items()]
    pictures = PictureSet(written, min_size=8)
    for index, (name, (_, expected)) in enumerate(files.items()):
        picture = pictures[index]
        assert picture.dtype == np.uint8 and picture.shape == (20, 24, 3), name
        assert np.array_equal(picture, expected), name


def test_a_palette_becomes_rgb(tmp_path: Path) -> None:
    """A PNG of two colours, red and blue, one bit a pixel; made by hand as OpenCV writes none."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes([0b11110000]) for _ in range(8))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 1, 3, 0, 0, 0))
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255]))
    content = b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "palette.png").write_bytes(content)
    picture = PictureSet([tmp_path / "palette.png"], min_size=8)[0]
    assert np.array_equal(picture[:, :4], np.broadcast_to([0, 0, 255], (8, 4, 3)))
    assert np.array_equal(picture[:, 4:], np.broadcast_to([255, 0, 0], (8, 4, 3)))


def test_what_cannot_be_used_is_named_once_and_left_out(
    tmp_path: Path, paths: list[Path], warnings: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture at all")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    flat = write(tmp_path / "flat.png", atlas(9, 17, 60))
    narrow = write(tmp_path / "narrow.png", atlas(9, 60, 17))
    pictures = PictureSet([broken, paths[0], flat, paths[1], empty, narrow], min_size=18)
    assert pictures.paths == [paths[0], paths[1]] and len(pictures) == 2
    assert np.array_equal(pictures[1], atlas(1, 21, 42))
    assert {record.getMessage() for record in warnings.records} == {
        f"left out: {broken} is not a picture that can be decoded",
        f"left out: {empty} is not a picture that can be decoded",
        f"left out: {flat} is 60x17, smaller than a crop of 18",
        f"left out: {narrow} is 17x60, smaller than a crop of 18",
    }
    assert len(warnings.records) == 4
    for step in range(5):
        pictures.crops(4, 18, seed=0, step=step)
    assert len(warnings.records) == 4


def test_pictures_just_large_enough_are_used(paths: list[Path]) -> None:
    assert len(PictureSet(paths[:1], min_size=20)) == 1


def test_nothing_that_can_be_used(paths: list[Path], warnings: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TrainingDataError, match=r"none of the 6 pictures .* smaller than 46 pixels.*--crop-size"):
        PictureSet(paths, min_size=46)
    assert len(warnings.records) == 6


def test_more_pictures_than_a_chunk_keep_their_order(tmp_path: Path) -> None:
    written = [write(tmp_path / f"{index:03}.bmp", atlas(index, 6, 7)) for index in range(140)]
    pictures = PictureSet(written, min_size=6, workers=3)
    assert [int(pictures[index][0, 0, 2]) for index in range(len(pictures))] == list(range(140))


def orientations(picture: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(picture, turns) for turns in range(4)]
    return turned + [view.transpose(1, 0, 2) for view in turned]


def places(crop: Tensor, originals: list[np.ndarray]) -> list[tuple[int, int, int, int]]:
    """Where a crop lies: (picture, orientation, top, left), found by comparing it with the pictures."""
    found = []
    for orientation, view in enumerate(orientations(crop.permute(1, 2, 0).numpy())):
        number = int(view[0, 0, 2])
        top, left = int(view[..., 0].min()), int(view[..., 1].min())
        size = len(view)
        if np.array_equal(originals[number][top : top + size, left : left + size], view):
            found.append((number, orientation, top, left))
    return found


def test_crops_are_cut_from_the_pictures_in_all_orientations(paths: list[Path]) -> None:
    pictures = PictureSet(paths, min_size=16)
    originals = [pictures[index] for index in range(len(pictures))]
    batch = pictures.crops(600, 16, seed=1, step=2)
    assert batch.shape == (600, 3, 16, 16) and batch.dtype == torch.uint8 and batch.is_contiguous()
    found = [places(crop, originals) for crop in batch]
    assert all(len(place) == 1 for place in found)
    numbers, turned, tops, lefts = zip(*(place[0] for place in found), strict=True)
    assert set(numbers) == set(range(6)) and set(turned) == set(range(8))
    # The first and the last place of the first picture, of 20 x 45 pixels.
    first = [place[0] for place in found if place[0][0] == 0]
    assert {top for _, _, top, _ in first} == set(range(5))
    assert min(left for *_, left in first) == 0 and max(left for *_, left in first) == 45 - 16


def test_crops_as_large_as_the_picture(paths: list[Path]) -> None:
    square = write(paths[0].with_name("square.png"), atlas(0, 12, 12))
    batch = PictureSet([square], min_size=12).crops(20, 12, seed=0, step=0)
    assert all(len(places(crop, [atlas(0, 12, 12)])) == 1 for crop in batch)


def test_each_pixel_is_about_as_likely_as_any_other(tmp_path: Path) -> None:
    small = write(tmp_path / "small.png", atlas(0, 16, 16))
    large = write(tmp_path / "large.png", atlas(1, 48, 48))
    batch = PictureSet([small, large], min_size=8).crops(1000, 8, seed=0, step=0)
    # A tenth of the pixels lies in the small one; three standard deviations are 28.
    assert abs(int((batch[:, 2, 0, 0] == 0).sum()) - 100) <= 28


def test_batches_depend_on_seed_and_step_alone(paths: list[Path]) -> None:
    cached = PictureSet(paths, min_size=16)
    one_cached = PictureSet(paths, min_size=16, cache_bytes=20 * 45 * 3)
    uncached = PictureSet(paths, min_size=16, cache_bytes=0, workers=1)
    cached.crops(3, 16, seed=9, step=9)
    for seed, step in ((0, 0), (0, 1), (5, 1000)):
        batch = cached.crops(4, 16, seed=seed, step=step)
        for pictures in (cached, one_cached, uncached):
            assert torch.equal(pictures.crops(4, 16, seed=seed, step=step), batch)


def test_batches_differ_between_steps_and_seeds(paths: list[Path]) -> None:
    pictures = PictureSet(paths, min_size=16)
    batches = [pictures.crops(4, 16, seed=seed, step=step) for seed in range(3) for step in range(10)]
    assert not any(torch.equal(a, b) for index, a in enumerate(batches) for b in batches[:index])


def test_the_cache_takes_no_more_than_it_may(paths: list[Path]) -> None:
    """What is not kept is decoded again, which is seen by exchanging the files."""
    pictures = PictureSet(paths, min_size=16, cache_bytes=20 * 45 * 3 + 21 * 42 * 3)
    for path in paths:
        write(path, np.zeros((20, 20, 3), np.uint8))
    assert [bool(pictures[index].any()) for index in range(6)] == [True, True, False, False, False, False]


def test_a_picture_that_vanished_is_an_error(paths: list[Path]) -> None:
    pictures = PictureSet(paths, min_size=16, cache_bytes=0)
    paths[2].unlink()
    with pytest.raises(InputError, match=r"2\.png"):
        pictures[2]


@pytest.mark.parametrize("cache_bytes", [None, 20 * 45 * 3, 0])
@pytest.mark.parametrize(("count", "chosen"), [(0, []), (1, [0]), (2, [0, 3]), (3, [0, 2, 4])])
def test_held_out_pictures_are_spread_and_not_trained_on(
    paths: list[Path], count: int, chosen: list[int], cache_bytes: int | None
) -> None:
    pictures = PictureSet(paths, min_size=16, cache_bytes=cache_bytes)
    held_out = pictures.hold_out(count)
    assert [int(picture[0, 0, 2]) for picture in held_out] == chosen
    kept = [index for index in range(6) if index not in chosen]
    assert pictures.paths == [paths[index] for index in kept]
    # Numbers, sizes and the cache still belong together.
    assert [int(pictures[index][0, 0, 2]) for index in range(len(pictures))] == kept
    originals = [atlas(index, 20 + index, 45 - 3 * index) for index in range(6)]
    numbers = {places(crop, originals)[0][0] for crop in pictures.crops(200, 16, seed=0, step=0)}
    assert numbers == set(kept)


def numbered(step: int) -> Tensor:
    return torch.tensor(step)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("steps", [range(0), range(1), range(5, 7), range(40), range(3, 30, 4)], ids=str)
def test_ahead_keeps_the_order(steps: range, workers: int) -> None:
    def make(step: int) -> Tensor:
        time.sleep(0.002 if step % 3 == 0 else 0)
        return torch.tensor(step)

    assert [int(batch) for batch in ahead(make, steps, workers=workers)] == list(steps)


def test_ahead_goes_no_further_than_twice_its_workers() -> None:
    made: list[int] = []

    def make(step: int) -> Tensor:
        made.append(step)
        return torch.tensor(step)

    before = set(threading.enumerate())
    batches = ahead(make, range(1000), workers=2)
    assert not made, "nothing starts before it is asked for"
    for _ in range(3):
        next(batches)
    batches.close()
    assert max(made) <= 2 + 4
    assert set(threading.enumerate()) == before


def test_ahead_passes_an_error_on_in_its_place() -> None:
    def make(step: int) -> Tensor:
        if step == 3:
            raise InputError("picture 3 is broken")
        return torch.tensor(step)

    before = set(threading.enumerate())
    seen = []
    with pytest.raises(InputError, match="picture 3 is broken"):
        for batch in ahead(make, range(50), workers=2):
            seen.append(int(batch))
    assert seen == [0, 1, 2]
    assert set(threading.enumerate()) == before


def test_ahead_drops_what_has_not_begun_when_closed() -> None:
    made: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def make(step: int) -> Tensor:
        made.append(step)
        if step == 1:
            begun.set()
            assert go_on.wait(10)
        return torch.tensor(step)

    batches = ahead(make, range(100), workers=1)
    next(batches)
    assert begun.wait(10)
    timer = threading.Timer(0.3, go_on.set)
    timer.start()
    batches.close()
    timer.join()
    assert made == [0, 1]


def test_ahead_leaves_no_thread_when_the_loop_ends_by_an_error() -> None:
    before = set(threading.enumerate())
    batches = ahead(numbered, range(100), workers=3)
    next(batches)
    assert set(threading.enumerate()) != before
    with pytest.raises(KeyError):
        batches.throw(KeyError("the consumer's"))
    assert set(threading.enumerate()) == before
