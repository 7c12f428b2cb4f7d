"""Charts of what attacks leave: bars at the largest radius, curves over all radii. Each is data, testable as JSON.

A panel's chart takes the width of the page's column ("container"); labels stand above their bars instead of beside
them, so that the same chart serves a wide screen and a phone.
"""

from __future__ import annotations

import re

import altair as alt
import vl_convert

from sonet.report.lines import NO_ATTACK, Cell, Line, Panel, panels, radius
from sonet.report.palette import COLOURS, INK, key, themed
from sonet.report.record import Record

Width = int | str
"""Pixels, or "container"."""

_DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [12, 4], [4, 4])
_STEP = 36
"""Height of one bar with its label, in pixels."""


def bars(panel: Panel, width: Width = "container", legend: dict[str, str] | None = None) -> alt.LayerChart:
    """Accuracy left at the panel's largest radius, one bar an attack, weakest first; the line is the interval.

    Read from the bottom: what the strongest attack leaves is what there is. Bars far above it are attacks that failed.
    legend: the colours to explain below the chart; the page has its own key and leaves it out.
    """
    rows = bar_rows(panel)
    order = [row["attack"] for row in rows]
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("attack:N", sort=order, axis=None))
    colour = alt.Color("kind:N", scale=_scale(legend or COLOURS), legend=_legend() if legend else None)
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f", title="accuracy left")
    x = alt.X("accuracy:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)
    tip = _tooltip()
    label = base.mark_text(align="left", dy=-9, color=INK).encode(x=alt.datum(0), text="attack:N")
    value = base.mark_text(align="right", dy=-9, fontWeight="bold", color=INK).encode(
        x=alt.datum(1), text=alt.Text("accuracy:Q", format=".2f"), tooltip=tip
    )
    bar = base.mark_bar(height=9, yOffset=7, cornerRadiusEnd=2).encode(x=x, color=colour, tooltip=tip)
    interval = base.mark_rule(yOffset=7, strokeWidth=2, color=INK).encode(x="low:Q", x2="high:Q", tooltip=tip)
    chart = alt.layer(bar, interval, label, value)
    return chart.properties(width=width, height=_STEP * len(rows), description=_spoken(panel, rows))


def bar_rows(panel: Panel) -> list[dict[str, object]]:
    """The bars' data, weakest attack first; natural accuracy leads."""
    eps = panel.largest
    cells = [(line, line.cells[eps]) for line in panel.lines if eps in line.cells]
    cells.sort(key=lambda pair: -pair[1].accuracy)  # stable: equal accuracies keep the order of the tables
    rows = [_point(NO_ATTACK, NO_ATTACK, panel.natural, 0.0)] if panel.natural else []
    return rows + [_point(line.label, line.kind, cell, eps) for line, cell in cells]


def curves(panel: Panel, width: Width = "container") -> alt.LayerChart:
    """Accuracy against the radius, one line an attack, with the Wilson interval as a band.

    Every line starts at natural accuracy where that is known: at radius 0 no attack can change anything. A click in
    the legend brings a line out; shift adds another; a double click shows all again.
    """
    rows = curve_rows(panel)
    names = [line.label for line in panel.lines]
    chosen = alt.selection_point(fields=["attack"], bind="legend", name="chosen")
    legend = alt.Legend(orient="bottom", columns=1, symbolType="stroke", symbolSize=400, symbolOpacity=1, title=None)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("eps:Q", title="radius eps", axis=alt.Axis(tickCount=5)),
        color=alt.Color(
            "attack:N", scale=alt.Scale(domain=names, range=[COLOURS[line.kind] for line in panel.lines]), legend=legend
        ),
    )
    y = alt.Y(
        "accuracy:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".2~f", tickCount=5), title="accuracy left"
    )
    band = base.mark_area().encode(
        y=alt.Y("low:Q"), y2="high:Q", opacity=alt.condition(chosen, alt.value(0.13), alt.value(0.0))
    )
    line = base.mark_line(strokeWidth=2).encode(
        y=y,
        strokeDash=alt.StrokeDash("attack:N", scale=alt.Scale(domain=names, range=_dashes(panel.lines)), legend=legend),
        opacity=alt.condition(chosen, alt.value(1), alt.value(0.1)),
    )
    dot = base.mark_point(filled=True, size=45).encode(
        y=y, opacity=alt.condition(chosen, alt.value(1), alt.value(0.1)), tooltip=_tooltip()
    )
    chart = alt.layer(band, line, dot).add_params(chosen)
    return chart.properties(
        width=width, height=260, description=f"{panel.title}: accuracy against the radius, one line for each attack."
    )


