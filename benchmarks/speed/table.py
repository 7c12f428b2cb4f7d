"""Put the rows of benchmarks/latest.json into docs/performance.md, each table between its own two marks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latest import LATEST, Row
from tables import attacks, cost, distance, epoch, memory

from sonet.report.write import write_whole

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
END = "<!-- end of figures -->"
WHAT = {
    "torchdiffeq": "torchdiffeq over ours, the same result",
    "torchode": "torchode over ours, both in two fixed steps",
    "per-sample": "ours whole batch over ours per sample",
    "frozen": "ours with the first step differentiated over ours frozen",
    "differentiated": "ours with the first step differentiated over the whole controller differentiated",
    "floor-fields": "bare evaluations of the fields over ours",
    "floor-convolutions": "bare convolutions over ours",
}


def speed(latest: dict[str, Any]) -> str:
    here = latest["environment"]
    rows = {row["name"]: row for row in latest["rows"] if row["name"].split("/")[0] in WHAT}
    if not rows:
        return "Not measured yet."
    lines = [
        f"{here['cpu']}, {here['threads']} thread(s), batch {here['batch']} of {here['images']}; torch "
        f"{here['versions']['torch']}, torchdiffeq {here['versions']['torchdiffeq']}, torchode "
        f"{here['versions']['torchode']}. Ratios of medians [least, most of the pairs].",
        "",
        "| time of ... | network | forward | attack step | training step |",
        "|---|---|---|---|---|",
    ]
    for kind, what in WHAT.items():
        for network in dict.fromkeys(name.split("/")[1] for name in rows):
            cells = [_cell(rows.get(f"{kind}/{network}/{work}")) for work in ("forward", "attack", "train")]
            if any(cells):
                lines.append(f"| {what} | {network} | " + " | ".join(cell or "-" for cell in cells) + " |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "<!-- figures: benchmarks/speed/table.py -->": speed,
    "<!-- figures: benchmarks/speed/floors.py -->": distance,
    "<!-- figures: benchmarks/speed/memory.py -->": memory,
    "<!-- figures: benchmarks/speed/cost.py -->": cost,
    "<!-- figures: benchmarks/speed/attacks.py -->": attacks,
    "<!-- figures: benchmarks/speed/epoch.py -->": epoch,
}
"""By the mark above it."""


def filled(page: str, latest: dict[str, Any]) -> str:
    """The page with every table made anew; SystemExit where a mark is missing, as nothing would be written there."""
    for start, table in TABLES.items():
        before, mark, rest = page.partition(start)
        _, end, after = rest.partition(END)
        if not (mark and end):
            raise SystemExit(f"{PAGE}: expected the marks {start} and, below it, {END}; put them back.")
        page = f"{before}{start}\n\n{table(latest)}\n\n{END}{after}"
    return page


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["ratio"] is None:
        return f"void: {row['void']}"
    return f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}], n = {row['n']}"


def main() -> None:
    write_whole(PAGE, filled(PAGE.read_text(), json.loads(LATEST.read_text())))


if __name__ == "__main__":
    main()
