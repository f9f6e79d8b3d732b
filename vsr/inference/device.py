"""Which device to compute on, how much memory it has, and what a piece of work costs there."""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar, cast

import torch
from torch import nn

from vsr.errors import UsageError
from vsr.networks.recurrent import RecurrentGenerator

MEMBERSHIP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Of Linux: cgroups(7)."""

PROCESSOR = Path("/proc/cpuinfo")
"""Of Linux: proc(5)."""

FEATURES = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",  # x86
    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",  # Arm
)  # fmt: skip
"""Of processors: those that decide in which order, and how exactly, products are summed up."""

NO_LIMIT = 1 << 62
"""Bytes. Version 1 says 2**63 rounded down to pages where there is no limit."""


def choose_device(device: str | torch.device) -> torch.device:
    """Find a device of torch's; ``auto`` is CUDA where there is one, then MPS, then the CPU.

    Args:
        device: its name, or what torch calls a device.

    Raises:
        UsageError: the machine has no such device.
    """
    name = str(device)
    count = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind in count if count[kind]))
    kind, colon, number = name.partition(":")
    if kind not in count or (colon and not (number.isascii() and number.isdigit())):
        raise UsageError(f"no device is called {name!r}: take auto, cpu, cuda, cuda:N or mps.")
    if int(number or 0) >= count[kind]:
        raise UsageError(f"torch sees no device {name!r} on this machine; --device auto takes what is there.")
    return torch.device(kind, int(number)) if colon else torch.device(kind)


def kind_of(device: torch.device) -> str:
    """Name the kind of a device: those of one kind compute the same bits.

    Returns:
        the GPU's model, or what a CPU has of ``FEATURES``.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    found = _features_of_processor()
    features = " ".join(name for name in FEATURES if name in found)
    return f"a CPU with {features or torch.backends.cpu.get_cpu_capability()}"


def _features_of_processor() -> set[str]:
    try:
        lines = PROCESSOR.read_text(errors="replace").splitlines()
    except OSError:  # another system
        return set()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


def computes_in_bf16(device: torch.device) -> bool:
    """Tell whether a CUDA device computes in bf16 itself; older ones emulate it, slower than float32."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return available_memory()


def available_memory() -> int:
    """Bytes of main memory to be had without swapping; where the system does not tell, half of all, or 4 GiB.

    Inside a container it is what the container may still take. Files that the system keeps in memory count as free.
    """
    return int(min(_system_memory(), _container_memory()))


def _container_memory(membership: Path = MEMBERSHIP, root: Path = GROUPS) -> float:
    """What the control groups of this process leave of their memory: the least of them all; infinite without a limit.

    Args:
        membership: the file that names the groups of this process, as in cgroups(7).
        root: where the groups are mounted.
    """
    folders = _groups(membership, root)
    return min((_left_in(folder, files) for folder, files in folders), default=math.inf)


class _GroupFiles(NamedTuple):
    """How a version of control groups calls what it tells of memory."""

    limit: str
    used: str
    cache: str  # of memory.stat: read from files and not lately used, given up before memory runs out


_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def _groups(membership: Path, root: Path) -> Iterator[tuple[Path, _GroupFiles]]:
    """The folders of this process's groups that count memory, each with those that it lies in.

    Where a container sees its own group as the root, the path that it is told may lead nowhere: the root is taken.
    """
    try:
        entries = [line.split(":", 2) for line in membership.read_text(errors="surrogateescape").splitlines()]
    except OSError:
        entries = []
    paths = {controllers: path for _, controllers, path in (entry for entry in entries if len(entry) == 3)}
    first = next((path for names, path in paths.items() if "memory" in names.split(",")), "/")
    for top, path, files in ((root, paths.get("", "/"), _VERSION_2), (root / "memory", first, _VERSION_1)):
        parts = PurePosixPath(path).parts[1:]
        for depth in range(0 if ".." in parts else len(parts), -1, -1):
            yield top.joinpath(*parts[:depth]), files


def _left_in(group: Path, files: _GroupFiles) -> float:
    try:
        limit, used = (int((group / name).read_text()) for name in (files.limit, files.used))
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
    if limit >= NO_LIMIT:
        return math.inf
    try:
        entries = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used -= int(entries[files.cache])
    except (OSError, ValueError, KeyError):
        pass
    return max(0, limit - max(0, used))


def free_swap() -> int:
    """Bytes that the system can move out of main memory; 0 where it does not tell."""
    try:
        return _meminfo("SwapFree")
    except (OSError, KeyError, ValueError):
        return 0


def _meminfo(entry: str) -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        entries = dict(line.split(":", 1) for line in file)
    return int(entries[entry].split()[0]) * 1024


def _system_memory() -> int:
    try:
        return _meminfo("MemAvailable")
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 << 30


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
