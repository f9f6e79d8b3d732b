"""A batch of LR frames -> SR frames. Knows no files but weights files."""

from typing import TYPE_CHECKING, Literal

RuntimeName = Literal["auto", "torch", "inductor", "openvino"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]

if TYPE_CHECKING:
    import torch

    DeviceName = str | torch.device
else:
    DeviceName = str
"""The type of options that name a device: what they are given is turned into text, so that they import no torch."""
