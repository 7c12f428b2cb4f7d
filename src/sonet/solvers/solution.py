"""What a solve returns: the final state, and for each sample how it went."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from sonet.types import State


class Status(IntEnum):
    """How a sample's solve ended; `sentence` says it in words."""

    OK = 0
    TOO_MANY_STEPS = 1
    STEP_UNDERFLOW = 2
    NOT_FINITE = 3

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]

    @property
    def remedy(self) -> str:
        return _REMEDIES[self]


_SENTENCES = {
    Status.OK: "The solver reached the end.",
    Status.TOO_MANY_STEPS: "The solver spent its budget of steps before the end.",
    Status.STEP_UNDERFLOW: "The step size shrank below what the number format resolves.",
    Status.NOT_FINITE: "The state or its slope became infinite or not a number.",
}
_REMEDIES = {
    Status.OK: "Nothing to do.",
    Status.TOO_MANY_STEPS: "Raise max_steps, loosen rtol and atol, or damp the field.",
    Status.STEP_UNDERFLOW: "The field may be stiff or discontinuous: loosen rtol and atol, or use Fixed steps.",
    Status.NOT_FINITE: "Check the input and the weights for NaN and huge values; lower the learning rate if training.",
}


@dataclass(frozen=True)
class Solution:
    """The result of `integrate`, for a batch of N samples.

    Attributes:
        state: the state at the end; NaN in the samples that failed.
        status: (N,) int64, values of `Status`.
        evaluations: (N,) int64, evaluations of the field that this sample needed (the field runs on batches, so a
            sample's own need is counted, not what its batch-mates went on to need).
        accepted, rejected: (N,) int64, trial steps.
        step_sizes: (T, N) float64, row by row the accepted step of each sample, NaN where it took none. In time
            units, signed as the direction of integration. With end="clip" the last is the clipped one.
    """

    state: State
    status: Tensor
    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    step_sizes: Tensor

    @property
    def ok(self) -> bool:
        return bool((self.status == Status.OK).all())

    def summary(self) -> str:
        """One sentence for each outcome that occurred, with the number of samples."""
        counts = torch.bincount(self.status, minlength=len(Status)).tolist()
        return " ".join(f"{n} samples: {Status(code).sentence}" for code, n in enumerate(counts) if n)


class SolveError(RuntimeError):
    """A solve failed and the caller asked for an error; the message names block, time, step, samples and remedy."""
