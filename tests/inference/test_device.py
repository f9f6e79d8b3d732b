from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vsr.errors import UsageError
from vsr.inference import device as module
from vsr.inference.device import available_memory, choose_device, free_memory

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes torch see so many CUDA devices, and Apple's one or none."""

    def pretend(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(("cuda", "mps", "kind"), [(0, False, "cpu"), (0, True, "mps"), (2, True, "cuda")])
def test_auto(machine: Machine, cuda: int, mps: bool, kind: str) -> None:
    machine(cuda, mps)
    assert choose_device("auto") == torch.device(kind)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", torch.device("cpu")),
        ("cpu:0", torch.device("cpu", 0)),
        ("cpu:00", torch.device("cpu", 0)),
        ("cuda", torch.device("cuda")),
        ("cuda:0", torch.device("cuda", 0)),
        ("cuda:1", torch.device("cuda", 1)),
        ("cuda:01", torch.device("cuda", 1)),
        ("mps", torch.device("mps")),
    ],
)
def test_devices_by_name(machine: Machine, name: str, expected: torch.device) -> None:
    machine(cuda=2, mps=True)
    assert choose_device(name) == expected


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cpu:1"])
def test_devices_that_the_machine_lacks(machine: Machine, name: str) -> None:
    machine()
    with pytest.raises(UsageError, match=rf"no device '{name}' on this machine; --device auto"):
        choose_device(name)


def test_a_number_too_many(machine: Machine) -> None:
    machine(cuda=2)
    with pytest.raises(UsageError, match="no device 'cuda:2' on this machine"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:1.5", "cuda:²", "auto:0", ":0"])
def test_devices_that_nobody_has(machine: Machine, name: str) -> None:
    machine(cuda=2, mps=True)
    with pytest.raises(UsageError, match="take auto, cpu, cuda, cuda:N or mps") as caught:
        choose_device(name)
    assert repr(name) in str(caught.value)


def test_free_memory_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 12345)
    assert free_memory(torch.device("cpu")) == 12345


def test_free_memory_of_cuda_counts_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert free_memory(torch.device("cuda", 0)) == 1300


def proc_holds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def open_proc(path: str, **_: Any) -> io.StringIO:
        assert path == "/proc/meminfo"
        return io.StringIO(text)

    monkeypatch.setattr(module, "open", open_proc, raising=False)


def test_available_memory_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    proc_holds(monkeypatch, "MemTotal:  8000 kB\nMemFree:  1000 kB\nMemAvailable:    3000 kB\nHugePages_Total: 0\n")
    assert available_memory() == 3000 * 1024


@pytest.mark.parametrize("text", ["", "MemTotal: 8000 kB\n", "MemAvailable: lots\n", "no colon\n"])
def test_available_memory_of_another_system_is_half_of_all(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    proc_holds(monkeypatch, text)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_memory() == 1000 * 4096 // 2


def test_available_memory_where_nothing_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise OSError

    monkeypatch.setattr(module, "open", missing, raising=False)
    monkeypatch.setattr(os, "sysconf", missing)
    assert available_memory() == 4 * 2**30


def test_this_machine_has_memory() -> None:
    assert 2**24 < available_memory() < 2**50
