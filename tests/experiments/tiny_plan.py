"""An experiment of seconds: two tiny networks, few digits, one radius."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sonet.data import load
from sonet.experiments import Cell, Plan
from sonet.experiments.work import do_cell
from sonet.report import Record, Row
from sonet.solvers import paper

# Networks this small get slower with threads; and equal rows need the same number of them everywhere.
torch.set_num_threads(1)

NETWORK = {"channels": 2, "blocks": [1], "strides": [2]}


def write_data(folder: Path, train: int = 40, test: int = 12) -> Path:
    """The first digits as an .npz of grey levels."""
    digits, arrays = load("digits"), {}
    for name, split in (("train", digits.train.take(train)), ("test", digits.test.take(test))):
        arrays[f"x_{name}"] = (split.images[:, 0] * 240).round().to(torch.uint8).numpy()
        arrays[f"y_{name}"] = split.labels.numpy()
    np.savez(folder / "few.npz", **arrays, classes=np.array(list("0123456789")))
    return folder / "few.npz"


def raw_plan(data: Path | str, **changes: Any) -> dict[str, Any]:
    plan = {
        "title": "tiny",
        "data": str(data),
        "images": 12,
        "judge_batch": 12,
        "seeds": 1,
        "training": {"epochs": 1, "batch_size": 10, "lr": 0.3, "device": "cpu"},
        "solver": paper().model_dump(),
        "models": [{"name": "resnet10", "options": NETWORK}, {"name": "sonet", "options": NETWORK}],
        "attacks": {
            "norm": "linf",
            "eps": [0.2],
            "steps": [1, 2],
            "step_gradients": ["differentiated", "frozen"],
            "batches": [12, 1],
            "spsa": {"images": 4, "steps": 1, "samples": 2},
        },
    }
    return plan | changes


def tiny_plan(data: Path | str, **changes: Any) -> Plan:
    return Plan.model_validate(raw_plan(data, **changes))


def rows(record: Record) -> list[dict[str, Any]]:
    """What was measured, without how long it took."""
    return [row.model_dump(exclude={"seconds"}) for row in record.rows]


def run_cell(cell: Cell, plan: Plan, out: Path) -> tuple[Row, ...]:
    return do_cell(cell, plan, out, None, lambda done, word: None).rows
