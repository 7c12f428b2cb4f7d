"""An audit in the terminal: verdict, numbers, what decides, attacks, findings, the next command. Fits 100 columns."""

from __future__ import annotations

import sys
import textwrap

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sonet.report import audit_words as words
from sonet.report.audit_record import AuditRecord, Finding
from sonet.report.lines import duration
from sonet.report.terminal import plain

WIDTH = 100
_STYLES = {"masked": "bold red", "no masking found": "bold blue", "inconclusive": "bold yellow"}


def show_audit(record: AuditRecord, console: Console | None = None) -> None:
    """Print the audit; colours only where the output is a terminal."""
    if console is None:
        console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(audit_text(record, console.encoding))


def audit_plain(record: AuditRecord) -> str:
    """The same as text without colours, at most 100 columns wide."""
    console = Console(width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as caught:
        console.print(audit_text(record))
    return "\n".join(line.rstrip() for line in caught.get().splitlines()) + "\n"


def audit_text(record: AuditRecord, encoding: str = "utf-8") -> Group:
    """The audit for rich. encoding: the terminal's; letters that it lacks become "?"."""

    def text(said: str, style: str = "") -> Text:
        return Text(plain(said, encoding), style)

    parts: list[RenderableType] = [
        text(words.VERDICTS[record.verdict] + ".", _STYLES[record.verdict]),
        text(record.summary),
    ]
    if record.verdict == "no masking found" and "Popovic" not in record.summary:
        parts.append(text(words.NO_PROOF, "italic"))
    parts += ["", _numbers(record)]
    if found := words.decisive(record):
        parts += ["", text("What decides", "bold")]
        parts += [Padding(text(f"{i}. {_line(finding)}"), (0, 0, 0, 2)) for i, finding in enumerate(found, 1)]
    if record.stages:
        parts += ["", _stages(record, encoding)]
    if record.causes:
        parts += ["", _causes(record, encoding)]
        if record.cause:
            parts.append(text(record.cause))
    if record.findings:
        parts += ["", text(f"Findings: {words.tally(record.findings)}", "bold")]
        raised = [f for bears in words.BEARS for f in record.findings if f.raised and f.bears == bears]
        parts += [Padding(text(f"{finding.bears}: {_line(finding)}"), (0, 0, 0, 2)) for finding in raised]
    if record.not_run:
        parts.append(text(f"Not run: {', '.join(record.not_run)}"))
    parts += ["", text("Next", "bold"), Padding(text(_command(record.next_command), "bold"), (0, 0, 0, 2))]
    return Group(*parts)


def _command(command: str) -> str:
    """A long command over several lines that a shell still takes as one."""
    lines = textwrap.wrap(command, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines) if not set(command) & set("'\"\n") else command


def _line(finding: Finding) -> str:
    value = words.amount(finding)
    return f"{finding.title}: {value or finding.measured} ({finding.name})"


def _table(title: str) -> Table:
    return Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)


def _numbers(record: AuditRecord) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    n = record.worst.n
    table.add_row(
        "left by all attacks (the number to quote)", Text(words.count(record.worst), "bold"), f"of {n} images"
    )
    table.add_row("left by the attacks an owner would run", words.count(record.plain), f"of {record.plain.n}")
    table.add_row("natural, without attack", words.count(record.natural), f"of {record.natural.n}")
    table.add_row("overestimate by those plain attacks", words.points(record.overestimate), "points")
    return table


def _stages(record: AuditRecord, encoding: str) -> Table:
    table = _table("Attacks, in the order in which they ran")
    table.add_column("attack", overflow="fold")
    table.add_column("gradient", overflow="fold")
    for name in ("tried", "fell", "standing", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in record.stages:
        counts = (str(stage.tried), str(stage.fell), str(stage.standing), duration(stage.seconds))
        table.add_row(Text(plain(stage.name, encoding)), Text(plain(stage.gradient, encoding)), *counts)
    return table


def _causes(record: AuditRecord, encoding: str) -> Table:
    table = _table("One factor changed")
    table.add_column("changed", overflow="fold")
    table.add_column("to", overflow="fold")
    table.add_column("accuracy left", no_wrap=True)
    table.add_column("so", no_wrap=True)
    for bar in sorted(record.causes, key=lambda bar: not bar.reference):
        labels = (Text(plain(bar.factor, encoding)), Text(plain(bar.setting, encoding)))
        table.add_row(*labels, words.count(bar.left), Text(words.role(bar), "bold" if bar.carries else ""))
    return table
