"""How a training run is run: on what, from where, to where, how often looked at. Imports no torch.

What decides the weights stands in :mod:`vsr.training.recipes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsr.errors import UsageError, unknown_choices
from vsr.inference import DeviceName
from vsr.training.recipes import RECIPES, STAGES, Recipe, StageName


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """One run of ``vsr train``.

    Raises:
        UsageError: values that contradict each other; all of them are reported at once.
    """

    data: tuple[Path, ...]
    """HR pictures: folders (searched recursively; COCO and CelebA by their layout), zip archives, files. For a
    recurrent generator also video files, in folders or by themselves."""
    output: Path
    """Folder of the run: checkpoint, weights, card, log, figure and samples."""
    recipe: Recipe = RECIPES["srgan"]
    """What is trained."""
    stage: Literal["pretrain", "discriminator", "adversarial", "all"] = "all"
    """Which stage of the recipe to run."""
    seed: int = 0
    """Seed of the first weights, and with the number of the update of everything that is drawn."""

    init: Path | None = None
    """Weights file that the generator starts from; of another scale all but the upsampling is taken."""
    init_discriminator: Path | None = None
    """Weights file that the discriminator starts from."""
    teacher: Path | None = None
    """Weights file of a recurrent generator whose output the one in training follows; see the loss teacher."""
    content_weights: Path | None = None
    """Weights of the content network; without it torchvision's, downloaded once."""
    lpips_weights: Path | None = None
    """SqueezeNet 1.1's weights, for LPIPS; without it torchvision's, downloaded once."""
    licence: str = "not stated"
    """Licence of the pictures and so of the weights, for the card."""
    command: str = ""
    """How the run was started, for the card."""

    validation: tuple[Path, ...] = ()
    """HR pictures to measure on; empty: those that the layout of ``data`` sets apart, else ``hold_out`` of ``data``."""
    hold_out: int = 16
    """How many pictures to measure on; of ``data`` a tenth of them at most, which are then not trained on."""
    validate_every: int = 1000
    """Updates between measurements; the last update of a stage is always measured."""
    checkpoint_every: int = 1000
    """Updates between checkpoints; the last update of a stage always writes one."""
    log_every: int = 50
    """Updates between lines of the log."""
    tensorboard: bool = False
    """Write the log for TensorBoard too."""

    device: DeviceName = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or a device of torch's."""
    devices: int = 1
    """Processes on this machine, each with a GPU of its own, or on the CPU; they share each batch. Under torchrun those
    that it has started."""
    nodes: int = 1
    """Machines that share each batch; each is told MASTER_ADDR, MASTER_PORT and NODE_RANK by its environment."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks; weights, losses and optimisers stay in float32. ``auto``: bf16 on GPUs that have it,
    else fp32. ``tf32``: float32 whose products CUDA rounds, on Ampere and newer."""
    compile: bool = False
    """Compile the networks by ``torch.compile``; pays on a GPU in long runs."""
    cache: Literal["auto", "ram", "gpu", "none"] = "auto"
    """Where decoded pictures are kept. ``auto``: on the GPU where they fit, else in memory as far as it reaches."""
    workers: int = 2
    """Threads of each process that prepare crops."""
    resume: bool = False
    """Continue the run in ``output``."""
    overwrite: bool = False
    """Start anew in an ``output`` that holds a run already."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = unknown_choices(self)
        for name in ("validate_every", "checkpoint_every", "log_every", "devices", "nodes", "workers"):
            if getattr(self, name) < 1:
                wrong.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hold_out < 0:
            wrong.append(f"hold_out must not be negative, got {self.hold_out}")
        if not 0 <= self.seed < 2**63:
            wrong.append(f"seed must lie in [0, 2**63), got {self.seed}")
        if self.resume and self.overwrite:
            wrong.append("resume and overwrite exclude each other")
        if not self.stages:
            wrong.append(f"the recipe gives the stage {self.stage} no length")
        processes = max(1, self.devices) * max(1, self.nodes)
        if self.recipe.batch_size % (processes * self.recipe.crops_per_picture):
            wrong.append(f"a batch of {self.recipe.batch_size} does not divide among {processes} processes")
        judged = {"discriminator", "adversarial"} & set(self.stages)
        if judged and self.recipe.batch_size == 1 and self.recipe.crop_size <= 16:
            wrong.append("of one crop of 16 pixels the discriminator's last normalisation sees one value: take two")
        wrong += self._wrong_of_clips()
        if self.cache == "gpu" and self.recipe.degradation == "video":
            wrong.append("the video degradation works on pictures in main memory: leave out cache gpu")
        if self.cache == "gpu" and self.recipe.frames > 1:
            wrong.append("clips are made of pictures in main memory: leave out cache gpu")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")

    def _wrong_of_clips(self) -> list[str]:
        wrong = []
        follows = [name for name in self.stages if self.recipe.stage(name).teacher]
        if follows and self.teacher is None:
            wrong.append(f"{follows[0]}: the loss teacher needs the weights file of one: --teacher")
        if self.teacher is not None and not follows:
            wrong.append("a teacher has no effect without a weight of its loss, such as --pretrain-teacher 0.5")
        return wrong

    @property
    def stages(self) -> list[StageName]:
        """The stages to run, in order."""
        return [name for name in STAGES if self.stage in (name, "all") and self.recipe.stage(name).length]
