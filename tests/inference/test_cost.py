from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vsr.inference import device
from vsr.inference.device import measure_cost, memory_measure
from vsr.networks.generator import Generator

CPU = torch.device("cpu")
MEBIBYTE = 1 << 20

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="proc(5) is Linux'")


HOLDS = """
import torch
from vsr.inference.device import measure_cost

def hold(mebibytes):  # takes memory, touches all of it, and gives it back
    return int(torch.ones(mebibytes << 20, dtype=torch.uint8)[::4096].sum())

for mebibytes in (200, 40):
    print(measure_cost(lambda: hold(mebibytes), torch.device("cpu"))[1].memory_bytes)
"""


def test_the_result_and_the_seconds_are_returned() -> None:
    result, measured = measure_cost(lambda: (time.sleep(0.05), "done")[1], CPU)
    assert result == "done"
    assert 0.05 <= measured.seconds < 5


@linux
def test_each_call_is_measured_by_itself() -> None:
    """A small call after a large one is small, though the peak of the process is higher.

    In a process of its own, where no memory of other tests is freed meanwhile.
    """
    run = subprocess.run([sys.executable, "-c", HOLDS], capture_output=True, text=True, check=True)
    large, small = map(int, run.stdout.split())
    assert 190 * MEBIBYTE <= large <= 260 * MEBIBYTE
    assert 35 * MEBIBYTE <= small <= 100 * MEBIBYTE


def test_systems_that_do_not_report_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "_CLEAR", tmp_path / "no" / "clear_refs")
    assert measure_cost(lambda: 1, CPU)[1].memory_bytes is None
    monkeypatch.setattr(device, "_CLEAR", tmp_path / "clear_refs")
    (tmp_path / "status").write_text("Name:\tpython\n")
    monkeypatch.setattr(device, "_STATUS", tmp_path / "status")
    assert measure_cost(lambda: 1, CPU)[1].memory_bytes is None


def test_the_measure_is_described() -> None:
    assert "peak resident memory" in memory_measure(CPU)
    assert "torch.cuda.max_memory_allocated" in memory_measure(torch.device("cuda", 1))
    assert memory_measure(torch.device("mps")) == "not measured on mps"
    assert measure_cost(lambda: 1, torch.device("mps"))[1].memory_bytes is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_cuda() -> None:
    device = torch.device("cuda")
    kept = torch.ones(50 * MEBIBYTE, dtype=torch.uint8, device=device)
    work = lambda: float(torch.ones(100 * MEBIBYTE, dtype=torch.uint8, device=device)[0])  # noqa: E731
    _, measured = measure_cost(work, device)
    assert measured.memory_bytes is not None and len(kept)
    assert 100 * MEBIBYTE <= measured.memory_bytes <= 110 * MEBIBYTE


def test_operations_of_the_papers_generator() -> None:
    """2.2 million multiply-adds for each LR pixel, by layers: head, body, two doublings, tail."""
    per_pixel = 9 * 9 * 3 * 64 + 33 * 9 * 64 * 64 + (1 + 4) * 9 * 64 * 256 + 16 * 9 * 9 * 64 * 3
    generator = Generator()
    assert device.operations_per_pixel(generator) == 2 * per_pixel
    assert not any(layer._forward_hooks for layer in generator.modules()), "the network is left as it is"
