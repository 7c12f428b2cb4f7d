"""The gradients an ODE network offers besides its own, each by name; all enter the attacks at the same seam."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.attacks import Average, Backpropagation, GradientSource, Guided
from sonet.blocks import ode_blocks, watch_solves
from sonet.models import variant
from sonet.solvers import Adaptive, Fixed, Solution
from sonet.types import Classifier, Images, Labels, Logits

GRADIENTS: dict[str, str] = {
    "own": "the network's own, as deployed",
    "frozen": "step sizes frozen and each image's own: follows the ODE, not the controller",
    "alone": "step sizes differentiated, each image's own: what an attack batch of one sees",
    "finer": "through a finer solver: a tenth of the tolerance, or four times the steps",
    "jittered": "the mean over solvers of jittered tolerances, first steps or numbers of steps",
    "states": "besides the logits, class evidence read off every block's state",
}
"""The names `gradient_sources` knows, each with what it is."""

_JITTER = ((0.2, 0.9), (0.5, 0.7), (0.8, 0.8), (1.7, 0.9))
"""Factors on the tolerance, spread over a decade around 1, and on the steps that the controller proposes."""


def gradient_sources(model: nn.Module, images: Images, labels: Labels) -> dict[str, GradientSource]:
    """Every gradient that makes sense for the solvers of `model`'s blocks; only "own" for one without ODE blocks.

    images, labels: some clean ones, from which the class means of the "states" are taken; training images will do.
    """
    sources: dict[str, GradientSource] = {"own": Backpropagation(model)}
    solvers = [block.solver for block in ode_blocks(model).values()]
    if not solvers:
        return sources
    adaptive = [solver for solver in solvers if isinstance(solver, Adaptive)]
    deployed = Backpropagation(model)
    if len(adaptive) == len(solvers):
        deployed = Backpropagation(variant(model, scope="sample", step_gradient="frozen"))
        sources["frozen"] = deployed
        sources["alone"] = Backpropagation(variant(model, scope="sample", step_gradient="differentiated"))
        first = adaptive[0]
        finer = [variant(model, **_tolerance(first, 0.1), scope="sample", step_gradient="frozen", end="clip")]
        jittered = [
            variant(model, **_tolerance(first, factor), safety=safety, scope="sample", step_gradient="frozen")
            for factor, safety in _JITTER
        ]
    elif not adaptive:
        fixed = next(solver for solver in solvers if isinstance(solver, Fixed))
        finer = [variant(model, num_steps=4 * fixed.num_steps)]
        jittered = [variant(model, num_steps=fixed.num_steps + more) for more in (1, 2, 3)]
    else:
        return sources
    sources["finer"] = Guided(Average(tuple(map(Backpropagation, finer))), deployed)
    sources["jittered"] = Guided(Average((deployed, *map(Backpropagation, jittered))), deployed)
    sources["states"] = Guided(Backpropagation(StateEvidence(model, deployed.classifier, images, labels)), deployed)
    return sources


def _tolerance(solver: Adaptive, factor: float) -> dict[str, Any]:
    return {"rtol": solver.rtol * factor, "atol": solver.atol * factor}


class StateEvidence:
    r"""Class evidence from the logits and from the state that every ODE block ends in, added up; (N, classes).

        evidence(x) = z(x) / sd(z) + sum_b e_b(x) / sd(e_b),     e_b(x)_c = -||s_b(x) - mean_c s_b||^2

    s_b: the block's state, averaged over a grid of at most 4 x 4 places; the means are over the clean `images` of a
    class, taken at the first call. Driving it up moves the network where a saturated or masked end says nothing. A
    class without images has the mean of all.
    """

    def __init__(self, model: nn.Module, classifier: Classifier, images: Images, labels: Labels) -> None:
        self._model, self._classifier, self._images, self._labels = model, classifier, images, labels

    @cached_property
    def fitted(self) -> tuple[float, dict[str, tuple[Tensor, float]]]:
        """The logits' spread, and each block's class means with the spread of its evidence."""
        with torch.no_grad():
            logits, states = _watched(self._model, self._classifier, self._images)
            members = F.one_hot(self._labels, logits.shape[1]).to(logits.dtype)
            counts = members.sum(0)[:, None]
            found = {}
            for name, state in states.items():
                state = state.nan_to_num()
                means = torch.where(counts > 0, members.T @ state / counts.clamp_min(1), state.mean(0))
                found[name] = (means, _spread(_evidence(state, means)))
        return _spread(logits), found

    def __call__(self, images: Images, /) -> Logits:
        spread, blocks = self.fitted
        logits, states = _watched(self._model, self._classifier, images)
        total = logits / spread
        for name, (means, scale) in blocks.items():
            total = total + _evidence(states[name], means) / scale
        return total


def _watched(model: nn.Module, classifier: Classifier, images: Images) -> tuple[Logits, dict[str, Tensor]]:
    """The logits, and the state that every block ends in, (N, features)."""
    states: dict[str, Tensor] = {}

    def keep(name: str, solution: Solution) -> None:
        state = solution.state[0]
        if state.dim() == 4 and min(state.shape[2:]) > 4:
            state = F.adaptive_avg_pool2d(state, 4)
        states[name] = state.flatten(1)

    with watch_solves(model, keep):
        logits = classifier(images)
    return logits, states


def _evidence(state: Tensor, means: Tensor) -> Tensor:
    """-||s - mean_c||^2 / features, (N, classes)."""
    return -(state[:, None] - means[None]).square().mean(2)


def _spread(values: Tensor) -> float:
    return max(float(values[torch.isfinite(values)].std()), 1e-12)
