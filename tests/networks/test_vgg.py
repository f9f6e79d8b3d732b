"""VGG features: the right layers of the right networks, with the right preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from email.message import Message
from functools import cache
from http.client import IncompleteRead
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torchvision.models import vgg

from vsr.errors import WeightsError
from vsr.imaging.pictures import read_picture
from vsr.networks.vgg import WIDTHS, ContentFeatures, find_content_weights, find_pretrained, layer_names, read_weights

PARTIAL = "weights/vgg19_conv1_1-conv3_4.pth"


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


@cache
def torchvisions(network: str) -> nn.Sequential:
    """The convolutional part of torchvision's network, with random weights that keep the features' size."""
    part = vgg.make_layers(vgg.cfgs[{"vgg16": "D", "vgg19": "E"}[network]], batch_norm=False)
    fill(part, named_weights(network, layer_names(network)[-1]))
    return part


def fill(part: nn.Sequential, weights: dict[str, torch.Tensor]) -> None:
    """Puts weights by the layers' names, as far as they reach, into torchvision's convolutions."""
    convolutions = [layer for layer in part if isinstance(layer, nn.Conv2d)]
    for layer, name in zip(convolutions, list(dict.fromkeys(key[:7] for key in weights)), strict=False):
        layer.load_state_dict({kind: weights[f"{name}.{kind}"] for kind in ("weight", "bias")})


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
def test_torchvisions_layout_equals_torchvision(network: str, layer: str, after: bool, index: int) -> None:
    """Against torchvision's own network, cut behind the layer, with its published normalisation."""
    reference = torchvisions(network)
    image = torch.rand(1, 3, 48, 40)
    normalise = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    weights = {f"features.{name}": tensor for name, tensor in reference.state_dict().items()}
    with torch.no_grad():
        expected = reference[: index + 1](normalise(image))
        features = ContentFeatures(network, layer, weights, after_activation=after)(image)
    assert expected.std() > 0.1
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
    torch.testing.assert_close(features, x / 12.75)


def photograph(shared_data: Path) -> torch.Tensor:
    """(1, 3, 192, 160) RGB in [0, 1]."""
    picture = read_picture(shared_data / "test/Set5/woman.png")
    return torch.from_numpy(picture[:192, :160]).permute(2, 0, 1)[None].float() / 255


def test_a_photograph_through_the_partial_file(shared_data: Path) -> None:
    """The real VGG19 up to conv3_4: torchvision's network with the same weights sees the same."""
    weights = read_weights(shared_data / PARTIAL)
    reference = vgg.make_layers(vgg.cfgs["E"][:11], batch_norm=False)
    fill(reference, weights)
    image = photograph(shared_data)
    codes = (image * 255).round()
    caffe = torch.stack([codes[:, 2] - 103.939, codes[:, 1] - 116.779, codes[:, 0] - 123.68], 1)
    for name, index, expected_mean, expected_deviation in (("conv2_2", 8, 115.5, 264.4), ("conv3_4", 17, 559.6, 831.1)):
        with torch.no_grad():
            expected = reference[: index + 1](caffe)
            unprepared = reference[: index + 1](image)
            features = ContentFeatures("vgg19", name, weights)(image)
        torch.testing.assert_close(features * 12.75, expected, rtol=1e-4, atol=1e-2)
        assert features.mean() * 12.75 == pytest.approx(expected_mean, rel=0.01)
        assert features.std() * 12.75 == pytest.approx(expected_deviation, rel=0.01)
        # RGB in [0, 1] as it is gives next to nothing, and nothing that looks alike.
        assert unprepared.std() < 0.02 * features.std() * 12.75
        both = torch.stack([unprepared.flatten(), features.flatten()])
        assert torch.corrcoef(both)[0, 1] < 0.7


