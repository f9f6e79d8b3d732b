"""Networks and their weights. Knows no media and no files but weights files."""

import re
from typing import Literal

from vsr.files import models_folder

Upsampling = Literal["shuffle", "nearest"]
Normalisation = Literal["none", "imagenet"]
Head = Literal["dense", "pooled"]
LpipsBackbone = Literal["squeeze", "alex"]
LpipsChoice = Literal["squeeze", "alex", "none"]

BUILT_IN_DESCRIPTIONS = {
    "bicubic": "antialiased bicubic interpolation, any scale: the baseline",
    "identity": "returns its input: what decoding, conversion and encoding alone do",
}
"""The models without a file, by name."""

LPIPS_NAMES: dict[str, str] = {"squeeze": "SqueezeNet", "alex": "AlexNet"}
"""The names of LPIPS's backbones: distances on different ones do not compare."""

LPIPS_MIN_SIZES: dict[str, int] = {"squeeze": 17, "alex": 31}
"""Smallest width and height in pixels that the strides and poolings of each backbone allow."""


def model_names() -> tuple[list[str], list[str]]:
    """Return the families of models, such as ``srgan``, with those without a file; and the shipped models."""
    shipped = sorted(path.stem for path in models_folder().glob("*.safetensors"))
    return sorted({*BUILT_IN_DESCRIPTIONS, *(re.sub(r"-x\d+$", "", name) for name in shipped)}), shipped
