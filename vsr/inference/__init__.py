"""Upscale batches of LR frames. The only files that it reads are weights files."""

from typing import TYPE_CHECKING, Literal

RuntimeName = Literal["auto", "torch", "inductor", "openvino"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]

if TYPE_CHECKING:
    import torch

    DeviceName = str | torch.device
else:
    DeviceName = str
"""The type of options that name a device; they convert it to text, so that they need not import torch."""
