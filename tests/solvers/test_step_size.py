"""The first step, the error ratio and the next step against their formulas, in plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from small_fields import normal, pair, pair_start, pair_weights
from torch import Tensor

from sonet.solvers import METHODS, Adaptive, integrate
from sonet.solvers.step_size import next_step
from sonet.types import State


def rms(values: Tensor) -> float:
    return math.sqrt(sum(v * v for v in values.flatten().tolist()) / values.numel())


def first_step_by_hand(start: State, control: Adaptive) -> float:
    """Hairer, Norsett, Wanner 1993, II.4, on the whole batch; two tensors meet as torchdiffeq 0.2 or 0.0.1 has it."""
    field = pair(pair_weights(0))
    samples = len(start[0])
    slope = field(torch.zeros(samples, dtype=torch.float64), start)
    scale = [control.atol + control.rtol * part.abs() for part in start]
    d0 = [rms(part / s) for part, s in zip(start, scale, strict=True)]
    d1 = [rms(part / s) for part, s in zip(slope, scale, strict=True)]
    if control.initial == "joint":
        h0 = 0.01 * max(d0) / max(d1)
    else:
        h0 = 0.01 * max(a / b for a, b in zip(d0, d1, strict=True))
    ahead = tuple(part + h0 * s for part, s in zip(start, slope, strict=True))
    there = field(torch.full((samples,), h0, dtype=torch.float64), ahead)
    d2 = [rms((a - b) / s) / h0 for a, b, s in zip(there, slope, scale, strict=True)]
    return min(100 * h0, (0.01 / max(d1 + d2)) ** (1 / METHODS[control.method].order))


def first_step(start: State, control: Adaptive) -> float:
    field = pair(pair_weights(0))
    return float(integrate(field, start, control, t1=100.0).step_sizes[0, 0])


@pytest.mark.parametrize("initial", ["joint", "tensorwise"])
@pytest.mark.parametrize("method", ["adaptive_heun", "bosh3", "dopri5"])
def test_first_step(method: str, initial: str) -> None:
    """From an ordinary start, and from small ones whose two tensors differ much, where 100 h_0 decides."""
    for first, second in ((1.0, 1.0), (1e-3, 1e-6), (1e-6, 1e-2)):
        y, z = pair_start(0, 3)
        start = (first * y, second * z)
        control = Adaptive.model_validate(
            {"method": method, "initial": initial, "scope": "batch", "rtol": 0.1, "atol": 0.1}
        )
        assert first_step(start, control) == pytest.approx(first_step_by_hand(start, control), rel=1e-9)


def test_the_two_rules_differ_on_two_tensors() -> None:
    y, z = pair_start(0, 3)
    start = (1e-3 * y, 1e-6 * z)
    steps = [first_step(start, Adaptive(initial=i, scope="batch", rtol=0.1, atol=0.1)) for i in ("joint", "tensorwise")]
    assert steps[0] != pytest.approx(steps[1], rel=0.01)


def test_a_tensor_that_stands_still_has_no_say_in_the_tensorwise_rule() -> None:
    """torchdiffeq 0.0.1 divides by its slope, 0, there."""
    control = Adaptive(initial="tensorwise", rtol=0.1, atol=0.1)
    y = 0.01 * normal(0, 1, 3)
    alone = integrate(lambda t, s: (1 - s[0],), (y,), control)
    still = integrate(lambda t, s: (1 - s[0], 0 * s[1]), (y, torch.ones(1, 2, dtype=torch.float64)), control)
    torch.testing.assert_close(still.step_sizes[0], alone.step_sizes[0])


def test_a_start_near_zero_begins_with_little() -> None:
    """|y| or |f| below 1e-5 in units of the tolerance says nothing: h_0 = 1e-6, so the step is at most 1e-4."""
    solution = integrate(lambda t, s: (torch.cos(s[0]),), (torch.zeros(1, 1, dtype=torch.float64),), Adaptive())
    assert float(solution.step_sizes[0]) == pytest.approx(1e-4, rel=1e-9)
    solution = integrate(lambda t, s: (0 * s[0],), (torch.ones(1, 1, dtype=torch.float64),), Adaptive())
    assert float(solution.step_sizes[0]) == pytest.approx(1e-6, rel=1e-9)


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [
        (0.0, 10.0),  # exact: as much as allowed
        (1e-9, 10.0),
        (0.01, 0.9 * 0.01 ** (-1 / 3)),
        (0.9, 1.0),  # accepted: never smaller
        (1.0, 0.9),
        (2.0, 0.9 * 2.0 ** (-1 / 3)),
        (1e9, 0.2),
    ],
)
def test_next_step(ratio: float, factor: float) -> None:
    got = next_step(torch.tensor([0.5]), torch.tensor([ratio], dtype=torch.float64), Adaptive(method="bosh3"))
    assert float(got) == pytest.approx(0.5 * factor)


def test_the_error_ratio_decides() -> None:
    """One step of bosh3 whose estimate is known by hand, just accepted and just rejected."""
    tableau = METHODS["bosh3"]
    assert tableau.error is not None
    y0, h = torch.tensor([[0.5, -2.0]], dtype=torch.float64), 0.8
    slopes: list[Tensor] = []
    for c, row in zip(tableau.c, ((), *tableau.a), strict=True):
        at = y0 + h * sum((a * k for a, k in zip(row, slopes, strict=True)), torch.zeros(()))
        slopes.append(torch.cos(3 * at) + c * h)
    y1 = y0 + h * sum((b * k for b, k in zip(tableau.b, slopes, strict=True)), torch.zeros(()))
    error = h * sum((e * k for e, k in zip(tableau.error, slopes, strict=True)), torch.zeros(()))
    share = rms(error / (1 + 0.5 * torch.maximum(y0.abs(), y1.abs())))
    for tolerance, rejected in ((share * 1.000001, 0), (share * 0.999999, 1)):
        control = Adaptive(method="bosh3", atol=tolerance, rtol=0.5 * tolerance, first_step=h)
        solution = integrate(lambda t, s: (torch.cos(3 * s[0]) + t[:, None],), (y0,), control, t1=0.8)
        assert int(solution.rejected) >= rejected
        assert (int(solution.rejected) == 0) is (rejected == 0)
