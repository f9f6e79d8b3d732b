from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vsr.networks.generator import Generator, ResidualBlock

TinyGenerator = Callable[..., Generator]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"upsampling": "nearest"},
    {"upsampling": "nearest", "tanh": True, "norm_momentum": 0.5},
    {"tanh": True},
    {"normalisation": "imagenet"},
    {"normalisation": "imagenet", "tanh": True, "upsampling": "nearest"},
]
MEAN, DEVIATION = (
    torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def random_generator(**config: Any) -> Generator:
    """One block and four channels, every parameter and statistic random."""
    generator = Generator(**{"blocks": 1, "channels": 4, **config})
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in generator.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=random) * 0.1
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else tensor + noise)
    return generator.eval()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (1, 13)], ids=str)
def test_output_shapes(variant: dict[str, Any], scale: int, size: tuple[int, int]) -> None:
    height, width = size
    with torch.no_grad():
        sr = random_generator(scale=scale, **variant)(noise(2, 3, height, width))
    assert sr.shape == (2, 3, scale * height, scale * width) and sr.dtype == torch.float32


def test_parameters_of_the_papers_generator() -> None:
    head = 9 * 9 * 3 * 64 + 64 + 1  # convolution, bias, PReLU
    block = 2 * (3 * 3 * 64 * 64 + 2 * 64) + 1  # two convolutions without bias, two norms, PReLU
    after_the_blocks = 3 * 3 * 64 * 64 + 2 * 64
    doubling = 3 * 3 * 64 * 256 + 256 + 1
    tail = 9 * 9 * 64 * 3 + 3
    total = head + 16 * block + after_the_blocks + 2 * doubling + tail
    assert sum(parameter.numel() for parameter in Generator().parameters()) == total == 1_547_350


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_parameters_of_nearest_upsampling(scale: int) -> None:
    """Convolutions from 64 to 256 and from 256 to 256 channels, and a tail from 256."""
    body = Generator(scale=scale).state_dict()
    kept = sum(tensor.numel() for name, tensor in body.items() if not name.startswith(("upsample.", "tail.")))
    first, next_one, tail = 3 * 3 * 64 * 256 + 256, 3 * 3 * 256 * 256 + 256, 9 * 9 * 256 * 3 + 3
    total = kept + first + {2: 0, 4: 1, 8: 2}[scale] * next_one + tail
    nearest = Generator(scale=scale, upsampling="nearest", tanh=True)
    assert sum(tensor.numel() for tensor in nearest.state_dict().values()) == total


def test_nearest_upsampling_by_hand() -> None:
    generator = random_generator(upsampling="nearest", tanh=True)
    state, lr = generator.state_dict(), noise(1, 3, 6, 5)
    with torch.no_grad():
        shallow = generator.head(lr)
        x = shallow + generator.body_norm(generator.body_conv(generator.body(shallow)))
        for stage in range(2):
            x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
            name = f"upsample.{stage}.1"
            x = torch.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
            assert (x < 0).any() and x.shape[1] == 16
            x = torch.where(x < 0, 0.2 * x, x)
        x = torch.conv2d(x, state["tail.weight"], state["tail.bias"], padding=4)
        torch.testing.assert_close(generator(lr), 1 / (1 + torch.exp(-2 * x)))  # (tanh x + 1) / 2


def test_tanh_ends_in_the_unit_range() -> None:
    generator = random_generator(tanh=True)
    with torch.no_grad():
        generator.tail.weight *= 100
        sr = generator(noise(1, 3, 9, 9))
    assert 0 <= sr.min() < 0.01 and 0.99 < sr.max() <= 1


