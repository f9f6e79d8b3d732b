from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vsr.networks.srgan import Generator

TinyGenerator = Callable[..., Generator]


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (1, 13)], ids=str)
def test_shapes(tiny_generator: TinyGenerator, scale: int, size: tuple[int, int]) -> None:
    height, width = size
    with torch.no_grad():
        sr = tiny_generator(scale)(noise(2, 3, height, width))
    assert sr.shape == (2, 3, scale * height, scale * width) and sr.dtype == torch.float32


def test_parameters_of_the_papers_generator() -> None:
    head = 9 * 9 * 3 * 64 + 64 + 1  # convolution, bias, PReLU
    block = 2 * (3 * 3 * 64 * 64 + 2 * 64) + 1  # two convolutions without bias, two norms, PReLU
    after_the_blocks = 3 * 3 * 64 * 64 + 2 * 64
    doubling = 3 * 3 * 64 * 256 + 256 + 1
    tail = 9 * 9 * 64 * 3 + 3
    total = head + 16 * block + after_the_blocks + 2 * doubling + tail
    assert sum(parameter.numel() for parameter in Generator().parameters()) == total == 1_547_350


def test_a_head_of_ones_sees_nine_by_nine_pixels(tiny_generator: TinyGenerator) -> None:
    """Convolutions pad, so that an LR pixel governs exactly its own block of SR pixels at the centre."""
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
def test_a_new_network_is_linear_interpolation(scale: int, channels: int) -> None:
    torch.manual_seed(0)
    generator = Generator(scale=scale, blocks=2, channels=channels).eval()
    lr = noise(1, 3, 11, 8)
    with torch.no_grad():
        sr = generator(lr)
        # The channels beside the three of the colours are random, quiet, and not silent.
        generator.tail.weight[:, 3:] = 0
        colours = generator(lr)
    expected = functional.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)
    border = scale // 2
    inside = (..., slice(border, -border), slice(border, -border))
    torch.testing.assert_close(colours[inside], expected[inside], rtol=0, atol=2e-6)
    assert (sr - expected)[inside].abs().max() < 0.1
    assert channels == 3 or not torch.equal(sr, colours)


def test_new_networks_follow_the_seed() -> None:
    torch.manual_seed(1)
    first = Generator(blocks=1, channels=8).state_dict()
    torch.manual_seed(1)
    again = Generator(blocks=1, channels=8).state_dict()
    torch.manual_seed(2)
    other = Generator(blocks=1, channels=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["body_conv.weight"], other["body_conv.weight"])


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_folding_is_exact(tiny_generator: TinyGenerator, scale: int) -> None:
    generator = tiny_generator(scale).double()
    lr = noise(2, 3, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        expected = generator(lr)
        without_norms = copy.deepcopy(generator)
        for norm in [module for module in without_norms.modules() if isinstance(module, nn.BatchNorm2d)]:
            norm.reset_running_stats()
        assert (without_norms(lr) - expected).abs().max() > 1e-3, "the statistics must matter for this to prove a thing"
        generator.fold_batch_norm()
        folded = generator(lr)
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-12)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in generator.modules())


def test_folding_twice_is_harmless(tiny_generator: TinyGenerator) -> None:
    generator, lr = tiny_generator(), noise(1, 3, 6, 6)
    with torch.no_grad():
        generator.fold_batch_norm()
        once = generator(lr)
        generator.fold_batch_norm()
        assert torch.equal(generator(lr), once)


def test_folding_refuses_training_mode(tiny_generator: TinyGenerator) -> None:
    generator = tiny_generator().train()
    with pytest.raises(ValueError, match="eval mode only"):
        generator.fold_batch_norm()
    assert any(isinstance(module, nn.BatchNorm2d) for module in generator.modules())


@pytest.mark.parametrize("config", [{"scale": 2, "blocks": 3, "channels": 5}, {"scale": 8, "blocks": 1, "channels": 3}])
def test_config_builds_the_network_again(config: dict[str, int]) -> None:
    generator = Generator(**config)
    assert generator.config == config
    again = Generator(**generator.config)
    shapes = {name: tensor.shape for name, tensor in generator.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    again.load_state_dict(generator.state_dict())
    lr = noise(1, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(again.eval()(lr), generator.eval()(lr))


def test_the_default_is_the_papers() -> None:
    assert Generator().config == {"scale": 4, "blocks": 16, "channels": 64}


@pytest.mark.parametrize("scale", [0, 1, 3, 16, -2])
def test_scales_that_do_not_exist(scale: int) -> None:
    with pytest.raises(ValueError, match=f"2, 4 or 8, got {scale}"):
        Generator(scale=scale)


@pytest.mark.parametrize(("blocks", "channels"), [(0, 64), (1, 2), (-1, 3), (16, 0)])
def test_sizes_that_do_not_exist(blocks: int, channels: int) -> None:
    with pytest.raises(ValueError, match=f"got {blocks} and {channels}"):
        Generator(blocks=blocks, channels=channels)


def dead_parameters(generator: Generator) -> list[str]:
    """The parameters without any gradient, of a loss on random pictures."""
    generator.train().zero_grad()
    sr = generator(noise(2, 3, 6, 6))
    (sr - torch.rand(sr.shape, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    return [name for name, value in generator.named_parameters() if value.grad is None or not value.grad.abs().sum()]


def test_gradients_reach_every_parameter(tiny_generator: TinyGenerator) -> None:
    assert dead_parameters(tiny_generator()) == []


def test_the_silent_branches_of_a_new_network_wake() -> None:
    """What starts at zero is two norms deep, so the gradient reaches the first convolutions in the third update."""
    torch.manual_seed(0)
    generator = Generator(blocks=2, channels=8)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-3)
    dead = [dead_parameters(generator)]
    for _ in range(2):
        optimizer.step()
        dead.append(dead_parameters(generator))
    assert "body_conv.weight" in dead[0] and "body_norm.weight" not in dead[0]
    assert dead[2] == []
