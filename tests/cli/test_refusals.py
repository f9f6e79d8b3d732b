"""A request that is refused: the error stands alone, whatever else there would be to say about the clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import without_plan

from vsr.cli import main

Ffmpeg = Callable[..., str]


def upscale(source: Path, target: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["upscale", str(source), "-o", str(target), *words])


@pytest.fixture
def clip(tmp_path: Path, ffmpeg: Ffmpeg) -> Path:
    """A clip with sound and an attachment that MOV cannot hold, and with alpha and bits that H.264 cannot."""
    (tmp_path / "font.ttf").write_bytes(b"x")
    made = "-f lavfi -i testsrc2=s=48x33:r=10:d=1 -f lavfi -i sine=d=1 -c:a libopus -c:v ffv1 -pix_fmt yuva422p12le"
    ffmpeg(*f"{made} -metadata:s:t mimetype=font/ttf -attach".split(), tmp_path / "font.ttf", tmp_path / "clip.mkv")
    return tmp_path / "clip.mkv"


REFUSED = {
    "--codec nonsense": "no video encoder 'nonsense'",
    "--codec vp9": ".mov cannot hold vp9",
    "--crf 99": "the crf of h264 lies in 0..51",
    "--preset nonsense": "h264 has no preset 'nonsense'",
    "--pix-fmt nonsense": "does not accept nonsense",
    "-x nonsense=1": "has no option nonsense",
    "-x crf=nonsense": "the encoder libx264 refuses",
    "--audio nonsense": "no audio encoder called nonsense",
    "--audio flac": "mov cannot hold flac",
    "--model nonsense": "there is no model 'nonsense'",
    "--model bicubic --detail 0.5": "has no detail to choose",
    "--model bicubic --precision int8": "run in torch and in fp32 only",
    "--model bicubic --steady yes": "leave out --steady",
    "--device nonsense": "no device is called 'nonsense'",
    "--device cpu,nonsense": "no device is called 'nonsense'",
    "--model video --tile 1": "a tile of 1 is too small",
    "--size 60000x60000": "libx264 writes up to 16384 pixels",
    "--start 100": "has no frame in the requested part",
    "--end 0.5 --start 0.41": "has no frame in the requested part",
    "--start 100 --dry-run": "has no frame in the requested part",
}


@pytest.mark.parametrize("words", REFUSED)
def test_an_error_stands_alone(clip: Path, words: str) -> None:
    target = clip.with_name("out.mov")
    model = [] if "--model" in words else ["--model", "bicubic"]
    result = upscale(clip, target, *model, *words.split())
    assert result.exit_code in (1, 2) and not target.exists()
    assert result.stderr.startswith("error: ") and REFUSED[words] in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_all_warnings_come_where_nothing_is_refused(clip: Path, more: list[str]) -> None:
    result = upscale(clip, clip.with_name("out.mov"), "--model", "bicubic", "--scale", "1", *more)
    assert result.exit_code == 0
    said = result.stderr.replace("upscaling a few frames, to measure time and size ...\n", "")
    assert without_plan(said).splitlines() == [
        "warning: clip.mkv: stream 1, opus audio: converted to aac (mov cannot hold opus)",
        "warning: clip.mkv: stream 2, unknown attachment: left out (mov cannot hold it)",
        "warning: clip.mkv: its alpha channel is left out, as yuv422p10le holds none.",
        "warning: clip.mkv: of its 12 bits yuv422p10le keeps 10.",
    ]


def test_an_error_stands_alone_whatever_the_warning(tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    """Of each kind of warning one, against the latest refusal of a plan."""
    source = "-f lavfi -i testsrc2=s=49x33:r=10:d=1,format=yuv420p"
    ffmpeg(*f"{source} -vf setsar=2 -c:v ffv1".split(), tmp_path / "wide.mkv")
    ffmpeg(*f"{source} -vf scale=48:32,setfield=tff -c:v libx264 -flags +ildct+ilme".split(), tmp_path / "fields.mkv")
    ffmpeg(*source.split(), tmp_path / "in_%d.png")
    (tmp_path / "in_2.png").unlink()
    for name, target, words, expected in (
        ("wide.mkv", "out_%02d.png", [], "pictures keep no pixel aspect"),
        ("wide.mkv", "out.mp4", ["--height", "33"], "becomes 50x34, the next size"),
        ("wide.mkv", "out.avi", [], "an AVI has one frame rate"),
        ("fields.mkv", "whole.mp4", ["--deinterlace", "no"], "is upscaled without deinterlacing"),
        ("in_%d.png", "out.mkv", ["--codec", "ffv1"], "in_2.png is missing."),
    ):
        model = ["--model", "bicubic", *(words or ["--scale", "1"])]
        refused = upscale(tmp_path / name, tmp_path / target, *model, "--steady", "yes")
        assert len(refused.stderr.splitlines()) == 1 and "--steady" in refused.stderr, refused.stderr
        done = upscale(tmp_path / name, tmp_path / target, *model)
        assert done.exit_code == 0 and expected in done.stderr, done.stderr
