"""What runs a network, and which of them is taken. Another is one more way through ``build_runtime``."""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor, nn

from vsr.errors import UnsupportedError
from vsr.inference import Precision, RuntimeName
from vsr.inference.device import computes_in_bf16
from vsr.inference.torch_backend import DTYPES, CudaRuntime, TorchRuntime
from vsr.networks.weights import Calibration

logger = logging.getLogger(__name__)


class Runtime(Protocol):
    """Runs a network on a device."""

    name: str
    """What it is called among the options."""
    version: str
    """Its name and version, in words."""
    bytes_per_float: float
    """Memory that it takes for each of the network's ``peak_floats_per_pixel``."""

    def __call__(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) float -> (N, 3, scale*H, scale*W) float32, both on the device. From any thread."""

    def step(self, lr: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """A step of a recurrent network: LR frames and a state -> as a call, and the next state, float32."""

    def record(self) -> None:
        """Many frames of a size are to come: do what pays then."""

    def release(self) -> bool:
        """Give up the memory that is kept for frames to come; whether the same batch may fit without it."""


def build_runtime(
    network: nn.Module,
    device: torch.device,
    *,
    runtime: RuntimeName = "auto",
    precision: Precision = "auto",
    calibration: Calibration | None = None,
) -> tuple[Precision, Runtime]:
    """Take what is fastest there: OpenVINO on the CPU where it can run the network, torch elsewhere.

    Args:
        network: (N, 3, H, W) -> (N, 3, scale*H, scale*W), or a recurrent one that takes and gives a state as well; in
            eval mode, float32, on the CPU.
        device: where it shall run.
        runtime: ``auto``, or the one to take.
        precision: ``auto`` is fp16 on CUDA and fp32 elsewhere; fp32 is never TF32.
        calibration: what int8 needs.

    Returns:
        The precision that ``auto`` has become, and what runs the network.

    Raises:
        UnsupportedError: a precision that the device or the runtime does not have.
    """
    if runtime == "openvino" or precision == "int8":
        if runtime in ("torch", "inductor"):
            raise UnsupportedError("torch does not compute in int8 here: leave --engine out.")
        return _by_openvino(network, device, precision, calibration)
    learnt = has_weights(network)
    if runtime == "auto" and device.type == "cpu" and learnt and precision != "fp16":
        try:
            return _by_openvino(network, device, precision, calibration)
        except UnsupportedError as exc:
            logger.info("torch computes, since %s", exc)
    if precision == "auto":
        # What has no weights gains nothing by half precision, and would lose the lower bits of deep sources.
        precision = "fp16" if device.type == "cuda" and learnt else "fp32"
    if precision == "bf16" and device.type == "cuda" and not computes_in_bf16(device):
        raise UnsupportedError(f"{device} does not compute in bf16: take --precision fp16 or fp32.")
    dtype = DTYPES[precision]
    kind = CudaRuntime if device.type == "cuda" and learnt else TorchRuntime
    network = network if dtype is torch.float32 else deepcopy(network)
    return precision, kind(network, device, dtype, compiled=runtime == "inductor" and learnt)


def _by_openvino(
    network: nn.Module, device: torch.device, precision: Precision, calibration: Calibration | None
) -> tuple[Precision, Runtime]:
    if device.type != "cpu":
        raise UnsupportedError(f"OpenVINO and int8 compute on the CPU, not on {device}: add --device cpu.")
    if not has_weights(network):
        raise UnsupportedError("what has no weights, as bicubic and identity, runs in torch and in fp32.")
    if precision == "fp16":
        raise UnsupportedError("OpenVINO has fp32, bf16 and int8 on the CPU, not fp16.")
    if precision == "int8" and calibration is None:
        raise UnsupportedError("int8 needs a calibration of the model: `vsr models calibrate` writes one.")
    try:
        from vsr.inference import openvino_backend
    except ImportError as exc:
        raise UnsupportedError(f"OpenVINO cannot be used ({exc}); `pip install openvino` brings it.") from exc
    if not openvino_backend.supports(precision):
        raise UnsupportedError("this processor does not compute in bf16: take --precision fp32 or int8.")
    precision = "fp32" if precision == "auto" else precision
    try:
        return precision, openvino_backend.OpenVinoRuntime(network, precision, calibration)
    except openvino_backend.UntranslatableError as exc:
        raise UnsupportedError(f"OpenVINO cannot run this network: {exc}.") from exc


def has_weights(network: nn.Module) -> bool:
    """Whether there is something learnt to compute."""
    return any(True for _ in network.parameters())
