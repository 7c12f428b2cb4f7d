"""Training in several processes: do all begin with the same, and what is said when one of them has ended."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from sonet.data import IDENTITY, Split
from sonet.errors import in_short
from sonet.training.config import TrainConfig
from sonet.training.errors import TrainingError, TrainingRefused
from sonet.training.history import History

_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset|refused)", re.IGNORECASE)
"""Words of errors that say that another process cannot be reached."""


@contextmanager
def together(world: int) -> Iterator[None]:
    """TrainingError where one of `world` processes finds that another has ended; other errors as they are."""
    try:
        yield
    except RuntimeError as error:
        if world == 1 or isinstance(error, TrainingError) or not _is_lost(error):
            raise
        rank = dist.get_rank() if dist.is_initialized() else 0
        raise TrainingError(
            f"process {rank} of {world} lost the others ({in_short(error)}): a process or a machine of this job has "
            "ended. The last checkpoint is kept; the same command, in as many processes or in one, goes on from there."
        ) from None


def demand_same_start(
    accelerator: Accelerator,
    config: TrainConfig,
    model: nn.Module,
    train: Split,
    data: dict[str, Any],
    history: History,
) -> None:
    """TrainingRefused, in all processes, where they would train other networks, on other images, or from other epochs:
    machines that see different folders would go on side by side, and the main one would write the result.
    """
    world = accelerator.num_processes
    if world == 1:
        return
    network = getattr(model, "config", None)
    parts = {
        "the settings": [config.model_dump(mode="json"), network and network.model_dump(mode="json")],
        "the images": [{key: data.get(key) for key in IDENTITY}, train.sha256],
        "the epochs done": [epoch.model_dump(mode="json") for epoch in history],
    }
    mine = torch.tensor([_number(part) for part in parts.values()], device=accelerator.device)
    told = accelerator.gather(mine).view(world, len(parts)).cpu()
    apart = [name for name, column in zip(parts, told.T, strict=True) if bool((column != column[0]).any())]
    if apart:
        raise TrainingRefused(
            f"the {world} processes do not agree on {' and '.join(apart)}, so nothing was trained. All must see the "
            "same folder of the run and the same data: give paths on a file system that the machines share."
        )


def _number(part: Any) -> int:
    """63 bits of the SHA-256 of its JSON."""
    text = json.dumps(part, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistNetworkError | dist.DistBackendError) or bool(_CONNECTION.search(str(error)))
