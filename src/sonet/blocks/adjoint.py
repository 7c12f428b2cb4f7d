"""`adjoint_gradients`: for a while, a model's ODE blocks give the gradient of the adjoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from sonet.blocks.meanwhile import solving_by
from sonet.blocks.ode import ODEBlock
from sonet.solvers import Solution, integrate_adjoint


@contextmanager
def adjoint_gradients(model: nn.Module, *, weights: bool = False) -> Iterator[None]:
    """Each ODE block of `model` solves by `integrate_adjoint` until the context ends; the outputs stay what they are.

    Args:
        model: holds at least one `ODEBlock`, else a ValueError.
        weights: also give the gradients of the fields' weights. Without, those get none from a backward pass: an
            attack wants the gradient of its input alone, and with per-sample steps the weights cost one solve a sample.

    A backward pass after the end of the context is still the adjoint's, if the forward pass was inside. A copy of the
    model made inside keeps solving so.
    """
    instead = "There is no solve whose gradient could change; for torchdiffeq's solves use steer_odeint(adjoint=True)."
    with solving_by(model, _solving(weights), "adjoint_gradients", instead):
        yield


def _solving(weights: bool) -> Callable[[ODEBlock, Tensor], Solution]:
    def solve(block: ODEBlock, x: Tensor) -> Solution:
        parameters = tuple(p for p in block.field.parameters() if p.requires_grad) if weights else ()
        return integrate_adjoint(block.field, block.lift(x), block.solver, parameters, name=block.name)

    return solve
