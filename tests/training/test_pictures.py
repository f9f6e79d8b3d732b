from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vsr.errors import InputError, TrainingDataError
from vsr.imaging.pictures import decode_picture
from vsr.training.pictures import Draws, PackedPictures, PictureFile, PictureSet, find_pictures, prefetch


def atlas(number: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB whose pixels encode row, column and the picture's number."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], -1).astype(np.uint8)


def write(path: Path, picture: np.ndarray) -> PictureFile:
    """Writes RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., ::-1])
    return PictureFile(path)


SIZES = [(20 + index, 45 - 3 * index) for index in range(6)]


@pytest.fixture
def files(tmp_path: Path) -> list[PictureFile]:
    """Six atlases of 20 to 45 pixels."""
    return [write(tmp_path / f"{index}.png", atlas(index, *size)) for index, size in enumerate(SIZES)]


@pytest.fixture
def pictures(files: list[PictureFile]) -> PictureSet:
    """The set of the six atlases."""
    return PictureSet(files, min_size=16)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, whatever a previous command has done to the loggers."""
    monkeypatch.setattr(logging.getLogger("vsr"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="vsr")
    return caplog


def drawn(pictures: PictureSet, batch_size: int, crop_size: int = 16, **options: Any) -> Draws:
    return pictures.draws(**{"batch_size": batch_size, "crop_size": crop_size, "seed": 0, "step": 0, **options})


def same(one: Draws, other: Draws) -> bool:
    names = ("picture", "top", "left", "flip_rows", "flip_columns", "transpose")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def hollow(path: Path, height: int, width: int) -> PictureFile:
    """Return a PNG with a valid header and damaged data."""
    file = write(path, np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[-100:-50] = bytes(50)
    path.write_bytes(content)
    return file


# The set


def test_pictures_are_decoded_in_order(pictures: PictureSet, files: list[PictureFile]) -> None:
    assert len(pictures) == 6 and pictures.files == files and not pictures.left_out
    assert pictures.sizes.dtype == np.int32 and pictures.sizes.tolist() == [list(size) for size in SIZES]
    for index, size in enumerate(SIZES):
        assert np.array_equal(pictures[index], atlas(index, *size))
    assert np.array_equal(pictures[-1], atlas(5, *SIZES[5]))
    with pytest.raises(IndexError):
        pictures[6]


def test_nothing_is_decoded_at_the_start(files: list[PictureFile]) -> None:
    damaged = [hollow(file.path, 30, 30) for file in files]
    assert len(PictureSet(damaged, min_size=30)) == 6


def test_pictures_that_cannot_be_used_are_left_out(
    tmp_path: Path, files: list[PictureFile], warnings: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text.jpg").write_text("no picture at all")
    calls: list[tuple[int, int]] = []
    pictures = PictureSet(
        [PictureFile(tmp_path / "text.jpg"), *files], min_size=22, progress=lambda *call: calls.append(call)
    )
    assert pictures.files == files[2:] and pictures.left_out == {"damaged": 1, "too small": 2}
    assert pictures.sizes.tolist() == [list(size) for size in SIZES[2:]] and calls == [(7, 7)]
    assert warnings.records[-1].getMessage() == "left out 3 of 7 pictures: 1 damaged, 2 too small"
    with pytest.raises(TrainingDataError, match=r"largest of these is 30x25, so choose a smaller crop_size\.$"):
        PictureSet(files, min_size=46)


def test_a_picture_with_damaged_data_is_replaced(
    tmp_path: Path, files: list[PictureFile], warnings: pytest.LogCaptureFixture
) -> None:
    """The next one replaces it, or the first after the last, in whatever order they are drawn."""
    first, last = hollow(tmp_path / "00.png", 40, 40), hollow(tmp_path / "99.png", 30, 80)
    mixed = [first, files[0], hollow(tmp_path / "01.png", 16, 90), *files[1:], last]
    options = {"flips": False, "crop": "centre"}
    pictures = PictureSet(mixed, min_size=16)
    assert len(pictures) == 9 and not warnings.records
    assert [int(pictures[index][0, 0, 2]) for index in range(9)] == [0, 0, 1, 1, 2, 3, 4, 5, 0]
    assert pictures.left_out == {"damaged": 3} and len(warnings.records) == 3
    assert str(last.path) in warnings.records[-1].getMessage()
    whole = pictures.crops(drawn(pictures, 64, **options), 16)
    later = PictureSet(mixed, min_size=16)
    assert torch.equal(later.crops(drawn(later, 64, **options)[40:], 16), whole[40:])
    assert torch.equal(later.crops(drawn(later, 64, **options), 16), whole)
    packed = PackedPictures(PictureSet(mixed, min_size=16), torch.device("cpu"))
    assert torch.equal(packed.crops(drawn(pictures, 64, **options), 16), whole)
    # Centred at (12, 12) and (7, 32) in the damaged ones; the replacement of the latter has 20 rows only.
    draws = drawn(pictures, 64, **options)
    assert {tuple(crop[:, 0, 0].tolist()) for crop in whole[draws.picture == 0]} == {(4, 12, 0)}
    assert {tuple(crop[:, 0, 0].tolist()) for crop in whole[draws.picture == 8]} == {(4, 29, 0)}
    assert len(warnings.records) == 9, "each once in each of three sets"


def test_a_picture_of_another_size_than_its_header_says_is_damaged(
    files: list[PictureFile], warnings: pytest.LogCaptureFixture
) -> None:
    pictures = PictureSet(files, min_size=16)
    write(files[2].path, atlas(9, 30, 30))
    assert int(pictures[2][0, 0, 2]) == 3
    assert "2.png is 30x30, but its header says 39x22" in warnings.text


def test_a_set_with_damaged_data_only_is_an_error(tmp_path: Path) -> None:
    pictures = PictureSet([hollow(tmp_path / f"{index}.png", 20, 20) for index in range(3)], min_size=16)
    for _ in range(2):
        with pytest.raises(TrainingDataError, match="all 3 pictures are damaged after their headers"):
            pictures[1]
    assert pictures.left_out == {"damaged": 3}


def test_a_picture_that_vanished_is_an_error(pictures: PictureSet, files: list[PictureFile]) -> None:
    """A lost disk must not count as damage."""
    files[2].path.unlink()
    with pytest.raises(InputError, match=r"^cannot read .*2\.png: No such file"):
        pictures[2]
    assert not pictures.left_out


def test_the_cache_respects_its_limit(files: list[PictureFile]) -> None:
    """Pictures that are drawn first and fit are cached; the others are decoded again, which needs the files."""
    sizes = [3 * height * width for height, width in SIZES]
    for budget, kept in ((sizes[4] + sizes[0], {4, 0}), (0, set()), (sum(sizes), set(range(6)))):
        pictures = PictureSet(files, min_size=16, cache_bytes=budget)
        for number in (4, 0, 4, 1, 2, 3, 5):
            pictures[number]
        moved = [file.path.rename(file.path.with_suffix(".away")) for file in files]
        for number in range(6):
            if number in kept:
                assert np.array_equal(pictures[number], atlas(number, *SIZES[number]))
            else:
                with pytest.raises(InputError, match="cannot read"):
                    pictures[number]
        for path in moved:
            path.rename(path.with_suffix(".png"))


def test_the_cache_from_many_threads(files: list[PictureFile]) -> None:
    pictures = PictureSet(files, min_size=16, cache_bytes=3 * sum(height * width for height, width in SIZES))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: pictures[number % 6], range(200)))
    for file in files:
        file.path.unlink()
    assert [int(pictures[number][0, 0, 2]) for number in range(6)] == list(range(6)), "counted once each, all fit"


def test_two_threads_may_decode_the_same_picture(
    tmp_path: Path, files: list[PictureFile], warnings: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both decode it, but it counts once: in the cache, or as damaged."""
    meeting, calls = threading.Barrier(2), Counter[str]()

    def decode(encoded: bytes, name: str) -> np.ndarray:
        calls[name] += 1
        if calls[name] <= 2 and name in (damaged.name, files[0].name):
            meeting.wait(10)
        return decode_picture(encoded, name)

    monkeypatch.setattr("vsr.training.pictures.decode_picture", decode)
    damaged = hollow(tmp_path / "damaged.png", 20, 20)
    budget = 3 * sum(height * width for height, width in SIZES)
    pictures = PictureSet([damaged, *files], min_size=16, cache_bytes=budget)
    with ThreadPoolExecutor(2) as pool:
        assert all(np.array_equal(picture, atlas(0, *SIZES[0])) for picture in pool.map(pictures.__getitem__, [0, 0]))
    assert pictures.left_out == {"damaged": 1} and len(warnings.records) == 1
    for number in (*range(7), *range(7)):
        pictures[number]
    assert calls == {damaged.name: 2, files[0].name: 2, **{file.name: 1 for file in files[1:]}}


def test_the_fingerprint(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / "here" / "deep" / f"{index}.png", atlas(index, 20, 20))

    def fingerprint(folder: str) -> str:
        return PictureSet(find_pictures([tmp_path / folder]).training, min_size=16).fingerprint()

    first = fingerprint("here")
    assert len(first) == 16 and int(first, 16) and fingerprint("here") == first
    (tmp_path / "here").rename(tmp_path / "there")
    assert fingerprint("there") == first
    write(tmp_path / "there/deep/1.png", atlas(1, 20, 21))
    resized = fingerprint("there")
    write(tmp_path / "there/deep/1.png", atlas(1, 20, 20))
    (tmp_path / "there/deep/2.png").rename(tmp_path / "there/2.png")
    renamed = fingerprint("there")
    (tmp_path / "there/2.png").rename(tmp_path / "there/deep/2.png")
    write(tmp_path / "there/deep/3.png", atlas(3, 20, 20))
    added = fingerprint("there")
    (tmp_path / "there/deep/3.png").unlink()
    assert len({first, resized, renamed, added}) == 4 and fingerprint("there") == first


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(0, []), (1, [0]), (2, [0, 3]), (3, [0, 2, 4]), (4, [0, 1, 3, 4]), (6, list(range(6))), (9, list(range(6)))],
)
@pytest.mark.parametrize("cached", [False, True])
def test_held_out_pictures_are_spread_and_not_trained_on(
    files: list[PictureFile], cached: bool, count: int, chosen: list[int]
) -> None:
    (files[0].path.parent / "text.jpg").write_text("no picture")
    pictures = PictureSet([*files, PictureFile(files[0].path.parent / "text.jpg")], min_size=16)
    for number in range(6 * cached):
        pictures[number]
    held_out = pictures.hold_out(count)
    assert (pictures.left_out, held_out.left_out) == ({"damaged": 1}, {})
    kept = [number for number in range(6) if number not in chosen]
    for subset, numbers in ((held_out, chosen), (pictures, kept)):
        assert len(subset) == len(numbers) and subset.files == [files[number] for number in numbers]
        assert subset.sizes.tolist() == [list(SIZES[number]) for number in numbers]
        for index, number in enumerate(numbers):
            assert np.array_equal(subset[index], atlas(number, *SIZES[number]))
    if kept:
        batch = pictures.crops(drawn(pictures, 300), 16)
        assert set(batch[:, 2, 0, 0].tolist()) == set(kept)


# Draws


def test_draws_depend_on_seed_and_step_alone(files: list[PictureFile], pictures: PictureSet) -> None:
    other = PictureSet(files, min_size=16, cache_bytes=0, workers=1)
    for sampling in ("by-area", "by-picture"):
        draws = [
            drawn(pictures, 8, sampling=sampling, rotations=True, seed=seed, step=step)
            for seed, step in product((0, 1, 2**40), (0, 1, 1000))
        ]
        again = [
            drawn(other, 8, sampling=sampling, rotations=True, seed=seed, step=step)
            for seed, step in product((0, 1, 2**40), (0, 1, 1000))
        ]
        assert all(map(same, draws, again))
        assert not any(same(a, b) for index, a in enumerate(draws) for b in draws[:index])


def test_parts_join_to_the_whole(pictures: PictureSet) -> None:
    draws = drawn(pictures, 24, crops_per_picture=3, rotations=True)
    parts = [draws[start : start + 8] for start in (0, 8, 16)]
    assert [len(part) for part in parts] == [8, 8, 8] and parts[0].crop_size == 16
    assert torch.equal(torch.cat([pictures.crops(part, 16) for part in parts]), pictures.crops(draws, 16))


def test_positions_are_within_the_pictures_and_reach_their_edges(pictures: PictureSet) -> None:
    draws = drawn(pictures, 3000)
    for number, (height, width) in enumerate(SIZES):
        mine = draws.picture == number
        assert set(draws.top[mine]) == set(range(height - 15)) and set(draws.left[mine]) == set(range(width - 15))


def test_centred_crops(pictures: PictureSet) -> None:
    draws = drawn(pictures, 100, crop="centre", crop_size=15)
    assert {(number, top, left) for number, top, left in zip(draws.picture, draws.top, draws.left, strict=True)} == {
        (0, 2, 15), (1, 3, 13), (2, 3, 12), (3, 4, 10), (4, 4, 9), (5, 5, 7)
    }  # fmt: skip
    celeba = PictureSet([write(pictures.files[0].path, np.zeros((218, 178, 3), np.uint8))], min_size=176)
    centred = drawn(celeba, 4, crop_size=176, crop="centre")
    assert set(centred.top) == {21} and set(centred.left) == {1}
    assert celeba.crops(centred, 176).shape == (4, 3, 176, 176)
    free = drawn(celeba, 300, crop_size=176)
    assert set(free.left) == {0, 1, 2} and set(free.top) == set(range(43))


def test_by_area_each_pixel_is_about_as_likely(tmp_path: Path) -> None:
    sizes = ((16, 16), (48, 48), (16, 32))
    pictures = PictureSet([write(tmp_path / f"{n}.png", atlas(n, *size)) for n, size in enumerate(sizes)], min_size=8)
    counts = Counter(drawn(pictures, 3072, crop_size=8).picture.tolist())
    # 1/12, 9/12 and 2/12 of the pixels; four standard deviations.
    for number, share in enumerate((1 / 12, 9 / 12, 2 / 12)):
        assert abs(counts[number] - 3072 * share) <= 4 * (3072 * share * (1 - share)) ** 0.5


def test_by_area_single_pixels(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{number}.png", np.zeros((1, 1, 3), np.uint8)) for number in range(3)]
    numbers = drawn(PictureSet(files, min_size=1), 300, crop_size=1).picture.tolist()
    assert min(Counter(numbers)[number] for number in range(3)) > 60


@pytest.mark.parametrize("batch_size", [1, 4, 6, 7, 15])
def test_by_picture_each_once_an_epoch(pictures: PictureSet, batch_size: int) -> None:
    batches = [drawn(pictures, batch_size, sampling="by-picture", step=step, seed=3).picture for step in range(60)]
    epochs = np.concatenate(batches)[: batch_size * 60 // 6 * 6].reshape(-1, 6)
    assert len(epochs) >= 10 and (np.sort(epochs) == np.arange(6)).all()
    assert len({tuple(epoch) for epoch in epochs[:10]}) > 5, "each in an order of its own"
    assert pictures.steps_per_epoch(batch_size) == {1: 6, 4: 2, 6: 1, 7: 1, 15: 1}[batch_size]


def test_several_crops_of_each_picture(pictures: PictureSet) -> None:
    draws = [drawn(pictures, 8, crops_per_picture=4, sampling="by-picture", step=step) for step in range(3)]
    numbers = np.concatenate([draw.picture for draw in draws]).reshape(6, 4)
    assert (numbers == numbers[:, :1]).all() and sorted(numbers[:, 0]) == list(range(6))
    assert len(set(zip(draws[0].top[:4], draws[0].left[:4], strict=True))) > 1
    by_area = drawn(pictures, 40, crops_per_picture=4).picture.reshape(10, 4)
    assert (by_area == by_area[:, :1]).all() and len(set(by_area[:, 0])) > 1
    assert pictures.steps_per_epoch(8, 4) == 3 and pictures.steps_per_epoch(16, 4) == 2


def test_invalid_crops_are_refused(pictures: PictureSet) -> None:
    with pytest.raises(ValueError, match="crop_size at most 16.*got 17, 4 and 1"):
        drawn(pictures, 4, 17)
    with pytest.raises(ValueError, match="a multiple of crops_per_picture: got 16, 4 and 3"):
        drawn(pictures, 4, crops_per_picture=3)
    draws = drawn(pictures, 4, 12)
    for cut in (pictures.crops, PackedPictures(pictures, torch.device("cpu")).crops):
        with pytest.raises(ValueError, match="crops of 12 were drawn, not of 16"):
            cut(draws, 16)


# Crops


def turned(picture: np.ndarray) -> dict[str, np.ndarray]:
    """The eight orientations of a picture by name."""
    views = {"upright": picture, "left": np.rot90(picture), "half": np.rot90(picture, 2), "right": np.rot90(picture, 3)}
    mirrored = {"rows": picture[::-1], "columns": picture[:, ::-1]}
    main = picture.transpose(1, 0, 2)
    return {**views, **mirrored, "main": main, "anti": np.rot90(main, 2)}


def orientations(pictures: PictureSet, batch: Tensor, draws: Draws) -> list[str]:
    """Return the orientation of each crop; each must match exactly one."""
    names = []
    for crop, number, top, left in zip(batch, draws.picture, draws.top, draws.left, strict=True):
        original = atlas(int(number), *SIZES[number])[top : top + batch.shape[2], left : left + batch.shape[3]]
        views = turned(original).items()
        matches = [name for name, view in views if np.array_equal(view, crop.permute(1, 2, 0).numpy())]
        assert len(matches) == 1
        names += matches
    return names


@pytest.mark.parametrize(
    ("flips", "rotations", "transposes", "expected"),
    [
        (False, False, False, {"upright": 1}),
        (True, False, False, {"upright": 1, "rows": 1, "columns": 1, "half": 1}),
        (False, True, False, {"upright": 1, "left": 1, "half": 1, "right": 1}),
        (False, False, True, {"upright": 1, "main": 1}),
        (True, True, False, dict.fromkeys(("upright", "left", "half", "right", "rows", "columns", "main", "anti"), 1)),
        (True, False, True, dict.fromkeys(("upright", "left", "half", "right", "rows", "columns", "main", "anti"), 1)),
        (False, True, True, dict.fromkeys(("upright", "left", "half", "right", "rows", "columns", "main", "anti"), 1)),
        (True, True, True, dict.fromkeys(("upright", "left", "half", "right", "rows", "columns", "main", "anti"), 1)),
    ],
)
def test_orientations_are_about_equally_likely(
    pictures: PictureSet, flips: bool, rotations: bool, transposes: bool, expected: dict[str, int]
) -> None:
    draws = drawn(pictures, 800, flips=flips, rotations=rotations, transposes=transposes, seed=4)
    batch = pictures.crops(draws, 16)
    assert batch.shape == (800, 3, 16, 16) and batch.dtype == torch.uint8 and batch.is_contiguous()
    counts = Counter(orientations(pictures, batch, draws))
    share = 1 / len(expected)
    assert set(counts) == set(expected)
    assert all(abs(count - 800 * share) <= 4 * (800 * share * (1 - share)) ** 0.5 for count in counts.values())


def test_by_hand() -> None:
    """The order of the steps: mirrored, then transposed."""
    draws = Draws(2, *(np.array([value]) for value in (0, 1, 1, True, False, True)))
    pictures = PictureSet.__new__(PictureSet)
    pictures.first_usable = lambda number, keep=True: (0, atlas(0, 4, 4))  # type: ignore[method-assign]
    pictures.files = [PictureFile(Path("a"))]
    # Rows 1 and 2, columns 1 and 2: [[11, 12], [21, 22]] -> [[21, 22], [11, 12]] -> [[21, 11], [22, 12]].
    crop = pictures.crops(draws, 2)[0]
    assert (10 * crop[0] + crop[1]).tolist() == [[21, 11], [22, 12]]


def test_crops_as_large_as_the_picture(tmp_path: Path) -> None:
    pictures = PictureSet([write(tmp_path / "square.png", atlas(0, 12, 12))], min_size=12)
    batch = pictures.crops(drawn(pictures, 4, 12, flips=False), 12)
    assert (batch.permute(0, 2, 3, 1).numpy() == atlas(0, 12, 12)).all()


def test_regions_surround_their_crops(pictures: PictureSet) -> None:
    draws = drawn(pictures, 60, rotations=True)
    crops, regions = pictures.crops(draws, 16), pictures.regions(draws, 26)
    for index, region in enumerate(regions):
        height, width = SIZES[draws.picture[index]]
        limits = (min(26, height), min(26, width))
        assert region.flags.c_contiguous and region.dtype == np.uint8
        assert region.shape == ((limits[::-1] if draws.transpose[index] else limits) + (3,))
        top, left = (
            int(np.clip(place - 5, 0, max(0, length - 26)))
            for place, length in ((draws.top[index], height), (draws.left[index], width))
        )
        rows, columns = (1, 0) if draws.transpose[index] else (0, 1)
        assert (
            region[..., 0].min() == top
            and region[..., 1].min() == left
            and (region[..., 2] == draws.picture[index]).all()
        )
        ascending = [np.diff(region[..., 0].astype(int), axis=rows), np.diff(region[..., 1].astype(int), axis=columns)]
        assert (ascending[0] == (-1 if draws.flip_rows[index] else 1)).all()
        assert (ascending[1] == (-1 if draws.flip_columns[index] else 1)).all()
        inside = [
            np.lib.stride_tricks.sliding_window_view(region, (16, 16), (0, 1))[i, j]
            for i, j in np.ndindex(region.shape[0] - 15, region.shape[1] - 15)
        ]
        assert any(np.array_equal(window, crops[index].numpy()) for window in inside)
    same_size = pictures.regions(draws, 16)
    assert np.array_equal(np.stack(same_size).transpose(0, 3, 1, 2), crops.numpy())


def devices() -> list[Any]:
    absent = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
    return ["cpu", pytest.param("cuda", marks=absent)]


@pytest.mark.parametrize("device", devices())
def test_packed_pictures_give_the_same_crops(device: str, pictures: PictureSet) -> None:
    calls: list[tuple[int, int]] = []
    packed = PackedPictures(pictures, torch.device(device), workers=3, progress=lambda *call: calls.append(call))
    assert calls == [(done, 6) for done in range(1, 7)]
    for step, (flips, rotations, transposes, crop) in enumerate(product(*[[False, True]] * 3, ["random", "centre"])):
        draws = drawn(pictures, 40, step=step, flips=flips, rotations=rotations, transposes=transposes, crop=crop)
        batch = packed.crops(draws, 16)
        assert batch.device.type == device and batch.dtype == torch.uint8 and batch.is_contiguous()
        assert torch.equal(batch.cpu(), pictures.crops(draws, 16))
        assert torch.equal(packed.crops(draws[10:20], 16), batch[10:20])


def test_packed_pictures_on_a_device_without_float64(pictures: PictureSet, limited_device: torch.device) -> None:
    draws = drawn(pictures, 40, step=1)
    batch = PackedPictures(pictures, limited_device).crops(draws, 16)
    assert batch.device == limited_device and torch.equal(batch.cpu(), pictures.crops(draws, 16))


def test_packing_leaves_the_cache_empty(pictures: PictureSet, files: list[PictureFile]) -> None:
    assert PackedPictures.bytes_needed(pictures) == 3 * sum(height * width for height, width in SIZES)
    PackedPictures(pictures, torch.device("cpu"))
    for file in files:
        file.path.unlink()
    with pytest.raises(InputError, match="cannot read"):
        pictures[0]


# Prefetching


def numbered(step: int) -> Tensor:
    return torch.tensor(step)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("steps", [range(0), range(1), range(5, 7), range(40), range(3, 30, 4)], ids=str)
def test_prefetch_keeps_the_order(steps: range, workers: int) -> None:
    def make(step: int) -> Tensor:
        time.sleep(0.002 if step % 3 == 0 else 0)
        return torch.tensor(step)

    assert [int(batch) for batch in prefetch(make, steps, workers=workers)] == list(steps)


def test_prefetch_is_at_most_twice_its_workers_ahead() -> None:
    made: list[int] = []

    def make(step: int) -> Tensor:
        made.append(step)
        return torch.tensor(step)

    before = set(threading.enumerate())
    batches = prefetch(make, range(1000), workers=2)
    assert not made, "nothing starts before it is asked for"
    for _ in range(3):
        next(batches)
    batches.close()
    assert max(made) <= 2 + 4
    assert set(threading.enumerate()) == before


def test_prefetch_raises_an_error_at_its_step() -> None:
    def make(step: int) -> Tensor:
        if step == 3:
            raise InputError("picture 3 is broken")
        return torch.tensor(step)

    before = set(threading.enumerate())
    seen = []
    with pytest.raises(InputError, match="picture 3 is broken"):
        for batch in prefetch(make, range(50), workers=2):
            seen.append(int(batch))
    assert seen == [0, 1, 2]
    assert set(threading.enumerate()) == before


def test_prefetch_cancels_pending_work_when_closed() -> None:
    made: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def make(step: int) -> Tensor:
        made.append(step)
        if step == 1:
            begun.set()
            assert go_on.wait(10)
        return torch.tensor(step)

    batches = prefetch(make, range(100), workers=1)
    next(batches)
    assert begun.wait(10)
    timer = threading.Timer(0.3, go_on.set)
    timer.start()
    batches.close()
    timer.join()
    assert made == [0, 1]


def test_prefetch_leaves_no_thread_when_the_loop_raises() -> None:
    before = set(threading.enumerate())
    batches = prefetch(numbered, range(100), workers=3)
    next(batches)
    assert set(threading.enumerate()) != before
    with pytest.raises(KeyError):
        batches.throw(KeyError("the consumer's"))
    assert set(threading.enumerate()) == before
