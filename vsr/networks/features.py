"""The features of VGG networks, in which the content loss compares pictures.

Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556. Layers have the paper's names: ``conv3_4`` is the fourth
convolution between the second and the third pooling. Two kinds of weights files are taken, told apart by their keys:

- torchvision's (``features.0.weight``): RGB in [0, 1], normalised by ImageNet's mean and standard deviation;
- the original Caffe ones by name (``conv1_1.weight``): BGR in [0, 255], less the mean of each channel.

A file may end at any layer behind the one that is asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from vsr.errors import WeightsError

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions of each stage; a 2x2 max pooling stands between the stages."""

WIDTHS = (64, 128, 256, 512, 512)


class ContentFeatures(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, C, h, w), the features of one layer. Frozen, and always in eval mode.

    Args:
        network: ``vgg19`` or ``vgg16``.
        layer: where to stop, such as ``conv5_4``.
        after_activation: behind the layer's ReLU, as in the paper; False before it, as in ESRGAN.
        weights: the network's parameters by name, in one of the two layouts above.

    Raises:
        ValueError: an unknown network, or a layer that it lacks.
        WeightsError: the weights end before the layer, or have other shapes.
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
        by_name = {name: weights[name] for name in weights if name.startswith("conv")}
        caffe = bool(by_name)
        if not caffe:
            by_name = _from_torchvision(network, weights)
        inputs = 3
        self.convolutions = nn.ModuleDict()
        for name in self._names:
            outputs = WIDTHS[int(name[4]) - 1]
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            try:
                convolution.load_state_dict({kind: by_name[f"{name}.{kind}"] for kind in ("weight", "bias")})
            except (KeyError, RuntimeError) as exc:
                raise WeightsError(f"the weights of {network} lack {name}, or it has another shape: {exc}") from exc
            self.convolutions[name] = convolution
            inputs = outputs
        self.register_buffer("mean", torch.tensor([123.68, 116.779, 103.939] if caffe else [0.485, 0.456, 0.406]))
        self.register_buffer("deviation", torch.tensor([1.0, 1.0, 1.0] if caffe else [0.229, 0.224, 0.225]))
        self._peak = 255.0 if caffe else 1.0
        self._bgr = caffe
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> ContentFeatures:
        """Stays in eval mode, whatever the network around it does."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        mean, deviation = (cast(Tensor, buffer).view(1, 3, 1, 1) for buffer in (self.mean, self.deviation))
        x = (image * self._peak - mean) / deviation
        x = x.flip(1) if self._bgr else x
        last = self._names[-1]
        for name, following in zip(self._names, [*self._names[1:], ""], strict=True):
            x = self.convolutions[name](x)
            if name != last or self.after_activation:
                x = functional.relu(x)
            if following and following[4] != name[4]:
                x = functional.max_pool2d(x, 2)  # (N, C, h, w) -> (N, C, h/2, w/2)
        return x


def layer_names(network: str) -> list[str]:
    """The convolutions of a network in order.

    Raises:
        ValueError: an unknown network.
    """
    if network not in CONVOLUTIONS:
        raise ValueError(f"the content network is one of {', '.join(CONVOLUTIONS)}, got {network!r}")
    stages = enumerate(CONVOLUTIONS[network], start=1)
    return [f"conv{stage}_{number}" for stage, count in stages for number in range(1, count + 1)]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, ``.pth`` or ``.safetensors``; a pickle that wants more than tensors is refused.

    Raises:
        WeightsError: the file is missing, damaged or refused.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as exc:
        raise WeightsError(f"{path} holds no weights that can be read: {exc}") from exc
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds more than named tensors, and is refused.")
    return {name: tensor.float() for name, tensor in state.items()}


def _from_torchvision(network: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``features.N.weight`` -> ``convA_B.weight``: N counts convolutions, activations and poolings."""
    renamed = {}
    index = 0
    for name, following in zip(layer_names(network), [*layer_names(network)[1:], ""], strict=True):
        for kind in ("weight", "bias"):
            key = f"features.{index}.{kind}"
            if key in weights:
                renamed[f"{name}.{kind}"] = weights[key]
        index += 3 if following and following[4] != name[4] else 2
    return renamed
