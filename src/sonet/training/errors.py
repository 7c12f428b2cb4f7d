"""What stops training, and what it warns of."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; says where, why and what to do. The last checkpoint is kept."""


class TrainingRefused(TrainingError):
    """A setting does not fit the network, the data or the machine; nothing was begun."""


class TrainingWarning(UserWarning):
    """Training goes on, and something should be looked at."""
