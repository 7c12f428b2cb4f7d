"""One field and its weights twice: in a block of ours, and by torchdiffeq as others would write it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sonet.blocks import ODEBlock
from sonet.solvers import Adaptive, Fixed
from sonet.types import State


class Weights(nn.Module):
    """Images -> state (N, 3) -> logits (N, 3), and the field 3 tanh(W y)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up, self.turn, self.down = (
            nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((4, 3), (3, 3), (3, 3))
        )
        self.double()

    def field(self, y: Tensor) -> Tensor:
        return 3 * torch.tanh(y @ self.turn)


class OwnField(nn.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, t: Tensor, state: State) -> State:
        return (self.weights.field(state[0]),)


class Lift(nn.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, images: Tensor) -> State:
        return (images.flatten(1) @ self.weights.up,)


class Own(nn.Module):
    def __init__(self, solver: Fixed | Adaptive) -> None:
        super().__init__()
        self.weights = Weights()
        self.block = ODEBlock(Lift(self.weights), OwnField(self.weights), solver)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.block(images) @ self.weights.down


class Between(nn.Module):
    """Logits of one network as images of the next, (N, 3) -> (N, 1, 2, 2)."""

    def forward(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.pad(logits / 10, (0, 1)).view(-1, 1, 2, 2)


class ForeignField(nn.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.weights.field(y)


class Foreign(nn.Module):
    """The same, by torchdiffeq."""

    def __init__(self, adjoint: bool = False, **how: Any) -> None:
        super().__init__()
        self.weights = Weights()
        self.field, self.how = ForeignField(self.weights), how
        import torchdiffeq  # for those who have it

        self.solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0], dtype=images.dtype)
        return self.solve(self.field, images.flatten(1) @ self.weights.up, times, **self.how)[-1] @ self.weights.down
