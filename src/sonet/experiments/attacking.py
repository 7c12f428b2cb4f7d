"""An attack cell: craft batch by batch, judge on the network as deployed, and make rows of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sonet.attacks import ATTACKS, PGD, SPSA, Attack, Backpropagation, Threat, predict
from sonet.attacks.attack import other_batch
from sonet.experiments.cells import Cell, Outcome, Report
from sonet.experiments.plan import Plan
from sonet.experiments.units import Made, craft_in_units
from sonet.models import variant
from sonet.report import Picture, Row
from sonet.solvers import Adaptive
from sonet.types import Classifier, Images, Labels, Proportion

CLIPPED, WITHIN = "clipped to the ball", "success at eps"
"""How the result of a search for the nearest image is counted: judged after projection, or by the distance found."""


@dataclass(frozen=True)
class Victim:
    """A trained network with the images it is attacked on. weights: SHA-256 of its file."""

    model: nn.Module
    images: Images
    labels: Labels
    classes: tuple[str, ...]
    weights: str


def attack(cell: Cell, plan: Plan, victim: Victim, folder: Path, report: Report) -> Outcome:
    """Rows of the attack, one for each number of steps; batches that were made before are in `folder`."""
    assert cell.eps is not None  # cells of this kind have one
    images, labels = victim.images[: cell.images], victim.labels[: cell.images]
    deployed: Classifier = variant(victim.model, **cell.solver) if cell.solver else victim.model
    threat = Threat(cell.norm, cell.eps)
    tool = _tool(cell, plan, len(images))
    last = max(cell.steps, default=0)
    made = craft_in_units(
        tool,
        Backpropagation(crafting_model(cell, plan, victim.model) or victim.model),
        images,
        labels,
        threat,
        checkpoints=tuple(step for step in cell.steps if step != last),
        folder=folder,
        about=f"{victim.weights} {cell.key}",
        tell=lambda done: report(done, ""),
    )
    threat.check(made.adversarial, images)
    judged = predict(deployed, made.adversarial, plan.judge_batch)
    rows = _rows(cell, plan, tool, deployed, made, judged, images, labels)
    pictures = _pictures(cell, plan, victim, made, judged) if cell.pictures and cell.seed == 0 else []
    return Outcome(rows=tuple(rows), pictures=tuple(pictures))


def sharing(plan: Plan, batch: int | None, scope: str | None = None) -> dict[str, Any]:
    """The change of solver that stands for attacking in batches of `batch`, done in one large batch and so faster.

    Batch-wide steps in batches of k are steps shared by each k samples of the large batch; for k = 1, by nobody.
    Per-sample steps stay what they are: there the attack's batch changes nothing. scope: the deployed one, if changed.
    """
    if isinstance(plan.solver, Adaptive) and (scope or plan.solver.scope) == "batch":
        return {"scope": "sample" if batch == 1 else batch}
    return {} if scope is None else {"scope": scope}


def crafting_model(cell: Cell, plan: Plan, model: nn.Module) -> Classifier | None:
    """The variant that the gradients (or, for SPSA, the losses) come from; None for a network without adaptive steps.

    SPSA has no gradient, and so no step gradient: "frozen" stands for any.
    """
    if not plan.adaptive(cell.model):
        return None
    shared = sharing(plan, cell.attack_batch, cell.solver.get("scope"))
    return variant(model, **(cell.solver | shared), step_gradient=cell.step_gradient or "frozen")


def _tool(cell: Cell, plan: Plan, images: int) -> Attack:
    settings: dict[str, Any] = {"seed": cell.seed, "batch_size": min(cell.chunk or images, images)}
    if cell.steps:
        settings |= {"steps": max(cell.steps), "loss": cell.loss}
    if cell.attack == "spsa":
        return SPSA(**settings, samples=plan.attacks.spsa.samples)
    if cell.attack == "pgd":
        start: dict[str, Any] = {"random_start": cell.random_start, "restarts": cell.restarts}
        return PGD(**settings, **start, step_size=cell.step_size, keep="last")
    return ATTACKS[cell.attack or ""][0](**settings)


def _rows(
    cell: Cell,
    plan: Plan,
    tool: Attack,
    deployed: Classifier,
    made: Made,
    judged: Tensor,
    images: Images,
    labels: Labels,
) -> list[Row]:
    assert cell.eps is not None
    row = partial(
        Row.of,
        model=cell.model.name,
        objective=cell.objective,
        seed=cell.seed,
        attack=cell.attack or "",
        eps=cell.eps,
        loss=cell.loss,
        step_gradient=cell.step_gradient,
        attack_batch=cell.attack_batch,
        norm=cell.norm,
        restarts=cell.restarts,
        random_start=cell.random_start,
        changed=cell.changed,
    )
    zero = float(made.zero_gradients.float().mean())
    elsewhere = predict(deployed, made.adversarial, other_batch(min(plan.judge_batch, len(images))))
    right, flips = _count(judged == labels), int((judged != elsewhere).sum())
    notes = [f"{flips} of {right.n} predictions differ when judged in batches of another size"] if flips else []
    if cell.solver:
        clean = _count(predict(deployed, images, plan.judge_batch) == labels)
        notes.append(f"so deployed {clean.value:.2f} are right without attack")
    note = "; ".join(notes)
    if made.minimum is not None:
        steps = int(getattr(tool, "steps", 0))
        found = partial(row, steps=steps, seconds=made.seconds, zero_gradients=zero)
        far = _count(made.minimum > cell.eps)
        return [found(right, keep=CLIPPED, note=note), found(far, keep=WITHIN, note="counted where it was crafted")]
    row = partial(
        row,
        step_size=cell.step_size or cell.eps / (4 if cell.attack == "spsa" else 8),
        keep="best" if cell.attack == "spsa" else "last",
    )
    rows, last = [], max(cell.steps)
    for steps in cell.steps:
        reported = _reported(cell, plan, steps)
        if steps == last:
            rows.append(
                row(right, steps=steps, seconds=made.seconds, zero_gradients=zero, note=note, reported=reported)
            )
        else:
            between = _count(predict(deployed, made.checkpoints[steps], plan.judge_batch) == labels)
            said = f"an iterate of the {last}-step run; its time is that run's, by steps"
            seconds = made.seconds * steps / last
            rows.append(row(between, steps=steps, seconds=seconds, note=said, reported=reported))
    return rows


def _count(mask: Tensor) -> Proportion:
    return Proportion(int(mask.sum()), len(mask))


def _reported(cell: Cell, plan: Plan, steps: int) -> float | None:
    """The paper's figure for this row and attack: of the reference attack alone, which is the paper's."""
    attacks = plan.attacks
    own = attacks.step_gradients[0] if plan.adaptive(cell.model) else None
    if (cell.loss, cell.step_gradient, cell.attack_batch, cell.changed) != ("ce", own, max(attacks.batches), ""):
        return None
    return plan.reported(cell.row, cell.attack or "", steps, cell.norm, cell.eps)


def _pictures(cell: Cell, plan: Plan, victim: Victim, made: Made, judged: Tensor) -> list[Picture]:
    clean = predict(victim.model, victim.images[: plan.judge_batch], plan.judge_batch)
    last = max(cell.steps)

    def name(prediction: Tensor) -> str:
        return victim.classes[int(prediction)] if int(prediction) >= 0 else "not finite"

    return [
        Picture.of(
            victim.images[index].cpu(),
            made.adversarial[index].cpu(),
            model=cell.model.name,
            objective=cell.objective,
            seed=cell.seed,
            attack=f"PGD-{last}" + (f", {cell.step_gradient} steps" if cell.step_gradient else ""),
            eps=cell.eps or 0.0,
            index=index,
            label=victim.classes[int(victim.labels[index])],
            predicted_clean=name(clean[index]),
            predicted_adversarial=name(judged[index]),
        )
        for index in range(min(4, len(clean)))
    ]
