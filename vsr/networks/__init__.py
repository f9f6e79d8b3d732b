"""Networks and their weights. Knows no media and no files but weights files."""

from typing import Literal

Upsampling = Literal["shuffle", "nearest"]
Normalisation = Literal["none", "imagenet"]
Head = Literal["dense", "pooled"]
