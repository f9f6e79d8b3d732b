"""What models score on pictures, and the table of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import vsr
from vsr.evaluation.options import ImageEvalOptions
from vsr.evaluation.report import Column, Table, Value

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class PictureScore:
    """One model on one picture.

    Attributes:
        name: of the HR file.
        psnr: in dB; infinite for equal pictures.
        ssim: at most 1.
        lpips: 0 for equal pictures; None where it was not measured.
        seconds: of upscaling, by the wall clock.
        memory_bytes: that upscaling took, see ``ImageReport.memory_measure``; None where the system does not tell.
    """

    name: str
    psnr: float
    ssim: float
    lpips: float | None
    seconds: float
    memory_bytes: int | None


@dataclass(frozen=True)
class ModelScore:
    """One model on one folder. Means are over the pictures, each of which counts the same, as papers have it.

    Attributes:
        data: the folder of HR pictures.
        lr: the folder of LR pictures; None: they were made.
        model: as it was named.
        pictures: in the order of their names.
        fid: of the whole folder; None where it was not measured.
    """

    data: Path
    lr: Path | None
    model: str
    pictures: tuple[PictureScore, ...]
    fid: float | None

    @property
    def psnr(self) -> float:
        """Mean, in dB."""
        return fmean(picture.psnr for picture in self.pictures)

    @property
    def ssim(self) -> float:
        """Mean."""
        return fmean(picture.ssim for picture in self.pictures)

    @property
    def lpips(self) -> float | None:
        """Mean; None where it was not measured."""
        values = [picture.lpips for picture in self.pictures if picture.lpips is not None]
        return fmean(values) if values else None

    @property
    def seconds(self) -> float:
        """Mean time of upscaling a picture."""
        return fmean(picture.seconds for picture in self.pictures)

    @property
    def memory_bytes(self) -> int | None:
        """The most over the pictures."""
        return max((each.memory_bytes for each in self.pictures if each.memory_bytes is not None), default=None)


@dataclass(frozen=True)
class ImageReport:
    """All that ``vsr eval`` measured on pictures.

    Attributes:
        options: what was asked for.
        scale: HR size over LR size.
        border: HR pixels that PSNR and SSIM left out at each side.
        device: that the models ran on, in words.
        arithmetic: of each model: its precision, and what ran it.
        fid_features: whose features FID compares; empty where it was not measured.
        memory_measure: what is measured as memory.
        scores: folder by folder, and in each model by model.
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
    """The scores as a table: a block for each folder, in it a row for each model.

    Args:
        report: the scores.
        per_picture: a block for each picture too, before the one of the means.
    """
    options, colour = report.options, report.options.colour.upper()
    measured = [
        Column(f"PSNR-{colour}", "dB", 2, "higher"),
        Column(f"SSIM-{colour}", "", 4, "higher"),
        *([Column("LPIPS", "", 4, "lower")] if options.lpips else []),
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
    """The folders' names, and their paths where two different ones have the same name."""
    by_name: dict[str, set[Path]] = {}
    for folder in folders:
        by_name.setdefault(folder.resolve().name, set()).add(folder)
    return [name if len(by_name[name := folder.resolve().name]) == 1 else str(folder) for folder in folders]


def _about(report: ImageReport) -> dict[str, object]:
    options = report.options
    space = "MATLAB's Y (BT.601, 16..235)" if options.colour == "y" else "red, green and blue"
    lr = "made of HR as MATLAB's imresize does it: bicubic, antialiased, 8 bits"
    given = {str(score.data): str(score.lr) for score in report.scores if score.lr is not None}
    about: dict[str, object] = {
        "scale": report.scale,
        "PSNR and SSIM": f"on {space}, 8-bit results, a border of {report.border} pixels left out",
    }
    if options.lpips:
        about["LPIPS"] = "version 0.1 on SqueezeNet, over RGB, whole pictures"
    if report.fid_features:
        about["FID"] = f"features of {report.fid_features}, whole pictures; compares only at equal numbers of pictures"
    return about | {
        "LR": given or lr,
        "device": report.device,
        "arithmetic": ", ".join(f"{model} in {words}" for model, words in report.arithmetic.items()),
        "seconds": "mean time of upscaling a picture, from and to main memory",
        "memory": report.memory_measure,
        "vsr": vsr.__version__,
    }
