"""Measure the effects of a recurrent state: flat colours, drift, and differences where the state is reset.

    python benchmarks/recurrence.py DATA --model runs/video/generator.safetensors [--frames 200] [--device cpu]

DATA holds ``test/Set14`` and ``clips``.

- **flat colours**: eight pure colours; the largest difference in codes, of a single frame, and of five frames that
  alternate by a code, in the middle of the frame and up to its border.
- **drift**: a window that moves to and fro over a picture, and a still window with noise of a code; PSNR of RGB in each
  fifth of the frames. A state that drifts loses from fifth to fifth.
- **cut**: the first frame of a new scene, upscaled after another scene and by itself; the largest difference in codes.
- **boundary**: a segment's first frame with a state warmed up on the previous frames, ``STATE_WARM_UP`` in the
  pipeline: the change across the boundary relative to the change in the clip upscaled as a whole.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from itertools import islice, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import vsr
from vsr.evaluation.pairing import identify, read_rgb
from vsr.imaging.pictures import read_picture
from vsr.imaging.resize import resize_as_matlab
from vsr.inference.engine import Engine
from vsr.pipeline.segments import STATE_WARM_UP

Codes = npt.NDArray[np.uint8]

WINDOW = 256
"""Edge in HR pixels."""
PERIOD = 40
"""Frames until the moving window returns: a fifth of 200, so that each fifth shows the same."""
EDGE = 8
"""Width of the border in HR pixels that the middle excludes."""
CUT = 187
"""The first frame of a new scene in ``clips/scene_cuts.mp4``."""
CUT_WIDTH = 632
"""Columns; right of 640 the clip shows diagrams, which the cut leaves as they are."""
SCENES = (0, CUT - 40)
"""First frames of scenes of forty frames without a cut."""
STEPS = (0, 1, 2, 4, 8, STATE_WARM_UP)


def psnr(ours: Codes, reference: Codes) -> float:
    """Return the PSNR of RGB over all frames in dB."""
    return float(10 * np.log10(255**2 / np.mean((ours.astype(np.float64) - reference) ** 2)))


def reduce(hr: Codes, scale: int) -> Codes:
    """(N, H, W, 3) -> (N, H/scale, W/scale, 3), like MATLAB."""
    height, width = (size // scale for size in hr.shape[1:3])
    return np.stack([to_array(resize_as_matlab(to_tensor(frame), height, width)) for frame in hr])


def to_tensor(frame: Codes) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W)."""
    return torch.from_numpy(frame).permute(2, 0, 1)


def to_array(frame: torch.Tensor) -> Codes:
    """(3, H, W) -> (H, W, 3)."""
    return frame.permute(1, 2, 0).contiguous().numpy()


def upscale_from_reset(engine: Engine, lr: Codes) -> Codes:
    """Upscale a clip with a reset state."""
    engine.reset()
    return engine.upscale(lr)


def flat_colours(engine: Engine) -> tuple[int, int, int]:
    """Return the largest difference in codes: of a single frame, of five in the middle, of five up to the border."""
    inner = slice(EDGE, -EDGE)
    apart = []
    for colour in product((0, 255), repeat=3):
        lr = np.tile(np.array(colour, np.uint8), (5, 32, 40, 1))
        lr[1::2][lr[1::2] == 0] = 1  # a frame that equals the last one is not computed
        differences = np.abs(upscale_from_reset(engine, lr).astype(int) - lr[:, :1, :1])
        middle = differences[:, inner, inner]
        apart.append((middle[0].max(), middle.max(), differences.max()))
    alone, middle, whole = np.max(apart, 0).tolist()
    return alone, middle, whole


def drift(engine: Engine, data: Path, num_frames: int) -> dict[str, list[float]]:
    """Return the PSNR in each fifth of a clip, for a moving and for a still window."""
    picture = read_picture(data / "test/Set14/monarch.png")
    scale, random = int(engine.scale), np.random.default_rng(0)
    round_trip = np.abs((np.arange(num_frames) + PERIOD // 2) % PERIOD - PERIOD // 2)
    paths = {"moving": round_trip, "still": np.zeros(num_frames, int)}
    results = {}
    for name, along in paths.items():
        top, left = 2 * along, 3 * along
        hr = np.stack([picture[y : y + WINDOW, x : x + WINDOW] for y, x in zip(top, left, strict=True)])
        lr = reduce(hr, scale)
        noise = random.integers(-1, 2, lr.shape) if name == "still" else 0
        sr = upscale_from_reset(engine, np.clip(lr + noise, 0, 255).astype(np.uint8))
        fifths = np.array_split(np.arange(num_frames), 5)
        results[name] = [psnr(sr[fifth], hr[fifth]) for fifth in fifths]
    return results


def at_cut(engine: Engine, lr: Codes) -> int:
    """Return the largest difference of the last frame, the first of a scene, after another scene and by itself."""
    after, alone = upscale_from_reset(engine, lr)[-1], upscale_from_reset(engine, lr[-1:])[0]
    return int(np.abs(after.astype(int) - alone).max())


def at_boundary(engine: Engine, lr: Codes) -> list[float]:
    """Return the relative change across a boundary in the middle for each number of warm-up frames."""
    place = len(lr) // 2
    last, first = upscale_from_reset(engine, lr)[place - 1 : place + 1].astype(float)
    results = []
    for warm_up in STEPS:
        ours = upscale_from_reset(engine, lr[place - warm_up : place + 1])[-1]
        results.append(float(np.abs(ours - last).mean() / np.abs(first - last).mean()))
    return results


def read_lr(path: Path, first: int, end: int, scale: int) -> Codes:
    """Read and reduce frames of a clip."""
    with closing(read_rgb(identify(path))) as frames:
        chosen = [to_array((frame[0, ..., :CUT_WIDTH] * 255).round().byte()) for frame in islice(frames, first, end)]
    return reduce(np.stack(chosen), scale)


def main() -> None:
    """Print the figures of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", required=True, help="may be repeated")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    for model in options.model:
        engine = vsr.load_model(model, device=options.device)
        scale, clip = int(engine.scale), options.data / "clips/scene_cuts.mp4"
        print(f"{model}\nflat colours, codes of a single frame, of five, and up to the border:", *flat_colours(engine))
        print("cut, codes:", at_cut(engine, read_lr(clip, CUT - 8, CUT + 1, scale)))
        for start in SCENES:
            ratios = at_boundary(engine, read_lr(clip, start, start + 40, scale))
            text = ", ".join(f"{steps}: {ratio:.2f}" for steps, ratio in zip(STEPS, ratios, strict=True))
            print(f"boundary in the scene from frame {start}, by frames of warm-up: {text}")
        for name, fifths in drift(engine, options.data, options.frames).items():
            print(f"drift, {name}, dB in each fifth:", *(f"{value:.3f}" for value in fifths), flush=True)


if __name__ == "__main__":
    main()
