"""Weights files, and models by name.

A weights file is a safetensors file whose metadata holds the architecture and the keywords that build it, so that a
network can be built from the file alone. Matrices are stored in half precision, vectors (biases, norms) in single.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from vsr.errors import (
    UnknownModelError,
    UnsupportedError,
    UsageError,
    WeightsError,
    did_you_mean,
    is_out_of_memory,
    shortened,
)
from vsr.files import GENERATOR_FILE, models_folder, write_whole
from vsr.networks import BUILT_IN_DESCRIPTIONS, model_names
from vsr.networks.discriminator import Discriminator
from vsr.networks.generator import Bicubic, Generator, Identity
from vsr.networks.recurrent import RecurrentGenerator

logger = logging.getLogger(__name__)

FORMAT = "vsr-weights-1"


class Network(Protocol):
    """The interface of a super-resolution network, besides ``nn.Module``."""

    scale: Any
    """Output size over input size."""
    wants_unit_range: bool
    """Whether the input has to be clipped to [0, 1]."""

    @property
    def config(self) -> dict[str, Any]:
        """The keywords that build this network again."""

    @property
    def peak_floats_per_pixel(self) -> int:
        """An estimate of the floats in memory at once per LR pixel, for the sizes of tiles and batches."""

    def __call__(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) RGB -> (N, 3, scale*H, scale*W)."""


ARCHITECTURES: dict[str, type[nn.Module]] = {"srgan": Generator, "recurrent": RecurrentGenerator}
"""Networks that upscale; the recurrent one implements ``Network`` except for its call."""

DISCRIMINATORS: dict[str, type[nn.Module]] = {"discriminator": Discriminator}
"""Networks for training only."""


@dataclass(frozen=True)
class Calibration:
    """Measurements of a network on pictures that int8 needs (see ``vsr.inference.openvino_backend``).

    Attributes:
        ranges: least and greatest input of each convolution, by its name in the rewritten network.
        shift: error of 8 bits in the mean of red, green and blue, measured after clipping to [0, 1].
    """

    ranges: Mapping[str, tuple[float, float]]
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class WeightsInfo:
    """The metadata of a weights file.

    Attributes:
        path: the file.
        architecture: a key of ``ARCHITECTURES`` or ``DISCRIMINATORS``.
        config: keywords of the architecture; for networks that upscale they include the scale.
        about: free text by key: purpose, recipe, licence, data, training.
        calibration: for int8; None: not calibrated.
    """

    path: Path
    architecture: str
    config: dict[str, Any]
    about: dict[str, str] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def scale(self) -> int:
        """Output size over input size."""
        return int(self.config["scale"])


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration into a weights file without changing its tensors.

    Raises:
        WeightsError: not a weights file of vsr.
        OutputError: the file cannot be written.
    """
    read_info(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    ranges = {name: [_rounded(limit) for limit in pair] for name, pair in calibration.ranges.items()}
    text = json.dumps({"ranges": ranges, "shift": [_rounded(value) for value in calibration.shift]})
    write_whole(path, save(load(path.read_bytes()), metadata | {"calibration": text}))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def load_generator(path: Path) -> nn.Module:
    """Load the weights file of a network that upscales, in eval mode, in float32 on the CPU.

    Raises:
        WeightsError: the file is damaged or of another kind.
    """
    return _load_file(path, ARCHITECTURES).eval()


def load_discriminator(path: Path, network: Discriminator | None = None) -> Discriminator:
    """Load a discriminator's weights file, in float32.

    Args:
        path: the file.
        network: gets the weights of the body, and of the head if kind and crop size are equal; None: a network is
            built from the file, on the CPU.

    Returns:
        The network.

    Raises:
        WeightsError: the file is missing or damaged, or has another network or number of channels.
    """
    loaded = cast(Discriminator, _load_file(path, DISCRIMINATORS))
    if network is None:
        return loaded
    left = load_shared(network, loaded.state_dict())
    if left:
        logger.warning("%s has another crop size or head: %s keep their initial weights", path, ", ".join(left))
    return network


@torch.no_grad()
def load_shared(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Initialise a network from the weights of another, in layers whose names and shapes agree (x2 from x4, say).

    The whole body has to agree; layers in the network's ``replaceable`` may keep their weights. Only names and shapes
    are compared, not whether both networks end in tanh or normalise equally.

    Args:
        network: gets the weights, in place.
        state: the other network's parameters and buffers by name.

    Returns:
        The names, of either network, that were not copied.

    Raises:
        WeightsError: the bodies differ; the network is not changed.
    """
    own = network.state_dict()
    names = {**own, **state}
    # Layers are copied as a whole: a bias without its weights would be worse than none.
    shared = {name for name in names if name in own and name in state and own[name].shape == state[name].shape}
    mismatched = {name.rpartition(".")[0] for name in names if name not in shared}
    left = [name for name in names if name.rpartition(".")[0] in mismatched]
    replaceable: tuple[str, ...] = getattr(network, "replaceable", ())
    unexpected = [name for name in left if not name.startswith(replaceable)]
    if unexpected:
        raise WeightsError(
            f"the weights to start from are of another network: {len(unexpected)} tensors differ, {unexpected[0]} to "
            "begin with; the numbers of blocks and channels must agree."
        )
    network.load_state_dict({name: state[name] for name in names if name not in left}, strict=False)
    return left


