"""What stops training."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; says where, why and what to do. The last checkpoint is kept."""
