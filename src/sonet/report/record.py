"""The record of an experiment: everything a report says, and the only thing a report reads.

An experiment fills a `Record` and writes it as record.json; the terminal table and report.html are made from it alone,
so they can be made again, anywhere, without the networks or the images. Writing and reading gives an equal record.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from sonet.report.environment import Environment
from sonet.report.pictures import Picture
from sonet.report.planned import Audited, Planned
from sonet.report.schema import Entry, JsonObject
from sonet.types import Proportion

SCHEMA: Literal["sonet.record/1"] = "sonet.record/1"
"""Name and version of the format; a change that old readers would misread gets a new number."""

StepGradient = Literal["frozen", "first", "differentiated"]
Norm = Literal["linf", "l2"]


class Row(Entry):
    """One measurement: how many of `n` images one network, trained from one seed, still gets right under one attack.

    attack: "none" for natural accuracy, else its name ("pgd", "spsa"). steps: 0 for none. loss: "ce", "margin".
    step_gradient: how the gradient treats the solver's step sizes; None without a solver or without a gradient.
    attack_batch: how many images were attacked together. low, high: 95 % Wilson interval of accuracy.
    seconds: time the attack took. keep: which iterate was used, "last" or "best". zero_gradients: share of samples
    whose gradient was exactly zero at some step. reported: the paper's value, where there is one. stage: place in an
    ensemble; its accuracy is then what stands under this attack and all before it. changed: the one thing in which it
    differs from the table's reference attack, in words, of rows that are there to show what that thing does.
    """

    model: str
    objective: str = "natural"
    seed: int
    attack: str
    steps: int = Field(ge=0)
    loss: str | None = None
    step_gradient: StepGradient | None = None
    attack_batch: int | None = Field(default=None, ge=1)
    norm: Norm | None = None
    eps: float = Field(ge=0)
    n: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    seconds: float = Field(ge=0)
    restarts: int = Field(default=1, ge=1)
    random_start: bool = False
    step_size: float | None = Field(default=None, ge=0)
    keep: str | None = None
    zero_gradients: float | None = Field(default=None, ge=0, le=1)
    reported: float | None = Field(default=None, ge=0, le=1)
    stage: int | None = Field(default=None, ge=1)
    changed: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.low <= self.accuracy <= self.high:
            raise ValueError(
                f"expected low <= accuracy <= high, got {self.low}, {self.accuracy}, {self.high}. "
                "The interval is around the accuracy; Row.of computes all three from a count."
            )
        if self.attack == "none" and self.steps != 0:
            raise ValueError(
                f'expected steps = 0 for attack "none", got {self.steps}. Without an attack nothing moves.'
            )
        return self

    @classmethod
    def of(
        cls,
        right: Proportion,
        *,
        model: str,
        seed: int,
        attack: str,
        eps: float,
        seconds: float,
        objective: str = "natural",
        steps: int = 0,
        loss: str | None = None,
        step_gradient: StepGradient | None = None,
        attack_batch: int | None = None,
        norm: Norm | None = None,
        restarts: int = 1,
        random_start: bool = False,
        step_size: float | None = None,
        keep: str | None = None,
        zero_gradients: float | None = None,
        reported: float | None = None,
        stage: int | None = None,
        changed: str = "",
        note: str = "",
    ) -> Row:
        """A row whose accuracy and interval come from a count of correctly classified images."""
        low, high = right.interval
        return cls(
            model=model,
            objective=objective,
            seed=seed,
            attack=attack,
            steps=steps,
            loss=loss,
            step_gradient=step_gradient,
            attack_batch=attack_batch,
            norm=norm,
            eps=eps,
            n=right.n,
            accuracy=right.value,
            low=low,
            high=high,
            seconds=seconds,
            restarts=restarts,
            random_start=random_start,
            step_size=step_size,
            keep=keep,
            zero_gradients=zero_gradients,
            reported=reported,
            stage=stage,
            changed=changed,
            note=note,
        )

    @property
    def right(self) -> Proportion:
        """The count behind the accuracy."""
        return Proportion(round(self.accuracy * self.n), self.n)


_OUTCOME = {"n", "accuracy", "low", "high", "seconds", "zero_gradients", "reported", "note"}


class ModelCard(Entry):
    """A trained network: how it was built and trained, and its natural accuracy on the test images."""

    model: str
    objective: str = "natural"
    seed: int
    parameters: int = Field(ge=0)
    epochs: int = Field(ge=0)
    train_seconds: float = Field(ge=0)
    config: JsonObject
    solver: JsonObject | None = None
    natural: float | None = Field(default=None, ge=0, le=1)


class StepHistogram(Entry):
    """How many steps a block's solver took. accepted: number of accepted steps -> number of samples that took as many.

    mean_evaluations: how often the right-hand side was evaluated, on average over samples.
    """

    model: str
    objective: str = "natural"
    seed: int
    block: str
    accepted: dict[int, int]
    mean_evaluations: float = Field(ge=0)

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if not self.accepted or any(steps < 0 or count < 0 for steps, count in self.accepted.items()):
            raise ValueError(
                f"expected accepted = {{steps: samples}} with non-negative numbers, got {self.accepted}. "
                "It is a histogram; leave the entry out where nothing was counted."
            )
        return self


class Leak(Entry):
    """Whose loss a sample's gradient comes from, for one network attacked `attack_batch` images at a time.

    shares: for each sample, the part in [0, 1] of its input gradient's norm that its own loss supplies; the rest came
    from other samples of the batch.
    """

    model: str
    objective: str = "natural"
    seed: int
    attack_batch: int = Field(ge=1)
    step_gradient: StepGradient
    shares: list[float]

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        outside = [share for share in self.shares if not 0 <= share <= 1]
        if outside or not self.shares:
            raise ValueError(
                f"expected shares in [0, 1], at least one, got {outside[:3] or self.shares}. "
                "A share is a part of a whole; divide by the norm of the whole gradient."
            )
        return self


class Record(Entry):
    """All that an experiment found, with what is needed to repeat it.

    verdict: one paragraph for a reader who knows nothing of the experiment. command: what to type to repeat it.
    data: `Dataset.describe()`. seconds: the whole run; of a table, all its work. complete: False while the run is under
    way or was cut short. planned: every row of the table, run or not. changes: what the table changes from the paper,
    in sentences.
    """

    schema_: Literal["sonet.record/1"] = Field(default=SCHEMA, alias="schema")
    title: str
    verdict: str
    command: str
    data: JsonObject
    settings: JsonObject
    environment: Environment
    models: list[ModelCard] = Field(default_factory=list)
    rows: list[Row] = Field(default_factory=list)
    steps: list[StepHistogram] = Field(default_factory=list)
    leaks: list[Leak] = Field(default_factory=list)
    pictures: list[Picture] = Field(default_factory=list)
    audits: list[Audited] = Field(default_factory=list)
    planned: list[Planned] = Field(default_factory=list)
    changes: list[str] = Field(default_factory=list)
    seconds: float = Field(ge=0)
    complete: bool

    @model_validator(mode="after")
    def _each_measurement_once(self) -> Self:
        """Reports add up the counts of seeds; a measurement in the list twice would count its images twice."""
        seen: set[str] = set()
        for row in self.rows:
            identity = row.model_dump_json(exclude=_OUTCOME)
            if identity in seen:
                raise ValueError(
                    f"expected every measurement once, got two rows for {identity}. Their images would be counted "
                    "twice; keep one, or give the second network or solver a model name of its own."
                )
            seen.add(identity)
        return self
