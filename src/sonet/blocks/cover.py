"""What is proven of a layer, and in plain words what has no bound: the rules are in `cover_ode` and `cover_layers`."""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor, nn

from sonet.bounds import Reach

Shape = tuple[int, ...]
"""Of one sample at a layer's input: (C, H, W), or (features,)."""


class NotCovered(ValueError):
    """There is no bound for this; says for what and why."""


def cover(module: nn.Module, reach: Reach, shape: Shape) -> Reach:
    """Bounds behind a layer, from those before it and the shape of its input; the layer is in eval mode.

    Errors: NotCovered for a layer without a proof, and for settings that break it.
    """
    for part in module.modules():
        check_untouched(part)
    return rule(module, reach, shape)


def check_untouched(module: nn.Module) -> None:
    """NotCovered for a layer that may compute something else than its kind does: a subclass, hooks, a new forward."""
    kind = type(module)
    if not kind.__module__.startswith(("sonet.", "torch.nn.modules.")):
        raise NotCovered(f"{kind.__name__}: bounds are of known kinds of layers; a class of its own may do anything.")
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise NotCovered(f"{kind.__name__}: a hook or a forward of its own may change what it computes.")


@singledispatch
def rule(module: nn.Module, reach: Reach, shape: Shape) -> Reach:
    raise NotCovered(f"{type(module).__name__}: no bound is known for it.")


def length(vector: Tensor) -> float:
    return float(vector.norm()) * (1 + 1e-12)
