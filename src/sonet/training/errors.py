"""What stops training, and what it warns of."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; says where, why and what to do. The last checkpoint is kept."""


class TrainingWarning(UserWarning):
    """Training goes on, and something should be looked at."""
