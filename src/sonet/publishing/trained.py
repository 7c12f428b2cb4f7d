"""A trained network wherever it is: a run of `sonet train`, or a publication."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sonet.publishing.place import find_publication
from sonet.publishing.publication import Publication, read_publication, restore_published
from sonet.training import Checkpoint, find_checkpoint, load_checkpoint, restore

TrainedNetwork = Checkpoint | Publication
"""Of both, `description` has model, training, data and files."""


def is_trained(path: Path | str) -> bool:
    """Whether there is something that `read_trained` would read; it may turn out to be damaged."""
    return find_checkpoint(Path(path)) is not None or find_publication(path) is not None


def read_trained(path: Path | str) -> TrainedNetwork:
    """A run or checkpoint folder, or what `find_publication` finds.

    Errors: CheckpointError where there is neither, or the run is not sound; PublicationError for a publication.
    """
    if find_checkpoint(Path(path)) is None:
        folder = find_publication(path)
        if folder is not None:
            return read_publication(folder)
    return load_checkpoint(Path(path))


def restore_trained(trained: TrainedNetwork) -> nn.Module:
    """The network, in eval mode, its weights frozen."""
    return restore(trained) if isinstance(trained, Checkpoint) else restore_published(trained)


def load_trained(path: Path | str) -> nn.Module:
    """`read_trained`, then `restore_trained`."""
    return restore_trained(read_trained(path))
