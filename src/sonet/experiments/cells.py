"""The cells of an experiment: pieces of work that can be done in any process and need not be done twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sonet.experiments.parts import ModelPlan, Norm, StepGradient
from sonet.report import Leak, ModelCard, Picture, Row, StepHistogram
from sonet.report.planned import Audited

Report = Callable[[float, str], None]
"""Called by a cell at work with the part of it done, in [0, 1], and a word on how it goes."""


class Cell(BaseModel):
    """One piece of work on one network from one seed.

    "train" trains it; "leak" measures its own-gradient shares and steps; "attack" runs one attack at one radius;
    "ensemble" several, worst case of each image; "audit" asks whether what they leave is masked.
    For an attack `steps` are the numbers of steps that become rows: one run of the largest passes through the others.
    solver: what is changed of the solver, deployed and attacked so. changed: the switch, in words. images: the first so
    many, default all. chunk: how many are crafted together in memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["train", "leak", "attack", "ensemble", "audit"]
    model: ModelPlan
    objective: str = "natural"
    seed: int
    attack: str | None = None
    steps: tuple[int, ...] = ()
    loss: str | None = None
    step_gradient: StepGradient | None = None
    attack_batch: int | None = None
    norm: Norm = "linf"
    eps: float | None = None
    step_size: float | None = None
    random_start: bool = False
    restarts: int = 1
    solver: dict[str, Any] = {}
    changed: str = ""
    images: int | None = None
    chunk: int | None = None
    pictures: bool = False

    @property
    def key(self) -> str:
        """Name of the cell's file: readable, and different for different cells."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
        return f"{self.kind}-{self.network}-{digest}"

    @property
    def row(self) -> str:
        """The table's row."""
        return f"{self.model.name}/{self.objective}"

    @property
    def network(self) -> str:
        """Name of the trained network's folder."""
        return f"{self.model.name}-{self.objective}-{self.seed}"

    @property
    def label(self) -> str:
        """For people who wait."""
        what = f"{self.row}, seed {self.seed}"
        words = {"train": f"train {what}", "leak": f"own gradient of {what}"}
        if self.kind in words:
            return words[self.kind]
        ball = f"{self.norm} {self.eps:g}"
        if self.kind != "attack":
            return f"{self.attack or self.kind}, {ball}, {what}"
        steps = f"-{self.steps[-1]}" if self.steps else ""
        loss = f" {self.loss}" if self.loss else ""
        gradient = f", {self.step_gradient}, batch {self.attack_batch}" if self.step_gradient else ""
        changed = f", {self.changed}" if self.changed else ""
        return f"{(self.attack or '').upper()}{steps}{loss}{gradient}{changed}, {ball}, {what}"


class Outcome(BaseModel):
    """What a cell found: entries of the record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cards: tuple[ModelCard, ...] = ()
    rows: tuple[Row, ...] = ()
    leaks: tuple[Leak, ...] = ()
    steps: tuple[StepHistogram, ...] = ()
    pictures: tuple[Picture, ...] = ()
    audits: tuple[Audited, ...] = ()

    @property
    def seconds(self) -> float:
        """Time of the work. Rows of one cell are one run, looked at after several numbers of steps: the last counts."""
        trained = sum(card.train_seconds for card in self.cards)
        asked = sum(audit.seconds for audit in self.audits)
        return trained + asked + max((row.seconds for row in self.rows), default=0.0)
