"""LPIPS: equal to torchmetrics', and to the published figure of bicubic interpolation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import lpips as torchmetrics_lpips
from torchvision.models import alexnet, squeezenet1_1

import vsr.networks.lpips
from vsr.errors import WeightsError
from vsr.imaging.pictures import read_picture
from vsr.imaging.resize import resize_bicubic
from vsr.networks import LPIPS_MIN_SIZES, LPIPS_NAMES, LpipsBackbone
from vsr.networks.lpips import BACKBONES, Lpips, load_lpips
from vsr.networks.vgg import read_weights

WHEELS_HEADS = Path(torchmetrics_lpips.__file__).parents[2] / BACKBONES["squeeze"].heads
MODELS = {"squeeze": squeezenet1_1, "alex": alexnet}
KINDS: tuple[LpipsBackbone, ...] = ("squeeze", "alex")


def random_backbone(kind: LpipsBackbone = "squeeze", seed: int = 0) -> dict[str, Tensor]:
    """The weights of a backbone without its classifier, which in AlexNet's file takes 220 MiB."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in MODELS[kind](weights=None).features.state_dict().items()}
    return {f"features.{name}": torch.randn(shape) / max(1, shape[1:].numel()) ** 0.5 for name, shape in shapes.items()}


def reference(backbone: dict[str, Tensor], kind: LpipsBackbone = "squeeze") -> torch.nn.Module:
    """torchmetrics' own network with a backbone's weights."""
    network = torchmetrics_lpips._LPIPS(net=kind, pnet_rand=True)
    slices = getattr(network.net, "slices", None) or [getattr(network.net, f"slice{number}") for number in range(1, 6)]
    for part in slices:
        for index, layer in part.named_children():
            prefix = f"features.{index}."
            layer.load_state_dict({key[len(prefix) :]: backbone[key] for key in backbone if key.startswith(prefix)})
    return network


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    hr = torch.rand(3, 3, 45, 38)
    return (hr + 0.2 * torch.randn(hr.shape)).clamp(0, 1), hr


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_torchmetrics(tmp_path: Path, pair: tuple[Tensor, Tensor], kind: LpipsBackbone) -> None:
    backbone = random_backbone(kind)
    torch.save(backbone, tmp_path / "backbone.pth")
    sr, hr = pair
    with torch.no_grad():
        distances = load_lpips(tmp_path / "backbone.pth", kind)(sr, hr)
        expected = reference(backbone, kind)(sr, hr, normalize=True)
        other = load_lpips(tmp_path / "backbone.pth", kind)(hr, sr)
    assert distances.shape == (3,) and expected.shape == (3, 1, 1, 1)
    torch.testing.assert_close(distances, expected.flatten())
    torch.testing.assert_close(other, distances)
    assert distances.min() > 1e-4 and len(set(distances.tolist())) == 3


def test_it_is_computed_in_float32(pair: tuple[Tensor, Tensor], limited_device: torch.device) -> None:
    """Never in TF32, nor in float64, which MPS lacks."""
    lpips = Lpips(random_backbone(), read_weights(WHEELS_HEADS))
    seen: list[bool] = []
    lpips.features[0].register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    expected = lpips(*pair)
    there = lpips.to(limited_device)(*(picture.to(limited_device) for picture in pair))
    assert set(seen) == {False} and torch.backends.cudnn.allow_tf32
    assert there.device == limited_device and torch.equal(there.cpu(), expected)


def test_equal_pictures_have_no_distance(pair: tuple[Tensor, Tensor]) -> None:
    lpips = Lpips(random_backbone(), read_weights(WHEELS_HEADS))
    assert torch.equal(lpips(pair[1], pair[1].clone()), torch.zeros(3))


def test_it_is_frozen_keeps_the_random_state_and_passes_gradients(pair: tuple[Tensor, Tensor]) -> None:
    backbone = random_backbone()
    before = torch.get_rng_state()
    lpips = Lpips(backbone, read_weights(WHEELS_HEADS))
    assert torch.equal(torch.get_rng_state(), before)
    assert not lpips.train().training and not any(module.training for module in lpips.modules())
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    sr = pair[0].requires_grad_()
    lpips(sr, pair[1]).sum().backward()
    assert sr.grad is not None and sr.grad.abs().sum() > 0


