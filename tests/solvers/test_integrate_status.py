"""How a solve reports on itself: statuses, errors in words, statistics; and what failing does to the others."""

from __future__ import annotations

import math
import re

import pytest
import torch
from small_fields import counted, leaves, normal, pair, pair_start, pair_weights, single, single_start, single_weights
from torch import Tensor

from oracles import SPIRAL, SWELL, blow_up
from sonet.solvers import METHODS, Adaptive, Fixed, Solution, SolveError, Status, integrate
from sonet.solvers.control import End
from sonet.types import State

PAIRS = [name for name, tableau in METHODS.items() if tableau.adaptive]
STATISTICS = ("status", "evaluations", "accepted", "rejected")


def column(*values: float, dtype: torch.dtype = torch.float64) -> State:
    return (torch.tensor(values, dtype=dtype)[:, None],)


def decay(t: Tensor, y: State) -> State:
    return (-y[0],)


# --- failing samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "solver",
    [
        Fixed(),
        Fixed(method="tsit5"),
        Adaptive(),
        Adaptive(scope="batch", end="dense"),
        Adaptive(scope=2),
        Adaptive(scope=3),
    ],
    ids=["rk4", "tsit5", "sample", "batch", "twos", "threes"],
)
def test_an_input_that_is_no_number_fails_alone(solver: Fixed | Adaptive, bad: float) -> None:
    """The others get what they get without it, in whatever scope: it is out before the first step is chosen."""
    field = single(single_weights(0))
    (start,) = single_start(0, 6)
    start[5, 1] = bad
    with_it, without = integrate(field, (start,), solver), integrate(field, (start[:5],), solver)
    assert with_it.status.tolist() == [0, 0, 0, 0, 0, int(Status.NOT_FINITE)]
    assert not with_it.ok
    assert without.ok
    torch.testing.assert_close(with_it.state[0][:5], without.state[0], rtol=0, atol=1e-12)
    assert bool(with_it.state[0][5].isnan().all())
    for name in STATISTICS:
        assert torch.equal(getattr(with_it, name)[:5], getattr(without, name)), name


def test_groups_keep_their_members_when_one_falls_out() -> None:
    """Groups are made of places in the batch, not of places among those still under way."""
    field, (start,) = single(single_weights(0)), single_start(0, 6)
    start = start * torch.logspace(-1, 1, 6, dtype=torch.float64)[:, None]
    broken = start.clone()
    broken[0, 0] = math.nan
    solver = Adaptive(scope=2, rtol=1e-6, atol=1e-6)
    whole, holed, alone = (integrate(field, (part,), solver) for part in (start, broken, start[1:2]))
    assert len(whole.accepted.unique()) > 1
    torch.testing.assert_close(holed.state[0][2:], whole.state[0][2:], rtol=0, atol=1e-12)
    torch.testing.assert_close(holed.state[0][1:2], alone.state[0], rtol=0, atol=1e-12)
    for name in STATISTICS:
        assert torch.equal(getattr(holed, name)[2:], getattr(whole, name)[2:]), name
        assert torch.equal(getattr(holed, name)[1:2], getattr(alone, name)), name


