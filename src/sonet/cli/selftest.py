"""`sonet selftest`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sonet.cli.calibration import calibration

if TYPE_CHECKING:
    from rich.table import Table

    from sonet.audit.proof import Proof

_WIDTH = 100
_SIDE_BY_SIDE = 4
"""Attacks in one table: a case's name and four figures fit 100 columns; more go to a further table."""


def selftest(
    names: Annotated[
        list[str] | None, typer.Option("--attack", help="This attack only; may be given again (default: all).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases and images, in some ten seconds.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Try the audit instead, on networks of known answer.")] = False,
    cases: Annotated[
        list[str] | None, typer.Option("--case", help="With --audit: this network only; may be given again.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="With --audit: networks and images of so many seeds.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="With --audit: folder where verdicts are kept, and gone on from.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the planted models and images; the first of --seeds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the proofs as JSON.")] = False,
) -> None:
    """Try every attack, or the audit, on models whose right answer is known; exit code 1 if one fails.

    Example: sonet selftest --quick
    """
    if audit:
        raise typer.Exit(calibration(cases, range(seed, seed + seeds), out, as_json))
    from sonet.audit.selftest import ready
    from sonet.audit.selftest import selftest as run
    from sonet.cli.progress import bar

    attacks, left = ready(names or None)
    with bar() as shown:
        proofs = run(attacks, seed=seed, quick=quick, tell=lambda done, word: shown.update("selftest", done, word))
    failed = [proof for proof in proofs if not proof.passed]
    if as_json:
        answer = {
            "seed": seed,
            "quick": quick,
            "skipped": left,
            "holds": not failed,
            "proofs": list(map(asdict, proofs)),
        }
        typer.echo(json.dumps(answer, indent=1))
    else:
        _show(proofs, left)
    if failed:
        raise typer.Exit(1)


def _show(proofs: list[Proof], left: list[str]) -> None:
    import sys

    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    attacks = list(dict.fromkeys(proof.attack for proof in proofs))
    for start in range(0, len(attacks), _SIDE_BY_SIDE):
        console.print(_table(proofs, attacks[start : start + _SIDE_BY_SIDE]))
    failed = [proof for proof in proofs if not proof.passed]
    console.print(
        f"{len(proofs) - len(failed)} of {len(proofs)} proofs hold{'.' if not failed else '; these do not:'}",
        style="bold",
        highlight=False,
    )
    for proof in failed:
        text = f"  {proof.attack}, {proof.case}: expected {proof.expected}; got {proof.measured}: {proof.why}."
        console.print(text, markup=False, highlight=False)
    if left:
        console.print(f"Skipped, for they need settings: {', '.join(left)}.", markup=False, highlight=False)


def _table(proofs: list[Proof], attacks: list[str]) -> Table:
    """A line per case, a column per attack: whether it passed, and the measured figure."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("case", no_wrap=True)
    for attack in attacks:
        table.add_column(attack, no_wrap=True)
    found = {(proof.case, proof.attack): proof for proof in proofs}
    columns = [[proof.case for proof in proofs if proof.attack == attack] for attack in attacks]
    # The longest first, so that the cases stay in its order where another has fewer norms.
    for case in dict.fromkeys(case for column in sorted(columns, key=len, reverse=True) for case in column):
        cells = []
        for attack in attacks:
            proof = found.get((case, attack))
            verdict = ("", "") if proof is None else ("pass ", "green") if proof.passed else ("FAIL ", "bold red")
            cells.append(Text.assemble(verdict, proof.measured if proof else ""))
        table.add_row(case, *cells)
    return table
