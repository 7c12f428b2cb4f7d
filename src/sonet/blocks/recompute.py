"""`recomputed`: for a while, a model's ODE blocks make the graph inside their steps again instead of keeping it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from sonet.blocks.meanwhile import solving_by
from sonet.blocks.ode import ODEBlock
from sonet.solvers import Solution


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Each ODE block of `model` solves by `integrate(..., recompute=True)` until the context ends.

    Outputs, statistics and gradients, second ones included, are the same bit for bit where the fields are
    deterministic. What is kept until the backward pass is the state and the slope at which each trial step began; a
    trial step's graph is there only while it is passed. The price is about one more forward pass of the blocks for
    each backward pass.

    A backward pass after the end of the context works if the forward pass was inside. Fields are then evaluated again,
    their hooks included, and a buffer that an evaluation moves is moved twice (BatchNorm's; our fields have none). A
    copy of the model made inside keeps solving so. Of this and `adjoint_gradients` the inner context counts.

    Errors: ValueError for a model without an `ODEBlock`. autograd's RuntimeError in a backward pass if weights of a
    field were changed in place since the forward pass.
    """
    instead = "There is no solve to make again; for other layers use torch.utils.checkpoint."
    with solving_by(model, _solve, "recomputed", instead):
        yield


def _solve(block: ODEBlock, x: Tensor) -> Solution:
    return ODEBlock.solve(block, x, recompute=True)
