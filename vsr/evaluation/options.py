"""What can be chosen about measuring models on pictures, and clips. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsr.errors import UsageError, unknown_choices
from vsr.inference import DeviceName


@dataclass(frozen=True, kw_only=True)
class ImageEvalOptions:
    """One run of ``vsr eval`` on pictures.

    Raises:
        UsageError: values out of their range, or that contradict each other; all of them are reported at once.
    """

    models: tuple[str, ...]
    """Shipped models, ``bicubic``, ``identity``, or paths of weights files; side by side, all of one scale."""
    data: tuple[Path, ...]
    """Folders of HR pictures, measured one after the other; folders in them are not searched."""
    lr: tuple[Path, ...] = ()
    """A folder of LR pictures for each of ``data``, in the same order; none: LR is made of HR as MATLAB does."""
    scale: int | None = None
    """HR size over LR size; None takes the models' own, and 4 for ``bicubic`` alone."""
    border: int | None = None
    """HR pixels that PSNR and SSIM leave out at each side; None: as many as the scale."""
    colour: Literal["y", "rgb"] = "y"
    """What PSNR and SSIM compare: MATLAB's Y, or red, green and blue."""
    lpips: bool = True
    """Measure LPIPS."""
    lpips_weights: Path | None = None
    """SqueezeNet 1.1 as torchvision names it, for LPIPS; None: torchvision's, downloaded."""
    fid: Literal["none", "inception"] = "none"
    """Measure FID, the Frechet distance in features of Inception v3; needs the package torch-fidelity."""
    device: DeviceName = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or a device of torch's."""
    engine: Literal["auto", "torch", "inductor", "openvino"] = "auto"
    """What runs the network; ``auto`` is OpenVINO on the CPU, where it can, and torch elsewhere. ``inductor`` is torch
    with its compiler, for long jobs on GPUs."""
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    """Arithmetic of the models; ``auto`` is fp16 on CUDA and fp32 elsewhere; int8 is for the CPU."""
    tile_size: int | None = None
    """Largest edge of a tile in LR pixels; None: what fits into memory; 0: never tile."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = unknown_choices(self)
        if not self.models:
            wrong.append("name a model to measure with --model, bicubic for the baseline")
        twice = sorted({model for model in self.models if self.models.count(model) > 1})
        if twice:
            wrong.append(f"the model {twice[0]!r} is named twice")
        if not self.data:
            wrong.append("name a folder of HR pictures with --data")
        if self.lr and len(self.lr) != len(self.data):
            wrong.append(
                f"each --data has an --lr of its own, in the same order: got {len(self.data)} of --data "
                f"and {len(self.lr)} of --lr"
            )
        if self.scale is not None and self.scale < 1:
            wrong.append(f"the scale must be at least 1, got {self.scale}")
        if self.border is not None and self.border < 0:
            wrong.append(f"the border must not be negative, got {self.border}")
        if self.tile_size is not None and self.tile_size < 0:
            wrong.append(f"the tile size must not be negative, got {self.tile_size}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")


@dataclass(frozen=True, kw_only=True)
class VideoEvalOptions:
    """One run of ``vsr eval`` on clips.

    Raises:
        UsageError: values out of their range; all of them are reported at once.
    """

    reference: Path
    """The clip that the outputs should equal."""
    outputs: tuple[Path, ...]
    """The clips to measure, each of the reference's size."""
    lr: Path | None = None
    """The clip that was upscaled; its bicubic enlargement is what still regions are compared with."""
    border: int = 0
    """Pixels that PSNR and SSIM leave out at each side."""
    vmaf: bool = True
    """Measure VMAF; needs an ffmpeg program with libvmaf."""
    vmaf_model: str = "vmaf_v0.6.1"
    """A model that libvmaf has built in; ``vmaf_4k_v0.6.1`` is for 4K, ``vmaf_v0.6.1neg`` rewards no sharpening."""
    steadiness: bool = True
    """Measure warping error and still regions, which takes an optical flow between all frames of the reference."""
    align: Literal["time", "start"] = "time"
    """``time`` pairs frames of equal timestamps, ``start`` of equal times since each clip's first frame."""
    max_unpaired: float = 0.05
    """Share of a clip's frames that may be without a partner, 0 to 1."""

    def __post_init__(self) -> None:
        wrong = unknown_choices(self)
        if not self.outputs:
            wrong.append(f"name a clip to compare with {self.reference}")
        if self.border < 0:
            wrong.append(f"the border must not be negative, got {self.border}")
        if not 0 <= self.max_unpaired <= 1:
            wrong.append(f"the share of frames without a partner lies in 0..1, got {self.max_unpaired}")
        if not self.vmaf_model.replace(".", "").replace("_", "").isalnum():
            wrong.append(f"no model of libvmaf is called {self.vmaf_model!r}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")
