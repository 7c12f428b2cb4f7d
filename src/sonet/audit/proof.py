"""A proof of the self-test, and the bench on which an attack is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch

from sonet.attacks import Attack, AttackResult, Threat
from sonet.attacks.minimum import MinimumNorm
from sonet.attacks.threat import Norm
from sonet.audit.linear import Scene
from sonet.types import Classifier, Images, Labels


@dataclass(frozen=True)
class Proof:
    """What `attack` had to show in `case`, and did or did not.

    measured: the figure, short. why: if passed, why no more than this is expected, where that needs a reason; if not,
    what went wrong.
    """

    attack: str
    case: str
    expected: str
    measured: str
    passed: bool
    why: str = ""


@dataclass
class Bench:
    """An attack with what its cases share. `images`: how many a case takes; `beyond`: the worst step over a limit."""

    name: str
    attack: Attack
    seed: int = 0
    images: int = 8
    beyond: float = field(default=0.0)

    def scene(self, classes: int, corners: bool = False) -> Scene:
        return _scene(classes, self.seed, corners)

    @property
    def norm(self) -> Norm:
        """Of the cases that one norm is enough for."""
        return self.attack.norms[0]

    def run(self, model: Classifier, images: Images, labels: Labels, eps: float, norm: Norm | None = None, *,
            minimum: bool = False) -> AttackResult:  # fmt: skip
        """Attack, and note how far the result left box or budget: not as the attack says, but measured here.

        Unless the `minimum` itself is asked for, an attack that looks for it may stop inside the threat.
        """
        attack = self.attack
        if isinstance(attack, MinimumNorm) and not minimum:
            attack = attack.model_copy(update={"stop_when_fooled": True})
        threat = Threat(norm or self.norm, eps)
        result = attack.run(model, images, labels, threat, judge_batch=len(images))
        made, clean = result.adversarial.double(), images.double()
        limits = threat.distance(made, clean) - threat.eps, -made, made - 1
        self.beyond = max(self.beyond, *(float(limit.max()) for limit in limits))
        return result

    def prove(self, case: str, expected: str, measured: str, faults: dict[str, bool], why: str = "") -> Proof:
        """Passed if no fault is true; else the reasons are those that are."""
        wrong = [fault for fault, there in faults.items() if there]
        return Proof(self.name, case, expected, measured, not wrong, "; ".join(wrong) or why)


Case = Callable[[Bench], Proof]


@cache
def _scene(classes: int, seed: int, corners: bool) -> Scene:
    return Scene.draw(classes, seed, corners)


def number(which: torch.Tensor) -> str:
    """ "3/8": how many of a (N,) bool."""
    return f"{int(which.sum())}/{len(which)}"
