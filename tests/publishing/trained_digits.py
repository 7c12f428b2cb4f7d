"""Runs so small that training takes a moment, and records of them as the commands write them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sonet.data import Dataset, load
from sonet.models import build
from sonet.report import (
    AuditRecord,
    CertificateRecord,
    Count,
    CurvePoint,
    Environment,
    ModelCard,
    Record,
    Row,
    write,
    write_audit,
    write_certificate,
)
from sonet.solvers import paper
from sonet.training import TrainConfig, fit, load_checkpoint
from sonet.types import Proportion

torch.set_num_threads(1)

SMALL: dict[str, Any] = {"channels": 4, "blocks": (1,), "strides": (2,)}
ENVIRONMENT = Environment(
    versions={"sonet": "0.1.0"}, device="cpu", threads=1, platform="here", created="2025-01-31T12:00:00+00:00"
)


@cache
def digits() -> Dataset:
    return load("digits")


def train(run: Path, *, seed: int = 0, epochs: int = 1) -> Path:
    """A tiny SONet of the paper's solver on some digits."""
    data = digits()
    model = build("sonet", like=data, seed=seed, solver=paper(), **SMALL)
    setting = TrainConfig(epochs=epochs, batch_size=50, seed=seed, device="cpu", lr=0.05)
    fit(model, data.train.take(200), setting, test=data.test, run=run, data=data.describe())
    return run


def about(run: Path) -> dict[str, Any]:
    """What `sonet attack` and its kin write of a run into a record's settings."""
    said = load_checkpoint(run).description
    return {"run": str(run), "model": said.model, "files": said.files, "data": said.data}


def attacked(run: Path, *, natural: int = 90, left: int = 40, n: int = 100, eps: float = 0.1, **changes: Any) -> Record:
    def row(count: int, attack: str, **more: Any) -> Row:
        return Row.of(Proportion(count, n), model="sonet", seed=0, attack=attack, seconds=1.0, **more)

    values: dict[str, Any] = {
        "title": f"sonet: pgd at linf:{eps:g}",
        "verdict": "An upper bound: a stronger attack may leave less.",
        "command": f"sonet attack {run} --threat linf:{eps:g} --out /home/somebody/attacked",
        "data": digits().describe(),
        "settings": about(run),
        "environment": ENVIRONMENT,
        "rows": [row(natural, "none", eps=0.0), row(left, "pgd", eps=eps, steps=20, loss="ce", norm="linf", stage=1)],
        "seconds": 2.0,
        "complete": True,
    }
    return Record(**(values | changes))


def reproduced(run: Path, **changes: Any) -> Record:
    """A record of several networks, one of them that of the run."""
    said = load_checkpoint(run).description
    card = {
        "model": "sonet",
        "seed": said.training.seed,
        "parameters": 1,
        "epochs": said.epoch,
        "train_seconds": sum(epoch.seconds for epoch in said.history),
        "config": said.model,
        "natural": 0.9,
    } | changes
    rows = [
        Row.of(Proportion(count, 50), model=model, seed=0, attack=attack, eps=eps, seconds=1.0, norm=norm)
        for model, attack, eps, norm, count in (
            ("sonet", "none", 0.0, None, 45),
            ("sonet", "pgd", 0.2, "linf", 7),
            ("resnet10", "none", 0.0, None, 49),
            ("resnet10", "pgd", 0.2, "linf", 31),
        )
    ]
    other = card | {"model": "resnet10", "config": {"kind": "resnet10"}}
    return attacked(
        run,
        title="Digits",
        settings={"seeds": 1},
        models=[ModelCard.model_validate(one) for one in (other, card)],
        rows=rows,
    )


def audited(run: Path, **changes: Any) -> AuditRecord:
    values: dict[str, Any] = {
        "title": "mine at linf:0.1",
        "verdict": "masked",
        "summary": "Plain attacks leave 64 of 100 images, all attacks 2.",
        "decisive": [],
        "next_command": "sonet audit mine",
        "threat": "linf:0.1",
        "model": "mine",
        "data": digits().describe(),
        "settings": about(run) | {"seed": 7},
        "command": "sonet audit mine",
        "environment": ENVIRONMENT,
        "natural": Count.of(Proportion(97, 100)),
        "plain": Count.of(Proportion(64, 100)),
        "worst": Count.of(Proportion(2, 100)),
        "overestimate": Count.of(Proportion(62, 100)),
        "seconds": 1.0,
    }
    return AuditRecord(**(values | changes))


def certified(run: Path, **changes: Any) -> CertificateRecord:
    def point(eps: float, proven: int, left: int | None) -> CurvePoint:
        attacked = None if left is None else Count.of(Proportion(left, 40))
        return CurvePoint(eps=eps, certified=Count.of(Proportion(proven, 40)), attacked=attacked)

    values: dict[str, Any] = {
        "title": "mine: certified against l2",
        "summary": "38 of 40 test images are right without attack.",
        "model": "mine",
        "norm": "l2",
        "attack": "quick",
        "command": "sonet certify mine",
        "data": digits().describe(),
        "settings": about(run),
        "environment": ENVIRONMENT,
        "natural": Count.of(Proportion(38, 40)),
        "gap": 1.5,
        "error": 1e-5,
        "float64": 0.0,
        "layers": [],
        "blocks": [],
        "curve": [point(0.0, 38, None), point(0.25, 27, 35)],
        "images": [],
        "seconds": 1.0,
    }
    return CertificateRecord(**(values | changes))


def kept(record: Record | AuditRecord | CertificateRecord, folder: Path) -> Path:
    """The record on disk; its folder."""
    if isinstance(record, Record):
        write(record, folder)
    elif isinstance(record, AuditRecord):
        write_audit(record, folder)
    else:
        write_certificate(record, folder)
    return folder


def rewritten(file: Path, **changes: Any) -> None:
    """A config.json with other values and the digest that goes with them: what an edit by hand does not do."""
    from sonet.publishing.config import digest

    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(content | {"digest": digest(content)}))


def seen(folder: Path) -> dict[str, bytes]:
    """Every file below, links and hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
