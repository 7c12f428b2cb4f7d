"""What an audit knows of its model, measured once: random, coupled, leaking, right, in which precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from audit_subjects import Mates, Pixels, drawn, subject_of
from torch import Tensor, nn

from sonet.attacks.losses import cross_entropy
from sonet.attacks.result import predict
from sonet.audit.planted import Linear, NaNNear, Noisy, Softmax
from sonet.audit.sources import LogOfProbabilities, Mean, Vote

X = drawn(24)
MODEL = Linear.random(3, 0)
Y = MODEL(X).argmax(1)


def mates(strength: float, hidden: bool = False) -> Mates:
    return Mates(torch.ones(64) / 64, 1.0, strength, -0.5, hidden)


class Sometimes(nn.Module):
    """Answers are NaN at every call but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = MODEL(images)
        return logits if self.calls == 1 else logits * torch.nan


@pytest.mark.parametrize("batch", [1, 3, 24, 100])
def test_a_linear_model_is_neither_random_nor_coupled_in_any_batch(batch: int) -> None:
    """Also in batches of fewer images than are asked for alone."""
    subject = subject_of(MODEL, X, batch=batch)
    assert not subject.random
    assert not subject.coupled
    assert not subject.leaks
    assert not subject.shared
    assert len(subject.alone) == min(batch, 16)
    torch.testing.assert_close(subject.alone, MODEL(X)[: len(subject.alone)])


@pytest.mark.parametrize("std", [0.01, 10.0])
def test_a_noisy_model_is_random(std: float) -> None:
    subject = subject_of(Noisy(MODEL, std), X, Y)
    assert subject.random
    assert not subject.coupled  # cannot be told from its own randomness
    assert isinstance(subject.deployed, Vote)
    assert isinstance(subject.shown, Mean)
    assert subject.in_float64 is None


def test_who_answers_at_times_only_is_random() -> None:
    assert subject_of(Sometimes(), X, Y).random
    assert not subject_of(NaNNear(MODEL, X[0], 0.01), X, Y).random  # the same image each time


def test_rounding_is_not_randomness() -> None:
    """A thousandth of the logits' spread is the limit."""
    spread = subject_of(MODEL, X).spread
    for share, random in ((2e-4, False), (1e-2, True)):
        turn = iter((0.0, share * spread))
        assert subject_of(lambda images, turn=turn: MODEL(images) + next(turn), X, Y).random is random


def test_spread_is_that_of_the_finite_logits_of_the_first_batch() -> None:
    subject = subject_of(NaNNear(MODEL, X[0], 0.01), X, Y, batch=4)
    assert subject.spread == pytest.approx(float(MODEL(X[1:4]).std(correction=0)))
    assert subject_of(lambda images: torch.zeros(len(images), 2), X, Y).spread > 0


def test_a_first_batch_without_any_answer_does_not_end_it() -> None:
    subject = subject_of(NaNNear(MODEL, X[0], 0.01), X, Y, batch=1)
    assert not subject.random
    assert not subject.coupled
    assert subject.natural.count == 23