def curve_rows(panel: Panel) -> list[dict[str, object]]:
    rows = []
    for line in panel.lines:
        if panel.natural is not None and 0.0 not in line.cells:
            rows.append(_point(line.label, line.kind, panel.natural, 0.0))
        rows += [_point(line.label, line.kind, cell, eps) for eps, cell in line.cells.items()]
    return rows


def overview(record: Record, width: int = 300) -> alt.HConcatChart:
    """The bars of all panels side by side, with titles: one picture for a README."""
    drawn = [panel for panel in panels(record) if bar_rows(panel)]
    if not drawn:
        raise ValueError(
            f'overview: expected a record with rows, got none in "{record.title}". '
            "There is nothing to draw yet; measure something first."
        )
    colours = key(drawn)
    charts = [bars(panel, width, colours).properties(title=headline(panel)) for panel in drawn]
    return themed(alt.hconcat(*charts, spacing=36))


def headline(panel: Panel) -> str:
    """The title of a panel's bars: the network and the radius."""
    return f"{panel.title}, eps {radius(panel.largest)}" if panel.radii else panel.title


def figure_png(record: Record, scale: float = 2) -> bytes:
    """`overview` as a PNG on white. Needs no browser."""
    chart = overview(record).to_dict()
    chart["config"] |= {"background": "white", "padding": 14}
    return bytes(vl_convert.vegalite_to_png(chart, scale=scale))


def figure_svg(record: Record, width: int = 300) -> str:
    """`overview` as an SVG without a background; the same record gives the same text. Needs no browser."""
    svg = str(vl_convert.vegalite_to_svg(overview(record, width).to_dict()))
    # The converter counts clip paths over the life of the process: count them from 0 in each picture.
    names = {name: f"clip{i}" for i, name in enumerate(dict.fromkeys(re.findall(r'id="(clip\d+)"', svg)))}
    return re.sub(r'(id="|url\(#)(clip\d+)', lambda found: found[1] + names[found[2]], svg)


def _point(attack: str, kind: str, cell: Cell, eps: float) -> dict[str, object]:
    low, high = cell.right.interval
    return {
        "attack": attack,
        "kind": kind,
        "eps": eps,
        "accuracy": cell.accuracy,
        "low": low,
        "high": high,
        "interval": cell.interval,
        "images": cell.right.n,
        "seeds": cell.seeds or "one seed",
        "reported": cell.reported or "-",
    }


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("attack:N", title="attack"),
        alt.Tooltip("eps:Q", title="eps", format=".4~g"),
        alt.Tooltip("accuracy:Q", title="accuracy", format=".3f"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("seeds:N", title="over seeds"),
        alt.Tooltip("images:Q", title="images"),
        alt.Tooltip("kind:N", title="gradient"),
        alt.Tooltip("reported:N", title="reported"),
    ]


def _scale(colours: dict[str, str]) -> alt.Scale:
    return alt.Scale(domain=list(colours), range=list(colours.values()))


def _legend() -> alt.Legend:
    return alt.Legend(orient="bottom", title=None, columns=3, symbolType="square")


def _dashes(lines: list[Line]) -> list[list[int]]:
    """Lines of one colour differ by their dashes."""
    seen: dict[str, int] = {}
    dashes = []
    for line in lines:
        position = seen[line.kind] = seen.get(line.kind, -1) + 1
        dashes.append(_DASHES[position % len(_DASHES)])
    return dashes


def _spoken(panel: Panel, rows: list[dict[str, object]]) -> str:
    """What a screen reader says in place of the picture."""
    values = "; ".join(f"{row['attack']}: {row['accuracy']:.2f}" for row in rows)
    return f"{panel.title}: accuracy left by each attack at the largest radius. {values}"
