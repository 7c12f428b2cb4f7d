"""A record's rows as a reader meets them: one panel per network and norm, one line per attack, one cell per radius.

Seeds are pooled here, once, for the terminal, the page and the charts: counts are added and the interval is that of the
sum. It says how far the choice of images may move the number; how far seeds do is said by the range beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from sonet.report.record import Record, Row
from sonet.types import Proportion

_Key = TypeVar("_Key")

NO_ATTACK = "no attack"
WORST = "worst-case"
"""The row of an ensemble's result: what stands under all its attacks."""
_NAMES = {
    "pgd": "PGD",
    "apgd": "APGD",
    "cw-l2": "CW-l2",
    "cw-linf": "CW-linf",
    "fgsm": "FGSM",
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "fab": "FAB-T",
    "transfer": "transfer",
    "worst-case": "worst case of all",
    "spsa": "SPSA",
    "square": "Square",
    "deepfool": "DeepFool",
    "boundary": "Boundary",
    "standard": "standard ensemble",
    "quick": "quick ensemble",
    "thorough": "thorough ensemble",
    "ode": "ODE ensemble",
}
ENSEMBLE_NAMES = ("standard", "quick", "thorough", "ode")
"""Rows that are the worst case over several attacks."""
_LOSSES = {"ce": "CE", "dlr": "DLR"}
_WITHOUT_GRADIENT = ("spsa", "square", "boundary")
_NORMS = {"linf": "linf", "l2": "l2", None: ""}
_STEP_GRADIENTS = ("differentiated", "first", "frozen", None)

KINDS = {
    "differentiated": "step sizes differentiated",
    "first": "first step size differentiated",
    "frozen": "step sizes frozen",
    None: "no step sizes involved",
}
"""step_gradient -> where the gradient of an attack comes from, in words."""

NO_GRADIENT = "no gradient used"


@dataclass(frozen=True)
class Cell:
    """One attack at one radius, all seeds together."""

    rows: tuple[Row, ...]

    @cached_property
    def right(self) -> Proportion:
        counts = [row.right for row in self.rows]
        return Proportion(sum(count.count for count in counts), sum(count.n for count in counts))

    @property
    def accuracy(self) -> float:
        return self.right.value

    @property
    def interval(self) -> str:
        low, high = self.right.interval
        return f"[{low:.2f}, {high:.2f}]"

    @property
    def wilson(self) -> str:
        """The interval to three places, for tables of thousands of images."""
        low, high = self.right.interval
        return f"[{low:.3f}, {high:.3f}]"

    @property
    def seeds(self) -> str:
        """Lowest and highest accuracy over seeds, "" where there is one seed only."""
        each = [row.accuracy for row in self.rows]
        return f"{min(each):.2f}–{max(each):.2f}" if len(each) > 1 else ""

    @property
    def reported(self) -> str:
        """The values reported elsewhere, "" where there are none."""
        return ", ".join(f"{value:.2f}" for value in sorted({r.reported for r in self.rows if r.reported is not None}))

    @property
    def zero_gradients(self) -> float | None:
        """Mean share over the seeds where it was measured."""
        shares = [row.zero_gradients for row in self.rows if row.zero_gradients is not None]
        return sum(shares) / len(shares) if shares else None


@dataclass(frozen=True)
class Line:
    """One attack. attack: "PGD-20, CE"; how: "differentiated, batch 100"; cells: radius -> result.

    changed: whether it is the reference attack with one thing changed.
    """

    attack: str
    how: str
    kind: str
    cells: dict[float, Cell]
    changed: bool = False

    @property
    def label(self) -> str:
        return f"{self.attack}, {self.how}" if self.how else self.attack

    @property
    def images(self) -> str:
        """How many images were attacked, seeds together; a range where radii differ."""
        counts = sorted({cell.right.n for cell in self.cells.values()})
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"

    @property
    def zero_gradients(self) -> float | None:
        """At the largest radius."""
        return self.cells[max(self.cells)].zero_gradients

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(row.note for cell in self.cells.values() for row in cell.rows if row.note))


@dataclass(frozen=True)
class Panel:
    """One network (all its seeds) and one norm. natural: without an attack; lines: in a fixed, telling order."""

    model: str
    norm: str
    natural: Cell | None
    lines: list[Line]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.norm}" if self.norm else self.model

    @property
    def radii(self) -> list[float]:
        return sorted({eps for line in self.lines for eps in line.cells})

    @property
    def largest(self) -> float:
        """The largest radius that was planned for all attacks, and not only to show what another radius does."""
        planned = [eps for line in self.lines if not line.changed for eps in line.cells]
        return max(planned or self.radii, default=0.0)


