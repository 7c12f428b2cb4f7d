"""Histograms in rows, one over the other: the solver's steps in each block, and whose loss a sample's gradient is from.

All rows of a chart share the horizontal axis, so that a shift from row to row is seen; heights are relative to a row's
tallest bar, the true share is in the tooltip.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import median

import altair as alt

from sonet.report.lines import KINDS, network
from sonet.report.palette import BLUE, COLOURS, INK
from sonet.report.record import Leak, Record, StepHistogram

_STEP = 58
"""Height of one row in pixels: its label and its bars."""
_TALLEST = 0.62
"""Part of a row's height that its tallest bar takes; the rest is for the label."""
_BINS_A_DECADE = 5
_SMALLEST_SHARE = 1e-4


def networks_with_steps(record: Record) -> list[str]:
    return list(dict.fromkeys(network(entry.model, entry.objective) for entry in record.steps))


def networks_with_leaks(record: Record) -> list[str]:
    return list(dict.fromkeys(network(entry.model, entry.objective) for entry in record.leaks))


def steps(record: Record, model: str, width: int | str = "container") -> alt.LayerChart:
    """How many steps the solver took in each block of a network; seeds together."""
    bins, labels = step_rows([entry for entry in record.steps if network(entry.model, entry.objective) == model])
    last = max(int(row["steps"]) for row in bins)
    x = alt.X(
        "left:Q",
        scale=alt.Scale(domain=[0.5 if bins and min(int(r["steps"]) for r in bins) > 0 else -0.5, max(last, 4) + 0.5]),
        axis=alt.Axis(title="accepted steps", format="d", tickMinStep=1, grid=False),
    )
    tip = [
        alt.Tooltip("group:N", title="block"),
        alt.Tooltip("steps:Q", title="accepted steps"),
        alt.Tooltip("share:Q", title="share of samples", format=".1%"),
        alt.Tooltip("count:Q", title="samples"),
    ]
    spoken = f"{model}: accepted solver steps. " + "; ".join(str(row["label"]) for row in labels)
    return _ridges(bins, labels, x, tip, width, spoken)


def step_rows(entries: list[StepHistogram]) -> tuple[list[dict[str, float | str]], list[dict[str, float | str]]]:
    """(bars, labels): a bar for each block and number of steps, a label for each block."""
    bars: list[dict[str, float | str]] = []
    labels: list[dict[str, float | str]] = []
    for row, block in enumerate(dict.fromkeys(entry.block for entry in entries)):
        same = [entry for entry in entries if entry.block == block]
        counts: Counter[int] = Counter()
        for entry in same:
            counts.update(entry.accepted)
        samples = max(1, counts.total())
        weights = [max(1, sum(entry.accepted.values())) for entry in same]
        mean = sum(e.mean_evaluations * w for e, w in zip(same, weights, strict=True)) / sum(weights)
        labels.append({"row": row, "label": f"{block}: {mean:.3g} evaluations a sample"})
        tallest = max(1, max(counts.values()))
        bars += [
            {
                "group": block,
                "steps": taken,
                "count": count,
                "share": count / samples,
                "left": taken - 0.4,
                "right": taken + 0.4,
                "bottom": row + 1.0,
                "top": row + 1.0 - _TALLEST * count / tallest,
                "colour": BLUE,
            }
            for taken, count in sorted(counts.items())
        ]
    return bars, labels


