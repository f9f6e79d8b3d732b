"""Every runtime computes the same pixels, and unsupported combinations are refused."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vsr.errors import UnsupportedError, UsageError
from vsr.imaging.pictures import read_picture
from vsr.inference import backends, openvino_backend
from vsr.inference.backends import build_runtime
from vsr.inference.engine import Engine, load_model
from vsr.inference.openvino_backend import UntranslatableError, calibrate, translate
from vsr.networks.generator import Generator, Identity
from vsr.networks.weights import load_calibration

TinyGenerator = Callable[..., Generator]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"upsampling": "nearest"},
    {"tanh": True},
    {"normalisation": "imagenet"},
    {"normalisation": "imagenet", "tanh": True, "upsampling": "nearest"},
]


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def photograph(shared_data: Path) -> np.ndarray:
    return read_picture(next((shared_data / "test" / "Set5_LRx4_matlab").glob("bird*")))


def psnr(codes: np.ndarray, others: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((codes.astype(float) - others) ** 2)))


@pytest.mark.parametrize("size", [(9, 14), (1, 1), (31, 5)], ids=str)
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_openvino_equals_torch(
    tiny_generator: TinyGenerator, variant: dict[str, Any], scale: int, size: tuple[int, int]
) -> None:
    generator, lr = tiny_generator(scale=scale, **variant), noise(2, 3, *size)
    expected = Engine(copy.deepcopy(generator), device="cpu", runtime="torch")(lr)
    engine = Engine(generator, device="cpu", runtime="openvino")
    torch.testing.assert_close(engine(lr), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(engine(lr[:1, :, ::2]), engine(lr[:1, :, ::2].clone()), rtol=0, atol=0)


def test_results_do_not_share_memory(tiny_generator: TinyGenerator) -> None:
    engine = Engine(tiny_generator(), device="cpu", runtime="openvino")
    first = engine(noise(1, 3, 8, 8))
    before = first.clone()
    engine(1 - noise(1, 3, 8, 8))
    assert torch.equal(first, before)


def test_the_shipped_default_is_the_same_in_both(photograph: np.ndarray) -> None:
    by_openvino, by_torch = (load_model(device="cpu", engine=engine) for engine in ("openvino", "torch"))
    codes = by_openvino.upscale(photograph).astype(int)
    assert np.abs(codes - by_torch.upscale(photograph)).max() <= 1
    assert np.array_equal(load_model(device="cpu").upscale(photograph), codes), "which is what auto takes"


def test_threads_change_no_pixel(photograph: np.ndarray) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(load_model(device="cpu", engine="openvino").upscale(photograph))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*results)


@pytest.mark.parametrize("model", ["srgan-x4", "srresnet-x4", "video-x2"])
def test_int8_is_close(photograph: np.ndarray, model: str) -> None:
    expected = load_model(model, device="cpu").upscale(photograph)
    codes = load_model(model, device="cpu", precision="int8").upscale(photograph)
    assert not np.array_equal(codes, expected)
    assert psnr(codes, expected) > 40
    assert abs(codes.mean(dtype=float) - expected.mean(dtype=float)) < 0.6, "and no darker or brighter"


def test_int8_of_a_blend_covers_the_ranges_of_both(photograph: np.ndarray) -> None:
    own, other = load_calibration("srgan-x4"), load_calibration("srresnet-x4")
    both = load_calibration("srgan-x4", 0.5)
    assert own and other and both and own.ranges.keys() == other.ranges.keys() == both.ranges.keys()
    for name, (least, greatest) in own.ranges.items():
        assert both.ranges[name] == (min(least, other.ranges[name][0]), max(greatest, other.ranges[name][1]))
    expected = load_model("srgan-x4", device="cpu", detail=0.5).upscale(photograph)
    codes = load_model("srgan-x4", device="cpu", detail=0.5, precision="int8").upscale(photograph)
    assert psnr(codes, expected) > 40


def test_bf16_is_close(photograph: np.ndarray) -> None:
    if not openvino_backend.supports("bf16"):
        pytest.skip("this processor does not compute in bf16")
    engine = load_model(device="cpu", precision="bf16")
    assert (engine.runtime, engine.precision) == ("openvino", "bf16")
    assert psnr(engine.upscale(photograph), load_model(device="cpu").upscale(photograph)) > 45


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
def test_inductor_equals_torch(tiny_generator: TinyGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # here, and not by processes that stay
    generator, lr = tiny_generator(scale=2, blocks=1, channels=4), noise(1, 3, 8, 8)
    expected = Engine(copy.deepcopy(generator), device="cpu", runtime="torch")(lr)
    engine = Engine(generator, device="cpu", runtime="inductor")
    assert engine.runtime == "inductor" and engine.version.startswith("inductor of torch ")
    torch.testing.assert_close(engine(lr), expected, rtol=0, atol=1e-5)


# Which runtime is taken


def test_auto_on_the_cpu_is_openvino(tiny_generator: TinyGenerator) -> None:
    assert Engine(tiny_generator(), device="cpu").runtime == "openvino"
    assert Engine(Identity(), device="cpu").runtime == "torch"
    assert Engine(tiny_generator(), device="cpu", precision="fp16").runtime == "torch"


class Branching(nn.Conv2d):
    """A network that cannot be traced."""

    scale, wants_unit_range, peak_floats_per_pixel = 1, False, 9

    def forward(self, lr: Tensor) -> Tensor:
        return super().forward(lr) if lr.mean() > 0 else lr


class ByKeyword(nn.Conv2d):
    """A network with a call that is not translated."""

    scale, wants_unit_range, peak_floats_per_pixel = 1, False, 9

    def forward(self, lr: Tensor) -> Tensor:
        return torch.add(input=super().forward(lr), other=1)


class Arithmetic(nn.Conv2d):
    """A network with numbers on either side of operators."""

    scale, wants_unit_range, peak_floats_per_pixel = 1, False, 9

    def __init__(self) -> None:
        super().__init__(3, 3, 1)
        self.inner = nn.Conv2d(3, 3, 1)

    def forward(self, lr: Tensor) -> Tensor:
        x = self.inner(lr)
        return 2 * (1 - x) / 4 + (3 + x * 2) - 1


class Unknown(nn.Sequential):
    """A network that is traced, but not translated."""

    scale, wants_unit_range, peak_floats_per_pixel = 1, False, 9


@pytest.mark.parametrize(
    "network",
    [
        Branching(3, 3, 1),
        Unknown(nn.Conv2d(3, 3, 1), nn.Softmax(1)),
        Unknown(nn.Conv2d(3, 3, 1, groups=3)),
        ByKeyword(3, 3, 1),
    ],
    ids=["branching", "softmax", "groups", "keyword"],
)
def test_networks_that_cannot_be_translated_run_in_torch(network: nn.Module) -> None:
    with pytest.raises(UntranslatableError):
        translate(copy.deepcopy(network))
    with pytest.raises(UsageError, match=r"^OpenVINO cannot run this network: .*\.$"):
        Engine(copy.deepcopy(network), device="cpu", runtime="openvino")
    assert Engine(network, device="cpu").runtime == "torch"


def test_numbers_on_either_side_are_translated() -> None:
    network, lr = Arithmetic(), noise(1, 3, 4, 4)
    expected = Engine(copy.deepcopy(network), device="cpu", runtime="torch")(lr)
    engine = Engine(network, device="cpu", runtime="openvino")
    torch.testing.assert_close(engine(lr.half()), engine(lr.half().float()), rtol=0, atol=0)
    torch.testing.assert_close(engine(lr), expected, rtol=0, atol=1e-5)


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import vsr.inference

    monkeypatch.delattr(vsr.inference, "openvino_backend")
    monkeypatch.setitem(sys.modules, "vsr.inference.openvino_backend", None)
    yield


@pytest.mark.usefixtures("without_openvino")
def test_without_openvino_torch_is_used(tiny_generator: TinyGenerator) -> None:
    assert Engine(tiny_generator(), device="cpu").runtime == "torch"
    with pytest.raises(UsageError, match=r"^OpenVINO cannot be used \(.*\); `pip install openvino` brings it\.$"):
        Engine(tiny_generator(), device="cpu", runtime="openvino")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "torch", "precision": "int8"}, "torch does not compute in int8 here"),
        ({"runtime": "openvino", "precision": "fp16"}, "fp32, bf16 and int8 on the CPU, not fp16"),
        ({"precision": "int8"}, "int8 needs a calibration of the model: `vsr models calibrate`"),
    ],
    ids=str,
)
def test_unsupported_precisions_are_refused(
    tiny_generator: TinyGenerator, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Engine(tiny_generator(), device="cpu", **options)


def test_bf16_that_cuda_would_only_emulate_is_refused(
    tiny_generator: TinyGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "computes_in_bf16", lambda device: False)
    for runtime in ("auto", "torch"):
        with pytest.raises(UnsupportedError, match=r"^cuda:1 does not compute in bf16: use precision='fp16' or "):
            build_runtime(tiny_generator(), torch.device("cuda", 1), runtime=runtime, precision="bf16")


def test_int8_is_refused_for_models_without_weights() -> None:
    for options in ({"engine": "openvino"}, {"precision": "int8"}):
        with pytest.raises(UsageError, match="run in torch and in fp32 only"):
            load_model("bicubic", device="cpu", **options)  # type: ignore[arg-type]


def test_recalibration_changes_the_digest(tiny_generator: TinyGenerator) -> None:
    digests = set()
    for scale in (1, 2):
        torch.manual_seed(0)
        generator = tiny_generator()
        calibration = calibrate(generator, [noise(1, 3, 8, 8) / scale])
        digests.add(Engine(generator, device="cpu", precision="int8", calibration=calibration).digest())
    assert len(digests) == 2


def test_a_calibration_without_pictures_is_an_error(tiny_generator: TinyGenerator) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        calibrate(tiny_generator(), [])


def test_openvino_recovers_from_too_little_memory(
    tiny_generator: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that failed needs the same memory again at any size, until it is compiled again."""
    engine = Engine(tiny_generator(), device="cpu", runtime="openvino", overlap=8)
    lr = torch.rand(1, 3, 64, 80)
    expected = engine(lr)
    failed, run = [engine._runtime._request], openvino_backend.OpenVinoRuntime.__call__

    def fail(self: openvino_backend.OpenVinoRuntime, lr: torch.Tensor) -> torch.Tensor:
        if self._request in failed:
            raise RuntimeError("Failed to allocate 4096000000 bytes of memory")
        return run(self, lr)

    monkeypatch.setattr(openvino_backend.OpenVinoRuntime, "__call__", fail)
    assert engine(lr).shape == expected.shape


def test_an_empty_result_of_openvino_means_out_of_memory(
    tiny_generator: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Empty:
        data = np.zeros((1, 3, 0, 0), np.float32)

    class Request:
        def infer(self, inputs: Any) -> None: ...

        output_tensors = (Empty(),)

    runtime = Engine(tiny_generator(), device="cpu", runtime="openvino")._runtime
    monkeypatch.setattr(runtime, "_request", Request())
    with pytest.raises(MemoryError, match="no result for"):
        runtime(torch.rand(1, 3, 8, 8))
