"""The losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sonet.attacks import LOSSES, cross_entropy, margin

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [-1.0, 3.0, 3.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 1])


def test_cross_entropy_by_hand() -> None:
    total = math.log(math.exp(2) + math.exp(1) + 1)  # 2.40760596
    tie = math.log(math.exp(-1) + 2 * math.exp(3)) - 3
    expected = [total - 2, total - 1, total, tie]
    assert cross_entropy(LOGITS, LABELS).tolist() == pytest.approx(expected, abs=1e-12)


def test_margin_by_hand() -> None:
    assert margin(LOGITS, LABELS).tolist() == [-1.0, 1.0, 2.0, 0.0]
    assert margin(torch.tensor([[5.0, 3.0]]), torch.tensor([1])).tolist() == [2.0]


def test_margin_has_the_gradient_of_the_two_logits_that_decide() -> None:
    logits = LOGITS[:3].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(margin(logits, LABELS[:3]).sum(), logits)
    assert gradient.tolist() == [[-1, 1, 0], [1, -1, 0], [1, 0, -1]]


def test_cross_entropy_saturates_in_float32_and_margin_does_not() -> None:
    """The model is sure: the label's own logit gets no gradient any more."""
    label = torch.tensor([0])
    for loss, expected in ((cross_entropy, [0.0, 0.0]), (margin, [-1.0, 1.0])):
        logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(logits, label).sum(), logits)
        assert gradient[0].tolist() == expected


@given(shift=st.floats(-1e6, 1e6))
def test_margin_does_not_change_with_a_constant_on_all_logits(shift: float) -> None:
    shifted = margin(LOGITS + shift, LABELS)
    assert shifted.tolist() == pytest.approx(margin(LOGITS, LABELS).tolist(), abs=1e-9)


@pytest.mark.parametrize("name", list(LOSSES))
def test_each_sample_has_a_loss_of_its_own(name: str) -> None:
    whole = LOSSES[name](LOGITS, LABELS)
    assert whole.shape == (4,)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(LOSSES[name](LOGITS[order], LABELS[order]), whole[order])
    broken = LOGITS.clone()
    broken[1, 2] = torch.nan
    losses = LOSSES[name](broken, LABELS)
    assert torch.isnan(losses).tolist() == [False, True, False, False]
    assert torch.equal(losses[[0, 2, 3]], whole[[0, 2, 3]])
