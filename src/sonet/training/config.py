"""How a network is trained."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt


class TrainConfig(BaseModel):
    """SGD with momentum; the defaults are a short one-cycle, `paper_training()` is Huang et al. 2020.

    Schedules, for progress p = (epochs done so far, with fractions) / epochs:
        "one-cycle": linear from lr / 10 up to lr at p = 0.3, then half a cosine down to lr / 1000 (Smith 2018).
        "paper": lr, from p = 150/350 lr / 10, from p = 300/350 lr / 1000; at 350 epochs the paper's milestones.
        "constant": lr.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    objective: Literal["natural"] = Field(default="natural", description="what is minimised")
    epochs: PositiveInt = Field(default=12, description="passes over the training images")
    batch_size: PositiveInt = Field(default=64, description="images in a step, over all processes together")
    lr: PositiveFloat = Field(default=0.1, description="peak learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="weight decay of SGD")
    schedule: Literal["one-cycle", "paper", "constant"] = Field(
        default="one-cycle", description="learning rate over time"
    )
    augment: Literal["none", "crop-flip"] = Field(default="none", description="crop with padding 4, and flip")
    clip: PositiveFloat | None = Field(default=None, description="largest norm of the gradient")
    seed: int = Field(default=0, ge=0, lt=2**32, description="order of images, augmentation, dropout")
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto: a GPU where there is one")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="mixed precision")

    def learning_rate(self, progress: float) -> float:
        """The learning rate at `progress` in [0, 1]."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "paper":
            return self.lr * (1.0 if progress < 150 / 350 else 0.1 if progress < 300 / 350 else 0.001)
        if progress < 0.3:
            return self.lr * (0.1 + 0.9 * progress / 0.3)
        return self.lr * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7)))


def paper_training(**changes: object) -> TrainConfig:
    """SGD of the paper's code: lr 0.01, momentum 0.9, no decay, batch 100, 350 epochs; `changes` override."""
    setting: dict[str, object] = {"lr": 0.01, "batch_size": 100, "epochs": 350, "schedule": "paper"}
    return TrainConfig.model_validate(setting | changes)
