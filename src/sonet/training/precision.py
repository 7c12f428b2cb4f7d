"""Mixed precision is of training alone: Accelerate puts a `forward` of its own on the network; judges take it off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_ACCELERATE = ("forward", "_original_forward")


def as_built(model: nn.Module) -> nn.Module:
    """The network, its own `forward` on it for good."""
    for name in _ACCELERATE:
        vars(model).pop(name, None)
    return model


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Its own `forward` meanwhile: what is measured so is of the network that will be deployed."""
    put_on = {name: vars(model)[name] for name in _ACCELERATE if name in vars(model)}
    as_built(model)
    try:
        yield
    finally:
        vars(model).update(put_on)
