"""Counts over seeds, and when two of them differ."""

from __future__ import annotations

from collections.abc import Sequence

from sonet.report import Row
from sonet.types import Proportion


def pool(rows: Sequence[Row]) -> Proportion:
    """Counts added over seeds."""
    return Proportion(sum(row.right.count for row in rows), sum(row.n for row in rows))


def below(a: Proportion, b: Proportion) -> bool:
    """Whether a's interval lies wholly below b's."""
    return a.interval[1] < b.interval[0]


def say(share: Proportion) -> str:
    low, high = share.interval
    return f"{share.value:.2f} [{low:.2f}, {high:.2f}]"
