"""What is known of a tensor on its way: sizes are not exceeded, and rounding moves it no further than said."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from explicit_matrices import SKEW, norm, normal, skew
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonet.bounds import (
    Dynamics,
    Reach,
    euler_bound,
    linear_rounding,
    lipschitz,
    logarithmic_norm,
    potential_bound,
)
from sonet.bounds.reach import ROUNDINGS
from sonet.solvers import METHODS, Fixed, integrate
from sonet.types import Field, State

SEEDS = st.integers(0, 2**30)
UNIT = 2.0**-24
POWERS = st.integers(-3, 3)
EXACT = 1 + 1e-12


def skew_field(matrix: Tensor, bias: Tensor, gamma: float, slope: float) -> Field:
    def field(t: Tensor, state: State) -> State:
        return (F.leaky_relu(F.linear(state[0], matrix, bias) - gamma * state[0], slope),)

    return field


def skew_dynamics(matrix: Tensor, bias: Tensor, gamma: float, slope: float) -> Dynamics:
    """As the rows of a dense layer: n products each, the damping, the bias, and the activation."""
    k, absolute, at_zero = norm(matrix), norm(matrix.abs()), float(bias.double().norm())
    return Dynamics(
        norm=k,
        logarithmic=logarithmic_norm(k, gamma, slope),
        lipschitz=lipschitz(k, gamma),
        euler=partial(euler_bound, k, gamma, slope),
        at_zero=at_zero,
        rounding=lambda size: (
            linear_rounding(len(matrix), absolute, size) + 4 * (gamma * size + at_zero + absolute * size)
        ),
    )


def compare(field: Field, exact: Field, dynamics: Dynamics, x: Tensor, solver: Fixed) -> None:
    """One state x, (n,) float32: its way in float32 against the same in float64, and both against the bounds."""
    reach = dynamics.solve(Reach(float(x.double().norm()), 1.0, 0.0, UNIT), solver)
    got = integrate(field, (x[None],), solver).state[0].double()
    truth = integrate(exact, (x[None].double(),), solver).state[0]
    assert float((got - truth).norm()) <= reach.error
    assert float(truth.norm()) <= reach.size * EXACT
    assert float(got.norm()) <= reach.seen * EXACT
    # The bound is no idle one: a few hundred roundings of what is on the way.
    assert reach.error <= 1e-2 * (reach.size + 1e-30)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6, deadline=None)
@given(
    seed=SEEDS,
    kind=st.sampled_from(SKEW),
    size=st.integers(2, 12),
    k=st.one_of(st.floats(1e-4, 1e-2), st.floats(0.05, 2)),
    gamma=st.sampled_from([0.0, 0.3, 1.0]),
    slope=st.sampled_from([0.01, 0.9, 1.0]),
    steps=st.sampled_from([1, 3]),
    bias=POWERS,
    start=POWERS,
)
def test_rounding_moves_a_skew_solve_no_further_than_said(
    method: str,
    seed: int,
    kind: str,
    size: int,
    k: float,
    gamma: float,
    slope: float,
    steps: int,
    bias: int,
    start: int,
) -> None:
    matrix = skew(kind, seed, size, k).float()
    shift = (normal(seed + 1, size) * 10.0**bias).float()
    x = (normal(seed + 2, size) * 10.0**start).float()
    compare(
        skew_field(matrix, shift, gamma, slope),
        skew_field(matrix.double(), shift.double(), gamma, slope),
        skew_dynamics(matrix, shift, gamma, slope),
        x,
        Fixed(method=method, num_steps=steps),
    )


def potential_field(weight: Tensor, bias: Tensor) -> Field:
    def field(t: Tensor, state: State) -> State:
        return (F.linear(F.relu(F.linear(state[0], weight, bias)), -weight.T),)

    return field


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    hidden=st.integers(1, 8),
    size=st.integers(1, 12),
    k=st.floats(0.1, 2),
    steps=st.sampled_from([1, 2, 5]),
    bias=POWERS,
    start=POWERS,
)
def test_rounding_moves_a_potential_solve_no_further_than_said(
    seed: int, hidden: int, size: int, k: float, steps: int, bias: int, start: int
) -> None:
    weight = normal(seed, hidden, size)
    weight = (weight * (k / norm(weight))).float()
    shift = (normal(seed + 1, hidden) * 10.0**bias).float()
    found, absolute, offset = norm(weight), norm(weight.abs()), float(shift.double().norm())

    def rounding(length: float) -> float:
        inner = absolute * length + offset
        return found * (linear_rounding(size, absolute, length) + 4 * inner) + linear_rounding(hidden, absolute, inner)

    dynamics = Dynamics(
        norm=found,
        logarithmic=0.0,
        lipschitz=found * found,
        euler=partial(potential_bound, found),
        at_zero=found * offset,
        rounding=rounding,
    )
    x = (normal(seed + 2, size) * 10.0**start).float()
    exact = potential_field(weight.double(), shift.double())
    compare(potential_field(weight, shift), exact, dynamics, x, Fixed(method="euler", num_steps=steps))


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, terms=st.integers(1, 300), rows=st.integers(1, 5), cancels=st.booleans())
def test_a_product_in_float32_is_as_near_as_its_bound(seed: int, terms: int, rows: int, cancels: bool) -> None:
    """Also where everything cancels: the error is of the size of what is added, not of what is left."""
    matrix, x = normal(seed, rows, terms).float(), normal(seed + 1, terms).float()
    if cancels:
        matrix, x = torch.cat((matrix, -matrix), 1), torch.cat((x, x))
    wrong = (F.linear(x, matrix).double() - F.linear(x.double(), matrix.double())).norm()
    size = float(x.double().norm())
    assert float(wrong) <= linear_rounding(matrix.shape[1], norm(matrix.double().abs()), size) * UNIT


def test_a_map_takes_sizes_gains_and_errors_with_it() -> None:
    before = Reach(2.0, 3.0, 0.5, UNIT)
    assert before.seen == 2.5
    after = before.through(4.0, offset=1.0, rounding=8.0)
    assert (after.size, after.gain, after.unit) == (9.0, 12.0, UNIT)
    assert after.error == pytest.approx(2.0 + ROUNDINGS * 8 * UNIT, rel=1e-12)


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_gains_multiply_over_the_steps_and_bound_the_flow(method: str) -> None:
    matrix = skew("general", 3, 5, 1.0)
    dynamics = skew_dynamics(matrix, torch.zeros(5), 0.1, 0.5)
    solver = Fixed(method=method, num_steps=3)
    reach = dynamics.solve(Reach(1.0, 2.0, 0.0, UNIT), solver)
    assert reach.gain == pytest.approx(2 * dynamics.step(solver) ** 3, rel=1e-12)
    assert dynamics.flow == pytest.approx(math.exp(logarithmic_norm(norm(matrix), 0.1, 0.5)), rel=1e-9)
    fine = Fixed(method="rk4", num_steps=40)
    field = skew_field(matrix, torch.zeros(5, dtype=torch.float64), 0.1, 0.5)
    a, b = normal(1, 30, 5), normal(2, 30, 5)
    apart = (integrate(field, (a,), fine).state[0] - integrate(field, (b,), fine).state[0]).norm(dim=1)
    assert float((apart / (a - b).norm(dim=1)).max()) <= dynamics.flow


def test_an_error_that_came_in_is_carried_on() -> None:
    matrix = skew("blocks", 4, 4, 0.5)
    dynamics = skew_dynamics(matrix, torch.zeros(4), 0.0, 1.0)
    solver = Fixed(method="euler", num_steps=2)
    clean, dirty = (dynamics.solve(Reach(1.0, 1.0, error, UNIT), solver) for error in (0.0, 0.1))
    assert dirty.error >= clean.error + 0.1
    assert dirty.error <= clean.error + 0.1 * dynamics.step(solver) ** 2 + 1e-4
