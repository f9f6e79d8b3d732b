"""Batches depend on the seed and their number alone, however many processes share them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from vsr.errors import TrainingDataError, UsageError
from vsr.imaging.pictures import read_picture
from vsr.training.batches import Batches, load_pictures, updates_of
from vsr.training.degradation import degrade_picture, reduce
from vsr.training.options import TrainOptions
from vsr.training.pictures import PictureSet, find_pictures
from vsr.training.recipes import override
from vsr.training.step import HeldOut

CPU = torch.device("cpu")


def fabric(rank: int = 0, processes: int = 1) -> Any:
    return SimpleNamespace(device=CPU, world_size=processes, global_rank=rank)


def drawn(options: TrainOptions, steps: range, rank: int = 0, processes: int = 1) -> list[tuple[Tensor, Tensor]]:
    pictures = PictureSet(find_pictures(options.data).training, min_size=options.recipe.crop_size)
    return [*Batches(pictures, options, fabric(rank, processes)).stream(steps)]


@pytest.fixture(params=["bicubic", "video"])
def batch_of_four(options: TrainOptions, request: pytest.FixtureRequest) -> TrainOptions:
    return replace(options, recipe=override(options.recipe, batch_size=4, degradation=request.param))


@pytest.mark.parametrize("changes", [{}, {"sampling": "by-picture", "crops_per_picture": 2}], ids=["plain", "in pairs"])
def test_processes_share_the_batch_of_one(batch_of_four: TrainOptions, changes: dict[str, Any]) -> None:
    """HR and LR of each item, whatever the number of processes."""
    options = replace(batch_of_four, recipe=override(batch_of_four.recipe, **changes))
    whole = drawn(options, range(3, 6))
    parts = [drawn(options, range(3, 6), rank, 2) for rank in (0, 1)]
    for number, (lr, hr) in enumerate(whole):
        assert lr.shape == (4, 3, 4, 4) and hr.shape == (4, 3, 16, 16)
        assert all(part[number][1].shape == (2, 3, 16, 16) for part in parts)
        assert torch.equal(torch.cat([part[number][0] for part in parts]), lr)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), hr)
        assert len({item.numpy().tobytes() for item in hr}) == 4
    four = [drawn(options, range(3, 4), rank, 4)[0] for rank in range(4)] if not changes else []
    assert not four or torch.equal(torch.cat([lr for lr, _ in four]), whole[0][0])


def test_a_batch_depends_on_its_number_and_the_seed_alone(batch_of_four: TrainOptions) -> None:
    from_start = drawn(batch_of_four, range(6))
    later = drawn(replace(batch_of_four, workers=3, cache="none"), range(4, 6))
    for one, other in zip(from_start[4:], later, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not torch.equal(from_start[4][1], from_start[5][1])
    assert not torch.equal(drawn(replace(batch_of_four, seed=1), range(4, 5))[0][1], later[0][1])


def test_lr_is_hr_reduced(batch_of_four: TrainOptions) -> None:
    ((lr, hr),) = drawn(batch_of_four, range(7, 8))
    for batch in (lr, hr):
        assert batch.dtype == torch.float32 and 0 <= float(batch.min()) <= float(batch.max()) <= 1
        assert batch.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(batch * 255, (batch * 255).round(), rtol=0, atol=1e-4)
    if batch_of_four.recipe.degradation == "bicubic":
        assert torch.equal(lr, reduce(hr, 4))
    else:
        assert not torch.equal(lr, reduce(hr, 4))
        assert (lr - reduce(hr, 4)).abs().mean() < 0.15, "the same place of the same picture"


def test_pictures_are_decoded_once_or_each_time(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, leaves_nothing: None
) -> None:
    decoded: list[int] = []
    decode = PictureSet._decode

    def record(self: PictureSet, number: int) -> Any:
        decoded.append(number)
        return decode(self, number)

    monkeypatch.setattr(PictureSet, "_decode", record)
    options = replace(options, recipe=override(options.recipe, batch_size=12, sampling="by-picture"), workers=1)
    for cache, times in (("ram", 1), ("auto", 1), ("none", 3)):
        decoded.clear()
        drawn(replace(options, cache=cache), range(3))  # type: ignore[arg-type]
        assert sorted(decoded) == sorted([*range(12)] * times), cache


def test_a_stream_that_is_left_early_leaves_no_thread(options: TrainOptions, leaves_nothing: None) -> None:
    pictures = PictureSet(find_pictures(options.data).training, min_size=16)
    stream = Batches(pictures, options, fabric()).stream(range(1000))
    next(stream)
    stream.close()


def test_a_gpu_cache_without_a_gpu_is_refused(options: TrainOptions) -> None:
    with pytest.raises(UsageError, match=r"^cache='gpu' needs a GPU: use cache='auto'\.$"):
        drawn(replace(options, cache="gpu"), range(1))


def test_a_gpu_cache_that_is_too_small_is_refused(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` uses main memory then."""
    monkeypatch.setattr("vsr.training.batches.free_memory", lambda device: 4 << 10)
    pictures = PictureSet(find_pictures(options.data).training, min_size=16)
    gpu: Any = SimpleNamespace(device=torch.device("cuda"), world_size=1, global_rank=0)
    with pytest.raises(UsageError, match=r"the pictures need 0 MiB, but the GPU has 0 MiB free: use cache='auto'\."):
        Batches(pictures, replace(options, cache="gpu"), gpu)
    pictures.cache_bytes = 0
    Batches(pictures, options, gpu)
    assert pictures.cache_bytes > 0


