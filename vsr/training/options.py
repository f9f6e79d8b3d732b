"""Options of a training run: data, output, devices, intervals. Imports no torch.

The values that decide the weights are in :mod:`vsr.training.recipes`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vsr.errors import UsageError, setting
from vsr.inference import DeviceName
from vsr.networks import LPIPS_MIN_SIZES, LPIPS_NAMES, LpipsChoice
from vsr.options import contradictions, convert, described, documented, option
from vsr.training.recipes import RECIPES, STAGES, Recipe, StageName


@documented
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """One run of ``vsr train``.

    Raises:
        UsageError: values that contradict each other; all of them are reported at once.
    """

    data: tuple[Path, ...] = field(metadata=described(
        "HR pictures: folder or zip; for a recurrent generator also videos. May be repeated.",
        note="Folders are searched recursively, COCO and CelebA by their layout; single files are accepted too.",
        repeated=True,
    ))  # fmt: skip
    output: Path = field(metadata=described(
        "Folder of the run.", note="It holds checkpoint, weights, card, options, log, figure and samples.",
        name="-o, --output", metavar="RUN",
    ))  # fmt: skip
    recipe: Recipe = option(RECIPES["srgan"], "Networks, losses, stages and data.")
    stage: Literal[StageName, "all"] = option("all", "Stage of the recipe to run.")
    seed: int = option(
        0, "Seed of the initial weights, and with the update's number of all random draws.", at_least=0,
        below=2**63, rule="must lie in [0, 2**63)",
    )  # fmt: skip

    init: Path | None = option(
        None, "Weights file that the generator starts from; of another scale, without the upsampling."
    )
    init_discriminator: Path | None = option(None, "Weights file that the discriminator starts from.")
    teacher: Path | None = option(
        None, "Weights file of a recurrent generator whose output the one in training follows; see the loss teacher."
    )
    content_weights: Path | None = option(
        None, "Weights of the content network; by default torchvision's, downloaded once."
    )
    lpips: LpipsChoice = option("squeeze", "Backbone of LPIPS: SqueezeNet or AlexNet; none leaves LPIPS out.")
    lpips_weights: Path | None = option(
        None, "Weights of LPIPS's backbone; by default torchvision's, downloaded once."
    )
    licence: str = option("not stated", "Licence of the pictures and so of the weights, for the card.")
    command: str = option("", "How the run was started, for the card.")

    validation: tuple[Path, ...] = option(
        (), "HR pictures to measure on.",
        note="By default those that the layout of data sets apart, else hold_out.",
        default_text="some of --data", repeated=True,
    )  # fmt: skip
    hold_out: int = option(
        16, "Most pictures to measure on; if they are held out of data, at most a tenth of it.",
        at_least=0,
    )  # fmt: skip
    validate_every: int = option(
        1000, "Updates between measurements; the last update of a stage is always measured.", at_least=1
    )
    checkpoint_every: int = option(
        1000, "Updates between checkpoints; the last update of a stage always writes one.", at_least=1
    )
    log_every: int = option(50, "Updates between lines of the log.", at_least=1)
    tensorboard: bool = option(
        False, "Also write the log and the samples for TensorBoard.", name="--tensorboard/--no-tensorboard"
    )

    device: DeviceName = option("auto", "auto, cpu, cuda, cuda:1, mps, or any device of torch.")
    devices: int = option(
        1,
        "Processes on this machine, each with its own GPU, or on the CPU; they share each batch. Under torchrun, "
        "those that it started.", at_least=1,
    )  # fmt: skip
    nodes: int = option(
        1, "Machines that share each batch; set MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment of each.",
        at_least=1,
    )  # fmt: skip
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = option(
        "auto",
        "Arithmetic of the networks; weights, losses and optimisers stay in float32. auto: bf16 on GPUs that have it, "
        "else fp32. tf32: float32 whose products CUDA rounds, on Ampere and newer.",
    )
    compile: bool = option(
        False, "Compile the networks with torch.compile; worthwhile in long runs on a GPU.",
        name="--compile/--no-compile",
    )  # fmt: skip
    cache: Literal["auto", "ram", "gpu", "none"] = option(
        "auto", "Where decoded pictures are kept. auto: on the GPU if they fit, else as many as fit in main memory."
    )
    workers: int = option(2, "Threads of each process that prepare crops.", at_least=1)
    time_limit: float | None = option(
        None, "Write a checkpoint and end after this time: 8h, 90m, 1h30m, 3600s or 1:30:00. For this call only.",
        note="In seconds; the update that is going on, and the checkpoint, come on top.", metavar="T", above=0,
        subject="the time limit",
    )  # fmt: skip
    resume: bool = option(
        False, "Continue the run in output, with its options; those that are given must agree.",
        note="A keyword of vsr.train that has its default is not given; of this class, all are.",
    )  # fmt: skip
    overwrite: bool = option(False, "Replace an existing run in output.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = convert(self) + contradictions(self)
        if not self.data:
            wrong.append(f"name the pictures to train on with {setting('data')}")
        if self.resume and self.overwrite:
            wrong.append("resume and overwrite exclude each other")
        if not self.stages:
            wrong.append(f"the recipe gives the stage {self.stage} no length")
        processes = max(1, self.devices) * max(1, self.nodes)
        if self.recipe.batch_size % (processes * self.recipe.crops_per_picture):
            wrong.append(f"a batch of {self.recipe.batch_size} does not divide among {processes} processes")
        judged = {"discriminator", "adversarial"} & set(self.stages)
        if judged and self.recipe.batch_size == 1 and self.recipe.crop_size <= 16:
            wrong.append("batch_size must be at least 2 for crops of 16 pixels: normalisation needs two values")
        wrong += self._teacher_contradictions()
        least = LPIPS_MIN_SIZES.get(self.lpips, 1)
        if self.recipe.generator == "recurrent" and self.recipe.crop_size < least:  # whole clips are measured
            wrong.append(
                f"LPIPS on {LPIPS_NAMES[self.lpips]} needs {least} pixels each way, but crop_size is "
                f"{self.recipe.crop_size}"
            )
        if self.cache == "gpu" and self.recipe.degradation == "video":
            wrong.append("the video degradation works on pictures in main memory: leave out cache gpu")
        if self.cache == "gpu" and self.recipe.frames > 1:
            wrong.append("clips are made of pictures in main memory: leave out cache gpu")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    def _teacher_contradictions(self) -> list[str]:
        wrong = []
        follows = [name for name in self.stages if self.recipe.stage(name).teacher]
        if follows and self.teacher is None:
            wrong.append(f"{follows[0]}: the loss teacher needs the weights file of one: {setting('teacher')}")
        if self.teacher is not None and not follows:
            weight = setting("pretrain_teacher", 0.5)
            wrong.append(f"a teacher has no effect without a weight of its loss, such as {weight}")
        return wrong

    @property
    def stages(self) -> list[StageName]:
        """The stages to run, in order."""
        return [name for name in STAGES if self.stage in (name, "all") and self.recipe.stage(name).length]


def started_processes() -> tuple[int, int] | None:
    """Return (processes on each machine, machines) as started by torchrun or srun; None if neither was used.

    Raises:
        UsageError: srun does not state how many processes run on each machine.
    """
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        whole = _environment_number("WORLD_SIZE", 1)
        each = _environment_number("LOCAL_WORLD_SIZE", whole)
    elif "SLURM_PROCID" in os.environ and _environment_number("SLURM_STEP_NUM_TASKS", 1) > 1:
        whole = _environment_number("SLURM_STEP_NUM_TASKS", 1)
        each = _environment_number("SLURM_NTASKS_PER_NODE", 0)
        if not each:
            raise UsageError(
                f"srun has started {whole} processes but does not state how many run on each machine: "
                "set --ntasks-per-node."
            )
    else:
        return None
    return (each, whole // each) if whole % each == 0 else None


def _environment_number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdigit() and int(text) else default
