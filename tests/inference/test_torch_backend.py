"""The torch runtimes: CUDA's is tested without a device as far as possible, and with one if there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vsr.inference.engine import Engine
from vsr.inference.torch_backend import (
    MAX_RECORDED,
    CudaRuntime,
    DeviceTransfer,
    TorchRuntime,
    _Recorded,
    exact_on_cuda,
)
from vsr.networks.generator import Generator, Identity

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
TinyGenerator = Callable[..., Generator]


class Doubling(nn.Module):
    """Doubles its input, and notes CUDA's settings of convolutions and products."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.settings: list[tuple[object, ...]] = []

    def forward(self, lr: Tensor) -> Tensor:
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        tf32 = "tf32" in (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision)
        self.settings.append((cudnn.enabled, cudnn.benchmark, tf32, matmul.allow_tf32))
        return lr * self.weight


def precisions() -> list[str]:
    """Return torch's precision of float32 on CUDA: the global one, and those of convolutions and of products."""
    backends = torch.backends
    return [
        each.fp32_precision
        for each in (backends, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    ]


ASKED_FOR_TF32 = {
    "nothing": lambda: None,
    "all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "cudnn": lambda: setattr(torch.backends.cudnn, "fp32_precision", "tf32"),
    "convolutions": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32"),
    "products": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "products in the old way": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "products in words": lambda: torch.set_float32_matmul_precision("medium"),
    "half of it not": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
}
"""The ways to enable TF32 in torch."""


@pytest.mark.filterwarnings("ignore:Please use the new API")  # of torch 2.9, about the old ones
@pytest.mark.parametrize("asked", ASKED_FOR_TF32)
def test_float32_is_float32_on_cuda_whatever_is_set(asked: str, restored_precisions: None) -> None:
    network = Doubling()
    runtime = TorchRuntime(network, CPU, torch.float32)
    runtime._device = torch.device("cuda")  # nothing is run there
    ASKED_FOR_TF32[asked]()
    before = precisions()
    for _ in range(2):
        runtime(torch.zeros(1, 3, 2, 2))
        assert precisions() == before
    assert network.settings == [(True, False, False, False)] * 2


def test_a_network_that_fails_leaves_the_settings_as_they_were() -> None:
    before = precisions(), torch.backends.cudnn.benchmark
    with pytest.raises(ZeroDivisionError), exact_on_cuda():
        _ = 1 / 0
    assert (precisions(), torch.backends.cudnn.benchmark) == before


class Tape:
    """A stand-in for a recorded graph, which computes again."""

    def __init__(self, recorded: Any) -> None:
        self.recorded, self.replays = recorded, 0

    def replay(self) -> None:
        self.replays += 1
        self.recorded()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> CudaRuntime:
    """A ``CudaRuntime`` on the CPU, with such stand-ins for graphs."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    made = CudaRuntime(Doubling(), CPU, torch.float32)

    def record(lr: Tensor) -> _Recorded:
        given, sr = torch.zeros_like(lr), torch.zeros_like(lr)
        return _Recorded(Tape(lambda: sr.copy_(made._network(given))), (given,), (sr,))  # type: ignore[arg-type]

    monkeypatch.setattr(made, "_record", record)
    return made


def test_a_shape_is_recorded_the_second_time_and_only_after_record(runtime: CudaRuntime) -> None:
    for value in (1.0, 2.0):
        assert torch.equal(runtime(torch.full((1, 3, 2, 2), value)), torch.full((1, 3, 2, 2), 2 * value))
    assert not runtime._recorded
    runtime.record()
    results = [runtime(torch.full((1, 3, 2, 2), float(value))) for value in range(3)]
    assert [float(sr.max()) for sr in results] == [0, 2, 4], "a later replay writes over none of them"
    runtime(torch.zeros(1, 3, 4, 4))
    assert [*runtime._recorded] == [torch.Size((1, 3, 2, 2))]
    assert runtime.release()
    for _ in range(3):
        assert not runtime._recorded and float(runtime(torch.ones(1, 3, 2, 2)).max()) == 2
    assert not runtime.release()


def test_the_number_of_recorded_shapes_is_bounded(runtime: CudaRuntime) -> None:
    runtime.record()
    for _ in range(2):
        for width in range(1, MAX_RECORDED + 4):
            assert float(runtime(torch.ones(1, 3, 2, width)).max()) == 2
    assert len(runtime._recorded) == MAX_RECORDED


def test_networks_that_cannot_be_recorded_run_without(runtime: CudaRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail(lr: Tensor) -> _Recorded:
        tried.append(lr)
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(runtime, "_record", fail)
    runtime.record()
    assert [float(runtime(torch.ones(1, 3, 2, 2)).max()) for _ in range(4)] == [2] * 4
    assert len(tried) == 1, "and is not tried again"


def test_recordings_are_freed_before_a_tile_is_halved(
    runtime: CudaRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(Identity(), device="cpu")
    engine._runtime = runtime
    engine.record()
    lr = torch.rand(1, 3, 64, 64)
    for _ in range(2):
        engine.run(lr)
    assert runtime._recorded

    def replay(self: Tape) -> None:
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr(Tape, "replay", replay)
    assert torch.equal(engine.run(lr), 2 * lr) and engine.tile_for(1, 64, 64) == 64
    assert not runtime._recorded


def test_transfers_of_the_cpu_are_synchronous() -> None:
    transfer = DeviceTransfer(CPU)
    frames = [(np.full((4, 6), number, np.uint16), np.full((2, 3), 10 * number, np.uint16)) for number in (1, 2)]
    luma, chroma = transfer.upload(frames)
    assert luma.shape == (2, 4, 6) and chroma.shape == (2, 2, 3) and luma.dtype == torch.uint16
    back = transfer.download([luma, chroma]).wait()
    assert transfer.depth == 0 and all(np.array_equal(back[1][n], frames[n][1]) for n in range(2))


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_recorded_kernels_compute_the_same(tiny_generator: TinyGenerator, precision: Any) -> None:
    device = f"cuda:{torch.cuda.device_count() - 1}"
    engine = Engine(tiny_generator(), device=device, precision=precision)
    batches = [torch.rand(2, 3, 20, 30, device=device) for _ in range(4)]
    expected = [engine(lr) for lr in batches]
    engine.record()
    for _ in range(3):
        for lr, sr in zip(batches, expected, strict=True):
            assert torch.equal(engine(lr), sr)
    assert engine._runtime._recorded, "they were recorded"  # type: ignore[attr-defined]


@needs_cuda
def test_transfers_of_cuda_return_what_they_sent() -> None:
    transfer = DeviceTransfer(torch.device("cuda"))
    random = np.random.default_rng(0)
    for dtype, most in ((np.uint8, 256), (np.uint16, 65536)):
        batches = [[(random.integers(0, most, (270, 480), dtype),) for _ in range(2)] for _ in range(6)]
        downloads = [transfer.download(transfer.upload(batch)) for batch in batches]
        for batch, download in zip(batches, downloads, strict=True):
            (planes,) = download.wait()
            assert all(np.array_equal(plane, frame[0]) for plane, frame in zip(planes, batch, strict=True))


@needs_cuda
def test_recorded_kernels_beside_a_partial_batch_fit_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch may use half of the free memory; recorded kernels and others use that much each."""
    free = 2 << 30
    monkeypatch.setattr("vsr.inference.engine.free_memory", lambda device: free)
    engine = Engine(Generator(scale=4, blocks=2, channels=64).eval(), device="cuda", precision="fp16")
    edge = math.isqrt(engine._max_pixels() // 4)
    assert engine.batch_size(edge, edge) == 4 and engine.tile_for(4, edge, edge) == edge
    engine.record()
    lr = torch.rand(4, 3, edge, edge, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    for count in (4, 4, 4, 3, 4, 1, 4, 3, 1):
        engine.run(lr[:count])
    torch.cuda.synchronize()
    assert len(engine._runtime._recorded) == 3  # type: ignore[attr-defined]
    assert engine.tile_for(4, edge, edge) == edge, "memory did not run out"
    assert torch.cuda.max_memory_reserved() - before <= free


class Unrecordable(nn.Module):
    """Doubles the size, and synchronises the device, which a recording does not allow."""

    scale, wants_unit_range, peak_floats_per_pixel = 2, False, 100

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, lr: Tensor) -> Tensor:
        return functional.interpolate(lr * self.weight, scale_factor=2) + 0 * float(lr.sum())


@needs_cuda
def test_a_recording_that_fails_does_no_harm() -> None:
    device = torch.device("cuda")
    engine, transfer = Engine(Unrecordable(), device=device, precision="fp32"), DeviceTransfer(device)
    engine.record()
    computing = torch.cuda.current_stream()
    planes = [(np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8),) for number in range(3)]
    reserved = []
    for number in range(40):
        (uploaded,) = transfer.upload(planes)
        sr = engine.run(uploaded[:, None].float().expand(-1, 3, -1, -1))
        (landed,) = transfer.download([sr[:, 0, ::2, ::2].to(torch.uint8)]).wait()
        assert all(np.array_equal(ours, plane[0]) for ours, plane in zip(landed, planes, strict=True)), number
        assert torch.cuda.current_stream() == computing
        reserved.append(torch.cuda.memory_reserved())
    assert not engine._runtime._recorded  # type: ignore[attr-defined]
    assert reserved[-1] == reserved[10], "memory is given back"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_record_at_once(tiny_generator: TinyGenerator) -> None:
    """From two threads, one of which has the other's device as its current one."""
    devices = [torch.device("cuda", number) for number in range(2)]
    engines = [Engine(tiny_generator(), device=device, precision="fp32") for device in devices]
    lr = torch.rand(2, 3, 20, 30)
    expected = [engine.run(lr.to(device)).cpu() for engine, device in zip(engines, devices, strict=True)]

    def run(number: int) -> list[Tensor]:
        engines[number].record()
        return [engines[number].run(lr.to(devices[number])).cpu() for _ in range(20)]

    with ThreadPoolExecutor(2) as threads:
        for number, results in enumerate(threads.map(run, range(2))):
            assert engines[number]._runtime._recorded  # type: ignore[attr-defined]
            assert all(torch.equal(sr, expected[number]) for sr in results)
    torch.testing.assert_close(*expected, rtol=0, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("asked", ["nothing", "all", "products in words"])
def test_float32_of_cuda_equals_that_of_the_cpu(asked: str, restored_precisions: None) -> None:
    """To 1e-4 of the spread of its values: on the CPU float32 lies 2e-5 from float64, and what TF32 makes of the inputs
    of convolutions, simulated, 1.2e-3."""
    torch.manual_seed(0)
    generator, lr = Generator(scale=4, blocks=4, channels=64).eval(), torch.rand(1, 3, 40, 60)
    expected = Engine(deepcopy(generator), device="cpu", runtime="torch", precision="fp32").run(lr)
    ASKED_FOR_TF32[asked]()
    sr = Engine(generator, device="cuda", precision="fp32").run(lr.cuda()).cpu()
    assert float((sr - expected).abs().max()) < 1e-4 * float(expected.std())
