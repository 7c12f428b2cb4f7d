"""Against torchdiffeq 0.2.5, whose whole-batch, dense-output, first-step-differentiated setting is one of ours."""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch
from small_fields import KINDS, Weights, leaves, read_out
from torch import Tensor

from oracles import ORACLES, SPIRAL, Oracle
from sonet.solvers import Adaptive, Fixed, integrate
from sonet.types import Field, State

torchdiffeq = pytest.importorskip("torchdiffeq")

LIKE_TORCHDIFFEQ = {"scope": "batch", "end": "dense", "initial": "joint", "step_gradient": "first", "max_steps": 5000}
SETTINGS = [(method, tolerance) for method in ("dopri5", "bosh3") for tolerance in (1e-1, 1e-2, 1e-3)] + [
    ("dopri5", 1e-5)
]
SPANS = pytest.mark.parametrize("span", [(0.0, 1.0), (0.2, 2.2), (1.0, -0.5)], ids=["unit", "later", "backwards"])


def build(kind: str, seed: int, dtype: torch.dtype) -> tuple[Weights, State, Field]:
    make, weights, start = KINDS[kind]
    w = leaves(weights(seed, dtype))
    return w, leaves(start(seed, 5, dtype)), make(w)


def as_theirs(field: Field) -> object:
    """The field as torchdiffeq calls it, with one time for all and a tensor for a state of one."""

    class Theirs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps: list[float] = []

        def forward(self, t: Tensor, y: Tensor | State) -> Tensor | State:
            parts = (y,) if isinstance(y, Tensor) else y
            slope = field(t.expand(len(parts[0])), parts)
            return slope[0] if len(slope) == 1 else slope

    return Theirs()


def theirs(field: Field, state: State, method: str, span: tuple[float, float], **more: object) -> State:
    wrapped = as_theirs(field)
    start = state[0] if len(state) == 1 else state
    path = torchdiffeq.odeint(wrapped, start, torch.tensor(span, dtype=torch.float64), method=method, **more)
    return (path[-1],) if len(state) == 1 else tuple(part[-1] for part in path)


def their_steps(field: Field, state: State, method: str, span: tuple[float, float], **more: object) -> list[float]:
    steps: list[float] = []
    wrapped = as_theirs(field)
    wrapped.callback_accept_step = lambda t, y, dt: steps.append(dt.item())  # type: ignore[attr-defined]
    start = state[0] if len(state) == 1 else state
    with torch.no_grad():
        torchdiffeq.odeint(wrapped, start, torch.tensor(span, dtype=torch.float64), method=method, **more)
    return steps


def ours(
    field: Field, state: State, method: str, span: tuple[float, float], tolerance: float, **changes: object
) -> State:
    solver = Adaptive.model_validate(
        {"method": method, "rtol": tolerance, "atol": tolerance} | LIKE_TORCHDIFFEQ | changes
    )
    solution = integrate(field, state, solver, t0=span[0], t1=span[1])
    assert solution.ok
    return solution.state


def distance(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest deviation, each tensor's relative to its largest number."""
    pairs = zip(got, expected, strict=True)
    return max(((a.double() - b.double()).abs().max() / b.abs().max()).item() for a, b in pairs)


@SPANS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "tolerance"), [*SETTINGS, ("dopri5", 1e-7)])
def test_values_and_gradients_in_float64(method: str, tolerance: float, kind: str, span: tuple[float, float]) -> None:
    """To 1e-9 of the largest number: the state, and the gradients of the start and of the weights."""
    for seed in (0, 1) if tolerance > 1e-4 else (0,):
        weights, start, field = build(kind, seed, torch.float64)
        expected = theirs(field, start, method, span, rtol=tolerance, atol=tolerance)
        got = ours(field, start, method, span, tolerance)
        assert distance(got, expected) < 1e-9
        wanted = torch.autograd.grad(read_out(expected), (*start, *weights))
        assert distance(torch.autograd.grad(read_out(got), (*start, *weights)), wanted) < 1e-9
        if tolerance > 1e-2:  # the same map, whatever is differentiated; and the comparison can tell what is
            frozen = ours(field, start, method, span, tolerance, step_gradient="frozen")
            assert distance(frozen, expected) < 1e-9
            assert distance(torch.autograd.grad(read_out(frozen), (*start, *weights)), wanted) > 1e-6


