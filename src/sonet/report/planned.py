"""What a record says of its table as a whole: every row that was planned, run or not, the paper's figures, audits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sonet.report.audit_record import Bar
from sonet.report.schema import Entry


class Figure(Entry):
    """A figure of the paper: accuracy in [0, 1] under the attack ("none": natural accuracy) after so many steps."""

    attack: str
    steps: int = Field(ge=0)
    norm: Literal["linf", "l2"] | None = None
    eps: float = Field(ge=0)
    accuracy: float = Field(ge=0, le=1)


class Planned(Entry):
    """A row of the table, run or not. figures: the paper's, if it has the row. reasons: what could explain a gap."""

    model: str
    objective: str = "natural"
    figures: list[Figure] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)


class Audited(Entry):
    """The audit of a network from one seed: its verdict, and of `n` images those right without attack, under plain
    attacks on the network's own gradient, and under all attacks; None where the audit refused the network, and the
    summary says why. cause: what carries a masking, in words; causes: the bars of its analysis.
    """

    model: str
    objective: str = "natural"
    seed: int
    threat: str
    verdict: Literal["masked", "no masking found", "inconclusive"]
    natural: int | None = Field(default=None, ge=0)
    plain: int | None = Field(default=None, ge=0)
    worst: int | None = Field(default=None, ge=0)
    n: int = Field(ge=1)
    cause: str = ""
    causes: list[Bar] = Field(default_factory=list)
    summary: str
    seconds: float = Field(ge=0)
