from __future__ import annotations

import logging
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vsr.errors import TrainingDataError
from vsr.training.pictures import Found, PictureFile, find_pictures, usable_pictures

PNG = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()


def fill(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)
    return folder


def pack(archive: Path, names: Iterable[str], **more: bytes) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for name in names:
            opened.writestr(name, PNG)
        for name, content in more.items():
            opened.writestr(name.replace("__", "/") + ".txt", content)
    return archive


def names_of(files: Iterable[PictureFile]) -> list[str]:
    return [file.relative for file in files]


def laid(kind: str, folder: Path, names: Iterable[str]) -> Path:
    """Write the same pictures into a folder, an archive, or an archive in a folder."""
    if kind == "folder":
        return fill(folder / "data", names)
    archive = pack(folder / "data" / "all.zip", names)
    return archive if kind == "zip" else archive.parent


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, whatever a previous command has done to the loggers."""
    monkeypatch.setattr(logging.getLogger("vsr"), "propagate", True)
    caplog.set_level(logging.INFO, logger="vsr")
    return caplog


def test_folders_are_searched_recursively(tmp_path: Path) -> None:
    names = ["a.JPG", "b.png", "deep/d.jpeg", "deep/er/c.webp", "e.tif", "f.TIFF", "g.bmp", "Füße/映画.png"]
    hidden = [".hidden.png", ".git/a.png", "__MACOSX/a.png", "deep/__MACOSX/._b.png"]
    fill(tmp_path, [*names, *hidden, "notes.txt", "clip.mp4", "deep/raw.dng", "png"])
    (tmp_path / "folder.png").mkdir()
    found = find_pictures([tmp_path])
    assert names_of(found.training) == sorted(names, key=lambda name: name.split("/"))
    assert [file.path for file in found.training] == [tmp_path / file.relative for file in found.training]
    assert found.training[0].name == str(tmp_path / "Füße" / "映画.png")
    assert (found.validation, found.layout) == ([], "pictures")


def test_archives_are_searched_recursively(tmp_path: Path) -> None:
    names = ["a.JPG", "b.png", "deep/d.jpeg", "Füße/映画.png"]
    archive = pack(tmp_path / "data.zip", [*names, ".b.png", "__MACOSX/deep/d.jpeg", "../up.png", "notes.txt"])
    found = find_pictures([archive])
    assert names_of(found.training) == ["Füße/映画.png", "a.JPG", "b.png", "deep/d.jpeg"]
    assert [file.name for file in found.training][0] == f"{archive}:Füße/映画.png"
    assert all(file.stored is not None and file.read() == PNG and file.size() == (4, 6) for file in found.training)
    assert [file.read() for file in pickle.loads(pickle.dumps(found.training))] == [PNG] * 4


def test_the_order_is_by_folders_and_then_by_sources(tmp_path: Path) -> None:
    """It depends neither on the path of a source nor on a separator that sorts after some letters."""
    fill(tmp_path / "z", ["a/2.png", "a-b/1.png", "a.png"])
    fill(tmp_path / "b", ["c.png"])
    found = find_pictures([tmp_path / "z", tmp_path / "b"])
    assert names_of(found.training) == ["a/2.png", "a-b/1.png", "a.png", "c.png"]


def test_duplicates_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, ["one/a.png", "two/b.png", "two/c.png"])
    archive = pack(tmp_path / "three.zip", ["d.png"])
    monkeypatch.chdir(tmp_path)
    sources = [tmp_path / "two/c.png", Path("one"), Path("two/c.png"), tmp_path, archive]
    assert [file.path.name for file in find_pictures(sources).training] == ["c.png", "a.png", "three.zip", "b.png"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path / "away", ["a.png"])
    fill(tmp_path / "data", ["b.png"])
    (tmp_path / "data/far").symlink_to(tmp_path / "away")
    (tmp_path / "away/back").symlink_to(tmp_path / "data")
    assert names_of(find_pictures([tmp_path / "data"]).training) == ["b.png", "far/a.png"]


def test_an_archive_in_a_folder_is_like_an_unpacked_one(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    pack(tmp_path / "photos.zip", ["photos/1.png", "photos/2.png"])
    pack(tmp_path / "flat.zip", ["3.png"])
    pack(tmp_path / "notes.zip", [], readme=b"")
    assert names_of(find_pictures([tmp_path]).training) == ["flat/3.png", "photos/1.png", "photos/2.png"]
    assert not log.records
    with zipfile.ZipFile(tmp_path / "photos.zip") as archive:
        archive.extractall(tmp_path)
    fill(tmp_path / "flat", ["3.png"])
    found = find_pictures([tmp_path]).training
    assert names_of(found) == ["flat/3.png", "photos/1.png", "photos/2.png"]
    assert not any(file.member for file in found)
    assert {record.getMessage() for record in log.records} == {
        f"left out: {tmp_path / name}, which is already unpacked beside it" for name in ("photos.zip", "flat.zip")
    }


def test_unusable_sources_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["good/a.png", "text/notes.txt", "clip.mp4"])
    pack(tmp_path / "empty.zip", [])
    looked = r"looked for \.bmp, \.jpeg, .*, in all subfolders and archives"
    for name in ("text", "clip.mp4", "empty.zip"):
        with pytest.raises(TrainingDataError, match=rf"^no pictures in {tmp_path / name}: {looked}\.$"):
            find_pictures([tmp_path / "good", tmp_path / name])
    with pytest.raises(TrainingDataError, match="^the data .*/missing does not exist"):
        find_pictures([tmp_path / "good", tmp_path / "missing"])


@pytest.mark.parametrize("content", [b"", b"no archive", b"half"])
def test_a_damaged_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    archive = pack(tmp_path / "bad.zip", ["a.png"])
    archive.write_bytes(archive.read_bytes()[:60] if content == b"half" else content)
    for source in (archive, tmp_path):
        with pytest.raises(TrainingDataError) as caught:
            find_pictures([source])
        assert str(caught.value) == f"{archive} is not a zip archive or is damaged: download it again or remove it."


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "secret.zip", ["a.png"])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag, in the archive's list
    archive.write_bytes(content)
    with pytest.raises(TrainingDataError, match=r"secret\.zip is encrypted: unpack it"):
        find_pictures([archive])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_an_unreadable_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png", "locked/b.png"])
    (tmp_path / "locked").chmod(0)
    try:
        with pytest.raises(TrainingDataError, match="cannot read the folder .*locked: Permission denied"):
            find_pictures([tmp_path])
    finally:
        (tmp_path / "locked").chmod(0o700)


@pytest.mark.parametrize("kind", ["folder", "zip", "zip in a folder"])
@pytest.mark.parametrize("prefix", ["", "images/", "coco/", "my/coco/images/"])
@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco(year: str, prefix: str, kind: str, tmp_path: Path) -> None:
    names = [f"{prefix}{part}{year}/{index}.jpg" for part in ("train", "val", "test", "unlabeled") for index in (1, 2)]
    scope = prefix.removesuffix("images/")
    folders = (f"annotations/panoptic_val{year}", f"stuff/train{year}", f"stuff/val{year}")
    masks = [f"{scope}{folder}/1.png" for folder in folders]
    found = find_pictures([laid(kind, tmp_path, [*names, *masks])])
    below = "all/" if kind == "zip in a folder" else ""
    assert names_of(found.training) == [f"{below}{prefix}train{year}/{index}.jpg" for index in (1, 2)]
    assert names_of(found.validation) == [f"{below}{prefix}val{year}/{index}.jpg" for index in (1, 2)]
    assert found.layout == "COCO"


def test_coco_as_it_is_downloaded(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    for part in ("train2017", "val2017", "test2017"):
        pack(tmp_path / f"{part}.zip", [f"{part}/1.jpg"])
    pack(tmp_path / "annotations_trainval2017.zip", [], annotations__captions=b"")
    found = find_pictures([tmp_path])
    assert [file.name for file in found.training] == [f"{tmp_path}/train2017.zip:train2017/1.jpg"]
    assert [file.name for file in found.validation] == [f"{tmp_path}/val2017.zip:val2017/1.jpg"]
    assert [record.getMessage() for record in log.records] == [
        "COCO: 1 pictures for training, 1 for validation, 1 left out"
    ]


def test_train_without_val_is_any_folder(tmp_path: Path) -> None:
    fill(tmp_path, ["train2017/1.jpg", "test2017/2.jpg", "mytrain2017/3.jpg", "val2018/4.jpg"])
    found = find_pictures([tmp_path])
    assert len(found.training) == 4 and (found.validation, found.layout) == ([], "pictures")


PARTITION = "1.jpg 0\n2.jpg 1\n\n3.jpg 2\n4.jpg 0\n"
FACES = ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "unlisted.jpg"]


def check_celeba(found: Found) -> None:
    assert [name.split("/")[-1] for name in names_of(found.training)] == ["1.jpg", "4.jpg", "unlisted.jpg"]
    assert [name.split("/")[-1] for name in names_of(found.validation)] == ["2.jpg"]
    assert found.layout == "CelebA"


@pytest.mark.parametrize("place", ["", "celeba/", "celeba/img_align_celeba/", "celeba/Eval/"])
def test_celeba_in_folders(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, [f"celeba/img_align_celeba/{name}" for name in FACES])
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "list_eval_partition.txt").write_text(PARTITION)
    for source in (tmp_path, tmp_path / "celeba", tmp_path / "celeba/img_align_celeba"):
        check_celeba(find_pictures([source]))
    monkeypatch.chdir(tmp_path / "celeba/img_align_celeba")
    check_celeba(find_pictures([Path(".")]))


def test_celeba_from_kaggle(tmp_path: Path) -> None:
    fill(tmp_path, [f"img_align_celeba/img_align_celeba/{name}" for name in FACES])
    rows = PARTITION.strip().replace(" ", ",")
    (tmp_path / "list_eval_partition.csv").write_text(f"image_id,partition\r\n{rows}\r\n")
    check_celeba(find_pictures([tmp_path]))


@pytest.mark.parametrize("prefix", ["", "img_align_celeba/", "celeba/img_align_celeba/"])
@pytest.mark.parametrize("name", ["celeba.zip", "img_align_celeba.zip"])
@pytest.mark.parametrize("place", ["inside", "beside", "one up", "official"])
def test_celeba_in_archives(place: str, name: str, prefix: str, tmp_path: Path) -> None:
    inside = {"list_eval_partition": PARTITION.encode()} if place == "inside" else {}
    archive = pack(tmp_path / "Img" / name, [prefix + face for face in FACES], **inside)
    folder = {"inside": None, "beside": "Img", "one up": ".", "official": "Eval"}[place]
    if folder:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "list_eval_partition.txt").write_text(PARTITION)
    for source in (archive, archive.parent, tmp_path):
        found = find_pictures([source])
        check_celeba(found)
        assert all(file.path == archive for file in found.training)


def test_celeba_without_its_list(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, [f"img_align_celeba/{name}" for name in FACES])
    found = find_pictures([tmp_path])
    assert len(found.training) == 5 and (found.validation, found.layout) == ([], "CelebA")
    assert "no list_eval_partition.txt near" in log.records[0].getMessage()


def test_a_damaged_partition_list_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["img_align_celeba/1.jpg"])
    for line in ("1.jpg 3", "1.jpg", "1.jpg 0 0"):
        (tmp_path / "list_eval_partition.txt").write_text(f"0.jpg 0\n{line}\n")
        with pytest.raises(TrainingDataError, match=rf"list_eval_partition\.txt, line 2: .* got '{line}'"):
            find_pictures([tmp_path])


def test_a_layout_with_test_pictures_only_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["img_align_celeba/3.jpg"])
    (tmp_path / "list_eval_partition.txt").write_text(PARTITION)
    with pytest.raises(TrainingDataError, match="in the layout of CelebA: none of the pictures are for training"):
        find_pictures([tmp_path])


def test_layouts_side_by_side(tmp_path: Path) -> None:
    fill(
        tmp_path,
        ["coco/train2017/1.jpg", "coco/val2017/1.jpg", "img_align_celeba/2.jpg", "img_align_celeba/3.jpg", "a.png"],
    )
    (tmp_path / "list_eval_partition.txt").write_text(PARTITION)
    found = find_pictures([tmp_path, tmp_path / "coco/val2017"])
    assert names_of(found.training) == ["coco/train2017/1.jpg", "a.png"]
    assert names_of(found.validation) == ["coco/val2017/1.jpg", "img_align_celeba/2.jpg"]
    assert found.layout == "COCO, CelebA, pictures"


def test_the_first_of_overlapping_sources_wins(tmp_path: Path) -> None:
    """A validation folder given for training is trained on and not measured on too."""
    fill(tmp_path, ["train2017/1.jpg", "val2017/2.jpg"])
    found = find_pictures([tmp_path / "val2017", tmp_path])
    assert (names_of(found.training), found.validation) == (["2.jpg", "train2017/1.jpg"], [])


def test_sizes_in_order_with_progress(tmp_path: Path) -> None:
    files = []
    for index in range(600):
        path = tmp_path / f"{index:03}.png"
        path.write_bytes(cv2.imencode(".png", np.zeros((4 + index % 7, 5 + index % 3), np.uint8))[1].tobytes())
        files.append(PictureFile(path))
    calls: list[tuple[int, int]] = []
    usable, left_out = usable_pictures(files, min_size=4, workers=4, progress=lambda *call: calls.append(call))
    assert list(usable.items()) == [(file, (4 + index % 7, 5 + index % 3)) for index, file in enumerate(files)]
    assert calls == [(256, 600), (512, 600), (600, 600)] and not left_out


def test_the_first_unusable_pictures_are_named(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, [f"small{index}.png" for index in range(8)])
    (tmp_path / "large.png").write_bytes(cv2.imencode(".png", np.zeros((9, 5), np.uint8))[1].tobytes())
    for index in range(6):
        (tmp_path / f"text{index}.jpg").write_text("no picture")
    files = find_pictures([tmp_path]).training
    usable, left_out = usable_pictures(files, min_size=5, workers=2)
    assert names_of(usable) == ["large.png"] and left_out == {"too small": 8, "damaged": 6}
    assert [record.getMessage() for record in log.records] == [
        *(f"left out: {tmp_path}/small{index}.png is 6x4, smaller than 5" for index in range(5)),
        *(f"left out: {tmp_path}/text{index}.jpg is not a picture that can be decoded" for index in range(5)),
        "left out 14 of 15 pictures: 6 damaged, 8 too small",
    ]
    with pytest.raises(TrainingDataError) as caught:
        usable_pictures(files, min_size=10, workers=2)
    assert str(caught.value) == (
        "none of the 15 pictures can be used: 6 damaged, 9 too small; the largest of these is 5x9, so choose a smaller "
        "crop_size."
    )
    with pytest.raises(TrainingDataError, match=r"^none of the 6 pictures can be used: 6 damaged\.$"):
        usable_pictures(files[-6:], min_size=1, workers=2)


def test_hostile_files_are_left_out(tmp_path: Path, log: pytest.LogCaptureFixture, capfd: Any) -> None:
    """Each is counted and left out without blocking; hidden files are not counted."""
    good = fill(tmp_path / "data", ["a.png", "deep/b.png"])
    tags = [(256, 4, 1, 65536), (257, 4, 1, 32768)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    (good / "absurd.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, 2) + entries + bytes(4))
    os.mkfifo(good / "pipe.jpg")
    (good / "loop.png").symlink_to("loop.png")
    (good / "gone.png").symlink_to("nowhere.png")
    for link in ("deep/back", "again"):
        (good / link).symlink_to(good)
    (good / "sideways").symlink_to(good / "deep")
    for hidden in ("._a.png", "deep/._b.png", ".DS_Store.png"):
        (good / hidden).write_bytes(b"\0\5\x16\7AppleDouble")
    with zipfile.ZipFile(good / "bombs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.bmp", PNG + bytes(64 << 20))
        archive.writestr("._bomb.bmp", b"")
    content = (good / "bombs.zip").read_bytes()
    (good / "bombs.zip").write_bytes(content.replace(struct.pack("<I", len(PNG) + (64 << 20)), struct.pack("<I", 9)))

    found = find_pictures([good])
    usable, left_out = usable_pictures(found.training, min_size=4, workers=2)
    assert sorted(names_of(usable)) == ["a.png", "deep/b.png"]
    assert left_out == {"damaged": 5}
    said = log.text
    for name in ("absurd.tif is too large", "pipe.jpg: it is a pipe", "loop.png", "gone.png", "bomb.bmp is damaged"):
        assert name in said
    assert capfd.readouterr().err == ""


def test_an_archive_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png"])
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(TrainingDataError, match=r"cannot read .*pipe\.zip: it is a pipe or a device"):
        find_pictures([tmp_path])


def test_a_huge_partition_list_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "celeba.zip", ["img_align_celeba/1.png"])
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("list_eval_partition.txt", bytes(65 << 20))
    with pytest.raises(TrainingDataError, match=r"list_eval_partition\.txt is too large for a list of pictures"):
        find_pictures([archive])


def test_videos_are_found_if_requested(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png", "deep/b.MP4", "deep/.hidden.mp4", "c.mkv", ".cache/d.mp4", "e.gif", "f.txt"])
    found = find_pictures([tmp_path, tmp_path / "c.mkv"], videos=True)
    assert found.videos == [tmp_path / "c.mkv", tmp_path / "deep" / "b.MP4"]
    assert names_of(found.training) == ["a.png"] and found.layout == "pictures, videos"
    plain = find_pictures([tmp_path])
    assert plain.videos == [] and plain.training == found.training and plain.layout == "pictures"


@pytest.mark.parametrize("source", ["", "b.mp4"], ids=["folder", "file"])
def test_a_source_may_contain_videos_only(tmp_path: Path, source: str) -> None:
    fill(tmp_path, ["b.mp4"])
    found = find_pictures([tmp_path / source], videos=True)
    assert found == Found([], [], "videos", [tmp_path / "b.mp4"])
    with pytest.raises(TrainingDataError, match="no pictures in"):
        find_pictures([tmp_path / source])


def test_a_source_with_neither_pictures_nor_videos(tmp_path: Path) -> None:
    fill(tmp_path, ["a.txt"])
    with pytest.raises(TrainingDataError, match=r"no pictures and no videos in .*: looked for .*\.mp4.*\.png"):
        find_pictures([tmp_path], videos=True)
