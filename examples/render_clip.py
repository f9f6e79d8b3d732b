"""Render the small clip that the examples upscale: a fractal zoom with text, fine lines and a stereo tone.

    python examples/render_clip.py                               # examples/clip.mp4, 160x90, 3 seconds
    python examples/render_clip.py --scale 4 --output hr.mp4     # the same content at 640x360: its HR ground truth

No other file is needed. The picture is the Julia set of z^2 + c, approached at one of its repelling fixed points,
coloured by the smooth escape count (log2 log |z|). Over it are a moving title, a dial with a turning rosette
and a running time code. The sound is a pair of sines whose pitch rises with the magnification.

Every frame is drawn at least four times too large in each direction and averaged down, so that fine detail affects the
pixels of the small clip without aliasing. All lengths are fractions of the picture's height: a clip at
``--scale N``, averaged over N x N pixels, is the clip at scale 1 up to sampling noise and coding.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np

FPS = 25
SAMPLE_RATE = 48_000
MIN_SUPERSAMPLING, MIN_CANVAS_HEIGHT = 4, 720  # small clips are sampled more densely, which is cheap

JULIA_C = 0.285 + 0.010j
# z = z^2 + c solved for z: the eye of a spiral, where the set looks the same at every magnification.
FIXED_POINT = (1 - np.sqrt(1 - 4 * JULIA_C)) / 2
FIRST_VIEW_HEIGHT, LAST_VIEW_HEIGHT = 0.80, 0.15  # of the complex plane
VIEW_TURN = 0.9  # radians, from the first frame to the last
VIEW_CENTRE_X = -0.20  # position of the eye, in picture heights from the middle
MAX_ITERATIONS = 600
ESCAPE_RADIUS = 100.0  # far beyond 2, which makes the escape count smooth

INK = (7, 10, 32)
CREAM = (252, 243, 218)
AMBER = (250, 172, 70)
PALETTE = ((8, 12, 40), (18, 70, 120), (60, 170, 180), (245, 240, 210), (245, 160, 60), (150, 40, 50), (40, 14, 60))
PALETTE_TURNS_PER_LOG = 0.6  # turns of the palette for each factor e in the escape count

FONT = cv2.FONT_HERSHEY_DUPLEX
FONT_CAPITAL_HEIGHT = 21.0  # pixels at a font scale of 1
FONT_THICKNESS = 30
ROSETTE_STRANDS, ROSETTE_LOBES = 5, 4
TICKS = 36


def render_fractal(width: int, height: int, progress: float) -> np.ndarray:
    """Render the Julia set at a moment of the zoom.

    Args:
        width: pixels.
        height: pixels.
        progress: 0 at the first frame, 1 at the last.

    Returns:
        float32 RGB (height, width, 3), 0 to 255.
    """
    pixel = view_height(progress) / height
    x = (np.arange(width) + 0.5 - width / 2) * pixel - VIEW_CENTRE_X * view_height(progress)
    y = (np.arange(height) + 0.5 - height / 2) * pixel
    turn = np.exp(1j * VIEW_TURN * progress)
    # Bands of rows keep the iterated numbers in the processor's cache.
    bands = np.array_split(y, math.ceil(height / 16))
    counts = np.concatenate([escape_counts(FIXED_POINT + turn * (x + 1j * band[:, None])) for band in bands])
    phase = PALETTE_TURNS_PER_LOG * np.log(np.maximum(counts, 1.0)) % 1.0
    table = palette_table()
    return table[(phase * len(table)).astype(np.intp)]


def view_height(progress: float) -> float:
    """Return the height of the visible part of the complex plane: it shrinks by the same factor in every frame."""
    return FIRST_VIEW_HEIGHT * (LAST_VIEW_HEIGHT / FIRST_VIEW_HEIGHT) ** progress


def escape_counts(start: np.ndarray) -> np.ndarray:
    """Count iterations of z^2 + c until |z| exceeds ``ESCAPE_RADIUS``, smoothed: complex of any shape to float64."""
    counts = np.full(start.size, float(MAX_ITERATIONS))
    active = np.arange(start.size)
    z = start.ravel()
    for iteration in range(1, MAX_ITERATIONS + 1):
        z = z * z + JULIA_C
        squared = z.real**2 + z.imag**2
        escaped = squared > ESCAPE_RADIUS**2
        if escaped.any():
            counts[active[escaped]] = iteration - np.log2(0.5 * np.log(squared[escaped]))
            active, z = active[~escaped], z[~escaped]
            if not active.size:
                break
    return counts.reshape(start.shape)


def palette_table(entries: int = 4096) -> np.ndarray:
    """Return one turn of the palette, eased from colour to colour: float32 RGB (entries, 3), 0 to 255."""
    colours = np.array(PALETTE, np.float32)
    position = np.arange(entries) * len(colours) / entries
    index = position.astype(int)
    share = (position - index).astype(np.float32)[:, None]
    share = share * share * (3 - 2 * share)
    return colours[index] * (1 - share) + colours[(index + 1) % len(colours)] * share


def blend(canvas: np.ndarray, coverage: np.ndarray, colour: Sequence[int]) -> None:
    """Blend a colour over the float32 RGB canvas, in place, by coverage (height, width), 0 to 1."""
    canvas += coverage.astype(np.float32)[..., None] * (np.array(colour, np.float32) - canvas)


def draw_text(canvas: np.ndarray, text: str, x: float, baseline: float, size: float, colour: Sequence[int]) -> None:
    """Write a line with a dark halo.

    Args:
        canvas: float32 RGB (height, width, 3), changed in place.
        text: ASCII, as OpenCV's fonts have no other characters.
        x: left end, in canvas heights.
        baseline: from the top, in canvas heights.
        size: height of a capital, in canvas heights.
        colour: RGB, 0 to 255.
    """
    # OpenCV places letters on whole pixels and hints them by size, so they are drawn at one size and then mapped: they
    # keep their shape at every --scale, and move by fractions of a pixel.
    margin, capital = 100, 210
    font_scale = capital / FONT_CAPITAL_HEIGHT
    (text_width, _), _ = cv2.getTextSize(text, FONT, font_scale, FONT_THICKNESS)
    letters = np.zeros((capital + 2 * margin, text_width + 2 * margin), np.uint8)
    cv2.putText(letters, text, (margin, margin + capital), FONT, font_scale, 255, FONT_THICKNESS, cv2.LINE_AA)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (65, 65))
    halo = cv2.GaussianBlur(cv2.dilate(letters, disc), (0, 0), 16)

    height, width = canvas.shape[:2]
    zoom = size * height / capital
    # warpAffine counts from pixel centres, hence the halves.
    to_x = x * height - zoom * (margin - 0.5) - 0.5
    to_y = baseline * height - zoom * (margin + capital - 0.5) - 0.5
    mapping = np.array([[zoom, 0, to_x], [0, zoom, to_y]])
    for mask, ink, opacity in ((halo, INK, 0.85), (letters, colour, 1.0)):
        blend(canvas, cv2.warpAffine(mask, mapping, (width, height)) * (opacity / 255), ink)


def draw_dial(canvas: np.ndarray, centre_x: float, centre_y: float, radius: float, progress: float) -> None:
    """Draw a dark disc with ticks, a turning rosette of fine lines, and a hand that turns once in the clip.

    Centre and radius are in canvas heights; the float32 RGB canvas is changed in place. Every shape is given by its
    distance from a pixel, in dial radii, which places it exactly at any size.
    """
    height, width = canvas.shape[:2]
    x = ((np.arange(width) + 0.5) / height - centre_x) / radius
    y = ((np.arange(height) + 0.5) / height - centre_y) / radius
    part = np.ix_(np.abs(y) < 1.1, np.abs(x) < 1.1)
    x, y = x[np.abs(x) < 1.1], y[np.abs(y) < 1.1, None]
    distance, angle = np.hypot(x, y), np.arctan2(x, -y)

    def inside(depth: np.ndarray) -> np.ndarray:
        """Return the coverage by the depth inside a shape, whose edge is one pixel of the canvas wide."""
        return np.clip(0.5 + depth * radius * height, 0, 1)

    face = canvas[part]
    blend(face, 0.92 * inside(1 - distance), INK)
    for strand in range(ROSETTE_STRANDS):
        wave = ROSETTE_LOBES * (angle - math.pi * progress) + math.tau * strand / ROSETTE_STRANDS
        slope = 0.25 * ROSETTE_LOBES * np.sin(wave) / np.maximum(distance, 0.1)
        # Distance from the curve r = 0.47 + 0.25 cos(wave), to first order.
        blend(face, 0.9 * inside(0.02 - np.abs(distance - 0.47 - 0.25 * np.cos(wave)) / np.hypot(1, slope)), CREAM)
    to_tick = distance * np.sin(angle - np.rint(angle * TICKS / math.tau) * math.tau / TICKS)
    blend(face, inside(np.minimum(0.025 - np.abs(to_tick), 0.05 - np.abs(distance - 0.87))), CREAM)
    blend(face, inside(0.03 - np.abs(distance - 1)), CREAM)
    along, across = distance * np.cos(angle - math.tau * progress), distance * np.sin(angle - math.tau * progress)
    blend(face, inside(0.04 - np.hypot(across, along - np.clip(along, 0, 0.9))), AMBER)
    canvas[part] = face


def render_frame(width: int, height: int, index: int, num_frames: int) -> np.ndarray:
    """Render frame ``index`` of the clip: float32 RGB (height, width, 3), 0 to 255."""
    progress = index / max(1, num_frames - 1)
    aspect = width / height
    supersampling = max(MIN_SUPERSAMPLING, math.ceil(MIN_CANVAS_HEIGHT / height))
    canvas = render_fractal(width * supersampling, height * supersampling, progress)
    draw_dial(canvas, aspect - 0.29, 0.70, 0.25, progress)
    title_x = 0.06 + (aspect - 0.66) * progress
    draw_text(canvas, "vsr", title_x, 0.31 + 0.05 * math.sin(math.tau * progress), 0.24, CREAM)
    seconds, frame = divmod(index, FPS)
    timecode = f"{seconds // 60:02}:{seconds % 60:02}:{frame:02}"
    draw_text(canvas, timecode, 0.06, 0.93, 0.085, CREAM)
    # Averaged in stored (gamma-encoded) values, like the degradations of the super-resolution literature.
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def tone(num_frames: int) -> np.ndarray:
    """Synthesise the sound of the frames: a gliding sine and its fifth, panned between the channels.

    Returns:
        float32 (2, samples) at ``SAMPLE_RATE``, within -0.2 to 0.2, faded in and out.
    """
    num_samples = num_frames * SAMPLE_RATE // FPS
    progress = np.arange(num_samples) / num_samples
    magnification = (FIRST_VIEW_HEIGHT / LAST_VIEW_HEIGHT) ** progress
    phase = math.tau * np.cumsum(196.0 * np.sqrt(magnification)) / SAMPLE_RATE
    root, fifth = np.sin(phase), 0.4 * np.sin(1.5 * phase)
    pan = 0.25 * math.pi * (1 + 0.5 * np.sin(math.tau * progress))
    stereo = np.stack([np.cos(pan) * root + np.sin(pan) * fifth, np.sin(pan) * root + np.cos(pan) * fifth])
    seconds_from_ends = np.minimum(progress, 1 - progress) * num_frames / FPS
    fade = np.sin(0.5 * math.pi * np.clip(seconds_from_ends / 0.3, 0, 1)) ** 2
    return (0.14 * fade * stereo).astype(np.float32)


def video_frame(rgb: np.ndarray) -> av.VideoFrame:
    """Convert RGB (height, width, 3), 0 to 255, to 8-bit 4:2:0 in limited-range BT.709 (ITU-R BT.709-6, section 3)."""
    red, green, blue = np.moveaxis(rgb / 255, -1, 0)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    chroma = subsample((blue - luma) / 1.8556), subsample((red - luma) / 1.5748)
    planes = 16 + 219 * luma, 128 + 224 * chroma[0], 128 + 224 * chroma[1]
    height, width = luma.shape
    # PyAV expects the three planes one after the other, in rows as long as those of luma.
    samples = np.concatenate([plane.ravel() for plane in planes]).reshape(height * 3 // 2, width)
    return av.VideoFrame.from_ndarray(np.rint(samples).clip(0, 255).astype(np.uint8), format="yuv420p")


def subsample(chroma: np.ndarray) -> np.ndarray:
    """Halve both axes; samples are on the even columns and between the rows, the default of H.264."""
    padded = np.pad(chroma, ((0, 0), (1, 0)), "edge")
    columns = (padded[:, :-1:2] + 2 * padded[:, 1::2] + padded[:, 2::2]) / 4
    return (columns[::2] + columns[1::2]) / 2


def audio_frame(samples: np.ndarray, pts: int) -> av.AudioFrame:
    """Make a frame of float samples (2, n) that starts at sample ``pts``."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
    frame.sample_rate = SAMPLE_RATE
    frame.pts = pts
    return frame


