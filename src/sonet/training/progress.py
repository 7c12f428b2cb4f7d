"""What `fit` tells while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchReport:
    """After each step: the epoch from 0, the batch from 0, its loss, accuracy and field evaluations per sample.

    Of several processes the main one tells, of its part.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    accuracy: float
    evaluations: float

    @property
    def done(self) -> float:
        """The part of the whole training done, in (0, 1]."""
        return (self.epoch + (self.batch + 1) / self.batches) / self.epochs

    def __str__(self) -> str:
        """For people who wait; NFE, the evaluations, only where there is something to solve."""
        solved = f", NFE {self.evaluations:.0f}" if self.evaluations else ""
        return f"epoch {self.epoch + 1}/{self.epochs}, loss {self.loss:.3f}, accuracy {self.accuracy:.2f}{solved}"


Progress = Callable[[BatchReport], None]
