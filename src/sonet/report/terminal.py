"""A record in the terminal: the verdict first, then one table per network. Fits 100 columns, survives a pipe."""

from __future__ import annotations

import sys
import unicodedata

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sonet.report.lines import NO_ATTACK, Cell, Line, Panel, panels, radius
from sonet.report.record import Record

_WIDTH = 100
_RADII = 3
"""Radii side by side: an attack's name and three results fit 100 columns; more radii go to a further table."""

INCOMPLETE = "This run is not complete: it is under way or was cut short. The numbers below are those it had so far."


def show(record: Record, console: Console | None = None) -> None:
    """Print the verdict and the tables; colours only where the output is a terminal."""
    if console is None:
        # Rich takes 80 columns for a pipe, where nothing limits the width.
        console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(_text(record.verdict, console, "bold"))
    if not record.complete:
        console.print(_text(INCOMPLETE, console, "yellow"))
    for table in tables(record):
        console.print()
        console.print(table)
    if record.rows:
        console.print()
        console.print(_text("Accuracy, 95 % Wilson interval of all seeds' images together.", console, "dim"))


def tables(record: Record) -> list[Table]:
    """One table per network and norm: a line per attack, a column per radius (at most three in one table)."""
    found = []
    for panel in panels(record):
        columns = [panel.radii[i : i + _RADII] for i in range(0, len(panel.radii), _RADII)] or [[]]
        found += [_table(panel, some) for some in columns]
    return found


def _table(panel: Panel, radii: list[float]) -> Table:
    table = Table(title=Text(panel.title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
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
