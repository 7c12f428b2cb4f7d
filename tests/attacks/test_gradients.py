"""Where gradients come from: of the whole batch, of one image alone, of several sources that vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_classifiers import Counting, Wavy, images, linear, predicted

from sonet.attacks import PGD, Alone, Average, Backpropagation, GradientSource, Linf, margin
from sonet.attacks.gradients import Slope, SPSAGradient, as_source
from sonet.attacks.losses import LOSSES, Goal
from sonet.attacks.noise import ImageNoise

X, LABELS = images(5), torch.arange(5) % 3


def coupled(x: Tensor) -> Tensor:
    """Logits of an image that depend on all images of its batch."""
    return Wavy()(x) * (1 + x.mean())


def slope(source: GradientSource, x: Tensor = X, labels: Tensor = LABELS, loss: str = "ce") -> Slope:
    return source(x, Goal(labels, LOSSES[loss]), ImageNoise(x, 0))


@pytest.mark.parametrize("loss", list(LOSSES))
def test_backpropagation_is_the_gradient_of_the_summed_loss(loss: str) -> None:
    leaf = X.clone().requires_grad_(True)
    losses = LOSSES[loss](coupled(leaf), LABELS)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    got = slope(Backpropagation(coupled), loss=loss)
    assert torch.equal(got.gradient, gradient)
    assert torch.equal(got.loss, losses.detach())
    assert torch.equal(got.logits, coupled(X))
    assert got.queries == 2
    assert not any(part.requires_grad for part in (got.gradient, got.loss, got.logits))
    with torch.enable_grad():
        assert not Backpropagation(Wavy()).logits(leaf).requires_grad


def test_a_classifier_is_the_source_of_its_own_gradient_and_a_source_is_itself() -> None:
    model = Wavy()
    assert as_source(model) == Backpropagation(model)
    for source in (Backpropagation(model), Alone(Backpropagation(model)), Average((Backpropagation(model),))):
        assert as_source(source) is source


def test_alone_every_image_has_the_slope_of_a_batch_of_one() -> None:
    together = slope(Backpropagation(coupled))
    counting = Counting(coupled)
    alone = slope(Alone(Backpropagation(counting)))
    for i in range(5):
        single = slope(Backpropagation(coupled), X[i : i + 1], LABELS[i : i + 1])
        assert torch.equal(alone.gradient[i], single.gradient[0])
        assert torch.equal(alone.loss[i], single.loss[0])
        assert torch.equal(alone.logits[i], single.logits[0])
    assert counting.batches == [1] * 5
    assert alone.queries == 2
    assert not torch.allclose(alone.gradient, together.gradient, atol=1e-2)
    separate = torch.cat([coupled(x[None]) for x in X])
    assert torch.equal(Alone(Backpropagation(coupled)).logits(X), separate)
    assert not torch.allclose(separate, coupled(X), atol=1e-2)


def test_an_attack_with_slopes_alone_is_the_attack_in_batches_of_one() -> None:
    labels = predicted(coupled, X)
    whole = PGD(steps=4).run(coupled, X, labels, Linf(0.1), gradients_from=Alone(Backpropagation(coupled)))
    single = PGD(steps=4, batch_size=1).run(coupled, X, labels, Linf(0.1))
    assert torch.equal(whole.adversarial, single.adversarial)
    assert torch.equal(whole.queries_each, single.queries_each)
    assert not torch.equal(whole.adversarial, PGD(steps=4).run(coupled, X, labels, Linf(0.1)).adversarial)


def test_a_source_that_draws_draws_alone_what_it_draws_in_a_batch_and_never_the_same_again() -> None:
    drawing = SPSAGradient(Backpropagation(Wavy()), 3, 0.01, 512)
    goal, one, two = Goal(LABELS), ImageNoise(X, 0), ImageNoise(X, 0)
    seen = []
    for _ in range(3):
        alone, together = Alone(drawing)(X, goal, one), drawing(X, goal, two)
        torch.testing.assert_close(alone.gradient, together.gradient, rtol=1e-9, atol=1e-12)
        seen.append(alone.gradient)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert not torch.allclose(seen[1], seen[2], atol=1e-3)


@dataclass(frozen=True)
class Says(GradientSource):
    """A source with the gradient, the loss and the logits it is told."""

    gradient: Tensor
    loss: float = 0.0
    cost: int = 1

    def __call__(self, images: Tensor, goal: Goal, noise: ImageNoise) -> Slope:
        n = len(images)
        return Slope(self.gradient, torch.full((n,), self.loss), torch.full((n, 3), self.loss), self.cost)

    def logits(self, images: Tensor) -> Tensor:
        return torch.full((len(images), 3), self.loss)


def unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_source_has_one_vote_however_long_its_gradient(dtype: torch.dtype) -> None:
    first, second = images(5, seed=1).to(dtype) - 0.5, images(5, seed=2).to(dtype) - 0.5
    expected = unit(first) + unit(second)
    for scale in (1.0, 1e-30, 1e20):
        mean = Average((Says(first, 1.0, 3), Says(second * scale, 2.0, 4)))
        got = slope(mean, X.to(dtype))
        torch.testing.assert_close(got.gradient, expected, rtol=1e-5, atol=1e-6)
        assert got.gradient.dtype == dtype
    assert got.queries == 7
    assert got.loss.tolist() == [1.0] * 5  # the first decides
    assert got.logits.eq(1.0).all()
    assert mean.logits(X).eq(1.0).all()


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
def test_a_source_without_a_usable_gradient_abstains(bad: float) -> None:
    """For that image alone; where nobody votes the gradient is 0, which an attack reports."""
    first, second = images(5, seed=1) - 0.5, images(5, seed=2) - 0.5
    broken, other = second.clone(), first.clone()
    broken[1:3] = bad
    if bad != 0:
        broken[2, 0, 0, 0] = 1.0  # one bad pixel is enough
    other[2] = 0.0
    got = slope(Average((Says(other), Says(broken)))).gradient
    expected = unit(first) + unit(second)
    keep = torch.tensor([0, 3, 4])
    torch.testing.assert_close(got[keep], expected[keep], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[1], unit(first)[1], rtol=1e-12, atol=1e-12)
    assert torch.equal(got[2], torch.zeros_like(got[2]))


def test_an_average_of_one_attacks_as_its_source_does_and_opposed_votes_cancel() -> None:
    x = images(8, low=0.4, high=0.6)
    model = linear(like=x)
    labels = predicted(model, x)
    plain = PGD(steps=5).run(model, x, labels, Linf(0.1))
    average: Any = Average((Backpropagation(model),))
    one = PGD(steps=5).run(model, x, labels, Linf(0.1), gradients_from=average)
    assert torch.equal(one.adversarial, plain.adversarial)

    def opposed(x: Tensor) -> Tensor:
        return -model(x)

    none = slope(Average((Backpropagation(model), Backpropagation(opposed))), x, labels, "margin")
    torch.testing.assert_close(none.gradient, torch.zeros_like(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(none.loss, margin(model(x), labels), rtol=0, atol=1e-12)