def test_bicubic_on_set5_has_its_published_figure(shared_data: Path) -> None:
    """Over whole pictures 0.2876; inside a border of four pixels 0.2872. The table has 0.2875."""
    lpips = load_lpips(shared_data / "weights/squeezenet1_1.pth")
    distances = []
    for path in sorted((shared_data / "test/Set5").glob("*.png")):
        hr, lr = (
            torch.from_numpy(read_picture(file)).permute(2, 0, 1)[None] / 255
            for file in (path, shared_data / "test/Set5_LRx4_matlab" / path.name)
        )
        height, width = 4 * lr.shape[-2], 4 * lr.shape[-1]
        sr = resize_bicubic(lr, height, width).mul(255).round().clamp(0, 255) / 255
        with torch.no_grad():
            distances.append(float(lpips(sr, hr[..., :height, :width])))
    assert len(distances) == 5
    assert sum(distances) / 5 == pytest.approx(0.2875, abs=0.0005)


def test_the_heads_of_torchmetrics_are_the_published_ones(shared_data: Path) -> None:
    ours, published = read_weights(WHEELS_HEADS), read_weights(shared_data / "weights/lpips/squeeze.pth")
    assert len(published) == 7 and ours.keys() == published.keys()
    assert all(torch.equal(ours[name], published[name]) for name in published)


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    lpips = Lpips(random_backbone(), read_weights(WHEELS_HEADS))
    with pytest.raises(ValueError, match=r"got \(1, 3, 20, 20\) and \(1, 3, 20, 21\)"):
        lpips(torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 21))
    with pytest.raises(ValueError, match=r"at least 17 pixels each way, got \(1, 3, 16, 40\)"):
        lpips(torch.rand(1, 3, 16, 40), torch.rand(1, 3, 16, 40))


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_pictures(kind: LpipsBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are as small as the layers allow."""
    heads = read_weights(WHEELS_HEADS.with_name(Path(BACKBONES[kind].heads).name))
    lpips, least = Lpips(random_backbone(kind), heads, kind), LPIPS_MIN_SIZES[kind]
    assert lpips(*torch.rand(2, 1, 3, least, least)).shape == (1,)
    monkeypatch.setitem(LPIPS_MIN_SIZES, kind, 1)
    with pytest.raises(RuntimeError, match="too small"):
        lpips(*torch.rand(2, 1, 3, least - 1, least - 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_the_other_backbone_is_refused_by_name(tmp_path: Path, kind: LpipsBackbone) -> None:
    other = KINDS[1 - KINDS.index(kind)]
    path = tmp_path / "weights.pth"
    torch.save(random_backbone(other), path)
    with pytest.raises(WeightsError) as caught:
        load_lpips(path, kind)
    assert str(caught.value) == f"{path} holds the weights of {LPIPS_NAMES[other]}: use it with lpips='{other}'."


@pytest.mark.parametrize(
    ("kind", "name", "size"), [("squeeze", "squeezenet1_1-b8a52dc0", "4.7"), ("alex", "alexnet-owt-7be5be79", "233")]
)
def test_a_download_is_announced_with_its_size(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: LpipsBackbone,
    name: str,
    size: str,
) -> None:
    """Without -v, and before it begins."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fetch(url: str, target: str, **options: object) -> None:
        assert len(caplog.records) == 1
        torch.save(random_backbone(kind), target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert load_lpips(None, kind)(*torch.rand(2, 1, 3, 32, 32)).shape == (1,)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.getMessage() == (
        f"downloading the weights of {LPIPS_NAMES[kind]} for LPIPS, {size} MiB, from "
        f"https://download.pytorch.org/models/{name}.pth to {tmp_path / 'hub/checkpoints' / name}.pth."
    )


def test_weights_of_other_networks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = read_weights(WHEELS_HEADS)
    backbone = random_backbone()
    with pytest.raises(WeightsError, match="not those of torchvision's SqueezeNet"):
        Lpips({}, heads)
    with pytest.raises(WeightsError, match="not those of torchvision's SqueezeNet"):
        Lpips({**backbone, "features.0.weight": torch.zeros(96, 3, 7, 7)}, heads)
    del heads["lin6.model.1.weight"]
    with pytest.raises(WeightsError, match="lack 'lin6.model.1.weight'"):
        Lpips(backbone, heads)
    with pytest.raises(WeightsError, match=r"cannot read the weights .*gone\.pth"):
        load_lpips(tmp_path / "gone.pth")
    monkeypatch.setattr(vsr.networks.lpips, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="needs the package torchmetrics"):
        load_lpips(tmp_path / "gone.pth")


def test_without_a_file_the_cache_or_a_download_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    cached = tmp_path / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth"
    with pytest.raises(WeightsError) as caught:
        load_lpips()
    assert str(caught.value) == (
        "cannot download the weights of SqueezeNet for LPIPS from "
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth (timed out): "
        f"put the file at {cached}, or give a file with lpips_weights."
    )
    torch.save(random_backbone(), cached)
    assert load_lpips()(*torch.rand(2, 1, 3, 32, 32)).shape == (1,)
