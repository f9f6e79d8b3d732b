"""The models that there are by name: those that ship, those built in, and files."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import cast

import torch
from torch import nn

import vsr
from vsr.errors import UnknownModelError, UnsupportedError, UsageError, WeightsError
from vsr.networks.resampling import Bicubic, Identity
from vsr.networks.weights import JUDGES, Calibration, Network, WeightsInfo, load_generator, read_info

DEFAULT_MODEL = "video-x4"

BUILT_IN_PURPOSE = {
    "bicubic": "antialiased bicubic interpolation, any scale: the baseline",
    "identity": "returns its input: what decoding, conversion and encoding alone do",
}


def models_folder() -> Path:
    """Where the shipped weights lie: ``vsr/models`` when installed, ``models`` beside the package in a source tree."""
    package = Path(vsr.__file__).parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def shipped_models() -> list[WeightsInfo]:
    """The models of ``models/`` that upscale, by name."""
    found = (read_info(path) for path in sorted(models_folder().glob("*.safetensors")))
    return [info for info in found if info.architecture not in JUDGES]


def find_weights(model: str) -> Path:
    """The file of a shipped model's name, or of a path.

    Raises:
        UnknownModelError: neither a shipped model nor a file.
    """
    shipped = models_folder() / f"{model}.safetensors"
    if os.sep not in model and shipped.is_file():
        return shipped
    with suppress(OSError):  # a name too long for a file is no file
        if Path(model).is_file():
            return Path(model)
    names = [*BUILT_IN_PURPOSE, *(path.stem for path in sorted(models_folder().glob("*.safetensors")))]
    raise UnknownModelError(
        f"there is no model {model!r}: it is neither a file nor one of {', '.join(sorted(names))}. "
        "`vsr models` lists them."
    )


def model_covering(model: str, factor: float | None) -> str:
    """The name of a model by which frames can be made ``factor`` times as large, if need be by reducing its output.

    Args:
        model: as ``load_network`` takes it, or a family such as ``srgan``: of its models the next one above is taken.
        factor: output size over input size; None takes the largest of a family.
    """
    family = sorted((info.scale, info.name) for info in shipped_models() if info.name == f"{model}-x{info.scale}")
    covering = [name for scale, name in family if factor is not None and scale >= factor]
    return covering[0] if covering else family[-1][1] if family else model


def find_partner(model: str) -> Path:
    """The pixel-trained generator from which an adversarial one was trained on: its ``detail`` is blended between both.

    A shipped file names its partner; beside the weights of a run lies what ``vsr train`` kept of its first stage.

    Raises:
        UsageError: there is none.
    """
    path = find_weights(model)
    if partner := read_info(path).about.get("pair"):
        return find_weights(partner)
    kept = path.with_name("pretrain.safetensors")
    if kept.is_file() and kept != path:
        return kept
    raise UsageError(f"model {model!r} has one amount of detail: there is no pixel-trained partner to blend it with.")


def is_adversarial(model: str, detail: float = 1) -> bool:
    """Whether a model was trained against a discriminator last, and texture is wanted of it.

    Args:
        model: as in ``load_network``.
        detail: of it.
    """
    if model in BUILT_IN_PURPOSE or detail == 0:
        return False
    about = read_info(find_weights(model)).about
    try:
        stage = json.loads(about.get("training", "{}")).get("stage")
    except (ValueError, AttributeError, RecursionError):  # free text
        stage = None
    return stage == "adversarial" or "pair" in about


def blend(network: nn.Module, partner: nn.Module, detail: float) -> None:
    """Interpolate weights in place: ``detail`` of the own, the rest of the partner's (Wang et al. 2018, ESRGAN).

    Raises:
        WeightsError: the two are not of one architecture.
    """
    own, other = network.state_dict(), partner.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in other.items()}:
        raise WeightsError("two generators of different architectures cannot be blended.")
    network.load_state_dict(
        {
            name: torch.lerp(other[name], tensor, detail) if tensor.is_floating_point() else tensor
            for name, tensor in own.items()
        }
    )


def load_network(model: str | os.PathLike[str], *, scale: float | None = None, detail: float = 1) -> nn.Module:
    """Build a network and load its weights, in eval mode, in float32 on the CPU.

    Args:
        model: a built-in or shipped model's name, or the path of a weights file.
        scale: what the network has to scale by; None takes the model's own.
        detail: how much of an adversarial model's texture, from 0 (that of its pixel-trained partner) to 1.

    Raises:
        UnknownModelError: no such model.
        UsageError: the model has another scale, or no partner for a detail below 1.
        WeightsError: the file is damaged or of another kind.
    """
    model = os.fspath(model)
    if model == "bicubic":
        if detail != 1:
            raise UsageError("model 'bicubic' has no detail to choose.")
        return Bicubic(scale=4 if scale is None else scale).eval()
    network = Identity() if model == "identity" else load_generator(find_weights(model))
    own_scale = cast(Network, network).scale
    if scale is not None and scale != own_scale:
        others = [info.name for info in shipped_models() if info.scale == scale]
        hint = f"Models for x{scale:g}: {', '.join([*others, 'bicubic'])}."
        raise UsageError(f"model {model!r} upscales by {own_scale}, not by {scale:g}. {hint}")
    if detail != 1:
        if model == "identity":
            raise UsageError("model 'identity' has no detail to choose.")
        blend(network, load_generator(find_partner(model)), detail)
    return network.eval()


def load_calibration(model: str | os.PathLike[str], detail: float = 1) -> Calibration | None:
    """What int8 has to know of a model, as its file says; None where it does not.

    Args:
        model: as in ``load_network``.
        detail: of a blend with its partner, the ranges of both together; what 8 bits shift it by is not known.

    Raises:
        UnsupportedError: the partner of a calibrated model is not calibrated.
    """
    model = os.fspath(model)
    if model in BUILT_IN_PURPOSE:
        return None
    own = read_info(find_weights(model)).calibration
    if detail == 1 or own is None:
        return own
    partner = find_partner(model)
    other = read_info(partner).calibration
    if other is None or other.ranges.keys() != own.ranges.keys():
        raise UnsupportedError(
            f"int8 with a detail below 1 needs a calibration of the partner too: `vsr models calibrate {partner}`."
        )
    if detail == 0:
        return other
    pairs = {name: (own.ranges[name], other.ranges[name]) for name in own.ranges}
    return Calibration({name: (min(a[0], b[0]), max(a[1], b[1])) for name, (a, b) in pairs.items()})
