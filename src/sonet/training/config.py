"""How a network is trained."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from sonet.attacks import Threat


class TrainConfig(BaseModel):
    """SGD with momentum; the defaults are a short one-cycle, `paper_training()` is Huang et al. 2020.

    Schedules, for progress p = (epochs done so far, with fractions) / epochs:
        "one-cycle": linear from lr / 10 up to lr at p = 0.3, then half a cosine down to lr / 1000 (Smith 2018).
        "paper": lr, from p = 150/350 lr / 10, from p = 300/350 lr / 1000; at 350 epochs the paper's milestones.
        "constant": lr.

    Objectives, for an image x with label y and p = softmax of the logits:
        "natural": CE(x, y).
        "madry": CE(x', y), x' of largest CE within `threat` (Madry et al. 2018, arXiv:1706.06083).
        "trades": CE(x, y) + beta KL(p(x) || p(x')), x' of largest KL (Zhang et al. 2019, arXiv:1901.08573).
    x' is looked for with `attack_steps` steps of `attack_step_size`. These and `threat` go with "madry" and "trades"
    alone, `beta` with "trades" alone: a setting that would be ignored is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    objective: Literal["natural", "madry", "trades"] = Field(default="natural", description="what is minimised")
    threat: str | None = Field(default=None, description="within which images are attacked: NORM:EPS, linf:8/255")
    attack_steps: PositiveInt | None = Field(default=None, description="gradient steps of the attack; default 10")
    attack_step_size: PositiveFloat | None = Field(default=None, description="in pixel units; default eps / 4")
    beta: PositiveFloat | None = Field(default=None, description="weight of the KL, 1 / lambda in TRADES; default 6")
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

    @field_validator("threat")
    @classmethod
    def _some_threat(cls, text: str | None) -> str | None:
        if text is not None and Threat.parse(text).eps == 0:
            raise ValueError(
                "eps is 0, expected > 0, or no image could change; use objective 'natural' without a threat"
            )
        return text

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.objective == "natural":
            for name in ("threat", "attack_steps", "attack_step_size", "beta"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"objective 'natural' attacks nothing, so it takes no {name}, got {getattr(self, name)!r}; "
                        f"choose objective 'madry' or 'trades', or leave {name} out"
                    )
        elif self.threat is None:
            raise ValueError(
                f"objective {self.objective!r} trains on attacked images and needs a threat, got none; "
                "give one such as threat 'linf:8/255', or choose objective 'natural'"
            )
        if self.objective == "madry" and self.beta is not None:
            raise ValueError(
                f"objective 'madry' has no term that beta would weigh, got beta {self.beta:g}; "
                "choose objective 'trades', or leave beta out"
            )
        return self

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