def slim_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights in the slim layout, up to conv5_1."""
    random = torch.Generator().manual_seed(seed)
    weights = {
        "conv0.weight": torch.randn(3, 3, 1, 1, generator=random),
        "conv0.bias": torch.randn(3, generator=random),
    }
    inputs = 3
    for name in layer_names("vgg19")[:13]:
        outputs = (16, 32, 64, 128, 128)[int(name[4]) - 1]
        spread = (2 / (9 * inputs)) ** 0.5
        weights[f"{name.replace('_', '')}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=random) * spread
        weights[f"{name.replace('_', '')}.bias"] = torch.randn(outputs, generator=random) * 0.1
        inputs = outputs
    return weights


def slim_by_hand(weights: dict[str, torch.Tensor], image: torch.Tensor, last: str) -> torch.Tensor:
    x = functional.conv2d(image, weights["conv0.weight"], weights["conv0.bias"])
    for name in ("11", "12", "21", "22", "31", "32", "33", "34", "41", "42", "43", "44", "51"):
        x = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        x = torch.relu(functional.conv2d(x, weights[f"conv{name}.weight"], weights[f"conv{name}.bias"]))
        if name == last:
            return x
        if name in ("12", "22", "34", "44"):
            x = functional.max_pool2d(x, 2)
    raise AssertionError(last)


@pytest.mark.parametrize("layer", ["conv1_1", "conv3_4", "conv5_1"])
@pytest.mark.parametrize("size", [(48, 40), (35, 51)], ids=str)
def test_the_slim_layout(layer: str, size: tuple[int, int]) -> None:
    weights, image = slim_weights(), torch.rand(2, 3, *size)
    features = ContentFeatures("vgg19", layer, weights)(image)
    expected = slim_by_hand(weights, image, layer[4] + layer[6])
    assert expected.std() > 0.05
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_a_photograph_through_the_slim_file(shared_data: Path) -> None:
    """Its own first layer turns RGB into what Caffe's VGG19 takes; its features are some units large."""
    weights = read_weights(shared_data / "weights/vgg19_slim_conv1_1-conv5_1.pth")
    image = photograph(shared_data)
    with torch.no_grad():
        features = ContentFeatures("vgg19", "conv5_1", weights)(image)
        torch.testing.assert_close(features, slim_by_hand(weights, image, "51"), rtol=1e-4, atol=1e-3)
    assert features.shape == (1, 128, 12, 10) and 1 < features.std() < 20
    with pytest.raises(WeightsError, match="end at conv5_1, before conv5_4"):
        ContentFeatures("vgg19", "conv5_4", weights)
    with pytest.raises(WeightsError, match=r"hold conv3_4\.weight, which vgg16 lacks"):
        ContentFeatures("vgg16", "conv5_1", weights)


def test_a_slim_file_without_its_first_layers_is_an_error() -> None:
    for name in ("conv0.bias", "conv11.weight", "conv11.bias"):
        weights = slim_weights()
        del weights[name]
        with pytest.raises(WeightsError, match="the first layers of the slim VGG19 are not whole"):
            ContentFeatures("vgg19", "conv5_1", weights)
    with pytest.raises(WeightsError, match="the first layers of the slim VGG19 are not whole"):
        ContentFeatures("vgg19", "conv5_1", {**slim_weights(), "conv0.weight": torch.zeros(4, 3, 1, 1)})


def test_it_is_frozen_and_passes_gradients() -> None:
    features = ContentFeatures("vgg16", "conv1_2", named_weights("vgg16", "conv1_2"))
    assert not features.train().training
    assert not any(parameter.requires_grad for parameter in features.parameters())
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    features(image).square().mean().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


def test_unknown_networks_and_layers_are_refused() -> None:
    weights = named_weights("vgg19", "conv1_2")
    with pytest.raises(ValueError, match="the content network is one of vgg16, vgg19, got 'vgg11'"):
        ContentFeatures("vgg11", "conv1_1", weights)
    with pytest.raises(ValueError, match="vgg16 has no layer 'conv5_4'"):
        ContentFeatures("vgg16", "conv5_4", weights)
    with pytest.raises(WeightsError, match="these are no weights of vgg19: conv1_1"):
        ContentFeatures("vgg19", "conv5_4", {"layer1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="conv1_2 of the weights has another shape than vgg19's"):
        ContentFeatures("vgg19", "conv1_2", {**weights, "conv1_2.weight": torch.zeros(64, 32, 3, 3)})


@pytest.mark.parametrize("layout", ["caffe", "torchvision"])
def test_a_layer_beyond_the_end_of_a_file_is_an_error(layout: str) -> None:
    weights = named_weights("vgg19", "conv2_2")
    if layout == "torchvision":
        index = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7}
        weights = {f"features.{index[name[:7]]}{name[7:]}": weights[name] for name in weights}
    ContentFeatures("vgg19", "conv2_2", weights)
    with pytest.raises(WeightsError) as caught:
        ContentFeatures("vgg19", "conv5_4", weights)
    assert str(caught.value) == (
        "the weights of vgg19 end at conv2_2, before conv5_4: use a layer up to conv2_2 with "
        "adversarial_content_layer (or pretrain_), "
        "or a file with more layers with content_weights."
    )


def test_weights_of_the_other_network_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"hold conv3_4\.weight, which vgg16 lacks"):
        ContentFeatures("vgg16", "conv1_1", named_weights("vgg19", "conv3_4"))
    for ours, other in (("vgg16", "vgg19"), ("vgg19", "vgg16")):
        with torch.device("meta"):
            weights = getattr(torchvision.models, other)(weights=None).state_dict()
        with pytest.raises(WeightsError, match=rf"hold features\.\d+\.weight, which {ours} lacks"):
            ContentFeatures(ours, "conv1_1", weights)


