"""Cells that judge a network with what the other rooms have: an ensemble's worst case, and the audit's verdict."""

from __future__ import annotations

from pathlib import Path

from sonet.attacks import Threat
from sonet.attacks.ensemble import ENSEMBLES
from sonet.audit import EFFORTS, CannotAudit, audit
from sonet.evaluation import evaluate, gradient_sources
from sonet.experiments.attacking import Victim
from sonet.experiments.cells import Cell, Outcome, Report
from sonet.experiments.plan import Plan
from sonet.report import Row
from sonet.report.planned import Audited


def run_ensemble(cell: Cell, plan: Plan, victim: Victim, folder: Path, report: Report) -> Outcome:
    """One row: the images that stand under every attack of the ensemble, as deployed. Batches are in `folder`."""
    assert cell.eps is not None
    assert cell.attack is not None  # cells of this kind have both
    images, labels = victim.images[: cell.images], victim.labels[: cell.images]
    sources = gradient_sources(victim.model, images, labels)
    members = ENSEMBLES[cell.attack][0](sources, cell.seed)
    names = [member.name for member in members]
    found = evaluate(
        victim.model,
        images,
        labels,
        Threat(cell.norm, cell.eps),
        members,
        gradients=sources,
        judge_batch=plan.judge_batch,
        out=folder,
        about={"weights": victim.weights, "cell": cell.key},
        watch=lambda name, done, word: report(min((names.index(name) + done) / len(names), 1.0), f"{name}, {word}"),
    )
    notes = [f"the worst of {', '.join(names)} for each image"]
    if found.flips:
        notes.append(f"{found.flips} predictions change with the batch they are judged in")
    row = Row.of(
        found.accuracy,
        model=cell.model.name,
        objective=cell.objective,
        seed=cell.seed,
        attack=cell.attack,
        eps=cell.eps,
        norm=cell.norm,
        step_gradient=plan.attacks.step_gradients[0] if plan.adaptive(cell.model) else None,
        seconds=sum(attempt.seconds for attempt in found.attempts),
        note="; ".join(notes),
    )
    return Outcome(rows=(row,))


def ask_audit(cell: Cell, plan: Plan, victim: Victim, report: Report) -> Outcome:
    """The verdict of a quick audit; one that refuses the network, as one that guesses, is inconclusive and says why."""
    assert cell.eps is not None  # cells of this kind have one
    images, labels = victim.images[: cell.images], victim.labels[: cell.images]
    threat = Threat(cell.norm, cell.eps)
    who = {"model": cell.model.name, "objective": cell.objective, "seed": cell.seed, "threat": str(threat)}
    try:
        found = audit(
            victim.model,
            (images, labels),
            threat,
            effort=EFFORTS["quick"].model_copy(update={"images": len(images)}),
            batch=plan.judge_batch,
            seed=cell.seed,
            name=cell.row,
            classes=victim.classes,
            tell=report,
        ).record
    except CannotAudit as refusal:
        said = {
            "verdict": "inconclusive",
            "summary": f"It was not audited: {refusal}",
            "n": len(images),
            "seconds": 0.0,
        }
        return Outcome(audits=(Audited.model_validate(who | said),))
    counts = {"natural": found.natural.count, "plain": found.plain.count, "worst": found.worst.count}
    words = {"verdict": found.verdict, "cause": found.cause, "causes": found.causes, "summary": found.summary}
    rest = {"n": found.worst.n, "seconds": found.seconds}
    return Outcome(audits=(Audited.model_validate(who | counts | words | rest),))
