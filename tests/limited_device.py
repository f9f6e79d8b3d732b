"""A replacement for Apple's MPS that computes on the CPU and refuses the types that MPS lacks.

Like every device, it refuses tensors of two devices in one operation.

Its name is ``meta``, whose tensors normally have no values; here they have values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
LACKING = (torch.float64, torch.complex128, torch.uint16, torch.uint32, torch.uint64)
"""Dtypes that the device refuses."""

CROSSING = re.compile(r"aten\.(to|_to_copy|copy_|index\w*)\.")
"""Names of operations that accept tensors of two devices: copies and indexing."""


@contextmanager
def limited_device() -> Iterator[torch.device]:
    """Make ``DEVICE`` compute within the context."""
    with _FromLists(), _Factories():
        yield DEVICE


class _FromLists(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.tensor and kwargs.get("device") == DEVICE:
            return torch.tensor(*args, **{**kwargs, "device": None}).to(DEVICE)
        return function(*args, **kwargs)


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _LimitedTensor(Tensor):
    """A tensor of the device, with the CPU tensor that contains its values."""

    held: Tensor
    is_meta = False

    @staticmethod
    def __new__(cls, held: Tensor) -> _LimitedTensor:
        if held.dtype in LACKING:
            raise TypeError(f"the device has no {held.dtype}")
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        limited = Tensor._make_wrapper_subclass(cls, held.size(), device=DEVICE, **layout)  # type: ignore[attr-defined]
        limited.held = held
        return limited

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Tensor:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        return nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy


def _run(function: Any, args: Any, kwargs: Any) -> Any:
    """Run any operation on the CPU values; results of tensors on the device are on the device too."""
    if function is torch.ops.aten._has_compatible_shallow_copy_type.default:
        return False  # a parameter that was moved is a new one
    given = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
    targets = [leaf for leaf in given if isinstance(leaf, torch.device)]
    limited = [tensor for tensor in tensors if isinstance(tensor, _LimitedTensor)]
    stays = DEVICE in targets if targets else bool(limited)
    mixed = limited and len(limited) < len([tensor for tensor in tensors if tensor.ndim])
    if mixed and not CROSSING.match(str(function)):
        raise RuntimeError(f"{function} was given tensors of two devices")
    on_cpu = tree_map(_value_of, args), tree_map(_value_of, kwargs)
    result = function(*on_cpu[0], **on_cpu[1])
    if not stays:
        return result
    if "out" in kwargs:
        return kwargs["out"]
    if args and result is on_cpu[0][0] and isinstance(args[0], _LimitedTensor):  # in place, or nothing to do
        return args[0]
    return tree_map(lambda made: _LimitedTensor(made) if isinstance(made, Tensor) else made, result)


def _value_of(given: Any) -> Any:
    """Return an operand as its CPU value."""
    if isinstance(given, torch.device):
        return torch.device("cpu") if given == DEVICE else given
    return given.held if isinstance(given, _LimitedTensor) else given