def test_an_input_that_is_no_number_spoils_nobodys_gradient() -> None:
    for solver in (Fixed(), Adaptive(step_gradient="differentiated"), Adaptive(scope="batch", step_gradient="first")):
        gradients = []
        for samples in (3, 4):
            w, (y,) = leaves(single_weights(0)), leaves(single_start(0, samples))
            bad = torch.zeros_like(y)
            bad[3:] = math.nan
            solution = integrate(single(w), (y + bad,), solver)
            gradients.append(torch.autograd.grad(solution.state[0][:3].sum(), w))
        for got, expected in zip(gradients[1], gradients[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_slope_that_is_no_number_on_the_way_is_never_ok(broken: float, end: End, method: str) -> None:
    """y' = 1 up to y = 2, nothing beyond: whoever must pass 2 fails, with NaN as its state; who need not does not."""

    def field(t: Tensor, y: State) -> State:
        return (torch.where(y[0] > 2, broken, torch.ones_like(y[0])),)

    solution = integrate(field, column(0.0, 1.5, -3.0, 1.99), Adaptive(method=method, end=end), t1=1.0)
    assert solution.status.tolist() == [Status.OK, Status.NOT_FINITE, Status.OK, Status.NOT_FINITE]
    torch.testing.assert_close(solution.state[0][[0, 2], 0], torch.tensor([1.0, -2.0], dtype=torch.float64))
    assert bool(solution.state[0][[1, 3]].isnan().all())


@pytest.mark.parametrize("scope", ["batch", 4])
def test_the_culprit_falls_and_those_who_shared_its_step_go_on(scope: str | int) -> None:
    def field(t: Tensor, y: State) -> State:
        return (torch.where(y[0] > 2, math.nan, torch.ones_like(y[0])),)

    solution = integrate(field, column(0.0, 1.5, -3.0, 0.5), Adaptive(scope=scope), t1=1.0)
    assert solution.status.tolist() == [Status.OK, Status.NOT_FINITE, Status.OK, Status.OK]
    torch.testing.assert_close(solution.state[0][[0, 2, 3], 0], torch.tensor([1.0, -2.0, 1.5], dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
def test_fixed_steps_that_overflow_are_told(method: str) -> None:
    solution = integrate(lambda t, y: (y[0] ** 3,), column(0.1, 30.0), Fixed(method=method, num_steps=20))
    assert solution.status.tolist() == [Status.OK, Status.NOT_FINITE]
    assert bool(solution.state[0][1].isnan())


def test_a_state_that_overflows_though_its_error_is_small_is_told() -> None:
    """An infinite y_1 has an infinite tolerance, so that any error passes: the end is looked at, not the estimate."""

    def field(t: Tensor, y: State) -> State:
        return (torch.full_like(y[0], 1e38),)

    for end in ("clip", "dense"):
        solver = Adaptive(method="adaptive_heun", end=end, first_step=1.0, rtol=1e-1, atol=1e30)
        solution = integrate(field, column(0.0, 3e38, dtype=torch.float32), solver)
        assert solution.status.tolist() == [Status.OK, Status.NOT_FINITE]


@pytest.mark.parametrize("method", PAIRS)
def test_a_pole_on_the_way_fails_alone(method: str) -> None:
    """y' = y^2 from 2 has a pole at t = 1/2; from 1/2 and -1 it has none in [0, 1]."""
    solver = Adaptive(method=method, rtol=1e-4, atol=1e-4)
    start = column(0.5, 2.0, -1.0)
    solution = integrate(blow_up, start, solver)
    assert solution.status[1] != Status.OK
    assert solution.status[[0, 2]].tolist() == [Status.OK, Status.OK]
    torch.testing.assert_close(
        solution.state[0][[0, 2], 0], torch.tensor([1.0, -0.5], dtype=torch.float64), rtol=1e-2, atol=0
    )
    assert bool(solution.state[0][1].isnan())
    alone = integrate(blow_up, (start[0][[0, 2]],), solver)
    for name in STATISTICS:
        assert torch.equal(getattr(solution, name)[[0, 2]], getattr(alone, name)), name


@pytest.mark.parametrize("end", ["clip", "dense"])
def test_too_many_steps(end: End) -> None:
    """Only for whom they were too many; exactly the budget is spent, rejected trials included."""
    start = column(0.0, 1.0, 0.01)
    solver = Adaptive(rtol=1e-6, atol=1e-6, max_steps=12, end=end, first_step=0.1)
    solution = integrate(lambda t, y: (10 * y[0] * torch.cos(20 * y[0] + 5 * t[:, None]),), start, solver)
    assert solution.status.tolist() == [Status.OK, Status.TOO_MANY_STEPS, Status.TOO_MANY_STEPS]
    assert (solution.accepted + solution.rejected)[1:].tolist() == [12, 12]
    assert bool(solution.state[0][1:].isnan().all())
    enough = integrate(decay, start, Adaptive(first_step=0.2, rtol=0.5, atol=0.5, grow=1.001, max_steps=5))
    assert enough.ok
    assert enough.accepted.tolist() == [5, 5, 5]
    short = integrate(decay, start, Adaptive(first_step=0.2, rtol=0.5, atol=0.5, grow=1.001, max_steps=4))
    assert short.status.tolist() == [Status.TOO_MANY_STEPS] * 3


def test_step_underflow() -> None:
    """float32 cannot follow an oscillation of 1e9 radians per unit of time; the tame samples do not notice."""

    def field(t: Tensor, y: State) -> State:
        return (torch.where(y[0] > 0.5, 1e8 * torch.sin(1e9 * t[:, None]), -y[0]),)

    start = column(1.0, 0.2, 1.0, dtype=torch.float32)
    solution = integrate(field, start, Adaptive())
    assert solution.status.tolist() == [Status.STEP_UNDERFLOW, Status.OK, Status.STEP_UNDERFLOW]
    assert float(solution.state[0][1]) == pytest.approx(0.2 * math.exp(-1), abs=1e-3)


@pytest.mark.parametrize("first_step", [None, 1e-9])
def test_a_tiny_first_step_may_grow(first_step: float | None) -> None:
    """Accepted steps are no underflow: a rule that starts at 1e-8 reaches the end in float32 too."""

    def field(t: Tensor, y: State) -> State:
        return (torch.full_like(y[0], 1e4),)

    solution = integrate(field, column(1e-4, dtype=torch.float32), Adaptive(first_step=first_step))
    assert solution.ok
    assert float(solution.step_sizes[0]) < 1e-7
    assert float(solution.state[0]) == pytest.approx(1e4, rel=1e-5)


@pytest.mark.parametrize("scope", ["sample", "batch", 2])
@pytest.mark.parametrize("step_gradient", ["frozen", "first", "differentiated"])
def test_a_rule_that_looks_beyond_the_domain(step_gradient: str, scope: str | int) -> None:
    """The rule for the first step evaluates ahead, here at t > 50, where this field is infinite for all but one."""
    (w,) = leaves((torch.tensor(1e-3, dtype=torch.float64),))
    far = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)

    def field(t: Tensor, y: State) -> State:
        _, lost = y
        return (w * torch.where((t[:, None] > 50) & (lost > 0), torch.inf, 1.0), torch.zeros_like(lost))

    setting = {"scope": scope, "step_gradient": step_gradient}
    (start,) = leaves(column(100.0, 100.0, 100.0))
    solution = integrate(field, (start, far), Adaptive.model_validate(setting))
    assert solution.ok
    torch.testing.assert_close(solution.state[0], start + 1e-3, rtol=0, atol=1e-9)
    gradients = torch.autograd.grad(solution.state[0].sum(), (w, start))
    torch.testing.assert_close(gradients[0], torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(gradients[1], torch.ones_like(start))


def test_a_dense_end_is_read_only_by_those_who_reached_it() -> None:
    """Far outside its step the quartic overflows in float32: a mate with a tiny step must not be read at the end."""
    (w,) = leaves((torch.tensor([[1e-2, 1e8]]),))

    def field(t: Tensor, y: State) -> State:
        mask = torch.nn.functional.one_hot((y[1][:, 0] > 0).long(), 2).to(y[0].dtype)
        return ((mask * w).sum(1, keepdim=True), torch.zeros_like(y[1]))

    state = (torch.tensor([[0.1], [1e-4]]), torch.tensor([[0.0], [1e-9]]))
    solution = integrate(field, state, Adaptive(end="dense", first_step=None))
    assert solution.ok
    assert int(solution.accepted[1]) > int(solution.accepted[0]) + 5
    (gradient,) = torch.autograd.grad(solution.state[0].sum(), w)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))


def test_heuns_slope_after_the_step_may_overflow() -> None:
    """Its third evaluation, at y_1, is none of its error estimate's: the step is tried again, smaller."""
    (w,) = leaves((torch.tensor(1.0, dtype=torch.float64),))

    def field(t: Tensor, y: State) -> State:
        return (torch.where(t > 0.6, torch.nan, w).view(-1, 1).expand_as(y[0]),)

    solution = integrate(field, column(0.0, 1.0), Adaptive(method="adaptive_heun", first_step=0.7))
    assert bool((solution.status == Status.NOT_FINITE).all())

    def pocket(t: Tensor, y: State) -> State:
        """Only exactly at the end of a first step of 1/2 is there no slope, so that a smaller one gets past."""
        return (torch.where(t.view(-1, 1) == 0.5, torch.nan, w * torch.ones_like(y[0])),)

    solution = integrate(pocket, column(0.0, 1.0), Adaptive(method="adaptive_heun", first_step=0.5))
    assert solution.ok
    assert solution.rejected.tolist() == [1, 1]
    (gradient,) = torch.autograd.grad(solution.state[0].sum(), w)
    assert float(gradient) == pytest.approx(2.0)


def test_heuns_slope_is_not_taken_where_its_step_was_rejected() -> None:
    """There the field may overflow, which would make a mate's accepted step this sample's broken one."""

    def field(t: Tensor, y: State) -> State:
        level, size = y
        slope = size * 10 * torch.sin(20 * t[:, None])
        return (torch.where(level > 2, torch.nan, slope), torch.zeros_like(size))

    solver = Adaptive(method="adaptive_heun", first_step=0.7, rtol=0.1, atol=1.0)
    state = (column(0.0, 0.0)[0], column(1.0, 1e-3)[0])
    together, alone = integrate(field, state, solver), integrate(field, tuple(part[:1] for part in state), solver)
    assert int(together.rejected[0]) == int(alone.rejected) > 0
    assert int(together.rejected[1]) == 0
    steps, expected = together.step_sizes[:, 0], alone.step_sizes[:, 0]
    torch.testing.assert_close(steps[~steps.isnan()], expected[~expected.isnan()])


# --- errors in words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "status"),
    [
        (Adaptive(max_steps=9, rtol=1e-9, atol=1e-9), Status.TOO_MANY_STEPS),
        (Adaptive(rtol=1e-4, atol=1e-4), Status.STEP_UNDERFLOW),
        (Fixed(num_steps=20), Status.NOT_FINITE),
    ],
    ids=["steps", "underflow", "overflow"],
)
def test_a_failure_raised_says_who_when_what_and_what_to_do(solver: Fixed | Adaptive, status: Status) -> None:
    start = column(0.0, 0.0, 20.0, 0.0)
    with pytest.raises(SolveError) as caught:
        integrate(blow_up, start, solver, t0=2.0, t1=3.0, on_failure="raise", name="block 3 (stride 2)")
    message = str(caught.value)
    pattern = r"^block 3 \(stride 2\): .* Samples 2 of 4, at t = (\S+) with step size (\S+)\. "
    found = re.match(pattern, message)
    assert found, message
    assert 2.0 <= float(found[1]) <= 3.0
    assert 0.0 < float(found[2]) <= 1.0
    assert status.sentence in message
    assert message.endswith(status.remedy)


def test_a_failure_at_the_start_is_raised_too() -> None:
    with pytest.raises(SolveError, match=r"^integrate: .* Samples 0, 1, 2, 3, 4, 5, 6, 7, \.\.\. of 9, at t = 1 "):
        integrate(decay, column(*[math.nan] * 9), Adaptive(), t0=1.0, t1=0.0, on_failure="raise")


def test_all_may_fail() -> None:
    for solver in (Fixed(), Adaptive()):
        solution = integrate(decay, column(math.nan, math.inf), solver)
        assert solution.status.tolist() == [Status.NOT_FINITE] * 2
        assert solution.state[0].shape == (2, 1)


def test_summary_is_sentences() -> None:
    solution = integrate(decay, column(1.0, math.nan, 2.0), Adaptive())
    assert solution.summary() == f"2 samples: {Status.OK.sentence} 1 samples: {Status.NOT_FINITE.sentence}"
    assert len({status.sentence for status in Status}) == len({status.remedy for status in Status}) == 4


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ((), TypeError, "tuple of tensors"),
        ([torch.ones(2, 1)], TypeError, "list"),
        (torch.ones(2, 1), TypeError, r"Tensor; wrap it: \(y,\)"),
        ((torch.ones(2, 1), torch.ones(3, 1)), ValueError, r"common first dimension.*\(2, 1\), \(3, 1\)"),
        ((torch.tensor(1.0),), ValueError, "common first dimension"),
        ((torch.ones(0, 3),), ValueError, "N >= 1"),
        ((torch.ones(2, 0),), ValueError, r"with elements, got shapes \[\(2, 0\)\]"),
        ((torch.ones(2, 1, dtype=torch.int64),), TypeError, "floating-point tensors, got .*int64"),
        ((torch.ones(2, 1, dtype=torch.bool),), TypeError, "floating-point"),
        ((torch.ones(2, 1, dtype=torch.complex64),), TypeError, "floating-point"),
    ],
    ids=["empty", "list", "tensor", "mismatch", "scalar", "no samples", "no elements", "integers", "bools", "complex"],
)
def test_states_that_are_none(state: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"^layer 2: .*{words}"):
        integrate(lambda t, y: y, state, Adaptive(), name="layer 2")  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", [Fixed(), Adaptive()], ids=["fixed", "adaptive"])
