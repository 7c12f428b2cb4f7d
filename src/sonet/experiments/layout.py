"""From a plan to its cells, in the order of the table; and about what each costs."""

from __future__ import annotations

from collections.abc import Iterator

from sonet.experiments.cells import Cell
from sonet.experiments.parts import Ball
from sonet.experiments.plan import Plan, TableRow
from sonet.solvers import Adaptive


def lay_out(plan: Plan) -> list[Cell]:
    """All cells of the rows to do."""
    return [cell for seed in range(plan.seeds) for row in plan.chosen for cell in _of_row(plan, row, seed)]


def _of_row(plan: Plan, row: TableRow, seed: int) -> Iterator[Cell]:
    base = Cell(kind="train", model=row.model, objective=row.objective, seed=seed)
    yield base
    if plan.adaptive(row.model):
        yield base.model_copy(update={"kind": "leak"})
    for ball in plan.attacks.balls:
        for eps in ball.eps:
            yield from _attacks(plan, base, ball, eps)
    yield from _switched(plan, base)
    first, largest = plan.attacks, max(plan.attacks.eps)
    for kind, part in (("ensemble", plan.ensemble), ("audit", plan.audit)):
        if part is not None and plan.meant(row, part.only):
            name = None if plan.ensemble is None or kind == "audit" else plan.ensemble.name
            where = {"norm": first.norm, "eps": largest, "images": part.images}
            yield base.model_copy(update={"kind": kind, "attack": name} | where)


def _reference(plan: Plan, base: Cell, ball: Ball, eps: float) -> Cell:
    """PGD on cross-entropy from the image itself, as many images at a time as the plan has, at the fewest steps."""
    attacks = plan.attacks
    return base.model_copy(
        update={
            "kind": "attack",
            "attack": "pgd",
            "steps": (min(attacks.steps),),
            "loss": "ce",
            "step_gradient": attacks.step_gradients[0] if plan.adaptive(base.model) else None,
            "attack_batch": max(attacks.batches),
            "norm": ball.norm,
            "eps": eps,
            "step_size": ball.step_size,
            "chunk": attacks.chunk,
        }
    )


def _attacks(plan: Plan, base: Cell, ball: Ball, eps: float) -> Iterator[Cell]:
    attacks, adaptive = plan.attacks, plan.adaptive(base.model)
    cell = _reference(plan, base, ball, eps)
    largest = eps == max(ball.eps) and ball is attacks
    yield cell.model_copy(update={"steps": tuple(sorted(attacks.steps)), "pictures": not adaptive and largest})
    if adaptive:
        for gradient in attacks.step_gradients:
            for batch in attacks.batches:
                if (gradient, batch) != (cell.step_gradient, cell.attack_batch):
                    show = largest and gradient == "frozen" and batch == cell.attack_batch
                    changes = {"step_gradient": gradient, "attack_batch": batch, "pictures": show}
                    yield cell.model_copy(update=changes)
    for loss in attacks.losses:
        yield cell.model_copy(update={"loss": loss})
    spsa = attacks.spsa
    yield cell.model_copy(
        update={
            "attack": "spsa",
            "steps": (spsa.steps,),
            "loss": "margin",
            "step_gradient": None,
            "attack_batch": 1,
            "step_size": None,
            "images": None if base.objective in spsa.whole else spsa.images,
        }
    )


def _switched(plan: Plan, base: Cell) -> Iterator[Cell]:
    """The reference attack at the largest radius of the first norm with one thing changed."""
    switches, adaptive = plan.switches, plan.adaptive(base.model)
    cell = _reference(plan, base, plan.attacks, max(plan.attacks.eps)).model_copy(update={"images": switches.images})

    def with_(words: str, **changes: object) -> Cell:
        return cell.model_copy(update={"changed": words} | changes)

    if adaptive and isinstance(plan.solver, Adaptive):
        if switches.scope not in (None, plan.solver.scope):
            whose = "each image's own steps" if switches.scope == "sample" else "steps shared by the batch"
            yield with_(whose, solver={"scope": switches.scope})
        if switches.tolerance is not None:
            both = {"rtol": switches.tolerance, "atol": switches.tolerance}
            yield with_(f"tolerance {switches.tolerance:g}", solver=both)
        if switches.end not in (None, plan.solver.end):
            how = "by clipping the last step" if switches.end == "clip" else "by dense output"
            yield with_(f"end {how}", solver={"end": switches.end})
    if switches.eps is not None:
        yield with_("another radius", eps=switches.eps)
    if switches.random_start:
        yield with_("random start", random_start=True)
    if switches.restarts > 1:
        yield with_(f"{switches.restarts} random starts", random_start=True, restarts=switches.restarts)
    if switches.nearest is not None:
        nearest = {"attack": switches.nearest, "steps": (), "loss": None, "attack_batch": 1, "step_size": None}
        yield with_("nearest image", **nearest)


def cost(cell: Cell, plan: Plan) -> float:
    """About how long a cell takes, in arbitrary units: for the order of work and the progress bar only."""
    kind = cell.model.network
    weight = {"sonet": 5.0, "odenet": 10.0}.get(kind, 1.2 if "soblock" in kind else 0.3)
    share = (cell.images or plan.images) / plan.images
    if cell.kind == "train":
        config = plan.objective(cell.objective)
        inner = (config.attack_steps or 10) if config.objective in ("madry", "trades") else 0
        return weight * config.epochs * 45 * (1 + inner)
    if cell.kind == "leak":
        return weight * 2.0 * plan.images
    if cell.kind == "ensemble":
        return weight * share * 3000
    if cell.kind == "audit":
        return weight * share * 2000
    if cell.attack == "spsa":
        return weight * plan.attacks.spsa.steps * share * (plan.attacks.spsa.samples + 1) * plan.images / 100
    return weight * 2.5 * share * max(cell.steps, default=50) * cell.restarts
