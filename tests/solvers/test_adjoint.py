"""The continuous adjoint: against closed forms, backpropagation at tight tolerance, and torchdiffeq's."""

from __future__ import annotations

import pytest
import torch
from small_fields import KINDS, counted, leaves, normal, read_out
from torch import Tensor

from sonet.solvers import Adaptive, Fixed, SolveError, Status, integrate, integrate_adjoint
from sonet.types import Field, State

TIGHT = Adaptive(rtol=1e-10, atol=1e-10)
SPANS = pytest.mark.parametrize("span", [(0.0, 1.0), (0.2, 1.5), (1.0, -0.5)], ids=["unit", "later", "backwards"])


def linear(matrix: Tensor) -> Field:
    return lambda t, y: (y[0] @ matrix.T,)


@SPANS
@pytest.mark.parametrize("solver", [TIGHT, Fixed(method="rk4", num_steps=200)], ids=["adaptive", "fixed"])
def test_a_linear_field_pulls_back_by_its_exponential(solver: Fixed | Adaptive, span: tuple[float, float]) -> None:
    """y(t1) = exp((t1 - t0) A) y(t0), so that c . y(t1) has the gradient exp((t1 - t0) A)^T c."""
    matrix, (start,), weight = normal(1, 3, 3), leaves((normal(2, 4, 3),)), normal(3, 4, 3)
    end = integrate_adjoint(linear(matrix), (start,), solver, t0=span[0], t1=span[1]).state[0]
    flow = torch.matrix_exp((span[1] - span[0]) * matrix)
    torch.testing.assert_close(end, start @ flow.T, atol=1e-7, rtol=1e-7)
    (gradient,) = torch.autograd.grad((weight * end).sum(), start)
    torch.testing.assert_close(gradient, weight @ flow, atol=1e-7, rtol=1e-7)


def test_the_gradient_of_a_rate() -> None:
    """dy/dt = r y: d(sum y(1))/dr = e^r sum y(0)."""
    (rate,), start = leaves((torch.tensor(-0.7, dtype=torch.float64),)), normal(4, 5, 2)
    for solver in (TIGHT, TIGHT.model_copy(update={"scope": "batch"}), Fixed(num_steps=100)):
        end = integrate_adjoint(lambda t, y: (rate * y[0],), (start,), solver, (rate,)).state[0]
        (gradient,) = torch.autograd.grad(end.sum(), rate)
        torch.testing.assert_close(gradient, start.sum() * rate.detach().exp(), atol=1e-7, rtol=1e-7)


@SPANS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["sample", "batch", 2])
def test_equals_backpropagation_at_tight_tolerance(scope: str | int, kind: str, span: tuple[float, float]) -> None:
    make, weights, start = KINDS[kind]
    w, y = leaves(weights(0)), leaves(start(0, 3))
    solver = Adaptive(rtol=1e-9, atol=1e-9, scope=scope)
    at = {"t0": span[0], "t1": span[1]}
    wanted = torch.autograd.grad(read_out(integrate(make(w), y, solver, **at).state), (*y, *w))
    with_weights = torch.autograd.grad(read_out(integrate_adjoint(make(w), y, solver, w, **at).state), (*y, *w))
    without = torch.autograd.grad(read_out(integrate_adjoint(make(w), y, solver, **at).state), y)
    torch.testing.assert_close(with_weights, wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(without, wanted[: len(y)], atol=1e-6, rtol=1e-6)


def test_forward_is_integrate_and_keeps_no_graph() -> None:
    make, weights, start = KINDS["pair"]
    solver = Adaptive(rtol=1e-2, atol=1e-2)
    y = leaves(start(1, 4))
    plain = integrate(make(weights(1)), y, solver)
    field, calls = counted(make(weights(1)))
    adjoint = integrate_adjoint(field, y, solver)
    assert all(torch.equal(a, b) for a, b in zip(adjoint.state, plain.state, strict=True))
    assert torch.equal(adjoint.evaluations, plain.evaluations)
    forward = len(calls)
    loose = torch.autograd.grad(read_out(adjoint.state), y)
    assert len(calls) > forward  # the way back evaluates the field anew: there was no graph
    exact = torch.autograd.grad(read_out(plain.state), y)
    assert max((a - b).abs().max() for a, b in zip(loose, exact, strict=True)) > 1e-6  # the ODE's, not the steps'


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    make, weights, start = KINDS["single"]
    y = leaves(start(2, 4))
    solver = Adaptive(rtol=1e-2, atol=1e-2)
    together = torch.autograd.grad(integrate_adjoint(make(weights(2)), y, solver).state[0].sum(), y)[0]
    alone = [
        torch.autograd.grad(integrate_adjoint(make(weights(2)), (part,), solver).state[0].sum(), part)[0]
        for part in leaves(tuple(y[0].detach().split(1)))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=1e-12)


def test_parts_that_depend_on_nothing_keep_their_gradient() -> None:
    """One part drifts by a constant, the other follows it; no time passing changes nothing."""

    def field(t: Tensor, y: State) -> State:
        return torch.ones_like(y[0]), 2 * y[0]

    y = leaves((normal(5, 3, 2), normal(6, 3, 2)))
    for t1 in (1.0, 0.0):
        end = integrate_adjoint(field, y, TIGHT, t1=t1).state
        first, second = torch.autograd.grad(end[0].sum() + end[1].sum(), y)
        torch.testing.assert_close(first, torch.full_like(first, 1 + 2 * t1))
        torch.testing.assert_close(second, torch.ones_like(second))


def test_failures_are_nan_or_an_error_that_names_the_way_back() -> None:
    def field(t: Tensor, y: State) -> State:
        # Fine forward; the slope of the root at 0 is infinite.
        return (torch.where(y[0] == 0, y[0].clamp(min=0).sqrt(), -y[0]),)

    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64, requires_grad=True)
    solution = integrate_adjoint(field, (start,), Fixed(num_steps=4))
    assert solution.status.tolist() == [Status.OK] * 2
    (gradient,) = torch.autograd.grad(solution.state[0].sum(), start)
    assert gradient.isnan().squeeze(1).tolist() == [True, False]
    end = integrate_adjoint(field, (start,), Fixed(num_steps=4), on_failure="raise", name="block").state[0]
    with pytest.raises(SolveError, match=r"^block \(adjoint\):"):
        torch.autograd.grad(end.sum(), start)


def test_there_is_no_second_derivative() -> None:
    (start,) = leaves((normal(7, 2, 3),))
    end = integrate_adjoint(linear(normal(8, 3, 3)), (start,), Fixed()).state[0]
    (gradient,) = torch.autograd.grad(end.square().sum(), start, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("with_weights", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-4])
def test_equals_torchdiffeq_also_where_it_is_coarse(tolerance: float, kind: str, with_weights: bool) -> None:
    """The same steps back, hence the same error: whole-batch steps and dense output, to 1e-9."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    make, weights, start = KINDS[kind]
    w, y = leaves(weights(3)), leaves(start(3, 4))
    wanted = (*y, *w) if with_weights else y
    field, parameters = make(w), w if with_weights else ()

    def theirs(t: Tensor, state: State) -> State:
        return field(t.expand(4), state)

    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    path = torchdiffeq.odeint_adjoint(theirs, y, times, rtol=tolerance, atol=tolerance, adjoint_params=parameters)
    expected = torch.autograd.grad(read_out(tuple(part[-1] for part in path)), wanted)
    solver = Adaptive(rtol=tolerance, atol=tolerance, scope="batch", end="dense")
    got = torch.autograd.grad(read_out(integrate_adjoint(field, y, solver, parameters, time_error=True).state), wanted)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
