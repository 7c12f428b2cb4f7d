"""`recomputed`: the same numbers bit for bit, less kept for the backward pass, the blocks as before afterwards."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.blocks import (
    ODEBlock,
    adjoint_gradients,
    name_blocks,
    ode_blocks,
    odenet_block,
    recomputed,
    skew_conv_block,
    stable_skew_block,
    watch_solves,
)
from sonet.blocks.lift import PlainLift
from sonet.models import build, swap_solver
from sonet.solvers import Adaptive, Fixed, Solution, paper
from sonet.types import State

BOLD = {"rtol": 5e-3, "atol": 5e-3, "first_step": 0.9}


def setting(step_gradient: str, scope: str | int, end: str, **changes: object) -> Adaptive:
    known = {"step_gradient": step_gradient, "scope": scope, "end": end}
    return Adaptive.model_validate(BOLD | known | changes)


SOLVERS: dict[str, Fixed | Adaptive] = {
    f"{step_gradient}-{scope}-{end}": setting(step_gradient, scope, end)
    for step_gradient in ("frozen", "first", "differentiated")
    for scope in ("sample", "batch", 2)
    for end in ("clip", "dense")
} | {
    "bosh3": setting("differentiated", "sample", "clip", method="bosh3"),
    "heun": setting("frozen", "sample", "clip", method="adaptive_heun"),
    "rule": setting("differentiated", "sample", "dense", first_step=None),
    "paper": paper(),
    "rk4": Fixed(num_steps=3),
    "dopri5": Fixed(method="dopri5", num_steps=2),
}


def two_blocks(solver: Fixed | Adaptive) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        skew_conv_block(1, 2, 2, solver, gamma=0.1, slope=0.1, norm=True), nn.GELU(), odenet_block(2, solver)
    ).double()
    name_blocks(model)
    return model


def images(samples: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(samples, 1, 4, 4, generator=generator, dtype=torch.float64).requires_grad_()


def everything(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, statistics of all solves, gradients of the images and of all weights."""
    heard: list[Solution] = []
    with watch_solves(model, lambda name, solution: heard.append(solution)):
        out = model(x)
    weights = torch.arange(out[0].numel(), dtype=out.dtype).view(out[0].shape)
    gradients = torch.autograd.grad((out * weights).sum(), [x, *model.parameters()])
    counts = [t for s in heard for t in (s.status, s.evaluations, s.accepted, s.rejected, s.step_sizes.nan_to_num())]
    return [out.detach(), *counts, *gradients]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", SOLVERS)
def test_the_same_bit_for_bit(name: str) -> None:
    model, x = two_blocks(SOLVERS[name]), images()
    stored = everything(model, x)
    with recomputed(model):
        remade = everything(model, x)
    assert same(stored, remade)
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in remade[11:])
    with torch.no_grad():
        assert not same(stored, [t * (1 + 1e-12) for t in stored])  # what `same` would not let pass


def test_some_of_these_solves_rejected_steps() -> None:
    solutions: list[Solution] = []
    for solver in SOLVERS.values():
        model = two_blocks(solver)
        with watch_solves(model, lambda name, solution: solutions.append(solution)):
            model(images())
    assert sum(bool(solution.rejected.any()) for solution in solutions) > len(SOLVERS) / 2


@pytest.mark.parametrize("name", ["frozen-sample-clip", "differentiated-batch-dense", "heun", "dopri5"])
def test_double_backward_is_the_same_too(name: str) -> None:
    model, x = two_blocks(SOLVERS[name]), images(2)

    def second() -> list[Tensor]:
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(gradient.square().sum(), [x, *model.parameters()], allow_unused=False))

    stored = second()
    with recomputed(model):
        remade = second()
    assert same(stored, remade)
    assert all(bool(g.any()) for g in remade)


def test_gradients_pass_gradcheck_twice() -> None:
    model, x = two_blocks(Fixed(method="heun", num_steps=2)), images(1)
    model[0].field.slope = 1.0  # differences across a kink would be another gradient's
    with recomputed(model):
        assert torch.autograd.gradcheck(model[0], x)
        assert torch.autograd.gradgradcheck(model[0], x)


