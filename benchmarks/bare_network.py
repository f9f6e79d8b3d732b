"""The bare network on the CPU: frames a second, and the share of the rate of a large matrix product.

    python benchmarks/bare_network.py srresnet-x4 160 90

Prints the two numbers. The share sets the multiply-adds of the network's convolutions against a 2048 x 2048 float32
matrix product, measured right before and right after it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch

import vsr
from vsr.networks.models import load_network
from vsr.networks.srgan import Generator


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """The median duration of some runs, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.monotonic()
        work()
        times.append(time.monotonic() - started)
    return median(times)


def matrix_rate() -> float:
    """Floating-point operations a second of the matrix product."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / seconds_of(lambda: left @ right, 5)


def operations(network: Generator, width: int, height: int) -> float:
    """Floating-point operations of one frame: two for each multiply-add of each convolution."""
    counted = 0

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, torch.nn.Conv2d)
        counted += 2 * output.numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        network(torch.zeros(1, 3, 8, 8))
    for hook in hooks:
        hook.remove()
    return counted / 64 * width * height


def main(model: str, width: int, height: int) -> None:
    """Print frames a second, and the share."""
    network = load_network(model)
    assert isinstance(network, Generator), f"{model} has no convolutions to count"
    cost = operations(network, width, height)
    engine = vsr.Engine(network, device="cpu")
    lr = torch.rand(1, 3, height, width)
    before = matrix_rate()
    seconds = seconds_of(lambda: engine(lr), 3)
    rate = (before + matrix_rate()) / 2
    print(f"{1 / seconds} {cost / seconds / rate}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
