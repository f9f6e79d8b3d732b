"""Measure the pipeline without a network: ``--model identity`` at 1920x1080, against ffmpeg's own transcoding.

    python benchmarks/throughput.py CLIP [--seconds 8] [--rounds 3]

CLIP is scaled to 1920x1080 and looped, once with 8 bits and once with 10. Every round runs ``vsr.upscale`` (read, to
RGB and back in float32, encode by x264 ultrafast, assemble) and ``ffmpeg -i in -c:v libx264 -preset ultrafast``, one
after the other. Frames per second exclude the start of Python; the ratio is taken within a round. Further columns
show the time of each part alone, in milliseconds per frame.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median

import ffmpeg
import torch

import vsr
from vsr.imaging.colour import planes_to_rgb, rgb_to_planes
from vsr.media.clip import ClipInfo, colour_of
from vsr.media.ffmpeg import run
from vsr.media.formats import CODECS
from vsr.media.probe import probe
from vsr.media.reader import decoded_format, read_frames
from vsr.media.writer import Encoder, VideoFormat

FORMATS = ("yuv420p", "yuv420p10le")
FAST = {"preset": "ultrafast", "crf": "18"}


def make_clip(source: Path, target: Path, pix_fmt: str, seconds: float) -> None:
    """Write CLIP at 1920x1080."""
    sized = ffmpeg.input(str(source), stream_loop=-1).video.filter("scale", 1920, 1080)
    options = {"t": seconds, "pix_fmt": pix_fmt, "crf": 20, "preset": "fast"}
    run(ffmpeg.output(sized, str(target), **options).overwrite_output())


def by_ffmpeg(source: Path, target: Path) -> None:
    """Transcode with the ffmpeg program."""
    coded = {"c:v": "libx264", "preset": "ultrafast", "crf": 18}
    run(ffmpeg.output(ffmpeg.input(str(source)).video, str(target), **coded).overwrite_output())


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall time in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def parts(clip: ClipInfo, folder: Path, frames: int = 60) -> dict[str, float]:
    """Measure each part alone, in milliseconds per frame."""
    video = clip.video
    pix_fmt, layout = decoded_format(video)
    colour = colour_of(video, video.height)
    decoded = list(islice(read_frames(clip.path, video), frames))
    tensors = [[torch.from_numpy(plane.copy())[None] for plane in frame.planes] for frame in decoded[:8]]
    rgb = [planes_to_rgb(planes, layout, colour) for planes in tensors]
    form = VideoFormat(width=video.width, height=video.height, pix_fmt=pix_fmt, time_base=video.time_base,
                       rate=video.average_rate)  # fmt: skip

    def encode() -> None:
        with Encoder(folder / "part.mp4", CODECS["h264"], FAST, form) as encoder:
            for frame in decoded:
                encoder.write(frame)

    return {
        "read": 1000 * seconds_of(lambda: list(islice(read_frames(clip.path, video), frames))) / len(decoded),
        "to RGB": 1000 * seconds_of(lambda: [planes_to_rgb(planes, layout, colour) for planes in tensors]) / len(rgb),
        "from RGB": 1000 * seconds_of(lambda: [rgb_to_planes(image, layout, colour) for image in rgb]) / len(rgb),
        "encode": 1000 * seconds_of(encode) / len(decoded),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, torch {torch.__version__} on {torch.get_num_threads()} threads\n")
    print("| 1920x1080 | vsr, frames/s | ffmpeg, frames/s | ratio | read, ms | to RGB | from RGB | encode |")
    print("|---|---|---|---|---|---|---|---|")
    for pix_fmt in FORMATS:
        with tempfile.TemporaryDirectory() as name:
            source = Path(name) / "source.mp4"
            make_clip(options.clip, source, pix_fmt, options.seconds)
            print(f"| {pix_fmt} | {measure(source, options.rounds)} |")


def measure(source: Path, rounds: int) -> str:
    """Return a row of the table."""
    clip, ours, theirs = probe(source), [], []
    ending = {"model": "identity", "preset": "ultrafast", "overwrite": True}
    for _ in range(rounds):
        ours.append(seconds_of(lambda: vsr.upscale(source, source.with_name("ours.mp4"), **ending)))
        theirs.append(seconds_of(lambda: by_ffmpeg(source, source.with_name("theirs.mp4"))))
    frames = clip.video.num_frames_estimated or 1
    ratio = median(there / here for here, there in zip(ours, theirs, strict=True))
    costs = " | ".join(f"{cost:.1f}" for cost in parts(clip, source.parent).values())
    return f"{frames / median(ours):.1f} | {frames / median(theirs):.1f} | {ratio:.2f} | {costs}"


if __name__ == "__main__":
    main()
