"""Charts of an audit: causes as bars, transfer as a heat map, ladders as curves; the surface has its own file.

Each takes the width of the page's column and is data, testable as JSON. Text that stands on a coloured cell is in a
layer named `ON_COLOUR`, so that the style sheet, which recolours all other text for dark mode, leaves it alone.
"""

from __future__ import annotations

import textwrap
from statistics import median
from typing import Any

import altair as alt

from sonet.report.audit_record import Bar, Ladder, Matrix
from sonet.report.audit_words import role
from sonet.report.palette import COLOURS, INK

ON_COLOUR = "on_colour"
WIDTH = "container"

CARRIES = {
    "reference": "#808791",
    "carries the overestimate": "#d55e00",
    "not by itself": "#2f7fc4",
    "not decided": "#6b74c9",
}
"""What a bar of the causes shows -> colour."""

_LABEL = 44
"""Letters of a bar's label in one line: as many as a phone shows beside the number."""
_LETTERS = 15
"""Height of a line of text, in pixels."""
MANY = 6
"""Curves of a ladder beyond which a key of each would be longer than the chart."""
MEDIAN = "median"
_PALE, _DEEP = "#eaf1f8", "#134a80"
_DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [12, 4], [4, 4])


def key(bars: list[Bar]) -> dict[str, str]:
    """What these bars show -> colour."""
    return {name: colour for name, colour in CARRIES.items() if name in map(role, bars)}


def causes(bars: list[Bar], width: int | str = WIDTH) -> alt.LayerChart:
    """Accuracy left, a bar for each changed factor; the dashed line is the unchanged attack, thin lines intervals."""
    rows = cause_rows(bars)
    height = rows[-1]["end"]
    x = alt.X(
        "left:Q",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f", title="accuracy left"),
    )
    y = alt.Y("start:Q", scale=alt.Scale(domain=[height, 0], nice=False, zero=False), axis=None)
    colour = alt.Color("role:N", scale=alt.Scale(domain=list(CARRIES), range=list(CARRIES.values())), legend=None)
    tip = [
        alt.Tooltip("factor:N", title="changed"),
        alt.Tooltip("setting:N", title="to"),
        alt.Tooltip("left:Q", title="accuracy left", format=".3f"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("role:N", title="so"),
    ]
    base = alt.Chart(alt.Data(values=rows))
    label = base.mark_text(align="left", baseline="top", dy=4, color=INK, lineBreak="\n", lineHeight=_LETTERS).encode(
        x=alt.datum(0), y=y, text="label:N"
    )
    value = base.mark_text(align="right", baseline="top", dy=4, fontWeight="bold", color=INK).encode(
        x=alt.datum(1), y=y, text=alt.Text("left:Q", format=".2f"), tooltip=tip
    )
    drawn = base.mark_rect(cornerRadius=2).encode(
        x=x, x2=alt.datum(0), y=alt.Y("top:Q", axis=None), y2="bottom:Q", color=colour, tooltip=tip
    )
    interval = base.mark_rule(strokeWidth=2, color=INK).encode(
        x="low:Q", x2="high:Q", y=alt.Y("middle:Q", axis=None), tooltip=tip
    )
    layers = [drawn, interval, label, value]
    if reference := [row["left"] for row in rows if row["role"] == "reference"]:
        # A piece at each bar, so that the line does not run through the labels.
        pieces = [{"at": reference[0], "from": row["middle"] - 11, "to": row["middle"] + 11} for row in rows]
        layers.append(
            alt.Chart(alt.Data(values=pieces))
            .mark_rule(strokeWidth=2, strokeDash=[4, 2], color=INK)
            .encode(x="at:Q", y=alt.Y("from:Q", axis=None), y2="to:Q")
        )
    spoken = "; ".join(f"{row['factor']}, {row['setting']}: {row['left']:.2f}, {row['role']}" for row in rows)
    return alt.layer(*layers).properties(
        width=width, height=height, description=f"Accuracy left with one factor changed. {spoken}"
    )


def cause_rows(bars: list[Bar]) -> list[dict[str, Any]]:
    """The bars' data, the reference first, then as in the record. Heights are in pixels from the top."""
    rows: list[dict[str, Any]] = []
    start = 0
    for bar in sorted(bars, key=lambda bar: not bar.reference):
        label = textwrap.wrap(f"{bar.factor}: {bar.setting}" if bar.setting else bar.factor, _LABEL)
        middle = start + 4 + _LETTERS * max(1, len(label)) + 8
        rows.append(
            {
                "factor": bar.factor,
                "setting": bar.setting,
                "label": "\n".join(label),
                "left": bar.left.value,
                "low": bar.left.low,
                "high": bar.left.high,
                "interval": f"[{bar.left.low:.2f}, {bar.left.high:.2f}] of {bar.left.n} images",
                "role": role(bar),
                "start": start,
                "top": middle - 5,
                "middle": middle,
                "bottom": middle + 5,
                "end": middle + 18,
            }
        )
        start = middle + 18
    return rows


def matrix(found: Matrix, width: int | str = WIDTH) -> alt.LayerChart:
    """Accuracy left, a cell for each pair: rows are what the images were crafted through, columns what judged them."""
    rows = [
        {"crafted": through, "judged": judge, "left": left}
        for through, line in zip(found.crafted, found.left, strict=True)
        for judge, left in zip(found.judged, line, strict=True)
    ]
    broken = "split(datum.label, ', ')"  # long names take several lines
    tip = [
        alt.Tooltip("crafted:N", title="crafted through"),
        alt.Tooltip("judged:N", title="judged with"),
        alt.Tooltip("left:Q", title="accuracy left", format=".3f"),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "judged:N",
            sort=None,
            axis=alt.Axis(orient="top", title="judged with", labelAngle=-50, labelLimit=130),
        ),
        y=alt.Y("crafted:N", sort=None, axis=alt.Axis(title=None, labelExpr=broken, labelLimit=130)),
        tooltip=tip,
    )
    cell = base.mark_rect(stroke="#8a919c", strokeWidth=0.5).encode(
        color=alt.Color("left:Q", scale=alt.Scale(domain=[0, 1], range=[_PALE, _DEEP]), legend=None)
    )
    number = (
        base.mark_text(fontSize=12)
        .encode(
            text=alt.Text("left:Q", format=".2f"),
            color=alt.condition("datum.left > 0.5", alt.value("#ffffff"), alt.value(INK)),
        )
        .properties(name=ON_COLOUR)
    )
    spoken = "; ".join(f"{row['crafted']} to {row['judged']}: {row['left']:.2f}" for row in rows)
    return alt.layer(cell, number).properties(
        width=width,
        height=40 * len(found.crafted),
        padding={"left": 2, "top": 2, "bottom": 2, "right": 48},  # the last column's slanted label leans out
        description=f"Accuracy left by images crafted through one network and judged with another. {spoken}",
    )


