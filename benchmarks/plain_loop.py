"""Upscale a clip by the usual loop with our weights: the baseline of ``benchmarks/speed.py``.

Two ffmpeg programs with pipes of raw BGR, as in Real-ESRGAN's video script; in between one frame at a time, a network
in eager mode, and each conversion as a separate step on the CPU. There are no timestamps: a constant rate is declared.
``python benchmarks/plain_loop.py IN OUT MODEL``
"""

from __future__ import annotations

import sys

import av
import ffmpeg
import numpy as np
import torch

from vsr.media.ffmpeg import find_program
from vsr.networks.weights import load_network


@torch.no_grad()
def main(source: str, target: str, model: str) -> None:
    """Upscale ``source`` into ``target``, as H.264 with libx264's defaults."""
    network = load_network(model)
    with av.open(source) as container:
        video = container.streams.video[0]
        width, height, rate = video.width, video.height, video.average_rate
    program, scale = find_program(), network.scale
    reader = ffmpeg.input(source).output("pipe:", format="rawvideo", pix_fmt="bgr24", loglevel="error")
    reading = reader.run_async(cmd=program, pipe_stdout=True)
    size = f"{scale * width}x{scale * height}"
    frames = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="bgr24", s=size, framerate=str(rate))
    writer = ffmpeg.output(frames, target, pix_fmt="yuv420p", vcodec="libx264", loglevel="error").overwrite_output()
    writing = writer.run_async(cmd=program, pipe_stdin=True)
    while raw := reading.stdout.read(width * height * 3):
        bgr = np.frombuffer(raw, np.uint8).reshape(height, width, 3)
        lr = torch.from_numpy(bgr[..., ::-1].astype(np.float32) / 255).permute(2, 0, 1).unsqueeze(0)
        sr = network(lr).squeeze(0).clamp(0, 1).permute(1, 2, 0).numpy()
        writing.stdin.write((sr[..., ::-1] * 255).round().astype(np.uint8).tobytes())
    writing.stdin.close()
    assert reading.wait() == 0 and writing.wait() == 0


if __name__ == "__main__":
    main(*sys.argv[1:4])
