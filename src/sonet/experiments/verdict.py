"""What the numbers say, in a paragraph: computed from the rows by fixed rules, never beyond them.

Two accuracies differ when their 95 % Wilson intervals do not overlap; that is stricter than a test at 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TypeVar

from sonet.experiments.agreement import agreement
from sonet.experiments.conclusion import Conclusion
from sonet.experiments.pooling import below, pool, say
from sonet.report import Leak, Row
from sonet.report.lines import network
from sonet.report.planned import Audited
from sonet.types import Proportion

E = TypeVar("E", Row, Leak, Audited)

UNFINISHED = "Nothing has been attacked yet."
BOUND = "Accuracy left under an attack is an upper bound: a stronger attack may leave less."


_CHANGES: tuple[tuple[str, dict[str, object]], ...] = (
    ("attacked one at a time", {"attack_batch": 1}),
    ("with the step sizes frozen in the gradient", {"step_gradient": "frozen"}),
    ("with the margin loss", {"loss": "margin"}),
)
"""Each changes one factor of the attack and nothing of the network; SPSA, which changes several, is added to them."""


def verdict(rows: Sequence[Row], leaks: Sequence[Leak] = (), audits: Sequence[Audited] = ()) -> str:
    """A sentence on all networks, then one or two on each at the largest radius, the masked first, then the cause."""
    found: list[Conclusion] = []
    for model, objective in dict.fromkeys((row.model, row.objective) for row in rows):
        attacked = [row for row in _of(rows, model, objective) if row.attack != "none" and not row.changed]
        if attacked:
            conclusion = _judge(network(model, objective), attacked, _of(leaks, model, objective))
            more = "" if objective == "natural" else agreement(attacked)
            conclusion = replace(conclusion, text=f"{conclusion.text} {more}".rstrip())
            found.append(conclusion.heard(_of(audits, model, objective)))
    if not found:
        return UNFINISHED
    masked = [str(conclusion) for conclusion in found if conclusion.masked]
    others = [str(conclusion) for conclusion in found if not conclusion.masked]
    return " ".join([*_headline(found), *masked, *_cause(found), *others, BOUND])


def _of(entries: Sequence[E], model: str, objective: str) -> list[E]:
    return [entry for entry in entries if (entry.model, entry.objective) == (model, objective)]


def _headline(found: list[Conclusion]) -> list[str]:
    masked = ", ".join(one.model for one in found if one.masked)
    clean = ", ".join(one.model for one in found if one.masked is False and not one.open)
    unclear = ", ".join(one.model for one in found if one.masked is False and one.open)
    parts = [f"accuracy under attack is masked in {masked}"] * bool(masked)
    parts += [f"no masking found in {clean}"] * bool(clean)
    parts += [f"left open by its audit in {unclear}"] * bool(unclear)
    said = "; ".join(parts)
    return [f"{said[0].upper()}{said[1:]}."] if said else []


def _cause(found: list[Conclusion]) -> list[str]:
    """Why, said once for all networks in which the shared step size was seen to carry the masking."""
    shared = [conclusion for conclusion in found if conclusion.shared]
    if not shared:
        return []
    where = "" if len(shared) == 1 else f" in {' and '.join(conclusion.model for conclusion in shared)}"
    loss = ", and the cross-entropy" if all(conclusion.loss for conclusion in shared) else ""
    shares = [(conclusion.own, conclusion.model) for conclusion in shared if conclusion.own is not None]
    own = ""
    if shares:
        first, *rest = (f"{share:.0%}" for share, _ in shares)
        names = [f" in {model}" if len(shares) > 1 else "" for _, model in shares]
        more = "".join(f", {share}{name}" for share, name in zip(rest, names[1:], strict=True))
        own = f" (in the median {first} of an image's gradient was its own{names[0]}{more})"
    return [
        f"Each of these changes alone undoes it{where} and keeps the adaptive solver: the masking needs step sizes "
        f"that are shared, gradient through them{loss}, together. Through a shared step size an image's gradient "
        f"carries its batch-mates' losses{own}."
    ]


def _judge(model: str, attacked: list[Row], leaks: list[Leak]) -> Conclusion:
    eps = max(row.eps for row in attacked if row.norm == attacked[0].norm)
    here = [row for row in attacked if (row.norm, row.eps) == (attacked[0].norm, eps)]
    coupled = any(row.step_gradient == "differentiated" for row in here)
    base: dict[str, object] = {
        "attack": "pgd",
        "steps": min((row.steps for row in here if row.attack == "pgd"), default=0),
        "loss": "ce",
        "attack_batch": max(row.attack_batch or 1 for row in here),
    }
    if coupled:
        base["step_gradient"] = "differentiated"
    start = _find(here, base)
    if start is None:
        return Conclusion(model, None, "its attacks are not finished.")
    changed = [(what, _find(here, base | change)) for what, change in _CHANGES if coupled or "loss" in change]
    others = [
        (what, left)
        for what, left in [*changed, ("under SPSA, which uses no gradient", _find(here, {"attack": "spsa"}))]
        if left
    ]
    if not others:
        return Conclusion(model, None, "its attacks are not finished.")
    carriers = [(what, left) for what, left in others if below(left, start)]
    attack = f"PGD-{base['steps']} on cross-entropy"
    ball = f"{here[0].norm} {eps:g}"
    if not carriers:
        rest = ", ".join(f"{left.value:.2f} {what}" for what, left in others)
        text = f"no masking found: {attack} leaves {say(start)} at {ball}; to compare, {rest}."
        return Conclusion(model, False, text)
    how = f", {base['attack_batch']} images at a time through differentiated step sizes," if coupled else ""
    falls = ", ".join(f"{left.value:.2f} {what}" for what, left in carriers)
    text = (
        f"masked. {attack}{how} leaves {say(start)} at {ball}, but the same weights and forward pass keep only {falls}."
    )
    unclear = [f"{left.value:.2f} {what} (n = {left.n})" for what, left in others if (what, left) not in carriers]
    if unclear:
        text += f" Not clearly different: {', '.join(unclear)}."
    alone, frozen = (_find(here, base | change) for _, change in _CHANGES[:2])
    margin = _find(here, base | _CHANGES[2][1])
    shares = [share for leak in leaks if leak.attack_batch == base["attack_batch"] for share in leak.shares]
    return Conclusion(
        model,
        True,
        text,
        shared=bool(coupled and alone and frozen and below(alone, start) and below(frozen, start)),
        loss=bool(margin and below(margin, start)),
        own=median(shares) if shares else None,
    )


def _find(rows: Sequence[Row], wanted: dict[str, object]) -> Proportion | None:
    found = [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]
    return pool(found) if found else None
