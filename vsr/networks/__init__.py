"""Networks and their weights. Knows no media and no files but weights files."""

from typing import Literal

Upsampling = Literal["shuffle", "nearest"]
Normalisation = Literal["none", "imagenet"]
Head = Literal["dense", "pooled"]
LpipsBackbone = Literal["squeeze", "alex"]
LpipsChoice = Literal["squeeze", "alex", "none"]

LPIPS_NAMES: dict[str, str] = {"squeeze": "SqueezeNet", "alex": "AlexNet"}
"""The names of LPIPS's backbones: distances on different ones do not compare."""

LPIPS_MIN_SIZES: dict[str, int] = {"squeeze": 17, "alex": 31}
"""Smallest width and height in pixels that the strides and poolings of each backbone allow."""
