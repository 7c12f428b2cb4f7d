"""`stability(model)`: how far each block can stretch distances, proven, and how far it was seen to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonet.blocks.cover import NotCovered, Shape, cover
from sonet.blocks.cover_ode import dynamics
from sonet.blocks.ode import ODEBlock, ode_blocks
from sonet.blocks.residual import BasicBlock, WideBlock
from sonet.blocks.stretch import logarithmic_at, pair_stretch, stretch_at
from sonet.bounds import Reach
from sonet.solvers import Adaptive, Fixed
from sonet.types import Images


@dataclass(frozen=True)
class Stability:
    """One block, l_2. None: not covered, or there is no such thing; `why` says which.

    kernel_norm: sound upper bound of ||K||. logarithmic: bound of the field's logarithmic norm. flow: of the exact
    flow's Lipschitz constant over the block's time. step: of one solver step's. block: of the whole block's, lift
    included. measured: largest singular value of the block's Jacobian at the images, by power iteration, from below.
    pairs: the largest stretch of a pair of inputs that gradient ascent found. field: the largest logarithmic norm met
    on the way from the start of the images' solutions to their end.
    """

    name: str
    kind: str
    kernel_norm: float | None
    logarithmic: float | None
    flow: float | None
    step: float | None
    block: float | None
    measured: float
    pairs: float
    field: float | None
    why: str = ""


def stability(model: nn.Module, images: Images, *, rounds: int = 30, seed: int = 0) -> tuple[Stability, ...]:
    """A row for every ODE block and residual block of a model, at the states that `images` lead to.

    images: (N, C, H, W) in [0, 1]; a few are enough. Every bound holds for all inputs, whatever the images.
    The model is taken as it is deployed, in eval mode, and left as it was.
    """
    with _deployed(model), _inputs(model, images) as met:
        return tuple(_row(name, block, met[name], rounds, seed) for name, block in _blocks(model) if name in met)


def _alone(block: nn.Module, x: Tensor) -> Tensor:
    """One sample only where steps are shared: a sample's stretch would be its batch-mates' as well."""
    shared = isinstance(block, ODEBlock) and isinstance(block.solver, Adaptive) and block.solver.scope != "sample"
    return x[:1] if shared else x


def format_stability(rows: tuple[Stability, ...]) -> str:
    """The table as text, with a line for each reason."""
    head = f"{'block':<16}{'||K||':>9}{'log norm':>10}{'flow':>9}{'step':>9}{'block':>9}{'measured':>10}{'pairs':>9}"
    lines = [head]
    for row in rows:
        numbers = (row.kernel_norm, row.logarithmic, row.flow, row.step, row.block)
        cells = "".join(f"{_number(value):>{width}}" for value, width in zip(numbers, (9, 10, 9, 9, 9), strict=True))
        lines.append(f"{row.name:<16}{cells}{_number(row.measured):>10}{_number(row.pairs):>9}")
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.why:
            reasons.setdefault(row.why.replace(f"{row.name}: ", ""), []).append(row.name)
    lines += [f"not covered: {', '.join(names)}: {why}" for why, names in reasons.items()]
    return "\n".join(lines)


def _row(name: str, block: nn.Module, x: Tensor, rounds: int, seed: int) -> Stability:
    generator = torch.Generator().manual_seed(seed)
    x = _alone(block, x)
    measured = stretch_at(block, x, rounds=rounds, generator=generator)
    pairs = pair_stretch(block, x, rounds=rounds, generator=generator)
    shape: Shape = tuple(x.shape[1:])
    why, total = "", None
    try:
        total = cover(block, Reach(1.0, 1.0, 0.0, 0.0), shape).gain
    except NotCovered as error:
        why = str(error)
    kernel = logarithmic = flow = step = seen = None
    if isinstance(block, ODEBlock):
        seen = logarithmic_at(block, x, rounds=rounds, generator=generator)
        try:
            found = dynamics(block, shape)
        except NotCovered as error:
            why = str(error)
        else:
            kernel, logarithmic, flow = found.norm, found.logarithmic, found.flow
            step = found.step(block.solver) if isinstance(block.solver, Fixed) else None
    kind = type(block.field if isinstance(block, ODEBlock) else block).__name__
    return Stability(name, kind, kernel, logarithmic, flow, step, total, measured, pairs, seen, why)


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    inside = ode_blocks(model)
    return [(n, m) for n, m in model.named_modules() if n in inside or isinstance(m, BasicBlock | WideBlock)]


@contextmanager
def _inputs(model: nn.Module, images: Images) -> Iterator[dict[str, Tensor]]:
    """The input of every block on its first call."""
    met: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            met.setdefault(name, given[0].detach())

        return hook

    handles = [block.register_forward_pre_hook(keep(name)) for name, block in _blocks(model)]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    yield met


@contextmanager
def _deployed(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