class Root(nn.Module):
    """y' = w sqrt(1 - y) - 1/2: no number where y > 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(4.0, dtype=torch.float64))

    def forward(self, t: Tensor, state: State) -> State:
        return (self.w * torch.sqrt(1 - state[0]) - 0.5,)


@pytest.mark.parametrize("step_gradient", ["frozen", "first", "differentiated"])
@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_trials_that_are_no_numbers_and_samples_that_fail(scope: str, step_gradient: str) -> None:
    block = ODEBlock(PlainLift(), Root(), setting(step_gradient, scope, "clip"))
    for start in ([-0.3, 0.2, -1.0], [-0.3, 0.2, 2.0], [-0.3, math.nan, -1.0]):
        x = torch.tensor(start, dtype=torch.float64)[:, None].requires_grad_()
        stored = everything(block, x)
        with recomputed(block):
            assert same(stored, everything(block, x))


def test_a_tied_kernel_gets_its_gradient() -> None:
    block = stable_skew_block(4, (4, 4), Fixed(method="euler", num_steps=3), kernel_norm=1.0, slope=0.1).train()
    x = torch.rand(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    stored = everything(block, x)
    with recomputed(block):
        remade = everything(block, x)
    assert same(stored, remade)
    assert bool(remade[-1].any())


class Dropping(nn.Module):
    def forward(self, t: Tensor, state: State) -> State:
        return (F.dropout(state[0], 0.5),)


def test_random_numbers_are_drawn_again_as_they_were() -> None:
    block, x = ODEBlock(PlainLift(), Dropping(), Fixed(num_steps=3)), images()

    def seeded() -> list[Tensor]:
        torch.manual_seed(0)
        return everything(block, x)

    stored, state = seeded(), torch.get_rng_state()
    with recomputed(block):
        assert same(stored, seeded())
    assert torch.equal(torch.get_rng_state(), state)  # the backward pass gives back what it took


class Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept(solve: Callable[[], object]) -> int:
    """Bytes of the tensors that the result's graph keeps for the backward pass, each storage once."""
    alive: weakref.WeakSet[Held] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Held:
        held = Held(tensor)
        alive.add(held)
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        result = solve()
    storages = [held.tensor.untyped_storage() for held in alive]
    assert result is not None
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("solver", [Fixed(method="dopri5", num_steps=8), Fixed(num_steps=8)], ids=["fsal", "not"])
def test_of_a_step_only_its_start_is_kept(solver: Fixed) -> None:
    torch.manual_seed(0)
    block = skew_conv_block(4, 4, 1, solver, gamma=0.0, slope=0.1, norm=True)
    x = torch.rand(4, 4, 16, 16).requires_grad_()
    stored = kept(lambda: block(x))
    with recomputed(block):
        remade = kept(lambda: block(x))
    # Both tensors of state and slope for each of eight steps; those of the first state may be one, the image itself.
    # Besides, times, step sizes and weights.
    assert 8 * 4 - 1 <= remade / x.nbytes < 8 * 4 + 0.5
    assert remade < stored / 5


def test_every_evaluation_is_made_once_more_and_none_without_a_graph() -> None:
    model, x = two_blocks(Fixed(method="dopri5", num_steps=4)), images()
    calls: list[int] = []
    for block in ode_blocks(model).values():
        block.field.register_forward_hook(lambda module, given, out: calls.append(1))
    model(x)
    once = len(calls)
    calls.clear()
    with recomputed(model), torch.no_grad():
        assert not model(x).requires_grad
        assert len(calls) == once
    calls.clear()
    with recomputed(model):
        out = model(x)
        assert len(calls) == once
        out.square().sum().backward()
    assert once < len(calls) <= 2 * once


def test_weights_changed_before_the_backward_pass_are_refused() -> None:
    model, x = two_blocks(paper()), images()
    with recomputed(model):
        out = model(x).sum()
        with torch.no_grad():
            model[2].field.norm3.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()
        everything(model, x)


def test_images_changed_before_the_backward_pass_are_refused() -> None:
    block, x = odenet_block(2, Fixed(num_steps=2)), torch.rand(2, 2, 4, 4)
    start = x * 1
    with recomputed(block):
        out = block(start).sum()
        start.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()


def test_ends_after_exceptions_and_in_nesting() -> None:
    model, x = two_blocks(paper()), images()
    stored = everything(model, x)
    with adjoint_gradients(model):
        adjoint = model(x)
        with recomputed(model):
            assert same(stored, everything(model, x))
        with pytest.raises(KeyError), recomputed(model):
            raise KeyError
        model(x).sum().backward()
        assert all(p.grad is None for p in model.parameters())  # the adjoint's again, which gives weights none
    assert torch.equal(adjoint, stored[0])
    assert not any("solve" in vars(block) for block in ode_blocks(model).values())


def test_the_backward_pass_may_come_after_the_context_and_a_copy_is_its_own() -> None:
    model, x = two_blocks(paper()), images()
    with recomputed(model):
        out, other = model(x), copy.deepcopy(model)
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(0.5)
        assert not torch.equal(other(x), out)
    (remade,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(remade, torch.autograd.grad(model(x).sum(), x)[0])


def test_a_whole_network_under_another_solver() -> None:
    model = build("sonet", channels=4, blocks=(1, 1), strides=(1, 2), in_channels=1, seed=0, solver=paper())
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own: list[Any] = []
    for changes in ({}, {"step_gradient": "frozen"}):
        with swap_solver(model, **changes):
            stored = everything(model, x)
            with recomputed(model):
                assert same(stored, everything(model, x))
        own.append(stored)
    assert not same(*own)


def test_sixty_passes_leave_no_tensor() -> None:
    """Not even for the garbage collector, which is off: a cycle would keep a batch's whole graph alive for a while."""

    def tensors() -> int:
        # By their types: isinstance asks some of torch's objects for attributes, of which they warn.
        types = [type(thing) for thing in gc.get_objects()]
        return sum(issubclass(kind, Tensor) or kind.__module__ == "torch.utils.checkpoint" for kind in types)

    models = [two_blocks(SOLVERS[name]) for name in ("frozen-sample-clip", "paper", "rk4")]
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for model in models * 20:
            with recomputed(model):
                (out,) = torch.autograd.grad(model(images()).sum(), list(model.parameters())[:1])
            del out
        assert tensors() <= before
    finally:
        gc.enable()


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recomputed: expected a model with ODE blocks, got Linear"):
        recomputed(nn.Linear(2, 2)).__enter__()
