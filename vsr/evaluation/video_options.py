"""What can be chosen about measuring clips. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsr.errors import UsageError, unknown_choices


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
