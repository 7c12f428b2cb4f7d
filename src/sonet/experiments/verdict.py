"""What the numbers say, in a paragraph: computed from the rows by fixed rules, never beyond them.

Two accuracies differ when their 95 % Wilson intervals do not overlap; that is stricter than a test at 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence

from sonet.report import Row
from sonet.types import Proportion


def pool(rows: Sequence[Row]) -> Proportion:
    """Counts added over seeds."""
    return Proportion(sum(row.right.count for row in rows), sum(row.n for row in rows))


def below(a: Proportion, b: Proportion) -> bool:
    """Whether a's interval lies wholly below b's."""
    return a.interval[1] < b.interval[0]


def say(share: Proportion) -> str:
    low, high = share.interval
    return f"{share.value:.2f} [{low:.2f}, {high:.2f}]"


_CHANGES = (
    ("attacking one image at a time", {"attack_batch": 1}),
    ("freezing the step sizes in the gradient", {"step_gradient": "frozen"}),
    ("letting only the first step's size carry gradient, as torchdiffeq does today", {"step_gradient": "first"}),
    ("the margin loss instead of cross-entropy", {"loss": "margin"}),
)


def verdict(rows: Sequence[Row]) -> str:
    """One sentence or more for each network, at the largest radius attacked; masked ones first."""
    said: list[tuple[bool, str]] = []
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        attacked = [row for row in mine if row.attack != "none"]
        if attacked:
            said.append(_judge(model, mine, attacked))
    if not said:
        return "Nothing has been attacked yet."
    said.sort(key=lambda item: not item[0])
    return " ".join(text for _, text in said) + (
        " Accuracy left under these attacks is an upper bound: a stronger attack may leave less."
    )


def _judge(model: str, mine: list[Row], attacked: list[Row]) -> tuple[bool, str]:
    eps = max(row.eps for row in attacked)
    here = [row for row in attacked if row.eps == eps]
    natural = pool([row for row in mine if row.attack == "none"])
    opening = f"{model}: {natural.value:.2f} of {natural.n} test images are right without an attack."
    steps = min((row.steps for row in here if row.attack == "pgd"), default=0)
    coupled = any(row.step_gradient == "differentiated" for row in here)
    whole = max((row.attack_batch or 1 for row in here), default=1)
    base: dict[str, object] = {"attack": "pgd", "steps": steps, "loss": "ce", "attack_batch": whole}
    if coupled:
        base["step_gradient"] = "differentiated"
    start = _find(here, base)
    if start is None:
        return False, f"{opening} The attacks are not finished."
    rest = [(what, changed) for what, change in _CHANGES if (changed := _find(here, base | change)) is not None]
    if not coupled:
        rest = [(what, changed) for what, changed in rest if "margin" in what]
    free = _find(here, {"attack": "spsa"})
    if free is not None:
        rest.append(("SPSA, which uses no gradient,", free))
    carriers = [(what, left) for what, left in rest if below(left, start)]
    how = f" at batch {whole} with the step sizes differentiated" if coupled else ""
    ball = f"{here[0].norm} {eps:g}"
    opening += f" PGD-{steps} on cross-entropy{how} leaves {say(start)} at {ball}."
    if carriers:
        parts = "; ".join(f"{what} leaves {say(left)}" for what, left in carriers)
        others = [f"{what} leaves {say(left)}" for what, left in rest if (what, left) not in carriers]
        other = f" No clear change: {'; '.join(others)}." if others else ""
        longer = _find(here, base | {"steps": max(row.steps for row in here if row.attack == "pgd")})
        patience = ""
        if longer is not None and longer.value < start.value:
            patience = f" More steps of the same attack ({max(row.steps for row in here)}) leave {say(longer)}."
        return True, (
            f"{opening} That is masked: on the same weights and the same forward pass, {parts}.{patience}{other}"
        )
    parts = "; ".join(f"{what} leaves {say(left)}" for what, left in rest)
    return False, f"{opening} No masking found by these comparisons: {parts}."


def _find(rows: Sequence[Row], wanted: dict[str, object]) -> Proportion | None:
    found = [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]
    return pool(found) if found else None
