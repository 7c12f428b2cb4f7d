"""The layers of a network in the order in which an image passes them: what is bounded one by one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

Path = list[tuple[str, nn.Module]]
"""(module path, module): the network is their composition, the first at the image, the last giving the logits."""


@runtime_checkable
class Chain(Protocol):
    """A network that is the composition of the layers of `path`, in eval mode."""

    def path(self) -> Path: ...


def layers(model: nn.Module, *names: str) -> Path:
    """These attributes of `model`; of an nn.Sequential its entries, each by itself."""
    found: Path = []
    for name in names:
        found += _flat(name, model.get_submodule(name))
    return found


def _flat(name: str, module: nn.Module) -> Path:
    if not isinstance(module, nn.Sequential):
        return [(name, module)]
    return [pair for key, child in module.named_children() for pair in _flat(f"{name}.{key}", child)]
