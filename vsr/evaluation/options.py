"""What can be chosen about measuring models on pictures, and clips. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vsr.errors import UsageError
from vsr.inference import DeviceName, Precision, RuntimeName
from vsr.options import contradictions, described, documented, option


@documented
@dataclass(frozen=True, kw_only=True)
class ImageEvalOptions:
    """One run of ``vsr eval`` on pictures.

    Raises:
        UsageError: values out of their range, or that contradict each other; all of them are reported at once.
    """

    models: tuple[str, ...] = field(metadata=described(
        "What to measure; may be repeated.",
        note="Shipped models, bicubic, identity, or weights files; side by side, all of one scale.", name="--model",
        metavar="NAME|PATH", repeated=True,
    ))  # fmt: skip
    data: tuple[Path, ...] = field(metadata=described(
        "HR pictures; may be repeated.",
        note="Folders, measured one after the other; folders in them are not searched.", metavar="DIR", repeated=True,
    ))  # fmt: skip
    lr: tuple[Path, ...] = option(
        (), "LR pictures of each --data, by name; or the LR clip.",
        note="In the order of data; none: LR is made of HR as MATLAB does.", metavar="PATH", repeated=True,
    )  # fmt: skip
    scale: int | None = option(
        None, "HR size over LR size.", note="For bicubic alone 4.", default_text="the models' own", metavar="N",
        at_least=1, called="the scale",
    )  # fmt: skip
    border: int | None = option(
        None, "Left out by PSNR and SSIM.", note="HR pixels at each side.", default_text="the scale; of clips 0",
        metavar="N", at_least=0, called="the border",
    )  # fmt: skip
    colour: Literal["y", "rgb"] = option(
        "y", "Where PSNR and SSIM compare.", note="In MATLAB's Y, or in red, green and blue."
    )
    lpips: bool = option(True, "Measure LPIPS.")
    lpips_weights: Path | None = option(
        None, "SqueezeNet 1.1.", note="As torchvision names it, for LPIPS.",
        default_text="torchvision's, downloaded", metavar="FILE",
    )  # fmt: skip
    fid: Literal["none", "inception"] = option(
        "none", "Measure FID in features of Inception v3.", note="Needs the package torch-fidelity.", default_text=""
    )
    device: DeviceName = option("auto", "auto, cpu, cuda, cuda:N or mps.", note="Or a device of torch's.")
    engine: RuntimeName = option(
        "auto", "auto: OpenVINO on the CPU, else torch.",
        note="inductor is torch with its compiler, for long jobs on GPUs.", default_text="",
    )  # fmt: skip
    precision: Precision = option("auto", "Of the models; auto: fp16 on CUDA, else fp32.", default_text="")
    tile_size: int | None = option(
        None, "Largest edge; 0: none.", note="In LR pixels; None: what fits into memory.", name="--tile", auto=True,
        at_least=0, called="the tile size",
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        wrong = []
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
        wrong += contradictions(self)
        if wrong:
            raise UsageError("; ".join(wrong) + ".")


@documented
@dataclass(frozen=True, kw_only=True)
class VideoEvalOptions:
    """One run of ``vsr eval`` on clips.

    Raises:
        UsageError: values out of their range; all of them are reported at once.
    """

    reference: Path = field(metadata=described("The clip that the outputs should equal."))
    outputs: tuple[Path, ...] = field(metadata=described("The clips to measure, each of the reference's size."))
    lr: Path | None = option(
        None, "The clip that was upscaled; its bicubic enlargement is what still regions are compared with."
    )
    border: int = option(0, "Pixels that PSNR and SSIM leave out at each side.", at_least=0, called="the border")
    vmaf: bool = option(True, "Measure VMAF.", note="Needs an ffmpeg program with libvmaf.")
    vmaf_model: str = option(
        "vmaf_v0.6.1", "A model that libvmaf has built in.",
        note="vmaf_4k_v0.6.1 is for 4K, vmaf_v0.6.1neg rewards no sharpening.", metavar="NAME",
    )  # fmt: skip
    steadiness: bool = option(
        True, "Measure what moves and should not.",
        note="Warping error and still regions, which takes an optical flow between all frames of the reference.",
    )  # fmt: skip
    align: Literal["time", "start"] = option("time", "Pair by time, or from the first frames.")
    max_unpaired: float = option(
        0.05, "Share of frames without a partner.", note="The most of a clip that may be.", metavar="0..1", at_least=0,
        at_most=1, called="the share of frames without a partner", rule="lies in 0..1",
    )  # fmt: skip

    def __post_init__(self) -> None:
        wrong = contradictions(self)
        if not self.outputs:
            wrong.append(f"name a clip to compare with {self.reference}")
        if not self.vmaf_model.replace(".", "").replace("_", "").isalnum():
            wrong.append(f"no model of libvmaf is called {self.vmaf_model!r}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")
