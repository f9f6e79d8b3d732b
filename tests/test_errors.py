from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from typing import Any

import av.error
import cv2
import numpy as np
import pytest
import torch

from vsr.errors import InputError, OutOfMemoryError, VsrError, is_out_of_memory, memory_explained

LACKING: list[BaseException] = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError("out of memory error when reading image file"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.10 GB, other allocations: 384.00 KB)."),
    RuntimeError("Invalid buffer size: 33.20 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:224:\nFailed to allocate 4096000000 bytes"),
    RuntimeError("Exception from src/inference/src/dev/plugin.cpp:54:\ncan't alloc\n"),
    RuntimeError("std::bad_alloc"),
]

OTHERS: list[BaseException] = [
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("The size of tensor a (2048) must match the size of tensor b (0)"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.mp4"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError("image file is truncated"),
    InputError("cannot read out of memory.mp4"),
    ValueError("out of memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", LACKING, ids=str)
def test_errors_that_mean_that_memory_ran_out(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_errors_that_do_not_mean_that_memory_ran_out(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def fail_in_libav() -> None:
    av.error.err_check(-errno.ENOMEM)


def fail_in_opencv() -> None:
    cv2.resize(np.zeros((1, 1), np.uint8), (2**30, 2**30))


TOO_MUCH: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.empty(1 << 52, dtype=torch.uint8),
    "numpy": lambda: np.empty(1 << 52, np.uint8),
    "python": lambda: bytearray(1 << 52),
    "libav": fail_in_libav,
    "opencv": fail_in_opencv,
}


@pytest.mark.parametrize("library", TOO_MUCH)
def test_actual_errors_of_libraries_are_explained(library: str) -> None:
    with pytest.raises(OutOfMemoryError) as caught, memory_explained("decoding a.mp4", "take less"):
        TOO_MUCH[library]()
    assert str(caught.value) == "memory ran out while decoding a.mp4; take less."
    assert caught.value.__cause__ is not None and caught.value.exit_code == 1


def test_the_innermost_explanation_is_kept_and_can_be_pickled() -> None:
    with (
        pytest.raises(VsrError) as caught,
        memory_explained("upscaling", "take less"),
        memory_explained("decoding", "take less"),
    ):
        raise MemoryError
    assert str(pickle.loads(pickle.dumps(caught.value))) == "memory ran out while decoding; take less."


def test_other_errors_are_passed_on() -> None:
    with pytest.raises(RuntimeError, match="^a bug$"), memory_explained("decoding", "take less"):
        raise RuntimeError("a bug")
