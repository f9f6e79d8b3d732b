"""VGG features for the content loss, and reading weights that were published by others.

Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556. Layers have the paper's names: ``conv3_4`` is the fourth
convolution between the second and the third pooling. Three layouts of weights are accepted, recognised by their keys:

- torchvision's (``features.0.weight``): RGB in [0, 1], normalised by ImageNet's mean and standard deviation;
- the original Caffe one (``conv1_1.weight``): BGR in [0, 255], less the mean of each channel;
- the slim VGG19 of "Collaborative Distillation" (``conv0.weight``, ``conv11.weight``; Wang et al. 2020,
  https://arxiv.org/abs/2003.08436): RGB in [0, 1] through a 1x1 convolution, padding by reflection.

The weights may end at any layer after the requested one.

The paper of SRGAN (section 2.2.1) divides VGG's features by 12.75, which leaves 0.006 of their squared error, to bring
it to the scale of the pixels' error. This fits Caffe's input, so only Caffe's features are divided: with them a content
loss of weight 1 is the paper's. Features of the other layouts are smaller and not divided, and implementations on
torchvision's give them a weight of 1. The scale still differs by layer: over bicubic x4 of Set5 the squared error is
about 160 at Caffe's conv2_2 and 1600 at its conv3_4, after the division, and 7 and 2 there in the slim network.

``ContentFeatures`` is the network, ``find_content_weights`` and ``find_pretrained`` find published weights, and
``read_weights`` reads their files.
"""

from __future__ import annotations

import logging
import pickle
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, cast
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from vsr.errors import WeightsError, setting, shortened

logger = logging.getLogger(__name__)

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Number of convolutions of each stage; a 2x2 max pooling is between the stages."""

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of each stage."""

DAMAGE = (
    *(SafetensorError, pickle.UnpicklingError, struct.error, EOFError, RuntimeError, ValueError),
    *(LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, BadZipFile),
)
"""Exceptions that reading a damaged file was seen to raise: flipped bits turn a pickle into any other program."""


