"""The same networks, weights and method solved by torchdiffeq and by torchode."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from sonet.blocks import ODEBlock, ode_blocks
from sonet.models import build
from sonet.solvers import Adaptive, Fixed

TOLERANCE = 0.1
AS_TORCHDIFFEQ = Adaptive(
    method="dopri5", rtol=TOLERANCE, atol=TOLERANCE, scope="batch", step_gradient="first", end="dense", initial="joint"
)
"""What torchdiffeq 0.2.5 does: one step size for the batch, the first step differentiated, the end interpolated."""

AS_FIXED = Fixed(method="dopri5", num_steps=2)

NETWORKS: dict[str, dict[str, Any]] = {
    "sonet": {"channels": 16, "blocks": (1, 1, 1, 1)},
    "soblock-resnet10": {"channels": 16},
}


def ours(name: str, solver: Adaptive | Fixed, seed: int = 0) -> nn.Module:
    """In eval mode, on 3 x 32 x 32 images."""
    return build(name, seed=seed, solver=solver, **NETWORKS[name]).eval()


def by_torchdiffeq(model: nn.Module, tolerance: float = TOLERANCE) -> nn.Module:
    """A copy whose blocks call `odeint`, as its users do: dopri5, the state a tuple."""

    def forward(block: ODEBlock, x: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
        state = odeint(
            lambda t, y: block.field(t.expand(len(x)), y), block.lift(x), times, rtol=tolerance, atol=tolerance
        )
        return state[block.output][-1]

    return _with_forward(model, forward)


def by_torchode(model: nn.Module, steps: int) -> nn.Module:
    """A copy whose blocks are solved by torchode's dopri5 in `steps` equal steps: its controller is another one than
    torchdiffeq's, so that only with fixed steps the same is computed. The state is flattened, as torchode asks."""
    import torchode

    def forward(block: ODEBlock, x: Tensor) -> Tensor:
        state = block.lift(x)
        sizes, shapes = [part[0].numel() for part in state], [part.shape[1:] for part in state]

        def split(flat: Tensor) -> tuple[Tensor, ...]:
            parts = torch.split(flat, sizes, 1)
            return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))

        def field(t: Tensor, flat: Tensor) -> Tensor:
            return torch.cat([part.flatten(1) for part in block.field(t, split(flat))], 1)

        term = torchode.ODETerm(field)
        method = torchode.Dopri5(term=term)
        solver = torchode.AutoDiffAdjoint(method, torchode.FixedStepController())
        start = torch.cat([part.flatten(1) for part in state], 1)
        times = torch.tensor([[0.0, 1.0]], dtype=x.dtype).expand(len(x), 2)
        problem = torchode.InitialValueProblem(y0=start, t_eval=times)
        found = solver.solve(problem, dt0=torch.full((len(x),), 1 / steps, dtype=x.dtype))
        return split(found.ys[:, -1])[block.output]

    return _with_forward(model, forward)


def _with_forward(model: nn.Module, forward: Any) -> nn.Module:
    model = copy.deepcopy(model)
    for block in ode_blocks(model).values():
        block.forward = MethodType(forward, block)  # type: ignore[method-assign]
    return model
