"""Training, and the checkpoints it leaves."""

from sonet.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    EpochReport,
    find_checkpoint,
    load_checkpoint,
    load_model,
    restore,
    save_checkpoint,
)
from sonet.training.config import TrainConfig, paper_training
from sonet.training.errors import TrainingError
from sonet.training.fit import BatchReport, Progress, fit
from sonet.training.objectives import OBJECTIVES

__all__ = [
    "OBJECTIVES",
    "BatchReport",
    "Checkpoint",
    "CheckpointError",
    "EpochReport",
    "Progress",
    "TrainConfig",
    "TrainingError",
    "find_checkpoint",
    "fit",
    "load_checkpoint",
    "load_model",
    "paper_training",
    "restore",
    "save_checkpoint",
]
