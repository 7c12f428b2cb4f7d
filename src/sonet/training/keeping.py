"""What is kept besides the weights that are trained on: those to deploy, and the best so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sonet.training.average import Average
from sonet.training.checkpoint import Checkpoint, CheckpointError
from sonet.training.config import TrainConfig

Weights = dict[str, Tensor]
LEARNED, BEST, AVERAGED_STEPS = "learned:", "best:", "average:steps"


class Keeping:
    """The averaged weights, where the config averages, and the best ones, where the objective may stop early."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device) -> None:
        self.average = None if config.average is None else Average(model, config.average, device)
        self.best: Weights | None = None

    def deployed(self, learned: nn.Module) -> nn.Module:
        """The network to test, watch and write: with averaged weights, or the one that is trained itself."""
        return learned if self.average is None else self.average.model

    def state(self, learned: nn.Module) -> Weights:
        """What a checkpoint needs beside the deployed weights so that training can go on, by name."""
        found: Weights = {}
        if self.average is not None:
            found = {LEARNED + name: tensor for name, tensor in learned.state_dict().items()}
            found[AVERAGED_STEPS] = self.average.steps
        if self.best is not None:
            found |= {BEST + name: tensor for name, tensor in self.best.items()}
        return found

    def restore(self, model: nn.Module, checkpoint: Checkpoint) -> None:
        """Put `model` and what is kept where they were when the checkpoint was written.

        Errors: CheckpointError where it was written by an averaging run and holds no weights to go on with.
        """
        learned, self.best = (_named(prefix, checkpoint.state) for prefix in (LEARNED, BEST))
        if self.average is not None:
            if learned is None or AVERAGED_STEPS not in checkpoint.state:
                raise CheckpointError(
                    f"{checkpoint.path}: averages its weights, and the ones that were trained on are missing, so it "
                    "cannot go on. One of the files was changed; use an earlier copy or train again."
                )
            self.average.restore(checkpoint.weights, checkpoint.state[AVERAGED_STEPS])
        model.load_state_dict(checkpoint.weights if learned is None else learned)


def copied(model: nn.Module) -> Weights:
    """The weights and buffers as they are now."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _named(prefix: str, tensors: Weights) -> Weights | None:
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return found or None
