"""The dial on a model's ODE solver, whoever wrote the model: ours, or one that calls torchdiffeq somewhere inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sonet.audit.sources import Counted
from sonet.blocks import adjoint_gradients, ode_blocks, watch_solves
from sonet.models import swap_solver
from sonet.solvers import Adaptive, Fixed, Solution, steer_odeint, watch_odeint
from sonet.types import Classifier, Images, Logits


class Dial(ABC):
    """Same weights, another solver: classifiers that differ from the model in one setting.

    settings: of each solve of a forward pass, as deployed, in order. adjoint: whether the deployed gradient is that of
    the adjoint. whose: who wrote the solver.
    """

    whose: str

    def __init__(self, model: Classifier, settings: tuple[Fixed | Adaptive, ...], adjoint: bool = False) -> None:
        self._counted, self.settings, self.adjoint = Counted(model), settings, adjoint

    @property
    def passes(self) -> int:
        return self._counted.passes

    @property
    def setting(self) -> Fixed | Adaptive:
        """The first solve's: the one that is said to be the model's."""
        return self.settings[0]

    @property
    def adaptive(self) -> bool:
        return all(isinstance(setting, Adaptive) for setting in self.settings)

    @property
    def fixed(self) -> bool:
        return all(isinstance(setting, Fixed) for setting in self.settings)

    def variant(self, solver: Fixed | Adaptive | None = None, **changes: Any) -> Classifier:
        """The model under another solver, or under its own with single settings changed."""

        def classifier(images: Images) -> Logits:
            with self._turned(solver, **changes):
                return self._counted(images)

        return classifier

    def by_adjoint(self) -> Classifier:
        """The model, differentiated by the continuous adjoint."""
        return self._differentiated(adjoint=True)

    def by_steps(self) -> Classifier:
        """The model, differentiated through the steps of its solver."""
        return self._differentiated(adjoint=False)

    def _differentiated(self, adjoint: bool) -> Classifier:
        def classifier(images: Images) -> Logits:
            with self._with_adjoint(adjoint):
                return self._counted(images)

        return classifier

    def tolerance(self, factor: float, **changes: Any) -> Classifier:
        """The model at `factor` times its tolerances: those of the first solve, for all of them unless factor is 1."""
        first = self.setting
        if not isinstance(first, Adaptive):
            raise ValueError(f"tolerance: the solver takes fixed steps ({first.method}), it has no tolerance.")
        if factor == 1.0:
            return self.variant(**changes)
        return self.variant(rtol=first.rtol * factor, atol=first.atol * factor, **changes)

    @abstractmethod
    def evaluations(self, images: Images) -> Tensor:
        """(N,) float, evaluations of all fields that each image needs."""

    @abstractmethod
    def step_counts(self, images: Images) -> Tensor:
        """(N, solves) int64, trial steps; for solvers that say nothing of steps, evaluations."""

    @abstractmethod
    def _turned(self, solver: Fixed | Adaptive | None, **changes: Any) -> AbstractContextManager[Any]: ...

    @abstractmethod
    def _with_adjoint(self, on: bool) -> AbstractContextManager[Any]: ...


class OwnDial(Dial):
    """Of a network with `ODEBlock`s."""

    whose = "sonet"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, tuple(block.solver for block in ode_blocks(model).values()))
        self._model = model

    def _turned(self, solver: Fixed | Adaptive | None, **changes: Any) -> AbstractContextManager[Any]:
        return swap_solver(self._model, solver, **changes)

    def _with_adjoint(self, on: bool) -> AbstractContextManager[Any]:
        return adjoint_gradients(self._model) if on else nullcontext()

    def evaluations(self, images: Images) -> Tensor:
        return torch.stack([solution.evaluations for solution in self._watched(images)]).sum(0).double()

    def step_counts(self, images: Images) -> Tensor:
        return torch.stack([solution.accepted + solution.rejected for solution in self._watched(images)], 1)

    def _watched(self, images: Images) -> list[Solution]:
        seen: list[Solution] = []
        with torch.no_grad(), watch_solves(self._model, lambda name, solution: seen.append(solution)):
            self._counted(images)
        return seen


class ForeignDial(Dial):
    """Of a module that calls torchdiffeq's odeint or odeint_adjoint anywhere inside; nothing in it is edited."""

    whose = "torchdiffeq"

    def _turned(self, solver: Fixed | Adaptive | None, **changes: Any) -> AbstractContextManager[Any]:
        return steer_odeint(solver, **changes)

    def _with_adjoint(self, on: bool) -> AbstractContextManager[Any]:
        return steer_odeint(None, adjoint=on)

    def evaluations(self, images: Images) -> Tensor:
        return self._each(images, lambda calls: float(sum(calls))).double()

    def step_counts(self, images: Images) -> Tensor:
        return self._each(images, lambda calls: calls).long()

    def _each(self, images: Images, read: Callable[[list[int]], Any]) -> Tensor:
        """One image at a time: torchdiffeq counts evaluations of a whole batch."""
        found = []
        for image in images.split(1):  # type: ignore[no-untyped-call]
            with torch.no_grad(), watch_odeint() as calls:
                self._counted(image)
            found.append(read([call.evaluations for call in calls]))
        return torch.tensor(found, device=images.device)


def find_dial(model: Classifier, images: Images) -> Dial | None:
    """The dial of a model, from one forward pass of a few images; None where no ODE solver is seen at work.

    A torchdiffeq call that cannot be steered (a method we do not have, events) leaves the model without a dial.
    """
    if isinstance(model, nn.Module) and ode_blocks(model):
        return OwnDial(model)
    try:
        with torch.no_grad(), watch_odeint() as calls:
            model(images.contiguous())
    except ModuleNotFoundError:  # no torchdiffeq here, so the model does not call it either
        return None
    settings = [call.solver for call in calls]
    steerable = tuple(setting for setting in settings if setting is not None)
    if not steerable or len(steerable) < len(settings):
        return None
    return ForeignDial(model, steerable, adjoint=any(call.adjoint for call in calls))
