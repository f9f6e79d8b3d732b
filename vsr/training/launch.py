"""Start the processes of a run with Lightning Fabric: one on one device, or several that share each batch.

Several processes are spawned here and report here: the caller's callbacks run in its own process, an error in one
process ends all of them, and Ctrl-C stops them cleanly. Also chooses device and precision, and joins tensors and batch
normalisation over the processes.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from logging.handlers import QueueHandler
from queue import Empty
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from vsr.errors import (
    TrainingError,
    UsageError,
    VsrError,
    needs_extra,
    setting,
    settings,
    settings_are_flags,
    spell_settings,
)
from vsr.inference.device import choose_device, computes_in_bf16
from vsr.networks.rewrites import float32_products
from vsr.training.options import TrainOptions, started_processes

with needs_extra("train", "training"):
    import matplotlib  # noqa: F401 - the figure of the losses
    from lightning_fabric import Fabric as Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

Report = Callable[[Any], None]
Stop = Callable[[], bool]
T = TypeVar("T")

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # here, so that it holds in spawned processes too
logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it reports on stderr which processes it ends

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def launch(work: Callable[..., T], options: TrainOptions, report: Report, should_stop: Stop) -> T:
    """Run ``work(fabric, options, report, should_stop)`` in each process that the options request.

    Args:
        work: importable by name, so that other processes find it; its result and its reports must be picklable.
        options: the options of the run; devices, nodes and precision are used.
        report: called in this process with each report of the first process.
        should_stop: called in this process.

    Returns:
        The result of the first process.

    Raises:
        UsageError: this machine lacks the devices or the precision.
        TrainingError: a process died.
        VsrError: raised by ``work`` in any process.
    """
    options = _join_started_processes(options)
    fabric = _fabric(options)
    if options.devices * options.nodes == 1 or _is_launched_externally():
        fabric.launch()
        if not fabric.is_global_zero:
            logging.getLogger("vsr").setLevel(logging.ERROR)  # only the first process logs
        with _float32_context(fabric, options):
            return work(fabric, options, report, should_stop)
    others = set(multiprocessing.active_children())
    relay = _Relay(report, should_stop)
    try:
        # Arguments are bound and the result is sent, as Fabric searches all that it passes itself for tensors.
        fabric.launch(partial(
            _in_process, work=work, options=options, messages=relay.messages, stop=relay.stop,
            as_flags=settings_are_flags(),
        ))  # fmt: skip
    except (ProcessRaisedException, ProcessExitedException) as exc:
        relay.close()
        if relay.error is not None:
            raise relay.error from exc
        reason = getattr(exc, "signal_name", None) or str(exc).strip().splitlines()[-1]
        if reason == "SIGINT" and should_stop():  # Ctrl-C before the process ignored it
            raise KeyboardInterrupt from exc
        raise TrainingError(
            f"a training process died ({reason}), and the others were stopped; "
            f"continue from the last checkpoint with {setting('resume', True)}."
        ) from exc
    finally:
        relay.close()
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
            child.join()
        if relay.failure is not None:
            raise relay.failure
    return cast(T, relay.result)


class _Relay:
    """Deliver the messages of the other processes in this one, and forward the request to stop to them."""

    def __init__(self, report: Report, should_stop: Stop) -> None:
        context = multiprocessing.get_context("spawn")
        self.messages, self.stop = context.Queue(), context.Event()
        self.error: VsrError | None = None
        self.failure: BaseException | None = None
        """The exception that a callback of the caller raised."""
        self.result: Any = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(report, should_stop), daemon=True)
        self._thread.start()

    def _run(self, report: Report, should_stop: Stop) -> None:
        while True:
            if self._call(should_stop):
                self.stop.set()
            try:
                kind, content = self.messages.get(timeout=0.1)
            except Empty:
                if self._done.is_set():
                    return
                continue
            if kind == "report":
                self._call(partial(report, content))
            elif kind == "log":
                logger = logging.getLogger(content.name)
                if logger.isEnabledFor(content.levelno):
                    logger.handle(content)
            elif kind == "result":
                self.result = content
            else:
                self.error = self.error or content

    def _call(self, callback: Callable[[], Any]) -> Any:
        """Call a callback of the caller; when one raises, stop the run and call no more."""
        if self.failure is not None:
            return None
        try:
            return callback()
        except BaseException as exc:  # raised again in the caller's thread
            self.failure = exc
            self.stop.set()

    def close(self) -> None:
        """Wait until all messages are delivered."""
        self._done.set()
        self._thread.join()


def _in_process(
    fabric: Fabric, *, work: Callable[..., Any], options: TrainOptions, messages: Any, stop: Any, as_flags: bool
) -> None:
    """Run ``work`` in a spawned process."""
    spell_settings(as_flags=as_flags)
    # Ctrl-C reaches every process of a terminal; the parent handles it and forwards the request to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    root = logging.getLogger("vsr")
    root.handlers[:] = [_Forward(messages)] if fabric.is_global_zero else [logging.NullHandler()]
    root.setLevel(logging.INFO)

    def report(content: object) -> None:
        messages.put(("report", content))

    try:
        with _float32_context(fabric, options):
            result = work(fabric, options, report, stop.is_set)
    except VsrError as exc:
        messages.put(("error", exc))
        raise
    if fabric.local_rank == 0:
        messages.put(("result", result))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Forward(QueueHandler):
    def __init__(self, messages: Any) -> None:
        super().__init__(messages)
        self._messages = messages

    def enqueue(self, record: logging.LogRecord) -> None:
        self._messages.put(("log", record))


def _join_started_processes(options: TrainOptions) -> TrainOptions:
    """Return the options with the number of processes that torchrun or srun has started, if it has.

    Raises:
        UsageError: the options request another number, or the batch does not divide among so many.
    """
    started = started_processes()
    requested = options.devices, options.nodes
    if started is None or started == requested:
        return options
    if requested != (1, 1):
        raise UsageError(
            f"{settings(devices=options.devices, nodes=options.nodes)} differs from what torchrun or srun has started, "
            f"{settings(devices=started[0], nodes=started[1])}: leave both out."
        )
    return replace(options, devices=started[0], nodes=started[1])


def _float32_context(fabric: Fabric, options: TrainOptions) -> AbstractContextManager[None]:
    """Set how CUDA multiplies float32 matrices, within the returned context."""
    return float32_products(tf32=_precision(options, fabric.device) == "tf32")


def _fabric(options: TrainOptions) -> Fabric:
    device = choose_device(options.device)
    precision = _precision(options, device)
    several = options.devices * options.nodes > 1
    if device.type == "mps" and several:
        cpu = setting("device", "cpu")
        raise UsageError(f"several processes can share CPUs or CUDA devices, but not mps: use {cpu}.")
    if device.type == "cuda" and options.devices > torch.cuda.device_count():
        found, devices = torch.cuda.device_count(), setting("devices")
        raise UsageError(f"torch finds {found} CUDA devices, but {devices} asks for {options.devices}.")
    if device.index is not None and several:
        device_name, devices = setting("device", options.device), setting("devices")
        raise UsageError(f"{device_name} names one device, but {devices} asks for {options.devices}.")
    method: Any = "popen" if _is_launched_externally() else "spawn"
    if several and options.nodes == 1:
        _use_loopback()
    return Fabric(
        accelerator=device.type,
        devices=[device.index] if device.index is not None else options.devices,
        num_nodes=options.nodes,
        precision=PRECISIONS[precision],
        strategy=DDPStrategy(start_method=method) if several else "auto",
    )


def _use_loopback() -> None:
    """Let the processes of a machine connect over the loopback device if its host name does not resolve to it, as in a
    bare container; torch would do so too, with a warning from each process."""
    try:
        socket.create_server((socket.gethostname(), 0)).close()
    except OSError:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")


def _precision(options: TrainOptions, device: torch.device) -> str:
    if options.precision == "auto":
        return "bf16" if device.type == "cuda" and computes_in_bf16(device) else "fp32"
    if device.type == "cpu" and options.precision in ("fp16", "tf32"):
        wanted = setting("precision", options.precision)
        raise UsageError(f"{wanted} needs a GPU; the CPU computes in fp32 or bf16.")
    if device.type == "mps" and options.precision == "tf32":
        wanted = setting("precision", "tf32")
        raise UsageError(f"{wanted} needs a CUDA device; mps computes in fp32, fp16 or bf16.")
    return options.precision


def _is_launched_externally() -> bool:
    """Whether torchrun or a scheduler has started a process for each device already."""
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ or ("LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ)
    return torchrun or ("SLURM_NTASKS" in os.environ and "SLURM_PROCID" in os.environ)


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes; the gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def joined(part: Tensor) -> Tensor:
    """Concatenate the parts (n,) of all processes in their order: (processes * n,).

    Gradients flow back to the process of each part, once for each process that uses the result: the mean of gradients
    over processes, which follows, needs them so.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return part
    whole = part.new_zeros(distributed.get_world_size(), len(part))
    whole = whole.index_copy(0, torch.tensor([distributed.get_rank()], device=part.device), part[None])
    return _sum_over_processes(whole).flatten()


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the statistics of the batch of all processes in training: (N, C, H, W) -> the same.

    All processes must have the same number of pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean = _mean_over_processes(x.mean((0, 2, 3)))  # (N, C, H, W) -> (C,)
        centred = x - mean[:, None, None]
        variance = _mean_over_processes(centred.square().mean((0, 2, 3)))
        count = distributed.get_world_size() * x.numel() // x.shape[1]
        self._update_running_statistics(mean.detach(), variance.detach(), count)
        scale: Tensor = self.weight / (variance + self.eps).sqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)


def _mean_over_processes(part: Tensor) -> Tensor:
    return _sum_over_processes(part) / distributed.get_world_size()


def _sum_over_processes(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(tensor)
    return total


def synchronise(network: nn.Module, device: torch.device) -> nn.Module:
    """Replace all batch normalisations by synchronised ones: torch's own on a GPU, ours elsewhere."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for name, child in network.named_children():
        if type(child) is nn.BatchNorm2d:
            norm = SynchronisedBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(network, name, norm.to(device))
        else:
            synchronise(child, device)
    return network
