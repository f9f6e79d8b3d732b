from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from vsr.errors import UsageError
from vsr.inference import device as module
from vsr.inference.device import available_memory, choose_device, computes_in_bf16, free_memory, kind_of

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make torch see so many CUDA devices, and an Apple device or none."""

    def pretend(cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(("cuda", "mps", "kind"), [(0, False, "cpu"), (0, True, "mps"), (2, True, "cuda")])
def test_auto_prefers_cuda_then_mps(machine: Machine, cuda: int, mps: bool, kind: str) -> None:
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


@pytest.mark.parametrize("device", [torch.device("cpu"), torch.device("cuda", 1), torch.device("mps")], ids=str)
def test_torch_devices_are_accepted(machine: Machine, device: torch.device) -> None:
    machine(cuda=2, mps=True)
    assert choose_device(device) == device


def test_a_torch_device_that_the_machine_lacks_is_refused(machine: Machine) -> None:
    machine()
    with pytest.raises(UsageError, match="no device 'cuda:1' on this machine"):
        choose_device(torch.device("cuda", 1))


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 avx512f amx_tile avx512_vnni\n", "a CPU with avx2 avx512f avx512_vnni"),
        ("processor: 0\nFeatures\t: fp asimd sve i8mm\n", "a CPU with asimd i8mm sve"),
        ("processor: 0\n", "a CPU with SOMETHING"),
        (None, "a CPU with SOMETHING"),
    ],
)
def test_kinds_of_processors(told: str | None, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(module, "PROCESSOR", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SOMETHING")
    assert kind_of(torch.device("cpu")) == kind


def test_kinds_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert kind_of(torch.device("cuda", 1)) == "GPU 1" and kind_of(torch.device("mps")) == "mps"


def test_emulated_bf16_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on GPUs before Ampere."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not computes_in_bf16(torch.device("cuda"))


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cpu:1"])
def test_devices_that_the_machine_lacks_are_refused(machine: Machine, name: str) -> None:
    machine()
    with pytest.raises(UsageError, match=rf"no device '{name}' on this machine; device='auto'"):
        choose_device(name)


def test_a_device_number_that_is_too_large_is_refused(machine: Machine) -> None:
    machine(cuda=2)
    with pytest.raises(UsageError, match="no device 'cuda:2' on this machine"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:1.5", "cuda:²", "auto:0", ":0"])
def test_unknown_device_names_are_refused(machine: Machine, name: str) -> None:
    machine(cuda=2, mps=True)
    with pytest.raises(UsageError, match="use auto, cpu, cuda, cuda:N or mps") as caught:
        choose_device(name)
    assert repr(name) in str(caught.value)


def test_free_memory_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 12345)
    assert free_memory(torch.device("cpu")) == 12345


def test_free_memory_of_cuda_includes_torchs_unused_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert free_memory(torch.device("cuda", 0)) == 1300


def proc_holds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def open_proc(path: str, **_: Any) -> io.StringIO:
        assert path == "/proc/meminfo"
        return io.StringIO(text)

    monkeypatch.setattr(module, "open", open_proc, raising=False)


def test_available_memory_is_what_the_system_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    proc_holds(monkeypatch, "MemTotal:  8000 kB\nMemFree:  1000 kB\nMemAvailable:    3000 kB\nHugePages_Total: 0\n")
    assert available_memory() == 3000 * 1024


@pytest.mark.parametrize("text", ["", "MemTotal: 8000 kB\n", "MemAvailable: lots\n", "no colon\n"])
def test_available_memory_of_another_system_is_half_of_the_memory(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    proc_holds(monkeypatch, text)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_memory() == 1000 * 4096 // 2


def test_available_memory_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise OSError

    monkeypatch.setattr(module, "open", missing, raising=False)
    monkeypatch.setattr(os, "sysconf", missing)
    assert available_memory() == 4 * 2**30


def test_this_machine_has_memory() -> None:
    assert 2**24 < available_memory() < 2**50


def control_groups(folder: Path, membership: str, files: Mapping[str, object]) -> float:
    """Return the free memory with these files below the mount."""
    (folder / "membership").write_text(membership)
    for name, content in files.items():
        (folder / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mount" / name).write_text(f"{content}\n")
    return module._container_memory(folder / "membership", folder / "mount")


def second(limit: object, used: int, cache: int = 0, at: str = "") -> dict[str, object]:
    stat = f"anon 5\ninactive_file {cache}\nactive_file 7"
    return {f"{at}memory.max": limit, f"{at}memory.current": used, f"{at}memory.stat": stat}


def first(limit: int, used: int, cache: int = 0, at: str = "") -> dict[str, object]:
    names = ("limit_in_bytes", "usage_in_bytes", "stat")
    contents = (limit, used, f"inactive_file 1\ntotal_inactive_file {cache}")
    return {f"memory/{at}memory.{name}": content for name, content in zip(names, contents, strict=True)}


NONE = 2**63 - 4096
OLD = "5:cpu,cpuacct:/else\n4:memory:/a/b\n1:name=systemd:/\n0::/\n"


@pytest.mark.parametrize(
    ("membership", "files", "left"),
    [
        ("0::/\n", second(1000, 300), 700),
        ("0::/\n", second(1000, 900, cache=600), 700),
        ("0::/\n", second(1000, 1200), 0),
        ("0::/\n", second("max", 300), math.inf),
        ("0::/\n", {"memory.max": 1000, "memory.current": 300}, 700),
        ("0::/a/b\n", second("max", 10, at="a/b/") | second(1000, 600, at="a/"), 400),
        ("0::/a/b\n", second(500, 200, at="a/b/") | second(1000, 600, at="a/"), 300),
        ("0::/hidden/by/the/namespace\n", second(1000, 300), 700),
        ("0::/../b\n", second(1000, 300) | second(50, 0, at="b/"), 700),
        (OLD, first(1000, 900, 600, at="a/b/") | first(2000, 1500, at="a/") | first(NONE, 7), 500),
        (OLD, first(NONE, 900, at="a/b/") | first(NONE, 7), math.inf),
        (OLD, first(1000, 300), 700),
        ("", second(1000, 300), 700),
        ("nonsense\n", {}, math.inf),
    ],
)
def test_memory_of_control_groups(tmp_path: Path, membership: str, files: dict[str, object], left: float) -> None:
    assert control_groups(tmp_path, membership, files) == left


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert module._container_memory(tmp_path / "membership", tmp_path / "mount") == math.inf
