"""Classifiers and gradients that go round a mask: what each computes, exactly, on small examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sonet.attacks.gradients import Backpropagation, GradientSource, Slope
from sonet.attacks.losses import Goal, cross_entropy
from sonet.attacks.noise import ImageNoise
from sonet.attacks.result import predict
from sonet.audit.planted import Linear, Softmax
from sonet.audit.sources import Counted, Cut, Doubled, LogOfProbabilities, Mean, Smoothed, Vote

IMAGES = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
NAN = torch.nan


class Script:
    """Gives prepared answers, one a call; asked once more it fails."""

    def __init__(self, *answers: list[list[float]]) -> None:
        self._left = [torch.tensor(answer) for answer in answers]

    def __call__(self, images: Tensor, /) -> Tensor:
        return self._left.pop(0)


class Its(GradientSource):
    """A source whose gradient is a function of the image alone; its loss is 0, its logits are the first two pixels."""

    def __init__(self, gradient: Any) -> None:
        self._gradient = gradient

    def __call__(self, images: Tensor, goal: Goal, noise: ImageNoise) -> Slope:
        return Slope(self._gradient(images), torch.zeros(len(images)), self.logits(images), 2)

    def logits(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]


def smoothed(source: GradientSource, images: Tensor, samples: int, sigma: float, seed: int = 0) -> Slope:
    goal = Goal(torch.zeros(len(images), dtype=torch.int64))
    return Smoothed(source, samples, sigma)(images, goal, ImageNoise(images, seed))


def test_the_mean_is_of_so_many_calls() -> None:
    asked = Script([[1.0, 2.0]], [[3.0, -2.0]], [[2.0, 3.0]])
    assert torch.equal(Mean(asked, 3)(IMAGES[:1]), torch.tensor([[2.0, 1.0]]))
    with pytest.raises(IndexError):
        asked(IMAGES[:1])


def test_votes_are_counted_for_each_class_and_an_answer_that_is_not_finite_has_none() -> None:
    asked = Script(
        [[9.0, 1.0, 0.0], [0.0, 1.0, 2.0]],
        [[0.0, 1.0, 0.0], [NAN, 1.0, 0.0]],
        [[0.0, 0.1, 0.0], [0.0, 7.0, torch.inf]],
    )
    assert Vote(asked, 3)(IMAGES[:2]).tolist() == [[1, 2, 0], [0, 0, 1]]


def test_a_majority_is_not_moved_by_one_large_answer_where_the_mean_is() -> None:
    answers = [[[100.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]]
    assert int(Vote(Script(*answers), 3)(IMAGES[:1]).argmax()) == 1
    assert int(Mean(Script(*answers), 3)(IMAGES[:1]).argmax()) == 0


def test_who_never_answers_is_of_no_class() -> None:
    """Else a model that only ever says NaN would be right on the images of class 0."""
    silent = Script(*[[[NAN, NAN], [1.0, 2.0]]] * 2)
    assert predict(Vote(silent, 2), IMAGES[:2], 2).tolist() == [-1, 1]


def test_the_logarithm_of_probabilities_has_the_loss_and_the_gradient_of_the_logits() -> None:
    model, labels = Linear.random(4, 1, (1, 2, 2)), torch.tensor([0, 3, 1])
    images, noise = IMAGES.double(), ImageNoise(IMAGES, 0)
    model = Linear(model.weight.double(), model.bias.double())
    goal = Goal(labels, cross_entropy)
    own = Backpropagation(model)(images, goal, noise)
    through = Backpropagation(LogOfProbabilities(Softmax(model)))(images, goal, noise)
    torch.testing.assert_close(through.loss, own.loss)
    torch.testing.assert_close(through.gradient, own.gradient)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_logarithm_of_nothing_is_finite(kind: torch.dtype) -> None:
    logs = LogOfProbabilities(lambda images: torch.tensor([[0.0, 1.0]], dtype=kind))(IMAGES[:1])
    assert torch.isfinite(logs).all()
    assert float(logs[0, 1]) == 0
    assert float(logs[0, 0]) < -80


def test_cut_asks_without_a_gradient() -> None:
    model = Linear.random(3, 0, (1, 2, 2))

    def stubborn(images: Tensor) -> Tensor:
        logits: Tensor = model(torch.from_numpy(images.numpy()))  # numpy refuses a tensor that has a gradient
        return logits

    leaf = IMAGES.clone().requires_grad_(True)
    with pytest.raises(RuntimeError):
        stubborn(leaf)
    logits = Cut(stubborn)(leaf)
    assert torch.equal(logits, model(IMAGES))
    assert not logits.requires_grad


def test_doubled_answers_in_float64_and_leaves_the_module_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    logits = Doubled(model)(IMAGES)
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    expected = IMAGES.double().flatten(1) @ layer.weight.double().T + layer.bias.double()
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, expected, rtol=1e-13, atol=1e-13)
    assert layer.weight.dtype == torch.float32


def test_doubled_has_a_slope_where_float32_has_none() -> None:
    """A margin of 30: p is 1 - 1e-13, which is 1 in float32."""
    weight = torch.tensor([[30.0, 0.0], [0.0, 0.0]])
    model, image = Linear(weight, torch.zeros(2)), torch.tensor([[[[1.0, 0.5]]]])
    goal, noise = Goal(torch.tensor([0]), lambda logits, labels: -logits.softmax(1)[:, 0]), ImageNoise(image, 0)
    assert not Backpropagation(model)(image, goal, noise).gradient.any()
    slope = float(Backpropagation(Doubled(model))(image, goal, noise).gradient[0, 0, 0, 0])
    assert slope == pytest.approx(-30 * 9.36e-14, rel=0.01)


def test_smoothed_is_the_mean_of_gradients_at_the_image_s_own_draws() -> None:
    slope = smoothed(Its(lambda images: images), IMAGES, 5, 0.3, seed=4)
    draws = ImageNoise(IMAGES, 4).normal(5, 1, 2, 2)
    torch.testing.assert_close(slope.gradient, IMAGES + 0.3 * draws.mean(1))
    assert torch.equal(slope.logits, IMAGES.flatten(1)[:, :2])  # of the image itself
    assert torch.equal(slope.loss, Goal(torch.zeros(3, dtype=torch.int64))(slope.logits))
    assert slope.queries == 1 + 5 * 2


def test_smoothed_over_nothing_is_the_gradient_itself() -> None:
    torch.testing.assert_close(smoothed(Its(lambda images: images**2), IMAGES, 3, 0.0).gradient, IMAGES**2)


def test_smoothed_takes_a_wave_away_as_far_as_the_normal_does() -> None:
    """E cos(w (x + sigma v)) = exp(-(w sigma)^2 / 2) cos(w x)."""
    images, w = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double(), 40.0
    source, many = Its(lambda x: 1 + 30 * torch.cos(w * x)), 1000
    for factor in (1.0, 5.0):
        got = smoothed(source, images, many, factor / w).gradient
        expected = 1 + 30 * torch.exp(torch.tensor(-(factor**2) / 2)) * torch.cos(w * images)
        error = (got - expected).square().mean().sqrt()
        assert 0.3 * 30 / (2 * many) ** 0.5 < float(error) < 1.2 * 30 / (2 * many) ** 0.5


def test_smoothed_leaves_out_gradients_that_are_not_finite() -> None:
    def broken(images: Tensor) -> Tensor:
        return torch.where(images > 0.5, torch.nan, 1.0)

    images = torch.full((1, 1, 2, 2), 0.5)
    got = smoothed(Its(broken), images, 8, 0.1).gradient
    below = (ImageNoise(images, 0).normal(8, 1, 2, 2) <= 0).float().mean(1)
    torch.testing.assert_close(got, below)
    assert 0 < float(below.mean()) < 1


def test_smoothed_does_not_depend_on_batch_mates() -> None:
    source = Its(lambda images: images**3)
    whole = smoothed(source, IMAGES, 4, 0.2).gradient
    for place in range(3):
        torch.testing.assert_close(smoothed(source, IMAGES[place : place + 1], 4, 0.2).gradient[0], whole[place])


def test_counted_counts_images_forward_and_backward() -> None:
    counted = Counted(Linear.random(3, 0, (1, 2, 2)))
    with torch.no_grad():
        counted(IMAGES)
    assert counted.passes == 3
    goal, noise = Goal(torch.tensor([0, 1])), ImageNoise(IMAGES[:2], 0)
    Backpropagation(counted)(IMAGES[:2], goal, noise)
    assert counted.passes == 3 + 2 * 2
    Backpropagation(LogOfProbabilities(counted))(IMAGES[:2], goal, noise)
    assert counted.passes == 3 + 4 * 2
    leaf = IMAGES.clone().requires_grad_(True)
    loss = counted(leaf).sum()
    assert counted.passes == 11 + 3
    for _ in range(2):
        torch.autograd.grad(loss, leaf, retain_graph=True)
    assert counted.passes == 11 + 3 * 3


def test_counted_answers_as_the_classifier_does() -> None:
    model = Linear.random(3, 0, (1, 2, 2))
    goal, noise = Goal(torch.tensor([0, 1, 2])), ImageNoise(IMAGES, 0)
    one, other = (Backpropagation(each)(IMAGES, goal, noise) for each in (model, Counted(model)))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.gradient, other.gradient)
