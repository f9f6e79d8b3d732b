"""Run by a test: start two training processes from Python, and print what the caller sees as JSON.

python two_processes.py PICTURES FOLDER
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import multiprocessing

from vsr.errors import CheckpointError, VsrError
from vsr.training.launch import launch
from vsr.training.options import TrainOptions
from vsr.training.recipes import Recipe, Stage
from vsr.training.trainer import train

RECIPE = Recipe(
    follows="nobody",
    pretrain=Stage(length=3, learning_rate=1e-3, mse=1.0),
    discriminator=Stage(length=2, learning_rate=1e-3),
    adversarial=Stage(length=3, learning_rate=1e-3, mse=1.0, adversarial=1e-2),
    blocks=1,
    channels=4,
    discriminator_channels=4,
    ema_decay=0.5,
    batch_size=4,
    crop_size=16,
)


def fail(fabric: Fabric, options: TrainOptions, report: Callable[[Any], None], stop: Callable[[], bool]) -> None:
    """The second process fails while the first waits for it."""
    if fabric.global_rank == 1:
        raise CheckpointError("the second process says no")
    fabric.barrier()


def main(pictures: Path, folder: Path) -> None:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("vsr").addHandler(handler)
    logging.getLogger("vsr").setLevel(logging.INFO)
    options = TrainOptions(data=(pictures,), output=folder, recipe=RECIPE, devices=2, device="cpu", log_every=2)
    reported: list[int] = []
    summary = train(options, progress=lambda at: reported.append(at.step))
    began = time.monotonic()
    try:
        launch(fail, options, reported.append, lambda: False)
        error = ""
    except VsrError as exc:
        error = f"{type(exc).__name__}: {exc}"
    result = {
        "summary": asdict(summary),
        "reported": reported,
        "messages": messages,
        "error": error,
        "error_seconds": time.monotonic() - began,
        "processes_left": len(multiprocessing.active_children()),
    }
    sys.stdout.write(json.dumps(result, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
