"""A certificate in the terminal: what is proven, the curve, the blocks. Fits 100 columns."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sonet.report.audit_words import count
from sonet.report.certificate_record import BlockRow, CertificateRecord
from sonet.report.lines import duration, radius
from sonet.report.terminal import plain

WIDTH = 100


def show_certificate(record: CertificateRecord, console: Console | None = None) -> None:
    """Print the certificate; colours only where the output is a terminal."""
    if console is None:
        console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(certificate_text(record, console.encoding))


def certificate_text(record: CertificateRecord, encoding: str = "utf-8") -> Group:
    """The certificate for rich. encoding: the terminal's; letters that it lacks become "?"."""
    parts: list[RenderableType] = [
        Text(plain(record.summary, encoding), "bold"),
        "",
        _curve(record, encoding),
        "",
        _blocks(record, encoding),
    ]
    reasons: dict[str, list[str]] = {}
    for block in record.blocks:
        if block.why:
            reasons.setdefault(block.why.removeprefix(f"{block.name}: "), []).append(block.name)
    parts += [Text(plain(f"Not covered: {', '.join(names)}: {why}", encoding)) for why, names in reasons.items()]
    parts += [
        "",
        Text(
            f"A difference of two logits changes by at most {record.gap:.4g} times the image (l2). Rounding: "
            f"{record.error:.2g} counted, {record.float64:.2g} between float32 and float64 here.",
            "dim",
        ),
    ]
    return Group(*parts)


def _curve(record: CertificateRecord, encoding: str) -> Table:
    table = _table(f"Images of {record.natural.n} that stay right, {record.norm}")
    attacked = any(point.attacked is not None for point in record.curve)
    for name in ("eps", "certified", *((f"left by {record.attack}", "time") if attacked else ())):
        table.add_column(Text(plain(name, encoding)), justify="right", no_wrap=True)
    for point in record.curve:
        cells = [Text(radius(point.eps)), Text(count(point.certified), "bold")]
        if attacked:
            left = "-" if point.attacked is None else count(point.attacked)
            cells += [Text(left), Text("" if point.attacked is None else duration(point.seconds))]
        table.add_row(*cells)
    return table


def _blocks(record: CertificateRecord, encoding: str) -> Table:
    table = _table("Each block: bounds for every input, and what was measured (l2)")
    table.add_column("block", overflow="fold")
    for name in ("||K||", "log norm", "flow", "step", "block bound", "measured", "pairs"):
        table.add_column(name, justify="right", no_wrap=True)
    for block in record.blocks:
        table.add_row(Text(plain(block.name, encoding)), *(_number(value) for value in numbers(block)))
    return table


def numbers(block: BlockRow) -> tuple[float | None, ...]:
    """A block's numbers in the order of the table's columns."""
    return (block.kernel_norm, block.logarithmic, block.flow, block.step, block.block, block.measured, block.pairs)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(title: str) -> Table:
    return Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
