"""How charts look: colours that stand out on white and on near-black, also for colour-blind eyes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sonet.report.lines import KINDS, NO_ATTACK, NO_GRADIENT, Panel

COLOURS = {
    NO_ATTACK: "#808791",
    KINDS["differentiated"]: "#d55e00",
    KINDS["first"]: "#b0569c",
    KINDS["frozen"]: "#2f7fc4",
    NO_GRADIENT: "#1b9a72",
    KINDS[None]: "#6b74c9",
}
"""Where an attack's gradient comes from -> colour. Each has a contrast of 3:1 or more with both page backgrounds."""

BLUE = COLOURS[KINDS["frozen"]]
INK = "#20242b"
"""Text. On the page style sheets replace it, so that dark mode and print need no second chart."""

FONT = "Inter, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"


def key(panels: Iterable[Panel]) -> dict[str, str]:
    """The colours that occur in these panels, in their fixed order."""
    panels = list(panels)
    present = {line.kind for panel in panels for line in panel.lines}
    present |= {NO_ATTACK for panel in panels if panel.natural is not None}
    return {kind: colour for kind, colour in COLOURS.items() if kind in present}


def themed(chart: Any) -> Any:
    """The chart without frame and background, with quiet axes."""
    return (
        chart.configure(background="transparent", font=FONT, padding=2)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            titleFontWeight="normal",
            gridColor="#c9ced6",
            gridOpacity=0.5,
            domainColor="#8a919c",
            tickColor="#8a919c",
            labelFontSize=11,
            titleFontSize=12,
        )
        .configure_legend(labelColor=INK, titleColor=INK, labelFontSize=11, labelLimit=0, titleFontSize=12)
        .configure_title(color=INK, fontSize=14, anchor="start")
        .configure_text(color=INK, fontSize=12)
    )
