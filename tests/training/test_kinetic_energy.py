"""Kinetic energy against integrals known by hand, what training with it does, and the budget of evaluations."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import EULER, config, digits, numbers, same, small, weights
from torch import Tensor, nn

from sonet.blocks import ODEBlock, TiedField, ode_blocks
from sonet.models import build
from sonet.solvers import Adaptive, Fixed, integrate
from sonet.training import TrainingError, TrainingWarning, fit, load_checkpoint
from sonet.training.energy import Energy, watch_energy
from sonet.types import State


class Decay(nn.Module):
    """x' = -rate x on states (N, d)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def forward(self, t: Tensor, state: State) -> State:
        return tuple(-self.rate * part for part in state)


class Lift(nn.Module):
    def forward(self, x: Tensor) -> State:
        return (x, 3 * x[:, :1])


def energy_of(model: nn.Module, x: Tensor) -> Tensor:
    with watch_energy(model) as energy:
        model(x)
        return energy.total()


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_eulers_method_gives_the_left_riemann_sum() -> None:
    """Steps of 1/4 with rate 2: x_k = x / 2^k; the integrand is 4 x^2 / 4^k."""
    block, x = ODEBlock(Lift(), Decay(2.0), Fixed(method="euler", num_steps=4)), images()
    squares = ((x**2).sum() + 9 * (x[:, :1] ** 2).sum()) / (4 * 4)  # two parts of the state, 3 + 1 elements each
    expected = squares * 4 * (1 + 1 / 4 + 1 / 16 + 1 / 64) / 4
    assert energy_of(block, x).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("solver", [Fixed(method="rk4", num_steps=400), Adaptive(rtol=1e-9, atol=1e-9)])
def test_it_is_near_the_integral(solver: Any) -> None:
    """int_0^1 r^2 x^2 exp(-2 r t) dt = r x^2 (1 - exp(-2 r)) / 2; adaptive steps differ in length."""
    rate, x = 0.2, images()
    squares = ((x**2).sum() + 9 * (x[:, :1] ** 2).sum()) / 16
    expected = rate * squares * (1 - torch.exp(torch.tensor(-2.0 * rate))) / 2
    found = energy_of(ODEBlock(Lift(), Decay(rate), solver), x)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3 if isinstance(solver, Fixed) else 0.1)


def test_blocks_are_added_and_passes_are_not() -> None:
    solver = Fixed(method="euler", num_steps=2)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = ODEBlock(Lift(), Decay(1.0), solver), ODEBlock(Lift(), Decay(0.5), solver)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.two(self.one(x))
            return out

    model, x = Two(), images()
    apart = energy_of(model.one, x) + energy_of(model.two, model.one(x).detach())
    assert energy_of(model, x).item() == pytest.approx(apart.item(), rel=1e-12)
    with watch_energy(model) as energy:
        model(x)
        model(x)
        assert energy.total().item() == pytest.approx(apart.item(), rel=1e-12)


