"""How fast solutions part, and what a step of Euler's method can stretch: no matrix that was found exceeds it."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import product

import pytest
import torch
from explicit_matrices import SKEW, climb, derivative, extremes, norm, normal, skew, uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sonet.bounds import euler_bound, flow_damping, lipschitz, logarithmic_norm, potential_bound

SEEDS = st.integers(0, 2**30)
KINDS = st.sampled_from(SKEW)
SIZES = st.integers(2, 6)
NORMS = st.floats(0.01, 30)
DAMPINGS = st.one_of(st.just(0.0), st.floats(0.001, 10))
SLOPES = st.one_of(st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]), st.floats(0.001, 1))
STEPS = st.floats(0.01, 3)


def top(matrix: Tensor) -> float:
    """lambda_max of the symmetric part."""
    return float(torch.linalg.eigvalsh((matrix + matrix.mT) / 2)[..., -1].max())


def stretched(matrix: Tensor, h: float) -> float:
    return norm(torch.eye(matrix.shape[-1], dtype=torch.float64) + h * matrix)


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, kind=KINDS, size=SIZES, k=NORMS, gamma=DAMPINGS, slope=SLOPES)
def test_no_field_has_a_larger_logarithmic_norm(
    seed: int, kind: str, size: int, k: float, gamma: float, slope: float
) -> None:
    matrix = skew(kind, seed, size, k)
    bound = logarithmic_norm(k, gamma, slope) + 1e-13 * (k + gamma)
    inside = slope + (1 - slope) * uniform(seed, 20, size)
    assert top(derivative(matrix, gamma, inside)) <= bound
    worst = climb(lambda d: top(derivative(matrix, gamma, d)), extremes(seed, slope, size), slope)
    assert worst <= bound
    # phi inside the linear map, no damping: J D has the norms of its transpose, -D J.
    assert top(matrix * inside[:, None, :]) <= logarithmic_norm(k, 0.0, slope) + 1e-13 * k


@settings(max_examples=80, deadline=None)
@given(
    k=st.one_of(st.just(0.0), st.floats(1e-100, 1e6)),
    gamma=st.one_of(st.just(0.0), st.floats(1e-100, 1e6)),
    slope=SLOPES,
)
def test_the_logarithmic_norm_is_attained_by_two_neurons(k: float, gamma: float, slope: float) -> None:
    matrix = torch.tensor([[0.0, k], [-k, 0.0]], dtype=torch.float64)
    found = top(derivative(matrix, gamma, torch.tensor([1.0, slope], dtype=torch.float64)))
    bound = logarithmic_norm(k, gamma, slope)
    assert bound == pytest.approx(found, rel=1e-12, abs=1e-12 * (k + gamma))
    assert bound <= (1 - slope) * k / 2 - slope * gamma + 2e-14 * (k + gamma)


def test_the_logarithmic_norm_of_a_kernel_of_almost_nothing_is_not_lost() -> None:
    assert logarithmic_norm(1e-200, 0.0, 0.5) >= 0.25e-200


def worst_of_two(k: float, gamma: float, slope: float, h: float) -> Decimal:
    """max over D of ||I + h D (J - gamma I)|| for J = [[0, k], [-k, 0]], to 60 digits."""
    one, k_, g, a, step = map(Decimal, (1, k, gamma, slope, h))
    best = Decimal(0)
    for d, e in product((a, one), repeat=2):
        p, q, r, s = one - step * d * g, step * d * k_, -step * e * k_, one - step * e * g
        squares, determinant = p * p + q * q + r * r + s * s, p * s - q * r
        inner = max(squares * squares - 4 * determinant * determinant, Decimal(0))
        best = max(best, ((squares + inner.sqrt()) / 2).sqrt())
    return best


@settings(max_examples=150, deadline=None)
@given(
    k=st.floats(-9, 6).map(lambda p: 10**p),
    gamma=st.one_of(st.just(0.0), st.floats(-9, 6).map(lambda p: 10**p)),
    slope=st.one_of(st.floats(-12, -1).map(lambda p: 10**p), st.floats(-12, -1).map(lambda p: 1 - 10**p), SLOPES),
    h=st.floats(-6, 2).map(lambda p: 10**p),
)
def test_a_step_of_euler_is_bounded_to_the_last_digit_and_tightly(
    k: float, gamma: float, slope: float, h: float
) -> None:
    """In exact arithmetic and at every scale: no rounding error is hidden by the test's own."""
    with localcontext() as context:
        context.prec = 60
        truth = worst_of_two(k, gamma, slope, h)
        bound = Decimal(euler_bound(k, gamma, slope, h))
        cancelled = Decimal(1e-15 * (1 + h * gamma))  # 1 - h gamma, where both are nearly the same
        assert truth - cancelled <= bound <= truth * (1 + Decimal("1e-5")) + cancelled


@pytest.mark.parametrize(
    ("k", "gamma", "slope", "h"),
    [(1e-9, 1e6, 1.0, 1e-6), (1e-8, 1e6, 1 - 1e-12, 1e-6), (1e-9, 0.1, 1 - 1e-12, 10.0)],
)
def test_a_step_that_damping_takes_to_almost_nothing_is_bounded_too(
    k: float, gamma: float, slope: float, h: float
) -> None:
    with localcontext() as context:
        context.prec = 60
        assert worst_of_two(k, gamma, slope, h) <= Decimal(euler_bound(k, gamma, slope, h))


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, kind=KINDS, size=SIZES, k=NORMS, gamma=DAMPINGS, slope=SLOPES, h=STEPS)
def test_no_step_of_euler_stretches_more(
    seed: int, kind: str, size: int, k: float, gamma: float, slope: float, h: float
) -> None:
    matrix = skew(kind, seed, size, k)
    bound = euler_bound(k, gamma, slope, h) * (1 + 1e-13)
    inside = slope + (1 - slope) * uniform(seed, 20, size)
    assert stretched(derivative(matrix, gamma, inside), h) <= bound
    for restart in range(2):
        start = extremes(seed + restart, slope, size)
        assert climb(lambda d: stretched(derivative(matrix, gamma, d), h), start, slope) <= bound
    assert stretched(matrix * inside[:, None, :], h) <= euler_bound(k, 0.0, slope, h) * (1 + 1e-13)
    assert norm(derivative(matrix, gamma, inside)) <= lipschitz(k, gamma) * (1 + 1e-13)


