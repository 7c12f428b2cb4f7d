"""A check: what it measures, when it is raised, what that means and what to do; and the register of all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Literal

from sonet.report.audit_record import Family, Finding
from sonet.types import Proportion

if TYPE_CHECKING:
    from sonet.audit.subject import Subject

UNMEASURED = "Could not be measured"
"""How a finding begins whose check the model's code broke off."""
Bears = Literal["decisive", "warning", "note"]


@dataclass(frozen=True)
class Measured:
    """What a check found: a sentence with its figures, and whether it is raised (None: it does not apply)."""

    sentence: str
    raised: bool | None
    value: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None

    @classmethod
    def share(cls, sentence: str, of: Proportion, raised: bool) -> Measured:
        return cls(sentence, raised, of.value, of.interval, of.n)

    @classmethod
    def silent(cls, why: str) -> Measured:
        """The check does not apply, or could not be made."""
        return cls(why, None)


NO_IMAGE = "The model gets no image right, so there is none to measure it on."
"""Of a check that looks at right images, where there are none."""

NO_SOLVER = "The model has no ODE solver that could be turned: neither our blocks nor a torchdiffeq call."
FIXED = "The solver takes fixed steps: nothing is chosen, so nothing of the choice can mask."

Need = Literal["solver", "steps", "image"]
MISSING: dict[Need, str] = {"solver": NO_SOLVER, "steps": FIXED, "image": NO_IMAGE}
"""What a check may need: an ODE solver, one that chooses its steps, an image that the model gets right; and what is
said where that is missing."""

Look = Callable[["Subject"], Measured]


@dataclass(frozen=True)
class Check:
    """One question to a model. `raised_if`, `means`, `remedy`, `source` are for the reader of its finding."""

    name: str
    family: Family
    title: str
    bears: Bears
    raised_if: str
    means: str
    remedy: str
    source: str
    look: Look
    unit: str = ""
    threshold: float | None = None

    def __call__(self, subject: Subject) -> Finding:
        """Ask it, and write down what it cost. An error of the model's code is a finding too, not the audit's end."""
        start, before = time.perf_counter(), subject.passes
        try:
            measured = self.look(subject)
        except Exception as error:
            measured = Measured.silent(f"{UNMEASURED}: {first_line(error)}")
        low, high = measured.interval or (None, None)
        return Finding(
            name=self.name,
            family=self.family,
            title=self.title,
            raised=measured.raised,
            bears=self.bears,
            measured=measured.sentence,
            value=measured.value,
            low=low,
            high=high,
            unit=self.unit,
            threshold=self.threshold,
            n=measured.n,
            raised_if=self.raised_if,
            means=self.means,
            remedy=self.remedy,
            source=self.source,
            seconds=time.perf_counter() - start,
            passes=subject.passes - before,
        )


CHECKS: dict[str, Check] = {}
"""Every check by its name, in the order they are asked. Filled by `check`, as the modules of checks are imported."""


def check(
    name: str,
    family: Family,
    title: str,
    *,
    bears: Bears = "warning",
    raised_if: str,
    means: str,
    remedy: str,
    source: str,
    unit: str = "",
    threshold: float | None = None,
    needs: tuple[Need, ...] = (),
) -> Callable[[Look], Look]:
    """Register a function as the check `name`. Where something that it `needs` is missing, it says so and is silent."""

    def register(look: Look) -> Look:
        if name in CHECKS:
            raise ValueError(f"a check called {name!r} is there already; names are the anchors of docs/findings.md.")

        @wraps(look)
        def asked(subject: Subject) -> Measured:
            missing = next((need for need in needs if not _has(subject, need)), None)
            return look(subject) if missing is None else Measured.silent(MISSING[missing])

        CHECKS[name] = Check(name, family, title, bears, raised_if, means, remedy, source, asked, unit, threshold)
        return asked

    return register


def _has(subject: Subject, need: Need) -> bool:
    if need == "image":
        return bool(subject.right.any())
    return subject.dial is not None and (need == "solver" or subject.dial.adaptive)


def first_line(error: Exception) -> str:
    """What went wrong, in one line of at most some 300 characters."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}"
