"""Foreign modules that call torchdiffeq: watched without a trace, and steered to what our solves give."""

from __future__ import annotations

import pytest
import torch
from small_fields import normal
from torch import Tensor, nn

from sonet.solvers import Adaptive, Fixed, InteropError, OdeintCall, integrate, steer_odeint, watch_odeint
from sonet.solvers.odeint_seam import _functions

torchdiffeq = pytest.importorskip("torchdiffeq")
from torchdiffeq import odeint, odeint_adjoint  # noqa: E402 - held by the modules below as foreign code holds it

# The gates stand in these functions' code; a module that kept the functions is reached all the same.
CODES = {name: function.__code__ for name, function in _functions().items()}
ADAPTIVE = [("dopri5", 10.0**-k) for k in range(1, 6)] + [("bosh3", 10.0**-k) for k in range(1, 6)]


def restored() -> bool:
    inner = odeint_adjoint.__globals__["odeint"] is odeint
    return inner and all(function.__code__ is CODES[name] for name, function in _functions().items())


class ConvField(nn.Module):
    """Two convolutions; with `timed` time is an extra channel."""

    def __init__(self, timed: bool) -> None:
        super().__init__()
        self.timed, self.calls = timed, 0
        self.first, self.second = nn.Conv2d(2 + timed, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.dim() == 0
        self.calls += 1
        stacked = torch.cat([y, 3 * t * torch.ones_like(y[:, :1])], 1) if self.timed else y
        return self.second(torch.tanh(2 * self.first(stacked)))


class PairField(nn.Module):
    """A tuple as state, (N, 2, 3, 3) and (N, 4)."""

    def __init__(self, timed: bool) -> None:
        super().__init__()
        self.timed, self.calls, self.linear = timed, 0, nn.Linear(18, 4)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert t.dim() == 0
        self.calls += 1
        y, z = state
        turn = torch.cos(4 * t) if self.timed else 1.0
        back = (-z @ self.linear.weight).view_as(y)
        return 3 * torch.tanh(turn * back), 3 * torch.tanh(self.linear(y.flatten(1)) * turn)


class Foreign(nn.Module):
    """A network as others write it: its solve is somewhere inside, by the odeint it imported."""

    def __init__(self, kind: str, timed: bool, seed: int = 0, adjoint: bool = False, **how: object) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.field = ConvField(timed) if kind == "conv" else PairField(timed)
        self.kind, self.how, self.solve = kind, how, odeint_adjoint if adjoint else odeint
        self.times = (0.0, 1.0)
        self.double()

    def path(self, x: Tensor) -> tuple[Tensor, ...]:
        start = x if self.kind == "conv" else (x, x.mean((2, 3)).repeat(1, 2))
        path = self.solve(self.field, start, torch.tensor(self.times, dtype=x.dtype), **self.how)
        return (path,) if isinstance(path, Tensor) else path

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part[-1].flatten(1) for part in self.path(x)], 1)


def images(samples: int = 4, seed: int = 0) -> Tensor:
    # Of several scales, so that samples want different steps.
    return (normal(seed, samples, 2, 3, 3) * torch.linspace(0.3, 2, samples).view(-1, 1, 1, 1)).requires_grad_()