def write_clip(output: Path, width: int, height: int, num_frames: int) -> None:
    """Render and encode the clip; ``output`` is replaced only once the whole clip is written."""
    temporary = output.with_name(f".vsr-{output.name}")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            encode_clip(container, width, height, num_frames)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)


def encode_clip(container: av.container.OutputContainer, width: int, height: int, num_frames: int) -> None:
    """Encode the clip, frame by frame with its sound, into an open container as H.264 and AAC."""
    container.metadata["title"] = "vsr example clip: a Julia set zoom"
    # For the same bytes in every run: x264 decides differently with another number of threads, and with its macroblock
    # tree (mbtree) the files differed between runs at 160x90 even on one thread.
    coding = {"crf": "14", "preset": "veryslow", "threads": "1", "mbtree": "0"}
    bt709 = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709", "color_range": "tv"}
    video = container.add_stream("libx264", FPS, coding | bt709)
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    audio = container.add_stream("aac", SAMPLE_RATE, layout="stereo", bit_rate=96_000)
    sound = tone(num_frames)
    samples_per_frame = SAMPLE_RATE // FPS
    for index in range(num_frames):
        frame = video_frame(render_frame(width, height, index, num_frames))
        frame.pts = index
        container.mux(video.encode(frame))
        first = index * samples_per_frame
        container.mux(audio.encode(audio_frame(sound[:, first : first + samples_per_frame], first)))
    container.mux(video.encode())
    container.mux(audio.encode())


