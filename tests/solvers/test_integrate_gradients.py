"""What autograd sees: exact for fixed steps, the adaptive map's true derivative or a named part of it otherwise."""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Callable

import pytest
import torch
from small_fields import KINDS, leaves, normal, read_out
from torch import Tensor

from sonet.solvers import METHODS, Adaptive, Fixed, Solution, integrate
from sonet.solvers.control import StepGradient
from sonet.types import Field, State

PAIRS = [name for name, tableau in METHODS.items() if tableau.adaptive]
LOOSE = {"rtol": 0.1, "atol": 0.1, "step_gradient": "differentiated"}
EPSILON = 1e-6
SEEDS = 8

Leaves = tuple[Tensor, ...]
Solve = Callable[[Leaves, Leaves], Solution]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_fixed_steps_pass_gradcheck(method: str, kind: str) -> None:
    make, weights, start = KINDS[kind]
    w, y = leaves(weights(0)), leaves(start(0, 2))

    def solve(*inputs: Tensor) -> State:
        solver = Fixed(method=method, num_steps=2)
        return integrate(make(inputs[: len(w)]), inputs[len(w) :], solver, t0=0.2, t1=0.9).state

    assert torch.autograd.gradcheck(solve, (*w, *y))


@pytest.mark.parametrize("method", PAIRS)
def test_frozen_is_the_gradient_of_the_steps_replayed(method: str) -> None:
    """Of the same steps taken by hand with plain numbers for their sizes."""
    make, weights, start = KINDS["single"]
    w, y = leaves(weights(1)), leaves(start(1, 3))
    tableau, field = METHODS[method], make(w)
    solution = integrate(field, y, Adaptive(method=method, rtol=1e-2, atol=1e-2))
    assert int(solution.rejected.sum()) + int(solution.accepted.max() - solution.accepted.min()) > 0
    ends = []
    for sample in range(3):
        t, at = 0.0, y[0][sample : sample + 1]
        for h in (h for h in solution.step_sizes[:, sample].tolist() if not math.isnan(h)):
            slopes: list[Tensor] = []
            for c, row in zip(tableau.c, ((), *tableau.a), strict=True):
                reached = at + h * sum((a * k for a, k in zip(row, slopes, strict=False)), torch.zeros(()))
                slopes.append(field(torch.tensor([t + c * h], dtype=torch.float64), (reached,))[0])
            at = at + h * sum((b * k for b, k in zip(tableau.b, slopes, strict=True)), torch.zeros(()))
            t += h
        ends.append(at)
    replayed = (torch.cat(ends),)
    torch.testing.assert_close(solution.state, replayed, atol=1e-12, rtol=0)
    for got, expected in zip(
        torch.autograd.grad(read_out(solution.state), (*w, *y)),
        torch.autograd.grad(read_out(replayed), (*w, *y)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-11)


def solver_of(kind: str, **setting: object) -> Solve:
    solver = Adaptive.model_validate(setting)
    return lambda w, y: integrate(KINDS[kind][0](w), y, solver)


def directional(solve: Solve, w: Leaves, y: Leaves, seed: int) -> tuple[float, float, bool]:
    """Autograd's and the central difference's slope along a random direction of start and weights.

    In units of the gradient's norm; and whether all three solves took the same decisions, without which the map is not
    smooth between them.
    """
    solution = solve(w, y)
    inputs = (*w, *y)
    gradients = torch.autograd.grad(read_out(solution.state), inputs)
    scale = torch.cat([g.flatten() for g in gradients]).norm().item()
    ways = [normal(900 + seed + i, *part.shape) for i, part in enumerate(inputs)]
    length = torch.cat([way.flatten() for way in ways]).norm()
    values, same = [], True
    with torch.no_grad():
        for sign in (1, -1):
            moved = tuple(part + sign * EPSILON * way / length for part, way in zip(inputs, ways, strict=True))
            other = solve(moved[: len(w)], moved[len(w) :])
            values.append(read_out(other.state).item())
            same &= torch.equal(other.accepted, solution.accepted) and torch.equal(other.rejected, solution.rejected)
            same &= torch.equal(other.step_sizes.isnan(), solution.step_sizes.isnan())
    numeric = (values[0] - values[1]) / (2 * EPSILON)
    exact = sum((g * way / length).sum().item() for g, way in zip(gradients, ways, strict=True))
    return exact / scale, numeric / scale, same


def compare(kind: str, seeds: int, samples: int = 4, **setting: object) -> list[float]:
    """The gaps between autograd and differences at the points where no decision changes, which must be most."""
    _, weights, start = KINDS[kind]
    gaps = []
    for seed in range(seeds):
        w, y = leaves(weights(seed)), leaves(start(seed, samples))
        exact, numeric, same = directional(solver_of(kind, **setting), w, y, seed)
        if same:
            gaps.append(abs(exact - numeric))
    assert len(gaps) >= 0.75 * seeds
    return gaps


@pytest.mark.parametrize("scope", ["sample", "batch", 3])
@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("method", PAIRS)
def test_differentiated_is_the_derivative_of_the_adaptive_map(method: str, end: str, scope: str | int) -> None:
    """To 1e-5 of the gradient's norm, with and without rejected steps."""
    for setting in ({}, {"rtol": 0.02, "atol": 0.02, "first_step": 0.9}):
        changes = LOOSE | setting | {"method": method, "end": end, "scope": scope}
        for kind, seeds in (("pair", 3), ("single", 1)):
            assert max(compare(kind, seeds, **changes)) < 1e-5


def test_those_points_had_rejected_steps() -> None:
    rejected = 0
    for seed in range(3):
        make, weights, start = KINDS["pair"]
        solver = Adaptive(method="bosh3", rtol=0.02, atol=0.02, first_step=0.9)
        rejected += int(integrate(make(weights(seed)), start(seed, 4), solver).rejected.sum())
    assert rejected >= 6


@pytest.mark.parametrize("initial", ["joint", "tensorwise"])
def test_differentiated_goes_through_either_rule_for_the_first_step(initial: str) -> None:
    assert max(compare("pair", 4, **LOOSE, scope="batch", end="dense", initial=initial)) < 1e-5


@pytest.mark.parametrize("step_gradient", ["frozen", "first"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_the_other_settings_are_not_that_derivative(scope: str, kind: str, step_gradient: str) -> None:
    """At tolerance 0.1, by over 1 % of the gradient's norm in half of the directions: so the test above can fail."""
    setting = LOOSE | {"scope": scope, "end": "dense", "step_gradient": step_gradient}
    gaps = compare(kind, SEEDS, **setting)
    assert statistics.median(gaps) > (1e-2 if step_gradient == "frozen" else 1e-3)


def bounded(w: Leaves) -> Field:
    """y' = w_0 sqrt(1 - y) - w_1: no number where y > 1, comes to rest below it."""
    return lambda t, y: (w[0] * torch.sqrt(1 - y[0]) - w[1],)


@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_differentiated_goes_through_trials_that_were_no_numbers(scope: str, end: str) -> None:
    """The step after such a trial is `shrink` times its own, and so is the derivative."""
    solver = Adaptive.model_validate(LOOSE | {"scope": scope, "end": end})
    broken = []

    def solve(w: Leaves, y: Leaves) -> Solution:
        def field(t: Tensor, state: State) -> State:
            slope = bounded(w)(t, state)
            broken.append(bool(slope[0].isnan().any()))
            return slope

        return integrate(field, y, solver, t1=6.0)

    gaps = []
    for seed in range(6):
        w = leaves((torch.tensor(1.0 + 0.1 * seed, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)))
        y = leaves((-0.5 * normal(seed, 3, 1).abs(),))
        broken.clear()
        exact, numeric, same = directional(solve, w, y, seed)
        if same and any(broken):
            gaps.append(abs(exact - numeric))
    assert len(gaps) >= 3
    assert max(gaps) < 1e-5


def test_a_trial_that_was_no_number_leaves_all_gradients_finite() -> None:
    for step_gradient in ("frozen", "first", "differentiated"):
        for method in PAIRS:
            w = leaves((torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)))
            y = leaves((torch.tensor([[-0.3], [0.2], [-1.0]], dtype=torch.float64),))
            setting = {"method": method, "rtol": 0.1, "atol": 0.1, "first_step": 5.0, "step_gradient": step_gradient}
            for scope in ("sample", "batch", 2):
                solution = integrate(bounded(w), y, Adaptive.model_validate(setting | {"scope": scope}), t1=6.0)
                assert solution.ok
                assert bool((solution.rejected > 0).all())
                gradients = torch.autograd.grad(read_out(solution.state), (*w, *y))
                assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize("step_gradient", ["frozen", "first", "differentiated"])
def test_a_sick_batch_mate_leaves_a_samples_gradient_alone(step_gradient: str, method: str) -> None:
    """Per-sample steps: a mate whose trials overflow, or that dies, changes nothing for the others."""
    setting = {"method": method, "rtol": 0.05, "atol": 0.05, "step_gradient": step_gradient}
    solver = Adaptive.model_validate(setting)

    def run(start: list[float]) -> tuple[Solution, Leaves]:
        w = leaves((torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)))
        y = leaves((torch.tensor(start, dtype=torch.float64)[:, None],))
        solution = integrate(bounded(w), y, solver, t1=6.0)
        return solution, torch.autograd.grad(solution.state[0][:2].sum(), (*w, *y))

    healthy, expected = run([-0.3, -2.0])
    for mates in ([0.99999], [2.0], [math.nan, -1.5]):
        solution, got = run([-0.3, -2.0, *mates])
        torch.testing.assert_close(solution.state[0][:2], healthy.state[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(got[:2], expected[:2], atol=1e-11, rtol=1e-11)
        torch.testing.assert_close(got[2][:2], expected[2], atol=1e-11, rtol=1e-11)
        assert torch.equal(got[2][2:], torch.zeros_like(got[2][2:]))


def mates_share(scope: str | int, step_gradient: StepGradient) -> Tensor:
    """(4, 4) [i, j]: the norm of the gradient of sample i's own output with respect to sample j's start."""
    make, weights, start = KINDS["single"]
    (y,) = leaves(start(3, 4))
    solver = Adaptive(rtol=0.1, atol=0.1, scope=scope, step_gradient=step_gradient, end="dense")
    state = integrate(make(weights(3)), (y,), solver).state[0]
    rows = [torch.autograd.grad(state[i].sum(), y, retain_graph=True)[0].norm(dim=1) for i in range(4)]
    return torch.stack(rows)


def test_the_leak() -> None:
    """A sample's gradient contains its batch-mates' exactly where steps are shared and differentiated."""
    own = torch.eye(4, dtype=torch.bool)
    pairs = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    for step_gradient in ("first", "differentiated"):
        assert bool((mates_share("batch", step_gradient) > 1e-6).all())
        assert torch.equal(mates_share(2, step_gradient) > 1e-6, pairs)
    for scope, step_gradient in (("batch", "frozen"), ("sample", "differentiated"), ("sample", "first"), (2, "frozen")):
        assert torch.equal(mates_share(scope, step_gradient) != 0, own)


@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("scope", ["sample", "batch"])
@pytest.mark.parametrize("method", ["adaptive_heun", "dopri5"])
def test_which_step_sizes_carry_gradient(
    method: str, scope: str | int, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """frozen: none, nor the times. first: that of the first trial, and what follows from where it led. Else all."""
    module = importlib.import_module("sonet.solvers.integrate")
    seen: list[tuple[bool, bool]] = []
    taken = module.step

    def spy(field: Field, tableau: object, t: Tensor, h: Tensor, *rest: object, **settings: object) -> object:
        seen.append((t.requires_grad, h.requires_grad))
        return taken(field, tableau, t, h, *rest, **settings)

    monkeypatch.setattr(module, "step", spy)
    make, weights, start = KINDS["pair"]
    w, y = leaves(weights(0)), leaves(start(0, 4))
    times: list[bool] = []

    def field(t: Tensor, state: State) -> State:
        times.append(t.requires_grad)
        return make(w)(t, state)

    setting = {"method": method, "rtol": 1e-3, "atol": 1e-3, "scope": scope, "end": end}
    solution = integrate(field, y, Adaptive.model_validate(setting | {"step_gradient": "frozen"}))
    assert len(seen) > 2
    assert not any(t or h for t, h in seen)
    assert not any(times)
    assert not solution.step_sizes.requires_grad

    seen.clear()
    solution = integrate(field, y, Adaptive.model_validate(setting | {"step_gradient": "first"}))
    assert seen[0] == (False, True)
    if end == "dense":  # clipping lets the last step make up for the first, so its size carries gradient too
        assert not any(h for _, h in seen[1:])
    assert not solution.step_sizes.requires_grad

    seen.clear()
    solution = integrate(field, y, Adaptive.model_validate(setting | {"step_gradient": "differentiated"}))
    assert all(h for _, h in seen)
    assert not solution.step_sizes.requires_grad
