"""PSNR-Y of models on folders of HR pictures, by the protocol of the literature: MATLAB's Y, the border cropped.

    python benchmarks/quality.py --model srresnet-x4 --model bicubic --hr Set5 --lr Set5_LRx4_matlab

HR is cropped to a multiple of the scale first. LR pictures are paired with HR pictures by the order of their names;
without ``--lr`` they are made by antialiased bicubic reduction, rounded to 8 bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import vsr
from vsr.imaging.metrics import psnr_y
from vsr.media.images import ENDINGS, Picture, read_picture
from vsr.training.trainer import reduce


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def as_tensor(picture: Picture) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].double() / 255


def reduced(hr: Picture, scale: int) -> Picture:
    """LR of an HR picture, both (H, W, 3) uint8."""
    return (reduce(as_tensor(hr), scale)[0] * 255).round().byte().permute(1, 2, 0).numpy()


def measure(model: vsr.Engine, hr_folder: Path, lr_folder: Path | None) -> float:
    """Mean PSNR-Y in dB."""
    scale = int(model.scale)
    hr_paths = pictures(hr_folder)
    lr_paths = pictures(lr_folder) if lr_folder else [None] * len(hr_paths)
    values = []
    for hr_path, lr_path in zip(hr_paths, lr_paths, strict=True):
        hr = read_picture(hr_path)
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        sr = model.upscale(read_picture(lr_path) if lr_path else reduced(hr, scale))
        values.append(float(psnr_y(as_tensor(sr), as_tensor(hr), border=scale)))
    return sum(values) / len(values)


def main() -> None:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--lr", type=Path)
    options = parser.parse_args()
    for name in options.model:
        print(f"{name:24} {options.hr.name:8} PSNR-Y {measure(vsr.load_model(name), options.hr, options.lr):.2f} dB")


if __name__ == "__main__":
    main()