def test_moved_is_the_largest_change_in_spreads_and_infinite_where_one_answers_and_the_other_does_not() -> None:
    subject = subject_of(Pixels(2), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    assert subject.spread == 0.5
    one = torch.tensor([[0.0, 1.0], [torch.nan, 0.0], [torch.nan, 0.0], [torch.inf, 0.0]])
    other = torch.tensor([[2.0, 1.5], [1.0, 0.0], [torch.nan, 5.0], [torch.inf, 0.0]])
    assert subject.moved(one, other).tolist() == [4.0, torch.inf, 0.0, 0.0]


def test_batch_mates_that_move_answers_couple_and_leak() -> None:
    subject = subject_of(mates(0.5), X)
    assert subject.coupled
    assert subject.leaks
    assert subject.shared
    alone = subject_of(mates(0.5), X, batch=1)  # deployed one by one there are no mates
    assert not alone.coupled
    assert not alone.shared


def test_batch_mates_may_leak_without_moving_an_answer() -> None:
    subject = subject_of(mates(0.5, hidden=True), X)
    assert not subject.coupled
    assert subject.leaks
    assert subject.shared


@pytest.mark.parametrize("count", [0, 1])
def test_who_has_no_mates_has_no_leak(count: int) -> None:
    """Also where no image is right, which is of no use but must not fail."""
    subject = subject_of(mates(0.0), X, torch.full((24,), 1) if count == 0 else None)
    subject.__dict__["right"] = torch.arange(24) < count
    assert not subject.leaks


def test_right_clean_and_take() -> None:
    labels = Y.clone()
    labels[[0, 5]] = (labels[[0, 5]] + 1) % 3
    subject = subject_of(MODEL, X.transpose(2, 3), labels)  # not contiguous
    swapped = X.transpose(2, 3).contiguous()
    expected = MODEL(swapped).argmax(1)
    assert torch.equal(subject.clean, expected)
    assert torch.equal(subject.right, expected == labels)
    assert subject.natural.count == int((expected == labels).sum())
    images, taken = subject.take(4)
    places = (expected == labels).nonzero().flatten()[:4]
    assert torch.equal(images, swapped[places])
    assert torch.equal(taken, labels[places])
    assert images.is_contiguous()
    assert len(subject.take(1000)[0]) == subject.natural.count
    assert len(subject.take(0)[0]) == 0


def test_predictions_are_made_in_batches_as_deployed() -> None:
    seen: list[int] = []

    def model(images: Tensor) -> Tensor:
        seen.append(len(images))
        logits: Tensor = MODEL(images)
        return logits

    subject = subject_of(model, X, Y, batch=10)
    assert subject.clean.shape == (24,)
    # The first batch twice, to see whether answers are random; then all.
    assert seen == [10, 10, 10, 10, 4]


def test_of_a_random_model_the_majority_judges() -> None:
    """Two of three calls say class 1, whatever the size of the third answer."""
    calls = 0

    def model(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        large = torch.tensor([100.0, 0.0]) if calls % 3 == 0 else torch.tensor([0.0, 1.0])
        return large.expand(len(images), 2)

    subject = subject_of(model, X, torch.ones(24, dtype=torch.int64), calls=3)
    subject.__dict__["random"] = True
    assert subject.natural.count == 24
    assert int(predict(subject.shown, X, 24)[0]) == 0  # attacks see the mean: here it is of the other class


def test_probabilities_are_told_from_logits() -> None:
    assert subject_of(Softmax(MODEL), X).probabilities
    assert not subject_of(MODEL, X).probabilities
    assert not subject_of(lambda images: MODEL(images).sigmoid(), X, Y).probabilities  # do not sum to 1
    assert not subject_of(lambda images: MODEL(images).log_softmax(1), X, Y).probabilities
    subject = subject_of(Softmax(MODEL), X)
    assert isinstance(subject.shown, LogOfProbabilities)
    torch.testing.assert_close(subject.shown(X), MODEL(X).log_softmax(1), rtol=1e-4, atol=1e-4)


def test_the_gradient_is_autograd_s() -> None:
    subject = subject_of(MODEL, X)
    leaf = X[:5].clone().requires_grad_(True)
    loss = cross_entropy(MODEL(leaf), Y[:5])
    (expected,) = torch.autograd.grad(loss.sum(), leaf)
    gradient, value = subject.gradient(X[:5], Y[:5])
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(value, loss.detach())


class Single(nn.Module):
    """Runs in float32 only, by a constant of it."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ MODEL.weight.T


class TwoFaced(nn.Module):
    """Another network in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = MODEL(images.float()) * self.scale
        return -logits if images.dtype == torch.float64 else logits


@pytest.mark.parametrize("model", [Single().eval(), TwoFaced().eval(), lambda images: MODEL(images)])
def test_without_a_float64_of_its_own_there_is_none(model: Any) -> None:
    assert subject_of(model, X, Y).in_float64 is None


def test_in_float64_it_is_the_same_network() -> None:
    subject = subject_of(MODEL, X)
    exact = subject.in_float64
    assert exact is not None
    assert exact(X).dtype == torch.float64
    torch.testing.assert_close(exact(X).float(), MODEL(X), rtol=1e-4, atol=1e-4)


def test_passes_count_every_image_once_a_pass() -> None:
    subject = subject_of(MODEL, X, Y, batch=10)
    assert subject.passes == 0
    assert len(subject.answers[0]) == 10
    assert subject.passes == 20
    assert not subject.random
    assert subject.passes == 20  # measured once
    subject.gradient(X[:3], Y[:3])
    assert subject.passes == 26
    assert subject.in_float64 is not None
    assert subject.passes == 36
