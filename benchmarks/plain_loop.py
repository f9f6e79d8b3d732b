"""The loop that people write today, with our weights: the peer of ``benchmarks/speed.py``.

OpenCV reads a frame, PyTorch runs it eagerly as it comes, OpenCV writes it; then the next. No sound, no timestamps, no
batch, no overlap of the three. ``python benchmarks/plain_loop.py IN OUT MODEL``
"""

from __future__ import annotations

import sys

import cv2
import torch

from vsr.networks.models import load_network


@torch.no_grad()
def main(source: str, target: str, model: str) -> None:
    """Upscale ``source`` into ``target``, MPEG-4 as OpenCV writes it."""
    network = load_network(model)
    capture = cv2.VideoCapture(source)
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    size = (network.scale * width, network.scale * height)
    writer = cv2.VideoWriter(target, codec, capture.get(cv2.CAP_PROP_FPS), size)
    assert capture.isOpened() and writer.isOpened()
    while True:
        there, bgr = capture.read()
        if not there:
            break
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        lr = torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0).float() / 255
        sr = network(lr).clamp(0, 1).squeeze(0).permute(1, 2, 0).mul(255).round().byte().numpy()
        writer.write(cv2.cvtColor(sr, cv2.COLOR_RGB2BGR))
    capture.release()
    writer.release()


if __name__ == "__main__":
    main(*sys.argv[1:4])
