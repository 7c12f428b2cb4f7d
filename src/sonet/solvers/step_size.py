"""Step sizes: the first guess, the error ratio, and the next size; pooled over a sample, a group or the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sonet.solvers.control import Adaptive
from sonet.solvers.mixture import mixture
from sonet.solvers.scaled import in_tolerances
from sonet.solvers.step import Tolerance, Trial
from sonet.types import Field, State

Pool = Callable[[Tensor], Tensor]
"""Averages (N,) mean squares over those who share a step; gives (N,) with equal values within a share."""


def make_pool(scope: str | int, samples: Tensor) -> Pool:
    """The pooling of `scope` for the samples still under way; `samples`: (N,) their places in the whole batch."""
    if scope == "sample":
        return lambda mean_squares: mean_squares
    if scope == "batch":
        return lambda mean_squares: mean_squares.mean().expand_as(mean_squares)
    group = torch.div(samples, int(scope), rounding_mode="floor")
    members, group = torch.unique(group, return_inverse=True)
    counts = torch.bincount(group, minlength=len(members)).to(torch.float64)

    def pool(mean_squares: Tensor) -> Tensor:
        sums = torch.zeros(len(members), dtype=mean_squares.dtype, device=mean_squares.device)
        return (sums.index_add(0, group, mean_squares) / counts.to(mean_squares.dtype)).index_select(0, group)

    return pool


def _root(squares: Tensor) -> Tensor:
    """sqrt with gradient 0, not NaN, at 0; of NaN it is NaN, by which a trial that overflowed is known."""
    zero = squares == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())


def _largest(values: list[Tensor]) -> Tensor:
    return torch.stack(values).amax(0) if len(values) > 1 else values[0]


def initial_step(field: Field, t: Tensor, y: State, slope: State, control: Adaptive, pool: Pool) -> Tensor:
    r"""First step size, (N,) float64 (Hairer, Norsett, Wanner 1993, II.4). Costs one evaluation of the field.

        h_0 = 0.01 |y| / |f|,   h_1 = (0.01 / max(|f|, |f(t + h_0, y + h_0 f) - f| / h_0))^(1 / order),
        h   = min(100 h_0, h_1)

    in norms scaled by atol + rtol |y|. `control.initial` says how the norms of several tensors meet in h_0.
    """
    tolerance = Tolerance(control.rtol, control.atol)

    def rms(rows: Sequence[Sequence[float]], *terms: State) -> list[list[Tensor]]:
        """The RMS over each share of each row's sum of terms, in units of the tolerance; by tensors of the state."""
        parts = [in_tolerances(some, tolerance, rows) for some in zip(*terms, strict=True)]
        return [[_root(pool(squares[r])) for squares in parts] for r in range(len(rows))]

    d0, d1 = rms(((1.0, 0.0), (0.0, 1.0)), y, slope)
    state_norm, slope_norm = _largest(d0), _largest(d1)
    tiny = (state_norm < 1e-5) | (slope_norm < 1e-5)
    if control.initial == "joint":
        guess = state_norm / torch.where(tiny, 1.0, slope_norm)
    else:
        # A tensor that stands still (slope 0) says nothing about the step.
        guess = _largest([torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0) for a, b in zip(d0, d1, strict=True)])
    h0 = torch.where(tiny, 1e-6, 0.01 * guess)
    ahead = tuple(mixture(part, h0[:, None], (s,)) for part, s in zip(y, slope, strict=True))
    (change,) = rms(((0.0, 1.0, -1.0),), y, field(t + h0, ahead), slope)
    bend = _largest(change) / h0
    steepest = torch.maximum(slope_norm, bend)
    flat = steepest <= 1e-15
    h1 = (0.01 / torch.where(flat, 1.0, steepest)) ** (1 / control.tableau.order)
    return torch.minimum(100 * h0, torch.where(flat, torch.clamp(h0 * 1e-3, min=1e-6), h1))


def error_ratio(trial: Trial, pool: Pool) -> Tensor:
    """Estimated error over tolerance, (N,) float64; a step is accepted when it is at most 1."""
    return _largest([_root(pool(squares)) for squares in trial.squares])


def next_step(h: Tensor, ratio: Tensor, control: Adaptive) -> Tensor:
    """h * clamp(safety ratio^(-1/order), shrink, grow); an accepted step does not shrink the next one. All (N,)."""
    exact = ratio == 0
    factor = control.safety * torch.where(exact, 1.0, ratio) ** (-1 / control.tableau.order)
    factor = torch.where(ratio < 1, factor.clamp(1.0, control.grow), factor.clamp(control.shrink, control.grow))
    return h * torch.where(exact, control.grow, factor)
