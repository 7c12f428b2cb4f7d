"""The same weights under another solver, for a while."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sonet.blocks import ode_blocks
from sonet.models import ConfigError, build, swap_solver, variant
from sonet.solvers import Adaptive, Fixed, paper
from sonet.solvers.control import StepGradient

DEPLOYED = paper()


def network(**options: Any) -> nn.Module:
    return build(
        "sonet", seed=3, **({"channels": 2, "blocks": (1, 1), "strides": (1, 2), "solver": DEPLOYED} | options)
    ).double()


def images(n: int = 4) -> Tensor:
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x * torch.linspace(0.5, 1, n, dtype=torch.float64)[:, None, None, None]


def logits_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_(True)
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)
    return logits.detach(), gradient


def test_frozen_steps_change_the_gradient_and_not_the_logits() -> None:
    model, x = network(), images()
    logits, gradient = logits_and_gradient(model, x)
    seen: list[Tensor] = []
    settings: tuple[StepGradient, ...] = ("frozen", "first", "differentiated")
    for setting in settings:
        with swap_solver(model, step_gradient=setting) as swapped:
            assert swapped is model
            assert all(block.solver == paper(step_gradient=setting) for block in ode_blocks(model).values())
            inside = logits_and_gradient(model, x)
        torch.testing.assert_close(inside[0], logits, rtol=0, atol=1e-12)
        seen.append(inside[1])
    assert torch.equal(seen[2], gradient)
    scale = gradient.abs().max()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (seen[a] - seen[b]).abs().max() > 1e-4 * scale


@pytest.mark.parametrize(
    "change", [{"rtol": 1e-6, "atol": 1e-6}, {"method": "bosh3", "end": "clip"}, {"scope": "sample"}, {"end": "clip"}]
)
def test_another_forward_setting_changes_the_logits(change: dict[str, Any]) -> None:
    model, x = network(), images()
    with torch.no_grad():
        plain = model(x)
        with swap_solver(model, **change):
            swapped = model(x)
            for block in ode_blocks(model).values():
                assert block.solver == DEPLOYED.model_copy(update=change)
        assert (swapped - plain).abs().max() > 1e-5
        assert torch.equal(model(x), plain)


def test_a_whole_solver_of_another_kind() -> None:
    model, x = network(), images()
    rk4 = Fixed(method="rk4", num_steps=3)
    expected = network(solver=rk4)
    with swap_solver(model, rk4):
        assert all(block.solver == rk4 for block in ode_blocks(model).values())
        assert torch.equal(model(x), expected(x))
    with swap_solver(model, rk4, num_steps=5):
        assert torch.equal(model(x), network(solver=Fixed(method="rk4", num_steps=5))(x))
    assert all(block.solver == DEPLOYED for block in ode_blocks(model).values())


def test_single_settings_change_each_block_s_own_solver() -> None:
    model = network()
    own = [paper(rtol=0.1 / (i + 1)) for i in range(len(ode_blocks(model)))]
    for block, solver in zip(ode_blocks(model).values(), own, strict=True):
        block.solver = solver
    with swap_solver(model, step_gradient="frozen"):
        inside = [block.solver for block in ode_blocks(model).values()]
    assert inside == [solver.model_copy(update={"step_gradient": "frozen"}) for solver in own]
    assert [block.solver for block in ode_blocks(model).values()] == own


def test_an_exception_inside_leaves_the_solvers_as_before() -> None:
    model, x = network(), images()
    plain = model(x)
    before = [block.solver for block in ode_blocks(model).values()]
    with pytest.raises(KeyboardInterrupt), swap_solver(model, Fixed()):
        raise KeyboardInterrupt
    after = [block.solver for block in ode_blocks(model).values()]
    assert all(a is b for a, b in zip(after, before, strict=True))
    assert torch.equal(model(x), plain)


def test_swaps_nest() -> None:
    model = network()
    with swap_solver(model, step_gradient="frozen"):
        with swap_solver(model, scope="sample"):
            assert model.first.solver == paper(step_gradient="frozen", scope="sample")
        assert model.first.solver == paper(step_gradient="frozen")
    assert model.first.solver == DEPLOYED


def test_a_model_without_ode_blocks_has_no_solver_to_swap() -> None:
    model = build("resnet10", channels=2)
    with (
        pytest.raises(ValueError, match="ResNet10 has no ODE block, so there is no solver to swap"),
        swap_solver(model),
    ):
        pass
    with pytest.raises(ValueError, match="no ODE block"):
        variant(model, step_gradient="frozen")(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("solver", "changes", "message"),
    [
        (None, {"stepgradient": "frozen"}, r"Adaptive has no setting 'stepgradient', it has .*step_gradient"),
        (None, {"num_steps": 3}, "Adaptive has no setting 'num_steps'.*whole solver"),
        (Fixed(), {"rtol": 0.1}, "Fixed has no setting 'rtol', it has kind, method, num_steps"),
        (None, {"rtol": -1.0}, r"rtol: Input should be greater than 0 \(got -1\.0\)"),
        (None, {"step_gradient": "no"}, "step_gradient: .*'frozen', 'first' or 'differentiated'"),
        (None, {"method": "rk4"}, "'rk4' cannot estimate its error"),
        (None, {"kind": "fixed"}, "kind: .*'adaptive'"),
    ],
)
def test_a_setting_that_does_not_fit_is_an_error_before_anything_is_swapped(
    solver: Fixed | Adaptive | None, changes: dict[str, Any], message: str
) -> None:
    model = network()
    entered = False
    with pytest.raises(ConfigError, match=message), swap_solver(model, solver, **changes):
        entered = True
    assert not entered
    assert all(block.solver == DEPLOYED for block in ode_blocks(model).values())


def test_a_variant_is_the_model_under_the_swap_and_the_model_stays() -> None:
    model, x = network(), images()
    frozen = variant(model, step_gradient="frozen")
    rk4 = variant(model, Fixed(method="rk4", num_steps=2), num_steps=3)
    plain = logits_and_gradient(model, x)
    with swap_solver(model, step_gradient="frozen"):
        expected = logits_and_gradient(model, x)
    got = logits_and_gradient(frozen, x)  # type: ignore[arg-type]
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert torch.equal(rk4(x), network(solver=Fixed(method="rk4", num_steps=3))(x))
    again = logits_and_gradient(model, x)
    assert torch.equal(again[0], plain[0])
    assert torch.equal(again[1], plain[1])
    with torch.no_grad():
        model.head.field.bias_z.add_(1.0)  # a variant follows the weights
    assert not torch.equal(logits_and_gradient(frozen, x)[0], expected[0])  # type: ignore[arg-type]


def test_shared_steps_of_groups_are_those_of_batches_of_that_size() -> None:
    """`scope=k` on one large batch is the whole-batch setting on batches of k, gradient included."""
    model, x = network(), images(8)
    for k in (1, 2, 4):
        batches = [logits_and_gradient(model, part) for part in torch.split(x, k)]
        with swap_solver(model, scope=k):
            logits, gradient = logits_and_gradient(model, x)
        torch.testing.assert_close(logits, torch.cat([part for part, _ in batches]), rtol=0, atol=1e-9)
        torch.testing.assert_close(gradient, torch.cat([part for _, part in batches]), rtol=1e-6, atol=1e-9)
