"""The attacks by name."""

from __future__ import annotations

from sonet.attacks.apgd import APGDCE, APGDDLR, APGDT
from sonet.attacks.attack import Attack
from sonet.attacks.boundary import Boundary
from sonet.attacks.cw import CWL2
from sonet.attacks.cw_linf import CWLinf
from sonet.attacks.deepfool import DeepFool
from sonet.attacks.fab import FAB
from sonet.attacks.pgd import FGSM, PGD
from sonet.attacks.spsa import SPSA
from sonet.attacks.square import Square

ATTACKS: dict[str, tuple[type[Attack], str]] = {
    "fgsm": (FGSM, "one step of the gradient's sign (Goodfellow et al. 2015)"),
    "pgd": (PGD, "projected gradient descent (Madry et al. 2018): steps along the gradient of the loss"),
    "apgd-ce": (APGDCE, "PGD that finds its own step lengths (Croce and Hein 2020), on cross-entropy"),
    "apgd-dlr": (APGDDLR, "the same on the difference of logits ratio, which no scale of the logits changes"),
    "apgd-t": (APGDT, "the same aimed at each of the likeliest wrong classes in turn"),
    "fab": (FAB, "fast adaptive boundary (Croce and Hein 2020): the nearest image that fools, by targets"),
    "deepfool": (DeepFool, "nearest linearised boundary, step by step (Moosavi-Dezfooli et al. 2016)"),
    "cw-l2": (CWL2, "distance against margin with a searched weight (Carlini and Wagner 2017), l2"),
    "cw-linf": (CWLinf, "the same in linf"),
    "spsa": (SPSA, "simultaneous perturbation (Uesato et al. 2018): queries only, no gradient to mask"),
    "square": (Square, "random squares (Andriushchenko et al. 2020): queries only"),
    "boundary": (Boundary, "a walk along the boundary (Brendel et al. 2018): predicted classes only"),
}
"""The class of each attack, whose defaults spend its budget, and one line about it."""
