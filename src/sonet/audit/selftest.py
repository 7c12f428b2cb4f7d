"""Every attack against models whose right answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from sonet.attacks import ATTACKS, Attack, AttackError
from sonet.audit.conduct import coupling, limits, nan_sample, noise, unfit
from sonet.audit.planted import Detached, Quantised, Scaled, Shifted, Softmax
from sonet.audit.proof import Bench, Case, Proof
from sonet.audit.radii import masked, radius, wrapped

Tell = Callable[[float, str], None]
"""Called with the share done, in [0, 1], and a word on what is under way."""


def selftest(
    attacks: Mapping[str, Attack], *, seed: int = 0, quick: bool = False, tell: Tell | None = None
) -> list[Proof]:
    """The proofs that each of `attacks`, by its name, owes; one that fails, or raises an error, has `passed` False.

    seed: of models and images, not of the attacks. quick: fewer cases, in each attack's first norm, of fewer images.
    What a class of attack owes follows from its norms, `needs_gradient`, and whether it is one of minimum norm; see
    `sonet.audit.allowance` and the docstrings of `sonet.audit.planted`.
    """
    plan = {name: cases(attack, quick=quick) for name, attack in attacks.items()}
    total, proofs = sum(map(len, plan.values())), list[Proof]()
    for name, attack in attacks.items():
        bench = Bench(name, attack, seed, images=4 if quick else 8)
        for case, run in plan[name].items():
            if tell is not None:
                tell(len(proofs) / total, f"{name}: {case}")
            proofs.append(_attempt(bench, case, run))
    if tell is not None:
        tell(1.0, "done")
    return proofs


def cases(attack: Attack, *, quick: bool = False) -> dict[str, Case]:
    """The cases for an attack, by their names."""
    chosen: dict[str, Case] = {}
    for norm in attack.norms[:1] if quick else attack.norms:
        chosen[f"2 classes, {norm}"] = radius(2, norm)
        if not quick:
            chosen[f"10 classes, {norm}"] = radius(10, norm)
            chosen[f"pixels 0 or 1, {norm}"] = radius(2, norm, corners=True)
    if not quick:
        for by in (50.0, -50.0):
            chosen[f"logits {by:+g}"] = wrapped(f"logits {by:+g}", partial(Shifted, by=by))
        chosen["logits x 0.001"] = wrapped("logits x 0.001", partial(Scaled, by=1e-3))
        chosen["softmax"] = wrapped("softmax", Softmax)
    chosen["logits x 1000"] = wrapped("logits x 1000", partial(Scaled, by=1e3), may_be_blind=True)
    if attack.needs_gradient and not quick:
        chosen["sure softmax"] = wrapped("sure softmax", lambda model: Softmax(Scaled(model, 1e3)), may_be_blind=True)
    chosen["cut gradient"] = masked("cut gradient", Detached)
    if not quick:
        chosen["rounded pixels"] = masked("rounded pixels", Quantised)
        chosen["noisy logits"] = noise
    chosen["coupled batch"] = coupling
    chosen["one NaN sample"] = nan_sample
    chosen["unfit input"] = unfit
    chosen["box and budget"] = limits
    return chosen


def ready(names: Iterable[str] | None = None) -> tuple[dict[str, Attack], list[str]]:
    """The registered attacks with their default settings, or those named; and the names of those that need settings."""
    attacks, left = dict[str, Attack](), []
    for name in ATTACKS if names is None else names:
        if name not in ATTACKS:
            raise AttackError(f"no attack is called {name!r}, expected one of {', '.join(ATTACKS)}.")
        kind = ATTACKS[name][0]
        if any(setting.is_required() for setting in kind.model_fields.values()):
            left.append(name)
        else:
            attacks[name] = kind()
    return attacks, left


def _attempt(bench: Bench, case: str, run: Case) -> Proof:
    try:
        return run(bench)
    except Exception as error:  # an attack that breaks down has not shown what it had to
        return Proof(bench.name, case, "no error", type(error).__name__, False, f"{type(error).__name__}: {error}")
