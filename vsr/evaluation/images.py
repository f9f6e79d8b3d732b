"""Measure models on folders of pictures: PSNR, SSIM, LPIPS, FID, time and memory.

Also the table of the scores, the pairing of HR and LR pictures by name, and the calibration of a model for int8.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

import vsr
from vsr.errors import InputError, WeightsError, setting
from vsr.evaluation.fid import FrechetDistance, load_inception
from vsr.evaluation.options import ImageEvalOptions
from vsr.evaluation.tables import Column, Table, Value
from vsr.imaging.metrics import SSIM_WINDOW, psnr_rgb, psnr_y, ssim_rgb, ssim_y
from vsr.imaging.pictures import ENDINGS, picture_size, read_picture
from vsr.imaging.resize import resize_as_matlab
from vsr.inference.device import measure_cost, memory_measure
from vsr.inference.engine import Engine, load_model
from vsr.inference.openvino_backend import calibrate
from vsr.networks import LPIPS_MIN_SIZES, LPIPS_NAMES
from vsr.networks.lpips import Lpips, load_lpips
from vsr.networks.weights import Network, load_generator, save_calibration

WARM_UP = 16
"""Edge in LR pixels of a picture that every model upscales first, unmeasured, to start libraries and device."""


FEATURES = {"none": "", "inception": "Inception v3 (torch-fidelity)"}
"""Networks whose features FID compares, as text."""


@dataclass(frozen=True)
class ImageProgress:
    """Progress of the measuring.

    Attributes:
        done: pictures measured.
        total: pictures in all folders.
        picture: the one just measured.
    """

    done: int
    total: int
    picture: Path


@dataclass(frozen=True)
class _Metrics:
    """The metrics that compare results with originals.

    Attributes:
        border: pixels that PSNR and SSIM leave out at each side.
        psnr: function of ``vsr.imaging.metrics``.
        ssim: function of ``vsr.imaging.metrics``.
        lpips: network of LPIPS; None leaves it out.
        extractor: network of the features for FID; None leaves it out.
        device: device of the two networks.
    """

    border: int
    psnr: Callable[..., Tensor]
    ssim: Callable[..., Tensor]
    lpips: Lpips | None
    extractor: nn.Module | None
    device: torch.device

    def compare(self, sr: Tensor, hr: Tensor) -> tuple[float, float, float | None]:
        """Return PSNR in dB, SSIM and LPIPS of (1, 3, H, W) uint8 pictures on the metrics' device."""
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
            of those of ``options.fid``; moved to the device.

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
    metrics = _load_feature_networks(options, border, first.device, fid_extractor)
    for engine in engines.values():
        engine.upscale(np.zeros((WARM_UP, WARM_UP, 3), np.uint8))

    total, done = sum(len(pairs) for _, _, pairs in folders), 0
    scores: list[ModelScore] = []
    for data, lr_folder, pairs in folders:
        by_picture = []
        distance = None if metrics.extractor is None else FrechetDistance(metrics.extractor)
        for pair in pairs:
            by_picture.append(_measure(pair, scale, engines, metrics, distance))
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
    pair: Pair, scale: int, engines: Mapping[str, Engine], metrics: _Metrics, distance: FrechetDistance | None
) -> dict[str, PictureScore]:
    """Measure each model on one picture."""
    hr, lr = read_pair(pair, scale)
    frame = lr[0].permute(1, 2, 0).numpy()
    hr = hr.to(metrics.device)
    scores, results = {}, {}
    for model, engine in engines.items():
        upscaled, cost = measure_cost(partial(engine.upscale, frame), engine.device)
        sr = torch.from_numpy(upscaled).permute(2, 0, 1)[None].to(metrics.device)
        scores[model] = PictureScore(pair.hr.name, *metrics.compare(sr, hr), cost.seconds, cost.memory_bytes)
        results[model] = sr
    if distance is not None:
        distance.add(hr, results)
    return scores


def _load_engines(options: ImageEvalOptions) -> dict[str, Engine]:
    """Load the models in the given order, all of one scale."""
    scale: float | None = options.scale
    loaded = {}
    # Bicubic last: it has every scale, and uses that of the others.
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
    """Return each folder of HR, its folder of LR and their pairs, after checking that all can be measured."""
    least = max(SSIM_WINDOW + 2 * border, LPIPS_MIN_SIZES.get(options.lpips, 1))
    lr_folders: Sequence[Path | None] = options.lr or [None] * len(options.data)
    folders = []
    for data, lr_folder in zip(options.data, lr_folders, strict=True):
        pairs = find_pairs(data, lr_folder, scale)
        if with_fid and len(pairs) < 2:
            without = f"Leave {setting('fid')} out."
            raise InputError(f"{data} holds one picture; FID compares sets of at least two. {without}")
        check_sizes(pairs, scale=scale, least=least)
        folders.append((data, lr_folder, pairs))
    return folders


