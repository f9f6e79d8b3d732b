"""Each term of the losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vsr.training.losses import ADVERSARIAL, FAKE, PIXEL_LOSSES, REAL, Labels, total_variation


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_pixel_losses() -> None:
    sr, hr = torch.tensor([0.0, 0.5, 1.0, 0.2]).view(1, 1, 2, 2), torch.tensor([0.0, 0.0, 0.5, 0.4]).view(1, 1, 2, 2)
    assert float(PIXEL_LOSSES["mse"](sr, hr)) == pytest.approx((0.25 + 0.25 + 0.04) / 4)
    assert float(PIXEL_LOSSES["l1"](sr, hr)) == pytest.approx((0.5 + 0.5 + 0.2) / 4)


def test_total_variation() -> None:
    image = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]]).view(1, 1, 2, 3)
    down, across = (4 + 1 + 1) / 3, (1 + 4 + 0 + 0) / 4
    assert float(total_variation(image)) == pytest.approx(down + across)
    assert float(total_variation(torch.full((2, 3, 4, 5), 0.7))) == 0


FAKE_LOGITS, REAL_LOGITS = torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 0.5])


def test_binary_cross_entropy() -> None:
    game = ADVERSARIAL["bce"]
    expected = (softplus(1) + softplus(-2)) / 2
    assert float(game.generator(FAKE_LOGITS, REAL_LOGITS)) == pytest.approx(expected, rel=1e-6)
    labels = FAKE.like(FAKE_LOGITS), REAL.like(REAL_LOGITS)
    expected = (softplus(-3) + softplus(-0.5)) / 2 + (softplus(-1) + softplus(2)) / 2
    assert float(game.discriminator(FAKE_LOGITS, REAL_LOGITS, *labels)) == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_with_smoothed_labels() -> None:
    labels = torch.full((2,), 0.1), torch.full((2,), 0.9)
    # -y log s(x) - (1-y) log(1-s(x)) = softplus(x) - y x
    real = (softplus(3) - 0.9 * 3 + softplus(0.5) - 0.9 * 0.5) / 2
    fake = (softplus(-1) + 0.1 * 1 + softplus(2) - 0.1 * 2) / 2
    loss = ADVERSARIAL["bce"].discriminator(FAKE_LOGITS, REAL_LOGITS, *labels)
    assert float(loss) == pytest.approx(real + fake, rel=1e-6)


def test_relativistic_average() -> None:
    game = ADVERSARIAL["relativistic"]
    real, fake = [3.0 - 0.5, 0.5 - 0.5], [-1.0 - 1.75, 2.0 - 1.75]  # less the mean of the other side
    generator = (sum(softplus(x) for x in real) / 2 + sum(softplus(-x) for x in fake) / 2) / 2
    discriminator = (sum(softplus(-x) for x in real) / 2 + sum(softplus(x) for x in fake) / 2) / 2
    labels = FAKE.like(FAKE_LOGITS), REAL.like(REAL_LOGITS)
    assert float(game.generator(FAKE_LOGITS, REAL_LOGITS)) == pytest.approx(generator, rel=1e-6)
    assert float(game.discriminator(FAKE_LOGITS, REAL_LOGITS, *labels)) == pytest.approx(discriminator, rel=1e-6)


def test_hinge() -> None:
    game = ADVERSARIAL["hinge"]
    labels = FAKE.like(FAKE_LOGITS), REAL.like(REAL_LOGITS)
    assert float(game.generator(FAKE_LOGITS, REAL_LOGITS)) == pytest.approx(-0.5)
    assert float(game.discriminator(FAKE_LOGITS, REAL_LOGITS, *labels)) == pytest.approx((0 + 0.5) / 2 + (0 + 3) / 2)


@pytest.mark.parametrize("name", list(ADVERSARIAL))
def test_the_two_sides_pull_apart(name: str) -> None:
    """The generator raises the logits of its pictures, the discriminator lowers them and raises those of real ones."""
    game = ADVERSARIAL[name]
    fake, real = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    (gradient,) = torch.autograd.grad(game.generator(fake, real), fake)
    assert (gradient < 0).all()
    loss = game.discriminator(fake, real, FAKE.like(fake), REAL.like(real))
    to_fake, to_real = torch.autograd.grad(loss, (fake, real))
    assert (to_fake > 0).all() and (to_real < 0).all()


def test_labels() -> None:
    logits, random = torch.zeros(20000), torch.Generator().manual_seed(0)
    assert torch.equal(Labels("fixed", 0.9).like(logits), torch.full((20000,), 0.9))
    uniform = Labels("uniform", 0.7, 1.0).like(logits, random)
    assert 0.7 <= float(uniform.min()) < 0.701 and 0.999 < float(uniform.max()) <= 1.0
    assert float(uniform.mean()) == pytest.approx(0.85, abs=0.002)
    normal = Labels("normal", 0.5, 0.1).like(logits, random)
    assert (float(normal.mean()), float(normal.std())) == (pytest.approx(0.5, abs=0.003), pytest.approx(0.1, abs=0.003))
    clipped = Labels("normal", 0.0, 0.1).like(logits, random)
    assert float(clipped.min()) == 0.0 and float((clipped == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    first, second = (Labels("uniform", 0.0, 0.3).like(logits, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)


def test_labels_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="labels are fixed, uniform or normal, got 'odd'"):
        Labels("odd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"labels lie in \[0, 1\], got fixed 1.5"):
        Labels("fixed", 1.5)
    with pytest.raises(ValueError, match="got uniform 0.7, 0.3"):
        Labels("uniform", 0.7, 0.3)
