"""The calls of Python, ``vsr.upscale`` and its like, with each option as a keyword. Imports no torch until one is used.

The keywords are written out for editors, type checkers and ``help``; their meaning, defaults and ranges are those of
the options dataclasses, and a test compares the two. Training, comparing and measuring also take an options object.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from vsr.comparison.options import CompareOptions, CompareProgress, CompareSummary, Layout, Region
from vsr.errors import UsageError, setting
from vsr.evaluation.options import Align, ImageEvalOptions, VideoEvalOptions
from vsr.files import MAX_PIXELS
from vsr.inference import Precision, RuntimeName
from vsr.networks import LpipsChoice
from vsr.options import converted
from vsr.pipeline.options import AutoYesNo, UpscaleOptions
from vsr.signals import Stop
from vsr.training.options import TrainOptions
from vsr.training.recipes import RECIPES, Recipe, StageName, override, with_total_steps

if TYPE_CHECKING:
    import torch

    from vsr.evaluation.images import ImageProgress, ImageReport
    from vsr.evaluation.scores import VideoReport
    from vsr.evaluation.videos import VideoEvalProgress
    from vsr.imaging.arrays import Picture
    from vsr.inference.engine import Engine
    from vsr.pipeline.folder import FolderProgress, Outcome
    from vsr.pipeline.job import UpscaleProgress, UpscaleSummary
    from vsr.pipeline.scheduler import Executor
    from vsr.training.trainer import TrainProgress, TrainSummary

StrPath = str | os.PathLike[str]
"""A path."""

Call = TypeVar("Call", bound=Callable[..., Any])
Options = TypeVar("Options")


def _or_options(kind: type, load: Callable[[], Callable[..., Any]]) -> Callable[[Call], Call]:
    """Let a call take an options object in place of its keywords; ``load`` returns the function for that."""

    def decorate(call: Call) -> Call:
        @wraps(call)
        def either(*args: Any, **keywords: Any) -> Any:
            if args and isinstance(args[0], kind):
                return load()(*args, **keywords)
            return call(*args, **keywords)

        return cast(Call, either)

    return decorate


def _options(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """Build options of the keywords of a call."""
    return kind(**{each.name: values[each.name] for each in fields(kind) if each.name in values})  # type: ignore[arg-type]


def upscale(
    source: StrPath,
    target: StrPath,
    *,
    model: StrPath | Engine = "video",
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    height: int | None = None,
    detail: float = 1.0,
    start: float | str | Fraction | None = None,
    end: float | str | Fraction | None = None,
    steady: AutoYesNo = "auto",
    deinterlace: AutoYesNo = "auto",
    device: str | torch.device = "auto",
    engine: RuntimeName = "auto",
    precision: Precision = "auto",
    tile_size: int | None = None,
    batch_size: int | None = None,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    encoder: Mapping[str, str] | None = None,
    audio: str = "copy",
    subtitles: Literal["copy", "none"] = "copy",
    fps: float | str | Fraction = 25,
    max_pixels: int = MAX_PIXELS,
    tolerant: bool = False,
    overwrite: bool = False,
    resume: bool = True,
    jobs: int | None = None,
    cluster: str | None = None,
    progress: Callable[[UpscaleProgress], object] | None = None,
    stop: Stop | None = None,
) -> UpscaleSummary:
    """Upscale a clip or a picture, as ``vsr upscale`` does.

    The output gets its name when it is complete. If the work ends early, only the finished segments are kept, in a
    folder beside the output, and the same call resumes from there. A damaged source is no error as long as one frame
    can be decoded: the summary describes the damage.

    Args:
        source: a video, a picture, a folder of pictures, or a pattern such as ``frames/*.png`` or ``frames/%04d.png``.
        target: a file with an ending in ``vsr.media.formats.CONTAINERS``, a picture, or a pattern such as
            ``frames/%06d.png``.
        model: a name or path, or a model from ``load_model``, which is then used as it is.
        start: seconds, or text such as ``1:30.5``.
        end: likewise.
        fps: ``25``, ``"30000/1001"``, or ``29.97`` and its like, which are the rates of NTSC.
        progress: called before the first frame and after each batch; the work stops if it returns False.
        stop: such as a ``threading.Event``; the work stops once it is set, with ``stopped`` in the summary.
        scale, size, ...: the fields of ``UpscaleOptions``.

    Raises:
        UsageError: invalid options, or an unknown model or ending.
        InputError: the source is missing, damaged or holds no video.
        OutputError: the target exists, or cannot be written.
        VsrError: any other failure.
    """
    options, executor = _upscale_options(locals())
    paths = converted("source", source, Path), converted("target", target, Path)
    from vsr.pipeline.job import upscale_clip

    with executor as given:
        return upscale_clip(*paths, options, progress, given, stop=stop)


def upscale_folder(
    sources: StrPath | Sequence[StrPath],
    folder: StrPath,
    *,
    recursive: bool = False,
    model: StrPath | Engine = "video",
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    height: int | None = None,
    detail: float = 1.0,
    start: float | str | Fraction | None = None,
    end: float | str | Fraction | None = None,
    steady: AutoYesNo = "auto",
    deinterlace: AutoYesNo = "auto",
    device: str | torch.device = "auto",
    engine: RuntimeName = "auto",
    precision: Precision = "auto",
    tile_size: int | None = None,
    batch_size: int | None = None,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    encoder: Mapping[str, str] | None = None,
    audio: str = "copy",
    subtitles: Literal["copy", "none"] = "copy",
    fps: float | str | Fraction = 25,
    max_pixels: int = MAX_PIXELS,
    tolerant: bool = False,
    overwrite: bool = False,
    resume: bool = True,
    jobs: int | None = None,
    cluster: str | None = None,
    progress: Callable[[FolderProgress], object] | None = None,
    on_outcome: Callable[[Outcome], object] | None = None,
    stop: Stop | None = None,
) -> list[Outcome]:
    """Upscale many clips and pictures, each to a file of its name in a folder; one that fails stops no other.

    Args:
        sources: files, folders of videos and pictures, and patterns such as ``clips/*.mp4``; one of them, or several.
        folder: the folder of the outputs, created if it is missing; without ``overwrite`` an output that exists there
            is left alone.
        recursive: include subfolders.
        model: a name or path, or a model from ``load_model``.
        progress: called before the first frame and after each batch; the work stops if it returns False.
        on_outcome: called with the result of each input.
        stop: such as a ``threading.Event``; the work stops once it is set, and the last outcome says ``stopped``.
        scale, size, ...: the fields of ``UpscaleOptions``.

    Raises:
        UsageError: invalid options, an unknown model, or two inputs that would have the same output.
        InputError: a folder or pattern has nothing to upscale.
        VsrError: the work cannot begin.
    """
    options, executor = _upscale_options(locals())
    paths, into = converted("sources", sources, tuple[Path, ...]), converted("folder", folder, Path)
    from vsr.pipeline.folder import pair_inputs
    from vsr.pipeline.folder import upscale_folder as upscale_pairs

    pairs = pair_inputs(paths, into, recursive=recursive)
    with executor as given:
        return upscale_pairs(pairs, options, progress=progress, on_outcome=on_outcome, executor=given, stop=stop)


def upscale_frames(
    frames: Iterable[Picture],
    *,
    model: StrPath | Engine = "video",
    scale: float | None = None,
    detail: float = 1.0,
    steady: AutoYesNo = "auto",
    device: str | torch.device = "auto",
    engine: RuntimeName = "auto",
    precision: Precision = "auto",
    tile_size: int | None = None,
) -> Iterator[Picture]:
    """Upscale the frames of a clip, in order, as they come; yield one for each, of the same kind, dtype and layout.

    A recurrent model carries its state from frame to frame, and the frames of an adversarial one are steadied, as in
    ``upscale``. A change of size or a scene cut begins a new clip, and a frame equal to the one before repeats its
    result. Grey stays grey; alpha is enlarged by bicubic interpolation, and hidden colours do not bleed into edges.

    Args:
        frames: NumPy arrays (H, W, C) or (H, W), torch tensors (C, H, W) or (H, W), each of uint8, uint16 or floats in
            [0, 1], or PIL pictures. C is 1 for grey, 2 for grey with alpha, 3 for RGB, 4 for RGB with alpha.
        model: a name or path, or a model from ``load_model``, whose own clip is left alone.
        scale: output size over input size; None: the model's own.
        detail, steady, ...: the fields of ``UpscaleOptions``.

    Raises:
        UsageError: invalid options, an unknown model, or a single picture in place of frames. The model is loaded
            before the first frame is asked for.
        TypeError: a frame is of another kind, when its turn comes.
        ValueError: a frame has another shape.
    """
    values = locals()
    if getattr(frames, "ndim", 4) != 4 or not isinstance(frames, Iterable):
        raise UsageError(f"frames takes pictures in order, got a single {type(frames).__name__}: write [frame].")
    loaded = _loaded(values)
    options = _options(UpscaleOptions, values)
    from vsr.pipeline.frames import engine_for, upscaled_frames

    return upscaled_frames(frames, engine_for(options) if loaded is None else loaded, options)


def _upscale_options(values: dict[str, Any]) -> tuple[UpscaleOptions, AbstractContextManager[Executor | None]]:
    """Return the options of a call, and the executor of a model that the caller has loaded, else of None."""
    values["encoder"] = values["encoder"] or {}
    loaded = _loaded(values)
    options = _options(UpscaleOptions, values)
    if loaded is None:
        return options, nullcontext()
    if options.cluster or options.num_workers > 1:
        raise UsageError(
            f"a loaded model works in this process: leave out {setting('jobs')} and {setting('cluster')}, or name the "
            "model."
        )
    from vsr.pipeline.scheduler import InProcess

    return options, InProcess(loaded)


def _loaded(values: dict[str, Any]) -> Engine | None:
    """Return the model that the caller has loaded, if any, and describe it in the values of the call.

    Raises:
        UsageError: the call asks for something else.
    """
    model = values["model"]
    if isinstance(model, (str, os.PathLike)):
        return None
    from vsr.inference.engine import Engine

    if not isinstance(model, Engine):
        raise UsageError(f"model takes a name, a path, or a model from load_model, got {type(model).__name__}.")
    own: dict[str, Any] = {
        "device": str(model.device), "engine": model.runtime, "precision": model.precision,
        "tile_size": model.tile_size, "detail": model.detail,
    }  # fmt: skip
    for each in fields(UpscaleOptions):
        if each.name in own:
            asked = str(values[each.name]) if each.name == "device" else values[each.name]
            if asked not in (each.default, own[each.name]):
                raise UsageError(
                    f"{model!r} is loaded already: leave out {setting(each.name, asked)}, or pass it to load_model."
                )
    values.update(own, model=model.name)
    return model


@_or_options(TrainOptions, lambda: _train)
def train(
    data: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    recipe: str | Recipe = "srgan",
    steps: int | None = None,
    stage: Literal[StageName, "all"] = "all",
    seed: int = 0,
    init: StrPath | None = None,
    init_discriminator: StrPath | None = None,
    teacher: StrPath | None = None,
    content_weights: StrPath | None = None,
    lpips: LpipsChoice = "squeeze",
    lpips_weights: StrPath | None = None,
    licence: str = "not stated",
    command: str = "",
    validation: StrPath | Sequence[StrPath] = (),
    hold_out: int = 16,
    validate_every: int = 1000,
    checkpoint_every: int = 1000,
    log_every: int = 50,
    tensorboard: bool = False,
    device: str | torch.device = "auto",
    devices: int = 1,
    nodes: int = 1,
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto",
    compile: bool = False,
    cache: Literal["auto", "ram", "gpu", "none"] = "auto",
    workers: int = 2,
    time_limit: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[TrainProgress], object] | None = None,
    stop: Stop | None = None,
) -> TrainSummary:
    """Train a generator, and a discriminator against it, as ``vsr train`` does.

    Args:
        data: folders, zips and files of HR pictures; for a recurrent generator also videos. One of them, or several;
            ``()`` with ``resume=True``: those of the run.
        output: the folder of the run: checkpoint, weights, card, log, figure and samples.
        recipe: a name in ``RECIPES``, or a recipe, such as one that ``override`` returns.
        steps: updates in all; the recipe's stages are scaled in proportion. None: the recipe's own.
        progress: called after each update; the run stops if it returns False.
        stop: such as a ``threading.Event``; once it is set, the run writes a checkpoint and stops, with ``stopped`` in
            the summary; ``resume=True`` continues it.
        resume: continue the run in ``output``; each keyword that has its default gets the value of that run.
        stage, seed, ...: the fields of ``TrainOptions``.

    Raises:
        UsageError: options that contradict each other, or an unknown recipe.
        TrainingDataError: there are no usable pictures.
        WeightsError: initial weights, or those of the content network, are missing or damaged.
        CheckpointError: the run in the output cannot be continued with these options.
        TrainingError: a loss is no longer finite, memory is exhausted, or a process died.
        OutputError: the output cannot be written, or another process is training into it.
    """
    values = locals()
    if resume and not overwrite:
        values.update(_stored(values))
    recipe, steps, stage = values["recipe"], values["steps"], values["stage"]
    if not isinstance(recipe, Recipe):
        if not isinstance(recipe, str) or recipe not in RECIPES:
            raise UsageError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}.")
        values["recipe"] = recipe = RECIPES[recipe]
    if steps is not None:
        steps = converted("steps", steps, int)
        values["recipe"] = with_total_steps(recipe, steps, None if stage == "all" else stage)
    return _train(_options(TrainOptions, values), progress=progress, stop=stop)


def _stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the run that a call continues, for its keywords that have their defaults.

    Raises:
        CheckpointError: there is no run to continue.
        UsageError: its file of options was changed to one that cannot be read.
    """
    from vsr.training.config import stored_config

    defaults = {each.name: each.default for each in fields(TrainOptions)} | {"recipe": "srgan", "steps": None}
    stored = stored_config(converted("output", values["output"], Path))
    of_recipe = {name: stored.pop(name) for name in list(stored) if name not in defaults}
    if stored or of_recipe:
        stored["recipe"] = override(RECIPES[stored.get("recipe", "srgan")], **of_recipe)
    return {
        name: value
        for name, value in stored.items()
        if values[name] == defaults[name] or (name == "data" and not values[name])
    }


def _train(
    options: TrainOptions,
    *,
    progress: Callable[[TrainProgress], object] | None = None,
    stop: Stop | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainSummary:
    from vsr.training.trainer import train

    refused = False

    def report(at: TrainProgress) -> None:
        nonlocal refused
        if progress is not None and progress(at) is False:
            refused = True

    def is_stopped() -> bool:
        return refused or should_stop() or (stop is not None and stop.is_set())

    return train(options, progress=report, should_stop=is_stopped)


@_or_options(CompareOptions, lambda: _compare)
def compare(
    inputs: StrPath | Sequence[StrPath],
    target: StrPath,
    *,
    lr: StrPath | None = None,
    hr: StrPath | None = None,
    labels: Sequence[str] = (),
    bicubic: bool | None = None,
    regions: Sequence[Region | tuple[int, int, int, int]] = (),
    num_regions: int | None = None,
    times: Sequence[float] = (),
    frames: Sequence[int] = (),
    num_frames: int | None = None,
    play: float | None = None,
    align: Align | None = None,
    layout: Layout | None = None,
    quality: int | Literal["lossless"] | None = None,
    overwrite: bool = False,
    progress: Callable[[CompareProgress], object] | None = None,
) -> CompareSummary:
    """Show candidates side by side in a strip, a video or a page, as ``vsr compare`` does; the target's suffix selects.

    The output appears under its name when it is complete; an exception leaves no file.

    Args:
        inputs: the candidates in order: pictures, or clips. One of them, or several.
        target: a strip (.png, .jpg), a video (.mp4, .mov, .m4v, .mkv) or a page with a slider (.html).
        regions: of a strip: what to magnify, each (x, y, width, height) in pixels of the candidates.
        progress: called after each frame.
        lr, hr, ...: the fields of ``CompareOptions``.

    Raises:
        UsageError: the inputs cannot be compared, or a region, a time or a frame is outside of them.
        InputError: an input is missing, damaged, or of another size than the others.
        OutputError: the target exists, or cannot be written.
        FFmpegError: the sound cannot be added to a video.
    """
    return _compare(_options(CompareOptions, locals()), progress)


def _compare(
    options: CompareOptions, progress: Callable[[CompareProgress], object] | None = None
) -> CompareSummary:
    from vsr.comparison.compare import compare

    return compare(options, cast("Callable[[CompareProgress], None]", progress))


@_or_options(ImageEvalOptions, lambda: _evaluate_images)
def evaluate_images(
    models: StrPath | Sequence[StrPath],
    data: StrPath | Sequence[StrPath],
    *,
    lr: StrPath | Sequence[StrPath] = (),
    scale: int | None = None,
    border: int | None = None,
    colour: Literal["y", "rgb"] = "y",
    lpips: LpipsChoice | bool = "squeeze",
    lpips_weights: StrPath | None = None,
    fid: Literal["none", "inception"] = "none",
    device: str | torch.device = "auto",
    engine: RuntimeName = "auto",
    precision: Precision = "auto",
    tile_size: int | None = None,
    progress: Callable[[ImageProgress], object] | None = None,
    fid_extractor: torch.nn.Module | None = None,
) -> ImageReport:
    """Upscale the LR of HR pictures by each model, and compare the results with the originals, as ``vsr eval`` does.

    Args:
        models: names or paths of models of one scale; one of them, or several.
        data: folders of HR pictures; one of them, or several.
        lr: folders of LR pictures, one for each folder of ``data``; if empty, LR is made as MATLAB does.
        progress: called after each picture.
        fid_extractor: measures FID in the features of this network, (1, 3, H, W) uint8 RGB -> (1, D) floats.
        scale, border, ...: the fields of ``ImageEvalOptions``.

    Raises:
        UsageError: invalid options, an unknown model, or models of different scales.
        InputError: a folder or picture cannot be used, or LR and HR do not belong together.
        WeightsError: weights of a model, of LPIPS or of FID are missing or damaged.
    """
    return _evaluate_images(_options(ImageEvalOptions, locals()), progress, fid_extractor=fid_extractor)


def _evaluate_images(
    options: ImageEvalOptions,
    progress: Callable[[ImageProgress], object] | None = None,
    *,
    fid_extractor: torch.nn.Module | None = None,
) -> ImageReport:
    from vsr.evaluation.images import evaluate_images

    return evaluate_images(options, cast("Callable[[ImageProgress], None]", progress), fid_extractor=fid_extractor)


@_or_options(VideoEvalOptions, lambda: _evaluate_videos)
def evaluate_videos(
    reference: StrPath,
    outputs: StrPath | Sequence[StrPath],
    *,
    lr: StrPath | None = None,
    border: int = 0,
    vmaf: bool = True,
    vmaf_model: str = "vmaf_v0.6.1",
    steadiness: bool = True,
    align: Align = "time",
    max_unpaired: float = 0.05,
    progress: Callable[[VideoEvalProgress], object] | None = None,
) -> VideoReport:
    """Measure upscaled clips against their original, frame by frame, as ``vsr eval`` does.

    Args:
        reference: the clip that the outputs should equal.
        outputs: the clips to measure; one of them, or several.
        progress: called after each frame.
        lr, border, ...: the fields of ``VideoEvalOptions``.

    Raises:
        UsageError: invalid options, or a border that leaves nothing to compare.
        InputError: a clip is missing, damaged, a picture, or of another size, or its frames do not pair with those of
            the reference.
        FFmpegError: VMAF is to be measured, and the ffmpeg program is missing, lacks libvmaf, or fails.
    """
    return _evaluate_videos(_options(VideoEvalOptions, locals()), progress)


def _evaluate_videos(
    options: VideoEvalOptions, progress: Callable[[VideoEvalProgress], object] | None = None
) -> VideoReport:
    from vsr.evaluation.videos import evaluate_videos

    return evaluate_videos(options, cast("Callable[[VideoEvalProgress], None]", progress))
