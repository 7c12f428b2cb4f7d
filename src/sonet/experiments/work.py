"""Doing a cell: load what it needs, train or attack, and leave its outcome in a file."""

from __future__ import annotations

import time
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonet.attacks import L2, PGD, SPSA, Linf, predict
from sonet.audit import own_gradient_share
from sonet.blocks import watch_solves
from sonet.data import Dataset, Split, load
from sonet.experiments.cells import Cell, Outcome, Report
from sonet.experiments.plan import Plan
from sonet.models import build, variant
from sonet.report import Leak, ModelCard, Picture, Row, StepHistogram, write_whole
from sonet.solvers import Adaptive, Solution
from sonet.training import BatchReport, fit, load_model
from sonet.types import Classifier, Proportion


def outcome_file(cell: Cell, out: Path) -> Path:
    return out / "cells" / f"{cell.key}.json"


def finished(cell: Cell, out: Path) -> Outcome | None:
    """The outcome of a cell done earlier."""
    file = outcome_file(cell, out)
    return Outcome.model_validate_json(file.read_text()) if file.is_file() else None


def do_cell(cell: Cell, plan: Plan, out: Path, data_dir: Path | None, report: Report) -> Outcome:
    """Do the cell, write its outcome whole, and return it. Training killed half-way goes on at its last epoch."""
    data = _data(plan.data, data_dir)
    if cell.kind == "train":
        outcome = _train(cell, plan, data, out, report)
    else:
        model = load_model(_run(cell, out))
        device = "cuda" if plan.training.device == "auto" and torch.cuda.is_available() else "cpu"
        model.to(device)
        test = data.test.take(plan.images)
        images, labels = test.images.to(device), test.labels.to(device)
        if cell.kind == "leak":
            outcome = _leak(cell, plan, model, images, labels)
        else:
            outcome = _attack(cell, plan, model, images, labels, data.classes, report)
    write_whole(outcome_file(cell, out), outcome.model_dump_json())
    return outcome


@cache
def _data(name: str, data_dir: Path | None) -> Dataset:
    return load(name, data_dir=data_dir)


def _run(cell: Cell, out: Path) -> Path:
    return out / "models" / f"{cell.model.name}-{cell.seed}"


def _train(cell: Cell, plan: Plan, data: Dataset, out: Path, report: Report) -> Outcome:
    config = plan.network(cell.model, in_channels=data.channels, classes=data.num_classes)
    model = build(config, seed=cell.seed)
    training = plan.training.model_copy(update={"seed": cell.seed})

    def tell(batch: BatchReport) -> None:
        report(batch.done, str(batch))

    history = fit(model, data.train, training, run=_run(cell, out), data=data.describe(), progress=tell)
    start = time.perf_counter()
    test: Split = data.test
    hits = predict(model, test.images, plan.judge_batch) == test.labels
    natural = Proportion(int(hits.sum()), len(test))
    row = Row.of(
        natural,
        model=cell.model.name,
        objective=training.objective,
        seed=cell.seed,
        attack="none",
        eps=0.0,
        seconds=time.perf_counter() - start,
    )
    solver = getattr(config, "solver", None)
    card = ModelCard(
        model=cell.model.name,
        objective=training.objective,
        seed=cell.seed,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=len(history),
        train_seconds=sum(epoch.seconds for epoch in history),
        config=config.model_dump(mode="json"),
        solver=solver.model_dump(mode="json") if solver else None,
        natural=natural.value,
    )
    return Outcome(cards=(card,), rows=(row,))


def _leak(cell: Cell, plan: Plan, model: nn.Module, images: Tensor, labels: Tensor) -> Outcome:
    whole = max(plan.attacks.batches)
    leaks = []
    for batch in plan.attacks.batches:
        if batch > 1:
            grouped = variant(model, **_sharing(plan, batch), step_gradient="differentiated")
            shares = own_gradient_share(grouped, images, labels, stride=batch)
            known = shares[torch.isfinite(shares)].clamp(0.0, 1.0).tolist()
            if known:
                leaks.append(
                    Leak(
                        model=cell.model.name,
                        seed=cell.seed,
                        attack_batch=batch,
                        step_gradient="differentiated",
                        shares=known,
                    )
                )
    solves: dict[str, list[Solution]] = {}
    with watch_solves(model, lambda name, solution: solves.setdefault(name, []).append(solution)):
        predict(model, images, whole)
    steps = [
        StepHistogram(
            model=cell.model.name,
            seed=cell.seed,
            block=name,
            accepted=dict(sorted(Counter(torch.cat([s.accepted for s in solutions]).tolist()).items())),
            mean_evaluations=float(torch.cat([s.evaluations for s in solutions]).float().mean()),
        )
        for name, solutions in solves.items()
    ]
    return Outcome(leaks=tuple(leaks), steps=tuple(steps))


