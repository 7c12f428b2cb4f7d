"""Training, and the checkpoints it leaves."""

from sonet.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    load_model,
    restore,
    save_checkpoint,
)
from sonet.training.config import TrainConfig, paper_training
from sonet.training.errors import TrainingError, TrainingRefused, TrainingWarning
from sonet.training.fit import fit
from sonet.training.history import EpochReport, deployed
from sonet.training.objectives import OBJECTIVES
from sonet.training.progress import BatchReport, Progress

__all__ = [
    "OBJECTIVES",
    "BatchReport",
    "Checkpoint",
    "CheckpointError",
    "EpochReport",
    "Progress",
    "TrainConfig",
    "TrainingError",
    "TrainingRefused",
    "TrainingWarning",
    "deployed",
    "find_checkpoint",
    "fit",
    "load_checkpoint",
    "load_model",
    "paper_training",
    "restore",
    "save_checkpoint",
]
