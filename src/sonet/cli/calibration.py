"""`sonet selftest --audit`: the audit on networks whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sonet.audit.calibration import Calibrated


def calibration(names: list[str] | None, seeds: Iterable[int], out: Path | None, as_json: bool) -> int:
    """Judge the networks, print the verdicts; gives the exit code: 1 if one is wrong."""
    from sonet.attacks import AttackError
    from sonet.audit.calibration import CASES, calibrate
    from sonet.cli.progress import bar
    from sonet.data import load

    for name in names or ():
        if name not in CASES:
            raise AttackError(f"--case: got {name!r}, expected one of: {'; '.join(CASES)}.")
    with bar() as shown:
        found = calibrate(
            load("digits"),
            seeds,
            names=names or None,
            out=out,
            tell=lambda done, word: shown.update("selftest", done, word),
        )
    wrong = [each for each in found if not each.right]
    if as_json:
        typer.echo(json.dumps([asdict(each) | {"right": each.right} for each in found], indent=1))
    else:
        typer.echo(as_markdown(found))
        typer.echo(f"\n{len(found) - len(wrong)} of {len(found)} verdicts are right{_listed(wrong)}.")
    return 1 if wrong else 0


def as_markdown(found: list[Calibrated]) -> str:
    """A row a network: what is right, how often it was said, accuracies left with their range over seeds, seconds."""
    from sonet.audit.calibration import table

    lines = ["| network | right is | said | natural | plain attacks leave | all leave | seconds |", "|" + "---|" * 7]
    for name, right, each in table(found):
        said = ", ".join(f"{sum(one.verdict == word for one in each)} {word}" for word in _words(each))
        values = [_range([getattr(one, what) for one in each]) for what in ("natural", "plain", "worst")]
        slowest = max(one.seconds for one in each)
        lines.append(f"| {name} | {right} | {said} | {' | '.join(values)} | {slowest:.0f} |")
    return "\n".join(lines)


def _words(each: list[Calibrated]) -> list[str]:
    return list(dict.fromkeys(one.verdict for one in each))


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2f}" if low == high else f"{low:.2f} - {high:.2f}"


def _listed(wrong: list[Calibrated]) -> str:
    return ": wrong " + ", ".join(f"{each.case} (seed {each.seed})" for each in wrong) if wrong else ""
