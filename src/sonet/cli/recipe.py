"""Which attacks, with which settings and gradients, the options of `sonet attack` ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sonet.attacks import GradientSource
    from sonet.attacks.ensemble import Member
    from sonet.cli.victim import Victim

AS_GIVEN = "as-given"
"""What --step-gradient, --scope and --transfer-from make is called among the gradients."""
_OPTIONS = {"batch_size": "--batch-size", "seed": "--seed"}


def choose_attacks(
    name: str, settings: list[str], gradients: str, sources: dict[str, GradientSource], batch_size: int, seed: int
) -> tuple[Member, ...]:
    """The attack or the ensemble called `name`, with `settings` for each attack that has them."""
    from difflib import get_close_matches

    from sonet.attacks import ATTACKS, AttackError
    from sonet.attacks.ensemble import ENSEMBLES, OWN, Member
    from sonet.cli.settings import parse_value

    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise AttackError(f"--set: got {setting!r}, expected KEY=VALUE, for example steps=40.")
        if key.strip() in _OPTIONS:
            raise AttackError(f"--set {key.strip()}: is given as {_OPTIONS[key.strip()]}, for all attacks alike.")
        given[key.strip()] = parse_value(text.strip())
    if AS_GIVEN in sources and gradients != OWN:
        raise AttackError(
            f"--gradients {gradients}: goes without --step-gradient, --scope and --transfer-from, which say themselves "
            "where gradients come from. Give one or the other."
        )
    chosen = AS_GIVEN if AS_GIVEN in sources else gradients
    if chosen not in sources:
        raise AttackError(
            f"--gradients {gradients}: this network offers {', '.join(sources)}. "
            "All but its own need ODE blocks; frozen and alone need adaptive steps."
        )
    if name in ATTACKS:
        attack = ATTACKS[name][0](**({"batch_size": batch_size, "seed": seed} | given))
        return (Member(name=name, attack=attack, gradients=chosen),)
    if name not in ENSEMBLES:
        known = [*ATTACKS, *ENSEMBLES]
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise AttackError(f"no attack is called {name!r}, expected one of {', '.join(known)}.{hint}")
    members = ENSEMBLES[name][0](sources, seed)
    unused = [key for key in given if not any(key in type(member.attack).model_fields for member in members)]
    if unused:
        raise AttackError(f"--set: no attack of {name} has a setting {unused[0]!r}; see `sonet list attacks`.")
    result = []
    for member in members:
        kind = type(member.attack)
        mine = {"batch_size": batch_size} | {key: value for key, value in given.items() if key in kind.model_fields}
        attack = kind(**(member.attack.model_dump() | mine))
        through = chosen if member.gradients == OWN else member.gradients
        result.append(Member(name=member.name, attack=attack, gradients=through))
    return tuple(result)


def choose_gradients(
    victim: Victim, step_gradient: str | None, scope: str | None, transfer_from: list[Path]
) -> dict[str, GradientSource]:
    """Every gradient by name that this network offers, and the one that the options describe."""
    from sonet.attacks import AttackError, Average, Backpropagation, Guided
    from sonet.blocks import ode_blocks
    from sonet.cli.fits import check_fits
    from sonet.evaluation import gradient_sources
    from sonet.models import variant
    from sonet.publishing import load_trained

    some = victim.data.train.take(min(500, len(victim.data.train)))
    sources = gradient_sources(victim.model, some.images.to(victim.device), some.labels.to(victim.device))
    changes: dict[str, Any] = {}
    if step_gradient is not None:
        changes["step_gradient"] = step_gradient
    if scope is not None:
        changes["scope"] = int(scope) if scope.isdecimal() else scope
    if changes and transfer_from:
        raise AttackError("--transfer-from takes other networks as they are; it goes without --step-gradient, --scope.")
    if changes:
        if not ode_blocks(victim.model):
            raise AttackError("--step-gradient and --scope need a network with ODE blocks; this one has none.")
        sources[AS_GIVEN] = Backpropagation(variant(victim.model, **changes))
        sources[AS_GIVEN].logits(victim.test.images[:1])  # a setting that the solver lacks shows before any work
    if transfer_from:
        others = [load_trained(path).to(victim.device) for path in transfer_from]
        for other, path in zip(others, transfer_from, strict=True):
            check_fits(other, victim.test.images, f"--transfer-from {path}: the attacked network's data")
            theirs, ours = (Backpropagation(net).logits(victim.test.images[:1]) for net in (other, victim.model))
            if theirs.shape != ours.shape:
                raise AttackError(f"--transfer-from {path}: got {theirs.shape[1]} classes, expected {ours.shape[1]}.")
        guide = sources.get("frozen", sources["own"])
        sources[AS_GIVEN] = Guided(Average(tuple(map(Backpropagation, others))), guide)
    return sources


def as_given(step_gradient: str | None, scope: str | None, transfer_from: list[Path]) -> dict[str, Any]:
    """How the gradients were described, for the setting: other networks by their weights too."""
    from sonet.publishing import read_trained

    return {
        "step_gradient": step_gradient,
        "scope": scope,
        "transfer_from": [str(path) for path in transfer_from],
        "transfer_files": [read_trained(path).description.files for path in transfer_from],
    }