@pytest.mark.parametrize(
    "slope",
    [
        lambda t, y: (y[0][:, :1],),
        lambda t, y: (y[0], y[0]),
        lambda t, y: (),
        lambda t, y: (y[0].sum(0),),
        lambda t, y: y[0],
    ],
    ids=["narrow", "two", "none", "summed", "tensor"],
)
def test_slopes_of_another_shape(slope: object, solver: Fixed | Adaptive) -> None:
    with pytest.raises(
        ValueError, match=r"^head: the field returned shapes .* expected those of the state, \[\(4, 2\)\]"
    ):
        integrate(slope, (torch.ones(4, 2),), solver, name="head")  # type: ignore[arg-type]


@pytest.mark.parametrize(("t0", "t1"), [(0.0, math.nan), (math.nan, 1.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_times_that_are_none(t0: float, t1: float) -> None:
    for solver in (Fixed(), Adaptive()):
        with pytest.raises(ValueError, match="finite times"):
            integrate(decay, column(1.0), solver, t0=t0, t1=t1)


# --- statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Fixed(), Adaptive(), Adaptive(end="dense", scope="batch")], ids=["f", "a", "d"])
def test_no_time_no_change(solver: Fixed | Adaptive) -> None:
    state = pair_start(0, 3)
    solution = integrate(pair(pair_weights(0)), state, solver, t0=0.7, t1=0.7)
    assert all(torch.equal(a, b) for a, b in zip(solution.state, state, strict=True))
    assert solution.ok
    assert solution.accepted.tolist() == solution.rejected.tolist() == [0, 0, 0]
    assert solution.step_sizes.shape == (0, 3)


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.3, 2.3), (1.0, -1.0)])
@pytest.mark.parametrize("scope", ["sample", 2])
@pytest.mark.parametrize("method", PAIRS)
def test_accepted_steps_cover_the_span(method: str, scope: str | int, t0: float, t1: float) -> None:
    for end in ("clip", "dense"):
        setting = {"method": method, "scope": scope, "end": end, "rtol": 1e-4, "atol": 1e-4, "first_step": 0.8}
        solution = integrate(
            single(single_weights(2)), single_start(2, 5), Adaptive.model_validate(setting), t0=t0, t1=t1
        )
        assert int(solution.rejected.sum()) > 0
        assert solution.step_sizes.shape[1] == 5
        assert solution.step_sizes.dtype == torch.float64
        assert torch.equal((~solution.step_sizes.isnan()).sum(0), solution.accepted)
        covered = solution.step_sizes.nansum(0)
        if end == "clip":
            torch.testing.assert_close(covered, torch.full_like(covered, t1 - t0), rtol=1e-12, atol=0)
        else:
            assert bool((covered / (t1 - t0) >= 1).all())
            before = covered - torch.stack([row[~row.isnan()][-1] for row in solution.step_sizes.T])
            assert bool((before / (t1 - t0) < 1).all())  # one overstep, not two
        assert bool((solution.step_sizes.nan_to_num() * (t1 - t0) >= 0).all())


