"""Trainings that one process and several must agree on: samples do not depend on their batch-mates in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_runs import config, digits, small
from torch import nn

from sonet.solvers import Adaptive
from sonet.training import EpochReport, fit

ADAPTIVE = Adaptive(rtol=0.1, atol=0.1)

TRAININGS: dict[str, dict[str, Any]] = {
    "natural": {},
    "madry": {"threat": "linf:0.1", "attack_steps": 2},
    "trades": {"threat": "linf:0.1", "attack_steps": 2},
    "fast": {
        "threat": "linf:0.1",
        "alignment": 0.5,
        "watched": 20,
        "average": 0.5,
        "accumulate": 2,
        "kinetic": 0.05,
        "clip": 0.5,  # and SGD: AdamW makes much of the rounding of gradients that are nearly zero
    },
}


def network(name: str) -> nn.Module:
    return small(solver=ADAPTIVE) if name == "natural" else small()


def train(name: str, run: Path | None = None, progress: Any = None) -> tuple[nn.Module, tuple[EpochReport, ...]]:
    """Two epochs of 47 images in batches of 20, 20 and 7: no half is like the other in the last."""
    model = network(name)
    setting = config(objective=name, **TRAININGS[name])
    history = fit(
        model, digits().train.take(47), setting, test=digits().test.take(20), run=run, data={}, progress=progress
    )
    return model, history
