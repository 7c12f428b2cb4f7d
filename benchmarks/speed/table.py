"""Put the rows of benchmarks/latest.json into docs/performance.md, between its two marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LATEST, PAGE = ROOT / "benchmarks" / "latest.json", ROOT / "docs" / "performance.md"
START, END = "<!-- figures: benchmarks/speed/table.py -->", "<!-- end of figures -->"
WHAT = {
    "torchdiffeq": "torchdiffeq over ours, the same result",
    "torchode": "torchode over ours, both in two fixed steps",
    "per-sample": "ours whole batch over ours per sample",
    "frozen": "ours with the first step differentiated over ours frozen",
    "differentiated": "ours with the first step differentiated over the whole controller differentiated",
    "floor-fields": "bare evaluations of the fields over ours",
    "floor-convolutions": "bare convolutions over ours",
}


def table(latest: dict[str, Any]) -> str:
    here = latest["environment"]
    lines = [
        f"{here['cpu']}, {here['threads']} thread(s), batch {here['batch']} of {here['images']}; torch "
        f"{here['versions']['torch']}, torchdiffeq {here['versions']['torchdiffeq']}, torchode "
        f"{here['versions']['torchode']}. Ratios of medians [least, most of the pairs].",
        "",
        "| time of ... | network | forward | attack step | training step |",
        "|---|---|---|---|---|",
    ]
    rows = {row["name"]: row for row in latest["rows"]}
    for kind, what in WHAT.items():
        for network in dict.fromkeys(name.split("/")[1] for name in rows):
            cells = [_cell(rows.get(f"{kind}/{network}/{work}")) for work in ("forward", "attack", "train")]
            if any(cells):
                lines.append(f"| {what} | {network} | " + " | ".join(cell or "-" for cell in cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["ratio"] is None:
        return f"void: {row['void']}"
    return f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}], n = {row['n']}"


def main() -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    made = f"{before}{START}\n\n{table(json.loads(LATEST.read_text()))}\n\n{END}{after}"
    part = PAGE.with_suffix(".part")
    part.write_text(made)
    part.replace(PAGE)


if __name__ == "__main__":
    main()
