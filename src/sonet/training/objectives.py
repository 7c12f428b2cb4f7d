"""What training minimises: a loss, and the images it is taken at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from sonet.attacks import PGD, Threat
from sonet.attacks.losses import kl_divergence
from sonet.data import Split
from sonet.training.alignment import misalignment
from sonet.training.collapse import Watch
from sonet.training.config import TrainConfig
from sonet.training.crafting import craft
from sonet.types import Images, Labels, Logits

LONGER = 1.25
"""The single step in units of eps, as long as Wong et al. 2020 found best."""
START = 0.001
"""Deviation of the noise from which TRADES climbs the KL: at the image itself its gradient is zero."""


class Objective(ABC):
    """One step of training asks for the hard images of a batch first, then for the loss."""

    @classmethod
    @abstractmethod
    def of(cls, config: TrainConfig) -> Self:
        """With the settings of `config`, whose objective it is."""

    @classmethod
    def misfit(cls, model: nn.Module) -> str:
        """Why this network cannot be trained so, as a sentence; empty where it can."""
        return ""

    @abstractmethod
    def craft(self, model: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
        """The images to learn from in place of or beside `images`; random draws belong to (seed, image)."""

    @abstractmethod
    def loss(self, model: nn.Module, images: Images, hard: Images, labels: Labels) -> tuple[Tensor, Logits]:
        """The loss of the batch, a scalar with graph, and the logits by which its accuracy is counted."""

    def penalty(self, model: nn.Module, images: Images, labels: Labels, seed: int) -> Tensor | None:
        """A term beside the loss that asks for passes of its own, a scalar with graph; None where there is none."""
        return None

    def watch(self, config: TrainConfig, train: Split) -> Watch | None:
        """What is looked at after each epoch to stop in time; None where there is no need."""
        return None


class Natural(Objective):
    """Mean cross-entropy at the images themselves."""

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        return cls()

    def craft(self, model: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
        return images

    def loss(self, model: nn.Module, images: Images, hard: Images, labels: Labels) -> tuple[Tensor, Logits]:
        logits = model(images)
        return F.cross_entropy(logits, labels), logits


@dataclass(frozen=True)
class Madry(Objective):
    """Mean cross-entropy at attacked images alone (Madry et al. 2018, arXiv:1706.06083); accuracy is that at them.

    `attack` is PGD on the cross-entropy from a uniform start, its last iterate.
    """

    threat: Threat
    attack: PGD

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        threat, steps, size = _inner(config)
        return cls(threat, PGD(steps=steps, step_size=size, random_start=True, keep="last"))

    def craft(self, model: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
        return craft(model, self.attack, images, labels, self.threat, seed)

    def loss(self, model: nn.Module, images: Images, hard: Images, labels: Labels) -> tuple[Tensor, Logits]:
        logits = model(hard)
        return F.cross_entropy(logits, labels), logits


@dataclass(frozen=True)
class Fast(Madry):
    """Madry's with a single step (Wong, Rice, Kolter 2020, arXiv:2001.03994): PGD of one step of 1.25 eps, projected.

    `alignment` weighs the misalignment of gradients nearby (`misalignment`), 0 for none. `Watch` stops a training that
    comes to withstand that one step alone.
    """

    alignment: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        assert config.threat is not None, "TrainConfig asks for one"
        threat = Threat.parse(config.threat)
        size = LONGER * threat.eps if config.attack_step_size is None else config.attack_step_size
        step = PGD(steps=1, step_size=size, random_start=True, keep="last")
        return cls(threat, step, 0.0 if config.alignment is None else config.alignment)

    def penalty(self, model: nn.Module, images: Images, labels: Labels, seed: int) -> Tensor | None:
        return self.alignment * misalignment(model, images, labels, self.threat, seed) if self.alignment else None

    def watch(self, config: TrainConfig, train: Split) -> Watch | None:
        return Watch.of(config, train, self.threat, self.attack)


@dataclass(frozen=True)
class Trades(Objective):
    r"""TRADES (Zhang et al. 2019, arXiv:1901.08573): mean of CE(x, y) + beta KL(p(x) || p(x')); accuracy is that at x.

    `attack` is PGD on KL(p(x) || p(x')) from x + 0.001 normal, its last iterate. As in the authors' code beta is
    1 / lambda, the gradient goes through both p(x) and p(x'), and x and x' are passed one after the other, each with
    batch statistics of its own. Deviation: the start too is projected into ball and box, which their code leaves.
    """

    threat: Threat
    attack: PGD
    beta: float

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        threat, steps, size = _inner(config)
        beta = 6.0 if config.beta is None else config.beta
        attack = PGD(steps=steps, step_size=size, loss="kl", start_noise=START, keep="last")
        return cls(threat, attack, beta)

    def craft(self, model: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
        return craft(model, self.attack, images, labels, self.threat, seed)

    def loss(self, model: nn.Module, images: Images, hard: Images, labels: Labels) -> tuple[Tensor, Logits]:
        clean, attacked = model(images), model(hard)
        return F.cross_entropy(clean, labels) + self.beta * kl_divergence(attacked, clean).mean(), clean


@dataclass(frozen=True)
class Margin(Objective):
    r"""Mean of T CE over (logit_j + r gap_yj) / T: cross-entropy at the worst logits that radius r allows.

    gap_yj: Lipschitz constant of logit_y - logit_j, 0 for j = y, with graph (after Tsuzuku et al. 2018,
    arXiv:1802.04034). Accuracy is that at the images themselves. The certified radius is what is trained: no penalty
    and no attack. T sets how many images count: the smaller, the more only those that are not certified yet.
    """

    radius: float
    temperature: float

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        assert config.threat is not None, "TrainConfig asks for one"
        return cls(Threat.parse(config.threat).eps, 0.1 if config.temperature is None else config.temperature)

    @classmethod
    def misfit(cls, model: nn.Module) -> str:
        if isinstance(model, KnowsGaps):
            return ""
        return (
            f"objective 'margin' needs a network that knows its Lipschitz constants, got {type(model).__name__}. "
            "Take stable-sonet or convex-potential, or another objective."
        )

    def craft(self, model: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
        return images

    def loss(self, model: nn.Module, images: Images, hard: Images, labels: Labels) -> tuple[Tensor, Logits]:
        logits = model(images)
        bare = getattr(model, "module", model)  # of a network that is trained in several processes
        assert isinstance(bare, KnowsGaps)
        worst = logits + self.radius * bare.gaps()[labels]
        return self.temperature * F.cross_entropy(worst / self.temperature, labels), logits


@runtime_checkable
class KnowsGaps(Protocol):
    """A network whose constants hold by construction."""

    def gaps(self) -> Tensor: ...


def _inner(config: TrainConfig) -> tuple[Threat, int, float]:
    """Threat, number of steps and step size of the attack inside."""
    assert config.threat is not None, "TrainConfig asks for one"
    threat = Threat.parse(config.threat)
    steps = 10 if config.attack_steps is None else config.attack_steps
    return threat, steps, threat.eps / 4 if config.attack_step_size is None else config.attack_step_size


OBJECTIVES: dict[str, type[Objective]] = {
    "natural": Natural,
    "madry": Madry,
    "trades": Trades,
    "fast": Fast,
    "margin": Margin,
}
