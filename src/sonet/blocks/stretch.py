"""How far a map was seen to stretch, from below: power iteration on Jacobians, and ascent over pairs of inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sonet.blocks.ode import ODEBlock
from sonet.types import State

Map = Callable[[Tensor], Tensor]


def stretch_at(function: Map, x: Tensor, *, rounds: int = 30, generator: torch.Generator | None = None) -> float:
    """The largest singular value of the Jacobian of `function` at the samples of x, (N, ...), at least.

    Power iteration on J^T J by products with J^T (a backward pass) and J (the derivative of that product).
    """
    v = _unit(torch.randn(x.shape, generator=generator, dtype=x.dtype))
    found = torch.zeros(len(x), dtype=x.dtype)
    for _ in range(rounds):
        forward = _jvp(function, x, v)
        found = torch.maximum(found, _lengths(forward))
        v = _unit(_vjp(function, x, forward))
    return float(found.max())


def pair_stretch(
    function: Map, x: Tensor, *, rounds: int = 30, generator: torch.Generator | None = None, distance: float = 0.5
) -> float:
    """The largest |f(a) - f(b)| / |a - b| that gradient ascent over both ends found, from a near x and b beside it."""
    a = x.detach().clone()
    b = a + distance * _unit(torch.randn(x.shape, generator=generator, dtype=x.dtype))
    best = 0.0
    with torch.enable_grad():
        for _ in range(rounds):
            a.requires_grad_(True)
            b.requires_grad_(True)
            ratio = _lengths(function(a) - function(b)) / _lengths(a - b)
            best = max(best, float(ratio.detach().max()))
            to_a, to_b = torch.autograd.grad(ratio.sum(), (a, b))
            a, b = (a + 0.1 * distance * _unit(to_a)).detach(), (b + 0.1 * distance * _unit(to_b)).detach()
            # Far enough apart that rounding does not make the ratio.
            b = a + _unit(b - a) * _spread(_lengths(b - a).clamp(0.1 * distance, 10 * distance), b)
    return best


def logarithmic_at(
    block: ODEBlock, x: Tensor, *, rounds: int = 30, points: int = 5, generator: torch.Generator | None = None
) -> float:
    """The largest logarithmic 2-norm of the field's Jacobian met at states along the trajectories from x, at least.

    lambda_max((J + J^T) / 2) by power iteration on (J + J^T) / 2 + s I, s the largest stretch of J.
    """
    with torch.no_grad():
        start = block.lift(x)
        end = block.solve(x).state
    shapes = [part.shape[1:] for part in start]
    sizes = [shape.numel() for shape in shapes]
    time = torch.zeros(len(x), dtype=x.dtype)

    def field(flat: Tensor) -> Tensor:
        parts = tuple(p.reshape(-1, *s) for p, s in zip(torch.split(flat, sizes, 1), shapes, strict=True))
        return _flat(block.field(time, parts))

    found = -float("inf")
    for number in range(points):
        # A straight line from start to end stays near the trajectory; the bound holds at every state.
        share = number / max(points - 1, 1)
        y = torch.lerp(_flat(start), _flat(end), share)
        shift = stretch_at(field, y, rounds=5, generator=generator) * 1.5
        v = _unit(torch.randn(y.shape, generator=generator, dtype=y.dtype))
        for _ in range(rounds):
            turned = (_jvp(field, y, v) + _vjp(field, y, v)) / 2
            found = max(found, float((v * turned).flatten(1).sum(1).max()))
            v = _unit(turned + shift * v)
    return found


def _flat(state: State) -> Tensor:
    return torch.cat([part.flatten(1) for part in state], 1)


def _vjp(function: Map, x: Tensor, v: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (back,) = torch.autograd.grad(function(x), x, v)
    return back.detach()


def _jvp(function: Map, x: Tensor, v: Tensor) -> Tensor:
    """By differentiating the product with J^T, which is linear in its vector: works through every solver of ours."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        out = function(x)
        dual = torch.zeros_like(out, requires_grad=True)
        (back,) = torch.autograd.grad(out, x, dual, create_graph=True)
        turned: tuple[Tensor, ...] = torch.autograd.grad(back, dual, v)
    return turned[0].detach()


def _lengths(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return length


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))


def _unit(x: Tensor) -> Tensor:
    return x / _spread(_lengths(x).clamp_min(1e-12), x)
