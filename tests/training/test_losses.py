"""Each term of the losses against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vsr.training.losses import ADVERSARIAL, artefacts, charbonnier, draw_labels, l1, mse, total_variation
from vsr.training.recipes import Labels

FAKE, REAL = torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 0.5])
"""Logits."""
PLAIN = torch.zeros(2), torch.ones(2)
"""Labels of fake and of real without smoothing."""


def cross_entropy(logit: float, label: float) -> float:
    """-y log s(x) - (1 - y) log(1 - s(x))"""
    probability = 1 / (1 + math.exp(-logit))
    return -label * math.log(probability) - (1 - label) * math.log(1 - probability)


def test_pixel_losses() -> None:
    sr, hr = torch.tensor([0.0, 0.5, 1.0, 0.2]).view(1, 1, 2, 2), torch.tensor([0.0, 0.0, 0.5, 0.4]).view(1, 1, 2, 2)
    assert float(mse(sr, hr)) == pytest.approx((0.25 + 0.25 + 0.04) / 4)
    assert float(l1(sr, hr)) == pytest.approx((0.5 + 0.5 + 0.2) / 4)
    roots = [math.sqrt(error**2 + 1e-6) for error in (0, 0.5, 0.5, 0.2)]
    assert float(charbonnier(sr, hr)) == pytest.approx(sum(roots) / 4)


def test_charbonnier_has_no_gradient_without_error() -> None:
    sr = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(charbonnier(sr, torch.full((1, 3, 2, 2), 0.5)), sr)
    assert not gradient.any()


def test_artefacts_by_hand() -> None:
    """LDL's weight: the local variance of the residual in 7x7 pixels times the fifth root of the global variance."""
    torch.manual_seed(0)
    sr, hr, average = torch.rand(3, 2, 3, 12, 12)
    residual, of_average = (sr - hr).abs().sum(1), (average - hr).abs().sum(1)
    expected = []
    for number in range(2):
        whole = float(residual[number].var()) ** 0.2
        for row in range(12):
            for column in range(12):
                if residual[number, row, column] < of_average[number, row, column]:
                    expected += [0.0] * 3
                    continue
                around = [11 - abs(11 - abs(row + step)) for step in range(-3, 4)]
                across = [11 - abs(11 - abs(column + step)) for step in range(-3, 4)]
                weight = whole * float(residual[number][around][:, across].var())
                expected += [weight * float(error) for error in (sr - hr)[number, :, row, column].abs()]
    found = artefacts(sr.requires_grad_(), hr, average)
    assert float(found.detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert 0 < sum(value == 0 for value in expected) < len(expected)
    found.backward()
    assert sr.grad is not None and bool(sr.grad.any())


def test_no_artefacts_where_the_average_is_no_better() -> None:
    sr, hr = torch.rand(2, 1, 3, 8, 8)
    assert float(artefacts(sr, hr, hr + 2)) == 0


def test_total_variation() -> None:
    image = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]]).view(1, 1, 2, 3)
    down, across = (4 + 1 + 1) / 3, (1 + 4 + 0 + 0) / 4
    assert float(total_variation(image)) == pytest.approx(down + across)
    assert float(total_variation(image.mT)) == pytest.approx(down + across)
    assert float(total_variation(torch.full((2, 3, 4, 5), 0.7))) == 0


def test_total_variation_does_not_depend_on_the_size() -> None:
    image = torch.rand(1, 3, 8, 8)
    # Mirrored copies beside each other add only differences of zero between equal neighbours.
    tiled = torch.cat([image, image.flip(-1)], -1)
    down, across = (float((image.diff(dim=dim)).square().mean()) for dim in (-2, -1))
    assert float(total_variation(image)) == pytest.approx(down + across)
    assert float(total_variation(tiled)) == pytest.approx(down + across * 14 / 15)
    assert float(total_variation(image.repeat(5, 1, 1, 1))) == pytest.approx(float(total_variation(image)))


