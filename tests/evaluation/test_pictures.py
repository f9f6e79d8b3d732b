from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vsr.errors import InputError
from vsr.evaluation.images import Pair, check_sizes, find_pairs, find_pictures, read_pair
from vsr.imaging.pictures import read_picture, write_picture
from vsr.imaging.resize import resize_as_matlab

Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Makes a folder of pictures of noise by their names; endings other than PNG's are only for their looks."""

    def make(folder: str, *names: str, size: tuple[int, int] = (24, 28)) -> Path:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        random = np.random.default_rng(len(names))
        for name in names:
            write_picture(path / name, random.integers(0, 256, (*size, 3), dtype=np.uint8))
        return path

    return make


def names(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.hr.name, pair.lr.name if pair.lr else "") for pair in pairs]


def test_pictures_by_name_and_nothing_else(fill: Fill) -> None:
    folder = fill("hr", "b.png", "a.JPG", ".hidden.png", "c.txt")
    (folder / "folder.png").mkdir()
    assert [path.name for path in find_pictures(folder)] == ["a.JPG", "b.png"]
    assert names(find_pairs(folder, None, 4)) == [("a.JPG", ""), ("b.png", "")]


def test_folders_that_cannot_be(fill: Fill, tmp_path: Path) -> None:
    empty = fill("empty", "notes.txt")
    for folder, words in [
        (tmp_path / "nowhere", "cannot read the folder .*nowhere: No such file or directory"),
        (empty, r"no pictures in .*empty; their names must end in \.bmp, \.jpeg"),
        (empty / "notes.txt", "is a file; give a folder of pictures"),
    ]:
        with pytest.raises(InputError, match=words):
            find_pairs(folder, None, 4)
        with pytest.raises(InputError, match=words):
            find_pairs(fill("hr", "a.png"), folder, 4)


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("baby.png", "baby.png"),
        ("baby.png", "baby.jpg"),
        ("baby.png", "babyx4.png"),
        ("baby.png", "baby_x4.png"),
        ("baby.png", "baby_LRx4.png"),
        ("baby.png", "baby-LR_X4.png"),
        ("baby.png", "baby_4x.png"),
        ("baby.png", "baby_LR.png"),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"),
        ("baby_HR.png", "baby.png"),
        ("baby-gt.png", "babyx4.png"),
        ("0801.png", "0801x4.png"),
        ("box4.png", "box4.png"),
    ],
)
def test_names_that_belong_together(fill: Fill, hr: str, lr: str) -> None:
    assert names(find_pairs(fill("hr", "other.png", hr), fill("lr", "other.png", lr), 4)) == [
        *sorted([(hr, lr), ("other.png", "other.png")])
    ]


@pytest.mark.parametrize("lr", ["babyx2.png", "baby2.png", "aby.png", "baby_14x.png", "Baby.png", "babyLR.png"])
def test_names_that_do_not(fill: Fill, lr: str) -> None:
    with pytest.raises(InputError) as caught:
        find_pairs(fill("hr", "baby.png", "baby_1.png"), fill("lr", lr, "baby_1.png"), 4)
    assert "1 in" in str(caught.value) and "without LR: baby.png; " in str(caught.value)
    assert f"without HR: {lr}." in str(caught.value)
    assert "The LR of baby.png is called baby, babyx4 or baby_LRx4" in str(caught.value)


def test_the_exact_name_goes_first(fill: Fill) -> None:
    """``a_x4`` is an HR picture of its own here, not the LR of ``a``."""
    assert names(find_pairs(fill("hr", "a.png", "a_x4.png"), fill("lr", "a.png", "a_x4.png"), 4)) == [
        ("a.png", "a.png"),
        ("a_x4.png", "a_x4.png"),
    ]


def test_names_that_could_be_either(fill: Fill) -> None:
    with pytest.raises(InputError, match=r"a\.png could belong to each of a\.jpg, a\.png in .*lr; leave one"):
        find_pairs(fill("hr", "a.png"), fill("lr", "a.jpg", "a.png"), 4)
    with pytest.raises(InputError, match=r"lr2.a\.png could belong to more than one picture in .*hr2; leave one"):
        find_pairs(fill("hr2", "a.jpg", "a.png"), fill("lr2", "a.png"), 4)


def test_many_left_over_are_counted(fill: Fill) -> None:
    hr = fill("hr", *(f"{number}.png" for number in range(10)))
    with pytest.raises(InputError, match=r"9 in .*hr without LR: 1\.png, 2\.png, 3\.png, 4\.png, 5\.png and 4 more\. "):
        find_pairs(hr, fill("lr", "0.png"), 4)


def test_sizes_that_fit(fill: Fill) -> None:
    hr = fill("hr", "a.png", size=(27, 31))
    check_sizes(find_pairs(hr, None, 4), scale=4, least=24)
    check_sizes(find_pairs(hr, fill("lr", "a.png", size=(6, 7)), 4), scale=4, least=24)


@pytest.mark.parametrize("size", [(7, 6), (7, 8), (27, 31)], ids=str)
def test_lr_of_another_size(fill: Fill, size: tuple[int, int]) -> None:
    pairs = find_pairs(fill("hr", "a.png", size=(27, 31)), fill("lr", "a.png", size=size), 4)
    has = rf"lr.a\.png has {size[1]}x{size[0]} pixels, but a x4 LR of .*hr.a\.png with its 31x27 has 7x6"
    with pytest.raises(InputError, match=f"{has}; nothing is rescaled to fit"):
        check_sizes(pairs, scale=4, least=1)


def test_pictures_too_small(fill: Fill) -> None:
    pairs = find_pairs(fill("hr", "a.png", size=(27, 31)), None, 4)
    with pytest.raises(InputError, match=r"a\.png has 31x27 pixels; at least 25 each way are needed .*border"):
        check_sizes(pairs, scale=4, least=25)


def test_files_that_are_no_pictures(fill: Fill) -> None:
    hr = fill("hr", "a.png")
    (hr / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png is not a picture that can be decoded"):
        check_sizes(find_pairs(hr, None, 4), scale=4, least=1)


def test_reading_crops_right_and_below_and_makes_lr(fill: Fill) -> None:
    hr_folder = fill("hr", "a.png", size=(27, 31))
    (pair,) = find_pairs(hr_folder, None, 4)
    whole = torch.from_numpy(read_picture(pair.hr)).permute(2, 0, 1)[None]
    hr, lr = read_pair(pair, 4)
    assert torch.equal(hr, whole[..., :24, :28]) and hr.dtype == torch.uint8
    assert torch.equal(lr, resize_as_matlab(whole[..., :24, :28], 6, 7)) and lr.shape == (1, 3, 6, 7)
    hr, lr = read_pair(Pair(pair.hr, pair.hr), 1)
    assert torch.equal(hr, whole) and torch.equal(lr, whole)


def test_grey_pictures_have_three_equal_channels(tmp_path: Path) -> None:
    import cv2

    grey = np.random.default_rng(0).integers(0, 256, (16, 20), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    hr, lr = read_pair(Pair(tmp_path / "grey.png"), 4)
    assert hr.shape == (1, 3, 16, 20)
    for channel in range(3):
        assert torch.equal(hr[0, channel], torch.from_numpy(grey)) and torch.equal(lr[0, channel], lr[0, 0])
