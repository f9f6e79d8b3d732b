"""Inputs are recognised by content, not by name; and patterns of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vsr
from vsr.errors import InputError
from vsr.media import pictures
from vsr.pipeline.job import open_source
from vsr.pipeline.options import UpscaleOptions

pytestmark = pytest.mark.usefixtures("leaves_nothing")

OPTIONS = UpscaleOptions()
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "bmp": "BMP", "gif": "GIF"}
NAMES = ("in.mp4", "in", "in.gif", "in.png", "in.mkv", "in.webp", "in.jpg")


def picture(path: Path, kind: str, value: int = 100) -> Path:
    Image.new("RGB", (16, 12), (value, value, value)).save(path, FORMATS[kind])
    return path


def moving(path: Path, kind: str) -> Path:
    frames = [Image.new("RGBA", (16, 12), (value, 0, 0, 255)) for value in (10, 100, 200)]
    frames[0].save(path, FORMATS[kind], save_all=True, append_images=frames[1:], duration=[50, 200, 100], loop=0)
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_is_known_by_its_content(kind: str, name: str, tmp_path: Path) -> None:
    source = picture(tmp_path / name, kind)
    clip = open_source(source, OPTIONS)
    assert clip.pictures == (source,) and (clip.video.width, clip.video.height) == (16, 12)
    target = vsr.upscale(source, tmp_path / "out.png", model="bicubic", scale=2).target
    with Image.open(target) as image:
        assert image.size == (32, 24)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_is_known_by_its_content(kind: str, name: str, tmp_path: Path) -> None:
    source = moving(tmp_path / name, kind)
    assert (open_source(source, OPTIONS).format == pictures.ANIMATION_FORMAT) is (kind == "webp")
    assert vsr.upscale(source, tmp_path / "out.gif", model="bicubic", scale=2).frames == 3
    with Image.open(tmp_path / "out.gif") as image:
        delays = []
        for number in range(3):
            image.seek(number)
            delays.append(image.info["duration"])
    assert delays == [50, 200, 100] and image.size == (32, 24)


def test_a_video_of_jpegs_is_one(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_clip("in.mjpeg", codec="mjpeg", pix_fmt="yuvj420p", options={"preset": ""})
    assert clip.read_bytes().startswith(b"\xff\xd8\xff")
    assert vsr.upscale(clip, tmp_path / "out.mkv", model="identity").frames == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [("in.png", "is not a picture that can be read"), ("in.mp4", "is not a video that can be read"),
     ("in", "is not a video that can be read")],
)  # fmt: skip
def test_files_that_are_no_video_or_picture_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"nothing that anybody knows")
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / name, OPTIONS)


@pytest.mark.parametrize("name", ["in.png", "in.mp4"])
def test_a_truncated_picture_is_damaged_whatever_its_name(name: str, tmp_path: Path) -> None:
    content = picture(tmp_path / name, "png").read_bytes()
    (tmp_path / name).write_bytes(content[:50])
    with pytest.raises(InputError, match=f"{name} is a damaged picture"):
        open_source(tmp_path / name, OPTIONS)


def test_a_real_animation_is_recognised(shared_data: Path) -> None:
    path = Path(os.environ["VSR_TEST_DATA"]).parent / "cases" / "webp_named.gif"
    if not path.exists():
        pytest.skip(f"no {path}")
    assert open_source(path, OPTIONS).format == pictures.ANIMATION_FORMAT


# Lists of pictures


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of frames 1, 2, 3, 5, 10, and hidden files of macOS."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2, 3, 5, 10):
        picture(folder / f"f_{number:04}.png", "png", number)
        (folder / f"._f_{number:04}.png").write_bytes(b"\0\5\x16\7 no picture")
    (folder / ".f_0004.png").write_bytes(b"hidden")
    picture(folder / "f_7.png", "png")
    return folder


def names(source: Path) -> list[str]:
    return [path.name for path in open_source(source, OPTIONS).pictures]


def test_hidden_files_are_ignored(frames: Path) -> None:
    expected = ["f_0001.png", "f_0002.png", "f_0003.png", "f_0005.png", "f_7.png", "f_0010.png"]
    assert names(frames) == names(frames / "*.png") == expected


def test_a_number_in_the_name_of_an_input(frames: Path, tmp_path: Path) -> None:
    expected = ["f_0001.png", "f_0002.png", "f_0003.png", "f_0005.png", "f_0010.png"]
    assert names(frames / "f_%04d.png") == expected, "f_7 is written otherwise"
    assert names(frames / "f_%d.png") == ["f_7.png"]
    for pattern in (frames / "f_%06d.png", frames / "g_%04d.png", tmp_path / "none" / "%d.png"):
        with pytest.raises(InputError, match=rf"no file matches {pattern}\."):
            open_source(pattern, OPTIONS)


def test_a_numbered_input_is_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (100, 9, 99999, 10):
        picture(tmp_path / f"f_{number:02}.png", "png")
    assert names(tmp_path / "f_%02d.png") == ["f_09.png", "f_10.png", "f_100.png", "f_99999.png"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    assert names(picture(tmp_path / "100%d.png", "png")) == ["100%d.png"]


def test_brackets_in_the_folder_of_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[b]").mkdir()
    picture(tmp_path / "a[b]" / "f_1.png", "png")
    assert names(tmp_path / "a[b]" / "f_%d.png") == ["f_1.png"]


def test_a_gap_is_warned_of(frames: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vsr.upscale(frames / "f_%04d.png", tmp_path / "out.mkv", model="identity")
    assert caplog.messages == [
        f"{frames / 'f_%04d.png'}: 5 numbers are missing, the first in f_0004.png. "
        "The pictures that are there follow one another."
    ]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["f_1", "f_2", "f_4"], "f_3.png is missing."),
        (["f_001_x", "f_002_x", "f_007_x"], "4 numbers are missing, the first in f_003_x.png."),
        (["f_8", "f_9", "f_10", "f_12"], "f_11.png is missing."),
        (["f_10", "f_20", "f_40"], "f_30.png is missing."),
        (["f_10", "f_20", "f_30"], None),
        (["f_5", "f_6"], None),
        (["only_3"], None),
        (["cat", "dog"], None),
        (["a1", "b7"], None),
        (["s1_f1", "s1_f2", "s2_f9"], None),
        (["f_1", "f_01", "f_2"], None),
    ],
)
def test_gaps_are_recognised(written: list[str], said: str | None, tmp_path: Path) -> None:
    for name in written:
        picture(tmp_path / f"{name}.png", "png")
    assert pictures.missing_numbers(open_source(tmp_path, OPTIONS).pictures) == (said or "")


def test_the_frames_of_a_pattern_become_a_clip(frames: Path, tmp_path: Path) -> None:
    summary = vsr.upscale(frames / "f_%04d.png", tmp_path / "%03d.png", model="identity")
    assert summary.frames == 5
    values = [np.asarray(Image.open(tmp_path / f"{number:03}.png"))[0, 0, 0] for number in range(1, 6)]
    assert values == [1, 2, 3, 5, 10]
