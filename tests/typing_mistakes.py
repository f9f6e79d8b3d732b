"""Calls of every public function with mistakes; mypy has to find one in each line marked with ``# expect``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import vsr

ARRAY = np.zeros((4, 4, 3), np.uint8)

vsr.upscale("in.mp4")  # expect
vsr.upscale("in.mp4", 1)  # expect
vsr.upscale("in.mp4", "out.mp4", "srgan")  # expect
vsr.upscale("in.mp4", "out.mp4", modle="srgan")  # expect
vsr.upscale("in.mp4", "out.mp4", model=4)  # expect
vsr.upscale("in.mp4", "out.mp4", scale="4")  # expect
vsr.upscale("in.mp4", "out.mp4", size="1920x1080")  # expect
vsr.upscale("in.mp4", "out.mp4", size=(1920, 1080, 3))  # expect
vsr.upscale("in.mp4", "out.mp4", steady="maybe")  # expect
vsr.upscale("in.mp4", "out.mp4", engine="tensorrt")  # expect
vsr.upscale("in.mp4", "out.mp4", precision="fp8")  # expect
vsr.upscale("in.mp4", "out.mp4", crf="18")  # expect
vsr.upscale("in.mp4", "out.mp4", fps=None)  # expect
vsr.upscale("in.mp4", "out.mp4", encoder=[("crf", "18")])  # expect
vsr.upscale("in.mp4", "out.mp4", overwrite="yes")  # expect
vsr.upscale("in.mp4", "out.mp4", progress=lambda: None)  # expect
vsr.upscale("in.mp4", "out.mp4", stop=True)  # expect
vsr.upscale("in.mp4", "out.mp4").frame  # expect

vsr.upscale_folder("clips")  # expect
vsr.upscale_folder(["a.mp4", 2], "out")  # expect
vsr.upscale_folder("clips", "out", recurse=True)  # expect
vsr.upscale_folder("clips", "out", crf="18")  # expect
vsr.upscale_folder("clips", "out", on_outcome=lambda: None)  # expect
vsr.upscale_folder("clips", "out").states  # expect

vsr.upscale_frames(ARRAY, ARRAY)  # expect
vsr.upscale_frames(["a.png"])  # expect
vsr.upscale_frames([ARRAY], steady=True)  # expect
vsr.upscale_frames([ARRAY], codec="h264")  # expect
vsr.upscale_frames([ARRAY])[0]  # expect

vsr.train("pictures")  # expect
vsr.train(1, "run")  # expect
vsr.train("pictures", "run", recipes="srgan")  # expect
vsr.train("pictures", "run", stage="fine")  # expect
vsr.train("pictures", "run", cache="disk")  # expect
vsr.train("pictures", "run", seed="0")  # expect
vsr.train("pictures", "run", should_stop=lambda: False)  # expect
vsr.train("pictures", "run").weight  # expect

vsr.compare("a.png")  # expect
vsr.compare("a.png", "b.png", regions=[(1, 2, 3)])  # expect
vsr.compare("a.png", "b.png", layout="rows")  # expect
vsr.compare("a.png", "b.png", quality="high")  # expect
vsr.compare("a.png", "b.png", label="a")  # expect

vsr.evaluate_images("srgan-x4")  # expect
vsr.evaluate_images("srgan-x4", "Set5", colour="lab")  # expect
vsr.evaluate_images("srgan-x4", "Set5", fid=True)  # expect
vsr.evaluate_images("srgan-x4", "Set5", colors="y")  # expect

vsr.evaluate_videos("hr.mp4")  # expect
vsr.evaluate_videos("hr.mp4", "out.mp4", align="pts")  # expect
vsr.evaluate_videos("hr.mp4", "out.mp4", vmaf_model=1)  # expect
vsr.evaluate_videos("hr.mp4", "out.mp4", models="srgan")  # expect

vsr.load_model(4)  # expect
vsr.load_model("srgan-x4", precision="fp8")  # expect
vsr.load_model("srgan-x4", tile=64)  # expect
vsr.load_model("srgan-x4").upscale("a.png")  # expect
vsr.load_model("srgan-x4").upscale(ARRAY).size()  # expect
vsr.load_model("srgan-x4").to(1)  # expect

vsr.override("srgan", batch_size=8)  # expect
vsr.override(vsr.RECIPES["srgan"], bath_size=8)  # expect
vsr.override(vsr.RECIPES["srgan"], batch_size="8")  # expect
vsr.override(vsr.RECIPES["srgan"], pretrain_lenght=10)  # expect
vsr.override(vsr.RECIPES["srgan"], adversarial_schedule="linear")  # expect

vsr.UpscaleOptions(modle="srgan")  # expect
vsr.upscale_all("clips", Path("out"))  # expect
