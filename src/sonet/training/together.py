"""Training in several processes: an error of the connection is one sentence, not torch's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from sonet.errors import in_short
from sonet.training.errors import TrainingError

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


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistNetworkError | dist.DistBackendError) or bool(_CONNECTION.search(str(error)))
