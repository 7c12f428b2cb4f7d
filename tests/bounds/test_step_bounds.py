"""What a step of each method can stretch: the computed map, and the worst slopes at every stage, stay below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from explicit_matrices import SKEW, climb, derivative, extremes, norm, normal, skew
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonet.bounds import (
    NoDamping,
    euler_bound,
    largest_norm,
    least_damping,
    lipschitz,
    potential_bound,
    step_bound,
)
from sonet.solvers import METHODS, Fixed, Tableau, integrate
from sonet.types import State

SEEDS = st.integers(0, 2**30)
KINDS = st.sampled_from(SKEW)
NORMS = st.floats(0.02, 8)
DAMPINGS = st.one_of(st.just(0.0), st.floats(0.01, 3))
SLOPES = st.one_of(st.sampled_from([0.01, 0.5, 0.9, 1.0]), st.floats(0.01, 1))
STEPS = st.floats(0.02, 1.5)
ROUNDED = 1 + 1e-11


def bound(tableau: Tableau, h: float, k: float, gamma: float, slope: float) -> float:
    return step_bound(tableau, h, lambda step: euler_bound(k, gamma, slope, step), lipschitz(k, gamma))


def jacobians(method: str, h: float, matrix: Tensor, gamma: float, slope: float, x: Tensor, bias: Tensor) -> Tensor:
    """(points, n, n): of one step, computed by the solver, of f(x) = LeakyReLU((J - gamma I) x + b)."""

    def field(t: Tensor, state: State) -> State:
        return (F.leaky_relu(state[0] @ matrix.T - gamma * state[0] + bias, slope),)

    def step(points: Tensor) -> Tensor:
        return integrate(field, (points,), Fixed(method=method, num_steps=1), t1=h).state[0].sum(0)

    found: Tensor = torch.autograd.functional.jacobian(step, x)  # type: ignore[no-untyped-call]
    return found.permute(1, 0, 2)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6, deadline=None)
@given(seed=SEEDS, kind=KINDS, size=st.integers(2, 8), k=NORMS, gamma=DAMPINGS, slope=SLOPES, h=STEPS)
def test_no_step_of_the_solver_stretches_more(
    method: str, seed: int, kind: str, size: int, k: float, gamma: float, slope: float, h: float
) -> None:
    matrix = skew(kind, seed, size, k)
    x, bias = 10 ** normal(seed + 1, 40, 1) * normal(seed + 2, 40, size), normal(seed + 3, size)
    found = norm(jacobians(method, h, matrix, gamma, slope, x, bias))
    assert found <= bound(METHODS[method], h, k, gamma, slope) * ROUNDED


def step_matrix(tableau: Tableau, h: float, derivatives: Sequence[Tensor]) -> Tensor:
    """Of one step whose stage i has the derivative `derivatives[i]`."""
    eye = torch.eye(len(derivatives[0]), dtype=torch.float64)
    slopes: list[Tensor] = []
    for row, each in zip(((), *tableau.a), derivatives, strict=True):
        slopes.append(each @ (eye + h * sum((a * s for a, s in zip(row, slopes, strict=True)), torch.zeros_like(eye))))
    return eye + h * sum((b * s for b, s in zip(tableau.b, slopes, strict=True)), torch.zeros_like(eye))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS, kind=KINDS, size=st.integers(2, 4), k=NORMS, gamma=DAMPINGS, slope=SLOPES, h=STEPS)
def test_no_step_stretches_more_with_the_worst_slopes_at_every_stage(
    method: str, seed: int, kind: str, size: int, k: float, gamma: float, slope: float, h: float
) -> None:
    """Two solutions meet every neuron at other slopes in each stage: more than single points can show."""
    tableau, matrix = METHODS[method], skew(kind, seed, size, k)

    def value(slopes: Tensor) -> float:
        return norm(step_matrix(tableau, h, [derivative(matrix, gamma, row) for row in slopes]))

    start = extremes(seed, slope, tableau.stages, size)
    assert climb(value, start, slope, rounds=2) <= bound(tableau, h, k, gamma, slope) * ROUNDED


def test_the_step_of_the_solver_is_the_matrix_that_is_searched() -> None:
    """Guards the search: of a linear field both are the same."""
    matrix = skew("general", 0, 4, 1.3)
    for method, tableau in METHODS.items():
        solved = jacobians(method, 0.7, matrix, 0.2, 1.0, normal(1, 1, 4), normal(2, 4))[0]
        written = step_matrix(tableau, 0.7, [derivative(matrix, 0.2, torch.ones(4))] * tableau.stages)
        torch.testing.assert_close(solved, written, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS, hidden=st.integers(1, 5), k=st.floats(0.05, 3), h=STEPS)
def test_no_step_down_a_convex_potential_stretches_more(
    method: str, seed: int, hidden: int, k: float, h: float
) -> None:
    tableau, weight = METHODS[method], normal(seed, hidden, 4)
    weight = weight * (k / norm(weight))

    def value(slopes: Tensor) -> float:
        return norm(step_matrix(tableau, h, [-weight.T @ (row[:, None] * weight) for row in slopes]))

    found = step_bound(tableau, h, partial(potential_bound, k), k * k) * ROUNDED
    assert climb(value, extremes(seed, 0.0, tableau.stages, hidden), 0.0, rounds=2) <= found
    assert value(torch.ones(tableau.stages, hidden, dtype=torch.float64)) <= found


@settings(max_examples=6, deadline=None)
@given(k=NORMS, gamma=DAMPINGS, slope=SLOPES, h=STEPS)
def test_heun_is_as_safe_as_euler(k: float, gamma: float, slope: float, h: float) -> None:
    """Half where it stands and half two steps of Euler's on: (1 + e^2) / 2."""
    euler = euler_bound(k, gamma, slope, h)
    assert bound(METHODS["euler"], h, k, gamma, slope) == euler
    heun = bound(METHODS["heun"], h, k, gamma, slope)
    assert heun <= (1 + euler**2) / 2 * ROUNDED
    assert heun == bound(METHODS["adaptive_heun"], h, k, gamma, slope)
    if euler <= 1:
        assert heun <= ROUNDED