def save_network(path: Path, network: nn.Module, about: Mapping[str, str]) -> None:
    """Write the weights file of a network that upscales; it is written to a temporary name first.

    Args:
        path: the target, ``*.safetensors``.
        network: one of ``ARCHITECTURES``.
        about: texts for the metadata: purpose, recipe, licence, data, training.

    Raises:
        ValueError: it is another kind of network.
        OutputError: the file cannot be written.
    """
    _save(path, network, about, ARCHITECTURES)


def save_discriminator(path: Path, network: nn.Module, about: Mapping[str, str]) -> None:
    """Write a discriminator's weights file, as ``save_network``."""
    _save(path, network, about, DISCRIMINATORS)


def _save(path: Path, network: nn.Module, about: Mapping[str, str], known: Mapping[str, type[nn.Module]]) -> None:
    architecture = next((name for name, kind in known.items() if type(network) is kind), None)
    if architecture is None:
        raise ValueError(f"can only save weights of {', '.join(known)}, not of a {type(network).__name__}")
    metadata = {
        "format": FORMAT,
        "architecture": architecture,
        "config": json.dumps(cast(Network, network).config, sort_keys=True),
        **about,
    }
    tensors = {name: _to_stored_type(tensor) for name, tensor in network.state_dict().items()}
    write_whole(path, save(tensors, metadata))  # not save_file, which makes files that only their owner can read