def gradient(out: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad((out * normal(9, *out.shape)).sum(), x)[0]


def own_and_steered(model: nn.Module, x: Tensor, **steering: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs and input gradients, untouched and steered."""
    out = model(x)
    with steer_odeint(**steering) as calls:
        steered = model(x)
    assert len(calls) > 0
    assert restored()
    return out, gradient(out, x), steered, gradient(steered, x)


def assert_equal(model: nn.Module, x: Tensor, **steering: object) -> None:
    out, wanted, steered, got = own_and_steered(model, x, **steering)
    torch.testing.assert_close(steered, out, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("timed", [False, True], ids=["autonomous", "timed"])
@pytest.mark.parametrize("kind", ["conv", "pair"])
@pytest.mark.parametrize(("method", "tolerance"), ADAPTIVE)
def test_its_own_setting_gives_what_torchdiffeq_gives(method: str, tolerance: float, kind: str, timed: bool) -> None:
    model = Foreign(kind, timed, method=method, rtol=tolerance, atol=tolerance)
    assert_equal(model, images())
    model.times = (0.7, -0.4)
    assert_equal(model, images(seed=1))


@pytest.mark.parametrize("kind", ["conv", "pair"])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "rk4"])
def test_fixed_steps_give_what_torchdiffeq_gives(method: str, kind: str) -> None:
    for times, options, steps in (
        ((0.0, 1.0), None, 1),
        ((0.0, 1.0), {"step_size": 0.1}, 10),
        ((0.3, -0.3), {"step_size": 0.2}, 3),
        ((0.0, 0.4), {"step_size": 5.0}, 1),
        ((0.0, 0.5, 1.0), {"step_size": 0.25}, 2),
        ((0.0, 0.1, 1.0), None, 1),
    ):
        model = Foreign(kind, timed=True, method=method, options=options)
        model.times = times
        assert_equal(model, images())
        with watch_odeint() as calls:
            model(images())
        assert isinstance(calls[0].solver, Fixed)
        assert calls[0].solver.num_steps == steps
        assert len(calls[0].step_sizes) == steps * (len(times) - 1)


@pytest.mark.parametrize("options", [{"first_step": 0.03}, {"safety": 0.6, "ifactor": 3.0, "dfactor": 0.5}])
def test_options_are_taken_over(options: dict[str, float]) -> None:
    model = Foreign("conv", timed=True, method="dopri5", rtol=1e-3, atol=1e-4, options=options)
    assert_equal(model, images())
    assert not torch.allclose(model(images()), Foreign("conv", True, rtol=1e-3, atol=1e-4)(images()), atol=1e-9)


def test_single_precision_and_the_shape_of_the_path_are_kept() -> None:
    for kind in ("conv", "pair"):
        model = Foreign(kind, timed=True, method="bosh3", rtol=1e-4, atol=1e-4).float()
        model.times = (0.0, 0.3, 0.6, 1.0)
        x = images().detach().float()
        expected = model.path(x)
        with steer_odeint() as calls:
            path = model.path(x)
        assert calls[0].deviation.startswith("Ours starts anew at every time")
        for got, part in zip(path, expected, strict=True):
            assert (got.shape, got.dtype) == (part.shape, torch.float32)
            torch.testing.assert_close(got, part, atol=1e-2, rtol=1e-2)


def test_step_gradients_differ_in_the_gradient_alone() -> None:
    model, x = Foreign("conv", timed=True, rtol=1e-1, atol=1e-1), images()
    gradients = []
    for step_gradient in ("frozen", "first", "differentiated"):
        out, own, steered, got = own_and_steered(model, x, step_gradient=step_gradient)
        torch.testing.assert_close(steered, out, atol=1e-8, rtol=1e-8)
        gradients.append((got - own).abs().max().item())
    assert gradients[0] > 1e-6
    assert gradients[1] < 1e-9
    assert gradients[2] > 1e-6


@pytest.mark.parametrize("timed", [False, True], ids=["autonomous", "timed"])
@pytest.mark.parametrize("kind", ["conv", "pair"])
def test_with_steps_of_its_own_a_sample_ignores_its_batch_mates(kind: str, timed: bool) -> None:
    model, x = Foreign(kind, timed, rtol=1e-2, atol=1e-2), images(5)
    alone = torch.cat([model(x[i : i + 1]) for i in range(5)])
    out, _, steered, got = own_and_steered(model, x, scope="sample")
    assert (alone - out).abs().max() > 1e-5  # untouched they matter
    torch.testing.assert_close(steered, alone, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(got, gradient(alone, x), atol=1e-8, rtol=1e-8)
    pairs = torch.cat([model(x[i : i + 2]) for i in (0, 2, 4)])
    _, _, steered, got = own_and_steered(model, x, scope=2)
    torch.testing.assert_close(steered, pairs, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(got, gradient(pairs, x), atol=1e-8, rtol=1e-8)


def test_a_time_that_makes_no_difference_lets_the_batch_be_solved_at_once() -> None:
    evaluations = {}
    for timed in (False, True):
        model = Foreign("conv", timed, rtol=1e-3, atol=1e-3)
        with steer_odeint(scope="sample") as calls:
            model(images(6))
        evaluations[timed] = calls[0].evaluations
        assert calls[0].evaluations == model.field.calls
    assert evaluations[True] > 3 * evaluations[False]


def test_a_period_that_divides_the_span_is_still_seen() -> None:
    class Periodic(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return y * torch.sin(2 * torch.pi * t) ** 2

    x = images(3)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with steer_odeint(Adaptive(rtol=1e-8, atol=1e-8)):
        path = odeint(Periodic(), x, times)
    torch.testing.assert_close(path[-1], x * torch.tensor(0.5, dtype=torch.float64).exp(), atol=1e-6, rtol=1e-6)


def test_a_function_that_needs_the_whole_batch_is_refused_steps_of_its_own() -> None:
    x = images(3)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    context = normal(3, 3, 2, 3, 3)
    for func in (
        lambda t, y: y - y.mean(0),
        lambda t, y: torch.stack([a * b for a, b in zip(y, context, strict=True)]),
    ):
        with pytest.raises(InteropError, match="does not work on part of a batch"), steer_odeint(scope="sample"):
            odeint(func, x, times)
    with steer_odeint():
        odeint(lambda t, y: y * context, x, times)


@pytest.mark.parametrize("weights", [True, False], ids=["weights", "frozen-weights"])
@pytest.mark.parametrize("timed", [False, True], ids=["autonomous", "timed"])
@pytest.mark.parametrize("kind", ["conv", "pair"])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
def test_the_adjoint_stays_the_adjoint(tolerance: float, kind: str, timed: bool, weights: bool) -> None:
    model = Foreign(kind, timed, adjoint=True, rtol=tolerance, atol=tolerance).requires_grad_(weights)
    assert_equal(model, images())
    if weights:
        model.times = (0.0, 0.6)
        model(images()).sum().backward()
        wanted = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        with steer_odeint():
            model(images()).sum().backward()
        for p, expected in zip(model.parameters(), wanted, strict=True):
            torch.testing.assert_close(p.grad, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["conv", "pair"])
def test_adjoint_and_backpropagation_take_each_others_place(kind: str) -> None:
    how = {"rtol": 1e-2, "atol": 1e-2}
    through, around = Foreign(kind, True, **how), Foreign(kind, True, adjoint=True, **how)
    x = images()
    by_steps, by_adjoint = gradient(through(x), x), gradient(around(x), x)
    assert (by_steps - by_adjoint).abs().max() > 1e-4
    _, _, _, got = own_and_steered(around, x, adjoint=False)
    torch.testing.assert_close(got, by_steps, atol=1e-8, rtol=1e-8)
    _, _, _, got = own_and_steered(through, x, adjoint=True)
    torch.testing.assert_close(got, by_adjoint, atol=1e-8, rtol=1e-8)


def test_an_adjoint_that_would_miss_gradient_is_refused() -> None:
    x, times = images(2), torch.tensor([0.0, 1.0], dtype=torch.float64)
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    for reads in (scale, 2 * x):
        with pytest.raises(InteropError, match="The adjoint would miss that gradient"), steer_odeint(adjoint=True):
            odeint(lambda t, y, reads=reads: y * reads, x, times)
        with steer_odeint(adjoint=True):
            odeint(lambda t, y, reads=reads: y * reads.detach(), x, times)


def test_watching_leaves_everything_as_it_is() -> None:
    for adjoint in (False, True):
        model, x = Foreign("conv", True, adjoint=adjoint, method="dopri5", rtol=1e-3, atol=1e-4), images()
        steps: list[float] = []
        model.field.callback_accept_step = lambda t, y, h, steps=steps: steps.append(float(h.detach()))
        out = model(x)
        wanted, evaluations, accepted = gradient(out, x), model.field.calls, list(steps)
        forward = Foreign("conv", True, method="dopri5", rtol=1e-3, atol=1e-4)
        forward(x)
        model.field.calls = 0
        with watch_odeint() as calls:
            watched = model(x)
            got = gradient(watched, x)
        assert torch.equal(watched, out)
        assert torch.equal(got, wanted)
        assert model.field.calls == evaluations
        (call,) = calls
        assert (call.method, call.rtol, call.atol, call.options) == ("dopri5", 1e-3, 1e-4, {})
        assert (call.adjoint, call.batch, call.times, call.unsteered) == (adjoint, 4, (0.0, 1.0), "")
        assert call.evaluations == forward.field.calls
        assert list(call.step_sizes) == accepted
        assert steps == accepted * 2  # the module's own callback went on being called
        assert call.deviation == "The function's callbacks are not called."
        field = model.field
        solution = integrate(lambda t, y, field=field: (field(t[0], y[0]),), (x,), call.solver)
        taken = solution.step_sizes[:, 0]
        torch.testing.assert_close(taken[~taken.isnan()], torch.tensor(accepted, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:The following arguments have no effect")  # torchdiffeq hands them to SciPy
def test_what_has_no_equal_says_why_and_what_to_do() -> None:
    x, times = images(2), torch.tensor([0.0, 1.0], dtype=torch.float64)
    norm = {"norm": lambda y: y.abs().max()}
    cases: list[tuple[dict[str, object], str]] = [
        ({"method": "dopri8"}, "Its method 'dopri8' is none of ours"),
        ({"method": "fehlberg2"}, "Its method 'fehlberg2' is none of ours"),
        ({"method": "implicit_adams", "options": {"step_size": 0.1}}, "Its method 'implicit_adams'"),
        ({"method": "scipy_solver", "options": {"solver": "RK45"}}, "Its method 'scipy_solver'"),
        ({"method": "dopri5", "options": norm}, "in a norm of its own"),
        ({"method": "dopri5", "options": {"max_step": 0.1}}, "bounds or places its steps"),
        ({"method": "rk4", "options": {"step_size": 0.3}}, "Its steps of 0.3 do not divide"),
        ({"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t}}, "placed by grid_constructor"),
        ({"atol": torch.full_like(x, 1e-3), "rtol": torch.linspace(1e-4, 1e-3, 3).double()}, "Its tolerances differ"),
        ({"rtol": 0.0}, "Its setting is not one of ours: rtol: Input should be greater than 0"),
    ]
    for how, why in cases:
        with watch_odeint() as calls:
            untouched = odeint(lambda t, y: -y, x, times, **how)
        (call,) = calls
        assert why in call.unsteered
        assert call.solver is None
        with pytest.raises(InteropError, match=r"no equal among our settings.*steer_odeint\(Adaptive"), steer_odeint():
            odeint(lambda t, y: -y, x, times, **how)
        with steer_odeint(Adaptive(rtol=1e-7, atol=1e-7)):  # a setting of ours can still take its place
            path = odeint(lambda t, y: -y, x, times, **how)
        torch.testing.assert_close(path, untouched, atol=0.05, rtol=0.05)
    assert restored()


def test_what_no_setting_of_ours_can_answer() -> None:
    x, times = images(2), torch.tensor([0.0, 1.0], dtype=torch.float64)
    field = nn.Linear(3, 3).double()

    def func(t: Tensor, y: Tensor) -> Tensor:
        return -y

    solver = Adaptive(rtol=1e-3, atol=1e-3)
    unequal = (normal(1, 2, 3), normal(1, 3))
    with steer_odeint(solver):
        with pytest.raises(InteropError, match="ends at an event"):
            torchdiffeq.odeint_event(func, x, times[0], event_fn=lambda t, y: 0.5 - t)
        with pytest.raises(InteropError, match="function of time"):
            torchdiffeq.odeint_dense(func, x, times[0], times[1])
        with pytest.raises(InteropError, match=r"state has shapes \[\(2, 3\), \(3,\)\]"):
            odeint(lambda t, y: y, unequal, times)
        with pytest.raises(InteropError, match="Its times carry gradient"):
            odeint(func, x, times.clone().requires_grad_())
        with pytest.raises(InteropError, match="neither rise nor fall"):
            odeint(func, x, torch.tensor([0.0, 1.0, 0.5]))
        with pytest.raises(InteropError, match=r"torch\.complex128"):
            odeint(func, x.detach().to(torch.complex128), times)
    with watch_odeint() as calls:
        torchdiffeq.odeint_event(func, x, times[0], event_fn=lambda t, y: 0.5 - t)
        dense = torchdiffeq.odeint_dense(func, x, times[0], times[1])
    torch.testing.assert_close(dense(times[1]), x * torch.tensor(-1.0).double().exp(), atol=1e-5, rtol=1e-5)
    assert [bool(call.barred) for call in calls] == [True, True]
    with watch_odeint() as calls, pytest.raises(ValueError, match=r"func must be an instance of nn\.Module"):
        odeint_adjoint(lambda t, y: field(y), x, times)
    assert calls == []


def test_changes_that_do_not_fit_are_refused() -> None:
    model, x = Foreign("conv", False, method="rk4"), images(2)
    for changes in ({"scope": "sample"}, {"no_such_field": 1}, {"num_steps": 0}):
        with pytest.raises(InteropError, match="cannot be changed by"), steer_odeint(**changes):
            model(x)
    with steer_odeint(num_steps=3):
        more = model(x)
    with steer_odeint(Fixed(method="rk4_38", num_steps=3)):
        assert torch.equal(model(x), more)
    with steer_odeint(Fixed(method="euler"), method="rk4_38", num_steps=3):
        assert torch.equal(model(x), more)


def test_contexts_nest_and_end_after_exceptions() -> None:
    model, x = Foreign("conv", False, rtol=1e-1, atol=1e-1), images()
    own = model(x)
    with steer_odeint(method="bosh3", rtol=1e-2):
        outer = model(x)
        with steer_odeint(rtol=1e-4):
            inner = model(x)
        assert torch.equal(model(x), outer)
        with watch_odeint() as seen:
            assert torch.equal(model(x), outer)  # seen, then steered by the one around
    assert restored()
    assert (seen[0].method, seen[0].rtol, seen[0].solver) == ("dopri5", 1e-1, seen[0].solver)
    assert seen[0].evaluations > 0
    assert torch.equal(model(x), own)
    assert len({tuple(out[0].tolist()) for out in (own, outer, inner)}) == 3
    with pytest.raises(ZeroDivisionError), steer_odeint(), watch_odeint():
        odeint(lambda t, y: 1 / 0, x, torch.tensor([0.0, 1.0]))
    assert restored()
    with watch_odeint() as untouched, steer_odeint() as steered:
        model(x)
    assert (len(untouched), len(steered)) == (0, 1)
    for failing in (steer_odeint, watch_odeint):
        with pytest.raises(ZeroDivisionError), failing():
            odeint(lambda t, y: 1 / 0, x, torch.tensor([0.0, 1.0]))
        assert restored()


def test_a_solve_within_a_solve_is_met_too() -> None:
    def inner(t: Tensor, y: Tensor) -> Tensor:
        return -y

    def outer(t: Tensor, y: Tensor) -> Tensor:
        return odeint(inner, y, torch.tensor([0.0, 0.1], dtype=torch.float64), method="euler")[-1]

    x, times = images(2), torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = odeint(outer, x, times, method="midpoint")
    for context in (watch_odeint, steer_odeint):
        with context() as calls:
            torch.testing.assert_close(odeint(outer, x, times, method="midpoint"), expected)
        assert [call.method for call in calls] == ["euler", "euler", "midpoint"]
        assert all(isinstance(call, OdeintCall) for call in calls)


def test_an_adjoint_from_before_goes_back_as_it_came() -> None:
    """A backward pass by torchdiffeq is torchdiffeq's, also where it falls inside a context."""
    model, x = Foreign("conv", True, adjoint=True, rtol=1e-2, atol=1e-2), images()
    wanted = gradient(model(x), x)
    out = model(x)
    with steer_odeint(Fixed(num_steps=1)) as calls:
        assert torch.equal(gradient(out, x), wanted)
    assert calls == []


def test_a_failed_sample_is_nan_or_an_error() -> None:
    x = images(3).detach()
    x[1] = torch.nan
    model = Foreign("conv", False, rtol=1e-3, atol=1e-3)
    with steer_odeint(scope="sample"):
        assert model(x).isnan().all(1).tolist() == [False, True, False]
    with pytest.raises(RuntimeError, match=r"^steer_odeint: The state"), steer_odeint(on_failure="raise"):
        model(x)


def test_adaptive_heun_says_that_it_deviates() -> None:
    model, x = Foreign("conv", False, method="adaptive_heun", rtol=1e-2, atol=1e-2), images()
    out, _, steered, _ = own_and_steered(model, x)
    assert 1e-6 < (out - steered).abs().max() < 0.1
    with watch_odeint() as calls:
        model(x)
    assert calls[0].deviation.startswith("torchdiffeq's adaptive_heun takes its second stage")


def test_without_torchdiffeq_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    for context in (watch_odeint, steer_odeint):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'sonet\[oracle\]'"):
            context().__enter__()
