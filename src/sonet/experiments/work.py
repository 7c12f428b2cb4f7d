"""Doing a cell: load what it needs, train, measure or attack, and leave its outcome in a file."""

from __future__ import annotations

import time
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from sonet.attacks import predict
from sonet.audit import own_gradient_share
from sonet.blocks import watch_solves
from sonet.data import Dataset, load
from sonet.experiments.attacking import Victim, attack, sharing
from sonet.experiments.cells import Cell, Outcome, Report
from sonet.experiments.judging import ask_audit, run_ensemble
from sonet.experiments.plan import Plan
from sonet.experiments.units import drop
from sonet.models import build, variant
from sonet.report import Leak, ModelCard, Row, StepHistogram, write_whole
from sonet.solvers import Solution
from sonet.training import BatchReport, fit, load_checkpoint, restore
from sonet.types import Proportion


def outcome_file(cell: Cell, out: Path) -> Path:
    return out / "cells" / f"{cell.key}.json"


def finished(cell: Cell, out: Path) -> Outcome | None:
    """The outcome of a cell done earlier."""
    file = outcome_file(cell, out)
    return Outcome.model_validate_json(file.read_text()) if file.is_file() else None


def do_cell(cell: Cell, plan: Plan, out: Path, data_dir: Path | None, report: Report) -> Outcome:
    """Do the cell, write its outcome whole, and return it.

    Killed half-way, training goes on at its last epoch, an attack or an ensemble at its last batch.
    """
    data = load_data(plan, data_dir)
    units = out / "units" / cell.key
    if cell.kind == "train":
        outcome = _train(cell, plan, data, out, report)
    else:
        victim = _victim(cell, plan, data, out)
        if cell.kind == "leak":
            outcome = _leak(cell, plan, victim.model, victim.images, victim.labels)
        elif cell.kind == "ensemble":
            outcome = run_ensemble(cell, plan, victim, units, report)
        elif cell.kind == "audit":
            outcome = ask_audit(cell, plan, victim, report)
        else:
            outcome = attack(cell, plan, victim, units, report)
    write_whole(outcome_file(cell, out), outcome.model_dump_json())
    drop(units)
    return outcome


def load_data(plan: Plan, data_dir: Path | None) -> Dataset:
    return _data(plan.data, data_dir, plan.train_images)


@cache
def _data(name: str, data_dir: Path | None, train: int | None) -> Dataset:
    return load(name, data_dir=data_dir, limit_train=train)


def _run(cell: Cell, out: Path) -> Path:
    return out / "models" / cell.network


def _device(plan: Plan) -> str:
    return "cuda" if plan.training.device == "auto" and torch.cuda.is_available() else "cpu"


def _victim(cell: Cell, plan: Plan, data: Dataset, out: Path) -> Victim:
    checkpoint, device = load_checkpoint(_run(cell, out)), _device(plan)
    test = data.test.take(plan.images)
    return Victim(
        model=restore(checkpoint).to(device),
        images=test.images.to(device),
        labels=test.labels.to(device),
        classes=data.classes,
        weights=checkpoint.description.files["model.safetensors"],
    )


def _train(cell: Cell, plan: Plan, data: Dataset, out: Path, report: Report) -> Outcome:
    config = plan.network(cell.model, in_channels=data.channels, classes=data.num_classes)
    model = build(config, seed=cell.seed)
    training = plan.objective(cell.objective).model_copy(update={"seed": cell.seed})

    def tell(batch: BatchReport) -> None:
        report(batch.done, str(batch))

    history = fit(model, data.train, training, run=_run(cell, out), data=data.describe(), progress=tell)
    device = _device(plan)
    model.to(device)
    start = time.perf_counter()
    hits = predict(model, data.test.images.to(device), plan.judge_batch) == data.test.labels.to(device)
    natural = Proportion(int(hits.sum()), len(data.test))
    row = Row.of(
        natural,
        model=cell.model.name,
        objective=cell.objective,
        seed=cell.seed,
        attack="none",
        eps=0.0,
        seconds=time.perf_counter() - start,
        reported=plan.reported(cell.row, "none", 0, None, 0.0),
    )
    solver = getattr(config, "solver", None)
    card = ModelCard(
        model=cell.model.name,
        objective=cell.objective,
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
    chunk = plan.attacks.chunk or len(images)
    who = {"model": cell.model.name, "objective": cell.objective, "seed": cell.seed}
    leaks = []
    for batch in plan.attacks.batches:
        if batch > 1:
            grouped = variant(model, **sharing(plan, batch), step_gradient="differentiated")
            some, theirs = images[:chunk], labels[:chunk]
            shares = own_gradient_share(grouped, some, theirs, stride=batch)
            known = shares[torch.isfinite(shares)].clamp(0.0, 1.0).tolist()
            if known:
                leak = {"attack_batch": batch, "step_gradient": "differentiated", "shares": known}
                leaks.append(Leak.model_validate(who | leak))
    solves: dict[str, list[Solution]] = {}
    with watch_solves(model, lambda name, solution: solves.setdefault(name, []).append(solution)):
        predict(model, images, whole)
    steps = []
    for name, solutions in solves.items():
        accepted = torch.cat([s.accepted for s in solutions]).tolist()
        evaluations = torch.cat([s.evaluations for s in solutions]).float()
        counted = {"accepted": dict(sorted(Counter(accepted).items())), "mean_evaluations": float(evaluations.mean())}
        steps.append(StepHistogram.model_validate(who | {"block": name} | counted))
    return Outcome(leaks=tuple(leaks), steps=tuple(steps))