@pytest.mark.parametrize("labels", [(0.0, 1.0), (0.1, 0.9), (0.3, 0.7)], ids=str)
def test_binary_cross_entropy(labels: tuple[float, float]) -> None:
    state = ADVERSARIAL["bce"]
    real = (cross_entropy(3, labels[1]) + cross_entropy(0.5, labels[1])) / 2
    fake = (cross_entropy(-1, labels[0]) + cross_entropy(2, labels[0])) / 2
    given_labels = torch.full((2,), labels[0]), torch.full((2,), labels[1])
    assert float(state.discriminator(FAKE, REAL, *given_labels)) == pytest.approx(real + fake, rel=1e-6)
    # The generator's target is 1, whatever the labels of the discriminator are.
    assert float(state.generator(FAKE, REAL)) == pytest.approx((cross_entropy(-1, 1) + cross_entropy(2, 1)) / 2)
    assert not state.compares


@pytest.mark.parametrize("labels", [(0.0, 1.0), (0.1, 0.9)], ids=str)
def test_relativistic_average(labels: tuple[float, float]) -> None:
    state = ADVERSARIAL["relativistic"]
    real, fake = [3.0 - 0.5, 0.5 - 0.5], [-1.0 - 1.75, 2.0 - 1.75]  # less the mean of the other side
    generator = sum(cross_entropy(x, 0) for x in real) / 4 + sum(cross_entropy(x, 1) for x in fake) / 4
    given_labels = torch.full((2,), labels[0]), torch.full((2,), labels[1])
    expected = sum(cross_entropy(x, labels[1]) for x in real) / 4 + sum(cross_entropy(x, labels[0]) for x in fake) / 4
    assert float(state.generator(FAKE, REAL)) == pytest.approx(generator, rel=1e-6)
    assert float(state.discriminator(FAKE, REAL, *given_labels)) == pytest.approx(expected, rel=1e-6)
    assert state.compares


def test_hinge() -> None:
    state = ADVERSARIAL["hinge"]
    assert float(state.generator(FAKE, REAL)) == pytest.approx(-0.5)
    assert float(state.discriminator(FAKE, REAL, *PLAIN)) == pytest.approx((0 + 0.5) / 2 + (0 + 3) / 2)
    smoothed = torch.full((2,), 0.1), torch.full((2,), 0.9)
    assert float(state.discriminator(FAKE, REAL, *smoothed)) == pytest.approx(1.75), "margins, not labels"
    assert not state.compares


@pytest.mark.parametrize("name", list(ADVERSARIAL))
def test_the_two_sides_pull_apart(name: str) -> None:
    """The generator raises the logits of its pictures, the discriminator lowers them and raises those of real ones."""
    state = ADVERSARIAL[name]
    fake, real = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    (gradient,) = torch.autograd.grad(state.generator(fake, real), fake)
    assert (gradient < 0).all()
    loss = state.discriminator(fake, real, torch.zeros(4), torch.ones(4))
    to_fake, to_real = torch.autograd.grad(loss, (fake, real))
    assert (to_fake > 0).all() and (to_real < 0).all()


@pytest.mark.parametrize("name", list(ADVERSARIAL))
def test_forms_that_do_not_compare_ignore_the_logits_of_real_crops(name: str) -> None:
    form = ADVERSARIAL[name]
    with_real, without = form.generator(FAKE, REAL), form.generator(FAKE, torch.zeros(2))
    assert bool(with_real == without) is not form.compares


def test_drawn_labels() -> None:
    random = np.random.default_rng(0)
    fixed = draw_labels(Labels("fixed", 0.9), 3, random)
    assert fixed.dtype == torch.float32 and torch.equal(fixed, torch.full((3,), 0.9))
    uniform = draw_labels(Labels("uniform", 0.7, 1.0), 20000, random)
    assert uniform.shape == (20000,) and uniform.dtype == torch.float32
    assert 0.7 <= float(uniform.min()) < 0.701 and 0.999 < float(uniform.max()) <= 1.0
    assert float(uniform.mean()) == pytest.approx(0.85, abs=0.002)
    normal = draw_labels(Labels("normal", 0.5, 0.1), 20000, random)
    assert (float(normal.mean()), float(normal.std())) == (pytest.approx(0.5, abs=0.003), pytest.approx(0.1, abs=0.003))
    low, high = (draw_labels(Labels("normal", centre, 0.1), 20000, random) for centre in (0.0, 1.0))
    assert float(low.min()) == 0.0 and float((low == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(high.max()) == 1.0 and float((high == 1).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_labels_come_from_their_own_random_numbers() -> None:
    labels = Labels("uniform", 0.0, 0.3)
    state = torch.get_rng_state()
    first, second, other = (draw_labels(labels, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
