"""Who shares a step size: a sample's result does not depend on its batch-mates unless the scope says so."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_fields import KINDS, Weights, leaves, read_out
from torch import Tensor

from oracles import ROTOR
from sonet.solvers import METHODS, Adaptive, Fixed, Solution, integrate
from sonet.types import State

PAIRS = [name for name, tableau in METHODS.items() if tableau.adaptive]
STATISTICS = ("status", "evaluations", "accepted", "rejected")
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
SAMPLES = 10


def spread_out(kind: str, dtype: torch.dtype) -> tuple[Weights, State]:
    """A batch whose samples need very different steps: from a hundredth to ten times the usual size."""
    _, weights, start = KINDS[kind]
    sizes = torch.logspace(-2, 1, SAMPLES, dtype=dtype)
    state = tuple(part * sizes.view(-1, *(1,) * (part.dim() - 1)) for part in start(5, SAMPLES, dtype))
    return weights(5, dtype), state


def solve(kind: str, weights: Weights, state: State, **setting: object) -> Solution:
    return integrate(KINDS[kind][0](weights), state, Adaptive.model_validate({"rtol": 1e-3, "atol": 1e-3} | setting))


def at(state: State, index: Tensor | slice) -> State:
    return tuple(part[index] for part in state)


def assert_same(got: Solution, whole: Solution, index: Tensor | slice, tolerance: float) -> None:
    """`got` is what `whole` has at `index`: values to `tolerance` of the largest number, statistics exactly."""
    for a, b in zip(got.state, at(whole.state, index), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
    for name in STATISTICS:
        assert torch.equal(getattr(got, name), getattr(whole, name)[index]), name


@DTYPES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("method", PAIRS)
def test_per_sample_steps_do_not_see_the_batch(
    method: str, end: str, kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    weights, state = spread_out(kind, dtype)
    setting = {"method": method, "end": end, "scope": "sample"}
    whole = solve(kind, weights, state, **setting)
    assert whole.ok
    assert len(whole.evaluations.unique()) > 1  # else there is nothing to mix up

    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))
    assert_same(solve(kind, weights, at(state, order), **setting), whole, order, tolerance)
    for piece in (slice(0, 3), slice(3, 4), slice(4, None)):
        assert_same(solve(kind, weights, at(state, piece), **setting), whole, piece, tolerance)

    others = tuple(torch.cat([part, 100 * part.flip(0), torch.full_like(part, torch.nan)]) for part in state)
    padded = solve(kind, weights, others, **setting)
    alike = dataclasses.replace(padded, state=at(padded.state, slice(SAMPLES)))
    for name in STATISTICS:
        alike = dataclasses.replace(alike, **{name: getattr(padded, name)[:SAMPLES]})
    assert_same(alike, whole, slice(None), tolerance)


def test_whole_batch_steps_do_see_the_batch() -> None:
    """The test above can fail: with shared steps it would."""
    weights, state = spread_out("single", torch.float64)
    whole = solve("single", weights, state, scope="batch")
    part = solve("single", weights, at(state, slice(0, 3)), scope="batch")
    assert (part.state[0] - whole.state[0][:3]).abs().max() > 1e-6
    assert len(whole.accepted.unique()) == len(whole.rejected.unique()) == len(whole.evaluations.unique()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_fixed_steps_do_not_see_the_batch(method: str, kind: str) -> None:
    weights, state = spread_out(kind, torch.float64)
    field, solver = KINDS[kind][0](weights), Fixed(method=method, num_steps=3)
    whole = integrate(field, state, solver)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(1))
    assert_same(integrate(field, at(state, order), solver), whole, order, 1e-12)
    assert_same(integrate(field, at(state, slice(2, 4)), solver), whole, slice(2, 4), 1e-12)


@pytest.mark.parametrize("step_gradient", ["frozen", "first", "differentiated"])
@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 99])
def test_groups_are_small_batches(size: int, kind: str, end: str, step_gradient: str) -> None:
    """scope=k is scope="batch" on each k consecutive samples: values, gradients and statistics."""
    weights, state = spread_out(kind, torch.float64)
    setting = {"end": end, "step_gradient": step_gradient}
    w, y = leaves(weights), leaves(state)
    whole = solve(kind, w, y, scope=size, **setting)
    gradients = torch.autograd.grad(read_out(whole.state), (*w, *y))

    other_w, other_y = leaves(weights), leaves(state)
    pieces = [slice(i, i + size) for i in range(0, SAMPLES, size)]
    parts = [solve(kind, other_w, at(other_y, piece), scope="batch", **setting) for piece in pieces]
    for part, piece in zip(parts, pieces, strict=True):
        assert_same(part, whole, piece, 1e-9)
    together = tuple(torch.cat(column) for column in zip(*(part.state for part in parts), strict=True))
    expected = torch.autograd.grad(read_out(together), (*other_w, *other_y))
    for got, wanted in zip(gradients, expected, strict=True):
        assert (got - wanted).abs().max() <= 1e-9 * wanted.abs().max()


def test_groups_stay_together_when_others_have_finished() -> None:
    """A group that goes on after its neighbours have left the batch is pooled with nobody else."""
    weights, state = spread_out("pair", torch.float64)
    state = at(state, torch.tensor([9, 0, 5, 6, 1, 2, 7, 8, 3, 4]))
    whole = solve("pair", weights, state, scope=2, rtol=1e-6, atol=1e-6)
    assert len(whole.accepted.unique()) > 2
    for i in range(0, SAMPLES, 2):
        assert whole.accepted[i] == whole.accepted[i + 1]
        part = solve("pair", weights, at(state, slice(i, i + 2)), scope="batch", rtol=1e-6, atol=1e-6)
        assert_same(part, whole, slice(i, i + 2), 1e-9)


@pytest.mark.parametrize("step_gradient", ["frozen", "differentiated"])
@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("method", PAIRS)
def test_a_batch_of_one_is_a_sample(method: str, end: str, step_gradient: str) -> None:
    weights, state = spread_out("pair", torch.float64)
    for i in (2, 9):
        results = []
        for scope in ("sample", "batch", 7):
            w, y = leaves(weights), leaves(at(state, slice(i, i + 1)))
            setting = {"method": method, "end": end, "scope": scope, "step_gradient": step_gradient}
            solution = solve("pair", w, y, rtol=1e-2, atol=1e-2, **setting)
            results.append((solution, torch.autograd.grad(read_out(solution.state), (*w, *y))))
        first, gradients = results[0]
        for solution, others in results[1:]:
            assert_same(solution, first, slice(None), 1e-12)
            torch.testing.assert_close(solution.step_sizes, first.step_sizes, rtol=1e-12, atol=0, equal_nan=True)
            for got, wanted in zip(others, gradients, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_samples_stand_at_different_times() -> None:
    """t has a value for each sample, and is passed on as the samples that finished leave the batch."""
    seen: list[Tensor] = []

    def field(t: Tensor, state: State) -> State:
        assert t.shape == (len(state[0]),)
        assert t.dtype == state[0].dtype
        seen.append(t.clone())
        return ROTOR.field(t, state)

    speeds = torch.tensor([[0.1], [3.0], [30.0]], dtype=torch.float64)
    state = (ROTOR.start[0], ROTOR.start[1], speeds)
    integrate(field, state, Adaptive())
    assert any(len(t) == 3 and len(t.unique()) == 3 for t in seen)
    assert len(seen[0]) == 3
    assert len(seen[-1]) == 1
    assert max(len(t) for t in seen[5:]) <= 3
