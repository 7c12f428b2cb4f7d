"""Ensembles: which attacks, in which order, with which gradients. Worst case per sample is what they are run for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic import BaseModel, ConfigDict, SerializeAsAny

from sonet.attacks.apgd import APGD, APGDCE, APGDDLR, APGDT
from sonet.attacks.attack import Attack
from sonet.attacks.fab import FAB
from sonet.attacks.pgd import PGD
from sonet.attacks.square import Square

OWN = "own"
"""The model's own gradient, as deployed."""


Ensemble = Callable[[Iterable[str], int], "tuple[Member, ...]"]


class Member(BaseModel):
    """One attack of an ensemble, the gradients it is crafted with (a name of the caller's), and what it is called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    attack: SerializeAsAny[Attack]
    gradients: str = OWN


FUTILITY = 2.0
"""How generous `standard` is with a search before it gives an image up: see `sonet.attacks.outlook`."""


def standard(seed: int = 0, futility: float | None = FUTILITY) -> tuple[Member, ...]:
    """AutoAttack's composition (Croce and Hein 2020): APGD on cross-entropy, APGD and FAB targeted, Square.

    100 steps a run, the nine likeliest wrong classes, 5,000 queries. Deviations: those of the single attacks; three
    more runs of APGD toward the class that came nearest; and a search that even at twice its recent pace would not
    arrive is given up. `thorough` gives nothing up.
    """
    return (
        Member(name="apgd-ce", attack=APGDCE(seed=seed, futility=futility)),
        Member(name="apgd-t", attack=APGDT(seed=seed, futility=futility, encores=3)),
        Member(name="fab", attack=FAB(seed=seed, futility=futility, stop_when_fooled=True)),
        Member(name="square", attack=Square(seed=seed, futility=futility)),
    )


def quick(seed: int = 0) -> tuple[Member, ...]:
    """A first look at about a thirtieth of the price: what stands here may well fall to `standard`."""
    return (
        Member(name="pgd", attack=PGD(loss="margin", stop_when_fooled=True, seed=seed)),
        Member(name="apgd-ce", attack=APGDCE(steps=40, seed=seed)),
        Member(name="apgd-dlr", attack=APGDDLR(steps=40, seed=seed)),
        Member(name="square", attack=Square(queries=300, seed=seed)),
    )


def ode(gradients: Iterable[str], seed: int = 0) -> tuple[Member, ...]:
    """For ODE networks: first APGD on the margin with each of the `gradients` by name, then `standard`.

    The first of them ends most of it quickly where only the own gradient is masked.
    """
    through = tuple(
        Member(name=f"apgd-{name}", attack=APGD(loss="margin", steps=50, seed=seed), gradients=name)
        for name in gradients
        if name != OWN
    )
    return (*through, *standard(seed))


ENSEMBLES: dict[str, tuple[Ensemble, str]] = {
    "quick": (lambda gradients, seed: quick(seed), "a first look: what stands may well fall to standard"),
    "standard": (lambda gradients, seed: standard(seed), "AutoAttack's composition: APGD-CE, APGD-T, FAB-T, Square"),
    "thorough": (lambda gradients, seed: standard(seed, futility=None), "standard to the last step of every search"),
    "ode": (ode, "for ODE networks: APGD through every gradient the network offers, then standard"),
}
"""By name: the members, from the names of the gradients at hand and a seed; and what it is for."""
