"""`reproduce`: an experiment from its plan to its record and report, resumable at every cell."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from sonet.data import load
from sonet.experiments.cells import Cell, Outcome, lay_out
from sonet.experiments.plan import Plan, PlanError
from sonet.experiments.pool import Watch, default_workers, do_cells
from sonet.experiments.verdict import verdict
from sonet.report import Environment, Record, claim, write, write_whole

PLAN = "plan.json"


def reproduce(
    plan: Plan,
    out: Path,
    *,
    command: str,
    workers: int | None = None,
    data_dir: Path | None = None,
    watch: Watch = lambda cell, done, word: None,
) -> Record:
    """Do every cell of `plan`, and write record.json and report.html into `out`.

    Killed at any moment, the same call goes on: cells that ended are read from `out`, training from its last epoch.
    `out` of another plan is an error; nothing in it is touched. record.json is written after every cell, marked
    incomplete until the last, so that what was measured is never lost.
    """
    content = plan.model_dump_json(indent=1)
    claimed = claim(out, PLAN, content)
    data = load(plan.data, data_dir=data_dir)
    if plan.images > len(data.test):
        raise PlanError(f"the plan attacks {plan.images} images, but {plan.data} has {len(data.test)} to test with.")
    if not claimed:
        write_whole(out / PLAN, content)
    cells = lay_out(plan)
    outcomes: dict[str, Outcome] = {}
    workers = default_workers() if workers is None else workers
    environment = Environment.here(device="cpu" if plan.training.device == "cpu" else _device())
    if workers > 1:
        environment = environment.model_copy(update={"threads": 1})  # of each worker; this process computes nothing
    start = time.perf_counter()

    def record(complete: bool) -> Record:
        done = [outcomes[cell.key] for cell in cells if cell.key in outcomes]
        rows = [row for outcome in done for row in outcome.rows]
        leaks = [entry for outcome in done for entry in outcome.leaks]
        return Record(
            title=plan.title,
            verdict=verdict(rows, leaks),
            command=command,
            data=data.describe(),
            settings=plan.model_dump(mode="json", exclude={"quick"}) | {"workers": workers},
            environment=environment,
            models=[card for outcome in done for card in outcome.cards],
            rows=rows,
            steps=[entry for outcome in done for entry in outcome.steps],
            leaks=leaks,
            pictures=[entry for outcome in done for entry in outcome.pictures],
            seconds=time.perf_counter() - start,
            complete=complete,
        )

    for cell, outcome in _watched(do_cells(cells, plan, out, workers=workers, data_dir=data_dir, watch=watch), watch):
        outcomes[cell.key] = outcome
        write(record(complete=False), out)
    final = record(complete=True)
    write(final, out)
    from sonet.report import render  # the drawing library is slow to import and not needed until now

    write_whole(out / "report.html", render(final))
    return final


def _watched(ended: Iterable[tuple[Cell, Outcome]], watch: Watch) -> Iterable[tuple[Cell, Outcome]]:
    for cell, outcome in ended:
        watch(cell, 1.0, "done")
        yield cell, outcome


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