def test_no_sliver_is_left_before_the_end() -> None:
    """A step that stops short of the end by rounding alone is stretched to it, instead of a last step of 1e-12."""
    for t0, t1 in ((0.0, 1.0), (2.0, 1.0)):
        solution = integrate(decay, column(1.0), Adaptive(first_step=1 - 1e-12, rtol=0.5, atol=0.5), t0=t0, t1=t1)
        assert int(solution.accepted) == 1
        assert float(solution.step_sizes) == t1 - t0


def calls_of(solver: Fixed | Adaptive, seed: int) -> tuple[Solution, list[int]]:
    field, calls = counted(single(single_weights(seed)))
    return integrate(field, single_start(seed, 1), solver, t1=2.0), calls


@pytest.mark.parametrize("first_step", [None, 1.5])
@pytest.mark.parametrize("end", ["clip", "dense"])
@pytest.mark.parametrize("method", PAIRS)
def test_evaluations_are_the_calls_of_the_field(method: str, end: End, first_step: float | None) -> None:
    """For a batch of one; with the rejected trials, and with the slopes that a method without FSAL needs besides."""
    rejected = 0
    for seed in range(2):
        solver = Adaptive(method=method, end=end, first_step=first_step, rtol=1e-4, atol=1e-4)
        solution, calls = calls_of(solver, seed)
        assert int(solution.evaluations) == len(calls)
        assert set(calls) == {1}
        rejected += int(solution.rejected)
        stages, trials = METHODS[method].stages, int(solution.accepted + solution.rejected)
        extra = 0 if METHODS[method].fsal else int(solution.accepted) - (end == "clip")
        assert len(calls) == 1 + (first_step is None) + (stages - 1) * trials + extra
    assert rejected > 0


