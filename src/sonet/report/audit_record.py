"""The record of an audit: findings, the verdict with its evidence, and what its pictures are drawn from.

`sonet audit` fills it and writes it as audit.json; the terminal text and report.html are made from it alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sonet.report.environment import Environment
from sonet.report.pictures import Picture
from sonet.report.schema import Entry, JsonObject
from sonet.types import Proportion

AUDIT_SCHEMA: Literal["sonet.audit/1"] = "sonet.audit/1"

Verdict = Literal["masked", "no masking found", "inconclusive"]
Family = Literal["answers", "gradient", "solver", "attack"]
Share = Annotated[float, Field(ge=0, le=1)]


class Count(Entry):
    """`count` of `n` images, with the Wilson interval at 95 %."""

    count: int = Field(ge=0)
    n: int = Field(ge=1)
    value: Share
    low: Share
    high: Share

    @classmethod
    def of(cls, proportion: Proportion) -> Self:
        low, high = proportion.interval
        return cls(count=proportion.count, n=proportion.n, value=proportion.value, low=low, high=high)


class Finding(Entry):
    """What one check measured. Its explanation is in docs/findings.md under the heading `name`.

    raised: whether it speaks against the measured robustness; None where it does not apply or could not be measured,
    and `measured` says why. bears: whether it can decide the verdict by itself, or is a warning or only a note.
    value, low, high, threshold: in `unit`; the interval where there is one. raised_if, means, remedy, source: for the
    reader. seconds, passes: its cost; passes are images through the network, forward or backward.
    """

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    family: Family
    title: str
    raised: bool | None
    bears: Literal["decisive", "warning", "note"]
    measured: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    threshold: float | None = None
    n: int | None = Field(default=None, ge=1)
    raised_if: str
    means: str
    remedy: str
    source: str
    seconds: float = Field(default=0.0, ge=0)
    passes: int = Field(default=0, ge=0)


class Stage(Entry):
    """One attack of the audit, tried on the images that stood under all stages before it.

    gradient: where its gradient came from, "none" without one. plain: whether it is one of the attacks on the network's
    own gradient of the training loss, which an owner would run.
    """

    name: str
    gradient: str
    plain: bool
    tried: int = Field(ge=0)
    fell: int = Field(ge=0)
    standing: int = Field(ge=0)
    seconds: float = Field(ge=0)
    passes: int = Field(ge=0)


class Bar(Entry):
    """Accuracy left by the reference attack with one factor changed. reference: nothing is changed."""

    factor: str
    setting: str
    left: Count
    reference: bool = False
    carries: bool | None = None
    note: str = ""


class Matrix(Entry):
    """Accuracy left when crafting through `crafted[i]` and judging with `judged[j]`: left[i][j]."""

    crafted: list[str]
    judged: list[str]
    left: list[list[Share]]
    n: int = Field(ge=1)

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if len(self.left) != len(self.crafted) or any(len(row) != len(self.judged) for row in self.left):
            raise ValueError(
                f"expected {len(self.crafted)} rows of {len(self.judged)} numbers, got rows of "
                f"{[len(row) for row in self.left]}. left[i][j] is crafted[i] judged with judged[j]."
            )
        return self


class Line(Entry):
    """A named curve: y[i] at the ladder's x[i]; None where nothing could be measured."""

    name: str
    y: list[float | None]


class Ladder(Entry):
    """Curves over a common axis, such as the agreement of slopes against the length of a finite difference."""

    name: str
    title: str
    x_title: str
    y_title: str
    x: list[float]
    lines: list[Line]
    log_x: bool = True

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if any(len(line.y) != len(self.x) for line in self.lines):
            raise ValueError(f"expected {len(self.x)} values in each line of {self.name}, as many as x has.")
        return self


class Surface(Entry):
    """Loss of one image along an attack's direction (rows) and a random one (columns), in units of eps.

    loss[i][j] at attack[i], random[j]; wrong[i][j] whether the network is fooled there.
    """

    index: int = Field(ge=0)
    attack: list[float]
    random: list[float]
    loss: list[list[float]]
    wrong: list[list[bool]]


class Outcome(Entry):
    """An image: fell_to the stage's name, "none" where it stands, "no attack" where the network is wrong by itself."""

    index: int = Field(ge=0)
    label: str
    predicted: str
    fell_to: str
    plain_stood: bool


class AuditRecord(Entry):
    """All that an audit found, with what is needed to repeat it.

    summary: the verdict as a paragraph. decisive: names of the findings it rests on, at most three. next_command: what
    to type next. natural: without attack; plain: left by the attacks an owner would run, on the network's own gradient
    of the training loss; worst: left by all. overestimate: of the images, the share that plain attacks left standing
    and others felled. not_run: checks left out for lack of time, with the reason.
    """

    schema_: Literal["sonet.audit/1"] = Field(default=AUDIT_SCHEMA, alias="schema")
    title: str
    verdict: Verdict
    summary: str
    decisive: list[str]
    next_command: str
    threat: str
    model: str
    data: JsonObject
    settings: JsonObject
    command: str
    environment: Environment
    natural: Count
    plain: Count
    worst: Count
    overestimate: Count
    findings: list[Finding] = Field(default_factory=list)
    stages: list[Stage] = Field(default_factory=list)
    causes: list[Bar] = Field(default_factory=list)
    cause: str = ""
    matrix: Matrix | None = None
    ladders: list[Ladder] = Field(default_factory=list)
    surface: Surface | None = None
    outcomes: list[Outcome] = Field(default_factory=list)
    pictures: list[Picture] = Field(default_factory=list)
    not_run: dict[str, str] = Field(default_factory=dict)
    seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [finding.name for finding in self.findings]
        twice = {name for name in names if names.count(name) > 1}
        unknown = set(self.decisive) - set(names)
        if twice or unknown:
            raise ValueError(
                f"expected every finding once and decisive ones among them, got {sorted(twice)} twice and "
                f"{sorted(unknown)} unknown."
            )
        return self
