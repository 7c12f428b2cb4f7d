"""Small nonlinear fields that depend on time and on weights, for tests of gradients and of batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sonet.types import Field, State

Weights = tuple[Tensor, ...]


def rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """`rows @ matrix`, (N, a) by (a, b), summed the same for one row as for many: a matrix product's rounding depends
    on how many rows it is given, on some processors."""
    return (rows[:, :, None] * matrix).sum(1)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def single_weights(seed: int, dtype: torch.dtype = torch.float64) -> Weights:
    return (normal(100 + seed, 3, 3, dtype=dtype), normal(200 + seed, 3, dtype=dtype))


def single(weights: Weights) -> Field:
    """A state of one tensor, (N, 3)."""
    matrix, bias = weights

    def field(t: Tensor, y: State) -> State:
        return (torch.tanh(rows_times(y[0], matrix) + torch.sin(3 * t)[:, None] * bias) - 0.5 * y[0],)

    return field


def pair_weights(seed: int, dtype: torch.dtype = torch.float64) -> Weights:
    return (normal(300 + seed, 3, 4, dtype=dtype), normal(400 + seed, 4, dtype=dtype))


def pair(weights: Weights) -> Field:
    """A state of two tensors, (N, 3) and (N, 2, 2); skew-symmetric up to the nonlinearity, as in a SONet block."""
    matrix, bias = weights

    def field(t: Tensor, state: State) -> State:
        y, z = state
        dy = torch.tanh(rows_times(z.flatten(1), matrix.T))
        dz = torch.tanh(rows_times(-y, matrix) + torch.cos(2 * t)[:, None] * bias)
        return (dy, dz.unflatten(1, (2, 2)))

    return field


def single_start(seed: int, samples: int, dtype: torch.dtype = torch.float64) -> State:
    return (normal(seed, samples, 3, dtype=dtype),)


def pair_start(seed: int, samples: int, dtype: torch.dtype = torch.float64) -> State:
    return (normal(seed, samples, 3, dtype=dtype), normal(seed + 50, samples, 2, 2, dtype=dtype))


KINDS: dict[str, tuple[Callable[[Weights], Field], Callable[..., Weights], Callable[..., State]]] = {
    "single": (single, single_weights, single_start),
    "pair": (pair, pair_weights, pair_start),
}
"""By name: the field of weights, the weights of a seed, and the state of a seed and a number of samples."""


def leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


def read_out(state: State, seed: int = 7) -> Tensor:
    """A scalar that weighs every number of the state differently."""
    return torch.stack(
        [(part * normal(seed + i, *part.shape, dtype=part.dtype)).sum() for i, part in enumerate(state)]
    ).sum()


def counted(field: Field) -> tuple[Field, list[int]]:
    """The field and a list that grows by the batch size at each call."""
    calls: list[int] = []

    def wrapped(t: Tensor, y: State) -> State:
        calls.append(len(t))
        return field(t, y)

    return wrapped, calls
