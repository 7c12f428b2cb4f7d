"""Trained networks as folders in the Hugging Face hub's layout: written with a model card, and read again.

    publish("runs/mine", "published/mine", ["runs/mine-audited"])
    model = load_published("published/mine")                          # or "hf://ORG/NAME"

The card states what the checkpoint and the records given say; docs/publishing.md has the layout and the rules.
"""

from sonet.publishing.errors import PublicationError
from sonet.publishing.publication import Publication, load_published
from sonet.publishing.trained import TrainedNetwork, is_trained, load_trained, read_trained, restore_trained
from sonet.publishing.write import Published, publish

__all__ = [
    "Publication",
    "PublicationError",
    "Published",
    "TrainedNetwork",
    "is_trained",
    "load_published",
    "load_trained",
    "publish",
    "read_trained",
    "restore_trained",
]