@pytest.mark.parametrize("method", METHODS)
def test_evaluations_of_fixed_steps(method: str) -> None:
    solution, calls = calls_of(Fixed(method=method, num_steps=5), 0)
    tableau = METHODS[method]
    assert int(solution.evaluations) == len(calls) == (tableau.stages - tableau.fsal) * 5 + tableau.fsal
    assert int(solution.accepted) == 5
    assert int(solution.rejected) == 0
    torch.testing.assert_close(solution.step_sizes, torch.full((5, 1), 0.4, dtype=torch.float64))


@pytest.mark.parametrize("method", PAIRS)
def test_evaluations_of_trials_that_were_no_numbers_count(method: str) -> None:
    field, calls = counted(lambda t, y: (torch.sqrt(1 - y[0]) - 0.5,))
    solution = integrate(field, column(-1.0), Adaptive(method=method, first_step=5.0), t1=6.0)
    assert solution.ok
    assert int(solution.rejected) > 0
    assert int(solution.evaluations) == len(calls)


def test_a_samples_evaluations_are_its_own() -> None:
    """In a batch each sample is counted what it needs alone, not the calls its mates went on to need."""
    field, state = SPIRAL.field, (torch.cat([SPIRAL.start[0], 1e-3 * SPIRAL.start[0]]),)
    together = integrate(field, state, Adaptive(rtol=1e-6, atol=1e-6))
    for i in range(4):
        wrapped, calls = counted(field)
        integrate(wrapped, (state[0][i : i + 1],), Adaptive(rtol=1e-6, atol=1e-6))
        assert int(together.evaluations[i]) == len(calls)
    assert len(together.evaluations.unique()) > 1


