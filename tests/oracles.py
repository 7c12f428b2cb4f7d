"""Differential equations whose solutions are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sonet.types import Field, State


@dataclass(frozen=True)
class Oracle:
    """dy/dt = field(t, y), y(t0) = start (float64, several samples), solved by `solution(t)`."""

    name: str
    field: Field
    start: State
    solution: Callable[[float], State]
    t0: float = 0.0
    t1: float = 1.0

    @property
    def end(self) -> State:
        return self.solution(self.t1)

    def error(self, state: State) -> float:
        """The largest deviation of any number of `state` from the solution at t1."""
        return max((got - true).abs().max().item() for got, true in zip(state, self.end, strict=True))


def _spiral() -> Oracle:
    """y' = A y with the eigenvalues -1/2 +- 6i: y(t) = exp(-t/2) R(6t) y(0)."""
    start = torch.tensor([[1.0, 0.0], [-0.4, 0.9]], dtype=torch.float64)
    matrix = torch.tensor([[-0.5, -6.0], [6.0, -0.5]], dtype=torch.float64)

    def solution(t: float) -> State:
        cos, sin = math.cos(6 * t), math.sin(6 * t)
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        return (math.exp(-0.5 * t) * start @ turn.T,)

    return Oracle("spiral", lambda t, y: (y[0] @ matrix.T.to(y[0].dtype),), (start,), solution)


def _swell() -> Oracle:
    """y' = t y, which depends on time: y(t) = y(t0) exp((t^2 - t0^2) / 2). Starts at t0 = 0.3."""
    start, t0 = torch.tensor([[1.0], [-2.0], [0.3]], dtype=torch.float64), 0.3
    return Oracle(
        "swell",
        lambda t, y: (t[:, None] * y[0],),
        (start,),
        lambda t: (start * math.exp((t * t - t0 * t0) / 2),),
        t0,
        2.1,
    )


def _logistic() -> Oracle:
    """y' = 5 y (1 - y), not linear: y(t) = 1 / (1 + (1/y(0) - 1) exp(-5t))."""
    start = torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    return Oracle(
        "logistic",
        lambda t, y: (5 * y[0] * (1 - y[0]),),
        (start,),
        lambda t: (1 / (1 + (1 / start - 1) * math.exp(-5 * t)),),
    )


def _rotor() -> Oracle:
    """Two tensors of different shapes: y' = w z, z' = -w y, w = 4, 5, 6; |y|^2 + |z|^2 stays.

    y has shape (N, 1, 1), z (N, 1); y(t) = y(0) cos wt + z(0) sin wt. The third tensor is w itself, which stands still,
    so that a sample takes its speed along when its batch is cut up.
    """
    y0 = torch.tensor([0.6, -1.0, 0.2], dtype=torch.float64)
    z0 = torch.tensor([0.8, 0.5, -1.1], dtype=torch.float64)
    w = torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64)

    def field(t: Tensor, state: State) -> State:
        y, z, speed = state
        return (speed[:, :, None] * z[:, :, None], -speed * y[:, :, 0], torch.zeros_like(speed))

    def solution(t: float) -> State:
        cos, sin = torch.cos(w * t), torch.sin(w * t)
        return ((y0 * cos + z0 * sin)[:, None, None], (z0 * cos - y0 * sin)[:, None], w[:, None])

    return Oracle("rotor", field, (y0[:, None, None], z0[:, None], w[:, None]), solution)


SPIRAL, SWELL, LOGISTIC, ROTOR = _spiral(), _swell(), _logistic(), _rotor()

ORACLES: tuple[Oracle, ...] = (SPIRAL, SWELL, LOGISTIC, ROTOR)


def blow_up(t: Tensor, y: State) -> State:
    """y' = y^2: y(t) = 1 / (1/y(0) - t) has a pole at t = 1/y(0)."""
    return (y[0] * y[0],)
