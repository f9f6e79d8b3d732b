"""PSNR-Y of models on folders of HR pictures, by the protocol of the literature: MATLAB's Y, the border cropped.

    python benchmarks/quality.py --model srresnet-x4 --model bicubic --hr Set5 --lr Set5_LRx4_matlab

LR pictures are paired with HR pictures by the order of their names; HR is cropped to a multiple of the scale first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import vsr
from vsr.imaging.metrics import psnr_y
from vsr.media.images import ENDINGS, Picture, read_picture


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def as_tensor(picture: Picture) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].double() / 255


def measure(model: vsr.Engine, hr_folder: Path, lr_folder: Path) -> float:
    """Mean PSNR-Y in dB."""
    scale = int(model.scale)
    values = []
    for hr_path, lr_path in zip(pictures(hr_folder), pictures(lr_folder), strict=True):
        hr = read_picture(hr_path)
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        sr = model.upscale(read_picture(lr_path))
        values.append(float(psnr_y(as_tensor(sr), as_tensor(hr), border=scale)))
    return sum(values) / len(values)


def main() -> None:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--lr", type=Path, required=True)
    options = parser.parse_args()
    for name in options.model:
        print(f"{name:24} {options.hr.name:8} PSNR-Y {measure(vsr.load_model(name), options.hr, options.lr):.2f} dB")


if __name__ == "__main__":
    main()
