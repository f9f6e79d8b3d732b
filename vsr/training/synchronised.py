"""What several processes have to agree on within an update: sums, joined batches, and batch normalisation over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of their gradients."""

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
    """The parts (n,) of all processes, in their order: (processes * n,).

    Gradients flow back to the process that a part came from. There they count once for each process that uses the
    whole, as the mean over processes wants that follows.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return part
    whole = part.new_zeros(distributed.get_world_size(), len(part))
    whole = whole.index_copy(0, torch.tensor([distributed.get_rank()], device=part.device), part[None])
    return _sum(whole).flatten()


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics in training are those of the joined batch: (N, C, H, W) -> the same.

    All processes must hold equally many pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean = _mean(x.mean((0, 2, 3)))  # (N, C, H, W) -> (C,)
        centred = x - mean[:, None, None]
        variance = _mean(centred.square().mean((0, 2, 3)))
        count = distributed.get_world_size() * x.numel() // x.shape[1]
        self._remember(mean.detach(), variance.detach(), count)
        scale: Tensor = self.weight / (variance + self.eps).sqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)


def _mean(part: Tensor) -> Tensor:
    return _sum(part) / distributed.get_world_size()


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(tensor)
    return total


def synchronise(network: nn.Module, device: torch.device) -> nn.Module:
    """Put synchronised normalisations in the place of all others: torch's own on a GPU, ours elsewhere."""
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
