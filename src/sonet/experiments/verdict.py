"""What the numbers say, in a paragraph: computed from the rows by fixed rules, never beyond them.

Two accuracies differ when their 95 % Wilson intervals do not overlap; that is stricter than a test at 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from sonet.report import Leak, Row
from sonet.types import Proportion

UNFINISHED = "Nothing has been attacked yet."
BOUND = "Accuracy left under an attack is an upper bound: a stronger attack may leave less."


def pool(rows: Sequence[Row]) -> Proportion:
    """Counts added over seeds."""
    return Proportion(sum(row.right.count for row in rows), sum(row.n for row in rows))


def below(a: Proportion, b: Proportion) -> bool:
    """Whether a's interval lies wholly below b's."""
    return a.interval[1] < b.interval[0]


def say(share: Proportion) -> str:
    low, high = share.interval
    return f"{share.value:.2f} [{low:.2f}, {high:.2f}]"


_CHANGES: tuple[tuple[str, dict[str, object]], ...] = (
    ("attacked one at a time", {"attack_batch": 1}),
    ("with the step sizes frozen in the gradient", {"step_gradient": "frozen"}),
    ("with the margin loss", {"loss": "margin"}),
)
"""Each changes one factor of the attack and nothing of the network; SPSA, which changes several, is added to them."""


def verdict(rows: Sequence[Row], leaks: Sequence[Leak] = ()) -> str:
    """A few sentences for each network, at the largest radius attacked; the masked ones first."""
    said: list[tuple[bool, str]] = []
    for model in dict.fromkeys(row.model for row in rows):
        attacked = [row for row in rows if row.model == model and row.attack != "none"]
        if attacked:
            said.append(_judge(model, attacked, [leak for leak in leaks if leak.model == model]))
    if not said:
        return UNFINISHED
    said.sort(key=lambda item: not item[0])
    return " ".join([*(text for _, text in said), BOUND])


def _judge(model: str, attacked: list[Row], leaks: list[Leak]) -> tuple[bool, str]:
    eps = max(row.eps for row in attacked)
    here = [row for row in attacked if row.eps == eps]
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
        return False, f"{model}: its attacks are not finished."
    changed = [(what, _find(here, base | change)) for what, change in _CHANGES if coupled or "loss" in change]
    others = [
        (what, left)
        for what, left in [*changed, ("under SPSA, which uses no gradient", _find(here, {"attack": "spsa"}))]
        if left
    ]
    if not others:
        return False, f"{model}: its attacks are not finished."
    carriers = [(what, left) for what, left in others if below(left, start)]
    attack = f"PGD-{base['steps']} on cross-entropy"
    ball = f"{here[0].norm} {eps:g}"
    if not carriers:
        rest = ", ".join(f"{left.value:.2f} {what}" for what, left in others)
        return False, f"{model}: no masking found: {attack} leaves {say(start)} at {ball}; to compare, {rest}."
    how = f", {base['attack_batch']} images at a time through differentiated step sizes," if coupled else ""
    falls = ", ".join(f"{left.value:.2f} {what}" for what, left in carriers)
    text = [
        f"{model}: masked. {attack}{how} leaves {say(start)} at {ball}, "
        f"but the same weights and forward pass keep only {falls}."
    ]
    unclear = [f"{left.value:.2f} {what} (n = {left.n})" for what, left in others if (what, left) not in carriers]
    if unclear:
        text.append(f"Not clearly different: {', '.join(unclear)}.")
    alone, frozen = (_find(here, base | change) for _, change in _CHANGES[:2])
    if coupled and alone and frozen and below(alone, start) and below(frozen, start):
        shares = [share for leak in leaks if leak.attack_batch == base["attack_batch"] for share in leak.shares]
        own = f" (in the median {median(shares):.0%} of an image's gradient was its own)" if shares else ""
        margin = _find(here, base | _CHANGES[2][1])
        loss = ", and the cross-entropy" if margin and below(margin, start) else ""
        text.append(
            "Each of these changes alone undoes it and keeps the adaptive solver: the masking needs step sizes that "
            f"are shared, gradient through them{loss}, together. Through a shared step size an image's gradient "
            f"carries its batch-mates' losses{own}."
        )
    return True, " ".join(text)


def _find(rows: Sequence[Row], wanted: dict[str, object]) -> Proportion | None:
    found = [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]
    return pool(found) if found else None
