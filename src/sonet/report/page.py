"""What every page of ours is made with: its template, its charts as JSON, the drawing library, words for values.

Everything from a record passes through Jinja's escaping, or, for charts, through JSON in which "<" does not occur;
the page's own policy (Content-Security-Policy, in parts.html.j2) forbids it to load anything.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from sonet.report.lines import duration, radius
from sonet.report.palette import themed


@dataclass(frozen=True)
class Chart:
    """A place in the page (`id`), what stands over it, and the Vega-Lite specification drawn there."""

    id: str
    title: str
    spec: dict[str, Any]


def chart(id: str, title: str, drawn: Any) -> Chart:
    """A place for an Altair chart, in the page's look."""
    spec: dict[str, Any] = themed(drawn).to_dict()
    spec.pop("$schema", None)  # only a name, but it reads like an address; the page says the mode itself
    return Chart(id, title, spec)


def specs(charts: list[Chart]) -> Markup:
    """The specifications by id, as page.js reads them."""
    return _script_json({chart.id: chart.spec for chart in charts})


def static_png(drawn: Chart, width: int = 360) -> str:
    """The chart as an image on white, in base64, for readers without JavaScript."""
    spec = {**drawn.spec, "width": width, "config": {**drawn.spec["config"], "background": "white", "padding": 8}}
    return base64.b64encode(vl_convert.vegalite_to_png(spec, scale=1.5)).decode("ascii")


@cache
def library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed in one script. "</script" and "<!--" can only occur inside its strings."""
    source = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(source.replace("</script", "<\\/script").replace("<!--", "\\x3c!--"))


@cache
def template(name: str) -> Template:
    """A template of this folder."""
    environment = Environment(
        loader=PackageLoader("sonet", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(pretty=_pretty, duration=duration, radius=radius)
    return environment.get_template(name)


def _script_json(value: Any) -> Markup:
    """JSON that can stand inside <script>: without "<" it can neither end the element nor open a comment."""
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e"))


def _pretty(value: Any) -> str:
    """A setting as a reader wants it: text as it is, the rest as JSON."""
    return (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1 if _deep(value) else None)
    )


def _deep(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list) for item in value))
