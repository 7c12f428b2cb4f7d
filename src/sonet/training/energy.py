"""Kinetic energy of ODE blocks, estimated from the evaluations that a pass makes anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from sonet.blocks import ODEBlock, TiedField, ode_blocks
from sonet.training.errors import TrainingError
from sonet.types import Field, State


class Energy:
    r"""K = sum over blocks of int_0^1 |f(t, x(t))|^2 dt / elements of the state (Finlay et al. 2020, arXiv:2002.02798).

    Estimated, for each block, by the mean of f^2 over evaluations that carry gradient, samples and elements. That is
    the left Riemann sum for Euler's method, and weighs the stages of other methods alike; small, rejected and
    additional steps count more. Evaluations that are not finite are left out, as the solver leaves them out.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def note(self, block: str, slope: State) -> None:
        """Count one evaluation of the block's field."""
        if not torch.is_grad_enabled() or not all(bool(torch.isfinite(part).all()) for part in slope):
            return
        # Half precision would overflow at |f| = 256.
        squares = sum(part.to(torch.promote_types(part.dtype, torch.float32)).square().sum() for part in slope)
        assert isinstance(squares, Tensor)
        self._sums[block] = self._sums[block] + squares if block in self._sums else squares
        self._counts[block] = self._counts.get(block, 0) + sum(part.numel() for part in slope)

    def total(self) -> Tensor:
        """K with graph, a scalar, and forget what was noted. TrainingError where no evaluation carried gradient."""
        if not self._sums:
            raise TrainingError(
                "kinetic: no evaluation of a field carried gradient in this pass, expected some, or nothing would be "
                "regularised. Leave out kinetic, or what makes the solves run without a graph."
            )
        energy = torch.stack([total / self._counts[block] for block, total in self._sums.items()]).sum()
        self.clear()
        return energy

    def clear(self) -> None:
        """Forget what was noted, that of crafting for example."""
        self._sums.clear()
        self._counts.clear()


@contextmanager
def watch_energy(model: nn.Module) -> Iterator[Energy]:
    """An `Energy` that notes every evaluation in the ODE blocks of `model`, until the context ends."""
    energy = Energy()
    with ExitStack() as stack:
        for name, block in ode_blocks(model).items():
            stack.enter_context(_watched(name, block, energy))
        yield energy


@contextmanager
def _watched(name: str, block: ODEBlock, energy: Energy) -> Iterator[None]:
    field = block.field
    if not isinstance(field, TiedField):
        hook = field.register_forward_hook(lambda module, given, slope: energy.note(name, slope))
        try:
            yield
        finally:
            hook.remove()
        return
    tie = field.tie  # its evaluations pass by the module: they are those of the field tied for a solve

    def tied() -> Field:
        inner = tie()

        def evaluate(t: Tensor, state: State) -> State:
            slope = inner(t, state)
            energy.note(name, slope)
            return slope

        return evaluate

    field.tie = tied  # type: ignore[method-assign]
    try:
        yield
    finally:
        del field.tie
