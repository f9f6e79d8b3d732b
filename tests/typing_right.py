"""Calls of every public function without mistakes; mypy has to find none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import vsr

model: vsr.Engine = vsr.load_model("srgan-x4", device=torch.device("cpu")).to("cpu")
stop = threading.Event()


def show(at: vsr.UpscaleProgress) -> None:
    rate: float | None = at.frames_per_second
    left: float | None = at.seconds_left
    print(at.frames, at.num_frames, rate, left)


def frames() -> Iterator[npt.NDArray[np.uint8]]:
    yield np.zeros((4, 4, 3), np.uint8)


summary: vsr.UpscaleSummary = vsr.upscale("in.mp4", Path("out.mp4"), progress=show, stop=stop)
vsr.upscale("in.mp4", "out.mp4", model=model, size=(1920, 1080), fps=25, start=1, end="1:30.5", crf=18)
vsr.upscale("in.mp4", "out.mp4", model=Path("a.safetensors"), fps=29.97, start=Fraction(1, 3), encoder={"bf": "0"})
vsr.upscale("in.mp4", "out.mp4", device=torch.device("cpu"), progress=lambda at: at.frames < 10)
outcomes: list[vsr.Outcome] = vsr.upscale_folder(
    ["clips", Path("a.mp4")], "out", recursive=True, model=model, progress=lambda at: print(at.clip.frames)
)
if outcomes[0].summary is not None:
    print(outcomes[0].summary.stopped)
arrays: Iterator[npt.NDArray[np.uint8]] = vsr.upscale_frames(frames(), model=model)
tensors: list[torch.Tensor] = list(vsr.upscale_frames([torch.zeros(3, 4, 4)], scale=2, steady="yes"))
for picture in vsr.upscale_frames([Image.new("RGB", (4, 4))], device=torch.device("cpu")):
    picture.save("a.png")
array: npt.NDArray[np.uint8] = model.upscale(np.zeros((4, 4, 3), np.uint8))
tensor: torch.Tensor = model.upscale(torch.zeros(3, 4, 4))
model.upscale(Image.new("L", (4, 4))).save("a.png")

recipe: vsr.Recipe = vsr.override(vsr.RECIPES["srgan"], batch_size=8, pretrain_length=10, video_noise=(0, 3))
trained: vsr.TrainSummary = vsr.train("pictures", "run", recipe=recipe, stop=stop, device=torch.device("cpu"))
vsr.train(["pictures", Path("more")], "run", recipe="srgan", steps=1000, stage="pretrain", validation="held")
vsr.compare(["a.png", "b.png"], "strip.png", lr="lr.png", regions=[(1, 2, 3, 4), vsr.Region(1, 2, 3, 4)])
vsr.compare("out.mp4", "split.mp4", lr="in.mp4", progress=lambda at: print(at.frames))
print(vsr.evaluate_images(["srgan-x4", Path("a.safetensors")], "Set5", lpips=False).scores)
print(vsr.evaluate_videos("hr.mp4", ["a.mp4", "b.mp4"], vmaf=False))
vsr.UpscaleOptions(model="srgan", crf=18)
try:
    print(trained.weights, trained.stopped, summary.stopped)
except vsr.UsageError as error:
    print(error)
