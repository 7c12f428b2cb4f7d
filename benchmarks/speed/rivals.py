"""Whole attacks: ours in several settings, foolbox's PGD and AutoAttack's standard, on one network's weights."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peers import AS_TORCHDIFFEQ, TOLERANCE, by_torchdiffeq
from torch import nn

from sonet.attacks import PGD, Linf
from sonet.attacks.ensemble import standard
from sonet.blocks import ode_blocks
from sonet.evaluation import evaluate
from sonet.solvers import Adaptive
from sonet.types import Images, Labels

STEPS = 20
WHOLE_BATCH = AS_TORCHDIFFEQ
PER_SAMPLE = AS_TORCHDIFFEQ.model_copy(update={"scope": "sample"})
DEFAULT = Adaptive(rtol=TOLERANCE, atol=TOLERANCE)


@dataclass(frozen=True)
class Budget:
    """The radius in linf, the images attacked together, and the seed of what is drawn."""

    eps: float
    batch: int
    seed: int

    @property
    def step_size(self) -> float:
        return self.eps / 8


Craft = Callable[[nn.Module, Images, Labels, Budget], Images]


@dataclass(frozen=True)
class Side:
    """One side of a comparison. prepare: from the trained network to the one attacked; craft: adversarial images."""

    name: str
    prepare: Callable[[nn.Module], nn.Module]
    craft: Craft
    note: str = ""


def solved_by(solver: Adaptive) -> Callable[[nn.Module], nn.Module]:
    """A copy of the network whose blocks all have this solver."""

    def prepare(model: nn.Module) -> nn.Module:
        model = copy.deepcopy(model)
        for block in ode_blocks(model).values():
            block.solver = solver
        return model

    return prepare


def at_torchdiffeq(model: nn.Module) -> nn.Module:
    return by_torchdiffeq(solved_by(WHOLE_BATCH)(model))


def pgd(steps: int = STEPS, **setting: Any) -> Craft:
    """Our PGD from the image itself; `setting` goes to it."""

    def craft(model: nn.Module, images: Images, labels: Labels, budget: Budget) -> Images:
        attack = PGD(steps=steps, step_size=budget.step_size, batch_size=budget.batch, seed=budget.seed, **setting)
        return attack.run(model, images, labels, Linf(budget.eps)).adversarial

    return craft


def foolbox_pgd(steps: int = STEPS) -> Craft:
    """foolbox's LinfPGD with the same steps, and no random start."""

    def craft(model: nn.Module, images: Images, labels: Labels, budget: Budget) -> Images:
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # its zoo wants a git, which nothing here uses
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=budget.step_size, steps=steps, random_start=False)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return torch.cat(
            [
                attack(wrapped, part.contiguous(), label, epsilons=budget.eps)[1].detach()
                for part, label in zip(
                    torch.split(images, budget.batch), torch.split(labels, budget.batch), strict=True
                )
            ]
        )

    return craft


def ours_standard(futility: bool) -> Craft:
    """Our ensemble `standard`, or, without `futility`, the same to the last step of every search."""

    def craft(model: nn.Module, images: Images, labels: Labels, budget: Budget) -> Images:
        members = standard(budget.seed) if futility else standard(budget.seed, futility=None)
        return evaluate(model, images, labels, Linf(budget.eps), members, judge_batch=budget.batch).adversarial

    return craft


def autoattack(model: nn.Module, images: Images, labels: Labels, budget: Budget) -> Images:
    import pyautoattack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    torch.manual_seed(budget.seed)
    suite = pyautoattack.AutoAttack(
        model, norm="Linf", eps=budget.eps, seed=budget.seed, version="standard", device="cpu"
    )
    adversarial, _ = suite.run_standard_evaluation(images, labels, batch_size=budget.batch)
    return adversarial.detach()


FAMILIES: dict[str, tuple[Side, tuple[Side, ...]]] = {
    "pgd": (
        Side("foolbox", at_torchdiffeq, foolbox_pgd()),
        (
            Side("same-work", solved_by(WHOLE_BATCH), pgd(keep="last"), "whole batch, every image takes every step"),
            Side(
                "active-set",
                solved_by(PER_SAMPLE),
                pgd(keep="best", stop_when_fooled=True),
                "per sample, otherwise as torchdiffeq; images that fell leave",
            ),
            Side("default", solved_by(DEFAULT), pgd(), "per sample, frozen, clipped; every image takes every step"),
            Side(
                "default-active-set",
                solved_by(DEFAULT),
                pgd(stop_when_fooled=True),
                "per sample, frozen, clipped; images that fell leave",
            ),
        ),
    ),
    "standard": (
        Side("autoattack", at_torchdiffeq, autoattack),
        (
            Side("thorough", solved_by(DEFAULT), ours_standard(futility=False), "per sample, frozen; all searches"),
            Side(
                "default", solved_by(DEFAULT), ours_standard(futility=True), "per sample, frozen; futile searches end"
            ),
        ),
    ),
}
"""By family: the rival, and ours against it."""
