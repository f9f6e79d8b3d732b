"""A batch of LR frames -> SR frames. Knows no files but weights files."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    DeviceName = str | torch.device
else:
    DeviceName = str
"""The type of options that name a device: what they are given is turned into text, so that they import no torch."""
