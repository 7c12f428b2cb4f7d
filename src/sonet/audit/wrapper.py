"""A model around another."""

from __future__ import annotations

from torch import nn

from sonet.types import Classifier


class Wrapper(nn.Module):
    """A model around another, itself in eval mode; the other keeps its mode. `model` need not be a module."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model
        self.training = False