@pytest.mark.parametrize("method", ["midpoint", "rk4", "rk4_38", "bosh3"])
def test_short_steps_of_other_methods_are_bounded_well(method: str) -> None:
    """Not by a sum of absolute values alone, which would be of the order of 1 + h k."""
    found = bound(METHODS[method], 0.02, 1.0, 0.5, 0.9)
    assert found <= euler_bound(1.0, 0.5, 0.9, 0.02) + 1e-3
    assert found < 1


EULERS = [(0.4, 0.9, 0.5), (2.0, 0.9, 0.25), (0.1, 0.5, 0.25), (0.4, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("method", "k", "slope", "h"),
    [("euler", *setting) for setting in EULERS] + [("rk4", 0.4, 0.9, 0.5)],
)
def test_the_least_damping_is_enough_and_a_little_less_is_not(method: str, k: float, slope: float, h: float) -> None:
    tableau = METHODS[method]
    gamma = least_damping(k, slope, tableau, h)
    assert 0 < gamma <= 2 / h
    assert bound(tableau, h, k, gamma, slope) <= 1 + 1e-9
    assert bound(tableau, h, k, gamma * (1 - 2e-3), slope) > 1 + 1e-9


@settings(max_examples=15, deadline=None)
@given(k=st.floats(0.05, 0.6), h=st.floats(0.1, 1))
def test_the_least_damping_of_a_linear_field_is_the_root_of_the_formula(k: float, h: float) -> None:
    r"""(1 - h g)^2 + h^2 k^2 = 1: g = (1 - sqrt(1 - h^2 k^2)) / h."""
    exact = (1 - math.sqrt(1 - (h * k) ** 2)) / h
    found = least_damping(k, 1.0, METHODS["euler"], h)
    assert exact * (1 - 1e-5) - 1e-8 <= found <= exact * (1 + 2e-3) + 1e-8


def test_without_a_kernel_no_damping_is_needed() -> None:
    assert least_damping(0.0, 0.5, METHODS["euler"], 0.5) == 0


@pytest.mark.parametrize(("k", "slope"), [(1e3, 0.9), (1.01, 1.0)])
def test_where_no_damping_helps_it_says_what_would(k: float, slope: float) -> None:
    with pytest.raises(NoDamping, match=r"^euler with steps of 1: .*Take more steps, a smaller kernel_norm"):
        least_damping(k, slope, METHODS["euler"], 1.0)


@pytest.mark.parametrize("h", [1.0, 0.5, 0.2])
def test_the_largest_norm_of_a_potential_is_that_of_euler(h: float) -> None:
    assert largest_norm(METHODS["euler"], h) == pytest.approx(math.sqrt(2 / h), rel=1e-12)
    if h == 0.5:
        assert largest_norm(METHODS["heun"], h) == pytest.approx(2.0, rel=1e-3)


def test_a_little_more_than_the_largest_norm_expands() -> None:
    weight = largest_norm(METHODS["euler"], 0.5) * torch.eye(2, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    assert norm(eye - 0.5 * weight.T @ weight) <= 1 + 1e-12
    assert norm(eye - 0.5 * 1.001 * weight.T @ weight) > 1.0005


@pytest.mark.parametrize("method", ["midpoint", "rk4"])
def test_methods_that_are_no_chain_of_eulers_have_no_norm_for_a_potential(method: str) -> None:
    with pytest.raises(NoDamping, match=f"^{method}: no norm of W.*euler or heun"):
        largest_norm(METHODS[method], 0.5)
