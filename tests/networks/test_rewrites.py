"""The rewrites are exact, and they are made: whatever the variant, nothing slow is left."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vsr.networks.discriminator import Discriminator
from vsr.networks.generator import Generator
from vsr.networks.rewrites import polyphase, simplify

TinyGenerator = Callable[..., Generator]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"upsampling": "nearest"},
    {"upsampling": "nearest", "tanh": True},
    {"normalisation": "imagenet"},
    {"normalisation": "imagenet", "tanh": True, "upsampling": "nearest"},
]


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("size", [(9, 7), (1, 1), (2, 5)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_results_do_not_change(
    tiny_generator: TinyGenerator, scale: int, variant: dict[str, Any], size: tuple[int, int]
) -> None:
    generator = tiny_generator(scale=scale, **variant).double()
    lr = noise(2, 3, *size)
    with torch.no_grad():
        expected = generator(lr)
        without_norms = copy.deepcopy(generator)
        for norm in [module for module in without_norms.modules() if isinstance(module, nn.BatchNorm2d)]:
            norm.reset_running_stats()
        assert (without_norms(lr) - expected).abs().max() > 1e-4, "the statistics must matter for this to prove a thing"
        simplify(generator)
        torch.testing.assert_close(generator(lr), expected, rtol=0, atol=1e-11)
    assert not any(isinstance(module, (nn.BatchNorm2d, nn.Upsample)) for module in generator.modules())
    assert generator.tail[0].kernel_size == (5, 5) and generator.tail[0].out_channels == 12  # type: ignore[index, union-attr]


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
def test_polyphase_is_the_same_convolution(size: int) -> None:
    weight, x = noise(3, 2, size, size), noise(1, 8, 4, 5)
    expected = functional.conv2d(functional.pixel_shuffle(x, 2), weight, padding=size // 2)
    phases = polyphase(weight)
    assert phases.shape[2] == 2 * ((size // 2 + 1) // 2) + 1
    given = functional.pixel_shuffle(functional.conv2d(x, phases, padding=phases.shape[2] // 2), 2)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-12)


def test_rewriting_twice_is_harmless(tiny_generator: TinyGenerator) -> None:
    generator, lr = tiny_generator(), noise(1, 3, 6, 6).float()
    with torch.no_grad():
        simplify(generator)
        once = generator(lr)
        simplify(generator)
        assert torch.equal(generator(lr), once)


def test_training_mode_is_refused(tiny_generator: TinyGenerator) -> None:
    generator = tiny_generator().train()
    with pytest.raises(ValueError, match="in eval mode only"):
        simplify(generator)
    assert any(isinstance(module, nn.BatchNorm2d) for module in generator.modules())


def test_other_networks_are_not_changed() -> None:
    other = Discriminator(crop_size=32, channels=4).eval()
    before = str(other)
    simplify(other)
    assert str(other) == before


class LiveFloats(TorchDispatchMode):
    """The most floats that results of operations held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0.0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        storage = result.untyped_storage()
        if storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes() // 4
            weakref.finalize(storage, self.live.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.live.values()))
        return result


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("upsampling", ["shuffle", "nearest"])
def test_the_peak_matches_the_counted_floats(tiny_generator: TinyGenerator, upsampling: str, scale: int) -> None:
    generator = tiny_generator(channels=16, scale=scale, upsampling=upsampling)
    simplify(generator)
    lr = noise(1, 3, 20, 20).float()
    with torch.no_grad(), LiveFloats() as counter:
        generator(lr)
    counted = counter.peak / 400
    if upsampling == "nearest":  # the activation works in place
        area, before = scale**2, scale**2 // 4 if scale > 2 else 0
        assert counted == pytest.approx(16 * (4 * area + 4 * before + 3), rel=0.1)
        assert generator.peak_floats_per_pixel >= 2 * 4 * 16 * area, "no map is larger than half of it"
    else:
        assert counted == pytest.approx(generator.peak_floats_per_pixel, rel=0.01)
