from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vsr.errors import OutOfMemoryError, UnknownModelError, UsageError, VsrError
from vsr.imaging.resize import resize_bicubic
from vsr.inference import engine as module
from vsr.inference.engine import Engine, load_model
from vsr.networks.generator import Generator

TinyGenerator = Callable[..., Generator]


class Repeat(nn.Module):
    """Repeats each pixel; notes its inputs; raises out of memory above ``limit`` pixels."""

    def __init__(self, scale: int = 2, *, limit: float = float("inf"), clips: bool = False) -> None:
        super().__init__()
        self.scale, self.limit, self.wants_unit_range = scale, limit, clips
        self.peak_floats_per_pixel = 100
        self.config: dict[str, Any] = {}
        self.seen: list[Tensor] = []

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(lr.shape[-2], lr.shape[-1]) for lr in self.seen]

    def forward(self, lr: Tensor) -> Tensor:
        self.seen.append(lr)
        if lr.shape[-2] * lr.shape[-1] > self.limit:
            raise torch.OutOfMemoryError("made up")
        return functional.interpolate(lr, scale_factor=self.scale, mode="nearest")


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, with the loggers' settings of earlier commands undone."""
    monkeypatch.setattr(logging.getLogger("vsr"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="vsr")
    return caplog


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def repeated(lr: np.ndarray, scale: int) -> np.ndarray:
    return lr.repeat(scale, -3).repeat(scale, -2)


def has_free(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Make so much memory free that half of it holds ``pixels`` of `Repeat` in float32."""
    monkeypatch.setattr(module, "free_memory", lambda device: 2 * 400 * pixels)


@pytest.mark.parametrize("shape", [(6, 9), (1, 6, 9), (3, 6, 9), (1, 1), (2, 1, 5)], ids=str)
def test_arrays_are_upscaled(shape: tuple[int, ...]) -> None:
    lr = frames(*shape)
    before = lr.copy()
    sr = Engine(Repeat(3), device="cpu").upscale(lr)
    assert sr.dtype == np.uint8 and sr.flags.c_contiguous
    assert np.array_equal(sr, repeated(lr, 3))
    assert np.array_equal(lr, before)


@pytest.mark.parametrize("view", ["reversed", "every second", "transposed", "read-only", "Fortran"])
def test_any_memory_layout_is_accepted(view: str) -> None:
    whole = frames(2, 6, 8)
    lr = {
        "reversed": whole[:, ::-1, ::-1],
        "every second": whole[:, ::2, ::2],
        "transposed": whole.transpose(0, 2, 1, 3),
        "read-only": np.frombuffer(whole.tobytes(), np.uint8).reshape(whole.shape),
        "Fortran": np.asfortranarray(whole),
    }[view]
    assert np.array_equal(Engine(Repeat(), device="cpu").upscale(lr), repeated(lr, 2))


def test_codes_are_rounded_and_clipped() -> None:
    class Shift(Repeat):
        shift = 0.0

        def forward(self, lr: Tensor) -> Tensor:
            return super().forward(lr) + self.shift / 255

    network = Shift()
    engine = Engine(network, device="cpu")
    lr = np.full((2, 2, 3), 100, np.uint8)
    for shift, code in ((0.4, 100), (0.6, 101), (-0.6, 99), (154.9, 255), (300, 255), (-99.9, 0), (-300, 0)):
        network.shift = shift
        assert np.array_equal(engine.upscale(lr), np.full((4, 4, 3), code, np.uint8)), shift


@pytest.mark.parametrize(
    "lr",
    [
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((1, 1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
    ],
    ids=lambda lr: f"{lr.dtype} {lr.shape}",
)
def test_other_shapes_are_refused(lr: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a shape \(H, W, C\) or \(H, W\), or \(N, H, W, C\)") as caught:
        Engine(Repeat(), device="cpu").upscale(lr)
    assert f"got {lr.shape}" in str(caught.value)


@pytest.mark.parametrize("clips", [True, False])
def test_input_is_clipped_only_if_the_network_needs_it(clips: bool) -> None:
    lr = torch.linspace(-1, 2, 12).view(1, 1, 3, 4).expand(1, 3, 3, 4).contiguous()
    before = lr.clone()
    sr = Engine(Repeat(clips=clips), device="cpu")(lr)
    expected = lr.clamp(0, 1) if clips else lr
    assert torch.equal(sr[..., ::2, ::2], expected)
    assert torch.equal(lr, before)


def test_the_generator_clips(tiny_generator: TinyGenerator) -> None:
    engine = Engine(tiny_generator(), device="cpu")
    lr = noise(1, 3, 6, 6) * 3 - 1
    assert torch.equal(engine(lr), engine(lr.clamp(0, 1)))
    assert not load_model("bicubic", device="cpu")._clips


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_engine_equals_the_network(tiny_generator: TinyGenerator, scale: int) -> None:
    generator, lr = tiny_generator(scale), noise(2, 3, 13, 10)
    reference = copy.deepcopy(generator).double()
    engine = Engine(generator, device="cpu")
    assert engine.scale == scale
    assert not any(isinstance(part, nn.BatchNorm2d) for part in generator.modules())
    with torch.no_grad():
        expected = reference(lr.double())
    torch.testing.assert_close(engine(lr), expected.float(), rtol=1e-5, atol=1e-5)
    codes = engine.upscale(frames(5, 7))
    with torch.no_grad():
        expected = reference(torch.from_numpy(frames(5, 7)).permute(2, 0, 1)[None].double() / 255)
    exact = expected[0].permute(1, 2, 0).mul(255).clamp(0, 255).numpy()
    assert np.abs(codes - exact).max() < 0.51


def test_a_network_in_training_mode_and_with_gradients_runs_for_inference(tiny_generator: TinyGenerator) -> None:
    generator, lr = tiny_generator().train(), noise(1, 3, 6, 6)
    expected = Engine(copy.deepcopy(generator).eval(), device="cpu")(lr)
    sr = Engine(generator, device="cpu")(lr)
    assert torch.equal(sr, expected) and not sr.requires_grad
    assert not generator.training and not any(parameter.requires_grad for parameter in generator.parameters())


def test_a_batch_equals_its_frames(tiny_generator: TinyGenerator) -> None:
    engine = Engine(tiny_generator(), device="cpu")
    lr = frames(5, 9, 7)
    assert np.array_equal(engine.upscale(lr), np.stack([engine.upscale(frame) for frame in lr]))
    batch = torch.from_numpy(lr).permute(0, 3, 1, 2) / 255
    single = torch.cat([engine(frame[None]) for frame in batch])
    torch.testing.assert_close(engine(batch), single, rtol=0, atol=1e-5)


def test_batches_on_the_cpu_are_single_frames() -> None:
    network = Repeat()
    Engine(network, device="cpu").upscale(frames(3, 4, 4))
    assert [len(lr) for lr in network.seen] == [1, 1, 1]


@pytest.mark.parametrize(("pixels", "size"), [(50, 1), (100, 1), (250, 2), (399, 3), (400, 4), (10**6, 4)])
def test_batches_on_a_device_fill_the_memory(monkeypatch: pytest.MonkeyPatch, pixels: int, size: int) -> None:
    engine = Engine(Repeat(), device="cpu")
    engine.device = torch.device("cuda")  # nothing is run
    has_free(monkeypatch, pixels)
    assert engine.batch_size(10, 10) == size


def test_bfloat16_is_close(tiny_generator: TinyGenerator) -> None:
    generator, lr = tiny_generator(), noise(1, 3, 12, 12)
    full = Engine(copy.deepcopy(generator), device="cpu", precision="fp32")(lr)
    engine = Engine(generator, device="cpu", precision="bf16")
    sr = engine(lr)
    assert engine.precision == "bf16" and sr.dtype == torch.float32
    assert 0 < (sr - full).abs().max() < 0.05
    seen = Repeat()
    half = Engine(seen, device="cpu", precision="bf16")
    half(lr)
    assert half._runtime._network.seen[0].dtype == torch.bfloat16
    assert engine.upscale(frames(6, 6)).shape == (24, 24, 3)


class Overflowing(nn.Module):
    """Overflows half precision in between, and is back in range at the end."""

    scale = 1
    wants_unit_range = False
    peak_floats_per_pixel = 1

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(300.0))

    def forward(self, lr: Tensor) -> Tensor:
        return lr * self.gain * self.gain / self.gain / self.gain


def test_overflowed_frames_are_computed_again_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    lr = noise(1, 3, 8, 8)
    engine = Engine(Overflowing(), device="cpu", precision="fp16")
    with caplog.at_level(logging.WARNING, logger="vsr"):
        sr = engine(lr)
    torch.testing.assert_close(sr, lr, rtol=0, atol=1e-3)
    assert "computed again in float32" in caplog.text and engine.overflowed == 1


def test_the_tile_grid_of_a_size_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that comes and goes must not move the grid from frame to frame."""
    free = iter([40_000, 20_000, 80_000])
    monkeypatch.setattr("vsr.inference.engine.free_memory", lambda _: next(free))
    engine = Engine(Repeat(), device="cpu")
    sizes = {engine.tile_for(count, 64, 64) for count in (2, 1, 2)}
    assert len(sizes) == 1 and sizes.pop() < 64


def test_precision_on_the_cpu_is_single() -> None:
    assert Engine(Repeat(), device="cpu").precision == "fp32"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(tiny_generator: TinyGenerator) -> None:
    generator, lr = tiny_generator(), frames(2, 33, 47)
    expected = Engine(copy.deepcopy(generator), device="cpu").upscale(lr).astype(int)
    engine = Engine(copy.deepcopy(generator), device="cuda")
    assert engine.precision == "fp16"
    assert np.abs(engine.upscale(lr).astype(int) - expected).max() <= 2
    engine = Engine(generator, device="cuda", precision="fp32")
    assert np.abs(engine.upscale(lr).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("tile_size", [33, 48, 64])
def test_tiles_of_a_requested_size(tile_size: int) -> None:
    network, lr = Repeat(), noise(2, 3, 70, 100)
    sr = Engine(network, device="cpu", tile_size=tile_size, overlap=32)(lr)
    assert len(network.seen) > 1 and max(max(size) for size in network.sizes) <= tile_size
    torch.testing.assert_close(sr, functional.interpolate(lr, scale_factor=2), rtol=0, atol=1e-6)


def test_tiled_pictures_of_the_generator_equal_the_whole(tiny_generator: TinyGenerator) -> None:
    """The tiny generator's receptive field is 9.5 LR pixels on each side, and a quarter of 48 is 12."""
    generator, lr = tiny_generator(), frames(90, 120)
    whole = Engine(copy.deepcopy(generator), device="cpu", tile_size=0).upscale(lr)
    tiled = Engine(generator, device="cpu", tile_size=70, overlap=48).upscale(lr)
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert (whole != tiled).mean() < 1e-3


@pytest.mark.parametrize(
    ("pixels", "sizes"),
    [
        (70 * 100, [(70, 100)]),
        (70 * 100 - 1, [(70, 66)] * 2),  # 6999 pixels hold 83 x 83
        (2500, [(45, 49)] * 12),  # 50 x 50
        (10, [(45, 46)] * 15),  # 48 x 48: never below the overlap and 16 more
    ],
)
def test_tiles_follow_from_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, pixels: int, sizes: list[tuple[int, int]]
) -> None:
    network = Repeat()
    has_free(monkeypatch, pixels)
    Engine(network, device="cpu", overlap=32)(noise(1, 3, 70, 100))
    assert network.sizes == sizes


def test_a_batch_shares_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    has_free(monkeypatch, 3 * 70 * 100)
    network = Repeat()
    engine = Engine(network, device="cpu")
    engine(noise(3, 3, 70, 100))
    assert network.sizes == [(70, 100)]
    engine(noise(4, 3, 70, 100))
    assert len(network.sizes) > 2


def test_engines_that_share_a_device_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    has_free(monkeypatch, 4 * 50 * 50)
    quarter = Engine(Repeat(), device="cpu", sharing=4).tile_for(1, 70, 100)
    has_free(monkeypatch, 50 * 50)
    assert quarter == Engine(Repeat(), device="cpu").tile_for(1, 70, 100) == 50
    engine = Engine(Repeat(), device="cpu", sharing=2)
    engine.device = torch.device("cuda")  # nothing is run
    has_free(monkeypatch, 600)
    assert engine.batch_size(10, 10) == 3


def test_a_tile_size_of_zero_never_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    has_free(monkeypatch, 10)
    network = Repeat()
    Engine(network, device="cpu", tile_size=0)(noise(1, 3, 70, 100))
    assert network.sizes == [(70, 100)]


def test_a_wide_overlap_widens_the_least_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    has_free(monkeypatch, 10)
    network = Repeat()
    Engine(network, device="cpu", overlap=60)(noise(1, 3, 100, 130))
    assert max(max(size) for size in network.sizes) <= 76


@pytest.mark.parametrize("tile_size", [1, 31, 32, -5])
def test_tiles_no_larger_than_their_overlap_are_refused(tile_size: int) -> None:
    with pytest.raises(UsageError, match=f"tiles share 32 pixels, so a tile of {tile_size} is too small"):
        Engine(Repeat(), device="cpu", tile_size=tile_size, overlap=32)


@pytest.mark.parametrize(("tile_size", "tried"), [(0, [40, 24]), (None, [40, 24]), (50, [25])])
def test_out_of_memory_halves_the_tile_and_repeats_the_frame(
    warnings: pytest.LogCaptureFixture, tile_size: int | None, tried: list[int]
) -> None:
    network = Repeat(limit=24 * 24)
    engine = Engine(network, device="cpu", tile_size=tile_size, overlap=8)
    lr = noise(2, 3, 64, 80)
    sr = engine(lr)
    torch.testing.assert_close(sr, functional.interpolate(lr, scale_factor=2), rtol=0, atol=1e-6)
    assert [record.getMessage() for record in warnings.records] == [
        f"out of memory on cpu: continuing with tiles of {size} pixels" for size in tried
    ]
    # What did not fit is not tried again with the next frame.
    network.seen.clear()
    warnings.clear()
    torch.testing.assert_close(engine(lr), sr, rtol=0, atol=0)
    assert max(max(size) for size in network.sizes) <= tried[-1] and not warnings.records


def test_out_of_memory_in_the_middle_of_a_frame(warnings: pytest.LogCaptureFixture) -> None:
    """Tiles that were computed before are computed again, not added twice."""

    class Fails(Repeat):
        def forward(self, lr: Tensor) -> Tensor:
            if len(self.seen) == 5:
                self.seen.append(lr)
                raise torch.OutOfMemoryError("made up")
            return super().forward(lr)

    lr = noise(1, 3, 64, 80)
    sr = Engine(Fails(), device="cpu", tile_size=40, overlap=8)(lr)
    torch.testing.assert_close(sr, functional.interpolate(lr, scale_factor=2), rtol=0, atol=1e-6)
    assert len(warnings.records) == 1


def test_out_of_memory_with_pictures(warnings: pytest.LogCaptureFixture) -> None:
    lr = frames(2, 64, 80)
    engine = Engine(Repeat(limit=40 * 40), device="cpu", overlap=8)
    assert np.array_equal(engine.upscale(lr), repeated(lr, 2))
    assert len(warnings.records) == 1


@pytest.mark.parametrize(("size", "tried"), [((64, 80), 24), ((20, 20), 20), ((500, 24), 24)], ids=str)
def test_an_error_if_the_smallest_tile_does_not_fit(size: tuple[int, int], tried: int) -> None:
    network = Repeat(limit=10)
    with pytest.raises(VsrError, match=f"cpu has too little free memory for a tile of {tried} pixels") as caught:
        Engine(network, device="cpu", overlap=8)(noise(1, 3, *size))
    assert type(caught.value) is OutOfMemoryError and isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    # Tried it was: the message names the last tile.
    assert max(network.sizes[-1]) <= tried


def test_the_smallest_tile_is_tried_if_halving_skips_it() -> None:
    network = Repeat(limit=48 * 48)
    sr = Engine(network, device="cpu", overlap=32)(noise(1, 3, 90, 90))
    assert sr.shape == (1, 3, 180, 180)


def test_a_fractional_scale_that_does_not_fit_is_not_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(self: nn.Module, lr: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("made up")

    monkeypatch.setattr("vsr.networks.generator.Bicubic.forward", out_of_memory)
    with pytest.raises(VsrError, match="too little free memory for a tile of 100 pixels"):
        load_model("bicubic", scale=2.5, device="cpu")(noise(1, 3, 100, 80))


@pytest.mark.parametrize(
    ("name", "scale", "shape"),
    [
        ("identity", None, (20, 30)),
        ("identity", 1, (20, 30)),
        ("bicubic", None, (80, 120)),
        ("bicubic", 2, (40, 60)),
        ("bicubic", 3, (60, 90)),
        ("bicubic", 1.5, (30, 45)),
        ("bicubic", 2.25, (45, 68)),
        ("bicubic", 0.5, (10, 15)),
    ],
)
def test_built_in_models(name: str, scale: float | None, shape: tuple[int, int]) -> None:
    lr = frames(20, 30)
    engine = load_model(name, scale=scale, device="cpu")
    sr = engine.upscale(lr)
    image = torch.from_numpy(lr).permute(2, 0, 1).float() * (1 / 255)
    expected = resize_bicubic(image, *shape).mul(255).add(0.5).clamp(0, 255).floor().permute(1, 2, 0).numpy()
    assert sr.shape == (*shape, 3)
    assert np.array_equal(sr, expected)


@pytest.mark.parametrize("scale", [2, 2.5])
def test_bicubic_is_the_same_with_a_tile_size(scale: float) -> None:
    lr = frames(60, 90)
    tiled = load_model("bicubic", scale=scale, device="cpu", tile_size=40).upscale(lr)
    assert np.array_equal(tiled, load_model("bicubic", scale=scale, device="cpu").upscale(lr))


def test_load_model_of_a_file(tiny_weights: Path) -> None:
    engine = load_model(str(tiny_weights), device=torch.device("cpu"))
    assert engine.scale == 4 and engine.device == torch.device("cpu")
    assert engine.upscale(frames(5, 6)).shape == (20, 24, 3)
    assert load_model(str(tiny_weights), device="cpu", precision="bf16").precision == "bf16"


def test_load_model_of_missing_models_and_devices(tiny_weights: Path) -> None:
    with pytest.raises(UnknownModelError, match="no model 'nonsense'"):
        load_model("nonsense", device="cpu")
    with pytest.raises(UsageError, match=r"upscales by 4, not by 3"):
        load_model(str(tiny_weights), scale=3, device="cpu")
    with pytest.raises(UsageError, match="no device is called 'tpu'"):
        load_model("bicubic", device="tpu")
    with pytest.raises(UsageError, match="no device 'cuda:99' on this machine"):
        load_model("bicubic", device="cuda:99")
    with pytest.raises(UsageError, match=f"a tile of {module.OVERLAP} is too small"):
        load_model("bicubic", device="cpu", tile_size=module.OVERLAP)


def test_the_shipped_model_shows_no_seam() -> None:
    """With the default overlap, a tiled frame differs from the untiled one by one code value at most."""
    with av.open(str(Path(__file__).parents[2] / "examples" / "clip.mp4")) as clip:
        lr = next(clip.decode(video=0)).to_ndarray(format="rgb24")[:, :96]
    untiled = load_model(device="cpu", tile_size=0).upscale(lr).astype(int)
    apart = np.abs(load_model(device="cpu", tile_size=64).upscale(lr) - untiled)
    assert apart.max() <= 1
