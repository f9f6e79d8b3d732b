"""vsr: video super-resolution with SRGAN.

::

    import vsr
    model = vsr.load_model("video-x4")              # a shipped model, or the path of a weights file
    sr = model.upscale(lr)                          # uint8 RGB (N, H, W, 3) -> (N, s*H, s*W, 3)
    vsr.upscale("in.mp4", "out.mp4")                # as the command `vsr upscale` does

The public names are imported on first use, so that ``import vsr`` is fast.
"""

from __future__ import annotations

TYPE_CHECKING = False  # known to type checkers; importing typing would delay the signal handling of the command
if TYPE_CHECKING:
    from typing import Any

    from vsr.comparison.compare import compare
    from vsr.comparison.options import CompareOptions, CompareSummary
    from vsr.errors import VsrError
    from vsr.evaluation.images import ImageReport, evaluate_images
    from vsr.evaluation.options import ImageEvalOptions, VideoEvalOptions
    from vsr.evaluation.scores import VideoReport
    from vsr.evaluation.videos import evaluate_videos
    from vsr.inference.engine import Engine, load_model
    from vsr.pipeline.job import UpscaleSummary, upscale
    from vsr.pipeline.options import UpscaleOptions
    from vsr.training.options import TrainOptions
    from vsr.training.recipes import RECIPES, Recipe, override
    from vsr.training.trainer import TrainSummary, train

__version__ = "0.1.0"

_MODULES = {
    "VsrError": "vsr.errors",
    "Engine": "vsr.inference.engine",
    "load_model": "vsr.inference.engine",
    "UpscaleOptions": "vsr.pipeline.options",
    "UpscaleSummary": "vsr.pipeline.job",
    "upscale": "vsr.pipeline.job",
    "CompareOptions": "vsr.comparison.options",
    "CompareSummary": "vsr.comparison.options",
    "compare": "vsr.comparison.compare",
    "ImageEvalOptions": "vsr.evaluation.options",
    "ImageReport": "vsr.evaluation.images",
    "evaluate_images": "vsr.evaluation.images",
    "VideoEvalOptions": "vsr.evaluation.options",
    "VideoReport": "vsr.evaluation.scores",
    "evaluate_videos": "vsr.evaluation.videos",
    "RECIPES": "vsr.training.recipes",
    "Recipe": "vsr.training.recipes",
    "override": "vsr.training.recipes",
    "TrainOptions": "vsr.training.options",
    "TrainSummary": "vsr.training.trainer",
    "train": "vsr.training.trainer",
}

__all__ = [
    "CompareOptions",
    "CompareSummary",
    "Engine",
    "ImageEvalOptions",
    "ImageReport",
    "RECIPES",
    "Recipe",
    "TrainOptions",
    "TrainSummary",
    "UpscaleOptions",
    "UpscaleSummary",
    "VideoEvalOptions",
    "VideoReport",
    "VsrError",
    "__version__",
    "compare",
    "evaluate_images",
    "evaluate_videos",
    "load_model",
    "override",
    "train",
    "upscale",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vsr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
