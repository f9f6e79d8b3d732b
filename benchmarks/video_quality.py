"""Measure models on compressed clips: fidelity, perceptual distance and temporal stability.

    python benchmarks/video_quality.py DATA --model video-x4 --model srgan-x4 [--lpips-weights FILE] [--frames 12]
        [--scale 4] [--crf none 23 32] [--clip NAME ...] [--dirty] [--steady no]

DATA contains ``clips``, ``test/Set14`` and ``vid4``; for ``--dirty`` ``clips`` and ``motion``. Each reference clip is
reduced to a quarter or half like MATLAB, encoded by x264 (preset medium, 4:2:0) at each CRF, or without loss at
``none``, and enlarged by each model and bicubic. References and outputs are lossless 4:4:4, so that only the first
encoding counts. The measures are those of ``vsr eval`` on clips, and LPIPS as the mean over the frames. The still ratio
is the change between frames where the reference is still, relative to bicubic; it is missing if nothing is still. The
warping error is the change along the motion, shown with that of the reference. Bicubic, like anything that blurs, is
trivially steady: compare steadiness only between models that are equally sharp.

The references are two real clips, which were compressed before; slow pans over pictures without compression, where all
changes but the motion come from x264 and the upscaler; and the middle of two uncompressed clips of Vid4, the benchmark
of the literature. The pans use pictures of Set14, as the large photographs in DATA were trained on, and the other test
pictures are too small to move a window over.

With ``--dirty`` LR comes from two encodings by other codecs instead, as ``dirty_clips.py`` lists them.

An x4 generator of 16 blocks runs at about 0.6 frames a second of 320x180 on two idle cores. The references have the LR
pixels of 2 such frames, so that 12 frames take about 40 s for each such model and CRF. Including the measurements,
two models at two CRFs take about 8 minutes on two shared cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from dirty_clips import DIRTY_CLIPS, make_dirty
from torch import Tensor
from tqdm import tqdm

import vsr
from vsr.evaluation.pairing import identify, read_rgb
from vsr.evaluation.tables import Column, Table, to_markdown
from vsr.imaging.pictures import read_picture, write_picture
from vsr.imaging.resize import resize_as_matlab
from vsr.networks.lpips import Lpips, load_lpips

MULTIPLE = 8
"""The edges of a reference are multiples of this, so that those of LR are even, as 4:2:0 requires."""
PAN_STEP = (0.7, 2.6)
"""HR pixels per frame downwards and to the right: 2.7 in all, with a new phase of the LR grid in every frame."""
PAN_WINDOW = (384, 480)
"""Rows and columns."""
BUNNY_START = 33
"""From here the rabbit moves in front of still grass, and no frame repeats for 24 frames."""
CUT = 187
"""The first frame of a new scene."""
CUT_WIDTH = 632
"""Columns that are used; right of 640 the clip shows diagrams."""
VID4_WINDOW = (320, 480)
"""Rows and columns."""
COLUMNS = (
    Column("clip"),
    Column("model"),
    Column("PSNR-Y", "dB", 2, "higher"),
    Column("LPIPS", "", 4, "lower", by="SqueezeNet"),
    Column("VMAF", "", 2, "higher"),
    Column("still ratio", "", 2, "lower"),
    Column("warping error", "codes", 3, "lower"),
    Column("reference's", "codes", 3),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Shot:
    """A lossless reference clip, and the folder of its LR pictures."""

    name: str
    hr: Path
    lr_pictures: Path
    scale: int


def excerpt(path: Path, first: int, num_frames: int, width: int | None = None) -> Iterator[Tensor]:
    """Yield frames of a clip, uint8 (3, H, W) RGB, cropped to the left ``width`` columns.

    Raises:
        ValueError: the clip has too few frames.
    """
    found = 0
    with closing(read_rgb(identify(path))) as frames:
        for frame in islice(frames, first, first + num_frames):
            yield to_bytes(frame[0, :, :, :width])
            found += 1
    if found < num_frames:
        raise ValueError(f"{path} has {found} frames from {first} on, not {num_frames}; take --frames {found}")


def around_cut(path: Path, num_frames: int) -> Iterator[Tensor]:
    """Yield frames around the cut, half of them before it."""
    return excerpt(path, CUT - num_frames // 2, num_frames, CUT_WIDTH)


def middle(path: Path, num_frames: int) -> Iterator[Tensor]:
    """Yield the middle of a clip, uint8 (3, H, W) RGB."""
    rows, columns = VID4_WINDOW
    for frame in excerpt(path, 0, num_frames):
        top, left = (frame.shape[1] - rows) // 2, (frame.shape[2] - columns) // 2
        yield frame[:, top : top + rows, left : left + columns]


def pan(path: Path, num_frames: int) -> Iterator[Tensor]:
    """Yield a window that moves over a picture, uint8 (3, H, W) RGB.

    The picture is moved by the phases of its spectrum, which keeps all frames equally sharp; an interpolating kernel
    would flicker, as its blur depends on the fraction of a pixel. The picture is mirrored, so that edges match.

    Raises:
        ValueError: the window leaves the picture.
    """
    picture = torch.from_numpy(read_picture(path)).permute(2, 0, 1).double() / 255
    height, width = picture.shape[-2:]
    rows, columns = PAN_WINDOW
    end = [size + step * (num_frames - 1) for size, step in zip(PAN_WINDOW, PAN_STEP, strict=True)]
    if end[0] > height or end[1] > width:
        raise ValueError(f"{num_frames} frames are too many for a pan over {path}, which is {width}x{height}")
    mirrored = torch.cat([picture, picture.flip(-1)], -1)
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], -2)  # (3, 2 H, 2 W)
    spectrum = torch.fft.rfft2(mirrored)
    down = torch.fft.fftfreq(2 * height, dtype=torch.float64).unsqueeze(1)
    right = torch.fft.rfftfreq(2 * width, dtype=torch.float64)
    for number in range(num_frames):
        phase = 2 * torch.pi * number * (PAN_STEP[0] * down + PAN_STEP[1] * right)
        moved = torch.fft.irfft2(spectrum * torch.polar(torch.ones_like(phase), phase), s=mirrored.shape[-2:])
        yield to_bytes(moved[:, :rows, :columns])


def to_bytes(rgb: Tensor) -> Tensor:
    """Convert RGB (3, H, W) around [0, 1] to uint8, cropped at right and bottom to multiples of ``MULTIPLE``."""
    height, width = (size // MULTIPLE * MULTIPLE for size in rgb.shape[-2:])
    return (rgb[:, :height, :width].clamp(0, 1) * 255).round().byte()


SHOTS: dict[str, tuple[str, Callable[[Path, int], Iterator[Tensor]]]] = {
    "bunny": ("clips/bigbuckbunny.mp4", lambda path, num_frames: excerpt(path, BUNNY_START, num_frames)),
    "cut": ("clips/scene_cuts.mp4", around_cut),
    "pan over barbara": ("test/Set14/barbara.png", pan),
    "pan over monarch": ("test/Set14/monarch.png", pan),
    "calendar": ("vid4/calendar.mkv", middle),
    "walk": ("vid4/walk.mkv", middle),
}


def make_shot(name: str, frames: Iterable[Tensor], folder: Path, scale: int) -> Shot:
    """Write a reference and its LR pictures into ``folder``."""
    shot = Shot(name, folder / "hr.mkv", folder / "lr", scale)
    hr_pictures = folder / "hr"
    for directory in (hr_pictures, shot.lr_pictures):
        directory.mkdir(parents=True)
    for number, hr in enumerate(frames):
        lr = resize_as_matlab(hr, hr.shape[1] // scale, hr.shape[2] // scale)
        for directory, picture in ((hr_pictures, hr), (shot.lr_pictures, lr)):
            write_picture(directory / f"{number:06d}.png", picture.permute(1, 2, 0).numpy())
    vsr.upscale(hr_pictures, shot.hr, model="identity", codec="ffv1", pix_fmt="yuv444p")
    return shot


def mean_lpips(output: Path, reference: Path, lpips: Lpips) -> float:
    """Return the mean LPIPS over all frames of two clips; values are clipped to [0, 1], as on a screen."""
    device = next(lpips.features.parameters()).device
    with closing(read_rgb(identify(output))) as srs, closing(read_rgb(identify(reference))) as hrs:
        pairs = zip(srs, hrs, strict=True)
        return fmean(lpips(*(each.clamp(0, 1).to(device) for each in pair)).item() for pair in pairs)


def compress(shot: Shot, crf: int | None) -> Path:
    """Encode the LR clip; lossless if ``crf`` is None."""
    if crf is None:
        lr = shot.hr.with_name("lr.mkv")
        vsr.upscale(shot.lr_pictures, lr, model="identity", codec="ffv1", pix_fmt="yuv444p")
        return lr
    lr = shot.hr.with_name(f"lr{crf}.mp4")
    vsr.upscale(shot.lr_pictures, lr, model="identity", codec="h264", crf=crf, preset="medium", pix_fmt="yuv420p")
    return lr


def measure(
    shot: Shot, lr: Path, models: Sequence[str], lpips: Lpips, device: str, steady: str, step: Callable[[], None]
) -> list[Row]:
    """Return a row for each model; ``step`` is called after each of them, and once at the end."""
    with TemporaryDirectory(dir=shot.hr.parent) as folder:
        outputs = tuple(Path(folder) / f"{number}.mkv" for number in range(len(models)))
        for model, output in zip(models, outputs, strict=True):
            chosen = {"model": model, "scale": shot.scale, "device": device, "steady": steady}
            vsr.upscale(lr, output, codec="ffv1", pix_fmt="yuv444p", **chosen)
            step()
        report = vsr.evaluate_videos(shot.hr, outputs, lr=lr, max_unpaired=0)
        distances = [mean_lpips(output, shot.hr, lpips) for output in outputs]
        step()
    rows: list[Row] = []
    for model, score, distance in zip(models, report.outputs, distances, strict=True):
        values = (
            shot.name, model, score.psnr_y, distance, score.vmaf, score.still_ratio, score.warping_error,
            score.reference_warping_error,
        )  # fmt: skip
        rows.append({column.name: value for column, value in zip(COLUMNS, values, strict=True)})
    return rows


def mean_row(rows: Sequence[Row], model: str) -> Row:
    """Return the mean row of a model over the clips that have a value."""
    row: Row = {"clip": "mean", "model": model}
    for column in COLUMNS[2:]:
        values = [row[column.name] for row in rows if row["model"] == model]
        values = [value for value in values if value is not None]
        row[column.name] = fmean(values) if values else None
    return row


def verdict(means: Sequence[Row]) -> str:
    """State whether the first model beats the others on LPIPS and is steadier than the second, by the means."""
    first, second = means[:2]
    closest = min(means[1:], key=lambda row: row["LPIPS"])
    beats = "beats" if first["LPIPS"] < closest["LPIPS"] else "does not beat"
    measured = [name for name in ("still ratio", "warping error") if None not in (first[name], second[name])]
    lower = [first[name] < second[name] for name in measured]
    steadier = "is" if all(lower) else "is in part" if any(lower) else "is not"
    figures = ", ".join(f"{name} {first[name]:.2f} to {second[name]:.2f}" for name in measured)
    return (
        f"{first['model']} {beats} all others on LPIPS ({first['LPIPS']:.4f} to {closest['LPIPS']:.4f} of "
        f"{closest['model']}) and {steadier if measured else 'may be'} steadier than {second['model']} "
        f"({figures or 'no transition measured'})"
    )


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", required=True, help="may be repeated; the first is rated")
    parser.add_argument("--scale", type=int, default=4, choices=(2, 4))
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--frames", type=int, default=12, help="of each clip, 2 to 80; those of Vid4 have 16")
    parser.add_argument("--crf", type=lambda text: None if text == "none" else int(text), nargs="+", default=[23, 32])
    parser.add_argument("--clip", action="append", help="instead of all; may be repeated")
    parser.add_argument("--dirty", action="store_true", help="clips that were encoded twice; --crf is not used")
    parser.add_argument("--steady", default="auto", choices=("auto", "no"))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    if not 2 <= options.frames <= 80:
        parser.error(f"--frames must be 2 to 80, got {options.frames}")
    known = DIRTY_CLIPS if options.dirty else SHOTS
    if unknown := [name for name in options.clip or () if name not in known]:
        parser.error(f"--clip must be one of {', '.join(known)}, got {', '.join(unknown)}")
    return options


def clean_sets(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[tuple[Shot, Path]]]]:
    """Yield for each CRF its name, and the shots with their LR clips."""
    shots = []
    for name in options.clip or SHOTS:
        path, frames_of = SHOTS[name]
        frames = frames_of(options.data / path, options.frames)
        shots.append(make_shot(name, frames, folder / name, options.scale))
    for crf in options.crf:
        yield "ffv1" if crf is None else f"x264 at CRF {crf}", [(shot, compress(shot, crf)) for shot in shots]


def dirty_set(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[tuple[Shot, Path]]]]:
    """Yield the name, and the shots with their LR clips that were encoded twice."""
    pairs = []
    for name in options.clip or DIRTY_CLIPS:
        clip = DIRTY_CLIPS[name]
        hrs = list(excerpt(options.data / clip.source, clip.start, options.frames))
        shot = make_shot(name, hrs, folder / name, options.scale)
        pairs.append((shot, make_dirty(clip, hrs, folder / name / "dirty", options.scale)))
    yield "two encodings", pairs


def main() -> None:
    """Print a table for each kind of LR, and the verdicts."""
    options = parse()
    models = tuple(dict.fromkeys([*options.model, "bicubic"]))
    lpips = load_lpips(options.lpips_weights)
    verdicts = []
    with TemporaryDirectory() as folder:
        sets = (dirty_set if options.dirty else clean_sets)(options, Path(folder))
        for title, pairs in sets:
            with tqdm(total=len(pairs) * (len(models) + 1), desc=title, leave=False) as bar:
                run = partial(
                    measure, models=models, lpips=lpips, device=options.device, steady=options.steady, step=bar.update
                )
                rows = [row for shot, lr in pairs for row in run(shot, lr)]
            means = [mean_row(rows, model) for model in models]
            about = {"cells": f"means over {options.frames} frames a clip, LR by {title}"}
            print(to_markdown(Table(COLUMNS, (*rows, *means), about, ("clip",))))
            if len(models) > 1:
                verdicts.append(f"{title}: {verdict(means)}.")
    print(*verdicts)


if __name__ == "__main__":
    main()
