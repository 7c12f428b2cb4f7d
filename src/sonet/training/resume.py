"""Going on from a checkpoint of the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sonet.data import differing
from sonet.training.checkpoint import CheckpointError, find_checkpoint, load_checkpoint
from sonet.training.config import TrainConfig
from sonet.training.history import History
from sonet.training.keeping import Keeping
from sonet.training.optimizer import restore_optimizer


def resume(
    run: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    keeping: Keeping,
    config: TrainConfig,
    data: dict[str, Any],
) -> History:
    """Put the newest checkpoint of `run`, if any, into model, optimizer and what is kept; returns the epochs done.

    Errors: CheckpointError for one of another network, training config or data: neither continued nor overwritten.
    """
    if find_checkpoint(run) is None:
        return ()
    checkpoint = load_checkpoint(run)
    description = checkpoint.description
    if description.training != config or description.model != model.config.model_dump(mode="json"):  # type: ignore[union-attr,operator]
        raise CheckpointError(
            f"{checkpoint.path}: belongs to a run with another network or training config, so it is neither continued "
            "nor overwritten. Choose another folder, or remove this one."
        )
    if changed := differing(description.data, data):
        raise CheckpointError(
            f"{checkpoint.path}: belongs to a run on other data ({', '.join(changed)} differ), so it is neither "
            "continued nor overwritten. Choose another folder, or remove this one."
        )
    keeping.restore(model, checkpoint)
    restore_optimizer(model, optimizer, checkpoint.momentum)
    return description.history
