"""A record as one HTML file that needs nothing else: no network, no server, and for text and tables no JavaScript."""

from __future__ import annotations

import base64
import re

from sonet.report import audit_figures, figures, ridges
from sonet.report import audit_words as words
from sonet.report.comparison import beside, gaps, not_run
from sonet.report.lines import NO_ATTACK, duration, network, panels, radius
from sonet.report.page import chart, library, specs, template
from sonet.report.palette import key
from sonet.report.record import ModelCard, Record
from sonet.report.terminal import CHANGES, INCOMPLETE


def render(record: Record) -> str:
    """The page of a record, whole: write it with `write_whole`."""
    found = panels(record)
    shown = enumerate(panel for panel in found if figures.bar_rows(panel))
    bars = [chart(f"bars-{i}", figures.headline(panel), figures.bars(panel)) for i, panel in shown]
    shown = enumerate(panel for panel in found if len(panel.radii) > 1)
    curves = [chart(f"curves-{i}", panel.title, figures.curves(panel)) for i, panel in shown]
    leaks = [chart(f"leaks-{i}", m, ridges.leaks(record, m)) for i, m in enumerate(ridges.networks_with_leaks(record))]
    steps = [chart(f"steps-{i}", m, ridges.steps(record, m)) for i, m in enumerate(ridges.networks_with_steps(record))]
    causes = [
        chart(
            f"causes-{i}",
            f"{network(audit.model, audit.objective)}, seed {audit.seed}",
            audit_figures.causes(audit.causes),
        )
        for i, audit in enumerate(record.audits)
        if audit.causes
    ]
    charts = [*bars, *curves, *leaks, *steps, *causes]
    headline, *details = _told(record)
    return template("template.html.j2").render(
        record=record,
        headline=headline,
        details=details,
        facts=_facts(record),
        timed=_timed(record),
        panels=found,
        bars=bars,
        colours=key(found),
        curves=curves,
        leaks=leaks,
        steps=steps,
        causes=causes,
        roles=audit_figures.key([bar for audit in record.audits for bar in audit.causes]),
        role=words.role,
        cards=_cards(record),
        beside=beside(record),
        gaps=gaps(record),
        not_run=not_run(record),
        network=network,
        static=_static(record) if bars else None,
        specs=specs(charts),
        library=library() if charts else "",
        no_attack=NO_ATTACK,
        incomplete=INCOMPLETE,
        changes=CHANGES,
    )


def _cards(record: Record) -> dict[str, ModelCard]:
    """Networks by title; seeds that share a configuration share an entry."""
    cards: dict[str, ModelCard] = {}
    for card in record.models:
        title = network(card.model, card.objective)
        first = cards.setdefault(title, card)
        if (first.config, first.solver) != (card.config, card.solver):
            cards[f"{title}, seed {card.seed}"] = card
    return cards


def _networks(record: Record) -> list[str]:
    return list(dict.fromkeys(network(row.model, row.objective) for row in record.rows))


def _timed(record: Record) -> str:
    """What the record's seconds are: a table's work may be that of several calls and processes."""
    return "time of all work" if record.models else "run time"


def _told(record: Record) -> list[str]:
    """The verdict's first sentence, and what it says of each network as a paragraph of its own."""
    first, point, rest = record.verdict.partition(". ")
    names = "|".join(map(re.escape, _networks(record)))
    parts = re.split(rf" (?=(?:{names}): )", rest) if names else [rest]
    return [first + point.rstrip(), *(part for part in parts if part)]


def _facts(record: Record) -> dict[str, str]:
    """The run in a few words, for the top of the page."""
    attacked = [row for row in record.rows if row.attack != "none"]
    radii = sorted({row.eps for row in attacked})
    seeds = {row.seed for row in record.rows} | {card.seed for card in record.models}
    facts = {
        "data": str(record.data.get("source") or record.data.get("name", "")),
        "networks": ", ".join(_networks(record)),
        "seeds": str(len(seeds)) if seeds else "",
        "largest change (eps)": ", ".join(radius(eps) for eps in radii),
        _timed(record): duration(record.seconds),
        "made": record.environment.created,
    }
    return {name: value for name, value in facts.items() if value}


def _static(record: Record) -> str:
    """The bars as an image, for readers without JavaScript."""
    return base64.b64encode(figures.figure_svg(record).encode()).decode("ascii")