def panels(record: Record) -> list[Panel]:
    """The rows of a record, grouped; networks in the order in which the record has them.

    The norm is left out of the titles while the record has only one.
    """
    attacked = [row for row in record.rows if row.attack != "none"]
    several_norms = len({row.norm for row in attacked}) > 1
    found = []
    for (model, objective), rows in _grouped(record.rows, lambda row: (row.model, row.objective)).items():
        natural = _natural(rows)
        attacks = [row for row in rows if row.attack != "none"]
        for norm, some in _grouped(attacks, lambda row: row.norm).items() or [(None, [])]:
            name = _NORMS[norm] if several_norms else ""
            found.append(Panel(network(model, objective), name, natural, _lines(some)))
    return found


def network(model: str, objective: str) -> str:
    """How a network is called in titles: its objective is said unless it was trained naturally."""
    return model if objective == "natural" else f"{model} ({objective})"


def radius(eps: float) -> str:
    return f"{eps:.4g}"


def _natural(rows: list[Row]) -> Cell | None:
    """Natural accuracy; a seed counts once, even where it is repeated for every radius."""
    first = {row.seed: row for row in reversed(rows) if row.attack == "none"}
    return Cell(tuple(first[seed] for seed in sorted(first))) if first else None


def _lines(rows: list[Row]) -> list[Line]:
    lines = []
    for same in _grouped(rows, _settings).values():
        for step_size, some in _by_step_size(same).items():
            head = some[0]
            cells = {eps: Cell(tuple(cell)) for eps, cell in sorted(_grouped(some, lambda row: row.eps).items())}
            line = Line(_attack(head), _how(head, step_size), _kind(head), cells, bool(head.changed))
            lines.append((_order(head), line))
    lines.sort(key=lambda pair: pair[0])  # by order alone: lines themselves have none
    return [line for _, line in lines]


def _settings(row: Row) -> tuple[object, ...]:
    """What makes two rows the same attack, whatever the seed and the radius."""
    return (
        row.attack,
        row.steps,
        row.loss,
        row.step_gradient,
        row.attack_batch,
        row.restarts,
        row.random_start,
        row.keep,
        row.stage,
        row.changed,
    )


def _by_step_size(rows: list[Row]) -> dict[float | None, list[Row]]:
    """Rows told apart by step size only where one radius was attacked with several: else it goes with the radius."""
    sizes_at = _grouped(rows, lambda row: row.eps).values()
    if all(len({row.step_size for row in some}) == 1 for some in sizes_at):
        return {None: rows}
    return _grouped(rows, lambda row: row.step_size)


def attack_name(attack: str, steps: int) -> str:
    """PGD-20; the name alone where there are no steps."""
    return _NAMES.get(attack, attack) + (f"-{steps}" if steps else "")


def _attack(row: Row) -> str:
    name = attack_name(row.attack, row.steps)
    return f"{name}, {_LOSSES.get(row.loss, row.loss)}" if row.loss else name


def _how(row: Row, step_size: float | None) -> str:
    parts = [
        row.step_gradient,
        f"batch {row.attack_batch}" if row.attack_batch else None,
        "after those above" if row.stage and row.stage > 1 and row.attack != WORST else None,
        f"{row.restarts} restarts" if row.restarts > 1 and not row.changed else None,
        "random start" if row.random_start and not row.changed else None,
        row.changed or None,
        "best iterate" if row.keep == "best" else row.keep if row.keep != "last" else None,
        f"step {step_size:.3g}" if step_size is not None else None,
    ]
    return ", ".join(part for part in parts if part)


def _kind(row: Row) -> str:
    return NO_GRADIENT if row.attack in _WITHOUT_GRADIENT else KINDS[row.step_gradient]


def _order(row: Row) -> tuple[object, ...]:
    """Gradient attacks first; cross-entropy before other losses; differentiated before frozen; large batches first."""
    return (
        row.stage or 0,
        bool(row.changed),
        row.attack in ENSEMBLE_NAMES,
        row.attack in _WITHOUT_GRADIENT,
        row.attack != "pgd",
        row.attack,
        row.loss != "ce",
        row.loss or "",
        _STEP_GRADIENTS.index(row.step_gradient),
        row.steps,
        -(row.attack_batch or 0),
        row.restarts,
        row.random_start,
        row.keep or "",
        row.changed,
        row.step_size or 0.0,
    )


def _grouped(rows: Iterable[Row], key: Callable[[Row], _Key]) -> dict[_Key, list[Row]]:
    groups: dict[_Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s, 2 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
