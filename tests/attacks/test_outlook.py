"""Giving up: when, never for a search that may still arrive, and what it saves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_classifiers import Wavy, images, predicted

from sonet.attacks import APGDT, FAB, Attack, AttackError, Square, Threat
from sonet.attacks.apgd import APGD
from sonet.attacks.outlook import Outlook


def run(futility: float | None, shortfalls: list[list[float]], total: int, window: int = 10) -> list[list[bool]]:
    outlook = Outlook(futility, total, torch.tensor(shortfalls[0]))
    return [
        outlook.hopeless(window * number, torch.tensor(now)).tolist()
        for number, now in enumerate(shortfalls[1:], start=1)
    ]


def test_two_slow_windows_in_a_row() -> None:
    """Of 100 steps, windows of 10: a gain of 0.1, twice credited, is 1.6 in the eight that are left."""
    slow = [[10.0], [9.0], [8.9], [8.8]]
    assert run(2.0, slow, 100) == [[False], [False], [True]]  # 9 < 2 * 1 * 9; then 8.9 > 1.6 and 8.8 > 1.4
    fast = [[10.0], [8.0], [6.0], [4.0]]
    assert run(2.0, fast, 100) == [[False]] * 3
    pause = [[10.0], [9.9], [8.0], [7.9], [6.0]]  # slow and fast in turn
    assert run(2.0, pause, 100) == [[False]] * 4
    assert run(None, slow, 100) == [[False]] * 3
    assert run(50.0, slow, 100) == [[False]] * 3


def test_what_cannot_be_judged_goes_on() -> None:
    never_moved = [[3.0], [3.0], [3.0], [3.0]]
    assert run(2.0, never_moved, 100) == [[False]] * 3
    infinite = [[torch.inf], [torch.inf], [torch.inf], [5.0], [4.9], [4.8]]
    assert run(2.0, infinite, 100)[:4] == [[False]] * 4
    nan = [[torch.nan], [1.0], [torch.nan]]
    assert run(2.0, nan, 100) == [[False]] * 2


def test_each_image_is_judged_by_itself() -> None:
    both = run(2.0, [[10.0, 10.0], [9.0, 8.0], [8.9, 6.0], [8.8, 4.0]], 100)
    assert both[-1] == [True, False]
    outlook = Outlook(2.0, 100, torch.tensor([10.0, 10.0]))
    outlook.hopeless(10, torch.tensor([9.0, 8.0]))
    outlook.keep(torch.tensor([1]))
    assert outlook.hopeless(20, torch.tensor([6.0])).tolist() == [False]


@pytest.mark.parametrize(
    "attack",
    [APGDT(steps=50), FAB(steps=60, stop_when_fooled=True), Square(queries=600)],
    ids=lambda attack: type(attack).__name__,
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_saves_and_loses_nobody_here(attack: Attack, norm: Any) -> None:
    """On these images: that it never loses anybody is not promised. Who falls falls to the same image."""
    model, x = Wavy(speed=1.5), images(60, seed=2)
    labels = predicted(model, x)
    threat = Threat(norm, {"linf": 0.03, "l2": 0.08}[norm])
    whole = attack.run(model, x, labels, threat)
    early = attack.model_copy(update={"futility": 2.0}).run(model, x, labels, threat)
    assert 0.2 < whole.accuracy.value < 0.95
    assert torch.equal(early.fooled, whole.fooled)
    assert (early.queries_each <= whole.queries_each).all()
    assert early.queries < 0.8 * whole.queries
    threat.check(early.adversarial, x)


def test_a_loss_that_is_not_zero_at_the_boundary_is_refused() -> None:
    for kind in (APGD, Square):
        with pytest.raises(AttackError, match="futility needs a loss that is 0 at the boundary"):
            kind(loss="ce", futility=2.0)