@SPANS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "tolerance"), SETTINGS)
def test_accepted_steps(method: str, tolerance: float, kind: str, span: tuple[float, float]) -> None:
    _, start, field = build(kind, 0, torch.float64)
    steps = their_steps(field, start, method, span, rtol=tolerance, atol=tolerance)
    solver = Adaptive(method=method, rtol=tolerance, atol=tolerance, **LIKE_TORCHDIFFEQ)
    solution = integrate(field, start, solver, t0=span[0], t1=span[1])
    for sample in range(5):
        taken = solution.step_sizes[:, sample]
        taken = taken[~taken.isnan()]
        assert len(taken) == solution.accepted[sample] == len(steps)
        sign = 1 if span[1] > span[0] else -1
        torch.testing.assert_close(taken * sign, torch.tensor(steps, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("span", [(0.2, 2.2), (1.0, -0.5)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_bosh3_in_float32(tolerance: float, kind: str, span: tuple[float, float]) -> None:
    for seed in range(2):
        _, start, field = build(kind, seed, torch.float32)
        expected = theirs(field, start, "bosh3", span, rtol=tolerance, atol=tolerance)
        got = ours(field, start, "bosh3", span, tolerance)
        assert all(part.dtype == torch.float32 for part in got)
        assert distance(got, expected) < 1e-5


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4, 1e-5])
def test_dopri5_in_float32(tolerance: float, oracle: Oracle) -> None:
    """On well-conditioned problems; elsewhere float32 decides little about a step that its error does not limit."""
    start, span = tuple(part.float() for part in oracle.start), (oracle.t0, oracle.t1)
    expected = theirs(oracle.field, start, "dopri5", span, rtol=tolerance, atol=tolerance)
    assert distance(ours(oracle.field, start, "dopri5", span, tolerance), expected) < 1e-5


def test_float32_is_no_noisier_than_theirs() -> None:
    """On lively fields rounding moves dopri5's step sizes, and those its result, by up to 1e-3 with torchdiffeq too.

    So the two cannot agree to 1e-5 there. Ours is no farther from the float64 result than torchdiffeq's, in the median.
    """
    noise: dict[str, list[float]] = {"ours": [], "theirs": []}
    for kind, (make, weights, _) in KINDS.items():
        for seed in range(8):
            _, start, field = build(kind, seed, torch.float32)
            exact = make(tuple(w.double() for w in weights(seed, torch.float32)))
            start, start64 = tuple(p.detach() for p in start), tuple(p.detach().double() for p in start)
            for tolerance in (1e-1, 1e-2, 1e-3):
                control = {"rtol": tolerance, "atol": tolerance}
                truth = theirs(exact, start64, "dopri5", (0.0, 1.0), **control)
                noise["ours"].append(distance(ours(field, start, "dopri5", (0.0, 1.0), tolerance), truth))
                noise["theirs"].append(distance(theirs(field, start, "dopri5", (0.0, 1.0), **control), truth))
    assert max(noise["theirs"]) > 1e-5
    assert statistics.median(noise["ours"]) <= 1.5 * statistics.median(noise["theirs"])


def test_a_given_first_step() -> None:
    for first_step in (0.9, 0.05):
        weights, start, field = build("pair", 3, torch.float64)
        options = {"first_step": first_step}
        expected = theirs(field, start, "dopri5", (0.0, 1.0), rtol=1e-3, atol=1e-3, options=options)
        got = ours(field, start, "dopri5", (0.0, 1.0), 1e-3, first_step=first_step)
        assert distance(got, expected) < 1e-9
        wanted = torch.autograd.grad(read_out(expected), (*start, *weights))
        assert distance(torch.autograd.grad(read_out(got), (*start, *weights)), wanted) < 1e-9


@pytest.mark.parametrize(
    ("mine", "name"), [("rk4_38", "rk4"), ("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2")]
)
@pytest.mark.parametrize("kind", KINDS)
@SPANS
def test_fixed_steps(mine: str, name: str, kind: str, span: tuple[float, float]) -> None:
    """On the same grid: 8 equal steps."""
    options = {"step_size": abs(span[1] - span[0]) / 8}
    weights, start, field = build(kind, 1, torch.float64)
    expected = theirs(field, start, name, span, options=options)
    got = integrate(field, start, Fixed(method=mine, num_steps=8), t0=span[0], t1=span[1]).state
    assert distance(got, expected) < 1e-9
    wanted = torch.autograd.grad(read_out(expected), (*start, *weights))
    assert distance(torch.autograd.grad(read_out(got), (*start, *weights)), wanted) < 1e-9
    _, start, field = build(kind, 1, torch.float32)
    expected = theirs(field, start, name, span, options=options)
    got = integrate(field, start, Fixed(method=mine, num_steps=8), t0=span[0], t1=span[1]).state
    assert distance(got, expected) < 1e-5


def test_classical_rk4_is_not_what_torchdiffeq_calls_rk4() -> None:
    _, start, field = build("single", 1, torch.float64)
    expected = theirs(field, start, "rk4", (0.0, 1.0), options={"step_size": 0.125})
    assert distance(integrate(field, start, Fixed(method="rk4", num_steps=8)).state, expected) > 1e-9


def heun_by_hand(field: Field, y: Tensor, times: list[float], reuse: bool) -> Tensor:
    """Heun's method; `reuse` takes f at Euler's predictor for the next step's first slope, as torchdiffeq does."""

    def slope(t: float, at: Tensor) -> Tensor:
        return field(torch.full((len(at),), t, dtype=at.dtype), (at,))[0]

    first = slope(times[0], y)
    for before, now in itertools.pairwise(times):
        h = now - before
        predicted = slope(now, y + h * first)
        y = y + h / 2 * (first + predicted)
        first = predicted if reuse else slope(now, y)
    return y


def test_adaptive_heun_deviates_as_documented() -> None:
    """One step is torchdiffeq's; then torchdiffeq goes on with the slope at Euler's predictor, we with that at y_1.

    At tolerance 10 every step is accepted and grows tenfold: 0.1, then 1.0. The solve ends exactly at a step's end,
    where dense output has no say.
    """
    _, start, field = build("single", 2, torch.float64)
    control = {"rtol": 10.0, "atol": 10.0, "options": {"first_step": 0.1}}
    for times, same in (([0.0, 0.1], True), ([0.0, 0.1, 1.1], False)):
        their = theirs(field, start, "adaptive_heun", (0.0, times[-1]), **control)
        our = ours(field, start, "adaptive_heun", (0.0, times[-1]), 10.0, first_step=0.1)
        assert distance(their, (heun_by_hand(field, start[0], times, reuse=True),)) < 1e-12
        assert distance(our, (heun_by_hand(field, start[0], times, reuse=False),)) < 1e-12
        assert (distance(our, their) < 1e-12) is same
        assert (distance(our, their) < 1e-3) is same


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_adaptive_heun_differs_over_several_steps(tolerance: float) -> None:
    their = theirs(SPIRAL.field, SPIRAL.start, "adaptive_heun", (0.0, 1.0), rtol=tolerance, atol=tolerance)
    our = ours(SPIRAL.field, SPIRAL.start, "adaptive_heun", (0.0, 1.0), tolerance)
    assert distance(our, their) > 0.1 * tolerance
    assert SPIRAL.error(our) < 10 * tolerance


def test_adaptive_heun_converges_with_order_two() -> None:
    """To the true solution, with the right slope; torchdiffeq's reuse would leave another error."""
    counts = (100, 200, 400)
    our = [
        SPIRAL.error(integrate(SPIRAL.field, SPIRAL.start, Fixed(method="adaptive_heun", num_steps=n)).state)
        for n in counts
    ]
    for coarse, fine in itertools.pairwise(our):
        assert coarse / fine == pytest.approx(4, abs=0.2)
    grids = [[i / n for i in range(n + 1)] for n in counts]
    right, reused = (
        [SPIRAL.error((heun_by_hand(SPIRAL.field, SPIRAL.start[0], grid, reuse),)) for grid in grids]
        for reuse in (False, True)
    )
    assert our == pytest.approx(right, rel=1e-6)
    assert our != pytest.approx(reused, rel=0.1)
