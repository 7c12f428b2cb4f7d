"""How a network is trained."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

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
from sonet.training.ignored import refuse_ignored


class TrainConfig(BaseModel):
    """The defaults are SGD with momentum and a short one-cycle; `paper_training()` is Huang et al. 2020.

    Schedules, for progress p = (epochs done so far, with fractions) / epochs:
        "one-cycle": linear from lr / 10 up to lr at p = 0.3, then half a cosine down to lr / 1000 (Smith 2018).
        "paper": lr, from p = 150/350 lr / 10, from p = 300/350 lr / 1000; at 350 epochs the paper's milestones.
        "constant": lr.

    Objectives, for an image x with label y and p = softmax of the logits:
        "natural": CE(x, y).
        "madry": CE(x', y), x' of largest CE within `threat` (Madry et al. 2018, arXiv:1706.06083).
        "trades": CE(x, y) + beta KL(p(x) || p(x')), x' of largest KL (Zhang et al. 2019, arXiv:1901.08573).
        "fast": CE(x', y) + alignment (1 - cos(g(x), g(x + eta))), x' by one step from a uniform start, g the gradient
            of CE with respect to the image, eta uniform in the ball (Wong et al. 2020, arXiv:2001.03994;
            Andriushchenko and Flammarion 2020, arXiv:2007.02617). Stops where accuracy under PGD collapses: `Watch`.
        "margin": T CE over (logit_j + r gap_yj) / T, j = 1 .. classes: the logits that a change of length r = `threat`
            could lead to at worst, gap_yj the Lipschitz constant of logit_y - logit_j (after Tsuzuku et al. 2018,
            arXiv:1802.04034). For networks that know their constants: stable-sonet, convex-potential.
    x' is looked for with `attack_steps` steps of `attack_step_size`; "fast" takes one. `beta` goes with "trades" alone,
    `alignment`, `watched` and `collapse` with "fast", T = `temperature` with "margin": a setting that would be ignored
    is refused. What the others do to any objective: docs/training.md.

    Where they are not given, the optimizer is AdamW for "margin" and SGD else, and lr 0.01 for AdamW and 0.1 for SGD.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    objective: Literal["natural", "madry", "trades", "fast", "margin"] = Field(
        default="natural", description="what is minimised: natural, madry, trades, fast or margin"
    )
    threat: str | None = Field(default=None, description="radius trained against, NORM:EPS, linf:8/255")
    attack_steps: PositiveInt | None = Field(default=None, description="gradient steps of the attack; default 10")
    attack_step_size: PositiveFloat | None = Field(
        default=None, description="in pixel units; default eps / 4, of fast 1.25 eps"
    )
    beta: PositiveFloat | None = Field(default=None, description="weight of the KL, 1 / lambda in TRADES; default 6")
    temperature: PositiveFloat | None = Field(default=None, description="T of the margin objective; default 0.1")
    alignment: NonNegativeFloat | None = Field(
        default=None, description="weight of the gradients' alignment; default 0"
    )
    watched: PositiveInt | None = Field(
        default=None, description="training images that fast is watched on; default 200"
    )
    collapse: float | None = Field(
        default=None, gt=0, le=1, description="fall of their accuracy under PGD at which fast stops; default 0.2"
    )
    epochs: PositiveInt = Field(default=12, description="passes over the training images")
    batch_size: PositiveInt = Field(default=64, description="images in a step, over all processes together")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd, with momentum, or adamw")
    lr: PositiveFloat = Field(default=0.1, description="peak learning rate; 0.01 for AdamW")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD; beta_1 of AdamW")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="weight decay")
    schedule: Literal["one-cycle", "paper", "constant"] = Field(
        default="one-cycle", description="learning rate over time: one-cycle, paper or constant"
    )
    augment: Literal["none", "crop-flip"] = Field(default="none", description="none, or crop-flip: padding of 4")
    accumulate: PositiveInt = Field(default=1, description="parts that a batch is done in, with one step")
    average: float | None = Field(default=None, gt=0, lt=1, description="decay of the moving average of the weights")
    kinetic: PositiveFloat | None = Field(default=None, description="weight of the kinetic energy of ODE blocks")
    nfe_budget: PositiveFloat | None = Field(default=None, description="evaluations an image and pass to warn above")
    clip: PositiveFloat | None = Field(default=None, description="largest norm of the gradient")
    seed: int = Field(default=0, ge=0, lt=2**32, description="order of images, augmentation, dropout")
    device: Literal["auto", "cpu"] = Field(default="auto", description="cpu; auto: a GPU where there is one")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="mixed precision: no, bf16 or fp16")

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_fit(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        optimizer = values.get("optimizer", "adamw" if values.get("objective") == "margin" else "sgd")
        return {"optimizer": optimizer, "lr": 0.01 if optimizer == "adamw" else 0.1} | values

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
        refuse_ignored(self)
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
