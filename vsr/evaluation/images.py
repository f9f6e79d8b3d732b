"""Models on folders of pictures: PSNR, SSIM, LPIPS and FID by the protocol of the literature, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vsr.errors import InputError, WeightsError
from vsr.evaluation.fid import FrechetDistance, load_extractor
from vsr.evaluation.options import ImageEvalOptions
from vsr.evaluation.pictures import Pair, check_sizes, find_pairs, read_pair
from vsr.evaluation.scores import ImageReport, ModelScore, PictureScore
from vsr.imaging.metrics import SSIM_WINDOW, psnr_rgb, psnr_y, ssim_rgb, ssim_y
from vsr.inference.cost import measure_cost, memory_measure
from vsr.inference.engine import Engine, load_model
from vsr.networks.lpips import LEAST_SIZE, Lpips, load_lpips

WARM_UP = 16
"""LR pixels each way that every model upscales first, unmeasured: a first call starts libraries and the device."""


FEATURES = {"none": "", "inception": "Inception v3 (torch-fidelity)", "squeezenet": "SqueezeNet 1.1"}
"""Whose features FID compares, in words."""


@dataclass(frozen=True)
class ImageProgress:
    """How far the work is.

    Attributes:
        done: pictures measured.
        total: pictures in all folders.
        picture: the one just measured.
    """

    done: int
    total: int
    picture: Path


@dataclass(frozen=True)
class _Judges:
    """What compares results with originals.

    Attributes:
        border: pixels that PSNR and SSIM leave out at each side.
        psnr: of ``vsr.imaging.metrics``.
        ssim: of ``vsr.imaging.metrics``.
        lpips: None leaves it out.
        extractor: of the features for FID; None leaves it out.
        device: of the two networks.
    """

    border: int
    psnr: Callable[..., Tensor]
    ssim: Callable[..., Tensor]
    lpips: Lpips | None
    extractor: nn.Module | None
    device: torch.device

    def compare(self, sr: Tensor, hr: Tensor) -> tuple[float, float, float | None]:
        """PSNR in dB, SSIM, and LPIPS of (1, 3, H, W) uint8 pictures on the judges' device."""
        psnr, ssim = (
            float(measure(sr.double() / 255, hr.double() / 255, border=self.border))
            for measure in (self.psnr, self.ssim)
        )
        return psnr, ssim, None if self.lpips is None else float(self.lpips(sr.float() / 255, hr.float() / 255))


@torch.inference_mode()
def evaluate_images(
    options: ImageEvalOptions,
    progress: Callable[[ImageProgress], None] | None = None,
    *,
    fid_extractor: nn.Module | None = None,
) -> ImageReport:
    """Upscale the LR of HR pictures by each model, and compare the results with the originals.

    HR is cropped to a multiple of the scale at its right and lower edge. LR is made as MATLAB's ``imresize`` does
    (:func:`vsr.imaging.resize.resize_as_matlab`), or read. Results are rounded to 8 bits before they are measured.

    Args:
        options: models, pictures, measures.
        progress: called after each picture.
        fid_extractor: measures FID in the features of this network, (1, 3, H, W) uint8 RGB -> (1, D) floats, instead
            of what ``options.fid`` says; moved to the device.

    Raises:
        UsageError: an unknown model, scale or device, or models of different scales.
        InputError: a folder or picture cannot be used, or LR and HR do not belong together.
        WeightsError: weights of a model, of LPIPS or of FID are missing or damaged.
    """
    engines = _load_engines(options)
    first = next(iter(engines.values()))
    scale = int(first.scale)
    border = scale if options.border is None else options.border
    with_fid = fid_extractor is not None or options.fid != "none"
    folders = _find_folders(options, scale, border, with_fid)
    judges = _load_judges(options, border, first.device, fid_extractor)
    for engine in engines.values():
        engine.upscale(np.zeros((WARM_UP, WARM_UP, 3), np.uint8))

    total, done = sum(len(pairs) for _, _, pairs in folders), 0
    scores: list[ModelScore] = []
    for data, lr_folder, pairs in folders:
        by_picture = []
        distance = None if judges.extractor is None else FrechetDistance(judges.extractor)
        for pair in pairs:
            by_picture.append(_measure(pair, scale, engines, judges, distance))
            done += 1
            if progress is not None:
                progress(ImageProgress(done, total, pair.hr))
        for model in engines:
            fid = None if distance is None else distance.compute(model)
            scores.append(ModelScore(data, lr_folder, model, tuple(each[model] for each in by_picture), fid))
    return ImageReport(
        options=options,
        scale=scale,
        border=border,
        device=_device_name(first.device),
        arithmetic={model: f"{engine.precision} by {engine.version}" for model, engine in engines.items()},
        fid_features=type(fid_extractor).__name__ if fid_extractor is not None else FEATURES[options.fid],
        memory_measure=memory_measure(first.device),
        scores=tuple(scores),
    )


