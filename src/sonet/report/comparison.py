"""A table's figures beside the paper's: ours with interval, n, seeds and cost; rows that were not run stay empty."""

from __future__ import annotations

from dataclasses import dataclass

from sonet.report.lines import Cell, attack_name, duration, network, radius
from sonet.report.planned import Figure, Planned
from sonet.report.record import Record

NOT_RUN = "not run"


@dataclass(frozen=True)
class Beside:
    """One figure of the paper, and ours if it was measured. train_seconds: of all seeds, None where it was not run."""

    network: str
    attack: str
    paper: float
    ours: Cell | None
    train_seconds: float | None

    @property
    def here(self) -> str:
        return NOT_RUN if self.ours is None else f"{self.ours.accuracy:.3f} {self.ours.wilson}"

    @property
    def n(self) -> str:
        return "" if self.ours is None else str(self.ours.right.n)

    @property
    def seeds(self) -> str:
        return "" if self.ours is None else str(len(self.ours.rows))

    @property
    def training(self) -> str:
        return "" if self.train_seconds is None else duration(self.train_seconds)

    @property
    def attacking(self) -> str:
        return "" if self.ours is None else duration(sum(row.seconds for row in self.ours.rows))

    @property
    def apart(self) -> bool:
        """Whether the paper's figure lies outside our interval."""
        return self.ours is not None and not self.ours.right.interval[0] <= self.paper <= self.ours.right.interval[1]


@dataclass(frozen=True)
class Gap:
    """A network with figures of the paper outside our intervals, and what could explain it."""

    network: str
    attacks: tuple[str, ...]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        why = " ".join(self.reasons) or "The table gives no reason."
        return f"{self.network}: the paper's figure lies outside our interval ({'; '.join(self.attacks)}). {why}"


def beside(record: Record) -> list[Beside]:
    """Every figure of the paper that the table has, in its order."""
    return [_beside(record, row, figure) for row in record.planned for figure in row.figures]


def gaps(record: Record) -> list[Gap]:
    """Where the paper's figures are not ours, with the table's reasons."""
    found = []
    for row in record.planned:
        apart = [one.attack for one in (_beside(record, row, figure) for figure in row.figures) if one.apart]
        if apart:
            found.append(Gap(network(row.model, row.objective), tuple(apart), tuple(row.reasons)))
    return found


def not_run(record: Record) -> list[str]:
    """Rows of the table that nobody has trained yet, as --only takes them."""
    trained = {(card.model, card.objective) for card in record.models}
    return [f"{row.model}/{row.objective}" for row in record.planned if (row.model, row.objective) not in trained]


def _beside(record: Record, row: Planned, figure: Figure) -> Beside:
    wanted = (row.model, row.objective, figure.attack, figure.steps, figure.norm, figure.eps)
    rows = [
        one
        for one in record.rows
        if (one.model, one.objective, one.attack, one.steps, one.norm, one.eps) == wanted and one.reported is not None
    ]
    cards = [card for card in record.models if (card.model, card.objective) == (row.model, row.objective)]
    return Beside(
        network=network(row.model, row.objective),
        attack=_named(figure),
        paper=figure.accuracy,
        ours=Cell(tuple(rows)) if rows else None,
        train_seconds=sum(card.train_seconds for card in cards) if cards else None,
    )


def _named(figure: Figure) -> str:
    if figure.attack == "none":
        return "natural"
    return f"{attack_name(figure.attack, figure.steps)} {figure.norm} {radius(figure.eps)}"
