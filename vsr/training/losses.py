"""The terms of the training losses, the labels of the discriminator, and the schedules of the learning rate.

Each loss is a mean, so that none depends on the size of crops or batches. Adversarial losses use the discriminator's
logits of real and of upscaled crops, in three forms:

- ``bce``: binary cross-entropy, non-saturating; Goodfellow et al. 2014, and Ledig et al. 2017, equation 6.
- ``relativistic``: the average form of Jolicoeur-Martineau 2018 (https://arxiv.org/abs/1807.00734), as in ESRGAN.
- ``hinge``: Lim and Ye 2017 (https://arxiv.org/abs/1705.02894).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vsr.training.recipes import Labels


def mse(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean squared error of (N, 3, H, W)."""
    return functional.mse_loss(sr, hr)


def l1(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean absolute error of (N, 3, H, W)."""
    return functional.l1_loss(sr, hr)


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean of sqrt(error^2 + 1e-6): L1, smooth below a quarter of a code (Lai et al. 2017)."""
    return ((sr - hr).square() + 1e-6).sqrt().mean()


PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "l1": l1, "charbonnier": charbonnier}
"""The losses of (sr, hr) alone, by the name of their weight in ``Stage``."""


def total_variation(image: Tensor) -> Tensor:
    """Return the mean squared difference of neighbours, vertical and horizontal: (N, 3, H, W) -> scalar."""
    down = (image[..., 1:, :] - image[..., :-1, :]).square().mean()
    across = (image[..., :, 1:] - image[..., :, :-1]).square().mean()
    return down + across


def artefacts(sr: Tensor, hr: Tensor, average: Tensor) -> Tensor:
    """Return the mean absolute error weighted by the likelihood of artefacts.

    After Liang et al. 2022, https://arxiv.org/abs/2203.09195: a large local variance of the error means wrong texture.
    Pixels where the generator is closer to HR than its moving average have no weight. The weights have no gradient.

    Args:
        sr: (N, 3, H, W), H and W at least 4.
        hr: (N, 3, H, W).
        average: (N, 3, H, W), the same LR upscaled by the moving average of the generator.
    """
    with torch.no_grad():
        residual, of_average = ((hr - upscaled).abs().sum(1, keepdim=True) for upscaled in (sr, average))
        padded = functional.pad(residual, (3, 3, 3, 3), mode="reflect")
        mean = functional.avg_pool2d(padded, 7, stride=1)
        local = (functional.avg_pool2d(padded.square(), 7, stride=1) - mean.square()).clamp(min=0) * (49 / 48)
        whole = residual.var((1, 2, 3), keepdim=True) ** 0.2
        weight = whole * local * (residual >= of_average)
    return (weight * (sr - hr)).abs().mean()


def draw_labels(labels: Labels, count: int, random: np.random.Generator) -> Tensor:
    """Draw the labels of ``count`` crops for the discriminator: (count,) float32 in [0, 1], on the CPU."""
    if labels.kind == "uniform":
        values = random.uniform(labels.low, labels.high, count)
    elif labels.kind == "normal":
        values = random.normal(labels.low, labels.high, count).clip(0, 1)
    else:
        values = np.full(count, labels.low)
    return torch.from_numpy(values.astype(np.float32))


@dataclass(frozen=True)
class Adversarial:
    """One form of the adversarial losses of generator and discriminator.

    Attributes:
        generator: (logits of fake, logits of real) -> scalar.
        discriminator: (logits of fake, logits of real, labels of fake, labels of real) -> scalar.
        compares: whether the generator's loss uses the logits of real crops, which cost a forward pass.
    """

    generator: Callable[[Tensor, Tensor], Tensor]
    discriminator: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    compares: bool = False


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels)


def _bce_generator(fake: Tensor, real: Tensor) -> Tensor:
    return _cross_entropy(fake, torch.ones_like(fake))


def _bce_discriminator(fake: Tensor, real: Tensor, fake_labels: Tensor, real_labels: Tensor) -> Tensor:
    return _cross_entropy(real, real_labels) + _cross_entropy(fake, fake_labels)


def _relativistic_generator(fake: Tensor, real: Tensor) -> Tensor:
    zeros, ones = torch.zeros_like(real), torch.ones_like(fake)
    return (_cross_entropy(real - fake.mean(), zeros) + _cross_entropy(fake - real.mean(), ones)) / 2


def _relativistic_discriminator(fake: Tensor, real: Tensor, fake_labels: Tensor, real_labels: Tensor) -> Tensor:
    return (_cross_entropy(real - fake.mean(), real_labels) + _cross_entropy(fake - real.mean(), fake_labels)) / 2


def _hinge_generator(fake: Tensor, real: Tensor) -> Tensor:
    return -fake.mean()


def _hinge_discriminator(fake: Tensor, real: Tensor, fake_labels: Tensor, real_labels: Tensor) -> Tensor:
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


ADVERSARIAL: dict[str, Adversarial] = {
    "bce": Adversarial(_bce_generator, _bce_discriminator),
    "relativistic": Adversarial(_relativistic_generator, _relativistic_discriminator, compares=True),
    "hinge": Adversarial(_hinge_generator, _hinge_discriminator),
}


def constant(step: int, steps: int, milestones: Sequence[float] = ()) -> float:
    """Return 1 for every step."""
    return 1.0


def multi_step(step: int, steps: int, milestones: Sequence[float] = ()) -> float:
    """Multiply by a tenth after each of the ``milestones``, which are shares of ``steps``."""
    return 0.1 ** sum(step >= round(share * steps) for share in milestones)


def cosine(step: int, steps: int, milestones: Sequence[float] = ()) -> float:
    """Fall from one to zero along half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def one_cycle(step: int, steps: int, milestones: Sequence[float] = ()) -> float:
    """Rise linearly over the first 4 % of ``steps``, then fall to zero along a cosine."""
    warm_up = max(1, round(0.04 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return cosine(step - warm_up, steps - warm_up)


SCHEDULES: dict[str, Callable[[int, int, Sequence[float]], float]] = {
    "constant": constant,
    "multi-step": multi_step,
    "cosine": cosine,
    "one-cycle": one_cycle,
}