def leaks(record: Record, model: str, width: int | str = "container") -> alt.LayerChart:
    """The share of each sample's gradient that its own loss supplies, on a logarithmic axis; seeds together."""
    bins, labels = leak_rows([entry for entry in record.leaks if network(entry.model, entry.objective) == model])
    smallest = 10 ** math.floor(math.log10(min(float(row["left"]) for row in bins)) + 1e-9)
    x = alt.X(
        "left:Q",
        scale=alt.Scale(type="log", domain=[min(smallest, 0.01), 1]),
        axis=alt.Axis(
            title="share of a sample's gradient that is its own",
            values=[0.0001, 0.001, 0.01, 0.1, 1],
            format=".2~%",
            labelFlush=True,
        ),
    )
    tip = [
        alt.Tooltip("group:N", title="attacked"),
        alt.Tooltip("left:Q", title="own share from", format=".2~%"),
        alt.Tooltip("right:Q", title="to", format=".2~%"),
        alt.Tooltip("share:Q", title="share of samples", format=".1%"),
        alt.Tooltip("count:Q", title="samples"),
    ]
    spoken = f"{model}: share of a sample's gradient that is its own. " + "; ".join(str(r["label"]) for r in labels)
    return _ridges(bins, labels, x, tip, width, spoken)


def leak_rows(entries: list[Leak]) -> tuple[list[dict[str, float | str]], list[dict[str, float | str]]]:
    """(bars, labels): a bar for each batch size and bin, a label for each batch size; large batches first."""
    bars: list[dict[str, float | str]] = []
    labels: list[dict[str, float | str]] = []
    groups = sorted({(entry.step_gradient, -entry.attack_batch) for entry in entries})
    for row, (gradient, minus_batch) in enumerate(groups):
        same = [entry for entry in entries if (entry.step_gradient, -entry.attack_batch) == (gradient, minus_batch)]
        shares = [share for entry in same for share in entry.shares]
        counts = Counter(_bin(share) for share in shares)
        name = f"batch {-minus_batch}, {gradient}"
        labels.append({"row": row, "label": f"{name}: median {_percent(median(shares))}"})
        tallest = max(counts.values())
        bars += [
            {
                "group": name,
                "count": count,
                "share": count / len(shares),
                "left": 10 ** (index / _BINS_A_DECADE),
                "right": 10 ** ((index + 1) / _BINS_A_DECADE),
                "bottom": row + 1.0,
                "top": row + 1.0 - _TALLEST * count / tallest,
                "colour": COLOURS[KINDS[gradient]],
            }
            for index, count in sorted(counts.items())
        ]
    return bars, labels


def _bin(share: float) -> int:
    """Index of a share's bin [10^(i/5), 10^((i+1)/5)]: -1 is the one that ends at 1. Tiny shares go to the first."""
    exponent = math.log10(max(share, _SMALLEST_SHARE)) * _BINS_A_DECADE
    return min(-1, math.floor(exponent + 1e-9))


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def _ridges(
    bars: list[dict[str, float | str]],
    labels: list[dict[str, float | str]],
    x: alt.X,
    tooltip: list[alt.Tooltip],
    width: int | str,
    description: str,
) -> alt.LayerChart:
    """Bars between `bottom` and `top` of their row; the vertical axis counts rows downwards and is not shown."""
    # Without zero=False Vega would widen the falling domain to contain 0 and so empty it.
    y = alt.Y("top:Q", scale=alt.Scale(domain=[len(labels), 0], nice=False, zero=False), axis=None)
    drawn = (
        alt.Chart(alt.Data(values=bars))
        .mark_rect(cornerRadius=1)
        .encode(x=x, x2="right:Q", y=y, y2="bottom:Q", color=alt.Color("colour:N", scale=None), tooltip=tooltip)
    )
    named = (
        alt.Chart(alt.Data(values=labels))
        .mark_text(align="left", baseline="top", dy=5, color=INK)
        .encode(x=alt.value(0), y=alt.Y("row:Q", axis=None), text="label:N")
    )
    floor = (
        alt.Chart(alt.Data(values=[{"floor": row + 1} for row in range(len(labels))]))
        .mark_rule(color="#8a919c", strokeWidth=0.7)
        .encode(y=alt.Y("floor:Q", axis=None))
    )
    return alt.layer(floor, drawn, named).properties(width=width, height=_STEP * len(labels), description=description)