def _sharing(plan: Plan, batch: int | None) -> dict[str, Any]:
    """The change of solver that stands for attacking in batches of `batch`, done in one large batch and so faster.

    Batch-wide steps in batches of k are steps shared by each k samples of the large batch; for k = 1, by nobody.
    Per-sample steps stay what they are: there the attack's batch changes nothing.
    """
    if isinstance(plan.solver, Adaptive) and plan.solver.scope == "batch":
        return {"scope": "sample" if batch == 1 else batch}
    return {}


def _crafting_model(cell: Cell, plan: Plan, model: nn.Module) -> Classifier | None:
    """The variant that the gradients (or, for SPSA, the losses) come from; None for a network without adaptive steps.

    SPSA has no gradient, and so no step gradient: "frozen" stands for any.
    """
    if not plan.adaptive(cell.model):
        return None
    return variant(model, **_sharing(plan, cell.attack_batch), step_gradient=cell.step_gradient or "frozen")


def _attack(
    cell: Cell,
    plan: Plan,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    report: Report,
) -> Outcome:
    assert cell.eps is not None  # cells of this kind have one
    threat = Linf(cell.eps) if plan.attacks.norm == "linf" else L2(cell.eps)
    last, loss = max(cell.steps), cell.loss or "ce"
    if cell.attack == "spsa":
        number = min(plan.attacks.spsa.images, len(images))
        images, labels = images[:number], labels[:number]
        attack: PGD | SPSA = SPSA(
            steps=last, samples=plan.attacks.spsa.samples, loss=loss, seed=cell.seed, batch_size=plan.images
        )
    else:
        attack = PGD(steps=last, loss=loss, keep="last", batch_size=plan.images)
    done = 0.0

    def tell(image_steps: float) -> None:
        nonlocal done
        done += image_steps / (len(images) * last)
        report(min(done, 1.0), "")

    result = attack.run(
        model,
        images,
        labels,
        threat,
        gradients_from=_crafting_model(cell, plan, model),
        judge_batch=plan.judge_batch,
        checkpoints=tuple(step for step in cell.steps if step != last),
        progress=tell,
    )
    row = partial(
        Row.of,
        model=cell.model.name,
        objective=plan.training.objective,
        seed=cell.seed,
        attack=cell.attack or "",
        eps=cell.eps,
        loss=loss,
        step_gradient=cell.step_gradient,
        attack_batch=cell.attack_batch,
        norm=plan.attacks.norm,
        step_size=threat.eps / (4 if cell.attack == "spsa" else 8),
        keep="best" if cell.attack == "spsa" else "last",
    )
    rows = []
    for steps in cell.steps:
        if steps == last:
            right = result.accuracy
            note = (
                f"{result.flips} of {right.n} predictions differ when judged in batches of another size"
                if result.flips
                else ""
            )
            rows.append(
                row(right, steps=steps, seconds=result.seconds, zero_gradients=result.zero_gradient_share, note=note)
            )
        else:
            hits = predict(model, result.checkpoints[steps], plan.judge_batch) == labels
            note = f"an iterate of the {last}-step run; its time is that run's, by steps"
            right = Proportion(int(hits.sum()), len(labels))
            rows.append(row(right, steps=steps, seconds=result.seconds * steps / last, note=note))
    pictures: list[Picture] = []
    if cell.pictures and cell.seed == 0:
        for index in range(min(4, len(images))):
            pictures.append(
                Picture.of(
                    images[index].cpu(),
                    result.adversarial[index].cpu(),
                    model=cell.model.name,
                    seed=cell.seed,
                    attack=f"PGD-{last}" + (f", {cell.step_gradient} steps" if cell.step_gradient else ""),
                    eps=cell.eps,
                    index=index,
                    label=classes[int(labels[index])],
                    predicted_clean=_name(classes, int(result.clean[index])),
                    predicted_adversarial=_name(classes, int(result.predictions[index])),
                )
            )
    return Outcome(rows=tuple(rows), pictures=tuple(pictures))


def _name(classes: tuple[str, ...], prediction: int) -> str:
    return classes[prediction] if prediction >= 0 else "not finite"
