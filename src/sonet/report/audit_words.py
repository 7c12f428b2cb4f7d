"""What the terminal and the page say in the same words: verdict, families, states, numbers with their units."""

from __future__ import annotations

from sonet.report.audit_record import AuditRecord, Bar, Count, Family, Finding, Verdict

VERDICTS: dict[Verdict, str] = {
    "masked": "Masked",
    "no masking found": "No masking found",
    "inconclusive": "Inconclusive",
}

NO_PROOF = (
    "Passing is no proof. Popovic et al. (2022, arXiv:2206.01705) give networks whose gradients are masked and which "
    "still pass the usual checks. The accuracy left is an upper bound; a stronger attack may lower it."
)
"""Said wherever no masking was found."""

FAMILIES: dict[Family, str] = {
    "answers": "The network's answers",
    "gradient": "The gradient",
    "solver": "The solver",
    "attack": "The attacks",
}
BEARS = {
    "decisive": "can decide the verdict by itself",
    "warning": "a warning: it does not decide alone",
    "note": "a note: it does not bear on the verdict",
}
_ORDER = ("decisive", "warning", "note")


def state(finding: Finding) -> str:
    """raised, not raised, not measured."""
    return {True: "raised", False: "not raised", None: "not measured"}[finding.raised]


def families(record: AuditRecord) -> dict[Family, list[Finding]]:
    """Findings by family, raised ones first, of these the heaviest first; families without any are left out."""
    found = {
        family: sorted(
            (finding for finding in record.findings if finding.family == family),
            key=lambda f: ((True, False, None).index(f.raised), _ORDER.index(f.bears) if f.raised else 0),
        )
        for family in FAMILIES
    }
    return {family: findings for family, findings in found.items() if findings}


def decisive(record: AuditRecord) -> list[Finding]:
    """The findings that the verdict rests on, in its order."""
    by_name = {finding.name: finding for finding in record.findings}
    return [by_name[name] for name in record.decisive]


def count(found: Count) -> str:
    """0.64 [0.57, 0.70]."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def points(found: Count) -> str:
    """A share in percentage points: 62 [52, 71]."""
    return f"{100 * found.value:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def amount(finding: Finding) -> str:
    """The value with interval and unit: 0.98 [0.95, 0.99] of the images; empty where there is none."""
    if finding.value is None:
        return ""
    text = f"{finding.value:.3g}"
    if finding.low is not None and finding.high is not None:
        text += f" [{finding.low:.3g}, {finding.high:.3g}]"
    return f"{text} {finding.unit}".strip()


def threshold(finding: Finding) -> str:
    """The threshold with its unit; empty where there is none."""
    return "" if finding.threshold is None else f"{finding.threshold:.3g} {finding.unit}".strip()


def tally(findings: list[Finding]) -> str:
    """2 raised, 3 not raised, 1 not measured; without what does not occur."""
    states = [state(finding) for finding in findings]
    return ", ".join(
        f"{states.count(name)} {name}" for name in ("raised", "not raised", "not measured") if name in states
    )


def fate(fell_to: str) -> str:
    """What became of an image, from the record's `fell_to`."""
    return {"none": "stands under all attacks", "no attack": "wrong without attack"}.get(fell_to, f"fell to {fell_to}")


def role(bar: Bar) -> str:
    """What the bar says, in words; audit_figures.CARRIES has its colour."""
    if bar.reference:
        return "reference"
    if bar.carries is None:
        return "not decided"
    return "carries the overestimate" if bar.carries else "not by itself"
