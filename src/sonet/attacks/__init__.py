"""Attacks on any classifier of images in [0, 1]. They do not know the ODE; where gradients come from is an argument."""

from sonet.attacks.apgd import APGD, APGDCE, APGDDLR, APGDT
from sonet.attacks.attack import Attack
from sonet.attacks.boundary import Boundary
from sonet.attacks.crafted import Progress
from sonet.attacks.cw import CWL2
from sonet.attacks.cw_linf import CWLinf
from sonet.attacks.deepfool import DeepFool
from sonet.attacks.fab import FAB
from sonet.attacks.gradients import Alone, Average, Backpropagation, GradientSource, Guided
from sonet.attacks.input import AttackError, check_images
from sonet.attacks.losses import LOSSES, cross_entropy, margin
from sonet.attacks.minimum import MinimumNorm
from sonet.attacks.pgd import FGSM, PGD
from sonet.attacks.registry import ATTACKS
from sonet.attacks.result import AttackResult, predict
from sonet.attacks.spsa import SPSA
from sonet.attacks.square import Square
from sonet.attacks.threat import L2, Linf, Threat, ThreatError, parse_eps

__all__ = [
    "APGD",
    "APGDCE",
    "APGDDLR",
    "APGDT",
    "ATTACKS",
    "CWL2",
    "FAB",
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
    "Boundary",
    "CWLinf",
    "DeepFool",
    "GradientSource",
    "Guided",
    "Linf",
    "MinimumNorm",
    "Progress",
    "Square",
    "Threat",
    "ThreatError",
    "check_images",
    "cross_entropy",
    "margin",
    "parse_eps",
    "predict",
]