def _measure(
    pair: Pair, scale: int, engines: Mapping[str, Engine], judges: _Judges, distance: FrechetDistance | None
) -> dict[str, PictureScore]:
    """Each model on one picture."""
    hr, lr = read_pair(pair, scale)
    frame = lr[0].permute(1, 2, 0).numpy()
    hr = hr.to(judges.device)
    scores, results = {}, {}
    for model, engine in engines.items():
        upscaled, cost = measure_cost(partial(engine.upscale, frame), engine.device)
        sr = torch.from_numpy(upscaled).permute(2, 0, 1)[None].to(judges.device)
        scores[model] = PictureScore(pair.hr.name, *judges.compare(sr, hr), cost.seconds, cost.memory_bytes)
        results[model] = sr
    if distance is not None:
        distance.add(hr, results)
    return scores


def _load_engines(options: ImageEvalOptions) -> dict[str, Engine]:
    """The models in the order that was asked for, all of one scale."""
    scale: float | None = options.scale
    loaded = {}
    # Bicubic last: it has every scale, and takes that of the others.
    for model in sorted(options.models, key=lambda name: name == "bicubic"):
        loaded[model] = load_model(
            model, scale=scale, device=options.device, engine=options.engine, precision=options.precision,
            tile_size=options.tile_size,
        )  # fmt: skip
        scale = loaded[model].scale
    return {model: loaded[model] for model in options.models}


def _find_folders(
    options: ImageEvalOptions, scale: int, border: int, with_fid: bool
) -> list[tuple[Path, Path | None, list[Pair]]]:
    """Each folder of HR, its folder of LR, and their pictures, all of which can be measured."""
    least = max(SSIM_WINDOW + 2 * border, LEAST_SIZE if options.lpips or options.fid == "squeezenet" else 1)
    lr_folders: Sequence[Path | None] = options.lr or [None] * len(options.data)
    folders = []
    for data, lr_folder in zip(options.data, lr_folders, strict=True):
        pairs = find_pairs(data, lr_folder, scale)
        if with_fid and len(pairs) < 2:
            raise InputError(f"{data} holds one picture; FID compares sets of at least two. Leave --fid out.")
        check_sizes(pairs, scale=scale, least=least)
        folders.append((data, lr_folder, pairs))
    return folders


def _load_judges(
    options: ImageEvalOptions, border: int, device: torch.device, fid_extractor: nn.Module | None
) -> _Judges:
    device = device if device.type == "cuda" else torch.device("cpu")  # MPS lacks float64
    backbone = None
    if options.lpips or (options.fid == "squeezenet" and fid_extractor is None):
        try:
            backbone = load_lpips(options.lpips_weights)
        except WeightsError as exc:
            hint = " --no-lpips leaves LPIPS out." if options.lpips else ""
            raise WeightsError(f"{exc}{hint}") from exc
    extractor = fid_extractor
    if extractor is None and options.fid != "none":
        extractor = load_extractor(options.fid, backbone)
    psnr, ssim = (psnr_y, ssim_y) if options.colour == "y" else (psnr_rgb, ssim_rgb)
    return _Judges(
        border,
        psnr,
        ssim,
        None if backbone is None or not options.lpips else backbone.to(device),
        None if extractor is None else extractor.to(device),
        device,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)
