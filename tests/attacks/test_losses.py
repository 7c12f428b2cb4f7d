"""The losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sonet.attacks import LOSSES, cross_entropy, margin
from sonet.attacks.losses import (
    TARGETED_LOSSES,
    Goal,
    dlr,
    fooled,
    likely_targets,
    log_odds,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)

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


def random_logits(classes: int, n: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (n,), generator=generator)


def slope(loss: object, logits: Tensor, labels: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf)  # type: ignore[operator]
    return gradient


CLASSES = pytest.mark.parametrize("classes", [2, 3, 10])


@CLASSES
def test_cross_entropy_is_softplus_of_the_log_odds(classes: int) -> None:
    logits, labels = random_logits(classes)
    odds = log_odds(logits, labels)
    torch.testing.assert_close(torch.nn.functional.softplus(odds), cross_entropy(logits, labels), rtol=1e-12, atol=0)
    p = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(odds, torch.log((1 - p) / p), rtol=1e-9, atol=1e-9)
    if classes == 2:
        torch.testing.assert_close(odds, margin(logits, labels), rtol=0, atol=1e-12)


@CLASSES
def test_log_odds_grow_in_the_direction_of_cross_entropy(classes: int) -> None:
    """gradient of cross-entropy = (1 - p) gradient of the log-odds."""
    logits, labels = random_logits(classes)
    p = logits.softmax(1).gather(1, labels[:, None])
    torch.testing.assert_close(
        slope(cross_entropy, logits, labels), (1 - p) * slope(log_odds, logits, labels), rtol=1e-9, atol=1e-12
    )


@CLASSES
def test_log_odds_do_not_saturate_in_float32(classes: int) -> None:
    """With logits a thousand times larger cross-entropy has no gradient left where the label is ahead; they do."""
    logits, _ = random_logits(classes)
    labels = logits.argmax(1)
    sure = (1000 * logits).float()
    assert (slope(cross_entropy, sure, labels).abs().amax(1) == 0).double().mean() > 0.9
    gradient = slope(log_odds, sure, labels)
    label = gradient.gather(1, labels[:, None]).squeeze(1)
    assert label.tolist() == [-1.0] * 40
    torch.testing.assert_close(gradient.sum(1), torch.zeros(40), rtol=0, atol=1e-6)
    torch.testing.assert_close(log_odds(sure, labels), margin(sure, labels), rtol=1e-4, atol=1.0)


def test_dlr_by_hand() -> None:
    logits = torch.tensor([[5.0, 3.0, 1.0, 0.0], [5.0, 3.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert dlr(logits, torch.tensor([0, 2, 1])).tolist() == [-2 / 4, 4 / 4, 0.0]
    assert dlr(torch.tensor([[5.0, 3.0]]), torch.tensor([0])).tolist() == [-2.0]
    labels, targets = torch.tensor([0, 2, 1]), torch.tensor([3, 0, 0])
    assert targeted_dlr(logits, labels, targets).tolist() == pytest.approx([-5 / 4.5, 4 / 4.5, 0.0])
    three = torch.tensor([[5.0, 3.0, 1.0]])
    assert targeted_dlr(three, torch.tensor([0]), torch.tensor([2])).tolist() == [-4.0]
    assert targeted_dlr(three[:, :2], torch.tensor([0]), torch.tensor([1])).tolist() == [-2.0]


@CLASSES
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1000.0])
@pytest.mark.parametrize("shift", [-50.0, 0.0, 50.0])
def test_dlr_does_not_change_with_a_shift_or_a_scale(classes: int, shift: float, scale: float) -> None:
    """With two classes, targeted with three, there is nothing to divide by: the difference itself scales."""
    logits, labels = random_logits(classes)
    targets = (labels + 1) % classes
    factor, targeted = scale if classes == 2 else 1.0, scale if classes < 4 else 1.0
    changed = scale * logits + shift
    torch.testing.assert_close(dlr(changed, labels), factor * dlr(logits, labels), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        targeted_dlr(changed, labels, targets), targeted * targeted_dlr(logits, labels, targets), rtol=1e-9, atol=1e-9
    )


@CLASSES
def test_dlr_is_positive_where_fooled_and_at_most_one_where_not(classes: int) -> None:
    logits, labels = random_logits(classes)
    value = dlr(logits, labels)
    assert torch.equal(value > 0, fooled(logits, labels))
    if classes > 2:
        assert value.min() >= -1


def test_targeted_losses_by_hand() -> None:
    labels, targets = torch.tensor([0, 1, 2, 1]), torch.tensor([2, 0, 0, 0])
    assert targeted_margin(LOGITS, labels, targets).tolist() == [-2.0, 1.0, 2.0, -4.0]
    expected = LOGITS.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(targeted_cross_entropy(LOGITS, labels, targets), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list(TARGETED_LOSSES))
def test_targeted_losses_grow_toward_the_target(name: str) -> None:
    """The ratio may fall where the target leads already, and then only there; it has the sign of the difference."""
    logits, labels = random_logits(10)
    targets = (labels + 3) % 10
    loss = TARGETED_LOSSES[name]
    before = loss(logits, labels, targets)
    if name == "dlr":
        assert torch.equal(before > 0, targeted_margin(logits, labels, targets) > 0)
        before = torch.where(logits.argsort(1, descending=True)[:, 4:].eq(targets[:, None]).any(1), before, -torch.inf)
        assert torch.isfinite(before).sum() > 10
    raised = logits + 1e-6 * torch.nn.functional.one_hot(targets, 10)
    assert (loss(raised, labels, targets) > before).all()


@CLASSES
def test_likely_targets_are_the_wrong_classes_from_the_likeliest_down(classes: int) -> None:
    logits, labels = random_logits(classes)
    for number in (1, 2, 9, 20):
        targets = likely_targets(logits, labels, number)
        assert targets.shape == (40, min(number, classes - 1))
        for row, label, found in zip(logits.tolist(), labels.tolist(), targets.tolist(), strict=True):
            order = sorted((k for k in range(classes) if k != label), key=lambda k: -row[k])
            assert found == order[:number]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_likely_targets_are_never_the_label_whatever_the_logits(bad: float) -> None:
    logits, labels = random_logits(4)
    whole = likely_targets(logits, labels, 3)
    logits[0] = bad
    logits[1, (labels[1] + 1) % 4] = bad
    for dtype in (torch.float32, torch.float64):
        targets = likely_targets(logits.to(dtype), labels, 3)
        assert (targets != labels[:, None]).all()
        assert torch.equal(targets[2:], whole[2:])
        assert targets[:2].sort(1).values.diff().gt(0).all()  # all different


def test_a_goal_is_its_loss_at_its_labels_and_targets() -> None:
    logits, labels = random_logits(5)
    targets = (labels + 1) % 5
    aimed = Goal(labels, dlr, targets, targeted_dlr)
    free = Goal(labels, dlr)
    assert torch.equal(free(logits), dlr(logits, labels))
    assert torch.equal(Goal(labels)(logits), margin(logits, labels))
    assert torch.equal(aimed(logits), targeted_dlr(logits, labels, targets))
    for index in (torch.tensor([7, 2, 30]), torch.arange(40) % 3 == 0):
        assert torch.equal(aimed.take(index)(logits[index]), aimed(logits)[index])
        assert torch.equal(free.take(index)(logits[index]), free(logits)[index])
    assert torch.equal(aimed.fooled(logits), logits.argmax(1) != labels)
    logits[3, 2] = torch.inf
    assert aimed.fooled(logits)[3]
