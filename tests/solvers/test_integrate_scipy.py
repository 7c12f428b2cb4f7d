"""Against SciPy at tight tolerance: a nonlinear problem without a closed form, both ways in time."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from sonet.solvers import Adaptive, Fixed, integrate
from sonet.types import State

scipy_integrate = pytest.importorskip("scipy.integrate")

START = np.array([[1.0, 0.5], [2.0, 0.3], [0.4, 1.8], [1.1, 0.9]])
PREDATION = np.array([0.6, 1.0, 1.4, 0.8])
"""Each sample its own problem, so that a mix-up of samples cannot pass."""


def hunt(t: Tensor, state: State) -> State:
    """Lotka and Volterra with seasons. Prey and predators are two tensors; the third is the sample's predation."""
    prey, predators, predation = state
    season = 1.5 + 0.5 * torch.sin(2 * t)[:, None]
    return (prey * (season - predation * predators), predators * (prey * predation - 1), torch.zeros_like(predation))


@functools.cache
def by_scipy(method: str, t0: float, t1: float) -> np.ndarray:
    ends = []
    for start, predation in zip(START, PREDATION, strict=True):

        def slope(t: float, y: np.ndarray, predation: float = predation) -> list[float]:
            return [y[0] * (1.5 + 0.5 * np.sin(2 * t) - predation * y[1]), y[1] * (y[0] * predation - 1)]

        solution = scipy_integrate.solve_ivp(slope, (t0, t1), start, method=method, rtol=1e-10, atol=1e-10)
        assert solution.success
        ends.append(solution.y[:, -1])
    return np.array(ends)


def by_us(solver: Fixed | Adaptive, t0: float, t1: float) -> np.ndarray:
    start = torch.tensor(START)
    state = (start[:, :1], start[:, 1:], torch.tensor(PREDATION)[:, None])
    solution = integrate(hunt, state, solver, t0=t0, t1=t1)
    assert solution.ok
    return torch.cat(solution.state[:2], 1).numpy()


@pytest.mark.parametrize(("t0", "t1"), [(0.5, 3.0), (0.5, -1.5)], ids=["forwards", "backwards"])
@pytest.mark.parametrize("scope", ["sample", "batch", 3])
def test_adaptive_agrees(scope: str | int, t0: float, t1: float) -> None:
    solvers = [
        (Adaptive(method="dopri5", rtol=1e-9, atol=1e-9, scope=scope), 3e-7),
        (Adaptive(method="dopri5", rtol=1e-9, atol=1e-9, scope=scope, end="dense"), 3e-7),
        (Adaptive(method="tsit5", rtol=1e-9, atol=1e-9, scope=scope), 3e-7),
        (Adaptive(method="bosh3", rtol=1e-6, atol=1e-6, scope=scope), 1e-3),
    ]
    for solver, tolerance in solvers:
        got = by_us(solver, t0, t1)
        for oracle in ("RK45", "DOP853"):
            np.testing.assert_allclose(got, by_scipy(oracle, t0, t1), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("t0", "t1"), [(0.5, 3.0), (0.5, -1.5)], ids=["forwards", "backwards"])
def test_fixed_agrees(t0: float, t1: float) -> None:
    expected = by_scipy("DOP853", t0, t1)
    for method in ("rk4", "rk4_38", "dopri5"):
        np.testing.assert_allclose(by_us(Fixed(method=method, num_steps=150), t0, t1), expected, atol=1e-6, rtol=0)


def test_there_and_back_again() -> None:
    """Back from the end of the way forwards: the start, the flow being invertible."""
    start = torch.tensor(START)
    state = (start[:, :1], start[:, 1:], torch.tensor(PREDATION)[:, None])
    solver = Adaptive(method="tsit5", rtol=1e-9, atol=1e-9)
    there = integrate(hunt, state, solver, t0=0.5, t1=3.0)
    back = integrate(hunt, there.state, solver, t0=3.0, t1=0.5)
    for got, expected in zip(back.state, state, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-7, rtol=0)
    assert (there.step_sizes.nan_to_num() >= 0).all()
    assert (back.step_sizes.nan_to_num() <= 0).all()
