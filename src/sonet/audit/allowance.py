"""What an attack owes on a linear model: the radius at which it must succeed, and how that follows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sonet.attacks import LOSSES, Attack, Threat
from sonet.attacks.gradients import Backpropagation
from sonet.attacks.losses import Goal
from sonet.attacks.minimum import MinimumNorm
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Norm
from sonet.audit.linear import Linear, Scene, own_class

MARGIN = 0.02
"""Attacks inside a budget must succeed this share beyond the radius and must not this share below the exact one."""


@dataclass(frozen=True)
class Debt:
    """radius: (N,) of the scene's images, where the attack owes success, tolerance aside. among: (N,) which to take.

    tolerance: relative. why: the reason for radius and tolerance, where they are not the exact distance and 1 or 2 %.
    owed: False where nothing but "never below" follows.
    """

    radius: Tensor
    among: Tensor
    tolerance: float
    why: str = ""
    owed: bool = True


# Reasons why a class of attack owes less, by the class's name. Derived, not tuned.
#
# SPSA, d = 64 pixels, m = 64 pairs, momentum 0.75. A pixel's estimate is its weight w_i plus noise of standard
# deviation ||w|| / sqrt(m); momentum averages (1 + 0.75) / (1 - 0.75) = 7 of them. A step has the wrong sign with
# probability Phi(-a |w_i| / rms(w)), a = sqrt(7 m / d) = 2.6, and for normal weights gains a / sqrt(1 + a^2) = 0.936 of
# ||w||_1 (the same cosine in l2). Over 64 pixels that share varies by 0.03, over the 32 that can move at the faces of
# the box by 0.04: 0.936 - 3 * 0.04 = 0.816 = 1 / 1.23.
#
# Square in l2 changes 3 x 3 bumps of a fixed shape at a time, which cannot follow weights that change sign from pixel
# to pixel. But one bump with the whole budget is among its states, and it keeps only what is better: <bump, w> is
# normal with standard deviation 1 for normal weights of length sqrt(64), the largest of 36 places, 2 turns and both
# signs about 2.7, so that 8 / 2.7 - 1 = 2.0. An estimate, no proof: a search by single moves may end elsewhere.
_EXCESS: dict[str, dict[Norm, float]] = {
    "SPSA": {"linf": 0.25, "l2": 0.25},
    "Square": {"l2": 2.0},
}
# Boundary keeps pixels at the faces of the box in most of its steps, and where all pixels start there some stay that
# should have moved: what it finds is the nearest image that leaves these alone. If they hold a share q of the sum of
# v_i^2 over the pixels with room, that is 1 / sqrt(1 - q) times as far: 10 % for a sixth. Elsewhere it owes the usual.
_AT_FACES: dict[str, dict[Norm, float]] = {"Boundary": {"l2": 0.1}}
_WHY = {
    "SPSA": "the gradient is estimated from 64 random pairs, a step gains 0.94 of the best one on average",
    "Square": "bumps of fixed shape cannot follow weights that change sign from pixel to pixel",
    "Boundary": "pixels held at the faces of the box stay behind, at most a sixth of the squared weight",
}
_BEYOND_ONE_GRADIENT = {
    "Transfer": "what is crafted on another model owes nothing on this one",
}


def debt(attack: Attack, scene: Scene, norm: Norm) -> Debt:
    """What `attack` owes on the images of `scene`.

    - One that considers each wrong class, or any where there are two classes: the exact distance.
    - One of minimum norm that follows the margin: the exact distance, of images whose runner-up is also the nearest
      class. On the straight way to it that class stays ahead of the others, for all are linear and behind at its end.
    - One that asks for decisions only stays at the first boundary it comes to: that of the farthest class.
    - One of a single step goes along the gradient at the image: the first point of that ray that fools.
    - Others climb a loss to a point x' where it rises in no direction, and that is where its gradient u = sum_j q_j v_j
      (v_j = W_j - W_label, q_j >= 0: cross-entropy, log-odds, margin) has its largest <u, x> within the threat. Were
      some x'' there that has all classes ahead of the label, then sum_j q_j (z_j - z_label) would be >= 0 at x'', hence
      at x': some class is ahead, x' fools. So they owe success at `Linear.past_all`. For the ratio of DLR this is no
      proof: its denominator moves too; the same radius is asked of it.
    """
    classes, everyone = len(scene.model.weight), torch.ones(len(scene.labels), dtype=torch.bool)
    names = [kind.__name__ for kind in type(attack).__mro__]
    minimum = isinstance(attack, MinimumNorm)
    exact = Debt(scene.distances(norm).amin(1), everyone, 0.01 if minimum else MARGIN)
    for name in names:
        if name in _BEYOND_ONE_GRADIENT:
            return replace(exact, owed=False, why=_BEYOND_ONE_GRADIENT[name])
    considered = max(getattr(attack, setting, 0) for setting in ("targets", "candidates"))
    found = exact
    if attack.work == 1 and attack.needs_gradient:
        found = replace(exact, radius=_ray(attack, scene, norm), why="a single step goes along the first gradient")
    elif classes > 2 and considered < classes - 1:
        if minimum and attack.needs_gradient:
            found = replace(exact, among=_runner_up_is_nearest(scene, norm))
        elif minimum:
            far = scene.distances(norm).masked_fill(own_class(scene.labels, classes), 0.0).amax(1)
            found = replace(exact, radius=far, why="a walk stays at the boundary it comes to, at worst the farthest")
        else:
            found = replace(
                exact,
                radius=scene.past_all(norm),
                why="a climb is sure to end past some boundary once it can be past all",
            )
    for name in names:
        excess = (_AT_FACES if scene.corners and name in _AT_FACES else _EXCESS).get(name, {})
        if norm in excess:
            found = replace(found, tolerance=excess[norm], why="; ".join(filter(None, (found.why, _WHY[name]))))
    return found


def _ray(attack: Attack, scene: Scene, norm: Norm) -> Tensor:
    """The radius at which a step along the loss's gradient at the image fools, (N,)."""
    model, images = scene.model, scene.images.double()
    goal = Goal(scene.labels, LOSSES[getattr(attack, "loss", "ce")])
    exact = Linear(model.weight.double(), model.bias.double())
    gradient = Backpropagation(exact)(images, goal, ImageNoise(images, 0)).gradient
    return model.straight(images, scene.labels, Threat(norm, 1.0).steepest(gradient))


def _runner_up_is_nearest(scene: Scene, norm: Norm) -> Tensor:
    own = own_class(scene.labels, len(scene.model.weight))
    runner_up = scene.model(scene.images).masked_fill(own, -torch.inf).argmax(1)
    return torch.eq(scene.distances(norm).argmin(1), runner_up)