def ladder(found: Ladder, width: int | str = WIDTH) -> alt.LayerChart:
    """The ladder's curves; a gap is where nothing could be measured. Many curves are drawn alike, with their median."""
    rows = ladder_rows(found)
    names = list(dict.fromkeys(row["look"] for row in rows))
    many = len(found.lines) > MANY
    logarithmic = found.log_x and min(found.x, default=0.0) > 0
    heights = [y for line in found.lines for y in line.y if y is not None]
    share = all(0 <= y <= 1 for y in heights)
    few = sorted(set(found.x)) if len(found.x) <= 6 else None
    axis = alt.Axis(format=axis_format(found.x), tickCount=5, labelOverlap=True)
    if few:
        axis.values = few
    palette = list(COLOURS.values())
    colours = ["#808791", "#d55e00"] if many else [palette[(3 - i) % len(palette)] for i in range(len(names))]
    dashes = [[1, 0]] * 2 if many else [_DASHES[(i + i // len(palette)) % len(_DASHES)] for i in range(len(names))]
    legend = alt.Legend(orient="bottom", columns=1, symbolType="stroke", symbolSize=400, symbolOpacity=1, title=None)
    tip = [
        alt.Tooltip("line:N", title="curve"),
        alt.Tooltip("x:Q", title=found.x_title, format=".3~g"),
        alt.Tooltip("y:Q", title=found.y_title, format=".3~g"),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "x:Q",
            title=found.x_title,
            axis=axis,
            scale=alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False),
        ),
        y=alt.Y(
            "y:Q",
            title=found.y_title,
            axis=alt.Axis(tickCount=5, format=".3~g"),
            scale=alt.Scale(domain=[0, 1]) if share else alt.Scale(zero=False),
        ),
        color=alt.Color("look:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
        detail="line:N",
    )
    drawn = base.mark_line().encode(
        strokeDash=alt.StrokeDash("look:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
        strokeWidth=alt.condition(f"datum.look == '{MEDIAN}'", alt.value(3.5), alt.value(1 if many else 2)),
    )
    dots = base.mark_point(filled=True, size=12 if many else 45, opacity=1).encode(tooltip=tip)
    spoken = f"{found.title}: {found.y_title} against {found.x_title}, {len(found.lines)} curves."
    return alt.layer(drawn, dots).properties(width=width, height=230, description=spoken)


def ladder_rows(found: Ladder) -> list[dict[str, Any]]:
    """A row for each point; `look` is the entry of the key: the line's name, or what it is one of."""
    many = len(found.lines) > MANY
    look = f"each of {len(found.lines)}"
    rows = [
        {"line": line.name, "look": look if many else line.name, "x": x, "y": y}
        for line in found.lines
        for x, y in zip(found.x, line.y, strict=True)
    ]
    if many:
        for i, x in enumerate(found.x):
            there = [y for line in found.lines if (y := line.y[i]) is not None]
            rows.append({"line": MEDIAN, "look": MEDIAN, "x": x, "y": median(there) if there else None})
    return rows


def axis_format(x: list[float]) -> str:
    """Powers of ten as 1e-5 where plain numbers would be long."""
    sizes = [abs(value) for value in x if value]
    return ".1~e" if sizes and (min(sizes) < 1e-3 or max(sizes) >= 1e5) else ".3~g"
