"""Animations as GIF keep every frame, its duration and the number of repeats."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import vsr

pytestmark = pytest.mark.usefixtures("leaves_nothing")

RED, BLUE, GREY, CLEAR = (220, 40, 40, 255), (40, 40, 220, 255), (128, 128, 128, 255), (0, 0, 0, 0)
DELAYS = (50, 200, 100, 500, 30, 70)  # ms


def square(ground: Sequence[int], colour: Sequence[int], x: int = 8, dot: int | None = None) -> np.ndarray:
    """(32, 48, 4) RGBA."""
    picture = np.broadcast_to(np.array(ground, np.uint8), (32, 48, 4)).copy()
    picture[8:24, x : x + 16] = colour
    if dot is not None:
        picture[0, dot] = BLUE
    return picture


KINDS = {
    "palettes that come again": [square(GREY, RED), square(GREY, BLUE), square(GREY, RED), square(GREY, BLUE)],
    "of several palettes": [square(GREY, RED), square(BLUE, RED), square(GREY, RED), square(RED, GREY),
                            square(GREY, RED)],
    "few pixels": [square(GREY, RED, dot=dot) for dot in range(6)],
    "movement": [square(GREY, RED, x) for x in range(0, 30, 6)],
    "movement over nothing": [square(CLEAR, RED, x) for x in range(0, 30, 6)],
    "a moving hole": [square(GREY, CLEAR, x) for x in range(0, 30, 6)],
    "transparent, opaque": [square(CLEAR, RED), square(GREY, RED), square(CLEAR, RED), square(GREY, BLUE),
                            square(CLEAR, BLUE)],
    "opaque, transparent": [square(GREY, RED), square(CLEAR, RED), square(GREY, RED), square(CLEAR, BLUE, 20),
                            square(GREY, BLUE)],
    "nothing at all": [square(GREY, RED), square(CLEAR, CLEAR), square(GREY, RED), square(CLEAR, CLEAR)],
}  # fmt: skip


def animation(path: Path, frames: Sequence[np.ndarray], **options: object) -> Path:
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=list(DELAYS[: len(frames)]), **options)
    return path


def read_with_pillow(path: Path) -> tuple[list[np.ndarray], list[int]]:
    frames, delays = [], []
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGBA")))
            delays.append(image.info["duration"])
    return frames, delays


def read_with_libav(path: Path) -> tuple[list[np.ndarray], list[int]]:
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgba") for frame in decoded], [10 * frame.duration for frame in decoded]


def assert_similar(frames: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> None:
    """Compare frames, ignoring invisible colours."""
    assert len(frames) == len(others)
    for number, (frame, other) in enumerate(zip(frames, others, strict=True)):
        assert np.array_equal(frame[..., 3], other[..., 3]), f"alpha of frame {number}"
        seen = frame[..., 3] > 0
        assert np.array_equal(frame[seen], other[seen]), f"frame {number}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_kept(kind: str, tmp_path: Path) -> None:
    clip = animation(tmp_path / "in.png", KINDS[kind], loop=0)
    target = vsr.upscale(clip, tmp_path / "out.gif", model="identity").target
    for read in (read_with_pillow, read_with_libav):
        frames, delays = read(target)
        assert_similar(frames, KINDS[kind])
        assert delays == list(DELAYS[: len(frames)])


@pytest.mark.parametrize("disposal", [0, 1, 2])
@pytest.mark.parametrize("kind", ["movement", "movement over nothing"])
def test_every_disposal_method(kind: str, disposal: int, tmp_path: Path) -> None:
    clip = animation(tmp_path / "in.gif", KINDS[kind], loop=0, disposal=disposal)
    target = vsr.upscale(clip, tmp_path / "out.gif", model="identity").target
    for read in (read_with_pillow, read_with_libav):
        frames, delays = read(target)
        assert_similar(frames, KINDS[kind] if disposal == 2 else read_with_pillow(clip)[0])
        assert delays == read_with_pillow(clip)[1]


def test_frames_that_restore_the_previous_one(ffmpeg: Callable[..., str], tmp_path: Path) -> None:
    """A background stays, and squares are shown in front of it one after the other."""
    clip = animation(tmp_path / "in.png", [square(GREY, GREY), *KINDS["movement over nothing"]])
    palettes = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"
    ffmpeg("-i", clip, "-vf", palettes, "-gifflags", "-offsetting", tmp_path / "cleared.gif")
    cleared, to_the_one_before = (b"\x21\xf9\x04" + flags for flags in (b"\x09", b"\x0d"))
    content = (tmp_path / "cleared.gif").read_bytes()
    assert content.count(cleared) == 5
    (tmp_path / "in.gif").write_bytes(content.replace(cleared, to_the_one_before))
    target = vsr.upscale(tmp_path / "in.gif", tmp_path / "out.gif", model="identity").target
    for read in (read_with_pillow, read_with_libav):
        assert_similar(read(target)[0], [square(GREY, GREY), *KINDS["movement"]])


@pytest.mark.parametrize(
    ("ending", "options", "loop"),
    [(".gif", {}, None), (".gif", {"loop": 0}, 0), (".gif", {"loop": 3}, 3), (".webp", {"loop": 0}, 0),
     (".webp", {"loop": 1}, None), (".webp", {"loop": 4}, 3), (".png", {"loop": 0}, 0), (".png", {"loop": 2}, 1)],
)  # fmt: skip
def test_the_number_of_repeats_is_kept(ending: str, options: dict[str, int], loop: int | None, tmp_path: Path) -> None:
    clip = animation(tmp_path / f"in{ending}", KINDS["movement"], **options)
    with Image.open(vsr.upscale(clip, tmp_path / "out.gif", model="identity").target) as image:
        assert image.info.get("loop") == loop


@pytest.mark.parametrize("name", ["aba.gif", "transp_dispose.gif"])
def test_cases(name: str, shared_data: Path, tmp_path: Path) -> None:
    clip = Path(os.environ["VSR_TEST_DATA"]).parent / "cases" / name
    if not clip.exists():
        pytest.skip(f"no {clip}")
    source, delays = read_with_pillow(clip)
    for model, scale in (("identity", None), ("bicubic", 2)):
        options = {"model": model, "scale": scale, "overwrite": True}
        frames, kept = read_with_pillow(vsr.upscale(clip, tmp_path / "out.gif", **options).target)
        assert kept == delays
        if model == "identity":
            assert_similar(frames, source)