def frame_size(text: str) -> tuple[int, int]:
    """Parse ``WxH``: even, because 4:2:0 halves both."""
    width, separator, height = text.partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WxH such as 160x90, got {text!r}")
    size = int(width), int(height)
    if min(size) < 16 or any(length % 2 for length in size):
        raise argparse.ArgumentTypeError(f"width and height must be even and at least 16, got {text!r}")
    return size


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return number


def main() -> None:
    """Parse the command line, render, and print what was written."""
    parser = argparse.ArgumentParser(description="Render a small clip with detail and sound, to upscale it.")
    parser.add_argument(
        "--output", type=Path, help="file to write or replace (default: clip[_xN].mp4 beside this script)"
    )
    parser.add_argument(
        "--size", type=frame_size, default=(160, 90), metavar="WxH", help="pixels at scale 1 (default: 160x90)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=3.0, help=f"length of the clip, at {FPS} frames a second (default: 3)"
    )
    parser.add_argument(
        "--scale", type=int, default=1, metavar="N", help="render the same clip N times as wide and high (default: 1)"
    )
    options = parser.parse_args()
    if options.scale < 1:
        parser.error(f"--scale must be at least 1, got {options.scale}")
    suffix = f"_x{options.scale}" if options.scale > 1 else ""
    output = options.output or Path(__file__).with_name(f"clip{suffix}.mp4")
    if not output.parent.is_dir():
        parser.error(f"there is no folder {output.parent} to write into; create it first")
    width, height = (length * options.scale for length in options.size)
    num_frames = max(1, round(options.seconds * FPS))
    write_clip(output, width, height, num_frames)
    print(f"{output}: {num_frames} frames of {width}x{height}, {num_frames / FPS:g} s, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