@pytest.mark.parametrize(
    ("unit", "batch_size", "crops", "length", "updates"),
    [("steps", 2, 1, 7, 7), ("epochs", 2, 1, 3, 18), ("epochs", 5, 1, 2, 6), ("epochs", 4, 4, 1, 12)],
)
def test_epochs_are_converted_to_updates(
    options: TrainOptions, unit: str, batch_size: int, crops: int, length: int, updates: int
) -> None:
    recipe = override(options.recipe, unit=unit, batch_size=batch_size, crops_per_picture=crops)
    pictures = PictureSet(find_pictures(options.data).training, min_size=16)
    assert len(pictures) == 12 and updates_of(length, recipe, pictures) == updates


def names(pictures: PictureSet) -> list[str]:
    return [file.path.name for file in pictures.files]


def read(path: Path) -> Tensor:
    return torch.from_numpy(read_picture(path).copy()).permute(2, 0, 1)


def assert_held_out(held_out: list[HeldOut], paths: list[Path]) -> None:
    """Assert that these pictures are held out with their LR, whole, as they are small multiples of 4."""
    assert len(held_out) == len(paths)
    for pair, path in zip(held_out, paths, strict=True):
        assert torch.equal(pair.hr, read(path))
        assert torch.equal(pair.lr, reduce(pair.hr[None] / 255, 4)[0].mul(255).round().byte())


@pytest.mark.parametrize(("hold_out", "held"), [(16, [0]), (1, [0]), (0, [])])
def test_held_out_pictures_are_not_trained_on(
    options: TrainOptions, photographs: Path, hold_out: int, held: list[int]
) -> None:
    """At most a tenth is held out."""
    training, held_out, layout = load_pictures(replace(options, hold_out=hold_out))
    assert_held_out(held_out, [photographs / f"{number:02}.png" for number in held])
    assert names(training) == [f"{number:02}.png" for number in range(12) if number not in held]
    assert layout == "pictures"


def test_more_pictures_hold_out_more(options: TrainOptions, tmp_path: Path) -> None:
    for number in range(30):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.full((24, 24, 3), number, np.uint8))
    training, held_out, _ = load_pictures(replace(options, data=(tmp_path,)))
    assert [int(pair.hr.max()) for pair in held_out] == [0, 10, 20]
    assert names(training) == [f"{number:02}.png" for number in range(30) if number % 10]


def test_held_out_pictures_from_a_folder_of_their_own(
    options: TrainOptions, photographs: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("03.png", "08.png", "09.png"):
        shutil.copy(photographs / name, own)
    training, held_out, _ = load_pictures(replace(options, validation=(own,)))
    assert_held_out(held_out, sorted(own.iterdir()))
    assert len(training) == 12, "none is held out"
    _, held_out, _ = load_pictures(replace(options, validation=(own,), hold_out=2))
    assert len(held_out) == 2
    with pytest.raises(TrainingDataError, match="does not exist"):
        load_pictures(replace(options, validation=(tmp_path / "missing",)))


def test_held_out_pictures_from_the_layout_of_coco(
    options: TrainOptions, photographs: Path, tmp_path: Path
) -> None:
    for folder, numbers in (("train2017", range(9)), ("val2017", range(9, 12))):
        (tmp_path / "coco" / folder).mkdir(parents=True)
        for number in numbers:
            shutil.copy(photographs / f"{number:02}.png", tmp_path / "coco" / folder)
    training, held_out, layout = load_pictures(replace(options, data=(tmp_path / "coco",)))
    assert layout == "COCO" and names(training) == [f"{number:02}.png" for number in range(9)]
    assert_held_out(held_out, sorted((tmp_path / "coco/val2017").iterdir()))


def test_held_out_pictures_are_degraded_like_the_others(options: TrainOptions, photographs: Path) -> None:
    options = replace(options, recipe=override(options.recipe, degradation="video"), seed=5)
    _, (pair,), _ = load_pictures(options)
    picture = read(photographs / "00.png").permute(1, 2, 0).numpy()
    lr, hr = degrade_picture(np.ascontiguousarray(picture), 4, options.recipe.video, seed=5)
    assert torch.equal(pair.lr, lr) and torch.equal(pair.hr, hr) and torch.equal(hr, read(photographs / "00.png"))
    assert not torch.equal(pair.lr, reduce(pair.hr[None] / 255, 4)[0].mul(255).round().byte())


def test_only_the_middle_of_large_pictures_is_measured(options: TrainOptions, tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (22, 402, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "wide.png"), whole)
    _, (pair,), _ = load_pictures(replace(options, validation=(tmp_path,)))
    assert torch.equal(pair.hr, read(tmp_path / "wide.png")[:, 1:21, 41:361])
