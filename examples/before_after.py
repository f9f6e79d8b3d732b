"""Draw the first picture of the README: one frame of the example clip, by bicubic interpolation and by a model.

    python examples/before_after.py [--model video-x4] [--frame 40]

Writes ``before_after.png`` beside this script: the LR frame in its corner at its own size, and a part of both results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import cv2
import numpy as np

import vsr

HERE = Path(__file__).parent
FONT = cv2.FONT_HERSHEY_SIMPLEX


def read_frame(clip: Path, number: int) -> np.ndarray:
    """Read frame ``number`` of a clip as (H, W, 3) uint8 RGB, by BT.709, the tag of the example clip."""
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == number:
                return frame.to_ndarray(format="rgb24", src_colorspace="ITU709")
    raise SystemExit(f"{clip} has no frame {number}")


def add_label(picture: np.ndarray, text: str) -> np.ndarray:
    """Return the picture with a line of text on a dark bar above it."""
    bar = np.full((34, picture.shape[1], 3), 24, np.uint8)
    cv2.putText(bar, text, (10, 23), FONT, 0.6, (235, 235, 235), 1, cv2.LINE_AA)
    return np.vstack([bar, picture])


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="video-x4")
    parser.add_argument("--frame", type=int, default=40)
    parser.add_argument("--left", type=int, default=20, help="left edge of the part shown, in LR pixels")
    parser.add_argument("--top", type=int, default=0, help="top edge of the part shown, in LR pixels")
    options = parser.parse_args()
    lr = read_frame(HERE / "clip.mp4", options.frame)
    panels = []
    for name in ("bicubic", options.model):
        sr = vsr.load_model(name, scale=4, device="cpu").upscale(lr)
        part = sr[4 * options.top : 4 * options.top + 360, 4 * options.left : 4 * options.left + 460]
        panels.append(add_label(part, f"{name}, x4"))
    panels[0][-lr.shape[0] :, : lr.shape[1]] = lr
    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    target = HERE / "before_after.png"
    cv2.imwrite(str(target), np.hstack([panels[0], gap, panels[1]])[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(target)


if __name__ == "__main__":
    main()
