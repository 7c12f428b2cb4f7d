"""A record as one HTML file that needs nothing else: no network, no server, and for text and tables no JavaScript.

Everything from the record passes through Jinja's escaping, or, for charts, through JSON in which "<" does not occur;
the page's own policy (Content-Security-Policy) forbids it to load anything.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sonet.report import figures, ridges
from sonet.report.lines import NO_ATTACK, network, panels, radius
from sonet.report.palette import key, themed
from sonet.report.record import ModelCard, Record
from sonet.report.terminal import INCOMPLETE


@dataclass(frozen=True)
class Chart:
    """A place in the page (`id`), what stands over it, and the Vega-Lite specification drawn there."""

    id: str
    title: str
    spec: dict[str, Any]


def render(record: Record) -> str:
    """The page of a record, whole: write it with `write_whole`."""
    found = panels(record)
    shown = enumerate(panel for panel in found if figures.bar_rows(panel))
    bars = [_chart(f"bars-{i}", figures.headline(panel), figures.bars(panel)) for i, panel in shown]
    shown = enumerate(panel for panel in found if len(panel.radii) > 1)
    curves = [_chart(f"curves-{i}", panel.title, figures.curves(panel)) for i, panel in shown]
    leaks = [_chart(f"leaks-{i}", m, ridges.leaks(record, m)) for i, m in enumerate(ridges.networks_with_leaks(record))]
    steps = [_chart(f"steps-{i}", m, ridges.steps(record, m)) for i, m in enumerate(ridges.networks_with_steps(record))]
    charts = [*bars, *curves, *leaks, *steps]
    page = _template().render(
        record=record,
        facts=_facts(record),
        panels=found,
        bars=bars,
        colours=key(found),
        curves=curves,
        leaks=leaks,
        steps=steps,
        cards=_cards(record),
        static=_static(record) if bars else None,
        specs=_script_json({chart.id: chart.spec for chart in charts}),
        library=_library() if charts else "",
        no_attack=NO_ATTACK,
        incomplete=INCOMPLETE,
    )
    return str(page)


def _chart(id: str, title: str, chart: Any) -> Chart:
    spec: dict[str, Any] = themed(chart).to_dict()
    spec.pop("$schema", None)  # only a name, but it reads like an address; the page says the mode itself
    return Chart(id, title, spec)


def _cards(record: Record) -> dict[str, ModelCard]:
    """Networks by title; seeds that share a configuration share an entry."""
    cards: dict[str, ModelCard] = {}
    for card in record.models:
        title = network(card.model, card.objective)
        first = cards.setdefault(title, card)
        if (first.config, first.solver) != (card.config, card.solver):
            cards[f"{title}, seed {card.seed}"] = card
    return cards


def _facts(record: Record) -> dict[str, str]:
    """The run in a few words, for the top of the page."""
    attacked = [row for row in record.rows if row.attack != "none"]
    radii = sorted({row.eps for row in attacked})
    seeds = {row.seed for row in record.rows} | {card.seed for card in record.models}
    facts = {
        "data": str(record.data.get("name", "")),
        "networks": ", ".join(dict.fromkeys(network(row.model, row.objective) for row in record.rows)),
        "seeds": str(len(seeds)) if seeds else "",
        "largest change (eps)": ", ".join(radius(eps) for eps in radii),
        "run time": duration(record.seconds),
        "made": record.environment.created,
    }
    return {name: value for name, value in facts.items() if value}


def duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s, 2 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _script_json(value: Any) -> Markup:
    """JSON that can stand inside <script>: without "<" it can neither end the element nor open a comment."""
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e"))


@cache
def _library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed in one script. "</script" and "<!--" can only occur inside its strings."""
    source = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(source.replace("</script", "<\\/script").replace("<!--", "\\x3c!--"))


def _static(record: Record) -> str:
    """The bars as an image, for readers without JavaScript."""
    return base64.b64encode(figures.figure_svg(record).encode()).decode("ascii")


def _pretty(value: Any) -> str:
    """A setting as a reader wants it: text as it is, the rest as JSON."""
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1 if _deep(value) else None)
    )


def _deep(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list) for item in value))


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("sonet", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(pretty=_pretty, duration=duration, radius=radius)
    return environment.get_template("template.html.j2")