def _load_feature_networks(
    options: ImageEvalOptions, border: int, device: torch.device, fid_extractor: nn.Module | None
) -> _Metrics:
    device = device if device.type == "cuda" else torch.device("cpu")  # MPS lacks float64
    lpips = None
    if options.lpips != "none":
        try:
            lpips = load_lpips(options.lpips_weights, options.lpips)
        except WeightsError as exc:
            raise WeightsError(f"{exc} {setting('lpips', False)} leaves LPIPS out.") from exc
    extractor = fid_extractor
    if extractor is None and options.fid == "inception":
        extractor = load_inception()
    psnr, ssim = (psnr_y, ssim_y) if options.colour == "y" else (psnr_rgb, ssim_rgb)
    return _Metrics(
        border,
        psnr,
        ssim,
        None if lpips is None else lpips.to(device),
        None if extractor is None else extractor.to(device),
        device,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class PictureScore:
    """Scores of one model on one picture.

    Attributes:
        name: name of the HR file.
        psnr: in dB; infinite for equal pictures.
        ssim: at most 1.
        lpips: 0 for equal pictures; None where it was not measured.
        seconds: wall time of upscaling.
        memory_bytes: memory of upscaling, see ``ImageReport.memory_measure``; None where it cannot be measured.
    """

    name: str
    psnr: float
    ssim: float
    lpips: float | None
    seconds: float
    memory_bytes: int | None


@dataclass(frozen=True)
class ModelScore:
    """Scores of one model on one folder. Means give each picture the same weight, as in papers.

    Attributes:
        data: the folder of HR pictures.
        lr: the folder of LR pictures; None if they were made from HR.
        model: name or path as given.
        pictures: scores in the order of the pictures' names.
        fid: FID of the whole folder; None where it was not measured.
    """

    data: Path
    lr: Path | None
    model: str
    pictures: tuple[PictureScore, ...]
    fid: float | None

    @property
    def psnr(self) -> float:
        """Mean PSNR in dB."""
        return fmean(picture.psnr for picture in self.pictures)

    @property
    def ssim(self) -> float:
        """Mean SSIM."""
        return fmean(picture.ssim for picture in self.pictures)

    @property
    def lpips(self) -> float | None:
        """Mean LPIPS; None where it was not measured."""
        values = [picture.lpips for picture in self.pictures if picture.lpips is not None]
        return fmean(values) if values else None

    @property
    def seconds(self) -> float:
        """Mean time of upscaling a picture."""
        return fmean(picture.seconds for picture in self.pictures)

    @property
    def memory_bytes(self) -> int | None:
        """Greatest value over the pictures."""
        return max((each.memory_bytes for each in self.pictures if each.memory_bytes is not None), default=None)


@dataclass(frozen=True)
class ImageReport:
    """Results of ``vsr eval`` on pictures.

    Attributes:
        options: options of the run.
        scale: HR size over LR size.
        border: HR pixels that PSNR and SSIM left out at each side.
        device: device of the models, as text.
        arithmetic: precision and backend of each model.
        fid_features: network whose features FID compares; empty where it was not measured.
        memory_measure: what is measured as memory.
        scores: scores by folder, then by model.
    """

    options: ImageEvalOptions
    scale: int
    border: int
    device: str
    arithmetic: Mapping[str, str]
    fid_features: str
    memory_measure: str
    scores: tuple[ModelScore, ...]


def image_table(report: ImageReport, *, per_picture: bool = False) -> Table:
    """Return the scores as a table: a block for each folder, with a row for each model.

    Args:
        report: the scores.
        per_picture: also add a block for each picture, before that of the means.
    """
    options, colour = report.options, report.options.colour.upper()
    measured = [
        Column(f"PSNR-{colour}", "dB", 2, "higher"),
        Column(f"SSIM-{colour}", "", 4, "higher"),
        *([Column("LPIPS", "", 4, "lower", by=LPIPS_NAMES[options.lpips])] if options.lpips != "none" else []),
        *([Column("FID", "", 2, "lower")] if report.fid_features else []),
        Column("seconds", "s", 3),
        Column("memory", "MiB", 0),
    ]
    labels = _labels([score.data for score in report.scores])
    rows: list[Mapping[str, Value]] = []
    for data in dict.fromkeys(labels):
        scores = [score for score, label in zip(report.scores, labels, strict=True) if label == data]
        if per_picture:
            for pictures in zip(*(score.pictures for score in scores), strict=True):
                for score, picture in zip(scores, pictures, strict=True):
                    rows.append(_row(data, score.model, colour, picture) | {"picture": picture.name})
        for score in scores:
            count = len(score.pictures)
            rows.append(_row(data, score.model, colour, score) | {"pictures": count, "picture": f"mean of {count}"})
    named = (Column("data"), Column("picture" if per_picture else "pictures"), Column("model"))
    return Table((*named, *measured), tuple(rows), _about(report), group_by=("data", "picture"))


def _row(data: str, model: str, colour: str, score: PictureScore | ModelScore) -> dict[str, Value]:
    memory = score.memory_bytes
    return {
        "data": data,
        "model": model,
        f"PSNR-{colour}": score.psnr,
        f"SSIM-{colour}": score.ssim,
        "LPIPS": score.lpips,
        "FID": score.fid if isinstance(score, ModelScore) else None,
        "seconds": score.seconds,
        "memory": None if memory is None else memory / MEBIBYTE,
    }


def _labels(folders: list[Path]) -> list[str]:
    """Return the folders' names, or their paths where different folders have the same name."""
    by_name: dict[str, set[Path]] = {}
    for folder in folders:
        by_name.setdefault(folder.resolve().name, set()).add(folder)
    return [name if len(by_name[name := folder.resolve().name]) == 1 else str(folder) for folder in folders]


def _about(report: ImageReport) -> dict[str, object]:
    options = report.options
    space = "MATLAB's Y (BT.601, 16..235)" if options.colour == "y" else "red, green and blue"
    lr = "made from HR as by MATLAB's imresize: bicubic, antialiased, 8 bits"
    given = {str(score.data): str(score.lr) for score in report.scores if score.lr is not None}
    about: dict[str, object] = {
        "scale": report.scale,
        "PSNR and SSIM": f"on {space}, 8-bit results, a border of {report.border} pixels left out",
    }
    if options.lpips != "none":
        about["LPIPS"] = f"version 0.1 on {LPIPS_NAMES[options.lpips]}, over RGB, whole pictures"
    if report.fid_features:
        about["FID"] = f"features of {report.fid_features}, whole pictures; compares only at equal numbers of pictures"
    return about | {
        "LR": given or lr,
        "device": report.device,
        "arithmetic": ", ".join(f"{model} in {text}" for model, text in report.arithmetic.items()),
        "seconds": "mean time of upscaling a picture, from and to main memory",
        "memory": report.memory_measure,
        "vsr": vsr.__version__,
    }


NAMED = 5
"""Greatest number of files that an error lists."""


@dataclass(frozen=True)
class Pair:
    """One picture to measure on.

    Attributes:
        hr: file of the HR picture.
        lr: file of the LR picture; None if LR is made from HR.
    """

    hr: Path
    lr: Path | None = None


def find_pictures(folder: Path) -> list[Path]:
    """Return the picture files of a folder by name, without subfolders and hidden files.

    Raises:
        InputError: the folder is missing, cannot be read, or holds no picture.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder of pictures.")
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError as exc:
        raise InputError(f"cannot read the folder {folder}: {exc.strerror}.") from exc
    found = [path for path in files if path.suffix.lower() in ENDINGS]
    if not found:
        raise InputError(f"no pictures in {folder}; their names must end in {', '.join(sorted(ENDINGS))}.")
    return found


def find_pairs(hr_folder: Path, lr_folder: Path | None, scale: int) -> list[Pair]:
    """Pair the pictures of two folders by name, apart from the endings.

    An LR picture has the name of its HR picture, alone or with a mark: ``baby``, ``babyx4``, ``baby_LRx4``,
    ``baby_LR``, ``baby-4x``; an HR picture may end in ``_HR`` or ``_GT``, which is ignored.

    Args:
        hr_folder: HR pictures.
        lr_folder: LR pictures, none of which may be left over; None if they are made from HR.
        scale: the number in an LR picture's name.

    Raises:
        InputError: a folder is missing or holds no picture, or pictures are left over or claimed twice.
    """
    hr_paths = find_pictures(hr_folder)
    if lr_folder is None:
        return [Pair(path) for path in hr_paths]
    lr_paths = find_pictures(lr_folder)
    mark = re.compile(rf"[ ._-]?(LR)?[ ._-]?(x{scale}|(?<!\d){scale}x)$|[ ._-]LR$", re.IGNORECASE)
    same = _by_name(lr_paths, lambda name: name)
    marked = _by_name([path for path in lr_paths if mark.search(path.stem)], lambda name: mark.sub("", name))
    pairs, used = [], set()
    for hr in hr_paths:
        bare = re.sub(r"[ ._-](HR|GT)$", "", hr.stem, flags=re.IGNORECASE)
        fitting = next((found for found in (same.get(hr.stem), marked.get(bare), same.get(bare)) if found), [])
        if len(fitting) > 1:
            raise InputError(f"{hr} could belong to each of {_listed(fitting)} in {lr_folder}; leave one.")
        if fitting and fitting[0] in used:
            raise InputError(f"{fitting[0]} could belong to more than one picture in {hr_folder}; leave one of them.")
        used.update(fitting)
        pairs.append(Pair(hr, fitting[0] if fitting else None))
    _check_left_over(hr_folder, lr_folder, pairs, [path for path in lr_paths if path not in used])
    return pairs


def _by_name(paths: Sequence[Path], key: Callable[[str], str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(key(path.stem), []).append(path)
    return found


def _check_left_over(hr_folder: Path, lr_folder: Path, pairs: Sequence[Pair], lr_left: Sequence[Path]) -> None:
    hr_left = [pair.hr for pair in pairs if pair.lr is None]
    complaints = [
        f"{len(left)} in {folder} without {counterpart}: {_listed(left)}"
        for left, folder, counterpart in ((hr_left, hr_folder, "LR"), (lr_left, lr_folder, "HR"))
        if left
    ]
    if complaints:
        raise InputError(
            f"pictures are left over when paired by name, {'; '.join(complaints)}. The LR of baby.png is called baby, "
            "babyx4 or baby_LRx4, by its scale."
        )


def _listed(paths: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in paths[:NAMED])
    return names if len(paths) <= NAMED else f"{names} and {len(paths) - NAMED} more"


def check_sizes(pairs: Sequence[Pair], *, scale: int, least: int) -> None:
    """Check by their headers that all pictures can be measured.

    Args:
        pairs: the pictures.
        scale: HR size over LR size.
        least: HR pixels each way that the measures need.

    Raises:
        InputError: an HR picture is too small, an LR picture does not have the size of HR over the scale, or a file is
            no picture.
    """
    for pair in pairs:
        size = picture_size(pair.hr)
        height, width = (length // scale * scale for length in size)
        if min(height, width) < least:
            raise InputError(
                f"{pair.hr} has {size[1]}x{size[0]} pixels; at least {least} each way are needed to measure it. "
                f"Leave it out, or use a smaller {setting('border')}."
            )
        if pair.lr is None:
            continue
        lr_height, lr_width = picture_size(pair.lr)
        if (lr_height, lr_width) != (height // scale, width // scale):
            raise InputError(
                f"{pair.lr} has {lr_width}x{lr_height} pixels, but a x{scale} LR of {pair.hr} with its "
                f"{size[1]}x{size[0]} has {width // scale}x{height // scale}; nothing is rescaled to fit."
            )


def read_pair(pair: Pair, scale: int) -> tuple[Tensor, Tensor]:
    """Return HR, cropped at right and bottom to a multiple of the scale, and LR: (1, 3, H, W), (1, 3, h, w) uint8.

    Raises:
        InputError: a file cannot be read or is no picture.
    """
    hr = torch.from_numpy(read_picture(pair.hr)).permute(2, 0, 1)[None]
    height, width = (length // scale for length in hr.shape[-2:])
    hr = hr[..., : height * scale, : width * scale].contiguous()
    if pair.lr is None:
        return hr, resize_as_matlab(hr, height, width)
    return hr, torch.from_numpy(read_picture(pair.lr)).permute(2, 0, 1)[None].contiguous()


PICTURES = 32
"""Greatest number of pictures for a calibration, with which the shipped models were measured."""

EDGE = 128
"""Edge in LR pixels of the crop from the middle of a picture."""


def calibrate_file(path: Path, data: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Measure a model's calibration on HR pictures, reduced by its scale as MATLAB does, and write it into its file.

    Args:
        path: the weights file; the rest of it is kept.
        data: a folder of pictures, of which ``PICTURES`` at even distances are used.
        progress: called with the number of finished passes and of all passes: two for each picture.

    Returns:
        How many pictures were used.

    Raises:
        WeightsError: the file is not one of a generator.
        InputError: the folder or a picture cannot be used.
        OutputError: the file cannot be written.
    """
    network = load_generator(path)
    found = find_pictures(data)
    chosen = found[:: -(-len(found) // PICTURES)]
    done = itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(done), 2 * len(chosen))

    pictures = [_lr_of(picture, cast(Network, network).scale) for picture in chosen]
    save_calibration(path, calibrate(network, pictures, tick))
    return len(chosen)


def _lr_of(picture: Path, scale: int) -> Tensor:
    _, lr = read_pair(Pair(picture), scale)
    top, left = (max(0, (length - EDGE) // 2) for length in lr.shape[-2:])
    return lr[..., top : top + EDGE, left : left + EDGE].to(torch.float32) / 255
