"""A record in the terminal: the verdict first, then one table per network. Fits 100 columns, survives a pipe."""

from __future__ import annotations

import sys
import unicodedata

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sonet.report.comparison import Beside, beside, gaps, not_run
from sonet.report.lines import NO_ATTACK, Cell, Line, Panel, network, panels, radius
from sonet.report.record import Record

_WIDTH = 100
_RADII = 3
"""Radii side by side: an attack's name and three results fit 100 columns; more radii go to a further table."""

CHANGES = "What this table changes from the paper:"
INCOMPLETE = "This run is not complete: it is under way or was cut short. The numbers below are those it had so far."


def show(record: Record, console: Console | None = None) -> None:
    """Print the verdict and the tables; colours only where the output is a terminal."""
    if console is None:
        # Rich takes 80 columns for a pipe, where nothing limits the width.
        console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(_text(record.verdict, console, "bold"))
    if not record.complete:
        console.print(_text(INCOMPLETE, console, "yellow"))
    for table in [*_of_the_whole(record), *tables(record)]:
        console.print()
        console.print(table)
    for sentence in map(str, gaps(record)):
        console.print(_text(f"\n{sentence}", console, ""))
    if record.rows and (source := record.data.get("source")):
        console.print(_text(f"\nData: {source}.", console, ""))
    if record.changes:
        console.print(_text(f"\n{CHANGES} " + " ".join(record.changes), console, ""))
    if record.rows:
        console.print()
        console.print(_text("Accuracy, 95 % Wilson interval of all seeds' images together.", console, "dim"))
    if missing := not_run(record):
        console.print(_text(f"Not run: {', '.join(missing)}.", console, "dim"))


def _of_the_whole(record: Record) -> list[Table]:
    """The table beside the paper's, and the audits' verdicts, where there are any."""
    found = []
    if lines := beside(record):
        found.append(_paper_table(lines))
    if record.audits:
        table = _plain_table("Audits")
        for name in ("network", "threat", "seed", "verdict", "plain", "all", "images"):
            table.add_column(name, justify="right" if name in ("seed", "plain", "all", "images") else "left")
        for one in record.audits:
            left = ("" if count is None else f"{count / one.n:.2f}" for count in (one.plain, one.worst))
            who = network(one.model, one.objective)
            table.add_row(who, one.threat, str(one.seed), Text(one.verdict, "bold"), *left, str(one.n))
        found.append(table)
    return found


def _paper_table(lines: list[Beside]) -> Table:
    table = _plain_table("Beside the paper")
    table.add_column("attack")
    for name in ("here", "paper", "n", "seeds", "training", "attack"):
        table.add_column(name, no_wrap=True, justify="left" if name == "here" else "right")
    before = ""
    for line in lines:
        if line.network != before:
            table.add_row(Text(line.network, "bold"), "", "", "", "", line.training)
            before = line.network
        here = Text(line.here, "bold" if line.ours else "dim")
        table.add_row(f"  {line.attack}", here, f"{line.paper:.3f}", line.n, line.seeds, "", line.attacking)
    return table


def _plain_table(title: str) -> Table:
    return Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def tables(record: Record) -> list[Table]:
    """One table per network and norm: a line per attack, a column per radius (at most three in one table)."""
    found = []
    for panel in panels(record):
        columns = [panel.radii[i : i + _RADII] for i in range(0, len(panel.radii), _RADII)] or [[]]
        found += [_table(panel, some) for some in columns]
    return found


def _table(panel: Panel, radii: list[float]) -> Table:
    table = _plain_table(panel.title)
    table.add_column("attack", min_width=12, overflow="fold")
    table.add_column("images", justify="right", no_wrap=True)
    for eps in radii:
        table.add_column(f"eps {radius(eps)}", no_wrap=True)
    if not radii:
        table.add_column("accuracy", no_wrap=True)
    if panel.natural is not None:
        everywhere = [_cell(panel.natural)] * max(1, len(radii))
        table.add_row(NO_ATTACK, str(panel.natural.right.n), *everywhere, end_section=bool(panel.lines))
    for line in panel.lines:
        if any(eps in line.cells for eps in radii):
            results = (_cell(line.cells[eps]) if eps in line.cells else "" for eps in radii)
            table.add_row(_name(line), _ascii(line.images), *results)
    return table


def _name(line: Line) -> Text:
    text = Text(line.attack)
    if line.how:
        text.append(f"\n{line.how}", "dim")
    return text


def _cell(cell: Cell) -> Text:
    text = Text.assemble((f"{cell.accuracy:.2f}", "bold"), f" {cell.interval}")
    if cell.seeds:
        text.append(f"\nseeds {_ascii(cell.seeds)}", "dim")
    if cell.reported:
        text.append(f"\nreported {cell.reported}", "dim")
    return text


def _ascii(text: str) -> str:
    """Ranges with a plain hyphen: not every terminal has the dash."""
    return text.replace("–", "-")


def _text(text: str, console: Console, style: str) -> Text:
    return Text(plain(text, console.encoding), style)


def plain(text: str, encoding: str) -> str:
    """Text of a record, without control characters and without what the terminal's encoding cannot show."""
    clean = "".join(letter for letter in text if letter == "\n" or unicodedata.category(letter) != "Cc")
    return clean.encode(encoding, "replace").decode(encoding)
