"""The tables of distances, of memory, of cost and of whole attacks, from the rows that their benchmarks wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from latest import Row

NOTHING = "Not measured yet."
SIX = 6.0
"""Times torchdiffeq: what was dreamt of in every cell."""


def distance(latest: dict[str, Any]) -> str:
    """A line a network and pass: how far it is from six times torchdiffeq and from the floors."""
    rows = {row["name"]: row["ratio"] for row in latest["rows"] if row.get("ratio")}
    lines = []
    for name, floor in rows.items():
        kind, _, cell = name.partition("/")
        rival, fields = rows.get(f"torchdiffeq/{cell}"), rows.get(f"floor-fields/{cell}")
        if kind == "floor-convolutions" and rival and fields:
            lack = "reached" if rival >= SIX else f"{SIX / rival - 1:.0%}"
            lines.append(f"| {cell.replace('/', ', ')} | {rival:.2f} | {lack} | {1 / floor:.1f} | {1 / fields:.1f} |")
    columns = "network, pass | torchdiffeq over ours | to six times | ours over bare convolutions | over bare fields"
    return _table(latest, f"| {columns} |", lines)


def memory(latest: dict[str, Any]) -> str:
    """A line a point: peaks of the three ways, and what recomputation costs in time."""
    lines = []
    for row in _rows(latest, "memory/"):
        _, work, place = row["name"].split("/")
        bound = f" (at most: {', '.join(row['bounds'])})" if row["bounds"] else ""
        lines.append(
            f"| {work} | {place} | {row['stored_mib']:.0f}{bound} | {row['recomputed_mib']:.0f} "
            f"| {_number(row, 'torchdiffeq_mib')} | {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] "
            f"| {row['stored_kept']:.0f} | {row['recomputed_kept']:.0f} | {_number(row, 'torchdiffeq_kept')} "
            f"| {row['recomputed_seconds'] / row['stored_seconds']:.2f} | {_yes(row['same_numbers'])} | {row['n']} |"
        )
    columns = (
        "step | at | peak, MiB: stored | recomputed | torchdiffeq | stored / recomputed "
        "| kept, MiB: stored | recomputed | torchdiffeq | time | same numbers | n"
    )
    return _table(latest, f"| {columns} |", lines)


def cost(latest: dict[str, Any]) -> str:
    """A line a fit, and below it the medians."""
    lines, points = [], []
    for row in _rows(latest, "cost/"):
        _, work, axis = row["name"].split("/")
        lines.append(f"| {work} | {axis} | {_yes(row['straight'])} | {row['words']} | {row['n']} |")
        pairs = zip(row["x"], row["seconds"], row["fit"]["residuals"], strict=True)
        told = ", ".join(f"{x:g}: {seconds * 1e3:.0f} ({residual:+.0%})" for x, seconds, residual in pairs)
        points.append(f"- {work}, {axis}: {told}")
    table = _table(latest, "| pass | against | straight | in words | n |", lines)
    return "\n".join([table, "", "Medians in ms (residual of the line):", "", *points]) if points else table


def attacks(latest: dict[str, Any]) -> str:
    """A line for each of our sides against its rival."""
    lines = []
    for row in _rows(latest, "attacks/"):
        _, family, network, side, _ = row["name"].split("/")
        if row["ratio"] is None:
            lines.append(f"| {family}, {row['rival']} | {network} | {side} | void: {row['void']} | - | - | - | - | - |")
            continue
        lines.append(
            f"| {family}, {row['rival']} | {network}, linf {row['eps']:g} | {side}: {row['note']} "
            f"| {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] "
            f"| {row['ours_seconds']:.0f} | {row['other_seconds']:.0f} "
            f"| {_left(row, 'ours')} | {_left(row, 'other')} | {row['n']}, seed {row['seed']} |"
        )
    columns = (
        "attack, rival | network | ours | rival's time over ours | ours, s | rival, s | ours leaves | rival leaves | n"
    )
    return _table(latest, f"| {columns} |", lines)


def epoch(latest: dict[str, Any]) -> str:
    """A line a device."""
    lines = [
        f"| {row['name'].split('/')[1]} | {row['device']} | {row['batch']} | {row['ours_seconds']:.1f} "
        f"| {row['other_seconds']:.1f} | {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] | {row['n']} |"
        for row in _rows(latest, "epoch/")
    ]
    columns = "network | device | batch | ours, s an epoch | torchdiffeq, s an epoch | torchdiffeq over ours | n"
    return _table(latest, f"| {columns} |", lines)


def _rows(latest: dict[str, Any], start: str) -> Iterator[Row]:
    return (row for row in latest["rows"] if row["name"].startswith(start))


def _table(latest: dict[str, Any], head: str, lines: list[str]) -> str:
    if not lines:
        return NOTHING
    here = latest["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
    return "\n".join([f"{here['cpu']}; {versions}.", "", head, "|---" * (head.count("|") - 1) + "|", *lines])


def _left(row: Row, who: str) -> str:
    low, high = row[f"{who}_interval"]
    return f"{row[f'{who}_left']:.3f} [{low:.3f}, {high:.3f}]"


def _number(row: Row, name: str) -> str:
    return f"{row[name]:.0f}" if name in row else "-"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
