"""Attacks on any classifier of images in [0, 1]. They do not know the ODE; where gradients come from is an argument."""

from sonet.attacks.attack import Attack
from sonet.attacks.crafted import Progress
from sonet.attacks.gradients import Alone, Average, Backpropagation, GradientSource
from sonet.attacks.input import AttackError, check_images
from sonet.attacks.losses import LOSSES, cross_entropy, margin
from sonet.attacks.pgd import FGSM, PGD
from sonet.attacks.result import AttackResult, predict
from sonet.attacks.spsa import SPSA
from sonet.attacks.threat import L2, Linf, Threat, ThreatError, parse_eps

ATTACKS: dict[str, tuple[type[Attack], str]] = {
    "fgsm": (FGSM, "one step of the gradient's sign (Goodfellow et al. 2015)"),
    "pgd": (PGD, "projected gradient descent (Madry et al. 2018): steps along the gradient of the loss"),
    "spsa": (SPSA, "simultaneous perturbation (Uesato et al. 2018): queries only, no gradient to mask"),
}

__all__ = [
    "ATTACKS",
    "FGSM",
    "L2",
    "LOSSES",
    "PGD",
    "SPSA",
    "Alone",
    "Attack",
    "AttackError",
    "AttackResult",
    "Average",
    "Backpropagation",
    "GradientSource",
    "Linf",
    "Progress",
    "Threat",
    "ThreatError",
    "check_images",
    "cross_entropy",
    "margin",
    "parse_eps",
    "predict",
]
