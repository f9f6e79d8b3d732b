"""Fixtures of the training tests: synthetic pictures, and a tiny run in three stages without its slow parts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import Tensor, nn

from vsr.training.options import TrainOptions
from vsr.training.recipes import Recipe, Stage


class Distance(nn.Module):
    """Replaces LPIPS, which needs weights: the mean absolute difference, (N, 3, H, W) twice -> (N,)."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (sr - hr).abs().mean((1, 2, 3))


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Three updates of a tiny generator, two of a tiny discriminator, and three of both: eight of two small crops."""
    return Recipe(
        follows="nobody",
        pretrain=Stage(length=3, learning_rate=1e-3, mse=1.0),
        discriminator=Stage(length=2, learning_rate=1e-3),
        adversarial=Stage(length=3, learning_rate=1e-3, mse=1.0, adversarial=1e-2),
        blocks=1,
        channels=4,
        discriminator_channels=4,
        ema_decay=0.5,
        batch_size=2,
        crop_size=16,
    )


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve smooth pictures of 28 to 40 pixels; one of them is held out."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for index in range(12):
        blotches = random.integers(0, 256, (7 + index % 4, 10 - index % 3, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{index:02}.png"), cv2.resize(blotches, None, fx=4, fy=4))
    return folder


@pytest.fixture
def options(tmp_path: Path, photographs: Path, tiny_recipe: Recipe) -> TrainOptions:
    """The tiny run on the photographs."""
    return TrainOptions(data=(photographs,), output=tmp_path / "run", recipe=tiny_recipe, device="cpu")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the figure, which takes a second and has tests of its own, and the weights of LPIPS."""
    monkeypatch.setattr("vsr.training.trainer.plot_losses", lambda log, figure: None)
    monkeypatch.setattr("vsr.training.trainer.load_lpips", lambda *_: Distance())
