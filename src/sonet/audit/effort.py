"""How much an audit spends: images, steps, queries."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Level = Literal["quick", "normal", "thorough"]


class Effort(BaseModel):
    """The size of an audit's pieces; `EFFORTS` has the three levels.

    probes: images of the checks that need many passes an image (finite differences, ladders, leak). subset: images of
    the cause analysis and of the transfer matrix, which attack anew for every factor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Level
    images: PositiveInt = Field(description="test images audited")
    steps: PositiveInt = Field(description="steps of each gradient attack")
    targets: PositiveInt = Field(description="wrong classes that the targeted attack aims at")
    queries: PositiveInt = Field(description="of the search without gradients")
    estimates: PositiveInt = Field(description="steps along gradients estimated from 64 pairs of answers each")
    calls: PositiveInt = Field(description="calls averaged where the model is random")
    probes: PositiveInt = Field(description="images of checks that need many passes an image")
    subset: PositiveInt = Field(description="images of the cause analysis and the transfer matrix")
    restarts: PositiveInt = Field(description="random starts whose spread is looked at")


EFFORTS: dict[Level, Effort] = {
    "quick": Effort(
        level="quick",
        images=64,
        steps=50,
        targets=3,
        queries=1000,
        estimates=15,
        calls=8,
        probes=8,
        subset=24,
        restarts=2,
    ),
    "normal": Effort(
        level="normal",
        images=256,
        steps=100,
        targets=9,
        queries=3000,
        estimates=30,
        calls=16,
        probes=16,
        subset=64,
        restarts=5,
    ),
    "thorough": Effort(
        level="thorough",
        images=1000,
        steps=100,
        targets=9,
        queries=5000,
        estimates=60,
        calls=32,
        probes=32,
        subset=128,
        restarts=10,
    ),
}
