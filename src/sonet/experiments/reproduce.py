"""`reproduce`: a table from its plan to its record and report, resumable at every epoch and batch."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sonet.data import differing
from sonet.experiments.cells import Cell, Outcome
from sonet.experiments.layout import lay_out
from sonet.experiments.plan import Plan, PlanError
from sonet.experiments.pool import Watch, default_workers, do_cells
from sonet.experiments.verdict import verdict
from sonet.experiments.work import finished, load_data
from sonet.report import Environment, Record, RecordError, claim, write, write_whole
from sonet.report.planned import Planned

PLAN = "plan.json"
DATA = "data.json"


def reproduce(
    plan: Plan,
    out: Path,
    *,
    command: str,
    workers: int | None = None,
    data_dir: Path | None = None,
    watch: Watch = lambda cell, done, word: None,
) -> Record:
    """Do every cell of the rows chosen of `plan`, and write record.json and report.html into `out`.

    Killed at any moment, the same call goes on: cells that ended are read from `out`, training from its last epoch,
    attacks from their last batch. Rows done by earlier calls, with others chosen, stay in the record; more seeds add to
    those that are there. `out` of another plan, or of other images, is an error; nothing in it is touched. record.json
    is written after every cell, marked incomplete until the last, so that what was measured is never lost.

    command: what to type for the whole table; the record's names the rows that are there, whichever calls made them.
    Its seconds are those of all their work, summed over calls and processes.
    """
    content = plan.model_dump_json(indent=1, exclude={"only", "seeds"})
    claimed = claim(out, PLAN, content)
    data = load_data(plan, data_dir)
    if plan.images > len(data.test):
        raise PlanError(f"the plan attacks {plan.images} images, but {plan.data} has {len(data.test)} to test with.")
    described = data.describe()
    if not claimed:
        write_whole(out / PLAN, content)
    _demand_same_images(out / DATA, described)
    cells = lay_out(plan)
    outcomes = _done_earlier(plan, out)
    workers = default_workers() if workers is None else workers
    environment = Environment.here(device="cpu" if plan.training.device == "cpu" else _device())
    if workers > 1:
        environment = environment.model_copy(update={"threads": 1})  # of each worker; this process computes nothing
    order = lay_out(plan.select(()))
    table = _planned(plan)

    def begun() -> set[str]:
        return {cell.row for cell in order if cell.key in outcomes}

    def record(complete: bool) -> Record:
        done = [outcomes[cell.key] for cell in order if cell.key in outcomes]
        rows = [row for outcome in done for row in outcome.rows]
        leaks = [entry for outcome in done for entry in outcome.leaks]
        audits = [entry for outcome in done for entry in outcome.audits]
        return Record(
            title=plan.title,
            verdict=verdict(rows, leaks, audits),
            command=_command(command, plan, begun()),
            data=described,
            settings=plan.model_dump(mode="json", exclude={"quick"}) | {"workers": workers},
            environment=environment,
            models=[card for outcome in done for card in outcome.cards],
            rows=rows,
            steps=[entry for outcome in done for entry in outcome.steps],
            leaks=leaks,
            pictures=[entry for outcome in done for entry in outcome.pictures],
            audits=audits,
            planned=table,
            changes=list(plan.changes),
            seconds=sum(outcome.seconds for outcome in done),
            complete=complete,
        )

    for cell, outcome in _watched(do_cells(cells, plan, out, workers=workers, data_dir=data_dir, watch=watch), watch):
        outcomes[cell.key] = outcome
        write(record(complete=False), out)
    with contextlib.suppress(OSError):  # there is none, or another run is still at work in it
        (out / "units").rmdir()
    rows = begun()
    final = record(complete=all(cell.key in outcomes for cell in order if cell.row in rows))
    write(final, out)
    from sonet.report import render  # the drawing library is slow to import and not needed until now

    write_whole(out / "report.html", render(final))
    return final


def _demand_same_images(file: Path, described: dict[str, Any]) -> None:
    """Errors: RecordError where the folder's figures are of other images; else the folder says of which they are."""
    if file.is_file():
        before = json.loads(file.read_text())
        if changed := differing(before, described):
            raise RecordError(
                f"{file.parent} holds figures on other images: {before.get('source')}; now {described['source']} "
                f"({', '.join(changed)} differ). A table is of one data set. Give that again, or another --out."
            )
        return
    write_whole(file, json.dumps(described, indent=1) + "\n")


def _done_earlier(plan: Plan, out: Path) -> dict[str, Outcome]:
    """Outcomes of rows that are not chosen now, but were before."""
    names = {row.name for row in plan.chosen}
    others = (cell for cell in lay_out(plan.select(())) if cell.row not in names)
    found = ((cell.key, finished(cell, out)) for cell in others)
    return {key: outcome for key, outcome in found if outcome is not None}


def _command(whole: str, plan: Plan, begun: set[str]) -> str:
    rows = [row.name for row in plan.rows]
    if begun.issuperset(rows):
        return whole
    return shlex.join([*shlex.split(whole), *(word for row in rows if row in begun for word in ("--only", row))])


def _planned(plan: Plan) -> list[Planned]:
    papers = {entry.row: entry for entry in plan.paper}
    table = []
    for row in plan.rows:
        paper = papers.get(row.name)
        figures, own = (paper.parsed, paper.reasons) if paper else ([], ())
        reasons = [*own, *plan.reasons] if paper else []
        entry = Planned(model=row.model.name, objective=row.objective, figures=figures, reasons=reasons)
        table.append(entry)
    return table


def _watched(ended: Iterable[tuple[Cell, Outcome]], watch: Watch) -> Iterable[tuple[Cell, Outcome]]:
    for cell, outcome in ended:
        watch(cell, 1.0, "done")
        yield cell, outcome


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
