"""Matrices written out, whose norms a decomposition gives, and a climb to the worst of them: for tests of bounds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SKEW = ("blocks", "rotations", "general")
KERNELS = ("normal", "ones", "single tap", "signs", "wild", "one rank")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(matrix: Tensor) -> float:
    """||A||_2 from the singular value decomposition in float64, of the largest where there are several."""
    return float(
        torch.linalg.matrix_norm(matrix.detach().to(torch.promote_types(matrix.dtype, torch.float64)), 2).max()
    )


def conv_matrix(kernel: Tensor, size: tuple[int, int], *, stride: int = 1, padding: int = 1) -> Tensor:
    """Of x -> conv2d(x, kernel), in float64: a column for each pixel of each channel."""
    inputs = kernel.shape[1] * size[0] * size[1]
    basis = torch.eye(inputs, dtype=torch.float64).view(inputs, kernel.shape[1], *size)
    return F.conv2d(basis, kernel.detach().double(), stride=stride, padding=padding).flatten(1).T


def kernel_of(kind: str, seed: int, *shape: int) -> Tensor:
    values = normal(seed, *shape)
    match kind:
        case "ones":
            return torch.ones_like(values)
        case "single tap":
            return torch.where(values.abs() == values.abs().max(), values, 0.0)
        case "signs":
            return values.sign()
        case "wild":
            return values * 10 ** (16 * uniform(seed + 1, *shape) - 8)
        case "one rank":
            return values[:1, :1] * normal(seed + 1, shape[0], 1, 1, 1) * normal(seed + 2, 1, shape[1], 1, 1)
    return values


def skew(kind: str, seed: int, size: int, k: float) -> Tensor:
    """J = -J^T of norm k, (n, n): a kernel and minus its transpose, rotations by the same angle, or any."""
    values = normal(seed, size, size)
    half = size // 2
    matrix = torch.triu(values, 1)
    if kind == "blocks":
        matrix[:half, :half] = 0
        matrix[half:, half:] = 0
    elif kind == "rotations":
        turns = torch.zeros(size, size, dtype=torch.float64)
        turns[range(0, 2 * half, 2), range(1, 2 * half, 2)] = 1.0
        basis = torch.linalg.qr(values)[0]
        matrix = basis @ turns @ basis.T
    matrix = matrix - matrix.T
    return matrix * (k / norm(matrix))


def derivative(matrix: Tensor, gamma: float, slopes: Tensor) -> Tensor:
    """D (J - gamma I); slopes: the diagonal of D."""
    return slopes[..., None] * (matrix - gamma * torch.eye(len(matrix), dtype=torch.float64))


def climb(value: Callable[[Tensor], float], slopes: Tensor, slope: float, rounds: int = 3) -> float:
    """The largest value met while single slopes are flipped between `slope` and 1 as long as that raises it."""
    best = value(slopes)
    slopes = slopes.clone()
    flat = slopes.view(-1)
    for _ in range(rounds):
        before = best
        for i in range(len(flat)):
            old = flat[i].item()
            flat[i] = slope if old == 1 else 1.0
            found = value(slopes)
            if found > best:
                best = found
            else:
                flat[i] = old
        if best == before:
            break
    return best


def extremes(seed: int, slope: float, *shape: int) -> Tensor:
    """Slopes that are `slope` or 1."""
    slopes = torch.ones(shape, dtype=torch.float64)
    slopes[uniform(seed, *shape) < 0.5] = slope
    return slopes