@pytest.mark.parametrize("tanh", [False, True])
def test_imagenets_normalisation_by_hand(tanh: bool) -> None:
    plain = random_generator(tanh=tanh).double()
    normalised = Generator(blocks=1, channels=4, tanh=tanh, normalisation="imagenet").double().eval()
    normalised.load_state_dict(plain.state_dict())
    lr = noise(2, 3, 6, 7, dtype=torch.float64)
    # As tightly as float32 holds the statistics.
    with torch.no_grad():
        inside = plain((lr - MEAN) / DEVIATION)
        torch.testing.assert_close(normalised(lr), inside if tanh else inside * DEVIATION + MEAN, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_all_norms_have_the_momentum(momentum: float) -> None:
    generator = Generator(blocks=3, channels=4, norm_momentum=momentum)
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == [momentum] * 7
    lr = noise(2, 3, 8, 8)
    with torch.no_grad():
        first = generator.train().body[0]
        assert isinstance(first, ResidualBlock)
        batch = first.conv1(generator.head(lr)).mean((0, 2, 3))
        generator(lr)
    assert isinstance(first.norm1, nn.BatchNorm2d) and first.norm1.running_mean is not None
    torch.testing.assert_close(first.norm1.running_mean, momentum * batch)


def test_a_head_of_ones_sees_nine_by_nine_pixels(tiny_generator: TinyGenerator) -> None:
    """Convolutions pad, so that an LR pixel affects exactly its own block of SR pixels at the centre."""
    generator = tiny_generator(2)
    impulse = torch.zeros(1, 3, 41, 41)
    impulse[..., 20, 20] = 1
    with torch.no_grad():
        change = (generator(impulse) - generator(torch.zeros(1, 3, 41, 41))).abs().sum((0, 1)) > 0
    rows, columns = change.any(1).nonzero().flatten(), change.any(0).nonzero().flatten()
    # 4 of the head, 1 for each convolution of the block and the one behind it, 1 before the doubling; then twice as
    # many, and 4 of the tail.
    reach = 4 + 1 + 1 + 1 + 1
    first, last = 2 * (20 - reach) - 4, 2 * (20 + reach) + 1 + 4
    assert (int(rows[0]), int(rows[-1])) == (int(columns[0]), int(columns[-1])) == (first, last)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_new_network_is_linear_interpolation(scale: int, channels: int, variant: dict[str, Any]) -> None:
    generator = Generator(scale=scale, blocks=2, channels=channels, **variant).eval()
    lr = noise(1, 3, 11, 8)
    lr[0, :, 4:6, 4:6], lr[0, :, 6:8, 4:6] = 0, 1  # black and white, where tanh is furthest off
    with torch.no_grad():
        sr = generator(lr)
        # The channels beside the three of the colours are random, quiet, and not silent.
        generator.tail.weight[:, 3:] = 0
        colours = generator(lr)
    interpolated = functional.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)
    expected = (torch.tanh(1.25 * (2 * interpolated - 1)) + 1) / 2 if generator.tanh else interpolated
    border = scale // 2
    inside = (..., slice(border, -border), slice(border, -border))
    torch.testing.assert_close(colours[inside], expected[inside], rtol=0, atol=2e-6)
    assert (sr - expected)[inside].abs().max() < 0.15
    assert torch.equal(sr, colours) == (channels == 3 and generator.upsampling == "shuffle")
    if generator.tanh:
        error = (colours - interpolated)[inside]
        assert error.abs().max() < 0.08 and error.square().mean().sqrt() < 0.04


def test_new_networks_follow_the_seed() -> None:
    torch.manual_seed(1)
    first = Generator(blocks=1, channels=8).state_dict()
    torch.manual_seed(1)
    again = Generator(blocks=1, channels=8).state_dict()
    torch.manual_seed(2)
    other = Generator(blocks=1, channels=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["body_conv.weight"], other["body_conv.weight"])


DEFAULTS = {
    "scale": 4,
    "blocks": 16,
    "channels": 64,
    "upsampling": "shuffle",
    "tanh": False,
    "normalisation": "none",
    "norm_momentum": 0.1,
}


@pytest.mark.parametrize("sizes", [{"scale": 2, "blocks": 3, "channels": 5}, {"scale": 8, "blocks": 1, "channels": 3}])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_config_builds_the_network_again(sizes: dict[str, Any], variant: dict[str, Any]) -> None:
    generator = Generator(**sizes, **variant)
    assert generator.config == {**DEFAULTS, **sizes, **variant}
    again = Generator(**generator.config)
    shapes = {name: tensor.shape for name, tensor in generator.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    again.load_state_dict(generator.state_dict())
    lr = noise(1, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(again.eval()(lr), generator.eval()(lr))


def test_the_default_is_the_papers() -> None:
    assert Generator().config == DEFAULTS


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"upsampling": "bilinear"}, "the upsampling is shuffle or nearest, got 'bilinear'"),
        ({"normalisation": True}, "the normalisation is none or imagenet, got True"),
        ({"norm_momentum": 0}, r"in \(0, 1\], got 0"),
        ({"norm_momentum": 1.5}, r"in \(0, 1\], got 1.5"),
        ({"norm_momentum": float("nan")}, r"in \(0, 1\], got nan"),
    ],
)
def test_unknown_variants_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generator(blocks=1, channels=3, **config)


@pytest.mark.parametrize("scale", [0, 1, 3, 16, -2])
def test_other_scales_are_refused(scale: int) -> None:
    with pytest.raises(ValueError, match=f"2, 4 or 8, got {scale}"):
        Generator(scale=scale)


@pytest.mark.parametrize(("blocks", "channels"), [(0, 64), (1, 2), (-1, 3), (16, 0)])
def test_invalid_sizes_are_refused(blocks: int, channels: int) -> None:
    with pytest.raises(ValueError, match=f"got {blocks} and {channels}"):
        Generator(blocks=blocks, channels=channels)


def dead_parameters(generator: Generator) -> list[str]:
    """Return the parameters without a gradient, of a loss on random pictures."""
    generator.train().zero_grad()
    sr = generator(noise(2, 3, 6, 6))
    (sr - torch.rand(sr.shape, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    return [name for name, value in generator.named_parameters() if value.grad is None or not value.grad.abs().sum()]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gradients_reach_every_parameter(variant: dict[str, Any]) -> None:
    assert dead_parameters(random_generator(**variant)) == []


def test_the_zero_branches_of_a_new_network_are_trained() -> None:
    """Two norms in a row start at zero, so the gradient reaches the first convolutions in the third update."""
    torch.manual_seed(0)
    generator = Generator(blocks=2, channels=8)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-3)
    dead = [dead_parameters(generator)]
    for _ in range(2):
        optimizer.step()
        dead.append(dead_parameters(generator))
    assert "body_conv.weight" in dead[0] and "body_norm.weight" not in dead[0]
    assert dead[2] == []
