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
from sonet.report import Environment, Record, write, write_whole

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
    claimed = _claimed(plan, out)
    data = load(plan.data, data_dir=data_dir)
    if plan.images > len(data.test):
        raise PlanError(f"the plan attacks {plan.images} images, but {plan.data} has {len(data.test)} to test with.")
    if not claimed:
        write_whole(out / PLAN, plan.model_dump_json(indent=1))
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


def _claimed(plan: Plan, out: Path) -> bool:
    """Whether the folder is this plan's already (True) or free to take (False); `PlanError` where it is another's."""
    mark = out / PLAN
    if mark.is_file():
        if mark.read_text() != plan.model_dump_json(indent=1):
            raise PlanError(
                f"{out} holds another experiment (its {PLAN} differs: other seeds, --quick, or an older version). "
                "Give another --out, or remove the folder."
            )
        return True
    if out.exists() and not out.is_dir():
        raise PlanError(f"{out} is a file, expected a folder for the record; give another one with --out.")
    # What a run killed at its very first file left behind is not somebody else's.
    if out.exists() and any(not entry.name.startswith(f".{PLAN}.") for entry in out.iterdir()):
        raise PlanError(f"{out} is not empty and holds no {PLAN}; give a new folder with --out.")
    return False


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
