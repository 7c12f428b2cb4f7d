"""An audit as one HTML file: the verdict with what it rests on, then causes, attacks, pictures, every finding.

Like a record's page it loads nothing, and its text and tables need no JavaScript.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from sonet.report import audit_figures as figures
from sonet.report import audit_words as words
from sonet.report.audit_record import AuditRecord, Outcome, Stage
from sonet.report.audit_surface import spoken, surface
from sonet.report.lines import duration
from sonet.report.page import chart, library, specs, static_png, template


def render_audit(record: AuditRecord) -> str:
    """The page of an audit, whole: write it with `write_whole`."""
    # No finding's name holds an underscore, so these ids and the findings' own cannot meet.
    causes = chart("causes_chart", "", figures.causes(record.causes)) if record.causes else None
    table = record.matrix if record.matrix is not None and record.matrix.crafted and record.matrix.judged else None
    matrix = chart("matrix_chart", "", figures.matrix(table)) if table else None
    ladders = [
        chart(f"ladder_{i}", ladder.title, figures.ladder(ladder)) if ladder.x and ladder.lines else None
        for i, ladder in enumerate(record.ladders)
    ]
    around = record.surface if record.surface is not None and record.surface.loss and record.surface.loss[0] else None
    plane = chart("surface_chart", "", surface(around)) if around else None
    charts = [drawn for drawn in (causes, matrix, *ladders, plane) if drawn]
    return template("audit.html.j2").render(
        record=record,
        words=words,
        facts=_facts(record),
        decisive=words.decisive(record),
        families=words.families(record),
        causes=causes,
        roles=figures.key(record.causes),
        stages=_stages(record.stages),
        matrix=matrix,
        ladders=list(zip(ladders, record.ladders, strict=True)),
        plane=plane,
        plane_spoken=spoken(around) if around else "",
        outcomes={outcome.index: outcome for outcome in record.outcomes},
        fates=_fates(record.outcomes),
        static={drawn.id: static_png(drawn) for drawn in charts},
        specs=specs(charts),
        library=library() if charts else "",
    )


def _facts(record: AuditRecord) -> dict[str, str]:
    """The audit in a few words, for the top of the page."""
    facts = {
        "network": record.model,
        "data": str(record.data.get("name", "")),
        "allowed change": record.threat,
        "images": str(record.natural.n),
        "run time": duration(record.seconds),
        "made": record.environment.created,
    }
    return {name: value for name, value in facts.items() if value}


def _stages(stages: list[Stage]) -> list[tuple[str, list[Stage]]]:
    """Neighbouring stages of a kind under what they are. The order in which they ran stays: each got what stood."""
    kinds = {True: "Plain attacks, on the network's own gradient", False: "Further attacks"}
    return [(kinds[plain], list(same)) for plain, same in groupby(stages, key=lambda stage: stage.plain)]


def _fates(outcomes: list[Outcome]) -> list[tuple[str, int, int]]:
    """(to what they fell, images, of these standing under plain attacks), the most frequent first."""
    counts = Counter(outcome.fell_to for outcome in outcomes)
    stood = Counter(outcome.fell_to for outcome in outcomes if outcome.plain_stood)
    return [(fell_to, count, stood[fell_to]) for fell_to, count in counts.most_common()]
