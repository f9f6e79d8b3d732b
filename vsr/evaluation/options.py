"""Options of ``vsr eval`` on pictures and on clips. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vsr.errors import UsageError, setting
from vsr.inference import DeviceName, Precision, RuntimeName
from vsr.networks import LpipsChoice
from vsr.options import contradictions, convert, described, documented, option

Align = Literal["time", "start"]
"""How clips are aligned: by their times, on the clock of the source, or by their first frames."""


@documented
@dataclass(frozen=True, kw_only=True)
class ImageEvalOptions:
    """One run of ``vsr eval`` on pictures.

    Raises:
        UsageError: values out of their range, or that contradict each other; all of them are reported at once.
    """

    models: tuple[str, ...] = field(metadata=described(
        "Model to measure; may be repeated.",
        note="A shipped model, bicubic, identity, or a weights file; all of the same scale.", name="--model",
        metavar="NAME|PATH", repeated=True,
    ))  # fmt: skip
    data: tuple[Path, ...] = field(metadata=described(
        "HR pictures; may be repeated.",
        note="Folders, measured one after the other, not recursively.", metavar="DIR", repeated=True,
    ))  # fmt: skip
    lr: tuple[Path, ...] = option(
        (), "LR pictures for each --data, by name; or the LR clip.",
        note="In the order of data; if empty, LR is made from HR as MATLAB does.", metavar="PATH",
        repeated=True,
    )  # fmt: skip
    scale: int | None = option(
        None, "HR size over LR size.", note="For bicubic alone 4.", default_text="the models' own", metavar="N",
        at_least=1, subject="the scale",
    )  # fmt: skip
    border: int | None = option(
        None, "Border to ignore in PSNR and SSIM.", note="HR pixels.", default_text="the scale; 0 for clips",
        metavar="N", at_least=0, subject="the border",
    )  # fmt: skip
    colour: Literal["y", "rgb"] = option(
        "y", "Channels of PSNR and SSIM.", note="MATLAB's Y, or red, green and blue."
    )
    lpips: LpipsChoice = option(
        "squeeze", "Backbone of LPIPS: SqueezeNet or AlexNet; none leaves LPIPS out.",
        note="Distances on different ones do not compare. True and False stand for squeeze and none.",
    )  # fmt: skip
    lpips_weights: Path | None = option(
        None, "Weights of LPIPS's backbone.", note="In torchvision's format.",
        default_text="torchvision's, downloaded", metavar="FILE",
    )  # fmt: skip
    fid: Literal["none", "inception"] = option(
        "none", "Measure FID in features of Inception v3.", note="Needs the package torch-fidelity.", default_text=""
    )
    device: DeviceName = option("auto", "auto, cpu, cuda, cuda:N or mps.", note="Or any device of torch.")
    engine: RuntimeName = option(
        "auto", "auto: OpenVINO on the CPU, else torch.",
        note="inductor is torch with its compiler, for long jobs on GPUs.", default_text="",
    )  # fmt: skip
    precision: Precision = option("auto", "auto: fp16 on CUDA, else fp32.", default_text="")
    tile_size: int | None = option(
        None, "Largest edge of a tile; 0: no tiles.", note="In LR pixels; None: as large as memory allows.",
        name="--tile", auto=True, at_least=0, subject="the tile size",
    )  # fmt: skip

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(self.device))
        if isinstance(self.lpips, bool):
            object.__setattr__(self, "lpips", "squeeze" if self.lpips else "none")
        wrong = convert(self)
        if not self.models:
            wrong.append(f"name a model to measure with {setting('models', flag='--model')}, bicubic for the baseline")
        twice = sorted({model for model in self.models if self.models.count(model) > 1})
        if twice:
            wrong.append(f"the model {twice[0]!r} is named twice")
        if not self.data:
            wrong.append(f"name a folder of HR pictures with {setting('data')}")
        if self.lr and len(self.lr) != len(self.data):
            lr, data = setting("lr"), setting("data")
            wrong.append(
                f"give one {lr} for each {data}, in the same order: got {len(self.data)} of {data} "
                f"and {len(self.lr)} of {lr}"
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
        None, "The clip that was upscaled; still regions are compared with its bicubic enlargement."
    )
    border: int = option(0, "Pixels that PSNR and SSIM ignore at each side.", at_least=0, subject="the border")
    vmaf: bool = option(True, "Measure VMAF.", note="Needs an ffmpeg program with libvmaf.")
    vmaf_model: str = option(
        "vmaf_v0.6.1", "Model built into libvmaf.",
        note="vmaf_4k_v0.6.1 is for 4K, vmaf_v0.6.1neg rewards no sharpening.", metavar="NAME",
    )  # fmt: skip
    steadiness: bool = option(
        True, "Measure flicker.",
        note="Warping error and still regions, from the optical flow between all frames of the reference.",
    )  # fmt: skip
    align: Align = option(
        "time", "Pair frames by time, or in order from the first.",
        note="By time on the clock of the source, where the metadata of a clip say which part of it the clip shows.",
    )  # fmt: skip
    max_unpaired: float = option(
        0.05, "Greatest share of unpaired frames.", note="More of them in a clip is an error.", metavar="0..1",
        at_least=0, at_most=1, subject="the share of frames without a partner", rule="lies in 0..1",
    )  # fmt: skip

    def __post_init__(self) -> None:
        wrong = convert(self) + contradictions(self)
        if not self.outputs:
            wrong.append(f"name a clip to compare with {self.reference}")
        if not self.vmaf_model.replace(".", "").replace("_", "").isalnum():
            wrong.append(f"libvmaf has no model {self.vmaf_model!r}")
        if wrong:
            raise UsageError("; ".join(wrong) + ".")