def _to_stored_type(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.dim() > 1 else tensor


def read_info(path: Path) -> WeightsInfo:
    """Read the metadata of a weights file, without its tensors.

    Raises:
        WeightsError: not a weights file of vsr.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as exc:
        raise WeightsError(f"{path} is not a weights file: vsr reads .safetensors written by `vsr train`.") from exc
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path} holds no weights of vsr: its metadata do not say {FORMAT!r}.")
    own = ("format", "architecture", "config", "calibration")
    about = {key: text for key, text in metadata.items() if key not in own}
    try:
        calibration = _calibration(path, metadata["calibration"]) if "calibration" in metadata else None
        return WeightsInfo(path, metadata["architecture"], json.loads(metadata["config"]), about, calibration)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise WeightsError(f"{path} does not say how its network is built: the metadata are damaged.") from exc


def _calibration(path: Path, text: str) -> Calibration | None:
    try:
        values = json.loads(text)
        red, green, blue = map(float, values["shift"])
        ranges = {name: (float(least), float(greatest)) for name, (least, greatest) in values["ranges"].items()}
        if not all(map(math.isfinite, (red, green, blue, *chain(*ranges.values())))):
            raise ValueError("a value is not finite")
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        logger.warning("%s: its calibration cannot be read; `vsr models calibrate` writes another.", path)
        return None
    return Calibration(ranges, (red, green, blue))


def _load_file(path: Path, architectures: Mapping[str, type[nn.Module]]) -> nn.Module:
    info = read_info(path)
    if info.architecture in DISCRIMINATORS and architectures is ARCHITECTURES:
        raise WeightsError(
            f"{path} is a {info.architecture}, which judges pictures in training and upscales none; "
            f"give the generator, which `vsr train` writes beside it: {path.with_name(GENERATOR_FILE)}."
        )
    if info.architecture in ARCHITECTURES and architectures is DISCRIMINATORS:
        raise WeightsError(
            f"{path} is a generator ({info.architecture}); a {', '.join(DISCRIMINATORS)} is needed here."
        )
    if info.architecture not in architectures:
        known = ", ".join(architectures)
        other = shortened(info.architecture)
        raise WeightsError(f"{path} is for an architecture '{other}' that this vsr lacks; it has {known}.")
    kind = architectures[info.architecture]
    try:
        _check_config(kind, info.config)
        with safe_open(path, framework="pt") as file:
            _check_shapes(kind, info.config, file)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        network = kind(**info.config)
        network.load_state_dict(state)
    except (SafetensorError, TypeError, ValueError, ArithmeticError, RuntimeError) as exc:
        if is_out_of_memory(exc):
            raise
        why = shortened("".join(str(exc).splitlines()[:1]), 200)
        raise WeightsError(f"{path} does not fit the network that it describes: {why}") from exc
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values() if tensor.is_floating_point()):
        raise WeightsError(f"{path} holds weights that are not finite; the training that wrote it has diverged.")
    return network


def _check_config(kind: type[nn.Module], config: Any) -> None:
    """Check that a configuration consists of keywords of a network, each with a value of its type.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(config, dict):
        raise ValueError("its configuration has no names")
    hints = get_type_hints(kind.__init__)
    for name, value in config.items():
        if name not in hints or not _matches_type(value, hints[name]):
            raise ValueError(f"its {shortened(str(name))} cannot be {shortened(str(value))}")


def _matches_type(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in (int, float) and abs(cast(float, value)) < math.inf
    return any(_matches_type(value, one) for one in get_args(hint)) if get_args(hint) else type(value) is hint


def _check_shapes(kind: type[nn.Module], config: Mapping[str, Any], file: Any) -> None:
    """Compare the tensors of a file with those of a network, before memory is allocated for either.

    Raises:
        ValueError: they differ.
    """
    with torch.device("meta"):
        needed = kind(**config).state_dict()
    names = file.keys()
    if needed.keys() != set(names):
        lacking = [name for name in needed if name not in names]
        raise ValueError(f"it lacks {lacking[0]}" if lacking else f"it holds {len(names)} tensors, not {len(needed)}")
    for name, tensor in needed.items():
        held = file.get_slice(name)
        shape = tuple(held.get_shape())
        if shape != tuple(tensor.shape):
            raise ValueError(f"{name} is {_format_shape(shape)} and has to be {_format_shape(tensor.shape)}")
        if ("F" in held.get_dtype()) != tensor.is_floating_point():
            raise ValueError(f"{name} holds numbers of the type {held.get_dtype()}")


def _format_shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"


DEFAULT_MODEL = "video-x4"


def shipped_models() -> list[WeightsInfo]:
    """Return the shipped models that upscale, by name."""
    found = (read_info(path) for path in sorted(models_folder().glob("*.safetensors")))
    return [info for info in found if info.architecture not in DISCRIMINATORS]


def find_weights(model: str) -> Path:
    """Return the weights file of a shipped model, a family, a run of ``vsr train``, or a path.

    Args:
        model: the name of a shipped model or of a family, of which the largest scale is used; a weights file; or the
            folder of a run, whose generator is used.

    Raises:
        UnknownModelError: there is no such model or file.
    """
    families, names = model_names()
    if os.sep not in model:
        family = [name for name in names if re.fullmatch(rf"{re.escape(model)}-x\d+", name)]
        if model in names or family:
            return models_folder() / f"{model if model in names else family[-1]}.safetensors"
    with suppress(OSError):  # a name too long for a file is no file
        if Path(model).is_file():
            return Path(model)
        if (run := Path(model) / GENERATOR_FILE).is_file():
            return run
        if model and Path(model).is_dir():
            raise UnknownModelError(f"the folder {model} holds no {GENERATOR_FILE}, so it is not a run of `vsr train`.")
    raise UnknownModelError(
        f"there is no model {model!r}: it is neither a file nor one of {', '.join(families)}"
        f"{did_you_mean(model, [*families, *names])} `vsr models` lists them."
    )


def model_covering(model: str, factor: float | None) -> str:
    """Return the name of a model that reaches a factor; its output may have to be reduced.

    Args:
        model: as in ``load_network``, or a family such as ``srgan``, of which the smallest sufficient model is used.
        factor: output size over input size; None: the largest model of a family.
    """
    family = sorted((info.scale, info.name) for info in shipped_models() if info.name == f"{model}-x{info.scale}")
    covering = [name for scale, name in family if factor is not None and scale >= factor]
    return covering[0] if covering else family[-1][1] if family else model


def scale_of(model: str, factor: float | None = None) -> float:
    """Return the scale of a model, or of the member of a family that covers a factor.

    Raises:
        UnknownModelError: there is no such model.
        WeightsError: the file is damaged or of another kind.
    """
    built_in = {"bicubic": 4.0 if factor is None else factor, "identity": 1.0}
    return built_in[model] if model in built_in else read_info(find_weights(model_covering(model, factor))).scale


def find_partner(model: str) -> Path:
    """Return the pixel-trained generator from which adversarial training started; ``detail`` blends the two.

    A shipped file names its partner; ``vsr train`` keeps that of a run beside its weights.

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
    """Whether a model's last training was adversarial, and ``detail`` keeps some of its texture.

    Args:
        model: as in ``load_network``.
        detail: as in ``load_network``.
    """
    if model in BUILT_IN_DESCRIPTIONS or detail == 0:
        return False
    about = read_info(find_weights(model)).about
    try:
        stage = json.loads(about.get("training", "{}")).get("stage")
    except (ValueError, AttributeError, RecursionError):  # free text
        stage = None
    return stage == "adversarial" or "pair" in about


def blend(network: nn.Module, partner: nn.Module, detail: float) -> None:
    """Interpolate weights in place: ``detail`` of the own, the rest of the partner's (ESRGAN, Wang et al. 2018).

    Raises:
        WeightsError: the architectures differ.
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
        model: a built-in or shipped model's name, a family such as ``video``, a weights file, or the folder of a run.
        scale: the required scale; None: the model's own, of a family the largest.
        detail: amount of texture of an adversarial model, from 0 (that of its pixel-trained partner) to 1.

    Raises:
        UnknownModelError: no such model.
        UsageError: the model has another scale, or no partner for a detail below 1.
        WeightsError: the file is damaged or of another kind.
    """
    model = model_covering(os.fspath(model), scale)
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
    """Return the calibration in a model's file; None if there is none.

    Args:
        model: as in ``load_network``.
        detail: as in ``load_network``. A blend gets the ranges of both models together, and no shift.

    Raises:
        UnsupportedError: the partner of a calibrated model is not calibrated.
    """
    model = os.fspath(model)
    if model in BUILT_IN_DESCRIPTIONS:
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
