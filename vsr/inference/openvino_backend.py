"""Run a network by OpenVINO on the CPU: two to three times as fast as plain torch, ten times in 8-bit integers.

The network is traced by ``torch.fx`` and translated to OpenVINO's operations: each kind of layer is an entry of
``LAYERS``. ``calibrate`` measures what int8 needs. Imported where it is used, since importing OpenVINO takes a third of
a second.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino import opset13 as ops
from torch import Tensor, fx, nn

from vsr.networks.recurrent import REACH, Enlargement, RecurrentGenerator
from vsr.networks.rewrites import simplify
from vsr.networks.weights import Calibration

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""OpenVINO's name of the type of everything except the 8-bit convolutions, by precision."""

BYTES_PER_FLOAT = {"fp32": 2.5, "bf16": 1.5, "int8": 1.5}
"""Memory by precision: OpenVINO fuses layers and frees their maps early, so that it needs less than torch (measured
from 160x90 to 640x360)."""

NO_BIAS = 1e-30
"""Negligible in float32 beside any value of a picture, but not zero."""


class UntranslatableError(Exception):
    """A network has an operation that cannot be translated."""


class OpenVinoRuntime:
    """Runs a network on the CPU, for frames of any size.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale*H, scale*W), or a recurrent one, which accepts and returns a state too; in
            eval mode, float32, on the CPU.
        precision: a key of ``HINTS``.
        calibration: needed for int8.

    Raises:
        UntranslatableError: the network has an operation that cannot be translated.
    """

    name = "openvino"
    version = f"openvino {openvino.__version__.partition('-')[0]}"

    def __init__(self, network: nn.Module, precision: str, calibration: Calibration | None = None) -> None:
        self.bytes_per_float = BYTES_PER_FLOAT[precision]
        self._lock = threading.Lock()
        self._model, self._precision = translate(network, calibration if precision == "int8" else None), precision
        self._request: openvino.InferRequest | None = _compiled(self._model, precision)

    def __call__(self, lr: Tensor) -> Tensor:
        """Upscale (N, 3, H, W) float on the CPU -> (N, 3, scale*H, scale*W) float32."""
        return self._compute(lr)[0]

    def step(self, lr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run a step of a recurrent network: LR frames and a state -> SR frames and the next state, float32."""
        sr, following = self._compute(lr, state)
        return sr, following

    def _compute(self, *inputs: Tensor) -> list[Tensor]:
        arrays = [each.float().contiguous().numpy() for each in inputs]  # keeps the memory that OpenVINO reads
        with self._lock:
            if self._request is None:
                self._request = _compiled(self._model, self._precision)
            self._request.infer([openvino.Tensor(array, shared_memory=True) for array in arrays])
            results = [torch.from_numpy(tensor.data.copy()) for tensor in self._request.output_tensors]
        if not results[0].numel():  # happens if memory runs out inside, without an error
            raise MemoryError(f"OpenVINO has no result for {tuple(inputs[0].shape)}")
        return results

    def record(self) -> None:
        """Do nothing: any size runs at full speed."""

    def release(self) -> bool:
        """Compile again for the next frame: a failed request keeps its memory, and needs as much at any other size."""
        with self._lock:
            self._request = None
        return False


def supports(precision: str) -> bool:
    """Whether this CPU computes in a precision natively."""
    return precision != "bf16" or "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def matrix_product(precision: str, size: int) -> Callable[[], object]:
    """Return a function that computes the product of two square matrices."""
    left, right = (np.random.default_rng(seed).random((size, size), np.float32) for seed in range(2))
    source = ops.parameter([size, size], np.float32)
    if precision == "int8":
        quantised = ops.fake_quantize(source, *(np.float32(limit) for limit in (0, 1, 0, 1)), 256)
        other = ops.multiply(ops.convert(ops.constant((right * 127).astype(np.int8)), "f32"), np.float32(1 / 127))
        product = ops.matmul(quantised, other, False, False)
    else:
        product = ops.matmul(source, ops.constant(right), False, False)
    request = _compiled(openvino.Model([ops.result(product)], [source], "product"), precision)
    return lambda: request.infer([left])


def _compiled(model: openvino.Model, precision: str) -> openvino.InferRequest:
    # Not cached on disk: it takes 0.06 s, in int8 0.2 s, and OpenVINO's cache does not notice damaged files.
    options = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        # Pinned threads of several processes would share the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    return _core().compile_model(model, "CPU", options).create_infer_request()


@cache
def _core() -> openvino.Core:
    return openvino.Core()


class _Tracer(fx.Tracer):
    """Traces a network without tracing into layers that are in ``LAYERS``."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LAYERS or super().is_leaf_module(m, module_qualified_name)


def translate(network: nn.Module, calibration: Calibration | None = None) -> openvino.Model:
    """Translate a network to OpenVINO's operations, for float32 of any size.

    Args:
        network: in eval mode; of (N, 3, H, W), or recurrent: of that and a state, with two results.
        calibration: makes its convolutions compute in 8 bits; None: all in floating point.

    Raises:
        UntranslatableError: it has an operation that cannot be translated.
    """
    try:
        return _translated(_Tracer().trace(network), network, calibration or Calibration({}))
    except UntranslatableError:
        raise
    except Exception as exc:  # a network's code can fail in any way under a tracer, and so can OpenVINO
        raise UntranslatableError(f"{type(exc).__name__}: {exc}") from exc


def _translated(graph: fx.Graph, network: nn.Module, calibration: Calibration) -> openvino.Model:
    sources: list[Any] = []
    results: dict[fx.Node, Any] = {}
    ranges = calibration.ranges
    for node in graph.nodes:
        if node.kwargs:
            raise UntranslatableError(f"{node} is called by keywords")
        inputs: Any = fx.node.map_arg(node.args, results.__getitem__)
        match node.op:
            case "placeholder":
                channels = cast(RecurrentGenerator, network).state_channels if sources else 3
                results[node] = ops.parameter([-1, channels, -1, -1], np.float32)
                sources.append(results[node])
            case "get_attr":
                results[node] = ops.constant(operator.attrgetter(node.target)(network).numpy())
            case "call_module":
                layer = network.get_submodule(node.target)
                results[node] = _lookup(LAYERS, type(layer), str(layer))(inputs[0], layer, ranges.get(node.target))
            case "call_function" | "call_method":
                results[node] = _lookup(FUNCTIONS, node.target, str(node))(*inputs)
            case "output":
                sr, *rest = inputs[0] if isinstance(inputs[0], (tuple, list)) else [inputs[0]]
                sr = _subtract_shift(sr, calibration.shift) if ranges else sr
                found = [ops.result(each) for each in (sr, *rest)]
                return openvino.Model(found, sources, type(network).__name__)
    raise UntranslatableError("it has no result")


def _subtract_shift(sr: Any, shift: Sequence[float]) -> Any:
    """Subtract a value for each colour from a result; before a last PixelShuffle, which is much faster."""
    shuffled = sr.get_type_name() == "DepthToSpace"
    factor = sr.get_attributes()["block_size"] if shuffled else 1
    values = np.repeat(np.array(shift, np.float32), factor**2).reshape(1, -1, 1, 1)
    shifted = ops.subtract(sr.input_value(0) if shuffled else sr, ops.constant(values))
    return ops.depth_to_space(shifted, "depth_first", factor) if shuffled else shifted


def _lookup(table: Mapping[Any, Callable[..., Any]], key: object, name: str) -> Callable[..., Any]:
    if key not in table:
        raise UntranslatableError(f"no translation of {name}")
    return table[key]


def _convolution(x: Any, layer: nn.Conv2d, measured: tuple[float, float] | None) -> Any:
    weight = layer.weight.detach().numpy()
    if layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise UntranslatableError(f"no translation of {layer}")
    kernel = ops.constant(weight)
    if measured is not None and is_quantised(layer):
        integers, unit = quantise_weights(weight)
        kernel = ops.multiply(ops.convert(ops.constant(integers), "f32"), ops.constant(unit))
        least, greatest = (np.float32(value) for value in with_exact_zero(*measured))
        x = ops.fake_quantize(x, least, greatest, least, greatest, 256)
    padding = list(layer.padding)
    y = ops.convolution(x, kernel, list(layer.stride), padding, padding, list(layer.dilation))
    bias = np.zeros(len(weight), np.float32) if layer.bias is None else layer.bias.detach().numpy()
    # An 8-bit convolution without a bias returned zeros if its result was used in an addition and elsewhere too.
    bias = bias if bias.any() else np.full_like(bias, NO_BIAS)
    return ops.add(y, ops.constant(bias.reshape(1, -1, 1, 1)))


def _enlargement(x: Any, layer: Enlargement, _: object) -> Any:
    frame = [0, 0, REACH, REACH]
    size = 2 * REACH + 1
    kernel = ops.constant(layer.weight.numpy().reshape(3, -1, 1, size, size))
    padded = ops.pad(x, frame, frame, "edge")
    return ops.group_convolution(padded, kernel, [1, 1], [0, 0], [0, 0], [1, 1])


def _pixel_shuffle(x: Any, layer: nn.PixelShuffle, _: object) -> Any:
    return ops.depth_to_space(x, "depth_first", layer.upscale_factor)


LAYERS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Conv2d: _convolution,
    nn.PReLU: lambda x, layer, _: ops.prelu(x, ops.constant(layer.weight.detach().numpy())),
    nn.LeakyReLU: lambda x, layer, _: ops.prelu(x, ops.constant(np.full(1, layer.negative_slope, np.float32))),
    nn.PixelShuffle: _pixel_shuffle,
    Enlargement: _enlargement,
    nn.Identity: lambda x, layer, _: x,
}
"""Translations by class: from the input, the layer and its measured range to the result."""

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    operator.add: lambda x, y: ops.add(_value(x), _value(y)),
    operator.sub: lambda x, y: ops.subtract(_value(x), _value(y)),
    operator.mul: lambda x, y: ops.multiply(_value(x), _value(y)),
    operator.truediv: lambda x, y: ops.divide(_value(x), _value(y)),
    "tanh": ops.tanh,
    torch.cat: lambda parts, axis: ops.concat(list(parts), axis),
}
"""Translations by function, or by a method's name: from the arguments to the result."""


