"""Measure the quality of every shipped model and bicubic on Set5, Set14 and BSD100: the table of the README.

    python benchmarks/quality.py DATA [--model NAME_OR_PATH ...] [--lpips-weights FILE] [--output FILE ...]

DATA holds the folders of HR pictures. LR is read from a folder such as ``Set5_LRx4_matlab`` beside them, and reduced
like MATLAB if there is none. The measures are those of ``vsr eval``; each cell is PSNR-Y in dB, SSIM-Y and
LPIPS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from vsr.evaluation.images import ImageProgress, ModelScore, evaluate_images
from vsr.evaluation.options import ImageEvalOptions
from vsr.evaluation.tables import Column, Table, check_output, to_markdown, write_table
from vsr.networks.weights import find_weights, read_info, shipped_models

SETS = ("Set5", "Set14", "BSD100")
CELLS = "PSNR-Y in dB / SSIM-Y / LPIPS (SqueezeNet), by the protocol of `vsr eval`"


def measure(models: tuple[str, ...], scale: int, name: str, options: argparse.Namespace) -> tuple[ModelScore, ...]:
    """Measure models of one scale on one set."""
    lr = options.data / f"{name}_LRx{scale}_matlab"
    with tqdm(unit="picture", desc=f"{name} x{scale}", leave=False) as bar:

        def show(at: ImageProgress) -> None:
            bar.total = at.total
            bar.update(at.done - bar.n)

        settings = ImageEvalOptions(
            models=models,
            data=(options.data / name,),
            lr=(lr,) if lr.is_dir() else (),
            scale=scale,
            lpips_weights=options.lpips_weights,
            device=options.device,
        )
        return evaluate_images(settings, show).scores


def figures(score: ModelScore) -> str:
    """Format a score such as ``28.43 / .8113 / .2875``."""
    ssim, lpips = (f"{value:.4f}".removeprefix("0") for value in (score.ssim, score.lpips))
    return f"{score.psnr:.2f} / {ssim} / {lpips}"


def main() -> None:
    """Print the table, and write it to the outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", help="instead of the shipped ones; may be repeated")
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, action="append", default=[], help=".json, .csv or .md")
    options = parser.parse_args()
    for path in options.output:
        check_output(path, overwrite=True)
    names = options.model or [info.name for info in shipped_models()]
    names = [name for name in names if name != "bicubic"]  # which is in every table
    scales = {name: read_info(find_weights(name)).scale for name in names}
    rows = []
    for scale in sorted(set(scales.values())):
        models = (*(name for name in names if scales[name] == scale), "bicubic")
        scores = {name: measure(models, scale, name, options) for name in SETS}
        for index, model in enumerate(models):
            rows.append({"model": model, "scale": scale} | {name: figures(scores[name][index]) for name in SETS})
    columns = (Column("model"), Column("scale"), *(Column(name) for name in SETS))
    table = Table(columns, tuple(rows), {"cells": CELLS})
    print(to_markdown(table), end="")
    for path in options.output:
        write_table(path, table, overwrite=True)


if __name__ == "__main__":
    main()
