"""Run by a test: write the gradients of one update by several processes to ``FOLDER/FORM-PROCESSES.pt``.

python joined_gradients.py PROCESSES[,PROCESSES...] FORM[,FORM...] FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.double import DoublePrecision

from vsr.training.checkpoint import begin_stage, new_train_state
from vsr.training.launch import launch
from vsr.training.options import TrainOptions
from vsr.training.recipes import Recipe, Stage, override
from vsr.training.step import ClipBatch, Shift, update, update_clips

TINY = Recipe(
    follows="nobody",
    pretrain=Stage(length=1, mse=1.0),
    adversarial=Stage(length=1, mse=1.0, l1=0.3, total_variation=0.1, adversarial=0.5),
    blocks=2,
    channels=4,
    discriminator_channels=4,
    batch_size=4,
    crop_size=16,
)


CLIPS = Recipe(
    follows="nobody",
    generator="recurrent",
    aligned=True,
    frames=4,
    backprop_frames=3,
    pretrain=Stage(length=1, mse=1.0),
    adversarial=Stage(length=1, charbonnier=1.0, ping_pong=0.5, artefacts=0.5, adversarial=0.5),
    adversarial_form="relativistic",
    discriminator_head="pooled",
    discriminator_channels=4,
    blocks=1,
    channels=4,
    batch_size=4,
    crop_size=32,
)


def draw_clips(random: torch.Generator) -> list[torch.Tensor]:
    """Draw LR and HR of four clips, and flow and trust to the previous and to the next frames."""
    shapes = [(4, 4, 3, 8, 8), (4, 4, 3, 32, 32), *[(4, 3, 8, 8, 2), (4, 3, 8, 8)] * 2]
    return [torch.rand(shape, generator=random, dtype=torch.float64) for shape in shapes]


def gradients(fabric: Fabric, options: TrainOptions, report: Callable[[Any], None], stop: Callable[[], bool]) -> None:
    """Write the gradients of all forms, or of ``clips``, at once, as starting processes takes longer than computing."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    fabric._precision = fabric.strategy.precision = DoublePrecision()  # so that rounding hides nothing
    for form in sys.argv[2].split(","):
        recipe = CLIPS if form == "clips" else override(TINY, adversarial_form=form)
        found = one_update(fabric, replace(options, recipe=recipe))
        if fabric.is_global_zero:
            torch.save(found, options.output / f"{form}-{fabric.world_size}.pt")


def one_update(fabric: Fabric, options: TrainOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do one update at a learning rate of zero on this process's part of a batch that each process makes whole."""
    state = new_train_state(fabric, options)
    begin_stage(state, "adversarial", options)
    random = torch.Generator().manual_seed(1)
    # Away from its start the generator has gradients everywhere.
    for parameter in state.generator.plain.parameters():
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=random).to(parameter), alpha=0.05)
    share = 4 // fabric.world_size
    part = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    if options.recipe.generator == "recurrent":
        clips = (drawn[part].to(fabric.device) for drawn in draw_clips(random))
        lr, hr, *shifts = clips
        seen = update_clips(state, ClipBatch(lr, hr, Shift(*shifts[:2]), Shift(*shifts[2:])), learning_rate=0.0)
    else:
        pictures = (torch.rand(4, 3, size, size, generator=random, dtype=torch.float64) for size in (4, 16))
        lr, hr = (picture.to(fabric.device)[part] for picture in pictures)
        seen = update(state, lr, hr, learning_rate=0.0)
    assert state.discriminator is not None
    found: dict[str, Any] = {}
    for name_of_model, network in (("generator", state.generator.plain), ("discriminator", state.discriminator.plain)):
        found |= {f"{name_of_model}.{name}": parameter.grad for name, parameter in network.named_parameters()}
        found |= {f"{name_of_model}.{name}": buffer for name, buffer in network.named_buffers() if "running" in name}
    return found, seen


if __name__ == "__main__":
    for processes in map(int, sys.argv[1].split(",")):
        chosen = TrainOptions(data=(Path(),), output=Path(sys.argv[3]), recipe=TINY, devices=processes, device="cpu")
        launch(gradients, chosen, print, lambda: False)
