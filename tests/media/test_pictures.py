"""Pictures as clips, and clips as pictures."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

import vsr
from vsr.errors import InputError, OutputError, UsageError
from vsr.imaging.colour import PixelLayout
from vsr.media.clip import ColourTags
from vsr.media.pictures import (
    existing,
    find_pictures,
    is_pattern,
    natural_order,
    numbered,
    picture_format,
    probe_pictures,
    read_pictures,
)

pytestmark = pytest.mark.usefixtures("leaves_nothing")

MakeClip = Callable[..., Path]
Ffmpeg = Callable[..., str]

RANDOM = np.random.default_rng(7)
LIMIT = 10**6


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RANDOM.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def store(path: Path, picture: np.ndarray) -> Path:
    """Write a grey, BGR or BGRA picture."""
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), picture)
    return path


def load(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return picture


def test_names_are_sorted_by_their_numbers() -> None:
    names = ["b2.png", "frame10.png", "frame2.png", "a.png", "frame002.png", "10.png", "9.png", "frame1x.png"]
    assert [path.name for path in sorted(map(Path, names), key=natural_order)] == [
        "a.png", "b2.png", "frame1x.png", "frame002.png", "frame2.png", "frame10.png", "9.png", "10.png",
    ]  # fmt: skip


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    for name in ("2.png", "10.PNG", "1.jpeg", "notes.txt", ".hidden", "clip.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "3.png").mkdir()
    assert [path.name for path in find_pictures(tmp_path)] == ["1.jpeg", "2.png", "10.PNG"]
    with pytest.raises(InputError, match=r"^cannot read the folder .*gone: No such file or directory\.$"):
        find_pictures(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "seventh"),
    [("%06d.png", "000007.png"), ("a%d-x.tif", "a7-x.tif"), ("%3d.png", "  7.png"), ("100%.png", "100%.png"),
     ("plain.png", "plain.png"), ("%02d%02d.png", "07%02d.png")],
)  # fmt: skip
def test_numbers_in_a_pattern(name: str, seventh: str) -> None:
    assert numbered(Path("%d") / name, 7) == Path("%d") / seventh
    assert is_pattern(Path(name)) is (name != seventh)


def test_pictures_of_a_name_or_pattern(tmp_path: Path) -> None:
    for name in ("f000001.png", "f12.png", "f.png", "f1.jpg", "xf1.png"):
        (tmp_path / name).touch()
    assert sorted(path.name for path in existing(tmp_path / "f%06d.png")) == ["f000001.png", "f12.png"]
    assert list(existing(tmp_path / "gone" / "%d.png")) == list(existing(tmp_path / "f3.png")) == []
    assert list(existing(tmp_path / "f12.png")) == [tmp_path / "f12.png"]


@pytest.mark.parametrize(
    ("picture", "pix_fmt"),
    [
        (noise(6, 8), "gray"),
        (noise(6, 8, dtype=np.uint16), "gray16le"),
        (noise(6, 8, 3), "gbrp"),
        (noise(6, 8, 3, dtype=np.uint16), "gbrp16le"),
        (noise(6, 8, 4), "gbrap"),
        (noise(6, 8, 4, dtype=np.uint16), "gbrap16le"),
    ],
    ids=str,
)
def test_a_picture_as_a_clip(picture: np.ndarray, pix_fmt: str, tmp_path: Path) -> None:
    path = store(tmp_path / "a.png", picture)
    clip = probe_pictures([path, path, path], tmp_path, fps=Fraction(30000, 1001))
    video = clip.video
    assert (video.width, video.height, video.pix_fmt, video.codec) == (8, 6, pix_fmt, "png")
    assert (video.time_base, video.average_rate) == (Fraction(1001, 30000), Fraction(30000, 1001))
    assert video.num_frames_estimated == video.duration == len(clip.pictures) == 3
    assert video.tags == ColourTags(range=2, matrix=2 if "gray" in pix_fmt else 0)
    frames = list(read_pictures(clip, start=1))
    assert [(frame.pts, frame.duration) for frame in frames] == [(1, 1), (2, 1)]
    planes = [picture] if picture.ndim == 2 else [picture[..., channel] for channel in (1, 0, 2, 3)[: picture.shape[2]]]
    for plane, stored in zip(frames[0].planes, planes, strict=True):
        assert plane.dtype == stored.dtype and np.array_equal(plane, stored)


def mixture(folder: Path, *pictures: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    paths = [store(folder / f"{number}.png", picture) for number, picture in enumerate(pictures)]
    clip = probe_pictures(paths, folder)
    return [frame.planes for frame in read_pictures(clip)]


def test_pictures_with_less_are_converted_to_the_format_of_the_first(tmp_path: Path) -> None:
    wide, grey, plain = noise(4, 6, 4, dtype=np.uint16), noise(4, 6), noise(4, 6, 3)
    _, of_grey, of_plain = mixture(tmp_path, wide, grey, plain)
    for plane in of_grey[:3]:
        assert np.array_equal(plane, grey.astype(np.uint16) * 257)
    assert np.array_equal(of_plain[2], plain[..., 2].astype(np.uint16) * 257)
    assert (of_grey[3] == 65535).all() and of_plain[3].dtype == np.uint16


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            noise(4, 6, 3),
            noise(4, 6, 3, dtype=np.uint16),
            "has more bits or an alpha channel, unlike the first picture",
        ),
        (noise(4, 6, 3), noise(4, 6, 4), "has more bits or an alpha channel, unlike the first picture"),
        (noise(4, 6), noise(4, 6, 4), "has more bits or an alpha channel, unlike the first picture"),
        (noise(4, 6), noise(4, 6, 3), "has colours, unlike the first picture; process it separately"),
        (noise(4, 6), noise(4, 7), "is 7x4, the first picture 6x4: all pictures of a sequence must have the same size"),
    ],
    ids=["depth", "alpha", "alpha of grey", "colour", "size"],
)
def test_pictures_with_more_are_refused(first: np.ndarray, second: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        mixture(tmp_path, first, second)
    assert str(tmp_path / "1.png") in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "name", "pix_fmt"),
    [
        (PixelLayout("yuv", 8, 1, 1), "a.png", "gbrp"),
        (PixelLayout("yuv", 10, 1, 1), "a.png", "gbrp16le"),
        (PixelLayout("yuv", 10, 1, 1), "a.jpg", "gbrp"),
        (PixelLayout("rgb", 16, alpha=True), "a.tif", "gbrap16le"),
        (PixelLayout("rgb", 16, alpha=True), "a.webp", "gbrap"),
        (PixelLayout("rgb", 8, alpha=True), "a.jpg", "gbrp"),
        (PixelLayout("grey", 12), "a.png", "gray16le"),
        (PixelLayout("grey", 8), "a.jpg", "gray"),
    ],
)
def test_the_format_of_a_picture_file(layout: PixelLayout, name: str, pix_fmt: str) -> None:
    assert picture_format(layout, Path(name)) == pix_fmt


def test_unknown_picture_suffixes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^cannot write a\.gif: pictures end in \.bmp, \.jpeg, "):
        picture_format(PixelLayout("rgb"), Path("a.gif"))


# Whole jobs


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_through_a_job(channels: int, dtype: type, ending: str, tmp_path: Path) -> None:
    picture = noise(7, 9, channels, dtype=dtype).squeeze()
    source = store(tmp_path / f"in{ending}", picture)
    summary = vsr.upscale(source, tmp_path / f"out{ending}", model="identity")
    assert (summary.frames, summary.width, summary.height) == (1, 9, 7)
    returned = load(summary.target)
    if (channels, dtype, ending) == (4, np.uint8, ".tif"):  # OpenCV multiplies it by its alpha
        returned = np.asarray(Image.open(summary.target))[..., [2, 1, 0, 3]]
    assert returned.dtype == dtype and np.array_equal(returned.squeeze(), picture)


def test_a_colour_profile_is_kept(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noise(6, 8, 3)).save(tmp_path / "in.png", icc_profile=profile)
    for name in ("out.png", "out.jpg", "out.tif", "out.webp"):
        vsr.upscale(tmp_path / "in.png", tmp_path / name, model="bicubic", scale=2)
        with Image.open(tmp_path / name) as out:
            assert out.info["icc_profile"] == profile and out.size == (16, 12)


def test_a_folder_becomes_a_clip(tmp_path: Path, frame_listing: Callable[..., list[tuple[int, int, str]]]) -> None:
    pictures = [noise(6, 8, 3, dtype=np.uint16) for _ in range(11)]
    for number, picture in enumerate(pictures):
        store(tmp_path / "in" / f"f{number}.png", picture)  # f10 is last
    target = vsr.upscale(tmp_path / "in", tmp_path / "out.mkv", model="identity", codec="ffv1", fps=Fraction(10)).target
    assert [(pts, duration) for pts, duration, _ in frame_listing(target, 0, "gbrp16le")] == [
        (100 * number, 100) for number in range(11)
    ]
    with av.open(str(target)) as container:
        assert container.streams.video[0].pix_fmt == "gbrp16le"
        assert container.streams.video[0].average_rate == 10
        for frame, picture in zip(container.decode(video=0), pictures, strict=True):
            assert np.array_equal(frame.to_ndarray(format="rgb48le"), picture[..., ::-1])


def test_a_pattern_of_inputs_and_a_part_of_them(tmp_path: Path) -> None:
    for number in range(12):
        store(tmp_path / "in" / f"{number}.png", np.full((6, 8), number * 20, np.uint8))
    store(tmp_path / "in" / "other.jpg", np.zeros((3, 3), np.uint8))
    (tmp_path / "out").mkdir()
    part = {"start": Fraction(1, 5), "end": Fraction(11, 10), "fps": Fraction(10)}
    source, target = tmp_path / "in" / "*.png", tmp_path / "out" / "%d.png"
    assert vsr.upscale(source, target, model="identity", **part).frames == 9
    values = {int(path.stem): int(load(path)[0, 0]) for path in (tmp_path / "out").iterdir()}
    assert values == {number: 20 * (number + 1) for number in range(1, 10)}


def test_a_clip_becomes_pictures(make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    clip = make_clip(pix_fmt="yuv444p", options={"x264-params": "colormatrix=bt709:range=tv", "crf": "4"})
    (tmp_path / "frames").mkdir()
    vsr.upscale(clip, tmp_path / "frames" / "%06d.png", model="identity")
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [f"{n:06}.png" for n in range(1, 9)]
    (tmp_path / "program").mkdir()
    ffmpeg("-i", clip, "-vf", "scale=flags=accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24",
           tmp_path / "program" / "%06d.png")  # fmt: skip
    for number in range(1, 9):
        ours, theirs = (load(tmp_path / folder / f"{number:06}.png").astype(int) for folder in ("frames", "program"))
        assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("there", ["000001.png", "77.png"])
def test_existing_pictures_are_refused(there: str, make_clip: MakeClip, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / there).write_bytes(b"precious")
    with pytest.raises(OutputError, match=rf"{there} exists already; overwrite=True replaces it\.$"):
        vsr.upscale(make_clip(), folder / "%06d.png", model="identity")
    assert [path.read_bytes() for path in folder.iterdir()] == [b"precious"]
    vsr.upscale(tmp_path / "clip.mp4", folder / "%06d.png", model="identity", overwrite=True)
    assert (folder / "000008.png").stat().st_size > 100


def test_a_failing_picture_leaves_no_other(tmp_path: Path) -> None:
    for number in range(4):
        store(tmp_path / "in" / f"{number}.png", noise(6, 8 + (number == 3)))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="3.png is 9x6, the first picture 8x6"):
        vsr.upscale(tmp_path / "in", tmp_path / "out" / "%d.png", model="identity")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_single_name_for_many_frames_is_refused(make_clip: MakeClip, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"out\.png is one picture; for all frames name a pattern such as %06d\.png\.$"
    ):
        vsr.upscale(make_clip(), tmp_path / "out.png", model="identity")


def test_a_clip_of_one_frame_becomes_a_picture(make_clip: MakeClip, tmp_path: Path) -> None:
    assert vsr.upscale(make_clip(pts=[0]), tmp_path / "out.png", model="identity").frames == 1
    assert load(tmp_path / "out.png").shape == (32, 48, 3)


@pytest.mark.parametrize("target", ["%d.png", "1.png"])
@pytest.mark.parametrize("source", ["*.png", "", "1.png"])
def test_inputs_are_never_overwritten(source: str, target: str, tmp_path: Path) -> None:
    before = noise(6, 8)
    store(tmp_path / "1.png", before)
    with pytest.raises(OutputError, match=r"1\.png is one of the inputs; give the output another name\.$"):
        vsr.upscale(tmp_path / source, tmp_path / target, model="bicubic", overwrite=True)
    assert np.array_equal(load(tmp_path / "1.png"), before)
