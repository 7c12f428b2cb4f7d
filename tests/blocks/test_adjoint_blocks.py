"""`adjoint_gradients`: the same outputs, the adjoint's gradients, and the blocks as they were afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sonet.blocks import adjoint_gradients, name_blocks, ode_blocks, skew_conv_block, watch_solves
from sonet.solvers import Adaptive, Fixed, Solution, integrate_adjoint

LOOSE = Adaptive(rtol=1e-1, atol=1e-1)
TIGHT = Adaptive(rtol=1e-9, atol=1e-9)


def two_blocks(solver: Fixed | Adaptive, slope: float = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        skew_conv_block(1, 2, 1, solver, gamma=0.1, slope=slope, norm=False),
        skew_conv_block(2, 3, 2, solver, gamma=0.1, slope=slope, norm=False),
    ).double()
    name_blocks(model)
    return model


def images(samples: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(samples, 1, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()


def input_gradient(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    return torch.autograd.grad((out * torch.arange(out[0].numel()).view(out[0].shape)).sum(), x)[0]


def test_same_outputs_and_statistics_another_gradient() -> None:
    model, x = two_blocks(LOOSE), images()
    plain_out, plain = model(x), input_gradient(model, x)
    heard: list[tuple[str, Solution]] = []
    with adjoint_gradients(model), watch_solves(model, lambda name, solution: heard.append((name, solution))):
        out = model(x)
        adjoint = input_gradient(model, x)
    assert torch.equal(out, plain_out)
    assert [name for name, _ in heard] == ["0", "1"] * 2
    assert all(solution.ok for _, solution in heard)
    assert (adjoint - plain).abs().max() > 1e-4 * plain.abs().max()
    # It is what composing the two solves by hand gives.
    first, second = ode_blocks(model).values()
    middle = integrate_adjoint(first.field, first.lift(x), LOOSE).state[0]
    end = integrate_adjoint(second.field, second.lift(middle), LOOSE).state[0]
    by_hand = torch.autograd.grad((end * torch.arange(end[0].numel()).view(end[0].shape)).sum(), x)[0]
    assert torch.equal(adjoint, by_hand)


def test_agrees_with_backpropagation_at_tight_tolerance() -> None:
    """Where the field is smooth; at kinks the gradient of steps chosen for the state alone is far less exact."""
    model, x = two_blocks(TIGHT, slope=1.0), images(2)
    plain = input_gradient(model, x)
    with adjoint_gradients(model):
        adjoint = input_gradient(model, x)
    torch.testing.assert_close(adjoint, plain, atol=1e-6, rtol=1e-6)


def test_weights_get_gradients_only_if_asked_for() -> None:
    model, x = two_blocks(Fixed(num_steps=40)), images(2)
    model(x).square().sum().backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with adjoint_gradients(model, weights=True):
        model(x).square().sum().backward()
    for p, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-6, rtol=1e-5)
    model.zero_grad()
    with adjoint_gradients(model):
        model(x).square().sum().backward()
    assert all(p.grad is None for p in model.parameters())


def test_ends_after_exceptions_and_in_nesting() -> None:
    model, x = two_blocks(LOOSE), images()
    plain = input_gradient(model, x)
    with adjoint_gradients(model, weights=True):
        with pytest.raises(KeyError), adjoint_gradients(model):
            raise KeyError
        inside = [vars(block)["solve"] for block in ode_blocks(model).values()]
        model(x).sum().backward()
        assert all(p.grad is not None for p in model.parameters())  # the outer one, which gives weights theirs
    assert len(inside) == 2
    assert not any("solve" in vars(block) for block in ode_blocks(model).values())
    assert torch.equal(input_gradient(model, x), plain)


def test_a_copy_made_inside_solves_with_its_own_weights() -> None:
    model, x = two_blocks(LOOSE), images()
    with adjoint_gradients(model):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(0.5)
        assert not torch.equal(other(x), model(x))


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adjoint_gradients: expected a model with ODE blocks, got Linear"):
        adjoint_gradients(nn.Linear(2, 2)).__enter__()
