"""vsr: video super-resolution with SRGAN.

::

    import vsr
    model = vsr.load_model("video-x4")              # a shipped model, or the path of a weights file
    sr = model.upscale(lr)                          # NumPy, torch or PIL in, the same out
    vsr.upscale("in.mp4", "out.mp4")                # as the command `vsr upscale` does

The public names are imported on first use, so that ``import vsr`` is fast.
"""

from __future__ import annotations

TYPE_CHECKING = False  # known to type checkers; importing typing would delay the signal handling of the command
if TYPE_CHECKING:
    from typing import Any

    from vsr.api import compare, evaluate_images, evaluate_videos, train, upscale, upscale_folder, upscale_frames
    from vsr.comparison.options import CompareOptions, CompareSummary, Region
    from vsr.errors import UsageError, VsrError
    from vsr.evaluation.images import ImageReport
    from vsr.evaluation.options import ImageEvalOptions, VideoEvalOptions
    from vsr.evaluation.scores import VideoReport
    from vsr.inference.engine import Engine, load_model
    from vsr.pipeline.folder import FolderProgress, Outcome
    from vsr.pipeline.job import UpscaleProgress, UpscaleSummary
    from vsr.pipeline.options import UpscaleOptions
    from vsr.training.options import TrainOptions
    from vsr.training.recipes import RECIPES, Recipe, override
    from vsr.training.trainer import TrainSummary

__version__ = "0.1.0"

_MODULES = {
    "upscale": "vsr.api",
    "upscale_folder": "vsr.api",
    "upscale_frames": "vsr.api",
    "train": "vsr.api",
    "compare": "vsr.api",
    "evaluate_images": "vsr.api",
    "evaluate_videos": "vsr.api",
    "Engine": "vsr.inference.engine",
    "load_model": "vsr.inference.engine",
    "UpscaleOptions": "vsr.pipeline.options",
    "UpscaleProgress": "vsr.pipeline.job",
    "UpscaleSummary": "vsr.pipeline.job",
    "FolderProgress": "vsr.pipeline.folder",
    "Outcome": "vsr.pipeline.folder",
    "CompareOptions": "vsr.comparison.options",
    "CompareSummary": "vsr.comparison.options",
    "Region": "vsr.comparison.options",
    "ImageEvalOptions": "vsr.evaluation.options",
    "ImageReport": "vsr.evaluation.images",
    "VideoEvalOptions": "vsr.evaluation.options",
    "VideoReport": "vsr.evaluation.scores",
    "RECIPES": "vsr.training.recipes",
    "Recipe": "vsr.training.recipes",
    "override": "vsr.training.recipes",
    "TrainOptions": "vsr.training.options",
    "TrainSummary": "vsr.training.trainer",
    "UsageError": "vsr.errors",
    "VsrError": "vsr.errors",
}

__all__ = [
    "CompareOptions",
    "CompareSummary",
    "Engine",
    "FolderProgress",
    "ImageEvalOptions",
    "ImageReport",
    "Outcome",
    "RECIPES",
    "Recipe",
    "Region",
    "TrainOptions",
    "TrainSummary",
    "UpscaleOptions",
    "UpscaleProgress",
    "UpscaleSummary",
    "UsageError",
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
    "upscale_folder",
    "upscale_frames",
]


if not TYPE_CHECKING:  # which would take any name for one of vsr

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'vsr' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
