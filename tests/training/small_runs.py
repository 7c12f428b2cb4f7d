"""Networks and data so small that training takes a moment."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonet.data import Dataset, load
from sonet.models import build
from sonet.solvers import Fixed
from sonet.training import EpochReport, TrainConfig

# Networks this small get slower with threads; and bit-equal results need the same number of them everywhere.
torch.set_num_threads(1)

EULER = Fixed(method="euler", num_steps=2)
ONE_STAGE: dict[str, Any] = {"channels": 4, "blocks": (1,), "strides": (2,)}


@cache
def digits() -> Dataset:
    return load("digits")


def small(name: str = "sonet", seed: int = 0, **options: Any) -> nn.Module:
    solver = {"solver": EULER} if name == "sonet" else {}
    return build(name, like=digits(), seed=seed, **(ONE_STAGE | solver | options))


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({"epochs": 2, "batch_size": 20, "device": "cpu"} | changes)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def numbers(history: tuple[EpochReport, ...]) -> list[dict[str, Any]]:
    """A history without what differs from run to run."""
    return [epoch.model_dump(exclude={"seconds"}) for epoch in history]


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file and folder below `folder`, with its contents."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }
