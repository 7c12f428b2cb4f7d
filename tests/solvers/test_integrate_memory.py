"""What a solve leaves behind: nothing it was not asked to keep."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from small_fields import KINDS, leaves, read_out
from torch import Tensor

from sonet.solvers import Adaptive, Fixed, Solution, integrate, paper

SOLVERS = [
    Fixed(num_steps=3),
    Adaptive(rtol=0.1, atol=0.1),
    Adaptive(rtol=0.3, atol=0.3, scope=2, end="dense", method="adaptive_heun"),
    paper(),
]


def solution_of(solver: Fixed | Adaptive, grad: bool) -> Solution:
    make, weights, start = KINDS["pair"]
    w, y = (leaves(weights(0)), leaves(start(0, 6))) if grad else (weights(0), start(0, 6))
    return integrate(make(w), y, solver)


def tensors_of(solution: Solution) -> list[Tensor]:
    statistics = (solution.status, solution.evaluations, solution.accepted, solution.rejected, solution.step_sizes)
    return [*solution.state, *statistics]


@pytest.mark.parametrize("solver", SOLVERS, ids=["fixed", "default", "groups", "paper"])
def test_no_graph_without_need(solver: Fixed | Adaptive) -> None:
    assert not any(part.requires_grad for part in tensors_of(solution_of(solver, grad=False)))
    with torch.no_grad():
        assert not any(part.requires_grad for part in tensors_of(solution_of(solver, grad=True)))
    with torch.inference_mode():
        assert not any(part.requires_grad for part in tensors_of(solution_of(solver, grad=True)))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("solver", SOLVERS, ids=["fixed", "default", "groups", "paper"])
def test_statistics_carry_no_graph(solver: Fixed | Adaptive) -> None:
    solution = solution_of(solver, grad=True)
    assert all(part.requires_grad for part in solution.state)
    assert not any(part.requires_grad for part in tensors_of(solution)[2:])


def saved_bytes(solve: Callable[[], Solution]) -> int:
    """Of all tensors that autograd keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        solve()
    return sum(kept.values())


def test_frozen_keeps_no_graph_of_the_controller() -> None:
    """Under the same steps, less is kept for the backward pass; a Fixed solve with as many keeps no less."""
    make, weights, start = KINDS["single"]
    slowly = {"first_step": 0.02, "grow": 1.5, "safety": 0.5}  # so that no step is rejected

    def adaptive(step_gradient: str) -> Solution:
        w, y = leaves(weights(0)), leaves(start(0, 500))
        setting = {"scope": "batch", "rtol": 1e-6, "atol": 1e-6, "step_gradient": step_gradient} | slowly
        solution = integrate(make(w), y, Adaptive.model_validate(setting))
        assert int(solution.rejected[0]) == 0
        steps.append(int(solution.accepted[0]))
        return solution

    steps: list[int] = []
    frozen, differentiated = saved_bytes(lambda: adaptive("frozen")), saved_bytes(lambda: adaptive("differentiated"))
    assert steps[0] == steps[1] > 3

    def fixed() -> Solution:
        w, y = leaves(weights(0)), leaves(start(0, 500))
        return integrate(make(w), y, Fixed(method="dopri5", num_steps=steps[0]))

    assert frozen < 0.6 * differentiated
    assert frozen < 1.05 * saved_bytes(fixed)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_two_hundred_solves_leave_nothing(backward: bool) -> None:
    """Not even for the garbage collector, which is off: a cycle would keep a batch's whole graph alive for a while."""

    def once(solver: Fixed | Adaptive) -> None:
        solution = solution_of(solver, grad=backward)
        if backward:
            read_out(solution.state).backward()

    for solver in SOLVERS * 2:
        once(solver)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for solver in SOLVERS * 50:
            once(solver)
        assert len(gc.get_objects()) - before < 50
        assert gc.collect() < 50
    finally:
        gc.enable()
