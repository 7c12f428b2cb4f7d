"""The figures of a card, each from the run's checkpoint or from a record; tables and metadata show these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sonet.publishing.belongs import audits_of, rows_of
from sonet.publishing.config import PublicConfig
from sonet.report import AnyRecord, AuditRecord, CertificateRecord, Count, Record
from sonet.report.lines import panels
from sonet.report.planned import Audited
from sonet.types import Proportion

PLAIN, WORST = "plain attacks, on the network's own gradient", "all attacks of the audit"


@dataclass(frozen=True)
class Figure:
    """A measured accuracy in [0, 1] with its Wilson interval at 95 %. what: as a table says it; data: of which images.

    kind: "natural", "attack", "audit", "certified" or "beside", of attacks that a certificate was held against.
    threat: NORM:EPS, empty without one. seed: of the training. remarks: what the record notes beside it. source: the
    record's title, or the run's checkpoint.
    """

    kind: str
    what: str
    data: str
    n: int
    value: float
    low: float
    high: float
    seed: int
    threat: str = ""
    remarks: str = ""
    source: str = "the run's checkpoint"


def of_training(config: PublicConfig) -> list[Figure]:
    """Natural accuracy as training measured it; nothing where it did not, or where n cannot be told."""
    value, n = config.trained.test_accuracy, config.data.get("n_test")
    if value is None or not isinstance(n, int) or n < 1:
        return []
    right = Proportion(round(value * n), n)
    if abs(right.value - value) > 1e-6:  # measured in float32, and on other images than the data describe
        return []
    low, high = right.interval
    data = str(config.data.get("name", ""))
    return [Figure("natural", "no attack", data, n, right.value, low, high, config.training.seed)]


def of_record(record: AnyRecord, config: PublicConfig) -> list[Figure]:
    """Every accuracy of this network in a record that belongs to it."""
    if isinstance(record, Record):
        tabled = audits_of(record, config, record.title)
        return [*_attacked(record, config), *(figure for found in tabled for figure in of_audit(found, record))]
    return list(_audited(record, config) if isinstance(record, AuditRecord) else _certified(record, config))


def _attacked(record: Record, config: PublicConfig) -> Iterator[Figure]:
    rows, data = rows_of(record, config, record.title), str(record.data.get("name", ""))
    for panel in panels(record.model_copy(update={"rows": rows})):
        found = [("natural", "no attack", row) for row in (panel.natural.rows if panel.natural else ())]
        found += [
            ("attack", line.label, row) for line in panel.lines for cell in line.cells.values() for row in cell.rows
        ]
        for kind, what, row in found:
            blind = f"gradient exactly zero on {row.zero_gradients:.3f} of the images" if row.zero_gradients else ""
            yield Figure(
                kind,
                what,
                data,
                row.n,
                row.accuracy,
                row.low,
                row.high,
                row.seed,
                threat=f"{row.norm}:{row.eps:.6g}" if row.norm else "",
                remarks="; ".join(part for part in (row.note, blind) if part),
                source=record.title,
            )


def of_audit(found: Audited, record: Record) -> list[Figure]:
    """The accuracies of a table's audit; none where it refused the network."""
    data, told = str(record.data.get("name", "")), []
    for kind, what, count in (
        ("natural", "no attack", found.natural),
        ("audit", PLAIN, found.plain),
        ("audit", WORST, found.worst),
    ):
        if count is not None:
            left, threat = Proportion(count, found.n), "" if kind == "natural" else found.threat
            low, high = left.interval
            told.append(
                Figure(kind, what, data, found.n, left.value, low, high, found.seed, threat=threat, source=record.title)
            )
    return told


def _audited(record: AuditRecord, config: PublicConfig) -> Iterator[Figure]:
    yield _count(record, config, record.natural, "natural", "no attack", "")
    yield _count(record, config, record.plain, "audit", PLAIN, record.threat)
    yield _count(record, config, record.worst, "audit", WORST, record.threat)


def _certified(record: CertificateRecord, config: PublicConfig) -> Iterator[Figure]:
    yield _count(record, config, record.natural, "natural", "no attack", "")
    for point in record.curve:
        threat = f"{record.norm}:{point.eps:.6g}"
        yield _count(record, config, point.certified, "certified", "certified", threat)
        if point.attacked is not None and point.eps > 0:
            yield _count(record, config, point.attacked, "beside", f"left by the attacks {record.attack}", threat)


def _count(
    record: AuditRecord | CertificateRecord, config: PublicConfig, found: Count, kind: str, what: str, threat: str
) -> Figure:
    data, seed = str(record.data.get("name", "")), config.training.seed
    return Figure(
        kind, what, data, found.n, found.value, found.low, found.high, seed, threat=threat, source=record.title
    )
