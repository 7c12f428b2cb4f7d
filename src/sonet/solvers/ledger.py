"""Where samples land: the final states and statistics of those who finished or failed, put back in order at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sonet.solvers.solution import Solution, SolveError, Status
from sonet.types import State

OnFailure = Literal["nan", "raise"]


@dataclass
class Underway:
    """The samples still being integrated: all tensors have their number as first dimension.

    samples: places in the whole batch. s: time passed since the start, in [0, span]. h: size of the next trial step.
    slope: f at (s, y), the first stage of the next step.
    """

    samples: Tensor
    s: Tensor
    h: Tensor
    y: State
    slope: State
    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor

    def keep(self, which: Tensor) -> Underway:
        """The samples where `which`, (N,) bool, holds."""
        index = which.nonzero().squeeze(1)

        def pick(values: Tensor) -> Tensor:
            return values.index_select(0, index)

        return Underway(
            pick(self.samples),
            pick(self.s),
            pick(self.h),
            tuple(pick(part) for part in self.y),
            tuple(pick(part) for part in self.slope),
            pick(self.evaluations),
            pick(self.accepted),
            pick(self.rejected),
        )


class Ledger:
    """Collects samples as they land, in any order, and gives the `Solution` in the batch's order."""

    def __init__(self, batch: int, direction: float, start: float, on_failure: OnFailure, name: str) -> None:
        self._batch = batch
        self._direction = direction
        self._start = start
        self._on_failure = on_failure
        self._name = name
        self._landed: list[tuple[Underway, State, Status]] = []
        self._steps: list[Tensor] = []

    def step(self, samples: Tensor, h: Tensor, accepted: Tensor) -> None:
        """Note the accepted step sizes of one trial."""
        row = torch.full((self._batch,), torch.nan, dtype=torch.float64, device=h.device)
        row[samples] = torch.where(accepted, h.detach().to(torch.float64) * self._direction, torch.nan)
        self._steps.append(row)

    def land(self, those: Underway, state: State) -> None:
        self._landed.append((those, state, Status.OK))

    def fail(self, those: Underway, status: Status) -> None:
        """Give up on samples: NaN as their state, or an error if the caller asked for one."""
        if self._on_failure == "raise":
            samples = those.samples.tolist()
            shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
            t = self._start + self._direction * those.s[0].item()
            raise SolveError(
                f"{self._name}: {status.sentence} Samples {shown} of {self._batch}, "
                f"at t = {t:.6g} with step size {those.h[0].item():.3g}. {status.remedy}"
            )
        lost = tuple(torch.full_like(part, torch.nan) for part in those.y)
        self._landed.append((those, lost, status))

    def solution(self) -> Solution:
        samples = torch.cat([those.samples for those, _, _ in self._landed])
        order = torch.argsort(samples)

        def gather(parts: list[Tensor]) -> Tensor:
            return parts[0] if len(parts) == 1 else torch.cat(parts).index_select(0, order)

        width = len(self._landed[0][1])
        steps = (
            torch.stack(self._steps)
            if self._steps
            else torch.empty(0, self._batch, dtype=torch.float64, device=samples.device)
        )
        return Solution(
            state=tuple(gather([state[i] for _, state, _ in self._landed]) for i in range(width)),
            status=gather([torch.full_like(those.samples, int(status)) for those, _, status in self._landed]),
            evaluations=gather([those.evaluations for those, _, _ in self._landed]),
            accepted=gather([those.accepted for those, _, _ in self._landed]),
            rejected=gather([those.rejected for those, _, _ in self._landed]),
            step_sizes=steps,
        )
