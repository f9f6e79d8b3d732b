"""The protocol of runtimes, which run a network, and their selection by ``build_runtime``."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor, nn

from vsr.errors import UnsupportedError, setting
from vsr.inference import Precision, RuntimeName
from vsr.inference.device import computes_in_bf16
from vsr.inference.torch_backend import DTYPES, CudaRuntime, TorchRuntime
from vsr.networks.weights import Calibration

logger = logging.getLogger(__name__)


class Runtime(Protocol):
    """Runs a network on a device."""

    name: str
    """Its name among the options."""
    version: str
    """Its name and version, as text."""
    bytes_per_float: float
    """Bytes of memory for each of the network's ``peak_floats_per_pixel``."""

    def __call__(self, lr: Tensor) -> Tensor:
        """Upscale (N, 3, H, W) float -> (N, 3, scale*H, scale*W) float32, both on the device; from any thread."""

    def step(self, lr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run a step of a recurrent network: LR frames and a state -> SR frames and the next state, float32."""

    def record(self) -> None:
        """Prepare for many frames of one size."""

    def release(self) -> bool:
        """Free the memory that is kept for further frames; return whether the same batch may fit without it."""


def build_runtime(
    network: nn.Module,
    device: torch.device,
    *,
    runtime: RuntimeName = "auto",
    precision: Precision = "auto",
    calibration: Calibration | None = None,
) -> tuple[Precision, Runtime]:
    """Build the requested runtime; ``auto`` is OpenVINO on the CPU where it can run the network, torch elsewhere.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale*H, scale*W), or a recurrent one, which accepts and returns a state too; in
            eval mode, float32, on the CPU.
        device: where to run the network.
        runtime: ``auto``, or a runtime's name.
        precision: ``auto`` is fp16 on CUDA and fp32 elsewhere; fp32 is never TF32.
        calibration: needed for int8.

    Returns:
        The precision that is used, and the runtime.

    Raises:
        UnsupportedError: the device or the runtime does not have the precision.
    """
    if runtime == "openvino" or precision == "int8":
        if runtime in ("torch", "inductor"):
            raise UnsupportedError(f"torch does not compute in int8 here: leave {setting('engine')} out.")
        return _by_openvino(network, device, precision, calibration)
    has_parameters = has_weights(network)
    if runtime == "auto" and device.type == "cpu" and has_parameters and precision != "fp16":
        try:
            return _by_openvino(network, device, precision, calibration)
        except UnsupportedError as exc:
            logger.info("using torch, since %s", exc)
    if precision == "auto":
        # Networks without weights gain nothing by half precision, and would lose the lower bits of deep sources.
        precision = "fp16" if device.type == "cuda" and has_parameters else "fp32"
    if precision == "bf16" and device.type == "cuda" and not computes_in_bf16(device):
        other = setting("precision", ("fp16", "fp32"))
        raise UnsupportedError(f"{device} does not compute in bf16: use {other}.")
    dtype = DTYPES[precision]
    kind = CudaRuntime if device.type == "cuda" and has_parameters else TorchRuntime
    network = network if dtype is torch.float32 else deepcopy(network)
    return precision, kind(network, device, dtype, compiled=runtime == "inductor" and has_parameters)


def _by_openvino(
    network: nn.Module, device: torch.device, precision: Precision, calibration: Calibration | None
) -> tuple[Precision, Runtime]:
    if device.type != "cpu":
        cpu = setting("device", "cpu")
        raise UnsupportedError(f"OpenVINO and int8 compute on the CPU, not on {device}: add {cpu}.")
    if not has_weights(network):
        raise UnsupportedError("models without weights (bicubic, identity) run in torch and in fp32 only.")
    if precision == "fp16":
        raise UnsupportedError("OpenVINO has fp32, bf16 and int8 on the CPU, not fp16.")
    if precision == "int8" and calibration is None:
        raise UnsupportedError("int8 needs a calibration of the model: `vsr models calibrate` writes one.")
    try:
        from vsr.inference import openvino_backend
    except ImportError as exc:
        raise UnsupportedError(f"OpenVINO cannot be used ({exc}); `pip install openvino` brings it.") from exc
    if not openvino_backend.supports(precision):
        other = setting("precision", ("fp32", "int8"))
        raise UnsupportedError(f"this processor does not compute in bf16: use {other}.")
    precision = "fp32" if precision == "auto" else precision
    try:
        return precision, openvino_backend.OpenVinoRuntime(network, precision, calibration)
    except openvino_backend.UntranslatableError as exc:
        raise UnsupportedError(f"OpenVINO cannot run this network: {exc}.") from exc


def has_weights(network: nn.Module) -> bool:
    """Whether the network has parameters."""
    return any(True for _ in network.parameters())