def _value(value: Any) -> Any:
    return ops.constant(np.float32(value)) if isinstance(value, (int, float)) else value


LEVELS = 255
"""Steps of an unsigned byte from its least to its greatest value."""

GREATEST_WEIGHT = 127

STILL_FRAMES = 4
"""Steps on one frame, so that the values of a recurrent network's state are measured too."""


@torch.no_grad()
def calibrate(network: nn.Module, pictures: Sequence[Tensor], tick: Callable[[], None] = lambda: None) -> Calibration:
    """Measure the range of the input of each convolution, and how far 8 bits then shift the mean of the result.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale*H, scale*W), or a recurrent one, in eval mode; not changed.
        pictures: typical input, (N, 3, H, W) each. A recurrent network gets each as a clip of ``STILL_FRAMES`` equal
            frames; its state changes from step to step nevertheless.
        tick: called after each picture; each is used twice.

    Raises:
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("a calibration needs at least one picture")
    network = deepcopy(network)
    simplify(network)
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    ranges = dict.fromkeys(convolutions, (0.0, 0.0))  # include zero, the value of the padding

    def observe(name: str, lr: Tensor) -> None:
        least, greatest = ranges[name]
        ranges[name] = (min(least, float(lr.min())), max(greatest, float(lr.max())))

    hooks = [
        layer.register_forward_pre_hook(lambda _, lr, name=name: observe(name, lr[0]))
        for name, layer in convolutions.items()
    ]
    exact = _mean_of(network, pictures, tick)
    for hook in hooks:
        hook.remove()
    for name, layer in convolutions.items():
        if is_quantised(layer):
            _quantise(layer, ranges[name])
    red, green, blue = (_mean_of(network, pictures, tick) - exact).tolist()
    return Calibration(ranges, (red, green, blue))


def _mean_of(network: nn.Module, pictures: Iterable[Tensor], tick: Callable[[], None]) -> Tensor:
    means = []
    for picture in pictures:
        means.append(_last_result(network, picture).clamp(0, 1).mean((0, 2, 3)))
        tick()
    return torch.stack(means).mean(0)


def _last_result(network: nn.Module, picture: Tensor) -> Tensor:
    if not isinstance(network, RecurrentGenerator):
        return cast(Tensor, network(picture))
    sr, state = picture, network.initial_state(picture)
    for _ in range(STILL_FRAMES):
        sr, state = network(picture, state)
    return sr


def is_quantised(layer: nn.Conv2d) -> bool:
    """Whether a convolution is computed in int8. The first is not: it is 1 % of the work, and needs more precision."""
    return layer.in_channels > 3


def _quantise(layer: nn.Conv2d, measured: tuple[float, float]) -> None:
    """Simulate an 8-bit convolution in floating point, in place."""
    integers, unit = quantise_weights(layer.weight.numpy())
    layer.weight.copy_(torch.from_numpy(integers * unit))
    least, greatest = with_exact_zero(*measured)
    step = (greatest - least) / LEVELS
    levels = step, round(-least / step), 0, LEVELS
    layer.register_forward_pre_hook(lambda _, lr: torch.fake_quantize_per_tensor_affine(lr[0], *levels))


def with_exact_zero(least: float, greatest: float) -> tuple[float, float]:
    """Return the nearest range whose 256 levels include exactly zero, so that padding stays zero."""
    if least == greatest:  # all values were zero
        return 0.0, 1.0
    step = (greatest - least) / LEVELS
    below = round(-least / step)
    return -below * step, (LEVELS - below) * step


def quantise_weights(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round a kernel so that the sum over the taps of each input channel is kept.

    Neighbouring pixels are nearly equal, so the sum of the taps matters most: rounded one by one, their errors add up
    to a change of brightness. Therefore some taps of a channel are rounded the other way, those nearest to a half
    first, until their sum is the rounded sum. For SRResNet x4 on Set5 this reduces the loss from 0.14 dB to 0.05.

    Args:
        weight: (O, C, k, k).

    Returns:
        The integers, and (O, 1, 1, 1) the value of one unit.
    """
    scale = np.maximum(np.abs(weight).max((1, 2, 3), keepdims=True), np.finfo(np.float32).tiny) / GREATEST_WEIGHT
    exact = (weight / scale).reshape(*weight.shape[:2], -1)
    rounded = np.round(exact)
    missing = np.round(exact.sum(-1, keepdims=True) - rounded.sum(-1, keepdims=True))
    error = (exact - rounded) * np.sign(missing)
    rank = np.argsort(np.argsort(-error, axis=-1, kind="stable"), axis=-1, kind="stable")
    rounded += np.sign(missing) * (rank < np.abs(missing))
    integers = np.clip(rounded, -GREATEST_WEIGHT, GREATEST_WEIGHT).astype(np.int8)
    return integers.reshape(weight.shape), scale.astype(np.float32)
