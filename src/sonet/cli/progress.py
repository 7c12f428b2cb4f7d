"""Progress on stderr: a live bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from sonet.experiments import Cell, Plan
    from sonet.training import BatchReport

_EVERY = 10.0
"""Seconds between lines where stderr is no terminal."""


class Bar:
    """One or several tasks; `update` sets the part done, in [0, 1], and a word on how it goes."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console
        self._tasks: dict[str, TaskID] = {}
        self._said = time.monotonic()

    def update(self, name: str, done: float, word: str = "") -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=1.0, word="")
        self._progress.update(self._tasks[name], completed=done, word=word)
        if not self._console.is_terminal and time.monotonic() - self._said > _EVERY:
            self.line(f"{name}: {done:.0%} {word}".rstrip())

    def end(self, name: str) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))

    def say(self, text: str) -> None:
        """A sentence that stays, in a terminal as in a log."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        self._said = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar() -> Iterator[Bar]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[word]}", style="dim"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield Bar(progress, console)


class CellWatch:
    """Shows the cells of an experiment: all of them together by their cost, and each that is under way."""

    def __init__(self, shown: Bar, plan: Plan) -> None:
        from sonet.experiments import cost, lay_out

        cells = lay_out(plan)
        self._bar = shown
        self._cost = {cell.key: cost(cell, plan) for cell in cells}
        self._total = sum(self._cost.values())
        self._done: dict[str, float] = {}
        self._count, self._ended = len(cells), 0

    def __call__(self, cell: Cell, done: float, word: str) -> None:
        ended = word == "done"
        self._done[cell.key] = done
        whole = sum(part * self._cost[key] for key, part in self._done.items()) / self._total
        if ended:
            self._ended += 1
            self._bar.end(cell.label)
        self._bar.update("all", whole, f"{self._ended} of {self._count} pieces")
        if ended:
            self._bar.line(f"{whole:4.0%}  {cell.label}")
        else:
            self._bar.update(cell.label, done, word)


class TrainWatch:
    """Shows training: loss, accuracy, evaluations of the fields (NFE), time left."""

    def __init__(self, shown: Bar, name: str) -> None:
        self._bar, self._name = shown, name

    def __call__(self, batch: BatchReport) -> None:
        self._bar.update(self._name, batch.done, str(batch))