@pytest.mark.parametrize(("k", "gamma", "slope", "h"), [(0.4, 0.06, 0.9, 0.5), (2.0, 0.6, 0.9, 0.25), (3, 1, 0.1, 0.4)])
def test_no_step_stretches_more_even_when_the_kernel_is_searched_for(
    k: float, gamma: float, slope: float, h: float
) -> None:
    """Gradient ascent on J and D together."""
    entries = (0.3 * normal(0, 12, 5, 5)).requires_grad_()
    free = normal(1, 12, 5).requires_grad_()
    optimizer = torch.optim.Adam([entries, free], lr=0.1)
    best = 0.0
    for _ in range(100):
        raw = entries - entries.mT
        matrix = raw * (k / torch.linalg.matrix_norm(raw, 2))[:, None, None]
        slopes = slope + (1 - slope) * torch.sigmoid(3 * free)
        eye = torch.eye(5, dtype=torch.float64)
        found = torch.linalg.matrix_norm(eye + h * slopes[..., None] * (matrix - gamma * eye), 2)
        best = max(best, float(found.detach().max()))
        optimizer.zero_grad()
        (-found.sum()).backward()
        optimizer.step()
    bound = euler_bound(k, gamma, slope, h)
    assert 1 + 0.95 * (bound - 1) <= best <= bound * (1 + 1e-13)


@settings(max_examples=50, deadline=None)
@given(k=NORMS, gamma=DAMPINGS, h=STEPS)
def test_for_a_linear_field_the_step_is_the_formula(k: float, gamma: float, h: float) -> None:
    exact = math.hypot(1 - h * gamma, h * k)
    assert exact * (1 - 1e-14) <= euler_bound(k, gamma, 1.0, h) <= exact * (1 + 1e-6)


def test_without_a_kernel_or_a_step_nothing_but_damping_is_left() -> None:
    assert euler_bound(0.0, 0.5, 0.1, 1.0) == pytest.approx(0.95, rel=1e-11)
    assert euler_bound(0.0, 3.0, 0.1, 1.0) == pytest.approx(2.0, rel=1e-11)
    assert euler_bound(2.0, 0.5, 0.1, 0.0) == pytest.approx(1.0, rel=1e-11)
    assert logarithmic_norm(0.0, 2.0, 0.25) == pytest.approx(-0.5, rel=1e-11)
    assert lipschitz(3.0, 4.0) == pytest.approx(5.0, rel=1e-11)


@settings(max_examples=50, deadline=None)
@given(k=st.floats(0.01, 1e3), slope=st.floats(0.01, 0.999))
def test_the_flow_damping_is_where_the_logarithmic_norm_passes_zero(k: float, slope: float) -> None:
    gamma = flow_damping(k, slope)
    assert abs(logarithmic_norm(k, gamma, slope)) <= 1e-9 * k
    assert logarithmic_norm(k, gamma * (1 - 1e-6), slope) > 0
    assert logarithmic_norm(k, gamma * (1 + 1e-6), slope) < 0


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, hidden=st.integers(1, 6), size=st.integers(1, 6), k=st.floats(0.01, 10), h=STEPS)
def test_no_step_down_a_convex_potential_stretches_more(seed: int, hidden: int, size: int, k: float, h: float) -> None:
    weight = normal(seed, hidden, size)
    weight = weight * (k / norm(weight))
    bound = potential_bound(k, h) * (1 + 1e-13)

    def value(slopes: Tensor) -> float:
        return stretched(-weight.mT @ (slopes[..., None] * weight), h)

    assert value(uniform(seed, 20, hidden)) <= bound
    assert climb(value, extremes(seed, 0.0, hidden), 0.0) <= bound
    # All neurons on: the eigenvalue is there.
    assert value(torch.ones(hidden)) >= h * k * k - 1 - 1e-9


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_numbers_that_mean_nothing_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="expected a norm"):
        logarithmic_norm(bad, 0.0, 0.5)
    with pytest.raises(ValueError, match="expected a norm"):
        logarithmic_norm(1.0, bad, 0.5)
    for slope in (bad, 0.0, 1.1):
        with pytest.raises(ValueError, match="slope"):
            logarithmic_norm(1.0, 0.1, slope)
        with pytest.raises(ValueError, match="slope"):
            flow_damping(1.0, slope)
        with pytest.raises(ValueError, match="slope"):
            euler_bound(1.0, 0.1, slope, 0.5)
    with pytest.raises(ValueError, match="step"):
        euler_bound(1.0, 0.1, 0.5, bad)
    with pytest.raises(ValueError, match="expected a norm"):
        euler_bound(bad, 0.1, 0.5, 0.5)


@pytest.mark.parametrize(("weight", "h"), [(math.nan, 0.5), (1.0, math.nan), (1.0, -1.0)])
def test_a_potential_refuses_numbers_that_mean_nothing(weight: float, h: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        potential_bound(weight, h)