def test_its_gradient_reaches_weights_and_input() -> None:
    block, x = ODEBlock(Lift(), Decay(0.7), Fixed(method="rk4", num_steps=3)), images().requires_grad_()

    def value(rate: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            block.field.rate.copy_(rate)
        with watch_energy(block) as energy:
            torch.func.functional_call(block, {"field.rate": rate}, (x,))
            return energy.total()

    assert torch.autograd.gradcheck(value, (torch.tensor(0.7, dtype=torch.float64, requires_grad=True), x))


@pytest.mark.parametrize("name", ["stable-sonet", "convex-potential"])
def test_tied_fields_are_seen_though_they_are_evaluated_past_their_module(name: str) -> None:
    model = build(name, like=digits(), seed=0, **({"channels": 4} if name == "stable-sonet" else {}))
    model.train()
    blocks = ode_blocks(model)
    assert any(isinstance(block.field, TiedField) for block in blocks.values())
    some = digits().train.take(5).images
    squares: dict[str, list[Tensor]] = {}

    def spy(key: str, block: ODEBlock) -> Any:
        field = block.field.tie() if isinstance(block.field, TiedField) else block.field

        def evaluate(t: Tensor, state: State) -> State:
            slope = field(t, state)
            squares.setdefault(key, []).append(torch.cat([part.flatten() for part in slope]).square().mean())
            return slope

        return evaluate

    def beside(key: str) -> Any:
        def solve(block: ODEBlock, given: tuple[Tensor]) -> None:
            integrate(spy(key, block), block.lift(given[0]), block.solver)

        return solve

    handles = [block.register_forward_pre_hook(beside(key)) for key, block in blocks.items()]
    model(some)
    for handle in handles:
        handle.remove()
    expected = sum(torch.stack(each).mean().item() for each in squares.values())
    assert energy_of(model, some).item() == pytest.approx(expected, rel=1e-5)


def test_the_network_is_left_as_it_was_and_gives_the_same() -> None:
    for name in ("sonet", "stable-sonet"):
        model, some = small(name), digits().train.take(5).images
        plain = model(some)
        before = [dict(vars(block.field)) for block in ode_blocks(model).values()]
        with watch_energy(model):
            torch.testing.assert_close(model(some), plain)
        with pytest.raises(ValueError, match="expected"), watch_energy(model):
            model(some[:, :, :0])
        for block, old in zip(ode_blocks(model).values(), before, strict=True):
            assert vars(block.field).keys() == old.keys()
            assert not block.field._forward_hooks


def test_evaluations_without_graph_or_not_finite_do_not_count() -> None:
    energy = Energy()
    energy.note("a", (torch.tensor([2.0]),))
    energy.note("a", (torch.tensor([torch.inf]),))
    with torch.no_grad():
        energy.note("a", (torch.tensor([5.0]),))
    assert energy.total().item() == 4.0
    with pytest.raises(TrainingError, match="no evaluation of a field carried gradient"):
        energy.total()


def test_training_with_it_lowers_it_and_the_history_says_so() -> None:
    left = []
    for weight in (1e-9, 1.0):
        model = small(solver=EULER)
        history = fit(model, digits().train.take(60), config(epochs=6, lr=0.05, kinetic=weight))
        measured = energy_of(model, digits().train.take(60).images).item()
        assert history[-1].kinetic == pytest.approx(measured, rel=0.5)
        left.append(measured)
    assert left[1] < 0.7 * left[0]


def test_the_loss_holds_the_term_and_crafting_does_not_count() -> None:
    """At a rate so small that nothing moves, madry's epoch is natural's, PGD's evaluations not in it."""
    common = {"epochs": 1, "lr": 1e-30, "schedule": "constant"}
    some = digits().train.take(20)
    madry = {"objective": "madry", "threat": "linf:1e-7", "attack_steps": 3}
    bare = fit(small(), some, config(**common))[0]
    natural, attacked = (fit(small(), some, config(**common, kinetic=0.5, **more))[0] for more in ({}, madry))
    expected = energy_of(small().train(), some.images).item()
    for report in (natural, attacked):
        assert report.kinetic == pytest.approx(expected, rel=1e-4)
        assert report.loss == pytest.approx(bare.loss + 0.5 * expected, rel=1e-4)
    assert bare.kinetic is None


def test_with_it_interrupted_and_resumed_is_the_same(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(report: Any) -> None:
        if report.epoch == 1:
            raise Stop

    setting, some = config(kinetic=0.1, nfe_budget=3), digits().train.take(40)
    straight, resumed = small(), small()
    with pytest.warns(TrainingWarning, match="epoch 1 needed"):
        whole = fit(straight, some, setting)
    with pytest.warns(TrainingWarning, match="epoch 1 needed"), pytest.raises(Stop):
        fit(small(), some, setting, run=tmp_path, progress=stop)
    history = fit(resumed, some, setting, run=tmp_path)  # without a second warning, which would be an error here
    assert same(weights(resumed), weights(straight))
    assert numbers(history) == numbers(whole) == numbers(load_checkpoint(tmp_path).description.history)


# The budget


@pytest.mark.parametrize(("budget", "above"), [(5.9, True), (6, False)])
@pytest.mark.parametrize("objective", [{}, {"objective": "trades", "threat": "linf:0.1", "attack_steps": 1}])
def test_the_budget_is_of_one_image_and_pass(budget: float, above: bool, objective: dict[str, Any]) -> None:
    """Three blocks of two Euler steps: 6 a pass, also where two passes are learned from."""
    setting = config(nfe_budget=budget, **objective)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = fit(small(), digits().train.take(40), setting)
    assert [epoch.over_budget for epoch in history] == [above, above]
    assert [epoch.nfe for epoch in history] == [6, 6]
    assert [warning.category for warning in said] == [TrainingWarning] * above  # once, not in each epoch
    if above:
        text = str(said[0].message)
        assert "epoch 1 needed 6.0 evaluations of fields for an image and pass, more than nfe_budget 5.9" in text
        assert said[0].filename == __file__


@pytest.mark.parametrize("setting", ["kinetic", "nfe_budget"])
def test_both_are_refused_where_there_is_nothing_to_solve(setting: str) -> None:
    model = small("resnet10")
    before = weights(model)
    with pytest.raises(TrainingError, match=f"{setting} is of networks with ODE blocks, got 3 with ResNet"):
        fit(model, digits().train.take(20), config(**{setting: 3}))
    assert same(weights(model), before)