def test_the_state_is_not_written_to() -> None:
    for solver in (Fixed(method="dopri5"), Adaptive(), Adaptive(end="dense", scope="batch", method="adaptive_heun")):
        state = pair_start(1, 3)
        copies = tuple(part.clone() for part in state)
        integrate(pair(pair_weights(1)), state, solver)
        assert all(torch.equal(a, b) for a, b in zip(state, copies, strict=True))


def test_times_stay_float64() -> None:
    """Times and steps are float64 whatever the state is: a hundred steps of float32 still end at the end."""
    start = tuple(part.float() for part in SWELL.start)
    solution = integrate(SWELL.field, start, Adaptive(method="bosh3", rtol=1e-5, atol=1e-5), t0=SWELL.t0, t1=SWELL.t1)
    assert solution.state[0].dtype == torch.float32
    assert solution.step_sizes.dtype == torch.float64
    assert SWELL.error(tuple(part.double() for part in solution.state)) < 1e-3
    torch.testing.assert_close(solution.step_sizes.nansum(0).double(), torch.full((3,), SWELL.t1 - SWELL.t0).double())


def test_a_field_that_stands_still() -> None:
    """No slope, no error: the largest growth, and no division by zero, in values and in gradients."""
    for step_gradient in ("frozen", "first", "differentiated"):
        for initial in ("joint", "tensorwise"):
            (y,) = leaves((normal(0, 3, 2),))
            setting = {"step_gradient": step_gradient, "initial": initial}
            solution = integrate(lambda t, s: (0 * s[0],), (y,), Adaptive.model_validate(setting))
            assert solution.ok
            assert torch.equal(solution.state[0], y)
            (gradient,) = torch.autograd.grad(solution.state[0].sum(), y)
            assert torch.equal(gradient, torch.ones_like(y))
