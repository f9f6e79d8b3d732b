"""float32_products: its setting applies inside, and the caller's again afterwards."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from vsr.networks.rewrites import float32_products


def chosen() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(params=["highest", "high", "medium"], autouse=True)
def callers(request: pytest.FixtureRequest, restored_precisions: None) -> tuple[str, bool]:
    torch.set_float32_matmul_precision(request.param)
    torch.backends.cudnn.allow_tf32 = request.param != "highest"
    return chosen()


def test_the_setting_applies_inside_and_is_restored(callers: tuple[str, bool]) -> None:
    with float32_products(tf32=True):
        assert chosen() == ("high", True) and torch.backends.cuda.matmul.allow_tf32
        with float32_products(tf32=False):
            assert chosen() == ("highest", False) and not torch.backends.cuda.matmul.allow_tf32
        assert chosen() == ("high", True)
    assert chosen() == callers


def test_an_exception_restores_the_callers_setting(callers: tuple[str, bool]) -> None:
    with pytest.raises(KeyError), float32_products(tf32=True):
        raise KeyError
    assert chosen() == callers


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_float32_is_float32() -> None:
    """TF32 keeps 11 bits, which a sum of so many products of one sign shows."""
    conv = nn.Conv2d(64, 8, 3).cuda()
    x = torch.rand(1, 64, 16, 16, device="cuda")
    exact = deepcopy(conv).double()(x.double())
    with torch.no_grad(), float32_products(tf32=False):
        assert float((conv(x) - exact).abs().max()) < 1e-5
