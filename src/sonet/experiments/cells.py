"""The cells of an experiment: pieces of work that can be done in any process and need not be done twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sonet.experiments.plan import ModelPlan, Plan, StepGradient
from sonet.report import Leak, ModelCard, Picture, Row, StepHistogram

Report = Callable[[float, str], None]
"""Called by a cell at work with the part of it done, in [0, 1], and a word on how it goes."""


class Cell(BaseModel):
    """One piece of work on one network from one seed.

    "train" trains it; "leak" measures its own-gradient shares and steps; "attack" runs one attack at one radius.
    For an attack `steps` are the numbers of steps that become rows: one run of the largest passes through the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["train", "leak", "attack"]
    model: ModelPlan
    seed: int
    attack: Literal["pgd", "spsa"] | None = None
    steps: tuple[int, ...] = ()
    loss: Literal["ce", "margin"] | None = None
    step_gradient: StepGradient | None = None
    attack_batch: int | None = None
    eps: float | None = None
    pictures: bool = False

    @cached_property
    def key(self) -> str:
        """Name of the cell's file: readable, and different for different cells."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
        return f"{self.kind}-{self.model.name}-{self.seed}-{digest}"

    @property
    def label(self) -> str:
        """For people who wait."""
        what = f"{self.model.name}, seed {self.seed}"
        if self.kind == "train":
            return f"train {what}"
        if self.kind == "leak":
            return f"own gradient of {what}"
        steps = "-".join(map(str, self.steps[-1:]))
        gradient = f", {self.step_gradient}, batch {self.attack_batch}" if self.step_gradient else ""
        return f"{(self.attack or '').upper()}-{steps} {self.loss}{gradient}, eps {self.eps:g}, {what}"


class Outcome(BaseModel):
    """What a cell found: entries of the record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cards: tuple[ModelCard, ...] = ()
    rows: tuple[Row, ...] = ()
    leaks: tuple[Leak, ...] = ()
    steps: tuple[StepHistogram, ...] = ()
    pictures: tuple[Picture, ...] = ()


def lay_out(plan: Plan) -> list[Cell]:
    """All cells of a plan, in the order of the table."""
    cells: list[Cell] = []
    for seed in range(plan.seeds):
        for model in plan.models:
            cells.append(Cell(kind="train", model=model, seed=seed))
            adaptive = plan.adaptive(model)
            if adaptive:
                cells.append(Cell(kind="leak", model=model, seed=seed))
            for eps in plan.attacks.eps:
                cells += _attacks(plan, model, seed, eps, adaptive)
    return cells


def _attacks(plan: Plan, model: ModelPlan, seed: int, eps: float, adaptive: bool) -> Sequence[Cell]:
    attacks, whole = plan.attacks, max(plan.attacks.batches)
    first = min(attacks.steps)
    own = attacks.step_gradients[0] if adaptive else None

    def cell(**changes: object) -> Cell:
        setting: dict[str, object] = {
            "kind": "attack",
            "model": model,
            "seed": seed,
            "attack": "pgd",
            "steps": (first,),
            "loss": "ce",
            "step_gradient": own,
            "attack_batch": whole,
            "eps": eps,
        }
        return Cell.model_validate(setting | changes)

    largest = eps == max(attacks.eps)
    cells = [cell(steps=tuple(sorted(attacks.steps)), pictures=not adaptive and largest)]
    if adaptive:
        for gradient in attacks.step_gradients:
            for batch in attacks.batches:
                if (gradient, batch) != (own, whole):
                    show = largest and gradient == "frozen" and batch == whole
                    cells.append(cell(step_gradient=gradient, attack_batch=batch, pictures=show))
    cells.append(cell(loss="margin"))
    cells.append(cell(attack="spsa", steps=(attacks.spsa.steps,), loss="margin", step_gradient=None, attack_batch=1))
    return cells


def cost(cell: Cell, plan: Plan) -> float:
    """About how long a cell takes, in arbitrary units: for the order of work and the progress bar only."""
    weight = {"sonet": 5.0, "odenet": 10.0}.get(cell.model.name, 1.2 if "soblock" in cell.model.name else 0.3)
    if cell.kind == "train":
        return weight * plan.training.epochs * 45
    if cell.kind == "leak":
        return weight * 2.0 * plan.images
    if cell.attack == "spsa":
        return weight * plan.attacks.spsa.steps * plan.attacks.spsa.images * (plan.attacks.spsa.samples + 1) / 100
    return weight * 2.5 * max(cell.steps)
