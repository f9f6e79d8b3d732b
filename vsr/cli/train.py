"""``vsr train``: pictures in, a generator out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vsr.cli.console import INTERRUPTED, option_of, start_logging, stop_on_signal, verbosity_options
from vsr.training.options import TrainOptions

FOLDER = click.Path(path_type=Path)
option = option_of(TrainOptions)


@click.command()
@click.option("--data", type=FOLDER, multiple=True, required=True, help="Folder of HR pictures; may be repeated.")
@click.option("-o", "--output", type=FOLDER, required=True, metavar="RUN", help="Folder for weights and checkpoint.")
@click.option("--validation", type=FOLDER, multiple=True, help="HR pictures to measure on.  [default: some of --data]")
@option("--hold-out", "Pictures of --data to measure on instead.")
@option("--init", "Weights file to start from.", type=FOLDER)
@option("--scale", "Output size over input size.", type=click.Choice([2, 4, 8]))
@option("--blocks", "Residual blocks.")
@option("--channels", "Channels.")
@option("--loss", "What pixels are compared with.", type=click.Choice(["mse", "l1"]))
@option("--steps", "Updates in all.")
@option("--batch-size", "Crops in each update.")
@option("--crop-size", "Edge of a crop, in HR pixels.")
@option("--learning-rate", "Adam's learning rate; with a schedule its peak.")
@option("--schedule", "How the learning rate goes.", type=click.Choice(["constant", "one-cycle"]))
@option("--ema-decay", "Decay of the moving average of the weights.")
@option("--seed", "Seed of weights and crops.")
@option("--precision", "Arithmetic of the generator.", type=click.Choice(["fp32", "bf16"]))
@option("--device", "auto, cpu, cuda, cuda:N or mps.")
@option("--workers", "Threads that prepare crops.")
@option("--validate-every", "Steps between measurements.")
@option("--checkpoint-every", "Steps between checkpoints.")
@option("--resume", "Continue the run in RUN.", is_flag=True)
@option("--overwrite", "Start anew in a RUN that exists.", is_flag=True)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@verbosity_options
def train(as_json: bool, verbose: int, quiet: bool, **values: Any) -> None:
    """Train a generator on folders of pictures.

    \b
    vsr train --data coco/ -o run
    vsr upscale input.mp4 -o out.mp4 --model run/generator.safetensors
    """
    start_logging(verbose, quiet)
    options = TrainOptions(**values)

    from tqdm import tqdm

    from vsr.training.trainer import TrainProgress
    from vsr.training.trainer import train as run_training

    with tqdm(total=options.steps, unit="step", disable=quiet or as_json or None) as bar, stop_on_signal() as stop:

        def show(at: TrainProgress) -> None:
            bar.update(at.step - bar.n)
            measured = {} if at.psnr_y is None else {"PSNR-Y": f"{at.psnr_y:.2f} dB"}
            bar.set_postfix({"loss": f"{at.loss:.5f}", **measured}, refresh=False)

        summary = run_training(options, progress=show, should_stop=stop)
    if as_json:
        click.echo(json.dumps(asdict(summary), default=str))
    elif not quiet:
        measured = "" if summary.psnr_y is None else f", PSNR-Y {summary.psnr_y:.2f} dB on the held-out pictures"
        click.echo(f"{summary.weights}: {summary.steps} steps{measured}")
    if summary.stopped:
        click.echo(f"vsr: stopped after step {summary.steps}; the same command with --resume goes on.", err=True)
        click.get_current_context().exit(INTERRUPTED)