class Bomb:
    """Unpickling one creates a file."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.crater), "w")


def test_files_without_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.pth").write_bytes(b"no weights")
    (tmp_path / "no.safetensors").write_bytes(b"no weights")
    torch.save({"bomb": Bomb(tmp_path / "crater")}, tmp_path / "hostile.pth")
    for name in ("no.pth", "no.safetensors", "hostile.pth"):
        with pytest.raises(WeightsError, match=rf"{name} holds no weights that can be read"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "crater").exists()
    for name in ("missing.safetensors", "missing.pth"):
        with pytest.raises(WeightsError, match=rf"cannot read the weights .*{name}: No such file"):
            read_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="more than named tensors"):
        read_weights(tmp_path / "list.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, ending: str, value: float) -> None:
    path = tmp_path / f"weights.{ending}"
    weights = {"conv1_1.weight": torch.tensor([1.0, value])}
    save_file(weights, path) if ending == "safetensors" else torch.save(weights, path)
    with pytest.raises(WeightsError, match=rf"weights\.{ending} is damaged: conv1_1\.weight in it is not made of"):
        read_weights(path)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).half().expand(10**13), torch.zeros(3).to_sparse(), torch.zeros(3, dtype=torch.cfloat)],
    ids=["ten terabytes", "sparse", "complex"],
)
def test_tensors_with_less_memory_than_their_shape_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"conv1_1.weight": tensor}, tmp_path / "absurd.pth")
    with pytest.raises(WeightsError, match=r"absurd\.pth (is damaged: conv1_1\.weight|holds no weights)"):
        read_weights(tmp_path / "absurd.pth")


def test_a_pickle_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1_1.weight": torch.zeros(1 << 20)}, tmp_path / "whole.pth")
    with ZipFile(tmp_path / "whole.pth") as whole, ZipFile(tmp_path / "bomb.pth", "w", ZIP_DEFLATED) as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    assert len((tmp_path / "bomb.pth").read_bytes()) < 1 << 16
    with pytest.raises(WeightsError, match=r"bomb\.pth holds no weights that can be read"):
        read_weights(tmp_path / "bomb.pth")


def test_names_that_are_no_strings_are_refused(tmp_path: Path) -> None:
    torch.save({7: torch.zeros(2)}, tmp_path / "numbered.pth")
    with pytest.raises(WeightsError, match=r"numbered\.pth holds more than named tensors"):
        read_weights(tmp_path / "numbered.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_raise_only_weights_errors(tmp_path: Path, zipped: bool) -> None:
    """Cut short, and bits flipped in the first kilobyte, where the pickle is."""
    path = tmp_path / "weights.pth"
    torch.save(
        {"conv1_1.weight": torch.zeros(2, 3), "list": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped
    )
    whole = path.read_bytes()
    random = Random(0)
    refused = 0
    for attempt in range(150):
        content = bytearray(whole)
        if attempt % 3:
            for _ in range(3):
                content[random.randrange(min(1000, len(content)))] ^= 1 << random.randrange(8)
        else:
            del content[random.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            read_weights(path)
        except WeightsError:
            refused += 1
    assert refused > 75


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_are_read_in_single_precision(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights.{ending}"
    weights = {"a": torch.tensor([1.5]).half(), "b": torch.tensor([2], dtype=torch.int64)}
    save_file(weights, path) if ending == "safetensors" else torch.save(weights, path)
    read = read_weights(path)
    assert {name: (tensor.dtype, float(tensor)) for name, tensor in read.items()} == {
        "a": (torch.float32, 1.5),
        "b": (torch.float32, 2.0),
    }


NAMES = {"vgg19": "vgg19-dcbb9e9d.pth", "vgg16": "vgg16-397923af.pth"}


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", answering(URLError("Name or service not known")))
    return tmp_path / "hub/checkpoints"


def answering(answer: bytes | Exception) -> Callable[..., BytesIO]:
    """A stand-in for ``urlopen``."""

    class Response(BytesIO):
        def info(self) -> Message:
            return Message()

    def urlopen(request: Request) -> BytesIO:
        assert request.full_url.startswith("https://download.pytorch.org/models/vgg")
        if isinstance(answer, Exception):
            raise answer
        return Response(answer)

    return urlopen


def test_a_given_file_needs_no_network_access(hub_cache: Path, tmp_path: Path) -> None:
    torch.save(named_weights("vgg19", "conv1_1"), tmp_path / "own.pth")
    weights = find_content_weights("vgg19", tmp_path / "own.pth")
    assert torch.equal(weights["conv1_1.weight"], named_weights("vgg19", "conv1_1")["conv1_1.weight"])
    with pytest.raises(WeightsError, match=r"cannot read the weights .*gone\.pth"):
        find_content_weights("vgg19", tmp_path / "gone.pth")
    with pytest.raises(ValueError, match="one of vgg16, vgg19, got 'vgg11'"):
        find_content_weights("vgg11", None)
    assert not hub_cache.exists()


@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_weights_in_the_cache_need_no_network_access(hub_cache: Path, network: str) -> None:
    hub_cache.mkdir(parents=True)
    torch.save({"features.0.weight": torch.full((64, 3, 3, 3), 2.0)}, hub_cache / NAMES[network])
    weights = find_content_weights(network, None)
    assert list(weights) == ["features.0.weight"] and bool((weights["features.0.weight"] == 2).all())
    (hub_cache / NAMES[network]).write_bytes(b"half a file")
    with pytest.raises(WeightsError, match=rf"{NAMES[network]} holds no weights that can be read"):
        find_content_weights(network, None)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (URLError("Name or service not known"), "Name or service not known"),
        (HTTPError("https://download.pytorch.org", 503, "Service Unavailable", Message(), None), "Service Unavailable"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError(104, "Connection reset by peer"), "[Errno 104] Connection reset by peer"),
        (IncompleteRead(b"12", 10), "IncompleteRead(2 bytes read, 10 more expected)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_failed_download_is_an_error(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: str
) -> None:
    monkeypatch.setattr(torch.hub, "urlopen", answering(failure))
    with pytest.raises(WeightsError) as caught:
        find_content_weights("vgg19", None)
    assert str(caught.value) == (
        f"cannot download VGG19's weights from https://download.pytorch.org/models/{NAMES['vgg19']} ({reason}): "
        f"put the file at {hub_cache / NAMES['vgg19']}, or give a file with content_weights."
    )
    assert not list(hub_cache.iterdir())


def test_a_download_is_cached(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What arrives is kept only if its digest is the one in its name."""
    file = BytesIO()
    torch.save({"features.0.bias": torch.ones(64)}, file)
    monkeypatch.setattr(torch.hub, "urlopen", answering(file.getvalue()))
    with pytest.raises(WeightsError, match=r"from https://.*vgg19-dcbb9e9d\.pth \(invalid hash value"):
        find_content_weights("vgg19", None)
    assert not list(hub_cache.iterdir())

    digest = hashlib.sha256(file.getvalue()).hexdigest()[:8]
    url = f"https://download.pytorch.org/models/vgg-{digest}.pth"
    weights = find_pretrained("weights", url, None, "weights", mebibytes=1)
    assert torch.equal(weights["features.0.bias"], torch.ones(64))
    assert [path.name for path in hub_cache.iterdir()] == [f"vgg-{digest}.pth"]
    monkeypatch.setattr(torch.hub, "urlopen", answering(URLError("gone")))
    assert list(find_pretrained("weights", url, None, "weights", mebibytes=1)) == ["features.0.bias"]
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_cannot_be_written_is_an_error(hub_cache: Path) -> None:
    hub_cache.parent.parent.joinpath("hub").write_text("a file")
    with pytest.raises(WeightsError, match="cannot download VGG16's weights from .*content_weights"):
        find_content_weights("vgg16", None)


@pytest.mark.parametrize(("network", "size"), [("vgg19", 548), ("vgg16", 528)])
def test_a_download_is_announced_with_its_size(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, network: str, size: int
) -> None:
    """Whether or not it succeeds, at the level that is seen without -v; and torchvision states the same size."""
    monkeypatch.setattr(torch.hub, "urlopen", answering(URLError("gone")))
    with pytest.raises(WeightsError):
        find_content_weights(network, None)
    url, file = f"https://download.pytorch.org/models/{NAMES[network]}", hub_cache / NAMES[network]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"downloading {network.upper()}'s weights, {size} MiB, from {url} to {file}.")
    ]
    published = getattr(torchvision.models, f"{network.upper()}_Weights").IMAGENET1K_V1
    assert round(published.meta["_file_size"]) == size
