"""Against closed forms: the order of convergence is what the tableau claims, and tolerances do what they say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from oracles import ORACLES, ROTOR, SPIRAL, SWELL, Oracle
from sonet.solvers import METHODS, Adaptive, Fixed, Solution, integrate
from sonet.solvers.control import End

PAIRS = [name for name, tableau in METHODS.items() if tableau.adaptive]
FEWEST_STEPS = {1: 128, 2: 64, 3: 48, 4: 24, 5: 48}
"""By order: few enough to stay above rounding, many enough for the leading term of the error to dominate."""


def by_name(oracle: Oracle) -> str:
    return oracle.name


def solve(oracle: Oracle, solver: Fixed | Adaptive) -> Solution:
    return integrate(oracle.field, oracle.start, solver, t0=oracle.t0, t1=oracle.t1)


def slope(xs: list[float], ys: list[float]) -> float:
    """Of the least-squares line through (log x, log y)."""
    x, y = [math.log(v) for v in xs], [math.log(v) for v in ys]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


@pytest.mark.parametrize("oracle", ORACLES, ids=by_name)
def test_the_oracles_solve_their_equations(oracle: Oracle) -> None:
    """By central differences at several times: an oracle that errs would make every other test lie."""
    assert all(torch.equal(a, b) for a, b in zip(oracle.solution(oracle.t0), oracle.start, strict=True))
    for t in torch.linspace(oracle.t0, oracle.t1, 5).tolist():
        times = torch.full((len(oracle.start[0]),), t, dtype=torch.float64)
        slopes = oracle.field(times, oracle.solution(t))
        for after, before, expected in zip(oracle.solution(t + 1e-5), oracle.solution(t - 1e-5), slopes, strict=True):
            torch.testing.assert_close((after - before) / 2e-5, expected, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("oracle", ORACLES, ids=by_name)
@pytest.mark.parametrize("method", METHODS)
def test_fixed_steps_converge_with_the_order_of_the_method(method: str, oracle: Oracle) -> None:
    order = METHODS[method].order
    steps = [FEWEST_STEPS[order] * 2**i for i in range(3)]
    errors = [oracle.error(solve(oracle, Fixed(method=method, num_steps=n)).state) for n in steps]
    assert -slope(steps, errors) == pytest.approx(order, abs=0.2), errors


@pytest.mark.parametrize("oracle", [SWELL, ROTOR], ids=by_name)
def test_fixed_steps_go_backwards_too(oracle: Oracle) -> None:
    there = oracle.solution(oracle.t1)
    back = integrate(oracle.field, there, Fixed(method="rk4", num_steps=200), t0=oracle.t1, t1=oracle.t0)
    for got, start in zip(back.state, oracle.start, strict=True):
        torch.testing.assert_close(got, start, atol=1e-7, rtol=0)


TOLERANCES = {"adaptive_heun": [1e-1, 1e-2, 1e-3], "bosh3": [1e-2, 1e-5, 1e-7]}


@pytest.mark.parametrize("oracle", ORACLES, ids=by_name)
@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("method", PAIRS)
def test_error_falls_with_the_tolerance(method: str, end: End, oracle: Oracle) -> None:
    tolerances = TOLERANCES.get(method, [1e-2, 1e-4, 1e-7, 1e-10])
    solutions = [solve(oracle, Adaptive(method=method, rtol=t, atol=t, end=end, max_steps=2000)) for t in tolerances]
    assert all(solution.ok for solution in solutions)
    errors = [oracle.error(solution.state) for solution in solutions]
    for loose, tight in itertools.pairwise(errors):
        assert tight < loose / 5, errors
    if (method, end) != ("bosh3", "dense"):  # whose middle is of first order only: see below
        for tolerance, error in zip(tolerances, errors, strict=True):
            assert error < 100 * tolerance


@pytest.mark.parametrize("oracle", [SPIRAL, SWELL], ids=by_name)
@pytest.mark.parametrize(
    ("method", "tolerances"), [("adaptive_heun", [1e-2, 1e-3, 1e-4]), ("bosh3", [1e-4, 1e-5, 1e-6])]
)
def test_adaptive_error_falls_with_the_number_of_steps(method: str, tolerances: list[float], oracle: Oracle) -> None:
    """As n^-order: the controller spends steps where they count, and every step starts with the right slope."""
    solutions = [solve(oracle, Adaptive(method=method, rtol=t, atol=t, scope="batch")) for t in tolerances]
    steps = [float(solution.accepted[0]) for solution in solutions]
    errors = [oracle.error(solution.state) for solution in solutions]
    assert -slope(steps, errors) == pytest.approx(METHODS[method].order, abs=0.2), (steps, errors)


def test_dense_output_of_bosh3_is_torchdiffeqs_weak_one() -> None:
    """Its middle, y + h/2 k_2, is of first order: at tight tolerances the end is far worse than the steps to it.

    This is what torchdiffeq computes and the paper ran; end="clip" does not suffer from it.
    """
    setting = {"method": "bosh3", "rtol": 1e-8, "atol": 1e-8}
    clip, dense = (SPIRAL.error(solve(SPIRAL, Adaptive(end=end, **setting)).state) for end in ("clip", "dense"))
    assert clip < 20e-8
    assert dense > 20 * clip


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_dense_output_is_as_good_as_the_method(method: str) -> None:
    """The end read off inside a step is not much worse than the end stepped to."""
    for tolerance in (1e-4, 1e-6, 1e-8):
        setting = {"method": method, "rtol": tolerance, "atol": tolerance}
        dense = solve(SPIRAL, Adaptive(end="dense", **setting))
        assert SPIRAL.error(dense.state) < 50 * tolerance
        spans = dense.step_sizes.nansum(0)
        assert bool((spans > SPIRAL.t1 - SPIRAL.t0).all())  # it did overstep


def test_states_of_one_number_per_sample() -> None:
    """A state may be (N,): one number for each sample."""
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for solver in (Fixed(method="dopri5", num_steps=20), Adaptive(rtol=1e-9, atol=1e-9)):
        got = integrate(lambda t, y: (-y[0],), (start,), solver).state[0]
        torch.testing.assert_close(got, start * math.exp(-1), atol=1e-7, rtol=0)
