"""What a piece of work costs: seconds, memory, and operations."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import nn

from vsr.networks.recurrent import RecurrentGenerator

Result = TypeVar("Result")

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Of Linux: proc(5)."""


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        seconds: by the wall clock.
        memory_bytes: the most that the call held beyond what was there before it, see :func:`memory_measure`; None
            where the system does not tell.
    """

    seconds: float
    memory_bytes: int | None


def memory_measure(device: torch.device) -> str:
    """What is measured as memory on a device, in words."""
    if device.type == "cuda":
        return "growth of torch.cuda.max_memory_allocated while one picture is upscaled, weights not counted"
    if device.type == "cpu":
        return "growth of the process's peak resident memory while one picture is upscaled, weights not counted"
    return f"not measured on {device.type}"


def measure_cost(work: Callable[[], Result], device: torch.device) -> tuple[Result, Cost]:
    """Do a piece of work that ends on the CPU, so that nothing of it is left in a queue of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result, seconds = _timed(work)
        return result, Cost(seconds, torch.cuda.max_memory_allocated(device) - before)
    if device.type != "cpu":
        result, seconds = _timed(work)
        return result, Cost(seconds, None)
    resident = _reset_peak()
    result, seconds = _timed(work)
    peak = _status("VmHWM") if resident is not None else None
    return result, Cost(seconds, None if peak is None or resident is None else max(0, peak - resident))


def seconds_of(work: Callable[[], object]) -> float:
    """Of one call, by the wall clock."""
    return _timed(work)[1]


def operations_per_pixel(network: nn.Module) -> float:
    """Floating-point operations for an LR pixel: two for each multiply-add of each convolution.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale*H, scale*W), or a recurrent one, on the CPU.
    """
    counted, edge = 0, 8

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * output.numel() * cast(nn.Conv2d, layer).weight[0].numel()

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in convolutions]
    lr = torch.zeros(1, 3, edge, edge)
    with torch.no_grad():
        network(lr, network.initial_state(lr)) if isinstance(network, RecurrentGenerator) else network(lr)
    for hook in hooks:
        hook.remove()
    return counted / edge**2


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _reset_peak() -> int | None:
    """Start a new high-water mark of the resident memory, and say where it stands; None where that cannot be done."""
    # What was freed but is kept for later would hide what the next call takes.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(key: str) -> int | None:
    with suppress(OSError, StopIteration, ValueError, IndexError):
        line = next(line for line in _STATUS.read_text("ascii", "replace").splitlines() if line.startswith(key + ":"))
        return int(line.split()[1]) * 1024
    return None
