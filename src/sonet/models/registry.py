"""Build a network by name, and run a built one for a while under another solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from sonet.blocks import name_blocks, ode_blocks
from sonet.errors import explain
from sonet.models.baselines import ODENet, ResNet10, WideResNet
from sonet.models.config import (
    ConvexPotentialConfig,
    ODENetConfig,
    ResNet10Config,
    SOBlockResNet10Config,
    SOBlockWideResNetConfig,
    SONetConfig,
    StableSONetConfig,
    WideResNetConfig,
)
from sonet.models.sonet import SONet
from sonet.models.stable import StableNet
from sonet.solvers import Adaptive, Fixed

MODELS: dict[str, tuple[type[BaseModel], Callable[[Any], nn.Module]]] = {
    "sonet": (SONetConfig, SONet),
    "stable-sonet": (StableSONetConfig, StableNet),
    "convex-potential": (ConvexPotentialConfig, StableNet),
    "soblock-resnet10": (SOBlockResNet10Config, ResNet10),
    "soblock-wide-resnet": (SOBlockWideResNetConfig, WideResNet),
    "odenet": (ODENetConfig, ODENet),
    "resnet10": (ResNet10Config, ResNet10),
    "wide-resnet": (WideResNetConfig, WideResNet),
}


class ConfigError(ValueError):
    """A network's options do not fit: one sentence for each, with what is accepted."""


class Like(Protocol):
    """What `build` needs to know of data: a `sonet.data.Dataset` is one."""

    @property
    def channels(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]: ...


def configure(name: str, **options: Any) -> Any:
    """The config of the network `name` with `options`; `ConfigError` names every option that does not fit."""
    if name not in MODELS:
        close = get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"no network is called {name!r}, expected one of {', '.join(MODELS)}{hint}")
    kind = MODELS[name][0]
    known = [key for key in kind.model_fields if key != "kind"]
    unknown = [key for key in options if key not in known]
    if unknown:
        close = [match for key in unknown for match in get_close_matches(key, known, n=1)]
        hint = f" Did you mean {' and '.join(map(repr, close))}?" if close else ""
        raise ConfigError(f"{name} has no option {', '.join(map(repr, unknown))}.{hint} It has: {', '.join(known)}.")
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        raise ConfigError(f"{name}: {explain(error)}") from None


def build(name: Any, *, like: Like | None = None, seed: int | None = None, **options: Any) -> nn.Module:
    """A network by name with options, or from a config, which has them all; `like` data gives channels, classes, size.

    seed: seeds the initial weights, drawn on the CPU, without touching any global generator.
    """
    if like is not None:
        known: dict[str, Any] = {"in_channels": like.channels, "classes": like.num_classes}
        if isinstance(name, str) and name in MODELS and "image_size" in MODELS[name][0].model_fields:
            known["image_size"] = like.size
        options = known | options
    if options and not isinstance(name, str):
        raise ConfigError(
            f"build: got a whole {type(name).__name__} and besides {', '.join(options)}, which it would override. "
            "Put them into the config, or give the network's name."
        )
    config = configure(name, **options) if isinstance(name, str) else name
    make = MODELS[config.kind][1]
    if seed is None:
        model = make(config)
    else:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which also seeds the generators of the GPUs, and nothing here restores those.
            torch.default_generator.manual_seed(seed)
            model = make(config)
    name_blocks(model)
    return model


def variant(model: nn.Module, solver: Fixed | Adaptive | None = None, **changes: Any) -> Callable[[Tensor], Tensor]:
    """The model under `swap_solver` as a classifier of its own: for attacks that craft on it and judge the deployed."""

    def classifier(images: Tensor) -> Tensor:
        with swap_solver(model, solver, **changes):
            return model(images)  # type: ignore[no-any-return]

    return classifier


@contextmanager
def swap_solver(model: nn.Module, solver: Fixed | Adaptive | None = None, **changes: Any) -> Iterator[nn.Module]:
    """Run the same weights with another solver, or with single settings of each block's own solver changed.

        with swap_solver(model, step_gradient="frozen"): ...
        with swap_solver(model, Fixed(method="rk4", num_steps=8)): ...

    Whatever happens inside, the solvers are as before afterwards. A model without ODE blocks is an error: a check that
    silently compares a model with itself would prove nothing.
    """
    blocks = list(ode_blocks(model).values())
    if not blocks:
        raise ValueError(
            f"swap_solver: {type(model).__name__} has no ODE block, so there is no solver to swap. "
            "Guard the call with sonet.blocks.ode_blocks(model)."
        )
    before = [block.solver for block in blocks]
    after = []
    for block in blocks:
        base = solver or block.solver
        known = type(base).model_fields
        unknown = [key for key in changes if key not in known]
        if unknown:
            raise ConfigError(
                f"swap_solver: {type(base).__name__} has no setting {unknown[0]!r}, it has {', '.join(known)}. "
                "Give a whole solver, e.g. Adaptive(...), to change its kind."
            )
        try:
            after.append(type(base).model_validate(base.model_dump() | changes))
        except ValidationError as error:
            raise ConfigError(f"swap_solver: {explain(error)}") from None
    try:
        for block, new in zip(blocks, after, strict=True):
            block.solver = new
        yield model
    finally:
        for block, old in zip(blocks, before, strict=True):
            block.solver = old
