"""`audit`: ask all questions, attack, name the cause, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sonet.attacks.threat import Threat
from sonet.audit import answers, behaviour, indicators, latency, matrix, overestimate, slopes, solver
from sonet.audit.cause import find_causes, name_cause
from sonet.audit.check import CHECKS
from sonet.audit.effort import EFFORTS, Effort, Level
from sonet.audit.preflight import preflight, require
from sonet.audit.scenery import outcomes, pictures, surface
from sonet.audit.siege import besiege
from sonet.audit.sources import Cut
from sonet.audit.subject import BATCH, Subject
from sonet.audit.verdict import DOUBTS, TELLING, judge, suspected
from sonet.data import Dataset, Split
from sonet.report.audit_record import AuditRecord, Bar, Count, Finding
from sonet.report.environment import Environment
from sonet.types import Classifier, Images, Labels

ASKED_FIRST = ("answers", "gradient")
"""Families asked before the attacks; the others look at what attacks found."""
MODULES = (answers, slopes, overestimate, behaviour, indicators, solver, matrix, latency)
"""Where checks are, in the order of a report."""
ORDER = [name for module in MODULES for name, each in CHECKS.items() if each.look.__module__ == module.__name__]

EXIT_CODES = {"no masking found": 0, "masked": 3, "inconclusive": 4}

Tell = Callable[[float, str], None]
"""Called with the share done, in [0, 1], and a word on what is under way."""


@dataclass(frozen=True)
class Audit:
    """An audit's record, and the strongest adversarial images it found, (N, C, H, W)."""

    record: AuditRecord
    adversarial: Images

    @property
    def verdict(self) -> str:
        return self.record.verdict

    @property
    def exit_code(self) -> int:
        """0 no masking found, 3 masked, 4 inconclusive."""
        return EXIT_CODES[self.record.verdict]

    def __str__(self) -> str:
        from sonet.report import audit_plain

        return audit_plain(self.record)


def audit(
    model: Classifier,
    data: Dataset | Split | tuple[Images, Labels],
    threat: Threat,
    *,
    effort: Level | Effort = "normal",
    budget: float | None = None,
    batch: int = BATCH,
    backbone: Classifier | None = None,
    seed: int = 0,
    name: str | None = None,
    about: dict[str, Any] | None = None,
    command: str = "",
    again: str = "",
    classes: Sequence[str] = (),
    tell: Tell = lambda done, word: None,
) -> Audit:
    """Say whether the accuracy that attacks leave `model` is masked, why, and what to run next.

    Args:
        model: (N, C, H, W) in [0, 1] -> logits; a module must be in eval mode.
        data: a dataset (its test images), a split, or (images, labels). The first `effort.images` are audited.
        effort: "quick", "normal", "thorough", or an `Effort` of your own.
        budget: seconds; what would start later is left out and listed in `not_run`, and a verdict that lacks attacks is
            inconclusive unless it is masked already. So it is where an error of the model breaks an attack off.
        batch: images judged together, as deployed.
        backbone: of a defence, the undefended network.
        about, command, again, classes: for the record: settings, what was typed, what to type next without its effort
            (default: a call of this function), names of classes.

    Errors: `CannotAudit` with a sentence that says what to change, before any attack.
    """
    started = time.perf_counter()
    size = EFFORTS[effort] if isinstance(effort, str) else effort
    images, labels = _taken(data, size.images)
    ready = require(preflight(model, images, labels, batch=batch), name or "the model")
    subject = Subject(
        model if ready.gradient else Cut(model),
        images.detach().contiguous(),
        labels,
        threat,
        size,
        seed,
        batch,
        backbone,
    )
    classes = list(classes) or (list(data.classes) if isinstance(data, Dataset) else [])
    progress = _Progress(subject, started, budget, tell)

    findings: list[Finding] = []
    _ask(progress, findings, [name for name in ORDER if CHECKS[name].family in ASKED_FIRST])
    besiege(subject, progress.may)
    unfinished = bool(subject.not_run)
    _ask(progress, findings, [name for name in ORDER if CHECKS[name].family not in ASKED_FIRST])
    bars: list[Bar] = []
    if any(finding.raised for finding in findings if finding.name in ("overestimate", "pgd-overestimate")):
        bars = find_causes(subject, progress.may, TELLING if suspected(subject, findings) else 0)
    cause = name_cause(bars)
    unfinished |= bool(DOUBTS.keys() & subject.not_run)
    judged = judge(subject, findings, bars, cause, unfinished)
    stages, title = subject.stages, name or type(model).__name__
    tell(1.0, judged.verdict)
    record = AuditRecord(
        title=f"{title} at {threat}",
        verdict=judged.verdict,
        summary=judged.summary,
        decisive=list(judged.decisive),
        next_command=_next(again, size, threat),
        threat=str(threat),
        model=title,
        data=_described(data),
        settings={
            "effort": size.model_dump(),
            "batch": batch,
            "budget": budget,
            "seed": seed,
            "before": list(ready.notes),
        }
        | (about or {}),
        command=command,
        environment=Environment.here(),
        natural=Count.of(subject.natural),
        plain=Count.of(stages.plain),
        worst=Count.of(stages.left),
        overestimate=Count.of(stages.overestimate),
        findings=findings,
        stages=[attempt.stage for attempt in stages.attempts],
        causes=bars,
        cause=cause,
        matrix=subject.matrix,
        ladders=list(subject.ladders.values()),
        surface=surface(subject),
        outcomes=outcomes(subject, list(classes)),
        pictures=pictures(subject, title, list(classes)),
        not_run=subject.not_run,
        seconds=time.perf_counter() - started,
    )
    return Audit(record, stages.worst)


@dataclass
class _Progress:
    """Says what is under way, and whether there is time for it."""

    subject: Subject
    started: float
    budget: float | None
    tell: Tell
    begun: int = 0

    def may(self, word: str) -> bool:
        # About 45 pieces are begun in an audit; the share is a guide for the eye, no forecast.
        self.begun += 1
        self.tell(min(self.begun / 45, 0.99), word)
        if self.budget is None or time.perf_counter() - self.started < self.budget:
            return True
        self.subject.not_run[word] = f"the budget of {self.budget:g} s was spent"
        return False


def _ask(progress: _Progress, findings: list[Finding], names: list[str]) -> None:
    for name in names:
        if CHECKS[name].bears == "decisive" or progress.may(name):
            findings.append(CHECKS[name](progress.subject))


def _taken(data: Dataset | Split | tuple[Images, Labels], count: int) -> tuple[Images, Labels]:
    if isinstance(data, Dataset):
        data = data.test
    images, labels = (data.images, data.labels) if isinstance(data, Split) else data
    return images[:count], labels[:count]


def _described(data: Dataset | Split | tuple[Images, Labels]) -> dict[str, Any]:
    if isinstance(data, Dataset):
        return data.describe()
    images = data.images if isinstance(data, Split) else data[0]
    return {"name": "tensors", "shape": list(images.shape)}


def _next(again: str, size: Effort, threat: Threat) -> str:
    """What to type next: more of the same until it is thorough; then another seed."""
    if again:
        return again + {"quick": "", "normal": " --thorough", "thorough": " --thorough --seed 1"}[size.level]
    more = {"quick": "normal", "normal": "thorough", "thorough": "thorough"}[size.level]
    seed = ", seed=1" if size.level == "thorough" else ""
    return f'sonet.audit(model, data, sonet.attacks.Threat.parse("{threat}"), effort="{more}"{seed})'
