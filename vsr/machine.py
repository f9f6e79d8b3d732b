"""Benchmarks and diagnosis of this machine.

``bench`` measures the speed of the network and of the whole pipeline, and the time of each stage; ``peak_product`` is
the matrix product that it compares with; ``diagnose`` lists devices, codecs and versions.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from math import ceil
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

import av
import ffmpeg
import torch
from av.codec import codecs_available

import vsr
from vsr.errors import UnsupportedError, UsageError, VsrError, setting
from vsr.inference import Precision, RuntimeName
from vsr.inference.device import available_memory, choose_device, measure_cost, operations_per_pixel, seconds_of
from vsr.inference.engine import Engine
from vsr.inference.torch_backend import DTYPES, exact_on_cuda
from vsr.media.ffmpeg import ffmpeg_program, run
from vsr.media.formats import CODECS, Timing
from vsr.media.probe import probe
from vsr.media.reader import Frame
from vsr.networks.weights import load_network
from vsr.pipeline.job import ClipPlan, plan_clip
from vsr.pipeline.options import BenchOptions, UpscaleOptions
from vsr.pipeline.outputs import ClipOutput, FrameWriter
from vsr.pipeline.segment import Timer, untimed, upscale_segments

MIN_FRAMES, MAX_FRAMES = 6, 2000
"""Number of frames of the clip that the pipeline is measured with."""

STAGES = ("decode", "upload", "to RGB", "network", "from RGB", "download", "encode", "waiting")
"""Stages in the order of the data. ``waiting`` is the time that the network's thread waits for frames and for the
encoder; decode and encode have threads of their own."""

NOT_ON_DEVICE = ("decode", "encode", "waiting")
"""Stages that do not wait for the device."""

REPEATS = 5
"""How often the bare network and a matrix product are timed at least, before and after the pipeline."""

BARE_SHARE = 0.2
"""Fraction of the pipeline's time for which the bare network is timed before it, and again after it."""

ROUNDS = 2
"""How often the pipeline runs, with the bare network before, between and after. Figures are medians."""


@dataclass(frozen=True)
class Speed:
    """The measured speed of a model with one engine, precision and size.

    Attributes:
        model: the model's name.
        width: of the clip, in pixels.
        height: of the clip, in pixels.
        engine: name and version of the engine.
        precision: precision of the network.
        device: the device.
        network_fps: frames per second of the bare network.
        share_of_peak: its operations per second over those of a large matrix product in the same precision, on the
            fastest engine of the device, measured right after it; two per multiply-add of the network as published,
            before the rewrites. None if there is no such product.
        pipeline_fps: frames per second from the file to the encoded file.
        efficiency: ``pipeline_fps`` over the speed of the bare network right before and after.
        milliseconds: time per frame of each of ``STAGES``.
        memory_bytes: peak memory of the pipeline; what was used before is not counted, except on CUDA. None if the
            system does not report it.
        frames: number of frames of the clip.
    """

    model: str
    width: int
    height: int
    engine: str
    precision: str
    device: str
    network_fps: float
    share_of_peak: float | None
    pipeline_fps: float
    efficiency: float
    milliseconds: Mapping[str, float]
    memory_bytes: int | None
    frames: int


def bench(options: BenchOptions) -> Iterator[Speed]:
    """Measure each model, size, engine and precision, one after the other.

    Raises:
        UsageError: an unknown model or device, or nothing can be measured.
    """
    device = choose_device(options.device)
    found = False
    for model in options.models:
        for width, height in options.sizes:
            with TemporaryDirectory(prefix="vsr-bench-") as folder:
                for runtime, precision in _variants(options, device):
                    upscale = UpscaleOptions(
                        model=model, device=options.device, engine=runtime, precision=precision,
                        codec=None if options.codec == "none" else options.codec,
                    )  # fmt: skip
                    try:
                        speed = _Bench(width, height, upscale, options, Path(folder)).measure()
                    except UnsupportedError:
                        if options.precisions or options.engine != "auto":
                            raise
                        continue
                    found = True
                    yield speed
    if not found:
        left = f"{setting('engine')} and {setting('precisions', flag='--precision')}"
        raise UsageError(f"{device} has no such engine or precision to measure; leave out {left}.")