@dataclass(frozen=True)
class Layout:
    """The conventions of a kind of weights. The input is ``(image * peak - mean) / deviation``."""

    peak: float = 1.0
    """Value of white."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Means of red, green and blue."""
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Standard deviations of red, green and blue."""
    bgr: bool = False
    """Whether blue is the first channel."""
    padding: Literal["zeros", "reflect"] = "zeros"
    """Padding of the convolutions."""
    widths: tuple[int, ...] = WIDTHS
    """Channels of each stage."""
    divisor: float = 1.0
    """Divisor of the features."""


TORCHVISION = Layout(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
CAFFE = Layout(peak=255.0, mean=(123.68, 116.779, 103.939), bgr=True, divisor=12.75)
SLIM = Layout(padding="reflect", widths=(16, 32, 64, 128, 128))


class ContentFeatures(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, C, h, w), the features of one layer. Frozen, and always in eval mode.

    Args:
        network: ``vgg19`` or ``vgg16``.
        layer: the last layer, such as ``conv5_4``.
        after_activation: features after the layer's ReLU, as in the paper; False: before it, as in ESRGAN.
        weights: the network's parameters by name, in one of the layouts above.

    Raises:
        ValueError: an unknown network, or a layer that it lacks.
        WeightsError: the weights end before the layer, belong to another network, or have other shapes.
    """

    def __init__(
        self, network: str, layer: str, weights: Mapping[str, Tensor], *, after_activation: bool = True
    ) -> None:
        super().__init__()
        names = layer_names(network)
        if layer not in names:
            raise ValueError(f"{network} has no layer {layer!r}; it has {', '.join(names)}")
        self.after_activation = after_activation
        self._names = names[: names.index(layer) + 1]
        self._layout, by_name = _by_layer(network, weights)
        _check_layers(network, self._names, by_name)
        inputs = 3
        self.convolutions = nn.ModuleDict()
        for name in self._names:
            outputs = self._layout.widths[int(name[4]) - 1]
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=self._layout.padding)
            try:
                convolution.load_state_dict({kind: by_name[f"{name}.{kind}"] for kind in ("weight", "bias")})
            except RuntimeError as exc:
                raise WeightsError(f"{name} of the weights has another shape than {network}'s.") from exc
            self.convolutions[name] = convolution
            inputs = outputs
        self.register_buffer("mean", torch.tensor(self._layout.mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(self._layout.deviation).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> ContentFeatures:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        x = (image * self._layout.peak - cast(Tensor, self.mean)) / cast(Tensor, self.deviation)
        x = x.flip(1) if self._layout.bgr else x
        last = self._names[-1]
        for name, following in zip(self._names, [*self._names[1:], ""], strict=True):
            x = self.convolutions[name](x)
            if name != last or self.after_activation:
                x = functional.relu(x)
            if following and following[4] != name[4]:
                x = functional.max_pool2d(x, 2)  # (N, C, h, w) -> (N, C, h/2, w/2)
        return x / self._layout.divisor


def layer_names(network: str) -> list[str]:
    """Return the names of a network's convolutions in order.

    Raises:
        ValueError: an unknown network.
    """
    if network not in CONVOLUTIONS:
        raise ValueError(f"the content network is one of {', '.join(CONVOLUTIONS)}, got {network!r}")
    stages = enumerate(CONVOLUTIONS[network], start=1)
    return [f"conv{stage}_{number}" for stage, count in stages for number in range(1, count + 1)]


def _by_layer(network: str, weights: Mapping[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    """Return the layout of weights, and the weights by the layers' names; others keep their names."""
    if any(name.startswith("features.") for name in weights):
        return TORCHVISION, _from_torchvision(network, weights)
    if "conv0.weight" in weights:
        return SLIM, _from_slim(weights)
    return CAFFE, {name: weights[name] for name in weights if name.startswith("conv")}


def _from_torchvision(network: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``features.N.weight`` to ``convA_B.weight``: N counts convolutions, activations and poolings."""
    layers = {}
    index = 0
    names = layer_names(network)
    for name, following in zip(names, [*names[1:], ""], strict=True):
        layers[f"features.{index}"] = name
        index += 3 if following and following[4] != name[4] else 2
    renamed = {}
    for key in weights:
        layer, _, kind = key.rpartition(".")
        if layer.startswith("features."):
            renamed[f"{layers.get(layer, layer)}.{kind}"] = weights[key]
    return renamed


def _from_slim(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``conv11.weight`` to ``conv1_1.weight``, and fold the 1x1 ``conv0`` before it into it, which is exact."""
    renamed = {f"{name[:5]}_{name[5:]}": weights[name] for name in weights if not name.startswith("conv0.")}
    try:
        first, colours, offset = renamed["conv1_1.weight"], weights["conv0.weight"], weights["conv0.bias"]
        renamed["conv1_1.weight"] = torch.einsum("oihw,ij->ojhw", first, colours[:, :, 0, 0])
        renamed["conv1_1.bias"] = renamed["conv1_1.bias"] + torch.einsum("oihw,i->o", first, offset)
    except (KeyError, IndexError, RuntimeError) as exc:
        raise WeightsError("the first layers of the slim VGG19 are not whole.") from exc
    return renamed


def _check_layers(network: str, names: list[str], by_name: Mapping[str, Tensor]) -> None:
    known = {f"{name}.{kind}" for name in layer_names(network) for kind in ("weight", "bias")}
    unexpected = [name for name in by_name if name not in known]
    if unexpected:
        other = shortened(unexpected[0])
        raise WeightsError(f"the weights hold {other}, which {network} lacks: they are of another network.")
    whole = [{f"{name}.weight", f"{name}.bias"} <= by_name.keys() for name in names]
    if not all(whole):
        held = names[: whole.index(False)]
        if not held:
            raise WeightsError(f"these are no weights of {network}: conv1_1, its first layer, is not among them.")
        raise WeightsError(
            f"the weights of {network} end at {held[-1]}, before {names[-1]}: use a layer up to {held[-1]} "
            f"with {setting('adversarial_content_layer')} (or {setting('pretrain_')}), or a file with more layers with "
            f"{setting('content_weights')}."
        )


def find_content_weights(network: str, path: Path | None) -> dict[str, Tensor]:
    """Return the weights of a content network: from a file, or torchvision's for ImageNet, downloaded on first use.

    Args:
        network: ``vgg19`` (548 MiB to download) or ``vgg16`` (528 MiB).
        path: a file in any of the layouts above; None: torchvision's.

    Raises:
        ValueError: an unknown network.
        WeightsError: the file is missing or damaged, or the download fails.
    """
    layer_names(network)
    from torchvision.models import VGG16_Weights, VGG19_Weights  # type: ignore[import-untyped]

    published = {"vgg16": VGG16_Weights, "vgg19": VGG19_Weights}[network].IMAGENET1K_V1
    size = {"vgg16": 528, "vgg19": 548}[network]
    return find_pretrained(f"{network.upper()}'s weights", published.url, path, "content_weights", mebibytes=size)


def find_pretrained(what: str, url: str, path: Path | None, option: str, *, mebibytes: float) -> dict[str, Tensor]:
    """Return weights by name: from a file, or from torch.hub's cache, downloaded on first use.

    A warning announces a download, with its size and both ends.

    Args:
        what: a description of the weights, for messages.
        url: where they are published, under a name that ends in the start of their SHA-256: ``vgg19-dcbb9e9d.pth``.
        path: the file; None: the cache.
        option: the option for a file, for messages.
        mebibytes: size of the download.

    Raises:
        WeightsError: the file is missing or damaged, or the download fails.
    """
    if path is not None:
        return read_weights(path)
    name = url.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not cached.exists():
        # A warning, as it must be seen without -v, before a slow or metered connection is used.
        logger.warning("downloading %s, %g MiB, from %s to %s.", what, mebibytes, url, cached)
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            # Not load_state_dict_from_url, which prints on stdout.
            digest = Path(name).stem.rpartition("-")[2]
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=digest, progress=False)
        except (OSError, HTTPException, RuntimeError) as exc:  # RuntimeError: the digest differs
            raise WeightsError(
                f"cannot download {what} from {url} ({getattr(exc, 'reason', None) or exc}): "
                f"put the file at {cached}, or give a file with {setting(option)}."
            ) from exc
    return read_weights(cached)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, ``.pth`` or ``.safetensors``, in float32, on the CPU.

    Raises:
        WeightsError: the file is missing or damaged, or a pickle with more than tensors.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else load_pickled(path)
    except OSError as exc:
        raise WeightsError(f"cannot read the weights {path}: {exc.strerror or exc}.") from exc
    except DAMAGE as exc:
        raise WeightsError(f"{path} holds no weights that can be read: it is damaged, or not only tensors.") from exc
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds more than named tensors, and is refused.")
    for name, tensor in state.items():
        if not _is_stored(tensor) or not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path} is damaged: {shortened(name)} in it is not made of finite numbers.")
    return {name: tensor.float() for name, tensor in state.items()}


def load_pickled(path: Path) -> Any:
    """Load what ``torch.save`` has written, on the CPU. No code in it is run, and it uses no more memory than the file.

    Raises:
        OSError: the file cannot be read.
        Exception: any of ``DAMAGE``, or others if the file is damaged.
    """
    if is_zipfile(path):
        with ZipFile(path) as archive:
            members = archive.infolist()
        packed = any(member.compress_type != ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("larger than the file")
    with warnings.catch_warnings():  # a user can do nothing about torch's warnings of foreign pickles
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_stored(tensor: Tensor) -> bool:
    """Whether a tensor is dense and its storage holds as many values as its shape needs."""
    plain = tensor.layout == torch.strided and not tensor.is_complex() and not tensor.is_quantized
    return plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
