"""vsr: video super-resolution with SRGAN.

::

    import vsr
    model = vsr.load_model("srresnet-x4")           # a shipped model, or the path of a weights file
    sr = model.upscale(lr)                          # uint8 RGB (N, H, W, 3) -> (N, s*H, s*W, 3)
    vsr.upscale("in.mp4", "out.mp4")                # what the command does

The public names are loaded on first use, so that ``import vsr`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsr.errors import VsrError
    from vsr.inference.engine import Engine, load_model
    from vsr.pipeline.job import UpscaleSummary, upscale
    from vsr.pipeline.options import UpscaleOptions
    from vsr.training.options import TrainOptions
    from vsr.training.trainer import TrainSummary, train

__version__ = "0.1.0"

_HOME = {
    "VsrError": "vsr.errors",
    "Engine": "vsr.inference.engine",
    "load_model": "vsr.inference.engine",
    "UpscaleOptions": "vsr.pipeline.options",
    "UpscaleSummary": "vsr.pipeline.job",
    "upscale": "vsr.pipeline.job",
    "TrainOptions": "vsr.training.options",
    "TrainSummary": "vsr.training.trainer",
    "train": "vsr.training.trainer",
}

__all__ = [
    "Engine",
    "TrainOptions",
    "TrainSummary",
    "UpscaleOptions",
    "UpscaleSummary",
    "VsrError",
    "__version__",
    "load_model",
    "train",
    "upscale",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vsr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
