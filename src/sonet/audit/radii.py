"""Proofs of radius: on a linear model an attack succeeds where it must, and never below the exact distance."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sonet.attacks.minimum import MinimumNorm
from sonet.attacks.threat import Norm
from sonet.audit.allowance import MARGIN, Debt, debt
from sonet.audit.linear import Linear
from sonet.audit.proof import Bench, Case, Proof, number
from sonet.types import Classifier

ROUNDING = 1e-4
"""By how much, relatively, float32 may put a boundary nearer than it is."""


def radius(classes: int, norm: Norm, corners: bool = False) -> Case:
    """The plain linear model; with `corners` the images have no pixel but 0 and 1."""
    case = f"{'pixels 0 or 1' if corners else f'{classes} classes'}, {norm}"

    def run(bench: Bench) -> Proof:
        scene = bench.scene(classes, corners)
        owed = debt(bench.attack, scene, norm)
        if isinstance(bench.attack, MinimumNorm):
            return _distance(bench, case, classes, corners, norm, owed)
        images, labels, radii = scene.alike(scene.distances(norm).amin(1), bench.images)
        below = bench.run(scene.model, images, labels, float(radii.min()) * (1 - MARGIN), norm)
        images, labels, radii = scene.alike(owed.radius, bench.images, owed.among)
        above = bench.run(scene.model, images, labels, float(radii.max()) * (1 + owed.tolerance), norm)
        return bench.prove(
            case,
            f"none falls {MARGIN:.0%} below the exact radius" + _must(owed),
            f"{number(below.fooled)} {number(above.fooled)}",
            {
                "images fell where no image in the threat fools: box, budget or judging is wrong": bool(
                    below.fooled.any()
                ),
                f"some images stood at {owed.tolerance:.0%} beyond {_which(owed)}": owed.owed
                and not bool(above.fooled.all()),
                # Not asked above, for the gradient of DLR is zero past the boundary, where the label is third.
                "zero gradients were claimed where there are none": bool(below.zero_gradients.any()),
                "samples are independent, yet judged again they changed": above.flips > 0,
            },
            owed.why,
        )

    return run


def _distance(bench: Bench, case: str, classes: int, corners: bool, norm: Norm, owed: Debt) -> Proof:
    scene = bench.scene(classes, corners)
    images, labels, radii = scene.alike(owed.radius, bench.images, owed.among)
    eps = float(radii.max()) * (1 + 1.5 * owed.tolerance)
    result = bench.run(scene.model, images, labels, eps, norm, minimum=True)
    if result.minimum is None:
        return bench.prove(case, "the distance found", "none", {"an attack of minimum norm gave no minimum": True})
    exact = scene.model.distance(images, labels, norm)
    found = result.minimum.double()
    over, under = found / radii - 1, found / exact - 1
    return bench.prove(
        case,
        f"the exact distance, at most {owed.tolerance:.0%} more",
        f"{float(over.max()):+.2%}",
        {
            "a minimum is below the exact distance, where nothing fools": bool((under < -ROUNDING).any()),
            f"a minimum is more than {owed.tolerance:.0%} beyond {_which(owed)}": not bool(
                (over <= owed.tolerance).all()
            ),
            "some images stood though the threat is larger than the minimum owed": not bool(result.fooled.all()),
            "zero gradients were claimed where there are none": bool(result.zero_gradients.any()),
            "samples are independent, yet judged again they changed": result.flips > 0,
        },
        owed.why,
    )


def wrapped(case: str, wrap: Callable[[Linear], Classifier], *, may_be_blind: bool = False) -> Case:
    """The linear model of two classes in a wrapper that changes no prediction: the same images must fall.

    may_be_blind: a loss may saturate there. Then an image may stand if its gradient is reported as zero.
    """

    def run(bench: Bench) -> Proof:
        scene, norm = bench.scene(2), bench.norm
        owed = debt(bench.attack, scene, norm)
        images, labels, radii = scene.alike(owed.radius, bench.images)
        eps = float(radii.max()) * (1 + owed.tolerance)
        result = bench.run(wrap(scene.model), images, labels, eps)
        stood = ~result.fooled
        silent = stood & ~result.zero_gradients
        blind = f" {int((stood & ~silent).sum())} blind" if bool((stood & ~silent).any()) else ""
        saying = ", or its gradient is reported as zero" if may_be_blind else ""
        return bench.prove(
            case,
            f"each image falls as without it{saying}",
            number(result.fooled) + blind,
            {
                "images stood that fall on the same model unwrapped": owed.owed
                and bool((silent if may_be_blind else stood).any()),
            },
            "the loss saturates in float32, and the attack says so" if blind else owed.why,
        )

    return run


def masked(case: str, wrap: Callable[[Linear], Classifier]) -> Case:
    """No gradient is left: attacks that need one say so for every image, others succeed at four times the radius."""

    def run(bench: Bench) -> Proof:
        scene = bench.scene(2)
        owed = debt(bench.attack, scene, bench.norm)
        images, labels, radii = scene.alike(owed.radius, bench.images)
        result = bench.run(wrap(scene.model), images, labels, 4 * float(radii.max()))
        if bench.attack.needs_gradient:
            said = result.zero_gradients
            return bench.prove(
                case,
                "zero gradients reported for each image",
                f"{number(said)} said",
                {"images without a gradient were not reported in zero_gradients": not bool(said.all())},
                "no gradient is left to follow",
            )
        return bench.prove(
            case,
            "each image falls at four times the radius",
            number(result.fooled),
            {"images stood, though no gradient was needed": owed.owed and not bool(result.fooled.all())},
        )

    return run


def _must(owed: Debt) -> str:
    return f", each falls {owed.tolerance:.0%} beyond {_which(owed)}" if owed.owed else ""


def _which(owed: Debt) -> str:
    return "the radius it owes" if owed.why else "the exact one"


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for rounding."""
    return bool(torch.isclose(one, other, rtol=0, atol=1e-5).all())
