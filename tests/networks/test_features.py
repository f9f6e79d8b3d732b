"""VGG features: the right layers of the right networks, with the right preprocessing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from vsr.errors import WeightsError
from vsr.media.images import read_picture
from vsr.networks.features import WIDTHS, ContentFeatures, layer_names, read_weights


def named_weights(network: str, last: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by the layers' names, scaled so that features neither vanish nor explode."""
    random = torch.Generator().manual_seed(seed)
    weights, inputs = {}, 3
    for name in layer_names(network)[: layer_names(network).index(last) + 1]:
        outputs = WIDTHS[int(name[4]) - 1]
        spread = (2 / (9 * inputs)) ** 0.5
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=random) * spread
        weights[f"{name}.bias"] = torch.randn(outputs, generator=random) * 0.1
        inputs = outputs
    return weights


def test_layers_have_the_papers_names() -> None:
    assert layer_names("vgg16")[-3:] == ["conv5_1", "conv5_2", "conv5_3"]
    assert layer_names("vgg19")[-4:] == ["conv5_1", "conv5_2", "conv5_3", "conv5_4"]
    assert (len(layer_names("vgg16")), len(layer_names("vgg19"))) == (13, 16)


@pytest.mark.parametrize(
    ("network", "layer", "after", "index"),
    [
        ("vgg19", "conv5_4", True, 35),
        ("vgg19", "conv5_4", False, 34),
        ("vgg19", "conv3_4", True, 17),
        ("vgg16", "conv2_2", True, 8),
        ("vgg16", "conv5_3", False, 28),
    ],
)
def test_torchvisions_layout(network: str, layer: str, after: bool, index: int) -> None:
    """Against torchvision's own network, cut behind the layer, with its published normalisation."""
    torch.manual_seed(0)
    reference = getattr(torchvision.models, network)(weights=None)
    image = torch.rand(1, 3, 48, 40)
    normalise = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = reference.features[: index + 1](normalise(image))
        features = ContentFeatures(network, layer, reference.state_dict(), after_activation=after)(image)
    torch.testing.assert_close(features, expected)
    assert after == bool((features >= 0).all())


def test_the_original_layout_is_bgr_less_the_mean() -> None:
    weights = named_weights("vgg19", "conv2_1")
    image = torch.rand(2, 3, 24, 24)
    bgr = image[:, [2, 1, 0]] * 255 - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    x = torch.relu(torch.conv2d(bgr, weights["conv1_1.weight"], weights["conv1_1.bias"], padding=1))
    x = torch.relu(torch.conv2d(x, weights["conv1_2.weight"], weights["conv1_2.bias"], padding=1))
    x = torch.max_pool2d(x, 2)
    x = torch.conv2d(x, weights["conv2_1.weight"], weights["conv2_1.bias"], padding=1)
    features = ContentFeatures("vgg19", "conv2_1", weights, after_activation=False)(image)
    torch.testing.assert_close(features, x)


def test_a_photograph_through_the_partial_file(shared_data: Path) -> None:
    """The real VGG19 up to conv3_4: torchvision's network with the same weights sees the same."""
    weights = read_weights(shared_data / "weights" / "vgg19_conv1_1-conv3_4.pth")
    reference = torchvision.models.vgg19(weights=None).features[:18]
    convolutions = [layer for layer in reference if isinstance(layer, torch.nn.Conv2d)]
    for layer, name in zip(convolutions, layer_names("vgg19"), strict=False):
        layer.load_state_dict({kind: weights[f"{name}.{kind}"] for kind in ("weight", "bias")})
    picture = read_picture(sorted((shared_data / "test" / "Set5").iterdir())[0])
    image = torch.from_numpy(picture[:96, :96]).permute(2, 0, 1)[None].float() / 255
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = reference(image.flip(1) * 255 - mean)
        features = ContentFeatures("vgg19", "conv3_4", weights)(image)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-2)


def test_it_is_frozen_and_hands_gradients_on() -> None:
    features = ContentFeatures("vgg16", "conv1_2", named_weights("vgg16", "conv1_2"))
    assert not features.train().training
    assert not any(parameter.requires_grad for parameter in features.parameters())
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    features(image).square().mean().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


def test_what_cannot_be_built(tmp_path: Path) -> None:
    weights = named_weights("vgg19", "conv1_2")
    with pytest.raises(ValueError, match="the content network is one of vgg16, vgg19, got 'vgg11'"):
        ContentFeatures("vgg11", "conv1_1", weights)
    with pytest.raises(ValueError, match="vgg16 has no layer 'conv5_4'"):
        ContentFeatures("vgg16", "conv5_4", weights)
    with pytest.raises(WeightsError, match="the weights of vgg19 lack conv2_1"):
        ContentFeatures("vgg19", "conv5_4", weights)
    with pytest.raises(WeightsError, match="lack conv1_1"):
        ContentFeatures("vgg19", "conv5_4", {})
    (tmp_path / "no.pth").write_bytes(b"no weights")
    for path in (tmp_path / "no.pth", tmp_path / "missing.safetensors", tmp_path / "missing.pth"):
        with pytest.raises(WeightsError, match=path.name):
            read_weights(path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="more than named tensors"):
        read_weights(tmp_path / "list.pth")
