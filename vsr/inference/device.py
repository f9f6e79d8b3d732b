"""Which device to compute on, and how much memory it has."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from vsr.errors import UsageError


def choose_device(name: str) -> torch.device:
    """A device of torch's by name; ``auto`` is CUDA where there is one, then MPS, then the CPU.

    Raises:
        UsageError: the machine has no such device.
    """
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

    Inside a container it is what the container may still take.
    """
    return int(min(_system_memory(), _container_memory()))


def _container_memory() -> float:
    group = Path("/sys/fs/cgroup")
    try:
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        return max(0, most - used)
    except (OSError, ValueError):  # no such file, or "max": no limit
        return math.inf


def _system_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            entries = dict(line.split(":", 1) for line in file)
        return int(entries["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 << 30
