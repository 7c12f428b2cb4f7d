"""The figures of a card, each from the run's checkpoint or from a record; tables and metadata show these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sonet.publishing.config import PublicConfig
from sonet.report import AnyRecord, AuditRecord, CertificateRecord, Count, Record
from sonet.report.lines import panels
from sonet.report.planned import Audited
from sonet.types import Proportion


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
    data = called(config.data)
    return [Figure("natural", "no attack", data, n, right.value, low, high, config.training.seed)]


def of_record(record: AnyRecord, config: PublicConfig) -> list[Figure]:
    """Every accuracy in a record of this network alone."""
    if isinstance(record, Record):
        tabled = [figure for found in record.audits for figure in of_audit(found, record, config)]
        return [*_attacked(record), *tabled]
    if isinstance(record, AuditRecord):
        return list(_audited(record, config, record.threat, record.natural, record.plain, record.worst))
    return list(_certified(record, config))


def of_audit(found: Audited, record: Record, config: PublicConfig) -> list[Figure]:
    """The accuracies of a table's audit; none where it refused the network."""
    natural, plain, worst = (
        None if count is None else Count.of(Proportion(count, found.n))
        for count in (found.natural, found.plain, found.worst)
    )
    return list(_audited(record, config, found.threat, natural, plain, worst))


def _attacked(record: Record) -> Iterator[Figure]:
    data = called(record.data)
    for panel in panels(record):
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


def _audited(
    record: AnyRecord,
    config: PublicConfig,
    threat: str,
    natural: Count | None,
    plain: Count | None,
    worst: Count | None,
) -> Iterator[Figure]:
    for kind, what, found, against in (
        ("natural", "no attack", natural, ""),
        ("audit", "plain attacks, on the network's own gradient", plain, threat),
        ("audit", "all attacks of the audit", worst, threat),
    ):
        if found is not None:
            yield _count(record, config, found, kind, what, against)


def _certified(record: CertificateRecord, config: PublicConfig) -> Iterator[Figure]:
    yield _count(record, config, record.natural, "natural", "no attack", "")
    for point in record.curve:
        threat = f"{record.norm}:{point.eps:.6g}"
        yield _count(record, config, point.certified, "certified", "certified", threat)
        if point.attacked is not None and point.eps > 0:
            yield _count(record, config, point.attacked, "beside", f"left by the attacks {record.attack}", threat)


def _count(record: AnyRecord, config: PublicConfig, found: Count, kind: str, what: str, threat: str) -> Figure:
    data, seed = called(record.data), config.training.seed
    return Figure(
        kind, what, data, found.n, found.value, found.low, found.high, seed, threat=threat, source=record.title
    )


def called(said: dict[str, Any]) -> str:
    """What a description calls its images: what their file says of them, or their name."""
    return str(said.get("title") or said.get("name", ""))
