"""Make the pictures at the top of the README: a clip that was reduced by four, by bicubic interpolation and by vsr.

    python examples/before_after.py bigbuckbunny.mp4 [--start 0.56] [--end 1.48] [--left 260] [--top 160]

The clip is reduced to a quarter of its width and height and compressed by x264; both enlarge the result. Writes
``before_after.png``, of the frame in the middle, and ``before_after.gif``, beside this script. The defaults are for the
first seconds of Big Buck Bunny's opening, 1280x720 at 25 frames/s; examples/README.md names its makers and licence.
"""

from __future__ import annotations

import argparse
import subprocess
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw, ImageFont

import vsr
from vsr.media.ffmpeg import find_program

SCALE = 4
SIZE = 420, 330
"""Width and height of the part that is shown, in pixels of the output."""
BAR = 30
GAP = 6
GIF_RATE = 12.5
"""Frames/s of the GIF: every second frame of a clip of 25 frames/s."""
PAUSE_SECONDS = 0.6
"""How long the GIF stands still before it starts again."""


def upscaled(lr: Path, model: str, folder: Path) -> list[Path]:
    """Upscale a clip into a new folder of pictures, and return them in order."""
    folder.mkdir()
    vsr.upscale(lr, folder / "%04d.png", model=model, scale=SCALE)
    return sorted(folder.iterdir())


def panel(picture: Path, corner: tuple[int, int], label: str) -> Image.Image:
    """Return the part of a picture whose upper left corner is given, below a bar with a label."""
    left, top = corner
    with Image.open(picture) as whole:
        part = whole.convert("RGB").crop((left, top, left + SIZE[0], top + SIZE[1]))
    result = Image.new("RGB", (SIZE[0], BAR + SIZE[1]), (24, 24, 24))
    result.paste(part, (0, BAR))
    ImageDraw.Draw(result).text((10, BAR // 2), label, (235, 235, 235), ImageFont.load_default(17), anchor="lm")
    return result


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Return two panels with a white gap between them."""
    result = Image.new("RGB", (2 * SIZE[0] + GAP, BAR + SIZE[1]), "white")
    result.paste(left, (0, 0))
    result.paste(right, (SIZE[0] + GAP, 0))
    return result


def save_gif(frames: list[Image.Image], target: Path) -> None:
    """Write a GIF whose frames share one palette and one pattern of dithering, so that still parts stay still."""
    with TemporaryDirectory() as folder:
        for index, frame in enumerate(frames):
            frame.save(Path(folder, f"{index:04d}.png"))
        palette = f"tpad=stop_mode=clone:stop_duration={PAUSE_SECONDS},split[a][b];[a]palettegen[p];[b][p]paletteuse"
        dither = "dither=bayer:bayer_scale=4:diff_mode=rectangle"
        source = ["-framerate", str(GIF_RATE), "-i", str(Path(folder, "%04d.png"))]
        command = [find_program(), "-v", "error", "-y", *source, "-filter_complex", f"{palette}={dither}", str(target)]
        subprocess.run(command, check=True)


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="a clip that may be shown: credit its makers below the picture")
    parser.add_argument("--start", type=Fraction, default=Fraction("0.56"), help="in seconds")
    parser.add_argument("--end", type=Fraction, default=Fraction("1.48"), help="in seconds")
    parser.add_argument("--left", type=int, default=260, help="left edge of the part shown, in pixels of the output")
    parser.add_argument("--top", type=int, default=160, help="top edge of the part shown, in pixels of the output")
    parser.add_argument("--model", default="video")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the pictures")
    options = parser.parse_args()
    corner = options.left, options.top
    with TemporaryDirectory() as folder:
        lr = Path(folder, "lr.mp4")
        cut = {"start": options.start, "end": options.end, "audio": "none", "subtitles": "none"}
        vsr.upscale(options.clip, lr, model="identity", scale=1 / SCALE, **cut)
        pictures = zip(
            upscaled(lr, "bicubic", Path(folder, "bicubic")),
            upscaled(lr, options.model, Path(folder, "vsr")),
            strict=True,
        )
        pairs = [
            side_by_side(panel(before, corner, "bicubic, x4"), panel(after, corner, "vsr, x4"))
            for before, after in pictures
        ]
    pairs[len(pairs) // 2].save(options.output / "before_after.png", optimize=True)
    save_gif(pairs[::2], options.output / "before_after.gif")


if __name__ == "__main__":
    main()
