"""Devices: choose one, find its kind and its free memory, and measure the time and memory of work on it."""

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

from vsr.errors import UsageError, setting
from vsr.networks.recurrent import RecurrentGenerator

MEMBERSHIP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Of Linux: cgroups(7)."""

PROCESSOR = Path("/proc/cpuinfo")
"""Of Linux: proc(5)."""

FEATURES = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",  # x86
    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",  # Arm
)  # fmt: skip
"""Features of processors that affect the order and the precision in which products are summed."""

NO_LIMIT = 1 << 62
"""Bytes. Without a limit, version 1 reports 2**63 rounded down to pages."""


def choose_device(device: str | torch.device) -> torch.device:
    """Return the torch device of a name; ``auto`` is CUDA if available, then MPS, then the CPU.

    Args:
        device: a name or a device.

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
        raise UsageError(f"no device is called {name!r}: use auto, cpu, cuda, cuda:N or mps.")
    if int(number or 0) >= count[kind]:
        auto = setting("device", "auto")
        raise UsageError(f"torch sees no device {name!r} on this machine; {auto} uses what is available.")
    return torch.device(kind, int(number)) if colon else torch.device(kind)


def kind_of(device: torch.device) -> str:
    """Return the kind of a device; devices of one kind compute the same bits.

    Returns:
        the GPU's model, or the ``FEATURES`` that a CPU has.
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
    """Whether a CUDA device computes in bf16 natively; older ones emulate it, slower than float32."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def free_memory(device: torch.device) -> int:
    """Return the bytes that can be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return available_memory()


def available_memory() -> int:
    """Return the bytes of main memory that are available without swapping.

    Inside a container, its limit counts. Files that the system keeps in memory count as free. If the system does not
    report it, half of the memory, or 4 GiB.
    """
    return int(min(_system_memory(), _container_memory()))


def _container_memory(membership: Path = MEMBERSHIP, root: Path = GROUPS) -> float:
    """Return the least free memory among the control groups of this process, in bytes; infinite without a limit.

    Args:
        membership: the file that names the groups of this process, as in cgroups(7).
        root: where the groups are mounted.
    """
    folders = _groups(membership, root)
    return min((_free_in_group(folder, files) for folder, files in folders), default=math.inf)


class _GroupFiles(NamedTuple):
    """Names of the files about memory, in a version of control groups."""

    limit: str
    used: str
    cache: str  # entry of memory.stat: file cache not recently used, which is freed before memory runs out


_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def _groups(membership: Path, root: Path) -> Iterator[tuple[Path, _GroupFiles]]:
    """Yield the folders of this process's groups that limit memory, and of the groups that contain them.

    If a container sees its own group as the root, the path of its group may not exist: the root is used.
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


def _free_in_group(group: Path, files: _GroupFiles) -> float:
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
    """Return the bytes of free swap space; 0 if the system does not report it."""
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
    """The cost of one call.

    Attributes:
        seconds: wall time.
        memory_bytes: peak memory less the memory before the call, see :func:`memory_measure`; None if the system does
            not report it.
    """

    seconds: float
    memory_bytes: int | None


def memory_measure(device: torch.device) -> str:
    """Describe what is measured as memory on a device."""
    if device.type == "cuda":
        return "growth of torch.cuda.max_memory_allocated while one picture is upscaled, weights not counted"
    if device.type == "cpu":
        return "growth of the process's peak resident memory while one picture is upscaled, weights not counted"
    return f"not measured on {device.type}"


def measure_cost(work: Callable[[], Result], device: torch.device) -> tuple[Result, Cost]:
    """Call ``work`` and measure it. It must return after the device has finished, with a result on the CPU, say."""
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
    """Return the wall time of one call."""
    return _timed(work)[1]


def operations_per_pixel(network: nn.Module) -> float:
    """Return the floating-point operations per LR pixel: two for each multiply-add of each convolution.

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
    """Reset the peak of the resident memory, and return its current size; None if that is not possible."""
    # Freed memory that the allocator keeps would hide what the next call allocates.
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