def _variants(options: BenchOptions, device: torch.device) -> list[tuple[RuntimeName, Precision]]:
    """Return engines and precisions that may be available."""
    variants: list[tuple[RuntimeName, Precision]] = [("torch", "fp32"), ("torch", "fp16"), ("torch", "bf16")]
    if device.type == "cpu":
        variants = [("torch", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")]
        if options.precisions:
            variants += [("torch", "bf16"), ("torch", "fp16")]
    if options.engine == "inductor":  # takes half a minute each, so only on request
        variants = [("inductor", precision) for runtime, precision in variants if runtime == "torch"]
    return [
        (runtime, precision)
        for runtime, precision in variants
        if options.engine in ("auto", runtime) and (not options.precisions or precision in options.precisions)
    ]


class Stopwatch:
    """Sums up the seconds of each stage.

    Args:
        device: on CUDA, the stages from upload to download end with a synchronisation, since calls are asynchronous;
            this prevents the stages from overlapping.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._lock = device, threading.Lock()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        started = time.perf_counter()
        try:
            yield
            if self._device.type == "cuda" and stage not in NOT_ON_DEVICE:
                torch.cuda.synchronize(self._device)
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - started


class _Bench:
    """The benchmark of one engine, precision and size."""

    def __init__(self, width: int, height: int, upscale: UpscaleOptions, options: BenchOptions, folder: Path) -> None:
        self._width, self._height = width, height
        self._upscale, self._options, self._folder = upscale, options, folder

    def measure(self) -> Speed:
        """Measure the bare network and the pipeline alternately, so that drifts affect both."""
        plan = self._plan(MIN_FRAMES)
        engine, seconds = plan.engine, self._options.seconds
        lr = torch.rand(1, 3, self._height, self._width, device=engine.device).repeat(plan.job.batch_size, 1, 1, 1)
        product = peak_product(engine.device, engine.precision)
        operations = operations_per_pixel(load_network(plan.job.engine.model)) * self._width * self._height

        def measure_network() -> tuple[float, float | None]:
            """Return frames per second, and the share of the peak."""
            fps = len(lr) / _mean_seconds_of(lambda: _synchronised(engine, lr), BARE_SHARE * seconds)
            if product is None:
                return fps, None
            return fps, fps * operations * _mean_seconds_of(product.multiply) / product.operations

        speeds = [measure_network()]
        frames = min(MAX_FRAMES, max(MIN_FRAMES, ceil(seconds * speeds[0][0])))
        longer = self._plan(frames)
        plan = replace(longer, engine=engine, job=replace(longer.job, batch_size=plan.job.batch_size))
        stages, pipeline, memory = Stopwatch(engine.device), [], 0
        for _ in range(ROUNDS):
            _, cost = measure_cost(lambda: self._run(plan, stages), engine.device)
            whole, memory = cost.seconds, max(memory, cost.memory_bytes or 0)
            if engine.device.type == "cuda":  # the stopwatch slows it down, and kernels are recorded by now
                whole = seconds_of(lambda: self._run(plan, untimed))
                memory = torch.cuda.max_memory_reserved(engine.device)
            pipeline.append(frames / whole)
            speeds.append(measure_network())
        between = [(before[0] + after[0]) / 2 for before, after in zip(speeds, speeds[1:], strict=False)]
        return Speed(
            plan.job.engine.model, self._width, self._height, engine.version, engine.precision, str(engine.device),
            median(fps for fps, _ in speeds), _median_or_none([share for _, share in speeds]), median(pipeline),
            median(whole / bare_fps for whole, bare_fps in zip(pipeline, between, strict=True)),
            {stage: 1000 * stages.seconds[stage] / frames / ROUNDS for stage in STAGES}, memory or None, frames,
        )  # fmt: skip

    def _plan(self, frames: int) -> ClipPlan:
        clip = probe(_test_clip(self._folder, self._width, self._height, frames))
        kind = _WithoutEncoder if self._options.codec == "none" else ClipOutput
        return plan_clip(clip, kind(clip, self._folder / "out.mp4", self._upscale), self._upscale, {})

    def _run(self, plan: ClipPlan, timer: Timer) -> None:
        with TemporaryDirectory(dir=self._folder) as folder:
            upscale_segments(
                plan.job, plan.segments, plan.engine, Path(folder),
                on_frames=lambda count: None, on_finished=lambda done, at: None, timer=timer,
            )  # fmt: skip


def _test_clip(folder: Path, width: int, height: int, frames: int) -> Path:
    """Return a clip of moving shapes, H.264, 25 frames per second; it is made if it is missing."""
    path = folder / f"{width}x{height}-{frames}.mkv"
    if not path.exists():
        shapes = ffmpeg.input(f"testsrc2=size={width}x{height}:rate=25", f="lavfi")
        pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"  # libx264 has no 4:2:0 of odd sizes
        run(ffmpeg.output(shapes, str(path), vframes=frames, vcodec="libx264", preset="veryfast", pix_fmt=pix_fmt))
    return path


class _WithoutEncoder(ClipOutput):
    """An output that is planned as H.264, but keeps no frames."""

    def writer(self, folder: Path, threads: int) -> FrameWriter:
        """As ``Output``."""
        return cast(FrameWriter, _Discard())


class _Discard(nullcontext[None]):
    packets: tuple[Timing, ...] = ()

    def write(self, frame: Frame) -> None:
        """Discard a frame."""


def _synchronised(engine: Engine, lr: torch.Tensor) -> None:
    engine(lr)
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def _median_or_none(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _mean_seconds_of(work: Callable[[], object], least: float = 0) -> float:
    """Return the mean duration of runs that take ``least`` seconds together, after one to warm up."""
    work()
    durations: list[float] = []
    while len(durations) < REPEATS or sum(durations) < least:
        durations.append(seconds_of(work))
    return mean(durations)


SIZES = {"cuda": 8192, "cpu": 4096}
"""Rows and columns of the matrices, by type of device."""

OTHER_SIZE = 2048


class Product(NamedTuple):
    """A product of two square matrices.

    Attributes:
        multiply: computes it once, and waits for the result.
        operations: floating-point operations: two per multiply-add.
    """

    multiply: Callable[[], object]
    operations: int


def peak_product(device: torch.device, precision: Precision) -> Product | None:
    """Return the product by the fastest engine of the device; None if no engine has that precision."""
    size = SIZES.get(device.type, OTHER_SIZE)
    candidates: list[Callable[[], object]] = []
    if device.type == "cpu" and precision != "fp16":
        with suppress(ImportError):
            from vsr.inference import openvino_backend

            if openvino_backend.supports(precision):
                candidates.append(openvino_backend.matrix_product(precision, size))
    if precision in DTYPES:
        candidates.append(_torch_product(device, DTYPES[precision], size))
    for multiply in candidates:
        multiply()  # warm up
    return Product(min(candidates, key=seconds_of), 2 * size**3) if candidates else None


def _torch_product(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], object]:
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        if device.type != "cuda":
            torch.mm(left, right)
            return
        with exact_on_cuda():
            torch.mm(left, right)
            torch.cuda.synchronize(device)

    return multiply


PACKAGES = (
    "torch", "torchvision", "openvino", "av", "imageio-ffmpeg", "ffmpeg-python", "opencv-python-headless", "numpy",
    "pillow", "safetensors", "tifffile", "click", "tqdm", "lightning-fabric", "matplotlib", "torchmetrics",
    "torch-fidelity", "ray", "tensorboard",
)  # fmt: skip
"""Packages whose versions are listed: those of the plain install, then those of the extras."""


@dataclass(frozen=True)
class Diagnosis:
    """The state of this installation and machine.

    Attributes:
        vsr: version.
        python: version and implementation.
        system: name and version, processor, cores, free memory.
        ffmpeg: the ffmpeg program, or why there is none.
        libav: versions of the libraries in PyAV that decode and encode.
        devices: the devices that torch sees, as text.
        takes: the device that ``--device auto`` uses.
        precisions: precisions of OpenVINO on this CPU.
        codecs: codecs of ``vsr upscale --codec``, and whether this build of libav has the encoder.
        packages: versions by name; None for packages that are not installed.
    """

    vsr: str
    python: str
    system: str
    ffmpeg: str
    libav: str
    devices: tuple[str, ...]
    takes: str
    precisions: tuple[str, ...]
    codecs: dict[str, bool]
    packages: dict[str, str | None]


def diagnose() -> Diagnosis:
    """Collect what a bug report should contain; missing parts raise no error."""
    return Diagnosis(
        vsr=vsr.__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        system=f"{platform.platform()}, {os.cpu_count()} cores, {available_memory() / 2**30:.1f} GiB free",
        ffmpeg=_ffmpeg(),
        libav=_libav(),
        devices=tuple(_devices()),
        takes=str(choose_device("auto")),
        precisions=tuple(_precisions()),
        codecs={name: codec.encoder in codecs_available for name, codec in CODECS.items()},
        packages={name: _version(name) for name in PACKAGES},
    )


def _ffmpeg() -> str:
    try:
        return str(ffmpeg_program())
    except VsrError as exc:
        return str(exc)


def _libav() -> str:
    versions = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return ", ".join(f"{name} {versions[name]}" for name in ("libavcodec", "libavformat", "libavfilter"))


def _devices() -> list[str]:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    if not torch.cuda.is_available():
        found = ["mps"] if torch.backends.mps.is_available() else []
        return [*found, f"cpu (this torch is built for {build}, and sees no such GPU)"]
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    gpus = [f"cuda:{number} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for number, gpu in enumerate(properties)]
    return [*gpus, f"cpu (torch is built for {build})"]


def _precisions() -> list[str]:
    try:
        from vsr.inference.openvino_backend import HINTS, supports
    except ImportError as exc:
        return [f"fp32 by torch only, since OpenVINO cannot be used: {exc}"]
    return [precision for precision in HINTS if supports(precision)]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
