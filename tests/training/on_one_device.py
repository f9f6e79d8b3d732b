"""Run by a test: write the gradients of one update on a shared device to ``FOLDER/PROCESSES-COMPILED.pt``.

WORLD_SIZE=2 RANK=0 LOCAL_RANK=0 ... python on_one_device.py DEVICE COMPILED FORM FOLDER

For Fabric each process is a machine of its own; they communicate by gloo, as NCCL needs a GPU for each.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import torch
from joined_gradients import CLIPS, TINY, one_update
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.double import DoublePrecision
from lightning_fabric.strategies.ddp import DDPStrategy

from vsr.training.options import TrainOptions
from vsr.training.recipes import override


def main(device: str, compiled: bool, form: str, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cpu":  # where compiling takes a minute; what is traced is the same
        torch.compile = partial(torch.compile, backend="aot_eager")
    strategy = DDPStrategy(process_group_backend="gloo", start_method="popen") if processes > 1 else "auto"
    fabric = Fabric(accelerator=device, devices=1, num_nodes=processes, strategy=strategy, plugins=DoublePrecision())
    fabric.launch()
    recipe = CLIPS if form == "clips" else override(TINY, adversarial_form=form)
    options = TrainOptions(data=(folder,), output=folder, recipe=recipe, compile=compiled, device=device)
    found = one_update(fabric, options)
    if fabric.is_global_zero:
        gradients, seen = found
        on_cpu = ({name: tensor.cpu() for name, tensor in part.items()} for part in (gradients, seen))
        torch.save(tuple(on_cpu), folder / f"{processes}-{compiled}.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "True", sys.argv[3], Path(sys.argv[4]))
