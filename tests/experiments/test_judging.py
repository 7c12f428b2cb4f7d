"""Ensemble and audit cells, and the table that a folder holds after several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_plan import NETWORK, rows, run_cell, tiny_plan, write_data

from sonet.attacks import Linf
from sonet.attacks.ensemble import quick
from sonet.data import load
from sonet.evaluation import evaluate
from sonet.experiments import Cell, Plan, lay_out, reproduce
from sonet.experiments.work import do_cell, outcome_file
from sonet.report import read
from sonet.report.comparison import NOT_RUN, beside, not_run
from sonet.training import load_model

PAPER = [
    {"row": "resnet10/natural", "figures": {"natural": 0.9, "pgd-2 linf:0.2": 0.5}, "reasons": ["It is tiny."]},
    {"row": "resnet10/madry", "figures": {"natural": 0.8}},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judging")


@pytest.fixture(scope="module")
def plan(home: Path) -> Plan:
    return tiny_plan(
        write_data(home, train=200),
        models=[{"name": "resnet10", "options": NETWORK | {"channels": 8}}],
        training={"epochs": 4, "batch_size": 10, "lr": 0.1, "clip": 1.0, "device": "cpu"},
        objectives={"natural": {}, "madry": {"objective": "madry"}},
        adversarial={"threat": "linf:0.05", "attack_steps": 1},
        ensemble={"name": "quick", "images": 6},
        audit={"images": 8},
        paper=PAPER,
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures: drawing takes seconds."""
    monkeypatch.setattr("sonet.report.html.render", lambda record: "page")


def find(plan: Plan, kind: str, objective: str = "natural") -> Cell:
    return next(cell for cell in lay_out(plan) if (cell.kind, cell.objective) == (kind, objective))


@pytest.fixture(scope="module")
def out(plan: Plan, home: Path) -> Path:
    run_cell(find(plan, "train"), plan, home / "out")
    return home / "out"


def test_an_ensembles_row_is_its_worst_case(plan: Plan, out: Path) -> None:
    (row,) = run_cell(find(plan, "ensemble"), plan, out)
    test = load(plan.data).test.take(6)
    model = load_model(out / "models" / "resnet10-natural-0")
    found = evaluate(model, test.images, test.labels, Linf(0.2), quick(0), judge_batch=plan.judge_batch)
    assert (row.accuracy, row.n, row.attack) == (found.accuracy.value, 6, "quick")
    assert (row.norm, row.eps, row.seed) == ("linf", 0.2, 0)
    assert not (out / "units" / find(plan, "ensemble").key).exists()


def test_an_ensemble_goes_on_where_it_was_killed(plan: Plan, out: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def stop(done: float, word: str) -> None:
        if done > 0.6:
            raise Killed

    (tmp_path / "models").symlink_to(out / "models")
    cell = find(plan, "ensemble")
    whole = [row.model_dump(exclude={"seconds"}) for row in run_cell(cell, plan, tmp_path)]
    outcome_file(cell, tmp_path).unlink()
    with pytest.raises(Killed):
        do_cell(cell, plan, tmp_path, None, stop)
    assert list((tmp_path / "units" / cell.key / "units").iterdir())
    assert [row.model_dump(exclude={"seconds"}) for row in run_cell(cell, plan, tmp_path)] == whole


def test_an_audit_cell_holds_the_audits_verdict(plan: Plan, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    from sonet.experiments import judging

    real = judging.audit

    def watched(*given: Any, **settings: Any) -> Any:
        found = real(*given, **settings)
        asked.append({"images": len(given[1][0]), "record": found.record} | settings)
        return found

    monkeypatch.setattr(judging, "audit", watched)
    outcome = do_cell(find(plan, "audit"), plan, out, None, lambda done, word: None)
    (said,), (call,) = outcome.audits, asked
    record = call["record"]
    assert (said.verdict, said.summary, said.cause) == (record.verdict, record.summary, record.cause)
    assert (said.natural, said.plain, said.worst) == (record.natural.count, record.plain.count, record.worst.count)
    assert (said.n, said.threat, call["batch"]) == (8, "linf:0.2", plan.judge_batch)
    assert (said.model, said.objective, said.seed) == ("resnet10", "natural", 0)


def test_a_network_that_guesses_is_inconclusive_and_no_figure_is_made_up(plan: Plan, tmp_path: Path) -> None:
    from sonet.experiments.attacking import Victim
    from sonet.experiments.judging import ask_audit

    test = load(plan.data).test.take(12)
    constant = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval().requires_grad_(False)
    constant[1].weight.zero_()
    constant[1].bias.zero_()
    constant[1].bias[int((test.labels + 1)[0]) % 10] = 1.0
    victim = Victim(constant, test.images, test.labels, tuple("0123456789"), "")
    (said,) = ask_audit(find(plan, "audit"), plan, victim, lambda done, word: None).audits
    assert said.verdict == "inconclusive"
    assert said.summary.startswith("It was not audited: ")
    assert (said.natural, said.plain, said.worst) == (None, None, None)


def test_a_second_command_adds_its_rows_to_the_folder(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonet.report.html.render", lambda record: "page")
    small = plan.model_copy(update={"ensemble": None, "audit": None})
    one = reproduce(small.select(["natural"]), tmp_path / "run", command="one", workers=1)
    assert one.complete
    assert {row.objective for row in one.rows} == {"natural"}
    assert not_run(one) == ["resnet10/madry"]
    shown = {(line.network, line.attack): line for line in beside(one)}
    assert shown["resnet10 (madry)", "natural"].here == NOT_RUN
    ours = shown["resnet10", "PGD-2 linf 0.2"]
    assert ours.ours is not None
    assert ours.paper == 0.5
    (measured,) = [row for row in one.rows if row.attack == "pgd" and row.steps == 2]
    assert ours.ours.rows == (measured,)
    assert [row.reported for row in one.rows if row.reported is not None] == [0.9, 0.5]

    both = reproduce(small.select(["madry"]), tmp_path / "run", command="two", workers=1)
    assert both.complete
    assert not_run(both) == []
    assert [row for row in rows(both) if row["objective"] == "natural"] == rows(one)
    assert {row.objective for row in both.rows} == {"natural", "madry"}
    assert read(tmp_path / "run") == both


def test_a_row_left_half_done_is_not_called_complete(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonet.report.html.render", lambda record: "page")
    small = plan.model_copy(update={"ensemble": None, "audit": None})

    class Killed(Exception):
        pass

    def stop(cell: Cell, part: float, word: str) -> None:
        if cell.kind == "attack":
            raise Killed

    with pytest.raises(Killed):
        reproduce(small.select(["natural"]), tmp_path / "run", command="one", workers=1, watch=stop)
    assert not reproduce(small.select(["madry"]), tmp_path / "run", command="two", workers=1).complete
    assert reproduce(small, tmp_path / "run", command="three", workers=1).complete
