"""HR pictures of a folder, and which LR picture belongs to which."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vsr.errors import InputError
from vsr.imaging.resize import resize_as_matlab
from vsr.media.images import ENDINGS, picture_size, read_picture

NAMED = 5
"""How many files an error lists."""


@dataclass(frozen=True)
class Pair:
    """One picture to measure on.

    Attributes:
        hr: its file.
        lr: the file of its LR picture; None: LR is made of HR.
    """

    hr: Path
    lr: Path | None = None


def find_pictures(folder: Path) -> list[Path]:
    """The picture files of a folder by name; folders in it and hidden files are not looked at.

    Raises:
        InputError: the folder is missing, cannot be read, or holds no picture.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file; pictures to measure on are given as a folder.")
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError as exc:
        raise InputError(f"cannot read the folder {folder}: {exc.strerror}.") from exc
    found = [path for path in files if path.suffix.lower() in ENDINGS]
    if not found:
        raise InputError(f"no pictures in {folder}; those with the endings {', '.join(sorted(ENDINGS))} are taken.")
    return found


def find_pairs(hr_folder: Path, lr_folder: Path | None, scale: int) -> list[Pair]:
    """Pair the pictures of two folders by name, apart from the endings.

    An LR picture bears the name of its HR picture, alone or with what marks it: ``baby``, ``babyx4``, ``baby_LRx4``,
    ``baby_LR``, ``baby-4x``; an HR picture may end in ``_HR`` or ``_GT``, which counts for nothing.

    Args:
        hr_folder: HR pictures.
        lr_folder: LR pictures, of which none may be left over; None: they are made.
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
    """See by the headers that all pictures can be measured, before any work.

    Args:
        pairs: the pictures.
        scale: HR size over LR size.
        least: HR pixels each way that the measures need.

    Raises:
        InputError: an HR picture is too small, an LR picture has another size than the scale wants, or a file is no
            picture.
    """
    for pair in pairs:
        size = picture_size(pair.hr)
        height, width = (length // scale * scale for length in size)
        if min(height, width) < least:
            raise InputError(
                f"{pair.hr} has {size[1]}x{size[0]} pixels; at least {least} each way are needed to measure it. "
                "Leave it out, or take a smaller --border."
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
    """HR, cropped to a multiple of the scale at its right and lower edge, and LR: (1, 3, H, W) and (1, 3, h, w) uint8.

    Raises:
        InputError: a file cannot be read or is no picture.
    """
    hr = torch.from_numpy(read_picture(pair.hr)).permute(2, 0, 1)[None]
    height, width = (length // scale for length in hr.shape[-2:])
    hr = hr[..., : height * scale, : width * scale].contiguous()
    if pair.lr is None:
        return hr, resize_as_matlab(hr, height, width)
    return hr, torch.from_numpy(read_picture(pair.lr)).permute(2, 0, 1)[None].contiguous()
